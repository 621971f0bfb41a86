//! From what was typed to what is meant: every default filled in, every contradiction refused.

use costmark_core::{BackendKind, Sampling};
use costmark_load::{LengthDistribution, Stop, Workload};
use costmark_report::document::PlanDocument;

use crate::args::{
    BackendArg, DeviceArg, EngineArgs, ModelArgs, RunArgs, SamplingArgs, WeightsArg,
};
use crate::failure::{Failure, Result};

/// The shape that is measured when none is named: small enough for any machine.
const DEFAULT_MODEL: &str = "qwen3-0.6b";
/// How its random weights are held.
const DEFAULT_QUANTIZE: &str = "q8_0";

/// Prompt length when none is given. With [`DEFAULT_OUTPUT_LEN`] and [`default_requests`] it
/// keeps the default run to minutes on two cores.
pub(crate) const DEFAULT_INPUT_LEN: &str = "32";
/// Output length when none is given.
pub(crate) const DEFAULT_OUTPUT_LEN: &str = "16";

/// Measured requests per level and repeat when neither number nor time is given: at least
/// eight, and otherwise one per slot.
fn default_requests(concurrency: u32) -> u64 {
    u64::from(concurrency).max(8)
}

/// Which model, held how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelPlan {
    pub(crate) model: String,
    pub(crate) weights: WeightsArg,
    pub(crate) dtype: Option<String>,
    pub(crate) quantize: Option<String>,
}

impl ModelPlan {
    /// Without a model the default shape with random weights, since that needs no download.
    pub(crate) fn resolve(args: &ModelArgs, backend: BackendKind) -> Self {
        let real = args.model.is_some();
        let weights = args.weights.unwrap_or(if real {
            WeightsArg::Real
        } else {
            WeightsArg::Synthetic { seed: 0 }
        });
        let default_format = !real
            && args.dtype.is_none()
            && args.quantize.is_none()
            // It knows no quantisation but that of GGUF files.
            && backend != BackendKind::Lockstep;
        Self {
            model: args.model.clone().unwrap_or_else(|| DEFAULT_MODEL.into()),
            weights,
            dtype: args.dtype.clone(),
            quantize: if default_format {
                Some(DEFAULT_QUANTIZE.into())
            } else {
                args.quantize.clone()
            },
        }
    }
}

/// How it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnginePlan {
    pub(crate) device: DeviceArg,
    pub(crate) backend: BackendKind,
    /// Compute threads.
    pub(crate) threads: u32,
    pub(crate) kv_budget_bytes: Option<u64>,
    pub(crate) kv_dtype: Option<String>,
    pub(crate) block_size: Option<u32>,
    pub(crate) max_batched_tokens: Option<u32>,
    pub(crate) max_sequences: Option<u32>,
    pub(crate) max_context: Option<u32>,
    pub(crate) prefix_cache: bool,
}

impl EnginePlan {
    /// `usable_cores` is what this process may use.
    pub(crate) fn resolve(args: &EngineArgs, usable_cores: u32) -> Result<Self> {
        if let DeviceArg::Cuda(n) = args.device {
            return Err(Failure::input(format!(
                "--device cuda:{n}: this costmark was built without CUDA, and this version has \
                 no CUDA engine yet; use --device cpu"
            )));
        }
        let backend = match args.backend {
            BackendArg::Engine => BackendKind::Engine,
            BackendArg::Lockstep => BackendKind::Lockstep,
        };
        if backend == BackendKind::Lockstep {
            refuse_engine_flags(args)?;
        }
        Ok(Self {
            device: args.device,
            backend,
            threads: args.threads.unwrap_or(usable_cores).max(1),
            kv_budget_bytes: args.kv_budget.map(|bytes| bytes.0),
            kv_dtype: args.kv_dtype.clone(),
            block_size: args.block_size,
            max_batched_tokens: args.max_batched_tokens,
            max_sequences: args.max_sequences,
            max_context: args.max_context,
            prefix_cache: !args.no_prefix_cache && backend == BackendKind::Engine,
        })
    }
}

/// What has no meaning without a paged cache is not silently ignored.
fn refuse_engine_flags(args: &EngineArgs) -> Result<()> {
    let given = [
        ("--kv-budget", args.kv_budget.is_some()),
        ("--kv-dtype", args.kv_dtype.is_some()),
        ("--block-size", args.block_size.is_some()),
        ("--max-batched-tokens", args.max_batched_tokens.is_some()),
        ("--no-prefix-cache", args.no_prefix_cache),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::input(format!(
            "{flag} is an option of the engine; leave it out, or use --backend engine"
        ))),
        None => Ok(()),
    }
}

/// Greedy unless a temperature is given.
pub(crate) fn sampling(args: &SamplingArgs, seed: u64) -> Result<Sampling> {
    let Some(temperature) = args.temperature else {
        return Ok(Sampling::Greedy);
    };
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(Failure::input(format!(
            "--temperature {temperature}: must be above 0; leave the flag out for greedy"
        )));
    }
    let top_p = args.top_p.unwrap_or(1.0);
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(Failure::input(format!(
            "--top-p {top_p}: must be above 0 and at most 1"
        )));
    }
    Ok(Sampling::Random {
        temperature,
        top_p,
        top_k: args.top_k.unwrap_or(0),
        seed,
    })
}

/// A whole measurement.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) model: ModelPlan,
    pub(crate) engine: EnginePlan,
    pub(crate) levels: Vec<Level>,
    pub(crate) requests: Option<u64>,
    pub(crate) duration_ns: Option<u64>,
    pub(crate) input: LengthDistribution,
    pub(crate) output: LengthDistribution,
    pub(crate) repeats: u32,
    pub(crate) seed: u64,
    pub(crate) warmup: u32,
    pub(crate) ignore_eos: bool,
    pub(crate) sampling: Sampling,
    pub(crate) utilization: f64,
    pub(crate) max_errors: f64,
}

/// One level of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level {
    /// Requests kept in flight.
    pub(crate) concurrency: u32,
    /// When a unit of it ends.
    pub(crate) stop: Stop,
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
        let levels = args
            .concurrency
            .iter()
            .map(|&concurrency| Level {
                concurrency,
                stop: match (duration_ns, args.requests) {
                    (Some(ns), _) => Stop::Duration(ns),
                    (None, Some(n)) => Stop::Requests(n),
                    (None, None) => Stop::Requests(default_requests(concurrency)),
                },
            })
            .collect();
        let engine = EnginePlan::resolve(&args.engine, usable_cores)?;
        Ok(Self {
            model: ModelPlan::resolve(&args.model, engine.backend),
            engine,
            levels,
            requests: args.requests,
            duration_ns,
            input: args.input_len,
            output: args.output_len,
            repeats: args.repeats,
            seed: args.seed,
            warmup: args.warmup,
            ignore_eos: !args.stop_at_eos,
            sampling: sampling(&args.sampling, args.seed)?,
            utilization: args.price.utilization,
            max_errors: args.max_errors,
        })
    }

    /// Most requests in flight at any level.
    pub(crate) fn max_concurrency(&self) -> u32 {
        self.levels.iter().map(|l| l.concurrency).max().unwrap_or(1)
    }

    /// Prompt plus output of the longest request there can be.
    pub(crate) fn longest_request_tokens(&self) -> u64 {
        u64::from(self.input.longest()) + u64::from(self.output.longest())
    }

    /// The requests, for a model of this vocabulary.
    pub(crate) fn workload(&self, vocab_size: u32) -> Workload {
        Workload {
            input: self.input,
            output: self.output,
            vocab_size,
            seed: self.seed,
            ignore_eos: self.ignore_eos,
            sampling: self.sampling,
        }
    }

    /// As it goes into the result.
    pub(crate) fn document(&self) -> PlanDocument {
        PlanDocument {
            model: self.model.model.clone(),
            weights: match self.model.weights {
                WeightsArg::Real => "real".into(),
                WeightsArg::Synthetic { seed } => format!("synthetic:{seed}"),
            },
            dtype: self.model.dtype.clone(),
            quantize: self.model.quantize.clone(),
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
            concurrency: self.levels.iter().map(|l| l.concurrency).collect(),
            requests: self.requests,
            duration_s: self.duration_ns.map(|ns| ns as f64 / 1e9),
            input_len: self.input.to_string(),
            output_len: self.output.to_string(),
            repeats: self.repeats,
            seed: self.seed,
            warmup_requests_per_slot: self.warmup,
            ignore_eos: self.ignore_eos,
            sampling: self.sampling,
            utilization: self.utilization,
            max_errors: self.max_errors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
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
        let model = plan(&[]).unwrap().model;
        assert_eq!(model.weights, WeightsArg::Synthetic { seed: 0 });
        assert_eq!(model.quantize.as_deref(), Some("q8_0"));
        let float = plan(&["--dtype", "f32"]).unwrap().model;
        assert_eq!(
            (float.dtype.as_deref(), float.quantize),
            (Some("f32"), None)
        );
    }

    #[test]
    fn a_model_that_is_named_has_its_own_weights_as_they_are() {
        let model = plan(&["--model", "some/where"]).unwrap().model;
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
