//! What serves: the model, how it is held and run, how tokens are chosen.

use costmark_core::{BackendKind, Sampling};
use costmark_engine::device;
use costmark_report::document::ModelDocument;

use crate::args::{
    BackendArg, DeviceArg, DevicesArg, EngineArgs, MockArg, ModelArgs, RunArgs, SamplingArgs,
    WeightsArg,
};
use crate::endpoint::EndpointPlan;
use crate::failure::{Failure, Result};

/// The shape that is measured when none is named: small enough for any machine.
const DEFAULT_MODEL: &str = "qwen3-0.6b";
/// How its random weights are held.
const DEFAULT_QUANTIZE: &str = "q8_0";

/// What stands for a model where there is none.
const MOCK: &str = "mock";

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
        if backend == BackendKind::Mock {
            return Self {
                model: MOCK.into(),
                weights: WeightsArg::Synthetic { seed: 0 },
                dtype: None,
                quantize: None,
            };
        }
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

    /// What a server says it serves.
    pub(crate) fn of_endpoint(endpoint: &EndpointPlan) -> Self {
        Self {
            model: endpoint.model_name(),
            weights: WeightsArg::Real,
            dtype: None,
            quantize: None,
        }
    }

    /// Its name in the plan: the last part of the model's, and how weights are held if that
    /// was said.
    pub(crate) fn id(&self) -> String {
        let format = self.quantize.as_ref().or(self.dtype.as_ref());
        match format {
            Some(format) => format!("{}-{format}", self.short_name()),
            None => self.short_name(),
        }
    }

    /// The last part of the model's name, of characters that are safe in file names.
    pub(crate) fn short_name(&self) -> String {
        let model = self.model.trim_end_matches('/');
        let last = model.rsplit('/').next().unwrap_or(model);
        let safe: String = last
            .chars()
            .map(|c| match c {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' => c,
                _ => '-',
            })
            .collect();
        safe.trim_start_matches('.').to_string()
    }

    /// As it goes into the result.
    pub(crate) fn document(&self) -> ModelDocument {
        ModelDocument {
            id: self.id(),
            model: self.model.clone(),
            weights: match self.weights {
                WeightsArg::Real => "real".into(),
                WeightsArg::Synthetic { seed } => format!("synthetic:{seed}"),
            },
            dtype: self.dtype.clone(),
            quantize: self.quantize.clone(),
        }
    }
}

/// The models that are measured one after the other.
pub(super) fn models(args: &RunArgs, engine: &EnginePlan) -> Result<Vec<ModelPlan>> {
    let several = || args.models.iter();
    let all: Vec<ModelPlan> = match (&engine.endpoint, args.models.is_empty()) {
        (Some(endpoint), true) => vec![ModelPlan::of_endpoint(endpoint)],
        (Some(_), false) => {
            return Err(Failure::input(
                "--model: a server is measured with one of its models at a time; name one",
            ));
        }
        (None, true) => vec![ModelPlan::resolve(&args.model, engine.backend)],
        (None, false) => several()
            .map(|model| ModelPlan::resolve(model, engine.backend))
            .collect(),
    };
    for (i, model) in all.iter().enumerate() {
        let id = model.id();
        if let Some(other) = all[..i].iter().find(|other| other.id() == id) {
            return Err(Failure::input(format!(
                "--model: {} and {} would both be called {id} in the result; measure one of them \
                 in a run of its own",
                other.model, model.model
            )));
        }
    }
    Ok(all)
}

/// Where it runs: a replica on each of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DevicesPlan {
    /// At least one.
    all: Vec<DeviceArg>,
    /// As it goes into the result: `cpu`, `cuda:1`, `cuda:0-7`.
    name: String,
}

impl DevicesPlan {
    fn one(device: DeviceArg) -> Self {
        Self {
            name: match device {
                DeviceArg::Cpu => "cpu".into(),
                DeviceArg::Cuda(n) => format!("cuda:{n}"),
            },
            all: vec![device],
        }
    }

    fn several(devices: &DevicesArg) -> Self {
        Self {
            name: format!("cuda:{devices}"),
            all: devices
                .numbers()
                .iter()
                .copied()
                .map(DeviceArg::Cuda)
                .collect(),
        }
    }

    /// So many times the CPU, to test what GPUs would do.
    #[cfg(test)]
    pub(crate) fn cpus(n: usize) -> Self {
        Self {
            all: vec![DeviceArg::Cpu; n],
            name: format!("cpu × {n}"),
        }
    }

    pub(crate) fn all(&self) -> &[DeviceArg] {
        &self.all
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The flag that names them, for messages.
    fn flag(&self) -> String {
        match &self.all[..] {
            [_] => format!("--device {}", self.name),
            _ => format!("--devices {}", self.name.trim_start_matches("cuda:")),
        }
    }

    /// What is wrong with one of them: of several it is said which one, under the flag that names
    /// them.
    pub(crate) fn locate(&self, device: DeviceArg, failure: Failure) -> Failure {
        let (DeviceArg::Cuda(n), true) = (device, self.all.len() > 1) else {
            return failure;
        };
        let message = failure.message();
        let known = format!("--device cuda:{n}: ");
        let message = message.strip_prefix(&known).unwrap_or(&message);
        let message = format!("{}: cuda:{n}: {message}", self.flag());
        match failure {
            Failure::Input(_) => Failure::input(message),
            Failure::Run(_) => Failure::run(message),
        }
    }
}

/// How it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnginePlan {
    pub(crate) devices: DevicesPlan,
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
    /// How the mock behaves, where that is what serves.
    pub(crate) mock: Option<MockArg>,
    /// The server that is driven, where there is one.
    pub(crate) endpoint: Option<EndpointPlan>,
}

impl EnginePlan {
    /// `devices` are several GPUs in the place of the one device, `usable_cores` what this process
    /// may use.
    pub(crate) fn resolve(
        args: &EngineArgs,
        devices: Option<&DevicesArg>,
        usable_cores: u32,
    ) -> Result<Self> {
        let devices = devices.map_or_else(|| DevicesPlan::one(args.device), DevicesPlan::several);
        let backend = match args.backend {
            BackendArg::Engine => BackendKind::Engine,
            BackendArg::Lockstep => BackendKind::Lockstep,
            BackendArg::Mock => BackendKind::Mock,
        };
        if devices.all() != [DeviceArg::Cpu] && backend != BackendKind::Engine {
            return Err(Failure::input(format!(
                "{}: only the engine runs on GPUs; leave --backend out, or use --device cpu",
                devices.flag()
            )));
        }
        for &one in devices.all() {
            // Told before anything is downloaded.
            device::check(one.into()).map_err(|error| devices.locate(one, error.into()))?;
        }
        if backend != BackendKind::Engine {
            refuse_engine_flags(args)?;
        }
        Ok(Self {
            devices,
            backend,
            threads: args.threads.unwrap_or(usable_cores).max(1),
            kv_budget_bytes: args.kv_budget.map(|bytes| bytes.0),
            kv_dtype: args.kv_dtype.clone(),
            block_size: args.block_size,
            max_batched_tokens: args.max_batched_tokens,
            max_sequences: args.max_sequences,
            max_context: args.max_context,
            prefix_cache: !args.no_prefix_cache && backend == BackendKind::Engine,
            mock: None,
            endpoint: None,
        })
    }
}

/// `--mock`, which needs `--backend mock`; that in turn has no model.
pub(crate) fn mock(args: &RunArgs, backend: BackendKind) -> Result<Option<MockArg>> {
    match (backend, &args.mock) {
        (BackendKind::Mock, mock) => {
            let given = [
                ("--model", args.model.model.is_some()),
                ("--weights", args.model.weights.is_some()),
                ("--dtype", args.model.dtype.is_some()),
                ("--quantize", args.model.quantize.is_some()),
                ("--max-sequences", args.engine.max_sequences.is_some()),
                ("--max-context", args.engine.max_context.is_some()),
            ];
            match given.iter().find(|(_, given)| *given) {
                Some((flag, _)) => Err(Failure::input(format!(
                    "{flag}: the mock has no model; leave it out, and say with --mock how it \
                     behaves"
                ))),
                None => Ok(Some(mock.clone().unwrap_or_default())),
            }
        }
        (_, None) => Ok(None),
        (_, Some(_)) => Err(Failure::input(
            "--mock says how the mock behaves; add --backend mock",
        )),
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
    // Logits are multiplied by its reciprocal.
    if !(temperature.is_finite() && temperature > 0.0 && temperature.recip().is_finite()) {
        return Err(Failure::input(format!(
            "--temperature {temperature:?}: must be above 0, and enough to divide by; leave the flag \
             out for greedy"
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
