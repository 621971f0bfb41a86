//! Which load is put on: the flags of `costmark run` under "Load".

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use costmark_load::ArrivalShape;
use costmark_metrics::Slo;

use crate::units;

/// How a unit begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WarmupArg {
    /// Until step times settle, at most so many requests per concurrent request; 0 for none.
    RequestsPerSlot(u32),
    /// For so long.
    For(Duration),
}

/// How requests come, and when a unit begins and ends. `None` where nothing was said, so
/// that a plan file's word counts.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// Closed loop: requests kept in flight; one level of the result each [default: 1,4,16]
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', group = "load")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) concurrency: Option<Vec<u32>>,
    /// Open loop: requests due per second, whatever became of earlier ones; one level each.
    /// Waiting in line then shows in latencies, as it does for users
    #[arg(long, value_name = "R,R,…", value_delimiter = ',', group = "load")]
    #[arg(value_parser = units::rate, allow_negative_numbers = true)]
    pub(crate) rate: Option<Vec<f64>>,
    /// How requests arrive at --rate: poisson, constant, gamma:B (burstier than poisson below
    /// 1), bursts:N (N at once) or ramp:TIME (from 0 up to the rate) [default: poisson]
    #[arg(long, value_name = "PROCESS")]
    pub(crate) arrivals: Option<ArrivalShape>,
    /// Send all requests at once: how fast can a batch be done?
    #[arg(long, group = "load")]
    pub(crate) max_throughput: bool,
    /// Most requests in flight of a load that is not a closed loop. Those due beyond it wait,
    /// never dropped, and are counted
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrency: Option<NonZeroU32>,
    /// Measure this many requests per level and repeat [default: in a closed loop two per request
    /// in flight, at least 22; otherwise 100]
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub(crate) requests: Option<u64>,
    /// Measure for this long per level and repeat, e.g. 30s or 2m; with --find-goodput at least this
    /// long at each rate [default there: 10s]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub(crate) duration: Option<Duration>,
    /// Times each level is measured. Intervals need two, and three tell luck from speed
    /// [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeats: Option<u32>,
    /// Seed of prompts, lengths, arrivals and sampling: the same seed asks for the same tokens
    /// at the same times [default: 0]
    #[arg(long, value_name = "SEED")]
    pub(crate) seed: Option<u64>,
    /// Most warm-up requests per concurrent request, fewer when step times settle before; or a
    /// time such as 30s, which is better close to an open loop's capacity, where queues settle
    /// late. 0: measure from the first request on [default: 1]
    #[arg(long, value_name = "N|TIME", value_parser = units::warmup)]
    pub(crate) warmup: Option<WarmupArg>,
    /// Limits a request must meet, all of them, on the user's clock: ttft, itl (which 95 % of its
    /// gaps between tokens must keep), tpot (its mean gap) and e2e; @pN for the share of requests
    /// that must, e.g. ttft=2s,itl=100ms,e2e=30s@p95. The result says what share of requests and
    /// of output tokens did (goodput)
    #[arg(long, value_name = "LIMITS", value_parser = units::slo)]
    pub(crate) slo: Option<Slo>,
    /// Search the highest rate at which enough requests keep --slo and requests do not pile up,
    /// within 5 %. Each rate that is tried is a level of the result; which limit binds is said.
    /// Begins at --rate, or below what a batch of --requests reaches. Each rate is measured for 10 s
    /// (--duration) and for 200 requests (--requests) at least
    #[arg(long, requires = "slo", conflicts_with_all = ["concurrency", "max_throughput"])]
    pub(crate) find_goodput: bool,
}
