//! From what was typed to what is meant: every default filled in, every contradiction refused.

mod level;
mod load;
pub(crate) mod preset;
mod search;
mod served;
mod workload;

use std::num::NonZeroU32;

use costmark_core::BackendKind;
use costmark_load::Stop;
use costmark_metrics::Slo;
use costmark_report::document::{LevelPlan, PlanDocument, UnitPlan};

use crate::args::RunArgs;
use crate::endpoint::EndpointPlan;
use crate::failure::{Failure, Result};

pub(crate) use level::{Level, Load, Unit, level_id};
pub(crate) use load::WarmupPlan;
pub(crate) use search::SearchPlan;
pub(crate) use served::{DevicesPlan, EnginePlan, ModelPlan, sampling};
pub(crate) use workload::{Asking, WorkloadPlan, trace_info};

/// A whole measurement.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) models: Vec<ModelPlan>,
    pub(crate) engine: EnginePlan,
    pub(crate) workloads: Vec<WorkloadPlan>,
    pub(crate) levels: Vec<Level>,
    pub(crate) repeats: u32,
    pub(crate) warmup: WarmupPlan,
    pub(crate) asking: Asking,
    pub(crate) slo: Option<Slo>,
    /// Levels are then found while measuring.
    pub(crate) search: Option<SearchPlan>,
    pub(crate) utilization: f64,
    pub(crate) max_errors: f64,
}

impl Plan {
    /// `usable_cores` is what this process may use.
    pub(crate) fn resolve(args: &RunArgs, usable_cores: u32) -> Result<Self> {
        if !(0.0..=1.0).contains(&args.max_errors) {
            return Err(Failure::input(format!(
                "--max-errors {}: is a share of requests, from 0 to 1",
                args.max_errors
            )));
        }
        let mut engine = EnginePlan::resolve(&args.engine, args.devices.as_ref(), usable_cores)?;
        engine.mock = served::mock(args, engine.backend)?;
        engine.endpoint = EndpointPlan::resolve(args)?;
        if engine.endpoint.is_some() {
            engine.backend = BackendKind::Http;
            engine.prefix_cache = false;
        }
        let models = served::models(args, &engine)?;
        let workloads = WorkloadPlan::resolve(&args.workload, args.load.requests)?;
        let loads = load::loads(&args.load, &args.workload)?;
        let talks = workloads.iter().find(|w| w.turns(0).is_some());
        let is_closed =
            !args.load.find_goodput && loads.iter().all(|l| matches!(l, Load::Closed(_)));
        if let (Some(workload), false) = (talks, is_closed) {
            return Err(Failure::input(format!(
                "--turns: users of {} who wait for answers are a closed loop; say how many with \
                 --concurrency",
                workload.id
            )));
        }
        let mut levels = Vec::new();
        for (model, served) in models.iter().enumerate() {
            let served = (models.len() > 1).then(|| served.id());
            for (workload, asked) in workloads.iter().enumerate() {
                let name = (workloads.len() > 1).then_some(asked.id.as_str());
                for &load in &loads {
                    levels.push(Level {
                        id: level::level_id(served.as_deref(), name, load),
                        model,
                        workload,
                        load,
                        stop: load::stop(&args.load, load, asked)?,
                    });
                }
            }
        }
        let seed = args.load.seed.unwrap_or(0);
        Ok(Self {
            models,
            engine,
            workloads,
            levels,
            repeats: args.load.repeats.unwrap_or(match args.load.find_goodput {
                true => SearchPlan::DEFAULT_REPEATS,
                false => load::DEFAULT_REPEATS,
            }),
            warmup: WarmupPlan::resolve(&args.load),
            asking: Asking {
                seed,
                ignore_eos: !args.workload.stop_at_eos,
                sampling: sampling(&args.sampling, seed)?,
            },
            slo: args.load.slo,
            search: SearchPlan::resolve(&args.load)?,
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

    /// Most requests in flight at any level of a model; `None` where some level knows no
    /// bound.
    pub(crate) fn max_in_flight(&self, model: usize) -> Option<u32> {
        if let Some(search) = self.search {
            return search.max_in_flight.map(NonZeroU32::get);
        }
        let all: Option<Vec<u32>> = self
            .levels_of(model)
            .map(|level| level.load.max_in_flight())
            .collect();
        all?.into_iter().max()
    }

    /// Prompt plus output of the longest request a model can be asked.
    pub(crate) fn longest_request_tokens(&self) -> u64 {
        self.workloads
            .iter()
            .map(WorkloadPlan::longest_request_tokens)
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
            device: self.engine.devices.name().into(),
            backend: self.engine.backend,
            threads: self.engine.threads,
            kv_budget_bytes: self.engine.kv_budget_bytes,
            kv_dtype: self.engine.kv_dtype.clone(),
            block_size: self.engine.block_size,
            max_batched_tokens: self.engine.max_batched_tokens,
            max_sequences: self.engine.max_sequences,
            max_context: self.engine.max_context,
            prefix_cache: self.engine.prefix_cache,
            mock: self.engine.mock.as_ref().map(ToString::to_string),
            endpoint: self.engine.endpoint.as_ref().map(ToString::to_string),
            repeats: self.repeats,
            seed: self.asking.seed,
            warmup_requests_per_slot: match self.warmup {
                WarmupPlan::Off => Some(0),
                WarmupPlan::PerSlot(n) => Some(n.get()),
                WarmupPlan::For(_) => None,
            },
            warmup_s: match self.warmup {
                WarmupPlan::For(ns) => Some(ns as f64 / 1e9),
                _ => None,
            },
            ignore_eos: self.asking.ignore_eos,
            sampling: self.asking.sampling,
            slo: self.slo,
            goodput_search: self.search.map(SearchPlan::document),
            utilization: self.utilization,
            max_errors: self.max_errors,
        }
    }

    /// As it goes into the result.
    pub(crate) fn level_document(&self, level: &Level) -> LevelPlan {
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
    fn each_level_has_two_requests_per_slot_or_enough_for_a_p90() {
        let levels = plan(&["--concurrency", "1,4,64"]).unwrap().levels;
        let stops: Vec<Stop> = levels.iter().map(|level| level.stop).collect();
        assert_eq!(stops, [22, 22, 128].map(Stop::Requests));
        let timed = plan(&["--duration", "2s"]).unwrap().levels;
        assert_eq!(timed[0].stop, Stop::Duration(2_000_000_000));
    }

    #[test]
    fn rates_are_poisson_unless_said() {
        let levels = plan(&["--rate", "2,0.5"]).unwrap().levels;
        let ids: Vec<&str> = levels.iter().map(|l| l.id.as_str()).collect();
        assert_eq!(ids, ["r2", "r0.5"]);
        let process = |plan: &Plan| match plan.levels[0].load {
            Load::Open { process, .. } => process.to_string(),
            _ => panic!("not an open loop"),
        };
        assert_eq!(process(&plan(&["--rate", "2"]).unwrap()), "poisson:2");
        let bursty = plan(&["--rate", "2", "--arrivals", "gamma:0.5"]).unwrap();
        assert_eq!(process(&bursty), "gamma:2,0.5");
        assert_eq!(process(&plan(&["--max-throughput"]).unwrap()), "max");
    }

    #[test]
    fn plans_are_equal_when_their_hashes_are() {
        let hash = |more: &[&str]| plan(more).unwrap().document().hash();
        assert_eq!(hash(&[]), hash(&["--concurrency", "1,4,16", "--seed", "0"]));
        for other in [
            &["--seed", "1"][..],
            &["--concurrency", "1,4"],
            &["--rate", "2"],
            &["--input-len", "33"],
            &["--quantize", "q4_0"],
            &["--repeats", "2"],
        ] {
            assert_ne!(hash(&[]), hash(other), "{other:?}");
        }
        let work = |more: &[&str]| {
            let document = plan(more).unwrap().document();
            document.workloads[0].workload_hash.clone()
        };
        assert_eq!(work(&[]), work(&["--seed", "1", "--rate", "2"]));
        assert_ne!(work(&[]), work(&["--input-len", "33"]));
    }

    #[test]
    fn threads_are_the_usable_cores_unless_given() {
        assert_eq!(plan(&[]).unwrap().engine.threads, 2);
        assert_eq!(plan(&["--threads", "5"]).unwrap().engine.threads, 5);
    }
}
