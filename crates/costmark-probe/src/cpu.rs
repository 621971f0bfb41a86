//! Identity of the processor: names, topology, caches, instruction sets, hypervisor.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::machine::{Cache, Cpu};
use crate::text;

impl Cpu {
    /// Reads what the processor and the system say.
    pub(crate) fn detect() -> Self {
        let id = Identity::read();
        let topology = Topology::read(Path::new("/sys/devices/system/cpu"));
        let frequency = |name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cpufreq/{name}");
            let khz: f64 = read(Path::new(&path))?.trim().parse().ok()?;
            Some(khz / 1e3)
        };
        Self {
            model: id.model.unwrap_or_else(|| String::from("unknown")),
            vendor: id.vendor,
            family: id.family,
            model_number: id.model_number,
            stepping: id.stepping,
            sockets: topology.sockets,
            cores: topology
                .cores
                .or_else(|| u32::try_from(sysinfo::System::physical_core_count().ok()?).ok()),
            threads: topology.threads.unwrap_or_else(|| {
                std::thread::available_parallelism()
                    .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
            }),
            governor: read(Path::new(
                "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            ))
            .map(|s| s.trim().to_owned()),
            max_mhz: frequency("cpuinfo_max_freq"),
            // Guests often have no frequency driver, but say what they believe.
            current_mhz: frequency("scaling_cur_freq")
                .or_else(|| text::cpuinfo_mhz(&read(Path::new("/proc/cpuinfo"))?)),
            isa: isa(),
            hypervisor: id.hypervisor,
        }
    }
}

/// What the processor says of itself.
#[derive(Default)]
struct Identity {
    model: Option<String>,
    vendor: Option<String>,
    family: Option<u32>,
    model_number: Option<u32>,
    stepping: Option<u32>,
    hypervisor: Option<String>,
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
impl Identity {
    fn read() -> Self {
        let cpuid = raw_cpuid::CpuId::new();
        let feature = cpuid.get_feature_info();
        let virtualised = feature
            .as_ref()
            .is_some_and(raw_cpuid::FeatureInfo::has_hypervisor);
        Self {
            model: cpuid
                .get_processor_brand_string()
                .map(|b| b.as_str().trim().to_owned()),
            vendor: cpuid.get_vendor_info().map(|v| v.as_str().to_owned()),
            family: feature.as_ref().map(|f| u32::from(f.family_id())),
            model_number: feature.as_ref().map(|f| u32::from(f.model_id())),
            stepping: feature.as_ref().map(|f| u32::from(f.stepping_id())),
            hypervisor: virtualised.then(|| {
                cpuid.get_hypervisor_info().map_or_else(
                    || String::from("unknown"),
                    |h| format!("{:?}", h.identify()),
                )
            }),
        }
    }
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
impl Identity {
    fn read() -> Self {
        let brand = sysinfo::System::new().ok().and_then(|mut system| {
            system.refresh_cpu_all();
            Some(system.cpus().first()?.brand().trim().to_owned())
        });
        Self {
            model: brand.filter(|b| !b.is_empty()),
            ..Self::default()
        }
    }
}

/// Counts over the CPUs that are online.
struct Topology {
    sockets: Option<u32>,
    cores: Option<u32>,
    threads: Option<u32>,
}

impl Topology {
    fn read(cpu_root: &Path) -> Self {
        let online = online(cpu_root);
        let mut sockets = BTreeSet::new();
        let mut cores = BTreeSet::new();
        for dir in &online {
            let id = |name: &str| {
                read(&dir.join("topology").join(name))?
                    .trim()
                    .parse::<i64>()
                    .ok()
            };
            if let (Some(package), Some(core)) = (id("physical_package_id"), id("core_id")) {
                sockets.insert(package);
                cores.insert((package, core));
            }
        }
        let count = |n: usize| (n > 0).then_some(u32::try_from(n).unwrap_or(u32::MAX));
        Self {
            sockets: count(sockets.len()),
            cores: count(cores.len()),
            threads: count(online.len()),
        }
    }
}

/// The caches of all online CPUs, each kind once with how many there are.
pub(crate) fn caches() -> Vec<Cache> {
    let found = caches_below(Path::new("/sys/devices/system/cpu"));
    if found.is_empty() {
        cpuid_caches()
    } else {
        found
    }
}

fn caches_below(cpu_root: &Path) -> Vec<Cache> {
    // (level, kind, size, CPUs that share it): each instance once, whoever lists it.
    let mut instances: BTreeSet<(u32, String, u64, String)> = BTreeSet::new();
    for cpu in online(cpu_root) {
        for index in 0.. {
            let dir = cpu.join("cache").join(format!("index{index}"));
            let field = |name: &str| read(&dir.join(name)).map(|s| s.trim().to_owned());
            let Some(kind) = field("type") else { break };
            let (Some(level), Some(size)) = (
                field("level").and_then(|l| l.parse().ok()),
                field("size").and_then(|s| text::size_bytes(&s)),
            ) else {
                continue;
            };
            let shared = field("shared_cpu_list").unwrap_or_else(|| cpu.display().to_string());
            instances.insert((level, kind.to_lowercase(), size, shared));
        }
    }
    let mut caches: Vec<Cache> = Vec::new();
    for (level, kind, bytes, _) in instances {
        match caches
            .iter_mut()
            .find(|c| c.level == level && c.kind == kind && c.bytes == bytes)
        {
            Some(cache) => cache.instances += 1,
            None => caches.push(Cache {
                level,
                kind,
                bytes,
                instances: 1,
            }),
        }
    }
    caches
}

/// Cache sizes from the processor; how many there are of each is not known then, so 1.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn cpuid_caches() -> Vec<Cache> {
    let Some(parameters) = raw_cpuid::CpuId::new().get_cache_parameters() else {
        return Vec::new();
    };
    parameters
        .map(|c| Cache {
            level: u32::from(c.level()),
            kind: format!("{:?}", c.cache_type()).to_lowercase(),
            bytes: [
                c.associativity(),
                c.physical_line_partitions(),
                c.coherency_line_size(),
                c.sets(),
            ]
            .into_iter()
            .map(|n| n as u64)
            .product(),
            instances: 1,
        })
        .collect()
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
fn cpuid_caches() -> Vec<Cache> {
    Vec::new()
}

/// Folders of the CPUs that are online.
fn online(cpu_root: &Path) -> Vec<PathBuf> {
    read(&cpu_root.join("online"))
        .and_then(|list| text::cpu_list(&list))
        .unwrap_or_default()
        .into_iter()
        .map(|cpu| cpu_root.join(format!("cpu{cpu}")))
        .collect()
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

macro_rules! detected {
    ($detect:ident: $($name:tt),* $(,)?) => {
        [$(($name, std::arch::$detect!($name))),*]
            .into_iter()
            .filter(|(_, there)| *there)
.map(|(name, _)| String::from(name))
            .collect()
    };
}

/// Instruction-set extensions that decide how fast matrix products run.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn isa() -> Vec<String> {
    let mut isa: Vec<String> = detected!(is_x86_feature_detected:
        "sse4.2", "avx", "avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512bw", "avx512vl",
        "avx512vnni", "avx512bf16", "avx512fp16");
    if let Some(features) = raw_cpuid::CpuId::new().get_extended_feature_info() {
        let amx = [
            ("amx-tile", features.has_amx_tile()),
            ("amx-int8", features.has_amx_int8()),
            ("amx-bf16", features.has_amx_bf16()),
        ];
        isa.extend(
            amx.into_iter()
                .filter(|(_, there)| *there)
                .map(|(name, _)| String::from(name)),
        );
    }
    isa
}

/// Instruction-set extensions that decide how fast matrix products run.
#[cfg(target_arch = "aarch64")]
fn isa() -> Vec<String> {
    detected!(is_aarch64_feature_detected:
        "neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2")
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn isa() -> Vec<String> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Two sockets of two cores of two threads; an L3 per socket, an L2 per core.
    #[test]
    fn counts_shared_things_once() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "online", "0-7\n");
        for cpu in 0..8 {
            let (package, core) = (cpu / 4, cpu / 2);
            let at = |name: &str| format!("cpu{cpu}/{name}");
            put(
                root.path(),
                &at("topology/physical_package_id"),
                &format!("{package}\n"),
            );
            put(
                root.path(),
                &at("topology/core_id"),
                &format!("{}\n", core % 2),
            );
            for (index, level, size, first, last) in [
                (0, 2, "1024K", core * 2, core * 2 + 1),
                (1, 3, "32768K", package * 4, package * 4 + 3),
            ] {
                let at = |name: &str| format!("cpu{cpu}/cache/index{index}/{name}");
                put(root.path(), &at("level"), &format!("{level}\n"));
                put(root.path(), &at("type"), "Unified\n");
                put(root.path(), &at("size"), &format!("{size}\n"));
                put(
                    root.path(),
                    &at("shared_cpu_list"),
                    &format!("{first}-{last}\n"),
                );
            }
        }
        let topology = Topology::read(root.path());
        assert_eq!(
            (topology.sockets, topology.cores, topology.threads),
            (Some(2), Some(4), Some(8))
        );
        let caches = caches_below(root.path());
        let summary: Vec<_> = caches
            .iter()
            .map(|c| (c.level, c.bytes, c.instances))
            .collect();
        assert_eq!(summary, [(2, 1 << 20, 4), (3, 32 << 20, 2)]);
    }

    #[test]
    fn nothing_to_read_is_nothing_known() {
        let root = tempfile::tempdir().unwrap();
        let topology = Topology::read(root.path());
        assert_eq!(
            (topology.sockets, topology.cores, topology.threads),
            (None, None, None)
        );
        assert!(caches_below(root.path()).is_empty());
    }
}
