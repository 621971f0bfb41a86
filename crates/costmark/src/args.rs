//! What can be typed. No meaning is given to it here: [`crate::plan`] does that.

// Comments on arguments are help texts, word for word, not Markdown.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

mod devices;
mod endpoint;
mod load;
mod mock;
mod run;
mod workload;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use costmark_engine::DeviceChoice;

pub(crate) use devices::DevicesArg;
pub(crate) use endpoint::{ApiArg, EndpointArgs};
pub(crate) use load::{LoadArgs, WarmupArg};
pub(crate) use mock::MockArg;
pub(crate) use run::RunArgs;
pub(crate) use workload::{LengthArg, TraceWindow, WorkloadArgs, trace_window, turns};

use crate::trace_info::TraceInfoArgs;
use crate::units::{self, Bytes};
use crate::workloads::WorkloadsArgs;

/// What does a million tokens cost on this hardware, and what margin is left?
///
/// costmark loads an open-weight model, puts load on it, measures tokens per second,
/// latency and memory-bandwidth use, and turns that into dollars per million tokens.
///
/// Without a command it runs the default measurement (`costmark run`): the Qwen3-0.6B shape
/// with random Q8_0 weights at 1, 4 and 16 concurrent requests, some minutes.
#[derive(Debug, Parser)]
#[command(name = "costmark", version = crate::build_info::LONG_VERSION, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 the measurement failed, 2 the input was wrong.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure a model under load and price its tokens
    ///
    /// Decoding one token reads every weight once, whatever the number of requests that share
    /// the step: it is bound by memory bandwidth, and more concurrent requests make each token
    /// cheaper until arithmetic or KV reads become the limit. Prompts are bound by arithmetic.
    /// So costmark measures several concurrencies, splits the cost by measured phase time, and
    /// says what share of the machine's measured bandwidth was used (MBU). Tails need samples: a
    /// p90 is printed from 64 on, a p99 from 662.
    Run(Box<RunArgs>),
    /// Say what this machine is and measure its memory bandwidth and arithmetic
    Probe(ProbeArgs),
    /// Facts about a model, without running it
    #[command(subcommand)]
    Model(ModelCommand),
    /// Workloads that can be asked for by name, and where their lengths come from
    Workloads(WorkloadsArgs),
    /// Recorded loads
    #[command(subcommand)]
    Trace(TraceCommand),
    /// Set runs side by side: ratios with intervals, verdicts, and bars for CI
    ///
    /// Levels are matched by their name. A figure is called better or worse only where the 95 %
    /// interval of its ratio, from the repeats of both runs, does not hold 1. Runs with another
    /// model, workload, SLO or warm-up are marked and get no verdict.
    Compare(crate::compare::CompareArgs),
    /// Write runs as one page: charts, tables, and sliders that price them anew
    ///
    /// The page needs no network and no other file. It shows cost and margin against load,
    /// latency against throughput, percentiles, where the time went, steps under the roofline, and
    /// the run over time; with several runs, which machine is cheaper, by how much, and how sure
    /// that is.
    Report(crate::report::ReportArgs),
    /// Continue a prompt: the quickest proof that a checkpoint is read right
    Generate(Box<GenerateArgs>),
    /// Put the engine behind the OpenAI protocol: a target to measure and a demonstration
    ///
    /// Serves /v1/completions, /v1/chat/completions (where the model has a chat template),
    /// /v1/models, /health and /metrics on this machine only, unless --listen says otherwise.
    /// One model, no users, no keys, no logprobs: to measure clients with, and to look at a
    /// model; not a product.
    Serve(Box<crate::serve::ServeArgs>),
    /// What a measured run costs at any price of time: rented, reserved, spot, owned
    Price(Box<crate::money::price::PriceRunArgs>),
    /// Gross margin of a measured run at a list price, and what must change; scenarios
    ///
    /// Margin is 1 − cost of sales over revenue. Markup, profit over cost, is printed beside it:
    /// a markup of 545 % is a margin of 84.5 %. Every figure carries the run's interval.
    Margin(Box<crate::money::margin::MarginArgs>),
    /// Recompute published claims on margins and costs
    ///
    /// A claim reproduces if what was published follows from other published figures within
    /// their rounding. Identities and what-ifs are computed but confirm nothing.
    Claims(Box<crate::money::claims::ClaimsArgs>),
    /// One cost table over machines: at best, at the SLO, per dollar, per watt, which are not beaten
    Rank(crate::money::rank::RankArgs),
    /// Compute every figure of a run again from its raw lines, and say whether run.json has them
    ///
    /// Prints the table of what the raw lines give, at the price of the run (`costmark price` puts
    /// another). Exit code 1 when a figure in run.json differs: it was changed by hand, or made
    /// by a version that computed it differently.
    Recompute(crate::recompute::RecomputeArgs),
    /// Print the JSON Schemas of result files and plan files
    ///
    /// Without a name all of them, in one object. Unknown keys are not valid. What the keys mean
    /// is in docs/FORMAT.md and in the descriptions of the schemas.
    Schema(crate::schema::SchemaArgs),
    /// What the price books hold; check them, import catalogues
    #[command(subcommand)]
    Prices(crate::money::prices::PricesCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Counts, lengths and burstiness of a trace, before it is replayed with run --trace
    Info(TraceInfoArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Shape, parameters, bytes per token, and how many sequences fit into memory
    Info(InfoArgs),
}

/// Which backend serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendArg {
    /// costmark's engine: continuous batching over a paged KV cache
    Engine,
    /// candle-transformers models as they come, one static batch at a time
    Lockstep,
    /// No model: stated latencies, to prove a load or to rehearse a sweep
    Mock,
}

/// Which weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WeightsArg {
    /// The checkpoint's own.
    Real,
    /// Random numbers of the right shape.
    Synthetic {
        /// Seed of the numbers.
        seed: u64,
    },
}

/// Where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceArg {
    /// The processor.
    Cpu,
    /// The n-th CUDA device.
    Cuda(usize),
}

impl From<DeviceArg> for DeviceChoice {
    fn from(device: DeviceArg) -> Self {
        match device {
            DeviceArg::Cpu => Self::Cpu,
            DeviceArg::Cuda(n) => Self::Cuda(n),
        }
    }
}

/// The model and how it is held in memory.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A folder with config.json and safetensors, a .gguf file, a hub id (owner/name[@revision]),
    /// or a built-in shape such as qwen3-0.6b
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Where weights come from: `real`, or `synthetic[:seed]` for random numbers of the model's
    /// shape (speed does not depend on their values, so no download is needed)
    /// [default: real with --model, synthetic without]
    #[arg(long, value_name = "KIND", value_parser = units::weights)]
    pub(crate) weights: Option<WeightsArg>,
    /// Hold weights as this float type: f32, f16 or bf16 [default: what is fastest exact here]
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype: Option<String>,
    /// Quantise weights while loading: q8_0, q4_0, q4_k, q5_k, q6_k, … Decode reads every weight
    /// once per step, so halving their bytes nearly halves its time
    #[arg(long, value_name = "TYPE", conflicts_with = "dtype")]
    pub(crate) quantize: Option<String>,
}

/// How the model is run.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineArgs {
    /// Where to run: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_parser = units::device)]
    pub(crate) device: DeviceArg,
    /// What serves
    #[arg(long, value_enum, default_value = "engine")]
    pub(crate) backend: BackendArg,
    /// Threads to compute with [default: the cores this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) threads: Option<u32>,
    /// Memory for keys and values, e.g. 2GiB [default: what the highest concurrency needs].
    /// When it runs out, requests wait or are preempted
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub(crate) kv_budget: Option<Bytes>,
    /// How keys and values are held: f32, f16 or bf16
    #[arg(long, value_name = "TYPE")]
    pub(crate) kv_dtype: Option<String>,
    /// Tokens per KV block
    #[arg(long, value_name = "TOKENS")]
    pub(crate) block_size: Option<u32>,
    /// Most tokens run in one step. Smaller: prompts are cut into chunks, and decoding waits less
    /// for them (lower ITL); larger: prompts finish sooner (lower TTFT)
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_batched_tokens: Option<u32>,
    /// Most sequences run in one step
    #[arg(long, value_name = "N")]
    pub(crate) max_sequences: Option<u32>,
    /// Longest prompt plus output one request may have [default: the model's context]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_context: Option<u32>,
    /// Do not reuse KV blocks of prompts that begin alike
    #[arg(long)]
    pub(crate) no_prefix_cache: bool,
}

/// How tokens are chosen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Draw tokens at this temperature [default: greedy, the likeliest token]
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Draw from the smallest set of tokens with this much probability
    #[arg(long, value_name = "P", requires = "temperature")]
    pub(crate) top_p: Option<f32>,
    /// Draw from this many likeliest tokens
    #[arg(long, value_name = "K", requires = "temperature")]
    pub(crate) top_k: Option<u32>,
}

/// What an hour of the machine costs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Price")]
pub(crate) struct PriceArgs {
    /// Price by a dated entry of the price book, e.g. aws/p5.4xlarge or
    /// aws/p5.4xlarge@us-east-1:spot
    #[arg(long, value_name = "PROVIDER/TYPE", conflicts_with = "price")]
    pub(crate) instance: Option<String>,
    /// Price of the whole machine, USD per hour [default: per vCPU of a stated instance family]
    #[arg(long, value_name = "USD", allow_negative_numbers = true)]
    pub(crate) price: Option<f64>,
    /// Share of the paid time the machine runs at the measured load, over 0 and up to 1
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    pub(crate) utilization: f64,
    /// Read these price books too; their entries come before the built-in ones
    #[arg(long, value_name = "FILE", alias = "price-book")]
    pub(crate) prices: Vec<PathBuf>,
}

/// What is measured of the machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProbeArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Threads to measure with [default: the cores this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) threads: Option<u32>,
}

/// What is computed of the model.
#[derive(Debug, Clone, Args)]
pub(crate) struct InfoArgs {
    /// A folder, a .gguf file, a hub id, or a built-in shape such as llama-3.1-8b
    pub(crate) model: String,
    /// Count weights as if held in this float type
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype: Option<String>,
    /// Count weights as if quantised to this type
    #[arg(long, value_name = "TYPE", conflicts_with = "dtype")]
    pub(crate) quantize: Option<String>,
    /// Tokens of context per sequence
    #[arg(long, value_name = "TOKENS", default_value_t = 4096)]
    pub(crate) context: u32,
    /// Memory to fit weights and sequences into, e.g. 80GiB [default: this machine's]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub(crate) memory: Option<Bytes>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// One prompt, continued.
#[derive(Debug, Clone, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Text to continue (needs the model's tokenizer)
    #[arg(long, value_name = "TEXT", required_unless_present = "prompt_ids")]
    #[arg(help_heading = "Prompt")]
    pub(crate) prompt: Option<String>,
    /// Token ids to continue, e.g. 1,2,3
    #[arg(
        long,
        value_name = "ID,ID,…",
        value_delimiter = ',',
        conflicts_with = "prompt"
    )]
    pub(crate) prompt_ids: Option<Vec<u32>>,
    /// Tokens to produce
    #[arg(long, value_name = "N", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..), help_heading = "Prompt")]
    pub(crate) max_tokens: u32,
    /// Go on past end-of-sequence tokens
    #[arg(long, help_heading = "Prompt")]
    pub(crate) ignore_eos: bool,
    /// Seed of the draw
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Print JSON: prompt ids, output ids, text, timings
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// No progress on stderr
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,
}
