//! From the flags of a load to the loads of a plan.

use std::num::NonZeroU32;
use std::time::Duration;

use costmark_load::{ArrivalProcess, Stop};

use super::level::Load;
use super::workload::WorkloadPlan;
use crate::args::{LoadArgs, WarmupArg, WorkloadArgs};
use crate::failure::{Failure, Result};

/// Requests in flight when no load is named.
const DEFAULT_CONCURRENCY: [u32; 3] = [1, 4, 16];
/// Measured requests of a closed loop with few in flight: three repeats have enough for a p90.
const FEWEST_REQUESTS: u64 = 22;
/// Measured requests of other closed loops per request in flight.
const REQUESTS_PER_SLOT: u64 = 2;
/// Measured requests of other loads: enough to tell whether a backend keeps up.
const OPEN_REQUESTS: u64 = 100;
/// Most warm-up requests per request in flight.
const DEFAULT_WARMUP: u32 = 1;
/// Times each level is measured.
pub(crate) const DEFAULT_REPEATS: u32 = 3;

/// The loads that were asked for, each of which makes a level.
pub(crate) fn loads(args: &LoadArgs, workload: &WorkloadArgs) -> Result<Vec<Load>> {
    let is_named = args.rate.is_some()
        || args.max_throughput
        || args.concurrency.is_some()
        || args.find_goodput;
    let replays = workload.trace.is_some() && !is_named;
    let is_open = args.rate.is_some() || args.max_throughput || args.find_goodput || replays;
    if workload.time_scale.is_some() && !replays {
        return Err(Failure::input(
            "--time-scale plays the trace's own times faster; leave out the flag that says \
             otherwise when requests come",
        ));
    }
    if args.arrivals.is_some() && args.rate.is_none() && !args.find_goodput {
        return Err(Failure::input(
            "--arrivals says how requests arrive at a rate; give one with --rate",
        ));
    }
    if args.max_concurrency.is_some() && !is_open {
        return Err(Failure::input(
            "--max-concurrency bounds a load that is not a closed loop; --concurrency already \
             says how many requests are in flight",
        ));
    }
    if args.find_goodput {
        return Ok(Vec::new());
    }
    let open = |process: ArrivalProcess| Load::Open {
        process,
        max_in_flight: args.max_concurrency,
    };
    if replays {
        return Ok(vec![Load::Trace {
            speed: workload.time_scale.unwrap_or(1.0),
            max_in_flight: args.max_concurrency,
        }]);
    }
    if args.max_throughput {
        return Ok(vec![open(ArrivalProcess::AtOnce)]);
    }
    if let Some(rates) = &args.rate {
        let shape = args.arrivals.unwrap_or_default();
        unlike(rates, "--rate")?;
        return Ok(rates.iter().map(|&r| open(shape.at_rate(r))).collect());
    }
    let all = args.concurrency.as_deref().unwrap_or(&DEFAULT_CONCURRENCY);
    unlike(all, "--concurrency")?;
    Ok(all.iter().map(|&n| Load::Closed(n)).collect())
}

/// Two levels of the same load would have the same name, and be no news.
fn unlike<T: PartialEq + std::fmt::Display>(values: &[T], flag: &str) -> Result<()> {
    let twice = values
        .iter()
        .enumerate()
        .find(|(i, value)| values[..*i].contains(value));
    match twice {
        Some((_, value)) => Err(Failure::input(format!(
            "{flag} names {value} twice; use --repeats to measure a level again"
        ))),
        None => Ok(()),
    }
}

/// When a unit of this load ends.
pub(crate) fn stop(args: &LoadArgs, load: Load, workload: &WorkloadPlan) -> Result<Stop> {
    match (args.duration, args.requests) {
        (Some(_), _) if is_batch(load) => Err(Failure::input(
            "--duration: --max-throughput sends all requests at once; say how many with \
             --requests",
        )),
        (Some(duration), _) => Ok(Stop::Duration(nanoseconds(duration))),
        (None, Some(0)) => Err(Failure::input(
            "--requests: at least 1 is needed to measure",
        )),
        (None, Some(n)) => Ok(Stop::Requests(n)),
        (None, None) => Ok(Stop::Requests(match load {
            Load::Closed(concurrency) => {
                (REQUESTS_PER_SLOT * u64::from(concurrency)).max(FEWEST_REQUESTS)
            }
            Load::Open { .. } => OPEN_REQUESTS,
            Load::Trace { .. } => workload.trace().map_or(1, |t| t.requests.len() as u64),
        })),
    }
}

fn is_batch(load: Load) -> bool {
    matches!(
        load,
        Load::Open {
            process: ArrivalProcess::AtOnce,
            ..
        }
    )
}

/// How a unit begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WarmupPlan {
    /// Measured from the first request on.
    Off,
    /// Until step times settle, at most so many requests per request in flight.
    PerSlot(NonZeroU32),
    /// So many nanoseconds.
    For(u64),
}

impl WarmupPlan {
    pub(crate) fn resolve(args: &LoadArgs) -> Self {
        let asked = args
            .warmup
            .unwrap_or(WarmupArg::RequestsPerSlot(DEFAULT_WARMUP));
        match asked {
            WarmupArg::RequestsPerSlot(n) => NonZeroU32::new(n).map_or(Self::Off, Self::PerSlot),
            WarmupArg::For(time) => Self::For(nanoseconds(time)),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
