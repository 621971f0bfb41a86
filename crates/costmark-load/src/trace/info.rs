//! What a trace looks like, before it is replayed.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{TRACE_BLOCK_TOKENS, Trace, TraceFormat};

/// Parts of its time a trace's arrivals are counted in.
pub const SPARKLINE_BINS: usize = 60;

/// A trace in figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceInfo {
    /// How it is written.
    pub format: TraceFormat,
    /// Requests.
    pub requests: u64,
    /// Requests left out because they had failed.
    pub failed: u64,
    /// From the first to the last request.
    pub duration_s: f64,
    /// Requests per second over that time; `None` if they all come at once.
    pub requests_per_s: Option<f64>,
    /// Prompt lengths.
    pub input_tokens: LengthQuantiles,
    /// Output lengths.
    pub output_tokens: LengthQuantiles,
    /// Coefficient of variation of the gaps between arrivals: 1 for a Poisson process,
    /// more for burstier ones. A gamma process of burstiness 1/CV² has the same.
    pub gap_cv: Option<f64>,
    /// Share of prompt tokens in blocks that an earlier request began with: what an
    /// unbounded prefix cache would find. `None` where the trace has no block ids.
    pub reusable_share: Option<f64>,
    /// Arrivals in each 60th of the time.
    pub arrivals: Vec<u64>,
}

/// Token counts in figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthQuantiles {
    /// Arithmetic mean.
    pub mean: f64,
    /// Shortest.
    pub min: u32,
    /// Median (like the others the smallest length that so many do not exceed).
    pub p50: u32,
    /// 90 % are not longer.
    pub p90: u32,
    /// 99 % are not longer.
    pub p99: u32,
    /// Longest.
    pub max: u32,
}

impl TraceInfo {
    /// Describes a trace.
    #[must_use]
    pub fn of(trace: &Trace) -> Self {
        let requests = &trace.requests;
        let first_ns = requests.first().map_or(0, |r| r.at_ns);
        let span_ns = requests.last().map_or(0, |r| r.at_ns - first_ns);
        let duration_s = span_ns as f64 / 1e9;
        let mut arrivals = vec![0; SPARKLINE_BINS];
        for request in requests.iter() {
            let bin = u128::from(request.at_ns - first_ns) * SPARKLINE_BINS as u128
                / u128::from(span_ns.max(1));
            arrivals[(bin as usize).min(SPARKLINE_BINS - 1)] += 1;
        }
        Self {
            format: trace.format,
            requests: requests.len() as u64,
            failed: trace.failed,
            duration_s,
            requests_per_s: (span_ns > 0).then(|| (requests.len() - 1) as f64 / duration_s),
            input_tokens: LengthQuantiles::of(requests.iter().map(|r| r.input_tokens)),
            output_tokens: LengthQuantiles::of(requests.iter().map(|r| r.output_tokens)),
            gap_cv: gap_cv(trace),
            reusable_share: reusable_share(trace),
            arrivals,
        }
    }
}

impl LengthQuantiles {
    fn of(lengths: impl Iterator<Item = u32>) -> Self {
        let mut sorted: Vec<u32> = lengths.collect();
        sorted.sort_unstable();
        let n = sorted.len();
        let at = |percent: usize| {
            let rank = (percent * n).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or(0)
        };
        Self {
            mean: sorted.iter().map(|&l| f64::from(l)).sum::<f64>() / n.max(1) as f64,
            min: at(0),
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
        }
    }
}

fn gap_cv(trace: &Trace) -> Option<f64> {
    let gaps: Vec<f64> = trace
        .requests
        .windows(2)
        .map(|pair| (pair[1].at_ns - pair[0].at_ns) as f64)
        .collect();
    let n = gaps.len() as f64;
    let mean = gaps.iter().sum::<f64>() / n;
    let squares = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>();
    (gaps.len() >= 2 && mean > 0.0).then(|| (squares / (n - 1.0)).sqrt() / mean)
}

fn reusable_share(trace: &Trace) -> Option<f64> {
    let mut seen = HashSet::<u64>::new();
    let (mut reusable, mut all) = (0u64, 0u64);
    for request in trace.requests.iter() {
        let known = request
            .blocks
            .iter()
            .take_while(|id| seen.contains(id))
            .count() as u64;
        let tokens = u64::from(request.input_tokens);
        reusable += (known * u64::from(TRACE_BLOCK_TOKENS)).min(tokens);
        all += tokens;
        seen.extend(request.blocks.iter().copied());
    }
    (!seen.is_empty()).then(|| reusable as f64 / all as f64)
}
