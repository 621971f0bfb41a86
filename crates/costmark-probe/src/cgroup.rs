//! The CPU quota and memory limit that control groups, version 1 or 2, put on this process.
//!
//! A limit of any ancestor holds too, so every level up to the mount point is read and the
//! tightest wins.

use std::path::{Path, PathBuf};

use crate::text;

/// What control groups allow this process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Limits {
    /// CPUs' worth of time, e.g. 1.5.
    pub(crate) quota_cpus: Option<f64>,
    /// Most memory, bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// What is left of it: limit less usage, page cache that can be dropped not counted.
    pub(crate) memory_left_bytes: Option<u64>,
}

impl Limits {
    /// The limits of this process; none where there are no control groups.
    pub(crate) fn of_this_process() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (groups, mounts) = (read("/proc/self/cgroup"), read("/proc/self/mountinfo"));
        let mut limits = Self::default();
        for dir in hierarchy(&groups, &mounts, "cpu") {
            limits.tighten_quota(&dir);
        }
        for dir in hierarchy(&groups, &mounts, "memory") {
            limits.tighten_memory(&dir);
        }
        limits
    }

    fn tighten_quota(&mut self, dir: &Path) {
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
        let quota = match (
            read("cpu.max"),
            read("cpu.cfs_quota_us"),
            read("cpu.cfs_period_us"),
        ) {
            (Some(max), _, _) => quota_v2(&max),
            (None, Some(quota), Some(period)) => quota_v1(&quota, &period),
            _ => None,
        };
        self.quota_cpus = tighter(self.quota_cpus, quota);
    }

    fn tighten_memory(&mut self, dir: &Path) {
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
        let limit = read("memory.max").or_else(|| read("memory.limit_in_bytes"));
        let Some(limit) = limit.and_then(|text| memory_limit(&text)) else {
            return;
        };
        self.memory_bytes = tighter(self.memory_bytes, Some(limit));
        let usage = read("memory.current").or_else(|| read("memory.usage_in_bytes"));
        if let Some(used) = usage.and_then(|text| text.trim().parse::<u64>().ok()) {
            let stat = read("memory.stat").unwrap_or_default();
            let droppable = text::counter(&stat, "total_inactive_file")
                .or_else(|| text::counter(&stat, "inactive_file"))
                .unwrap_or(0);
            let left = limit.saturating_sub(used.saturating_sub(droppable));
            self.memory_left_bytes = tighter(self.memory_left_bytes, Some(left));
        }
    }
}

fn tighter<T: PartialOrd>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b < a { b } else { a }),
        (a, b) => a.or(b),
    }
}

/// `cpu.max` of version 2: quota and period in µs, or `max`.
fn quota_v2(cpu_max: &str) -> Option<f64> {
    let (quota, period) = cpu_max.trim().split_once(' ')?;
    quota_v1(quota, period)
}

/// Quota and period in µs of version 1; a quota of -1 is none.
fn quota_v1(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.trim().parse().ok()?;
    let period: f64 = period.trim().parse().ok()?;
    (quota.is_finite() && quota > 0.0 && period.is_finite() && period > 0.0).then(|| quota / period)
}

/// `max`, or the page-rounded largest number of version 1, is no limit.
fn memory_limit(text: &str) -> Option<u64> {
    let bytes: u64 = text.trim().parse().ok()?;
    (bytes < 1 << 60).then_some(bytes)
}

/// The directories whose limits on `controller` hold for the process, innermost first, from
/// the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn hierarchy(groups: &str, mountinfo: &str, controller: &str) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for line in groups.lines() {
        // hierarchy-id:controllers:path; version 2 has id 0 and no controllers.
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let unified = id == "0" && controllers.is_empty();
        if !unified && !controllers.split(',').any(|c| c == controller) {
            continue;
        }
        let mount = mountinfo.lines().find_map(|line| {
            let mount = Mount::parse(line)?;
            let right = if unified {
                mount.fs == "cgroup2"
            } else {
                mount.fs == "cgroup" && mount.options.split(',').any(|o| o == controller)
            };
            right.then_some(mount)
        });
        let Some(mount) = mount else { continue };
        // In a container the mount may show a part of the tree only: its root.
        let below = path
            .strip_prefix(mount.root)
            .filter(|rest| mount.root == "/" || rest.is_empty() || rest.starts_with('/'))
            .unwrap_or("");
        let top = Path::new(mount.point);
        let inner = top.join(below.trim_start_matches('/'));
        dirs.extend(
            inner
                .ancestors()
                .take_while(|dir| dir.starts_with(top))
                .map(|dir| dir.components().collect::<PathBuf>()),
        );
    }
    dirs
}

struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    fs: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// `id parent major:minor root point options [optional…] - fs source super-options`
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let mut right = right.split(' ');
        Some(Self {
            root: left.next()?,
            point: left.next()?,
            fs: right.next()?,
            options: right.nth(1)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn paths(dirs: &[PathBuf]) -> Vec<&str> {
        dirs.iter().map(|d| d.to_str().unwrap()).collect()
    }

    #[test]
    fn version_1_walks_up_to_the_mount() {
        let groups = "8:pids:/\n4:memory:/slice/job\n1:cpu,cpuacct:/\n0::/\n";
        assert_eq!(
            paths(&hierarchy(groups, V1_MOUNTS, "memory")),
            [
                "/sys/fs/cgroup/memory/slice/job",
                "/sys/fs/cgroup/memory/slice",
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/unified",
            ]
        );
        assert_eq!(
            paths(&hierarchy(groups, V1_MOUNTS, "cpu")),
            ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/unified"]
        );
    }

    #[test]
    fn version_2() {
        let mounts = "26 21 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            paths(&hierarchy("0::/user.slice/a\n", mounts, "cpu")),
            [
                "/sys/fs/cgroup/user.slice/a",
                "/sys/fs/cgroup/user.slice",
                "/sys/fs/cgroup"
            ]
        );
    }

    #[test]
    fn a_container_sees_its_own_part_of_the_tree() {
        let mounts = "9 8 0:5 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let in_it = hierarchy("4:memory:/docker/abc\n", mounts, "memory");
        assert_eq!(paths(&in_it), ["/sys/fs/cgroup/memory"]);
        let below = hierarchy("4:memory:/docker/abc/x\n", mounts, "memory");
        assert_eq!(
            paths(&below),
            ["/sys/fs/cgroup/memory/x", "/sys/fs/cgroup/memory"]
        );
        // Not below this mount's root: only the mount itself can be read.
        let beside = hierarchy("4:memory:/docker/abcdef\n", mounts, "memory");
        assert_eq!(paths(&beside), ["/sys/fs/cgroup/memory"]);
    }

    #[test]
    fn no_groups_no_limits() {
        assert!(hierarchy("", V1_MOUNTS, "cpu").is_empty());
        assert!(hierarchy("0::/\n", "", "cpu").is_empty());
        assert!(hierarchy("garbage\n", "more garbage\n", "cpu").is_empty());
    }

    #[test]
    fn quotas() {
        assert_eq!(quota_v2("150000 100000\n"), Some(1.5));
        assert_eq!(quota_v2("max 100000\n"), None);
        assert_eq!(quota_v1("-1\n", "100000\n"), None);
        assert_eq!(quota_v1("50000\n", "100000\n"), Some(0.5));
        assert_eq!(quota_v1("50000\n", "0\n"), None);
    }

    #[test]
    fn memory_limits() {
        assert_eq!(memory_limit("max\n"), None);
        assert_eq!(memory_limit("9223372036854771712\n"), None);
        assert_eq!(memory_limit("8589934592\n"), Some(8 << 30));
    }

    #[test]
    fn the_tightest_level_wins() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a");
        std::fs::create_dir(&inner).unwrap();
        let write =
            |dir: &Path, name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        write(root.path(), "cpu.max", "100000 100000\n");
        write(&inner, "cpu.max", "400000 100000\n");
        write(root.path(), "memory.max", "max\n");
        write(&inner, "memory.max", "1000000\n");
        write(&inner, "memory.current", "700000\n");
        write(&inner, "memory.stat", "anon 1\ninactive_file 200000\n");
        let mut limits = Limits::default();
        for dir in [&inner, root.path()] {
            limits.tighten_quota(dir);
            limits.tighten_memory(dir);
        }
        let want = Limits {
            quota_cpus: Some(1.0),
            memory_bytes: Some(1_000_000),
            memory_left_bytes: Some(500_000),
        };
        assert_eq!(limits, want);
    }
}
