//! How much memory this process may still claim, and keeping what it has.
#![allow(unsafe_code)]

use std::path::Path;

/// Bytes this process can still claim: what the system calls available, or what its
/// control group leaves it, whichever is less. `None` where neither is told.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    let system = read(Path::new("/proc/meminfo")).and_then(|text| meminfo_available(&text));
    let group = group_left(Path::new("/sys/fs/cgroup"));
    match (system, group) {
        (Some(system), Some(group)) => Some(system.min(group)),
        (system, group) => system.or(group),
    }
}

/// Lets the heap keep what is freed, up to [`KEPT`], for the rest of the process.
///
/// A step allocates and frees tens of megabytes of activations. The GNU C library gives them
/// back to the system each time and so takes every page anew: a tenth of a prefill step.
pub(crate) fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            // SAFETY: sets two numbers under the allocator's own lock.
            unsafe {
                libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST);
                libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
            }
        });
    }
}

/// Bytes the heap keeps when they are free.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 256 << 20;
/// Bytes from which on an allocation is a mapping of its own; no more can be asked for.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGEST: libc::c_int = 32 << 20;

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn meminfo_available(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What the control group mounted at `root` leaves, in version 2's or version 1's files.
/// Without a limit version 2 says `max` (not a number) and version 1 a number near 2^63.
fn group_left(root: &Path) -> Option<u64> {
    let number = |name: &str| read(&root.join(name))?.trim().parse::<u64>().ok();
    let left = |limit: &str, used: &str| Some(number(limit)?.saturating_sub(number(used)?));
    left("memory.max", "memory.current").or_else(|| {
        left(
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        let text = "MemTotal:       24000000 kB\nMemFree:  1 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(meminfo_available(text), Some(20_480_000_000));
        assert_eq!(meminfo_available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_group_without_a_limit_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("memory.current"), "1000\n").unwrap();
        std::fs::write(dir.path().join("memory.max"), "max\n").unwrap();
        assert_eq!(group_left(dir.path()), None);
        std::fs::write(dir.path().join("memory.max"), "5000\n").unwrap();
        assert_eq!(group_left(dir.path()), Some(4000));
    }
}
