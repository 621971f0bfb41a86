//! Which other programs used the processor between two moments.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::text;

/// CPU time of every process that this one can see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processes {
    /// Ticks and name by process id.
    by_id: BTreeMap<u32, (u64, String)>,
}

/// Another program that used the processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// The name it goes by.
    pub name: String,
    /// CPU seconds it used, all processes of the name together.
    pub cpu_s: f64,
}

impl Processes {
    /// Looks now. Empty where the system does not tell; inside a container only its own
    /// processes are seen.
    #[must_use]
    pub fn now() -> Self {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let own = std::process::id();
        let by_id = entries.filter_map(|entry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let (user, system) = text::process_ticks(&stat)?;
            // The kernel's own threads work for whoever runs, this process included.
            (id != own && !text::is_kernel_thread(&stat))
                .then_some((id, (user + system, text::process_name(&stat)?.to_owned())))
        });
        Self {
            by_id: by_id.collect(),
        }
    }

    /// Programs that used the processor since `earlier`, the busiest first. What a process
    /// used that was not there then counts whole; one that has ended since is not seen.
    #[must_use]
    pub fn busiest_since(&self, earlier: &Self) -> Vec<Neighbour> {
        let mut by_name: BTreeMap<&str, u64> = BTreeMap::new();
        for (id, (ticks, name)) in &self.by_id {
            // An id may have been given to another process since.
            let before = earlier
                .by_id
                .get(id)
                .filter(|(t, n)| t <= ticks && n == name);
            *by_name.entry(name).or_default() += ticks - before.map_or(0, |(ticks, _)| *ticks);
        }
        let per_s = rustix::param::clock_ticks_per_second() as f64;
        let mut all: Vec<Neighbour> = by_name
            .into_iter()
            .filter(|(_, ticks)| *ticks > 0)
            .map(|(name, ticks)| Neighbour {
                name: name.to_owned(),
                cpu_s: ticks as f64 / per_s,
            })
            .collect();
        all.sort_by(|a, b| b.cpu_s.total_cmp(&a.cpu_s));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(list: &[(u32, u64, &str)]) -> Processes {
        let by_id = list
            .iter()
            .map(|&(id, ticks, name)| (id, (ticks, name.to_owned())));
        Processes {
            by_id: by_id.collect(),
        }
    }

    #[test]
    fn programs_are_added_up_and_sorted() {
        let before = seen(&[(1, 10, "a"), (2, 50, "b"), (3, 7, "gone"), (4, 90, "old")]);
        let after = seen(&[
            (1, 30, "a"),
            (2, 50, "b"),
            (4, 5, "new in its place"),
            (5, 30, "a"),
        ]);
        let per_s = rustix::param::clock_ticks_per_second() as f64;
        let found: Vec<(String, f64)> = after
            .busiest_since(&before)
            .into_iter()
            .map(|n| (n.name, n.cpu_s * per_s))
            .collect();
        assert_eq!(
            found,
            [
                ("a".to_string(), 50.0),
                ("new in its place".to_string(), 5.0)
            ]
        );
    }

    #[test]
    fn this_process_is_no_neighbour() {
        assert!(!Processes::now().by_id.contains_key(&std::process::id()));
    }
}
