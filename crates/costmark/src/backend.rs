//! From a plan to something that serves.

use std::sync::{Arc, Mutex, PoisonError};

use costmark_core::mock::{MockBackend, MockTime};
use costmark_core::{Backend, BackendKind, ModelShape, MonotonicClock, Replica, Replicas};
use costmark_engine::device::{self, Device};
use costmark_engine::lockstep::{LockstepBackend, LockstepModel, LockstepOptions};
use costmark_engine::{
    Checkpoint, EngineBackend, EngineOptions, FormatChoice, KvDtype, ModelInfo, OpenOptions,
    Progress as Loading, TokenizerSource, WeightChoice,
};

use crate::args::{DeviceArg, MockArg, WeightsArg};
use crate::endpoint::EndpointPlan;
use crate::failure::{Failure, Result};
use crate::plan::{DevicesPlan, EnginePlan, ModelPlan};
use crate::progress::{Progress, Stage};
use crate::units::human_bytes;

/// Sequences of a static batch where the load sets no bound; the engine's default too.
const DEFAULT_SEQUENCES: u32 = 16;

/// What the backend must be able to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Requests in flight at once; `None` where the load sets no bound.
    pub(crate) sequences: Option<u32>,
    /// Prompt plus output of the longest.
    pub(crate) tokens_per_sequence: u64,
}

/// A checkpoint and where its weights will be.
pub(crate) struct OnDevice {
    checkpoint: Checkpoint,
    named: DeviceArg,
    device: Device,
}

/// A model that was found but not loaded.
pub(crate) enum Opened {
    /// For an engine on each device. At least one.
    Engine(Vec<OnDevice>),
    /// For candle-transformers' models, which may be of architectures the engine lacks.
    Lockstep(Box<LockstepOptions>),
    /// No model at all.
    Mock,
    /// A server elsewhere; connected to, not loaded.
    Http(Box<EndpointPlan>),
}

impl Opened {
    /// Dimensions, where they are known before loading.
    pub(crate) fn shape(&self) -> Option<&ModelShape> {
        match self {
            Self::Engine(all) => all.first().map(|one| &one.checkpoint.config.shape),
            Self::Lockstep(_) | Self::Mock | Self::Http(_) => None,
        }
    }

    /// Where the tokenizer is.
    pub(crate) fn tokenizer(&self) -> Option<TokenizerSource> {
        match self {
            Self::Engine(all) => all.first().and_then(|one| one.checkpoint.tokenizer.clone()),
            Self::Lockstep(options) => match &options.model {
                LockstepModel::Folder(folder) => Some(folder.join("tokenizer.json"))
                    .filter(|path| path.is_file())
                    .map(TokenizerSource::Json),
                LockstepModel::Gguf(path) => Some(TokenizerSource::Gguf(path.clone())),
                LockstepModel::Synthetic { .. } => None,
            },
            Self::Mock | Self::Http(_) => None,
        }
    }
}

/// Finds the model and reads its configuration and headers; downloads what is missing.
pub(crate) fn open(plan: &ModelPlan, engine: &EnginePlan, progress: Progress) -> Result<Opened> {
    let backend = engine.backend;
    if backend == BackendKind::Mock {
        return Ok(Opened::Mock);
    }
    let devices = open_devices(&engine.devices)?;
    let stage = Arc::new(Mutex::new(None::<Stage>));
    let report = move |loading: Loading<'_>| {
        // Only drawing: a poisoned lock holds nothing that could be wrong.
        let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
        let stage = stage.get_or_insert_with(|| progress.stage("Loading the model"));
        match loading {
            Loading::Download {
                file,
                done_bytes,
                total_bytes,
            } => stage.bytes(done_bytes, total_bytes, &format!("Downloading {file}")),
            Loading::Load {
                done_tensors,
                total_tensors,
                ..
            } => stage.count(done_tensors, total_tensors, "Loading weights"),
        }
    };
    let options = OpenOptions {
        weights: match plan.weights {
            WeightsArg::Real => WeightChoice::Real,
            WeightsArg::Synthetic { seed } => WeightChoice::Synthetic { seed },
        },
        format: format_choice(plan.dtype.as_deref(), plan.quantize.as_deref())?,
        progress: Some(Arc::new(report)),
        ..OpenOptions::new(plan.model.clone())
    };
    Ok(match backend {
        BackendKind::Lockstep => Opened::Lockstep(Box::new(LockstepOptions::find(&options)?)),
        BackendKind::Engine | BackendKind::Mock | BackendKind::Http => {
            let mut all = Vec::new();
            for (named, device) in devices {
                let options = OpenOptions {
                    device: device.clone(),
                    ..options.clone()
                };
                all.push(OnDevice {
                    checkpoint: Checkpoint::open(&options)?,
                    named,
                    device,
                });
            }
            Opened::Engine(all)
        }
    })
}

/// Opens devices that are to hold the same model, each as it was named.
fn open_devices(plan: &DevicesPlan) -> Result<Vec<(DeviceArg, Device)>> {
    let mut opened: Vec<(DeviceArg, Device)> = Vec::new();
    for &named in plan.all() {
        let device = device::open(named.into()).map_err(|e| plan.locate(named, e.into()))?;
        if let Some((_, first)) = opened.first() {
            let of = |device| device::gpu_name(device).unwrap_or_default();
            let other = alike(&of(first), &of(&device));
            other.map_err(|message| plan.locate(named, Failure::input(message)))?;
        }
        opened.push((named, device));
    }
    Ok(opened)
}

/// Peaks and prices are of one kind of GPU.
fn alike(first: &str, other: &str) -> Result<(), String> {
    match first == other {
        true => Ok(()),
        false => Err(format!(
            "is an {other}, and the first of them an {first}: name GPUs of one kind, and measure \
             the others in a run of their own"
        )),
    }
}

/// `--dtype` and `--quantize` as the engine knows them.
pub(crate) fn format_choice(dtype: Option<&str>, quantize: Option<&str>) -> Result<FormatChoice> {
    let parse = |flag: &str, text: &str| {
        text.parse::<FormatChoice>()
            .map_err(|e| Failure::input(format!("{flag}: {e}")))
    };
    let is_float = |choice| matches!(choice, FormatChoice::All(format) if format.is_float());
    match (dtype, quantize) {
        (Some(text), _) => {
            let choice = parse("--dtype", text)?;
            if !is_float(choice) {
                return Err(Failure::input(format!(
                    "--dtype {text}: is a quantisation; use --quantize {text}"
                )));
            }
            Ok(choice)
        }
        (None, Some(text)) => {
            let choice = parse("--quantize", text)?;
            if is_float(choice) {
                return Err(Failure::input(format!(
                    "--quantize {text}: is a float type; use --dtype {text}"
                )));
            }
            Ok(choice)
        }
        (None, None) => Ok(FormatChoice::AsStored),
    }
}

/// Loads the weights and starts to serve.
pub(crate) fn start(
    opened: Opened,
    plan: &EnginePlan,
    demand: Demand,
    clock: MonotonicClock,
) -> Result<Box<dyn Backend>> {
    match opened {
        Opened::Engine(all) => start_engines(all, plan, demand, clock),
        Opened::Lockstep(options) => {
            let longest = u32::try_from(demand.tokens_per_sequence).unwrap_or(u32::MAX);
            let sequences = demand.sequences.unwrap_or(DEFAULT_SEQUENCES);
            let options = LockstepOptions {
                batch_size: plan.max_sequences.unwrap_or(sequences),
                // Some of these models claim this much cache up front.
                max_context: Some(plan.max_context.unwrap_or(longest)),
                ..*options
            };
            Ok(Box::new(LockstepBackend::start(options, clock)?))
        }
        Opened::Http(endpoint) => Ok(Box::new(endpoint.connect(clock)?.0)),
        Opened::Mock => start_mocks(&plan.mock.clone().unwrap_or_default(), clock),
    }
}

fn start_mocks(mock: &MockArg, clock: MonotonicClock) -> Result<Box<dyn Backend>> {
    let time = if mock.is_virtual {
        MockTime::Virtual
    } else {
        MockTime::Real(clock)
    };
    // Simulated time begins where the run's clock did, at 0 unless it is resumed.
    let one = || MockBackend::new(mock.config(), time).starting_at(clock.begun_ns());
    if mock.replicas == 1 {
        return Ok(Box::new(one()));
    }
    let boxed = || -> Box<dyn Replica> { Box::new(one()) };
    let replicas = (0..mock.replicas).map(|_| boxed()).collect();
    Replicas::new(replicas, "none".into())
        .map(|replicas| -> Box<dyn Backend> { Box::new(replicas) })
        .map_err(Failure::run)
}

/// An engine on each device, loaded one after the other, once it is known that all fit.
fn start_engines(
    all: Vec<OnDevice>,
    plan: &EnginePlan,
    demand: Demand,
    clock: MonotonicClock,
) -> Result<Box<dyn Backend>> {
    let count = u32::try_from(all.len()).unwrap_or(u32::MAX).max(1);
    // Requests are shared out evenly.
    let demand = Demand {
        sequences: demand.sequences.map(|n| n.div_ceil(count)),
        ..demand
    };
    let mut checked = Vec::new();
    for one in all {
        let locate = |failure| plan.devices.locate(one.named, failure);
        let options = engine_options(&one.checkpoint, plan, demand, &one.device).map_err(locate)?;
        check_memory(&one.checkpoint, &options, &one.device).map_err(locate)?;
        checked.push((one, options));
    }
    let name = checked
        .first()
        .and_then(|(one, _)| device::gpu_name(&one.device));
    let mut engines = Vec::new();
    for (one, options) in checked {
        let engine = EngineBackend::open(one.checkpoint, &options, clock);
        engines.push(engine.map_err(|e| plan.devices.locate(one.named, e.into()))?);
    }
    if count == 1
        && let Some(only) = engines.pop()
    {
        return Ok(Box::new(only));
    }
    let boxed = |engine: EngineBackend| -> Box<dyn Replica> { Box::new(engine) };
    let name = name.unwrap_or_else(|| "device".into());
    let device = format!("{count} × {name} ({})", plan.devices.name());
    let replicas = Replicas::new(engines.into_iter().map(boxed).collect(), device);
    Ok(Box::new(replicas.map_err(Failure::run)?))
}

fn engine_options(
    checkpoint: &Checkpoint,
    plan: &EnginePlan,
    demand: Demand,
    device: &Device,
) -> Result<EngineOptions> {
    let defaults = EngineOptions::default();
    let kv_dtype = match plan.kv_dtype.as_deref() {
        None => defaults.kv_dtype,
        Some(text) => [KvDtype::F32, KvDtype::F16, KvDtype::Bf16]
            .into_iter()
            .find(|dtype| dtype.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                Failure::input(format!(
                    "--kv-dtype {text}: keys and values are held as f32, f16 or bf16"
                ))
            })?,
    };
    let block_size = plan.block_size.unwrap_or(defaults.block_size);
    let sequences = demand.sequences.unwrap_or(defaults.max_sequences);
    let max_sequences = plan.max_sequences.unwrap_or(sequences);
    let max_context = u64::from(plan.max_context.unwrap_or(u32::MAX));
    let token_bytes = checkpoint.config.shape.kv_values_per_token() * kv_dtype.bytes();
    let block = u64::from(block_size.max(1));
    // What the highest concurrency needs if all requests were the longest, in whole blocks; no
    // more, since memory that is claimed must be there, and where lengths spread widely not
    // more than three quarters of what the weights leave. One block more per sequence, since the scheduler admits a
    // sequence only if each running one could still grow by a block.
    let context = demand.tokens_per_sequence.min(max_context);
    let blocks = u64::from(max_sequences) * (context.div_ceil(block) + 1);
    let wanted = blocks * block * token_bytes;
    let one = (context.div_ceil(block) + 1) * block * token_bytes;
    let weights = ModelInfo::of(checkpoint, kv_dtype.bytes())?.weight_bytes;
    let left =
        device::available_bytes(device).map_or(u64::MAX, |bytes| bytes.saturating_sub(weights));
    let needed = wanted.min((left / 4 * 3).max(one));
    Ok(EngineOptions {
        kv_budget_bytes: Some(plan.kv_budget_bytes.unwrap_or(needed)),
        kv_dtype,
        block_size,
        max_batched_tokens: plan.max_batched_tokens.unwrap_or_else(|| {
            let fitting = match device.is_cpu() {
                true => defaults.max_batched_tokens,
                false => GPU_BATCHED_TOKENS,
            };
            fitting.max(max_sequences)
        }),
        max_sequences,
        max_context: plan.max_context,
        prefix_cache: plan.prefix_cache,
        ..defaults
    })
}

/// Tokens a GPU's products need at once to be bound by arithmetic, and to spare.
const GPU_BATCHED_TOKENS: u32 = 4096;

/// Loading what cannot fit would end in the system killing the process, or in the middle of
/// loading.
fn check_memory(checkpoint: &Checkpoint, options: &EngineOptions, device: &Device) -> Result<()> {
    let info = ModelInfo::of(checkpoint, options.kv_dtype.bytes())?;
    let needed = Needed {
        model: &info.name,
        weight_bytes: info.weight_bytes,
        kv_bytes: options.kv_budget_bytes.unwrap_or(0),
    };
    match device::available_bytes(device) {
        Some(available) => needed
            .check(available, device::gpu_memory_bytes(device))
            .map_err(Failure::input),
        None => Ok(()),
    }
}

/// What a model will claim.
struct Needed<'a> {
    model: &'a str,
    weight_bytes: u64,
    kv_bytes: u64,
}

impl Needed<'_> {
    /// Against what is `available`, of a GPU's `gpu_bytes` where it runs on one.
    fn check(&self, available: u64, gpu_bytes: Option<u64>) -> Result<(), String> {
        if self.weight_bytes.saturating_add(self.kv_bytes) <= available {
            return Ok(());
        }
        let (place, held) = match gpu_bytes {
            None => ("", String::new()),
            // Contexts of the driver alone take some hundred MiB.
            Some(total) if available < total / 10 * 9 => (
                " on the GPU",
                format!(
                    "; other programs hold {} of its {} (nvidia-smi shows which)",
                    human_bytes(total - available),
                    human_bytes(total)
                ),
            ),
            Some(_) => (" on the GPU", String::new()),
        };
        Err(format!(
            "{} needs {} for weights and {} for keys and values, but {} are available{place}{held}: \
             use a smaller --model, --quantize q4_k, a smaller --kv-budget, or lower \
             --concurrency, --input-len or --output-len",
            self.model,
            human_bytes(self.weight_bytes),
            human_bytes(self.kv_bytes),
            human_bytes(available)
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;
    use costmark_core::{Event, Request, Sampling};

    use super::*;
    use crate::args::{Cli, Command};
    use crate::plan::Plan;

    const TINY: &str = r#"{
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 256,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "attention_bias": false, "torch_dtype": "bfloat16",
        "eos_token_id": 255
    }"#;

    /// The way of several GPUs, with the CPU in their place.
    #[test]
    fn an_engine_on_each_device_serves_from_one_queue() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), TINY).unwrap();
        let model = folder.path().to_str().unwrap();
        let typed = [
            "costmark",
            "run",
            "--weights",
            "synthetic",
            "--dtype",
            "f32",
        ];
        let typed = [&typed[..], &["--model", model]].concat();
        let Some(Command::Run(args)) = Cli::parse_from(typed).command else {
            panic!("not a run");
        };
        let mut plan = Plan::resolve(&args, 1).unwrap();
        plan.engine.devices = DevicesPlan::cpus(3);
        let opened = open(&plan.models[0], &plan.engine, Progress::new(true)).unwrap();
        assert_eq!(opened.shape().map(|s| s.vocab_size), Some(256));
        let demand = Demand {
            // Two for each.
            sequences: Some(5),
            tokens_per_sequence: 32,
        };
        let clock = MonotonicClock::start();
        let mut backend = start(opened, &plan.engine, demand, clock).unwrap();
        let info = backend.info();
        assert_eq!((info.replicas, info.max_sequences), (3, 6));
        assert!(info.device.starts_with("3 × "), "{}", info.device);
        // Each holds what two of the longest need and the scheduler's spare blocks.
        assert_eq!(info.kv_capacity_tokens, 3 * 2 * (32 + 16));
        for id in 0..9 {
            let request = Request {
                id,
                prompt: vec![id as u32 + 1; 5],
                max_tokens: 4,
                ignore_eos: true,
                sampling: Sampling::Greedy,
                logprobs: None,
            };
            backend.submit(request).unwrap();
        }
        let (mut events, mut replicas, mut ended) = (Vec::new(), BTreeSet::new(), 0);
        while ended < 9 {
            backend.poll(None, &mut events).unwrap();
            for event in events.drain(..) {
                match event {
                    Event::Step(step) => _ = replicas.insert(step.replica),
                    Event::Finished { usage, .. } => {
                        assert_eq!(usage.output_tokens, 4);
                        ended += 1;
                    }
                    Event::Failed { error, .. } => panic!("{error}"),
                    _ => {}
                }
            }
        }
        assert_eq!(replicas, BTreeSet::from([0, 1, 2]));
    }

    #[test]
    fn replicas_are_of_one_kind() {
        assert_eq!(alike("NVIDIA H200", "NVIDIA H200"), Ok(()));
        let other = alike("NVIDIA H200", "NVIDIA L4").unwrap_err();
        assert!(other.contains("is an NVIDIA L4"), "{other}");
    }

    #[test]
    fn a_gpu_that_is_too_full_says_who_fills_it() {
        let needed = Needed {
            model: "llama",
            weight_bytes: 16 << 30,
            kv_bytes: 4 << 30,
        };
        assert_eq!(needed.check(20 << 30, Some(24 << 30)), Ok(()));
        let small = needed.check(15 << 30, Some(16 << 30)).unwrap_err();
        assert!(
            small.contains("15.0 GiB are available on the GPU:"),
            "{small}"
        );
        let busy = needed.check(10 << 30, Some(80 << 30)).unwrap_err();
        assert!(
            busy.contains("other programs hold 70.0 GiB of its 80.0 GiB"),
            "{busy}"
        );
        let cpu = needed.check(10 << 30, None).unwrap_err();
        assert!(cpu.contains("10.0 GiB are available: use"), "{cpu}");
    }
}
