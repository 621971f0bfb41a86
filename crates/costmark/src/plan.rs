//! From what was typed to what is meant: every default filled in, every contradiction refused.

mod level;
mod served;
mod workload;

use costmark_load::Stop;
use costmark_report::document::{LevelPlan, PlanDocument, UnitPlan};

use crate::args::{DeviceArg, RunArgs};
use crate::failure::{Failure, Result};

pub(crate) use level::{Level, Load, Unit};
pub(crate) use served::{EnginePlan, ModelPlan, sampling};
pub(crate) use workload::{Asking, WorkloadPlan};

/// Prompt length when none is given. With [`DEFAULT_OUTPUT_LEN`] and [`default_requests`] it
/// keeps the default run to minutes on two cores.
pub(crate) const DEFAULT_INPUT_LEN: &str = "32";
/// Output length when none is given.
pub(crate) const DEFAULT_OUTPUT_LEN: &str = "16";

/// What a workload is called that was put together from flags.
const CUSTOM: &str = "custom";

/// Measured requests per level and repeat when neither number nor time is given: at least
/// eight, and otherwise one per slot.
fn default_requests(concurrency: u32) -> u64 {
    u64::from(concurrency).max(8)
}

/// A whole measurement.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) models: Vec<ModelPlan>,
    pub(crate) engine: EnginePlan,
    pub(crate) workloads: Vec<WorkloadPlan>,
    pub(crate) levels: Vec<Level>,
    pub(crate) repeats: u32,
    pub(crate) warmup: u32,
    pub(crate) asking: Asking,
    pub(crate) utilization: f64,
    pub(crate) max_errors: f64,
}

impl Plan {
    /// `usable_cores` is what this process may use.
    pub(crate) fn resolve(args: &RunArgs, usable_cores: u32) -> Result<Self> {
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = args.concurrency.iter().find(|c| !seen.insert(**c)) {
            return Err(Failure::input(format!(
                "--concurrency names {twice} twice; use --repeats to measure a level again"
            )));
        }
        if args.requests == Some(0) {
            return Err(Failure::input(
                "--requests: at least 1 is needed to measure",
            ));
        }
        if !(0.0..=1.0).contains(&args.max_errors) {
            return Err(Failure::input(format!(
                "--max-errors {}: is a share of requests, from 0 to 1",
                args.max_errors
            )));
        }
        let duration_ns = args
            .duration
            .map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        let engine = EnginePlan::resolve(&args.engine, usable_cores)?;
        let levels = args
            .concurrency
            .iter()
            .map(|&concurrency| Level {
                id: level::level_id(None, None, Load::Closed(concurrency)),
                model: 0,
                workload: 0,
                load: Load::Closed(concurrency),
                stop: match (duration_ns, args.requests) {
                    (Some(ns), _) => Stop::Duration(ns),
                    (None, Some(n)) => Stop::Requests(n),
                    (None, None) => Stop::Requests(default_requests(concurrency)),
                },
            })
            .collect();
        Ok(Self {
            models: vec![ModelPlan::resolve(&args.model, engine.backend)],
            engine,
            workloads: vec![WorkloadPlan {
                id: CUSTOM.into(),
                input: args.input_len,
                output: args.output_len,
            }],
            levels,
            repeats: args.repeats,
            warmup: args.warmup,
            asking: Asking {
                seed: args.seed,
                ignore_eos: !args.stop_at_eos,
                sampling: sampling(&args.sampling, args.seed)?,
            },
            utilization: args.price.utilization,
            max_errors: args.max_errors,
        })
    }

    /// All units in the order they are run.
    pub(crate) fn units(&self) -> Vec<Unit> {
        level::units(&self.levels, self.models.len(), self.repeats)
    }

    /// Levels of one model.
    pub(crate) fn levels_of(&self, model: usize) -> impl Iterator<Item = &Level> {
        self.levels.iter().filter(move |level| level.model == model)
    }

    /// A level in words: its load, with workload and model where there are several.
    pub(crate) fn level_in_words(&self, level: &Level) -> String {
        let mut text = level.load.document().label();
        if self.workloads.len() > 1 {
            text.push_str(&format!(" of {}", self.workloads[level.workload].id));
        }
        if self.models.len() > 1 {
            text.push_str(&format!(" on {}", self.models[level.model].id()));
        }
        text
    }

    /// The levels of a model in words: `concurrency 1, 4, 16`.
    pub(crate) fn levels_in_words(&self, model: usize) -> String {
        let mut loads: Vec<Load> = Vec::new();
        for level in self.levels_of(model) {
            if !loads.contains(&level.load) {
                loads.push(level.load);
            }
        }
        let all: Vec<String> = loads.iter().map(|l| l.document().short()).collect();
        let all = all.join(", ");
        if loads.iter().all(|l| matches!(l, Load::Closed(_))) {
            format!("concurrency {all}")
        } else {
            all
        }
    }

    /// Most requests in flight at any level of a model.
    pub(crate) fn max_in_flight(&self, model: usize) -> u32 {
        self.levels_of(model)
            .filter_map(|level| level.load.max_in_flight())
            .max()
            .unwrap_or(1)
    }

    /// Prompt plus output of the longest request a model can be asked.
    pub(crate) fn longest_request_tokens(&self, model: usize) -> u64 {
        self.levels_of(model)
            .map(|level| self.workloads[level.workload].longest_request_tokens())
            .max()
            .unwrap_or(0)
    }

    /// As it goes into the result.
    pub(crate) fn document(&self) -> PlanDocument {
        PlanDocument {
            models: self.models.iter().map(ModelPlan::document).collect(),
            workloads: self.workloads.iter().map(WorkloadPlan::document).collect(),
            levels: self.levels.iter().map(|l| self.level_document(l)).collect(),
            units: self
                .units()
                .iter()
                .map(|unit| UnitPlan {
                    level: self.levels[unit.level].id.clone(),
                    repeat: unit.repeat,
                })
                .collect(),
            device: match self.engine.device {
                DeviceArg::Cpu => "cpu".into(),
                DeviceArg::Cuda(n) => format!("cuda:{n}"),
            },
            backend: self.engine.backend,
            threads: self.engine.threads,
            kv_budget_bytes: self.engine.kv_budget_bytes,
            kv_dtype: self.engine.kv_dtype.clone(),
            block_size: self.engine.block_size,
            max_batched_tokens: self.engine.max_batched_tokens,
            max_sequences: self.engine.max_sequences,
            max_context: self.engine.max_context,
            prefix_cache: self.engine.prefix_cache,
            repeats: self.repeats,
            seed: self.asking.seed,
            warmup_requests_per_slot: self.warmup,
            ignore_eos: self.asking.ignore_eos,
            sampling: self.asking.sampling,
            utilization: self.utilization,
            max_errors: self.max_errors,
        }
    }

    fn level_document(&self, level: &Level) -> LevelPlan {
        let (requests, duration_s) = match level.stop {
            Stop::Requests(n) => (Some(n), None),
            Stop::Duration(ns) => (None, Some(ns as f64 / 1e9)),
        };
        LevelPlan {
            id: level.id.clone(),
            model: self.models[level.model].id(),
            workload: self.workloads[level.workload].id.clone(),
            load: level.load.document(),
            requests,
            duration_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command, WeightsArg};
    use clap::Parser;

    fn plan(more: &[&str]) -> Result<Plan> {
        let args = [&["costmark", "run"], more].concat();
        match Cli::parse_from(args).command {
            Some(Command::Run(args)) => Plan::resolve(&args, 2),
            _ => panic!("not a run"),
        }
    }

    #[test]
    fn without_a_model_the_weights_are_synthetic() {
        let model = plan(&[]).unwrap().models.remove(0);
        assert_eq!(model.weights, WeightsArg::Synthetic { seed: 0 });
        assert_eq!(model.quantize.as_deref(), Some("q8_0"));
        let float = plan(&["--dtype", "f32"]).unwrap().models.remove(0);
        assert_eq!(
            (float.dtype.as_deref(), float.quantize),
            (Some("f32"), None)
        );
    }

    #[test]
    fn a_model_that_is_named_has_its_own_weights_as_they_are() {
        let model = plan(&["--model", "some/where"]).unwrap().models.remove(0);
        assert_eq!((model.weights, model.quantize), (WeightsArg::Real, None));
    }

    #[test]
    fn each_level_has_at_least_a_request_per_slot() {
        let levels = plan(&["--concurrency", "1,4,64"]).unwrap().levels;
        let stops: Vec<Stop> = levels.iter().map(|level| level.stop).collect();
        assert_eq!(stops, [8, 8, 64].map(Stop::Requests));
        let timed = plan(&["--duration", "2s"]).unwrap().levels;
        assert_eq!(timed[0].stop, Stop::Duration(2_000_000_000));
    }

    #[test]
    fn threads_are_the_usable_cores_unless_given() {
        assert_eq!(plan(&[]).unwrap().engine.threads, 2);
        assert_eq!(plan(&["--threads", "5"]).unwrap().engine.threads, 5);
    }
}
