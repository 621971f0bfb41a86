//! `costmark run --resume DIR`: a run that ended early goes on with the first unit that it did
//! not finish, as if it had never been interrupted.
//!
//! The plan is the recorded command's, resolved anew. It must come out as it did then, on the
//! same machine, from the same build: figures of one run can be compared with each other.

use std::path::{Path, PathBuf};

use clap::Parser;
use costmark_probe::Machine;
use costmark_report::document::{Resumption, RunDocument, Tool};
use costmark_report::{LevelId, RunFolder, Status, StoredRun, read_document};

use crate::args::{Cli, Command, RunArgs};
use crate::failure::{Failure, Result};
use crate::plan::Plan;
use crate::{agenda, plan_file};

/// A run that ended early.
pub(crate) struct Earlier {
    path: PathBuf,
    document: RunDocument,
}

impl Earlier {
    /// Reads the folder of a run that has units left to measure.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut document = read_document(path)
            .map_err(|e| Failure::input(format!("--resume {}: {e}", path.display())))?;
        if document.status == Status::Complete {
            return Err(Failure::input(format!(
                "--resume {}: this run is complete, nothing is left to measure",
                path.display()
            )));
        }
        // A unit that was cut short is measured again, whole; so is all that came after it.
        let finished = document.units.iter().take_while(|u| u.complete).count();
        document.units.truncate(finished);
        Ok(Self {
            path: path.to_path_buf(),
            document,
        })
    }

    /// What was typed then, with the way of telling that is wanted now.
    pub(crate) fn args(&self, now: &RunArgs) -> Result<RunArgs> {
        Ok(RunArgs {
            json: now.json,
            quiet: now.quiet,
            ..self.typed()?
        })
    }

    fn typed(&self) -> Result<RunArgs> {
        let args = self.parsed()?;
        match plan_file::resolve(&self.document.command, &args)? {
            Some((args, _)) => Ok(args),
            None => Ok(args),
        }
    }

    fn parsed(&self) -> Result<RunArgs> {
        let cannot = |why: &dyn std::fmt::Display| self.refuse(&format!("its command {why}"));
        let parsed = Cli::try_parse_from(&self.document.command)
            .map_err(|e| cannot(&format!("is not understood any more: {e}")))?;
        match parsed.command {
            Some(Command::Run(args)) => Ok(*args),
            None => match Cli::try_parse_from(["costmark", "run"]).map(|cli| cli.command) {
                Ok(Some(Command::Run(args))) => Ok(*args),
                _ => Err(cannot(&"is not a run")),
            },
            Some(_) => Err(cannot(&"is not a run")),
        }
    }

    /// Refuses unless plan, machine and tool are what they were.
    pub(crate) fn check(&self, plan: &Plan, machine: &Machine, tool: &Tool) -> Result<()> {
        let then = &self.document;
        let hash = plan.document().hash();
        if hash != then.plan_hash {
            return Err(self.refuse(&format!(
                "the same command now means another plan (hash {}, then {}): flags, defaults, \
                 files it names or the threads this process may use have changed",
                short(&hash),
                short(&then.plan_hash)
            )));
        }
        let now = serde_json::to_value(machine).unwrap_or_default();
        if let Some(difference) = difference(&then.environment.machine, &now) {
            return Err(self.refuse(&format!("the machine has changed: {difference}")));
        }
        if *tool != then.tool {
            let name = |t: &Tool| {
                format!(
                    "{} {} {}{} ({})",
                    t.name,
                    t.version,
                    short(t.git_revision.as_deref().unwrap_or("")),
                    if t.git_dirty { "+" } else { "" },
                    t.build_profile
                )
            };
            return Err(self.refuse(&format!(
                "it was begun by {}, this is {}",
                name(&then.tool),
                name(tool)
            )));
        }
        if agenda::next(plan, &then.units).is_none() {
            return Err(Failure::input(format!(
                "--resume {}: all of its units are measured; {}",
                self.path.display(),
                then.failure.as_deref().unwrap_or("nothing is left to do")
            )));
        }
        Ok(())
    }

    fn refuse(&self, why: &str) -> Failure {
        Failure::input(format!(
            "--resume {}: {why}. Figures of one run must be comparable: begin a new run",
            self.path.display()
        ))
    }

    /// The clock goes on after the last instant that is on record.
    pub(crate) fn end_ns(&self) -> Result<u64> {
        let stored = StoredRun::load(&self.path)?;
        let requests = stored.units.values().flat_map(|unit| &unit.requests);
        let steps = stored.units.values().flat_map(|unit| &unit.steps);
        let peaks = self.document.environment.peaks.iter().map(|p| p.at_ns);
        let last_ns = requests
            .map(|r| r.finished_ns)
            .chain(steps.map(|s| s.end_ns))
            .chain(peaks)
            .max();
        Ok(last_ns.unwrap_or(0) + 1)
    }

    /// Cuts what belongs to no finished unit, and gives the folder and the document to go on
    /// with.
    pub(crate) fn open(self) -> Result<(RunFolder, RunDocument)> {
        let mut document = self.document;
        let is_finished = |level: &LevelId, repeat: u32| {
            let mut units = document.units.iter();
            units.any(|u| u.level == *level && u.repeat == repeat)
        };
        let folder = RunFolder::resume(&self.path, &is_finished)?;
        document.resumed.push(Resumption {
            at: jiff::Timestamp::now().to_string(),
            unit: document.units.len() as u64,
        });
        document.status = Status::Incomplete;
        (document.failure, document.finished_at) = (None, None);
        Ok((folder, document))
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// Facts of a machine that differ from one moment to the next.
const PASSING: [&str; 6] = [
    "available_bytes",
    "used_bytes",
    // An idle GPU's link is slower.
    "generation",
    "load_average",
    "steal_share_since_boot",
    "current_mhz",
];

/// The first lasting fact in which two machines differ, in words.
fn difference(then: &serde_json::Value, now: &serde_json::Value) -> Option<String> {
    use serde_json::Value::Object;
    let (Object(a), Object(b)) = (then, now) else {
        return (then != now).then(|| format!("was {then}, is {now}"));
    };
    let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
    let null = serde_json::Value::Null;
    keys.filter(|key| !PASSING.contains(&key.as_str()))
        .find_map(|key| {
            let (a, b) = (a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null));
            difference(a, b).map(|text| format!("{key} {text}"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn machines_differ_in_lasting_facts_alone() {
        let then = json!({"arch": "x", "cpu": {"model": "A", "current_mhz": 1.0},
            "memory": {"total_bytes": 8, "available_bytes": 3}});
        let mut now = then.clone();
        now["cpu"]["current_mhz"] = json!(2.0);
        now["memory"]["available_bytes"] = json!(1);
        assert_eq!(difference(&then, &now), None);
        now["memory"]["total_bytes"] = json!(16);
        let told = difference(&then, &now).unwrap();
        assert_eq!(told, "memory total_bytes was 8, is 16");
        now["memory"]["total_bytes"] = json!(8);
        now["cpu"]["model"] = json!("B");
        assert_eq!(
            difference(&then, &now).unwrap(),
            "cpu model was \"A\", is \"B\""
        );
    }
}
