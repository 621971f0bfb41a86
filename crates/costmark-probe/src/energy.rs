//! Energy the processor counted, where the system shows it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where Linux shows energy counters (RAPL on Intel and AMD processors).
pub const POWERCAP: &str = "/sys/class/powercap";

/// Energy of all processor packages of the machine, from the counters of the processor
/// itself (running average power limit, RAPL). Cores, caches and memory controllers are in
/// it; memory, disks, fans and losses of the power supply are not.
#[derive(Debug)]
pub struct PackageEnergy {
    packages: Vec<Counter>,
}

/// One package's counter, which starts again from 0 when it is full.
#[derive(Debug)]
struct Counter {
    file: File,
    range_uj: u64,
    last_uj: u64,
    sum_uj: u64,
}

impl PackageEnergy {
    /// Opens the counters below `root` ([`POWERCAP`]). `None` if there are none, or not all
    /// of them may be read (most systems show them to root alone): a part of the machine
    /// would not be its energy.
    #[must_use]
    pub fn open(root: &Path) -> Option<Self> {
        let mut packages = Vec::new();
        for entry in std::fs::read_dir(root).ok()? {
            let folder = entry.ok()?.path();
            let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
            // Subdomains (cores, memory) of a package have two colons in their folder's name.
            let is_top = folder.file_name()?.to_str()?.matches(':').count() == 1;
            if !is_top || !read("name").is_some_and(|name| name.starts_with("package")) {
                continue;
            }
            let file = File::open(folder.join("energy_uj")).ok()?;
            let range_uj = read("max_energy_range_uj")?.trim().parse().ok()?;
            let last_uj = read_number(&file)?;
            packages.push(Counter {
                file,
                range_uj,
                last_uj,
                sum_uj: 0,
            });
        }
        (!packages.is_empty()).then_some(Self { packages })
    }

    /// Joules since [`open`](Self::open). To be called more often than a counter takes to go
    /// round once (minutes). `None` once a counter cannot be read.
    pub fn joules(&mut self) -> Option<f64> {
        let mut sum_uj = 0;
        for counter in &mut self.packages {
            let now_uj = read_number(&counter.file)?;
            counter.sum_uj += match now_uj.checked_sub(counter.last_uj) {
                Some(uj) => uj,
                None => (counter.range_uj + now_uj).checked_sub(counter.last_uj)?,
            };
            counter.last_uj = now_uj;
            sum_uj += counter.sum_uj;
        }
        Some(sum_uj as f64 / 1e6)
    }
}

fn read_number(file: &File) -> Option<u64> {
    let mut bytes = [0; 32];
    let n = file.read_at(&mut bytes, 0).ok()?;
    std::str::from_utf8(&bytes[..n]).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn domain(root: &Path, folder: &str, name: &str, uj: u64) {
        let folder = root.join(folder);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("name"), format!("{name}\n")).unwrap();
        fs::write(folder.join("energy_uj"), format!("{uj}\n")).unwrap();
        fs::write(folder.join("max_energy_range_uj"), "10000000\n").unwrap();
    }

    #[test]
    fn packages_add_up_and_go_round() {
        let root = tempfile::tempdir().unwrap();
        domain(root.path(), "intel-rapl:0", "package-0", 9_000_000);
        domain(root.path(), "intel-rapl:0:0", "core", 5);
        domain(root.path(), "intel-rapl:1", "package-1", 1_000_000);
        domain(root.path(), "intel-rapl:2", "psys", 77);
        fs::create_dir(root.path().join("intel-rapl")).unwrap();
        let mut energy = PackageEnergy::open(root.path()).unwrap();
        assert_eq!(energy.joules(), Some(0.0));
        let set = |folder: &str, uj: u64| {
            let path = root.path().join(folder).join("energy_uj");
            fs::write(path, format!("{uj}\n")).unwrap();
        };
        set("intel-rapl:0", 500_000); // 1 J to the end, 0.5 J after it
        set("intel-rapl:1", 3_000_000);
        assert_eq!(energy.joules(), Some(3.5));
        set("intel-rapl:0", 700_000);
        assert_eq!(energy.joules(), Some(3.7));
        set("intel-rapl:0:0", 700_000);
        assert_eq!(energy.joules(), Some(3.7));
        fs::write(root.path().join("intel-rapl:1/energy_uj"), "gone").unwrap();
        assert_eq!(energy.joules(), None);
    }

    #[test]
    fn without_counters_there_is_no_energy() {
        let root = tempfile::tempdir().unwrap();
        assert!(PackageEnergy::open(root.path()).is_none());
        assert!(PackageEnergy::open(&root.path().join("none")).is_none());
        domain(root.path(), "intel-rapl:0", "package-0", 9);
        fs::remove_file(root.path().join("intel-rapl:0/energy_uj")).unwrap();
        assert!(PackageEnergy::open(root.path()).is_none());
    }
}
