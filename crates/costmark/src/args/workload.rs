//! What is asked for: the flags of `costmark run` under "Workload".

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use costmark_load::{LengthDistribution, ThinkTime, TraceFormat};

use crate::units;

/// A length, or the file lengths come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LengthArg {
    /// Drawn.
    Drawn(LengthDistribution),
    /// As observed.
    File(PathBuf),
}

impl FromStr for LengthArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().strip_prefix("file:") {
            Some("") => Err("`file:` needs the name of a file after it".into()),
            Some(path) => Ok(Self::File(path.into())),
            None => text
                .parse()
                .map(Self::Drawn)
                .map_err(|e| format!("{e}; or file:PATH for lengths as observed")),
        }
    }
}

/// A stretch of a trace, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TraceWindow {
    pub(crate) from_s: f64,
    pub(crate) to_s: Option<f64>,
}

/// What is asked for. `None` where nothing was said.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Workload")]
pub(crate) struct WorkloadArgs {
    /// What is asked: chat, conversation, code-completion, summarisation, rag, agent-loop,
    /// batch (see `costmark workloads`) or a .toml file like theirs; several make one level each. The
    /// other flags change what it says [default: the lengths below]
    #[arg(long, value_name = "NAME|FILE,…", value_delimiter = ',')]
    pub(crate) workload: Option<Vec<String>>,
    /// Prompt tokens: 128, 64..256 (uniform), normal:128,32, lognormal:128,96 (mean, standard
    /// deviation), quantiles:0=2,50=1020,100=9000, or file:PATH with a length on each line
    /// [default: 32]
    #[arg(long, value_name = "LENGTH")]
    pub(crate) input_len: Option<LengthArg>,
    /// Output tokens, written as for --input-len. With the same file of `input,output` lines
    /// for both, pairs stay together [default: 16]
    #[arg(long, value_name = "LENGTH")]
    pub(crate) output_len: Option<LengthArg>,
    /// Correlation of input and output lengths, from -1 to 1 [default: 0]
    #[arg(long, value_name = "RHO", allow_negative_numbers = true)]
    pub(crate) length_correlation: Option<f64>,
    /// Tokens that all prompts begin with, a system prompt: computed once where there is a
    /// prefix cache. They count towards the input length [default: 0]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) shared_prefix: Option<u32>,
    /// Turns of a conversation: 4, 2..8, … With --concurrency each slot is a user; the prompt of
    /// a turn is the prompt before it, the output that came, and --input-len new tokens less the
    /// shared ones, so that a prefix cache finds all but these [default: 1]
    #[arg(long, value_name = "LENGTH", value_parser = turns)]
    pub(crate) turns: Option<LengthDistribution>,
    /// How long users think before they go on: 2s, 1s..5s or exp:2s [default: not at all]
    #[arg(long, value_name = "TIME")]
    pub(crate) think_time: Option<ThinkTime>,
    /// Replay a recorded trace: its lengths, its shared prompt blocks where it has them, and
    /// its times unless --rate, --concurrency or --max-throughput says otherwise
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["workload", "input_len", "output_len", "length_correlation",
                              "shared_prefix", "turns", "think_time"]
    )]
    pub(crate) trace: Option<PathBuf>,
    /// How the trace is written: azure, mooncake, burstgpt or plain [default: seen in its
    /// first line]
    #[arg(long, value_name = "FORMAT", requires = "trace", value_parser = trace_format)]
    pub(crate) trace_format: Option<TraceFormat>,
    /// Play the trace so many times faster than it was recorded [default: 1]
    #[arg(long, value_name = "X", requires = "trace", value_parser = units::rate)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) time_scale: Option<f64>,
    /// The stretch of the trace to replay, as recorded, e.g. 10m..20m or 90s..
    #[arg(long, value_name = "FROM..TO", requires = "trace", value_parser = trace_window)]
    pub(crate) trace_window: Option<TraceWindow>,
    /// Stop at the model's end-of-sequence token instead of producing the exact length
    #[arg(long)]
    pub(crate) stop_at_eos: bool,
}

/// `4`, `2..8`: a number of turns.
pub(crate) fn turns(text: &str) -> Result<LengthDistribution, String> {
    let turns: LengthDistribution = text
        .parse()
        .map_err(|_| "expected a number of turns such as 4, or a range such as 2..8".to_string())?;
    match turns.longest() {
        0..=MAX_TURNS => Ok(turns),
        n => Err(format!(
            "a conversation of {n} turns is too long; at most {MAX_TURNS}"
        )),
    }
}

/// Most turns of a conversation.
const MAX_TURNS: u32 = 10_000;

/// `azure`, `mooncake`, `burstgpt`, `plain`.
pub(crate) fn trace_format(text: &str) -> Result<TraceFormat, String> {
    match text {
        "azure" => Ok(TraceFormat::Azure),
        "mooncake" => Ok(TraceFormat::Mooncake),
        "burstgpt" => Ok(TraceFormat::BurstGpt),
        "plain" => Ok(TraceFormat::Plain),
        _ => Err("expected azure, mooncake, burstgpt or plain".into()),
    }
}

/// `10m..20m`, `90s..`, `..5m`.
pub(crate) fn trace_window(text: &str) -> Result<TraceWindow, String> {
    let expected = "expected a stretch such as 10m..20m, 90s.. or ..5m, with units";
    let (from, to) = text.split_once("..").ok_or(expected)?;
    let seconds = |text: &str| match text.trim() {
        "0" => Ok(0.0),
        text => units::duration(text)
            .map(|time| time.as_secs_f64())
            .map_err(|_| expected.to_string()),
    };
    let window = TraceWindow {
        from_s: if from.trim().is_empty() {
            0.0
        } else {
            seconds(from)?
        },
        to_s: if to.trim().is_empty() {
            None
        } else {
            Some(seconds(to)?)
        },
    };
    match window.to_s {
        Some(to_s) if to_s <= window.from_s => {
            Err(format!("{text} ends before it begins; {expected}"))
        }
        _ => Ok(window),
    }
}
