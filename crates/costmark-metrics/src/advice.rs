//! What a reader should do about figures that are weaker than they could be.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::histogram::{P90_MIN_N, P99_MIN_N};
use crate::level::LevelSummary;
use crate::unit::UnitSummary;

/// Spread over repeats from which advice is given.
const HIGH_CV: f64 = 0.1;
/// Spread over repeats (coefficient of variation) from which figures are of no use to those
/// who ask for strictness.
pub const UNUSABLE_CV: f64 = 0.2;
/// Dispatch delay, as a share of the median TTFT, from which the client is the limit.
const CLIENT_LIMITED_SHARE: f64 = 0.01;

/// The kind of an advice. Names do not change; messages may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdviceCode {
    /// One repeat: no interval can be given.
    NoInterval,
    /// Throughput varies over 10 % between repeats.
    HighVariation,
    /// The window is shorter than it should be.
    ShortWindow,
    /// The wanted concurrency was never reached.
    NotSteady,
    /// Too few samples for a percentile.
    TooFewSamples,
    /// The load generator, not the backend, held requests up.
    ClientLimited,
    /// Requests had to wait for the bound on requests in flight.
    DelayedByCap,
    /// Requests came faster than they were served.
    Saturated,
    /// Requests failed.
    FailedRequests,
    /// Sequences were preempted for want of KV cache.
    Preemptions,
    /// Requests had to queue: fewer sequences ran than were in flight.
    Queued,
}

/// One piece of advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Advice {
    /// Its kind.
    pub code: AdviceCode,
    /// What is weak, by how much, and the flag to change.
    pub message: String,
}

/// All advice on a level.
pub(crate) fn advise(level: &LevelSummary, units: &[UnitSummary]) -> Vec<Advice> {
    let mut list = Vec::new();
    let mut add = |code, message: Option<String>| {
        list.extend(message.map(|message| Advice { code, message }));
    };
    add(AdviceCode::FailedRequests, failed(level));
    add(AdviceCode::NotSteady, not_steady(level, units));
    add(AdviceCode::Saturated, saturated(level, units));
    add(AdviceCode::DelayedByCap, delayed_by_cap(level, units));
    add(AdviceCode::ClientLimited, client_limited(level, units));
    add(AdviceCode::HighVariation, high_variation(level));
    add(AdviceCode::Preemptions, preemptions(units));
    add(AdviceCode::Queued, queued(level, units));
    add(AdviceCode::ShortWindow, short_window(units));
    add(AdviceCode::TooFewSamples, too_few_samples(level));
    add(
        AdviceCode::NoInterval,
        (level.repeats == 1)
            .then(|| "one repeat gives no interval; use --repeats 3 or more".into()),
    );
    list
}

fn failed(level: &LevelSummary) -> Option<String> {
    let counts = &level.requests;
    (counts.failed > 0).then(|| {
        format!(
            "{} of {} requests failed; latencies are those of the others",
            counts.failed,
            counts.failed + counts.finished
        )
    })
}

fn not_steady(level: &LevelSummary, units: &[UnitSummary]) -> Option<String> {
    let unsteady = units.iter().filter(|u| !u.window.steady).count();
    (unsteady > 0).then(|| {
        format!(
            "{unsteady} of {} repeats never had {} requests in flight; raise --requests or \
             --duration",
            level.repeats,
            level.concurrency_target.unwrap_or(0)
        )
    })
}

fn saturated(level: &LevelSummary, units: &[UnitSummary]) -> Option<String> {
    if level.saturated != Some(true) {
        return None;
    }
    let grown: Vec<_> = units
        .iter()
        .filter_map(|u| u.open_loop?.saturation.filter(|s| s.is_saturated))
        .collect();
    let in_flight = grown.iter().map(|s| s.in_flight.slope_per_s).sum::<f64>();
    Some(format!(
        "saturated: requests came faster than they were served and {:.2} more were in flight \
         each second; latencies grow with the length of the run: lower --rate",
        in_flight / grown.len().max(1) as f64
    ))
}

fn delayed_by_cap(level: &LevelSummary, units: &[UnitSummary]) -> Option<String> {
    let delayed: u64 = delays_by_cap(units).sum();
    let counts = &level.requests;
    (delayed > 0).then(|| {
        format!(
            "{delayed} of {} requests were due but waited for the bound on requests in flight; \
             raise --max-concurrency, or read user latencies, which count the wait",
            counts.finished + counts.failed + counts.cancelled
        )
    })
}

fn delays_by_cap(units: &[UnitSummary]) -> impl Iterator<Item = u64> {
    units
        .iter()
        .filter_map(|u| u.open_loop)
        .map(|o| o.delayed_by_cap)
}

/// What helps a load generator that is late; where it is told, the backend is not known.
const LEAVE_A_CORE: &str = "leave a core to the load generator (--threads; a server at \
                            --endpoint: drive it from another machine)";

fn client_limited(level: &LevelSummary, units: &[UnitSummary]) -> Option<String> {
    if delays_by_cap(units).any(|delayed| delayed > 0) {
        // The wait was asked for.
        return None;
    }
    let worst = units
        .iter()
        .filter_map(|u| u.open_loop)
        .filter(|o| o.client_limited)
        .map(|o| o.delivered_requests_per_s / o.offered_requests_per_s)
        .reduce(f64::min);
    if let Some(share) = worst {
        return Some(format!(
            "client-limited: only {:.1} % of the requests that were due could be sent in time; \
             {LEAVE_A_CORE}, or lower --rate",
            100.0 * share
        ));
    }
    let ttft_ms = level.latency.ttft_ms?.p50;
    let delay = level.latency.dispatch_delay_ms?;
    // Where samples do not carry a p99, the longest delay stands in for it.
    let delay_ms = delay.p99.unwrap_or(delay.max);
    (delay_ms > CLIENT_LIMITED_SHARE * ttft_ms).then(|| {
        format!(
            "client-limited: requests waited up to {delay_ms:.2} ms to be sent, over 1 % of the \
             median TTFT of {ttft_ms:.2} ms; {LEAVE_A_CORE}"
        )
    })
}

fn high_variation(level: &LevelSummary) -> Option<String> {
    let cv = level.cv.filter(|&cv| cv > HIGH_CV)?;
    Some(format!(
        "throughput varies by {:.0} % between repeats (CV); raise --requests or --repeats and \
         keep other programs off the machine",
        100.0 * cv
    ))
}

fn preemptions(units: &[UnitSummary]) -> Option<String> {
    let count: u64 = units
        .iter()
        .filter_map(|u| u.steps)
        .map(|s| s.preemptions)
        .sum();
    (count > 0).then(|| {
        format!(
            "{count} sequences were preempted and recomputed for want of KV cache; raise \
             --kv-budget or lower --concurrency"
        )
    })
}

fn queued(level: &LevelSummary, units: &[UnitSummary]) -> Option<String> {
    let (occupancy, in_flight) = (level.batch_occupancy?.value, level.concurrency.value);
    let replicas = units.iter().filter_map(|u| u.steps).map(|s| s.replicas);
    let replicas = replicas.max().unwrap_or(1);
    // Sequences between two steps are in flight but in no batch: some slack.
    (f64::from(replicas) * occupancy < 0.8 * in_flight).then(|| {
        let of_each = match replicas {
            1 => String::new(),
            n => format!(" on each of {n} replicas"),
        };
        format!(
            "steps held {occupancy:.1} sequences{of_each} while {in_flight:.1} requests were in \
             flight; the others queued: raise --max-sequences or --kv-budget, or lower \
             --concurrency"
        )
    })
}

fn short_window(units: &[UnitSummary]) -> Option<String> {
    let shortest = units
        .iter()
        .filter(|u| u.window.short)
        .map(|u| u.window.seconds)
        .reduce(f64::min)?;
    Some(format!(
        "the measured window is only {shortest:.1} s; raise --requests or --duration for at \
         least 10 s"
    ))
}

fn too_few_samples(level: &LevelSummary) -> Option<String> {
    let n = level.latency.ttft_ms?.n;
    let per_repeat = |needed: u64| needed.div_ceil(u64::from(level.repeats.max(1)));
    (n < P99_MIN_N).then(|| {
        let p90 = if n < P90_MIN_N {
            format!(", p90 {P90_MIN_N} (--requests {})", per_repeat(P90_MIN_N))
        } else {
            String::new()
        };
        format!(
            "n too small: {n} requests; p99 of TTFT needs {P99_MIN_N} (--requests {}){p90}",
            per_repeat(P99_MIN_N)
        )
    })
}
