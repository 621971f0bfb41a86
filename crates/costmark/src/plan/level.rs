//! Levels of a plan and the units that follow from them.

use std::num::NonZeroU32;

use costmark_load::{ArrivalProcess, Stop};
use costmark_report::document::{LevelId, LoadDocument};

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Load {
    /// This many are kept in flight.
    Closed(u32),
    /// By a process, whatever became of earlier ones.
    Open {
        process: ArrivalProcess,
        /// Requests that may be in flight at once.
        max_in_flight: Option<NonZeroU32>,
    },
    /// When the workload, which is a trace, had them.
    Trace {
        /// Played so many times faster than it was recorded.
        speed: f64,
        /// Requests that may be in flight at once.
        max_in_flight: Option<NonZeroU32>,
    },
}

impl Load {
    /// Short and unique within a workload and model.
    fn id(self) -> String {
        match self {
            Self::Closed(concurrency) => format!("c{concurrency}"),
            Self::Open { process, .. } => match process.rate_per_s() {
                Some(per_s) => format!("r{per_s}"),
                None => "max".into(),
            },
            Self::Trace { speed: 1.0, .. } => "trace".into(),
            Self::Trace { speed, .. } => format!("trace-x{speed}"),
        }
    }

    /// Most requests in flight, where that is known.
    pub(crate) fn max_in_flight(self) -> Option<u32> {
        match self {
            Self::Closed(concurrency) => Some(concurrency),
            Self::Open { max_in_flight, .. } | Self::Trace { max_in_flight, .. } => {
                max_in_flight.map(NonZeroU32::get)
            }
        }
    }

    /// As it goes into the result.
    pub(crate) fn document(self) -> LoadDocument {
        let max_concurrency = self.max_in_flight();
        match self {
            Self::Closed(concurrency) => LoadDocument::ClosedLoop { concurrency },
            Self::Open { process, .. } => match process.rate_per_s() {
                Some(requests_per_s) => LoadDocument::OpenLoop {
                    requests_per_s,
                    arrivals: process.to_string(),
                    max_concurrency,
                },
                None => LoadDocument::MaxThroughput { max_concurrency },
            },
            Self::Trace { speed, .. } => LoadDocument::Trace {
                time_scale: speed,
                max_concurrency,
            },
        }
    }
}

/// One load, of one workload, on one model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Level {
    pub(crate) id: LevelId,
    /// Index of its model.
    pub(crate) model: usize,
    /// Index of its workload.
    pub(crate) workload: usize,
    pub(crate) load: Load,
    /// When a unit of it ends.
    pub(crate) stop: Stop,
}

/// The name of a level: the load, with workload and model before it where they are one of
/// several.
pub(crate) fn level_id(model: Option<&str>, workload: Option<&str>, load: Load) -> LevelId {
    let load = load.id();
    let parts: Vec<&str> = model.into_iter().chain(workload).chain([&*load]).collect();
    LevelId::from(parts.join("/").as_str())
}

/// One repeat of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Its place in the plan, from 0: seeds and request ids follow from it.
    pub(crate) number: u32,
    /// Index of its level.
    pub(crate) level: usize,
    /// Counts from 0 in each level.
    pub(crate) repeat: u32,
}

/// All units in the order they are run: models one after the other, since loading one takes
/// long; of each the repeats; in each repeat the levels. A slow drift of the machine so
/// shows as spread between the repeats of a level and not as a difference between levels.
pub(crate) fn units(levels: &[Level], models: usize, repeats: u32) -> Vec<Unit> {
    let mut units = Vec::new();
    for model in 0..models {
        for repeat in 0..repeats {
            for (level, _) in levels.iter().enumerate().filter(|(_, l)| l.model == model) {
                units.push(Unit {
                    number: u32::try_from(units.len()).unwrap_or(u32::MAX),
                    level,
                    repeat,
                });
            }
        }
    }
    units
}
