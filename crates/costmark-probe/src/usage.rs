//! What this process used, and what the machine's CPUs did, between two moments.

use serde::{Deserialize, Serialize};

use crate::text::{self, CpuTicks};

/// Resources this process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessUsage {
    /// CPU time of all its threads, seconds.
    pub cpu_s: f64,
    /// Of it, in user mode (counted in clock ticks, usually 10 ms).
    pub user_s: Option<f64>,
    /// Of it, in the kernel (counted in clock ticks).
    pub system_s: Option<f64>,
    /// Memory resident now, bytes.
    pub rss_bytes: Option<u64>,
    /// Most memory resident so far, bytes.
    pub peak_rss_bytes: Option<u64>,
}

impl ProcessUsage {
    /// Reads the usage now.
    #[must_use]
    pub fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ticks = std::fs::read_to_string("/proc/self/stat")
            .ok()
            .and_then(|stat| text::process_ticks(&stat));
        Self {
            cpu_s: process_cpu_s(),
            user_s: ticks.map(|(user, _)| ticks_to_s(user)),
            system_s: ticks.map(|(_, system)| ticks_to_s(system)),
            rss_bytes: text::kb_field_bytes(&status, "VmRSS"),
            peak_rss_bytes: text::kb_field_bytes(&status, "VmHWM"),
        }
    }
}

/// CPU time of the whole machine, in clock ticks since boot. Linux only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostCpuTimes {
    ticks: CpuTicks,
}

impl HostCpuTimes {
    /// The moment the machine started.
    pub const BOOT: Self = Self {
        ticks: CpuTicks {
            busy: 0,
            idle: 0,
            steal: 0,
        },
    };

    /// Reads the times now; none where the system does not tell.
    #[must_use]
    pub fn now() -> Option<Self> {
        let ticks = text::cpu_ticks(&std::fs::read_to_string("/proc/stat").ok()?)?;
        Some(Self { ticks })
    }

    /// Share of the CPU time wanted since `earlier` that the hypervisor gave to someone
    /// else: steal ÷ (busy + steal). None if nothing was wanted.
    #[must_use]
    pub fn steal_share_since(&self, earlier: &Self) -> Option<f64> {
        let steal = self.ticks.steal.saturating_sub(earlier.ticks.steal);
        let busy = self.ticks.busy.saturating_sub(earlier.ticks.busy);
        share(steal, busy + steal)
    }

    /// CPU seconds used since `earlier` by everything that runs on this system. Less the
    /// process's own, this is what others took.
    #[must_use]
    pub fn busy_s_since(&self, earlier: &Self) -> f64 {
        ticks_to_s(self.ticks.busy.saturating_sub(earlier.ticks.busy))
    }

    /// Share of all CPU time since `earlier` in which something ran here. None if no time
    /// has passed.
    #[must_use]
    pub fn busy_share_since(&self, earlier: &Self) -> Option<f64> {
        let busy = self.ticks.busy.saturating_sub(earlier.ticks.busy);
        let steal = self.ticks.steal.saturating_sub(earlier.ticks.steal);
        let idle = self.ticks.idle.saturating_sub(earlier.ticks.idle);
        share(busy, busy + steal + idle)
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn process_cpu_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn ticks_to_s(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_as_cpu_time() {
        let before = ProcessUsage::now();
        let mut x = 1u64;
        while ProcessUsage::now().cpu_s - before.cpu_s < 0.02 {
            for i in 0..10_000u64 {
                x = std::hint::black_box(x.wrapping_mul(i | 1));
            }
        }
        let after = ProcessUsage::now();
        assert!(after.cpu_s > before.cpu_s);
        if let (Some(rss), Some(peak)) = (after.rss_bytes, after.peak_rss_bytes) {
            assert!(rss > 0 && peak > 0);
        }
    }

    #[test]
    fn shares_of_host_time() {
        let at = |busy, idle, steal| HostCpuTimes {
            ticks: CpuTicks { busy, idle, steal },
        };
        let (before, after) = (at(100, 50, 10), at(160, 70, 30));
        assert_eq!(after.steal_share_since(&before), Some(0.25));
        assert_eq!(after.busy_share_since(&before), Some(0.6));
        assert_eq!(before.steal_share_since(&before), None);
        assert_eq!(before.busy_share_since(&before), None);
        // Counters of a migrated machine may fall back.
        assert_eq!(before.steal_share_since(&after), None);
    }
}
