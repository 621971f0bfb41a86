//! The arguments of `costmark run`.

use std::path::PathBuf;

use clap::Args;

use super::{
    DevicesArg, EndpointArgs, EngineArgs, LoadArgs, MockArg, ModelArgs, PriceArgs, SamplingArgs,
    WorkloadArgs,
};

/// The measurement.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Take what is not typed from this file: TOML whose keys are the flags below, with _ for -.
    /// Lists make axes: model, dtype, quantize, concurrency or rate, workload; each combination
    /// is a level. What the file says cannot be typed again. See configs/plans
    #[arg(long, value_name = "FILE", help_heading = "Plan")]
    pub(crate) plan: Option<PathBuf>,
    /// The models of a plan file that names several, in the order they are loaded.
    #[arg(skip)]
    pub(crate) models: Vec<ModelArgs>,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) endpoint: EndpointArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) price: PriceArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,

    /// Several GPUs, e.g. 0-7 or 0,2,5: each holds the whole model, and all serve from one queue.
    /// --kv-budget, --max-sequences and --max-batched-tokens are of each
    #[arg(
        long,
        value_name = "LIST",
        conflicts_with = "device",
        help_heading = "Engine"
    )]
    pub(crate) devices: Option<DevicesArg>,
    /// How the mock behaves, with --backend mock: e.g.
    /// ttft=50ms,itl=10ms,max-sequences=16,virtual. `virtual` lets time jump from event to
    /// event; replicas=N serves from one queue on N mocks of max-sequences each
    #[arg(long, value_name = "KEY=VALUE,…", help_heading = "Engine")]
    pub(crate) mock: Option<MockArg>,

    /// Share of requests that may fail before the run counts as failed, 0 to 1
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.0,
        help_heading = "Load"
    )]
    pub(crate) max_errors: f64,

    /// Folder for the raw records and results; must be new or empty
    /// [default: runs/<time>-<model>-<device>]
    #[arg(short, long, value_name = "DIR", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Go on with a run that ended early (a crash, Ctrl-C, a kill) in this folder, at the first
    /// unit it did not finish. Takes the recorded command; refused when its plan, the machine
    /// or this program has changed
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    #[arg(conflicts_with = "output")]
    pub(crate) resume: Option<PathBuf>,
    /// Fail (exit code 1) when throughput varies by more than 20 % between the repeats of a
    /// level; 10 % is always told
    #[arg(long, help_heading = "Output")]
    pub(crate) strict: bool,
    /// Print the whole result as JSON instead of the table
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// No progress on stderr
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,
}
