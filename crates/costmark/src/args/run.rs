//! The arguments of `costmark run`.

use std::path::PathBuf;

use clap::Args;
use costmark_load::LengthDistribution;

use super::{EngineArgs, ModelArgs, PriceArgs, SamplingArgs};
use crate::units;

/// The measurement.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) price: PriceArgs,

    /// Requests kept in flight; one level of the result each
    #[arg(
        long,
        value_name = "N,N,…",
        value_delimiter = ',',
        default_value = "1,4,16"
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536), help_heading = "Load")]
    pub(crate) concurrency: Vec<u32>,
    /// Measure this many requests per level and repeat
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "duration",
        help_heading = "Load"
    )]
    pub(crate) requests: Option<u64>,
    /// Measure for this long per level and repeat, e.g. 30s or 2m
    #[arg(long, value_name = "TIME", value_parser = units::duration, help_heading = "Load")]
    pub(crate) duration: Option<std::time::Duration>,
    /// Prompt tokens: 128, 64..256 (uniform) or normal:128,32
    #[arg(long, value_name = "LENGTH", default_value = crate::plan::DEFAULT_INPUT_LEN)]
    #[arg(help_heading = "Load")]
    pub(crate) input_len: LengthDistribution,
    /// Output tokens, written as for --input-len
    #[arg(long, value_name = "LENGTH", default_value = crate::plan::DEFAULT_OUTPUT_LEN)]
    #[arg(help_heading = "Load")]
    pub(crate) output_len: LengthDistribution,
    /// Times each level is measured. Intervals need two, and three tell luck from speed
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Load")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeats: u32,
    /// Seed of prompts, lengths and sampling: the same seed asks for the same tokens
    #[arg(long, value_name = "SEED", default_value_t = 0, help_heading = "Load")]
    pub(crate) seed: u64,
    /// Most warm-up requests per concurrent request; fewer when step times settle before.
    /// 0: measure from the first request on
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Load")]
    pub(crate) warmup: u32,
    /// Stop at the model's end-of-sequence token instead of producing the exact length
    #[arg(long, help_heading = "Load")]
    pub(crate) stop_at_eos: bool,
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
    /// Print the whole result as JSON instead of the table
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// No progress on stderr
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,
}
