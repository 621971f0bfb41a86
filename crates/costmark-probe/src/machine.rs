//! Identity of the machine and the limits this process runs under.

use serde::{Deserialize, Serialize};

use crate::cgroup::Limits;
use crate::cpu;
use crate::gpu::{self, Gpu};
use crate::text;
use crate::usage::HostCpuTimes;

/// The machine a result was measured on, as seen by this process at one moment.
///
/// What can not be read on this system is absent, never guessed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Operating system with version.
    pub os: String,
    /// Kernel version.
    pub kernel: Option<String>,
    /// Instruction-set architecture, e.g. `x86_64`.
    pub arch: String,
    /// The processor.
    pub cpu: Cpu,
    /// Its caches, smallest level first.
    pub caches: Vec<Cache>,
    /// How much of it this process may use.
    pub cpu_limits: CpuLimits,
    /// Main memory.
    pub memory: Memory,
    /// Load averages over 1, 5 and 15 minutes.
    pub load_average: Option<[f64; 3]>,
    /// Share of CPU time wanted since boot that the hypervisor gave to someone else.
    pub steal_share_since_boot: Option<f64>,
    /// NVIDIA GPUs, as their driver shows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
}

/// A processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// The name it gives itself (`unknown` if none).
    pub model: String,
    /// Vendor string, e.g. `AuthenticAMD`.
    pub vendor: Option<String>,
    /// Family number.
    pub family: Option<u32>,
    /// Model number within the family.
    pub model_number: Option<u32>,
    /// Stepping.
    pub stepping: Option<u32>,
    /// Sockets with a CPU online.
    pub sockets: Option<u32>,
    /// Physical cores online, as the system (or hypervisor) shows them.
    pub cores: Option<u32>,
    /// Hardware threads online.
    pub threads: u32,
    /// Frequency governor, e.g. `performance`.
    pub governor: Option<String>,
    /// Highest frequency, MHz.
    pub max_mhz: Option<f64>,
    /// Frequency when read, MHz.
    pub current_mhz: Option<f64>,
    /// Instruction-set extensions that matter for matrix products, those present.
    pub isa: Vec<String>,
    /// The hypervisor it runs under, `unknown` if it does not say which; absent on bare metal.
    pub hypervisor: Option<String>,
}

/// A kind of cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// 1, 2, 3, …
    pub level: u32,
    /// `data`, `instruction` or `unified`.
    pub kind: String,
    /// Size of one, bytes.
    pub bytes: u64,
    /// How many of it there are.
    pub instances: u32,
}

/// How much CPU this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuLimits {
    /// Hardware threads its affinity mask allows.
    pub affinity_threads: u32,
    /// CPUs' worth of time its control groups allow, e.g. 1.5; absent without a quota.
    pub quota_cpus: Option<f64>,
    /// Threads worth starting: the smaller of the two, a quota rounded down, at least 1.
    pub usable_threads: u32,
}

/// Main memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Of the machine, bytes.
    pub total_bytes: Option<u64>,
    /// What this process could still get without swapping, its control groups' limits
    /// included, bytes.
    pub available_bytes: Option<u64>,
    /// The limit its control groups set, bytes.
    pub limit_bytes: Option<u64>,
}

impl Machine {
    /// Looks at the machine now. Takes a few milliseconds.
    #[must_use]
    pub fn detect() -> Self {
        let limits = Limits::of_this_process();
        let cpu = Cpu::detect();
        Self {
            os: sysinfo::System::long_os_version()
                .unwrap_or_else(|_| std::env::consts::OS.to_owned()),
            kernel: sysinfo::System::kernel_version().ok(),
            arch: std::env::consts::ARCH.to_owned(),
            caches: cpu::caches(),
            cpu_limits: CpuLimits::new(
                affinity_threads().unwrap_or(cpu.threads),
                limits.quota_cpus,
            ),
            memory: Memory::detect(&limits),
            load_average: std::fs::read_to_string("/proc/loadavg")
                .ok()
                .and_then(|t| text::load_average(&t)),
            steal_share_since_boot: HostCpuTimes::now()
                .and_then(|now| now.steal_share_since(&HostCpuTimes::BOOT)),
            gpus: gpu::gpus(),
            cpu,
        }
    }

    /// Bytes of all caches of the last level together; none where caches are not known.
    #[must_use]
    pub fn last_level_cache_bytes(&self) -> Option<u64> {
        let level = self.caches.iter().map(|c| c.level).max()?;
        Some(
            self.caches
                .iter()
                .filter(|c| c.level == level)
                .map(|c| c.bytes * u64::from(c.instances))
                .sum(),
        )
    }
}

impl CpuLimits {
    fn new(affinity_threads: u32, quota_cpus: Option<f64>) -> Self {
        // Floor: a thread more than the quota feeds is stopped part of every period, and
        // all others wait for it. `as` saturates, so a huge quota is no limit.
        let by_quota = quota_cpus.map_or(u32::MAX, |q| q as u32);
        Self {
            affinity_threads,
            quota_cpus,
            usable_threads: affinity_threads.min(by_quota).max(1),
        }
    }
}

impl Memory {
    /// Looks at memory now.
    #[must_use]
    pub fn now() -> Self {
        Self::detect(&Limits::of_this_process())
    }

    fn detect(limits: &Limits) -> Self {
        // An unsupported system knows neither.
        let system = sysinfo::System::new().ok().map(|mut system| {
            system.refresh_memory();
            (system.total_memory(), system.available_memory())
        });
        let total_bytes = system.map(|(total, _)| total);
        Self {
            total_bytes,
            available_bytes: match (system, limits.memory_left_bytes) {
                (Some((_, available)), Some(left)) => Some(available.min(left)),
                (system, left) => system.map(|(_, available)| available).or(left),
            },
            // A limit above what there is limits nothing.
            limit_bytes: limits
                .memory_bytes
                .filter(|&limit| total_bytes.is_none_or(|total| limit < total)),
        }
    }
}

/// Hardware threads the calling thread may run on.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn affinity_threads() -> Option<u32> {
    Some(rustix::thread::sched_getaffinity(None).ok()?.count())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn affinity_threads() -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_and_affinity_both_limit() {
        let usable = |affinity, quota| CpuLimits::new(affinity, quota).usable_threads;
        assert_eq!(usable(8, None), 8);
        assert_eq!(usable(8, Some(2.9)), 2);
        assert_eq!(usable(2, Some(16.0)), 2);
        assert_eq!(usable(8, Some(0.3)), 1);
    }

    #[test]
    fn this_machine_makes_sense_and_survives_json() {
        let mut machine = Machine::detect();
        assert!(machine.cpu.threads >= 1);
        assert!(machine.cpu_limits.usable_threads <= machine.cpu_limits.affinity_threads);
        assert!(
            machine
                .cpu
                .cores
                .is_none_or(|cores| cores <= machine.cpu.threads)
        );
        let memory = &machine.memory;
        assert!(memory.available_bytes.unwrap() > 0);
        assert!(memory.available_bytes <= memory.total_bytes);
        // A fraction need not come back to the last bit.
        machine.steal_share_since_boot = Some(0.25);
        let json = serde_json::to_string(&machine).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&json).unwrap(), machine);
    }

    /// What `taskset -c N` does, for one thread of this test.
    #[cfg(target_os = "linux")]
    #[test]
    fn affinity_is_respected() {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let limits = std::thread::spawn(|| {
            let all = sched_getaffinity(None).unwrap();
            let first = (0..CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu)).unwrap();
            let mut one = CpuSet::new();
            one.set(first);
            sched_setaffinity(None, &one).unwrap();
            Machine::detect().cpu_limits
        })
        .join()
        .unwrap();
        assert_eq!((limits.affinity_threads, limits.usable_threads), (1, 1));
    }
}
