//! What a trace looks like, before it is replayed.

use std::collections::{HashMap, HashSet};
use std::io::BufRead;

use serde::{Deserialize, Serialize};

use super::{
    TRACE_BLOCK_TOKENS, Trace, TraceError, TraceFormat, TraceOptions, TraceRequest, each_request,
};

/// Parts of its time a trace's arrivals are counted in.
pub const SPARKLINE_BINS: usize = 60;

/// Block ids that are held to tell which were seen before: some 200 MB.
pub const MOST_BLOCKS: usize = 1 << 23;

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
    /// Of how many requests, from the first one, that is the share, if the blocks of all were too
    /// many to be held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reusable_requests: Option<u64>,
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
    /// Reads a trace line by line and describes it. Whatever its size, what is held are counts of
    /// lengths and of arrivals, and the ids of [`MOST_BLOCKS`] blocks at most.
    ///
    /// # Errors
    /// As [`Trace::read`].
    pub fn read(
        reader: impl BufRead,
        name: &str,
        options: &TraceOptions,
    ) -> Result<Self, TraceError> {
        let mut tally = Tally::default();
        let read = each_request(reader, name, options, |request| tally.add(&request))?;
        Ok(tally.finish(read.format, read.failed))
    }

    /// Describes a trace.
    #[must_use]
    pub fn of(trace: &Trace) -> Self {
        let mut tally = Tally::default();
        trace.requests.iter().for_each(|request| tally.add(request));
        tally.finish(trace.format, trace.failed)
    }
}

/// A trace in the making of its figures.
#[derive(Debug, Default)]
struct Tally {
    requests: u64,
    first_ns: u64,
    last_ns: u64,
    input_tokens: Lengths,
    output_tokens: Lengths,
    gaps: Gaps,
    blocks: Blocks,
    arrivals: Arrivals,
}

impl Tally {
    fn add(&mut self, request: &TraceRequest) {
        if self.requests == 0 {
            self.first_ns = request.at_ns;
        } else {
            self.gaps.add((request.at_ns - self.last_ns) as f64);
        }
        self.requests += 1;
        self.last_ns = request.at_ns;
        self.input_tokens.add(request.input_tokens);
        self.output_tokens.add(request.output_tokens);
        self.blocks.add(request);
        self.arrivals.add(request.at_ns - self.first_ns);
    }

    fn finish(self, format: TraceFormat, failed: u64) -> TraceInfo {
        let span_ns = self.last_ns - self.first_ns;
        let duration_s = span_ns as f64 / 1e9;
        TraceInfo {
            format,
            requests: self.requests,
            failed,
            duration_s,
            requests_per_s: (span_ns > 0).then(|| (self.requests - 1) as f64 / duration_s),
            input_tokens: self.input_tokens.quantiles(),
            output_tokens: self.output_tokens.quantiles(),
            gap_cv: self.gaps.cv(),
            reusable_share: self.blocks.share(),
            reusable_requests: self.blocks.is_full.then_some(self.blocks.requests),
            arrivals: self.arrivals.finish(span_ns),
        }
    }
}

/// How often each length was seen.
#[derive(Debug, Default)]
struct Lengths(HashMap<u32, u64>);

impl Lengths {
    fn add(&mut self, length: u32) {
        *self.0.entry(length).or_default() += 1;
    }

    fn quantiles(self) -> LengthQuantiles {
        let mut sorted: Vec<(u32, u64)> = self.0.into_iter().collect();
        sorted.sort_unstable();
        let n: u64 = sorted.iter().map(|(_, times)| times).sum();
        let at = |percent: u64| {
            let rank = (percent * n).div_ceil(100).max(1);
            let mut up_to = 0;
            let found = sorted.iter().find(|(_, times)| {
                up_to += times;
                up_to >= rank
            });
            found.map_or(0, |(length, _)| *length)
        };
        let sum: f64 = sorted
            .iter()
            .map(|&(l, times)| f64::from(l) * times as f64)
            .sum();
        LengthQuantiles {
            mean: sum / n.max(1) as f64,
            min: at(0),
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
        }
    }
}

/// Mean and squares of gaps between arrivals (Welford, 1962).
#[derive(Debug, Default)]
struct Gaps {
    n: u64,
    mean: f64,
    squares: f64,
}

impl Gaps {
    fn add(&mut self, gap: f64) {
        self.n += 1;
        let off = gap - self.mean;
        self.mean += off / self.n as f64;
        self.squares += off * (gap - self.mean);
    }

    fn cv(&self) -> Option<f64> {
        let variance = self.squares / (self.n.max(2) - 1) as f64;
        (self.n >= 2 && self.mean > 0.0).then(|| variance.sqrt() / self.mean)
    }
}

/// Which blocks of prompts were seen before.
#[derive(Debug, Default)]
struct Blocks {
    seen: HashSet<u64>,
    reusable_tokens: u64,
    tokens: u64,
    requests: u64,
    /// No further block fits: later requests are not looked at.
    is_full: bool,
}

impl Blocks {
    fn add(&mut self, request: &TraceRequest) {
        self.is_full |= self.seen.len() + request.blocks.len() > MOST_BLOCKS;
        if self.is_full {
            return;
        }
        let blocks = request.blocks.iter();
        let known = blocks.take_while(|id| self.seen.contains(id)).count() as u64;
        let tokens = u64::from(request.input_tokens);
        self.reusable_tokens += (known * u64::from(TRACE_BLOCK_TOKENS)).min(tokens);
        self.tokens += tokens;
        self.requests += 1;
        self.seen.extend(request.blocks.iter().copied());
    }

    fn share(&self) -> Option<f64> {
        (!self.seen.is_empty()).then(|| self.reusable_tokens as f64 / self.tokens as f64)
    }
}

/// Parts of time arrivals are counted in while it is not known how long the trace is.
const FINE_PARTS: usize = 1 << 14;

/// Arrivals over time, in parts that double whenever the trace turns out to be longer.
#[derive(Debug)]
struct Arrivals {
    part_ns: u64,
    counts: Vec<u64>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            part_ns: 1,
            counts: vec![0; FINE_PARTS],
        }
    }
}

impl Arrivals {
    fn add(&mut self, at_ns: u64) {
        let part = |part_ns| usize::try_from(at_ns / part_ns).unwrap_or(usize::MAX);
        while part(self.part_ns) >= FINE_PARTS {
            for i in 0..FINE_PARTS / 2 {
                self.counts[i] = self.counts[2 * i] + self.counts[2 * i + 1];
            }
            self.counts[FINE_PARTS / 2..].fill(0);
            self.part_ns *= 2;
        }
        self.counts[part(self.part_ns)] += 1;
    }

    /// In equal parts of the whole time; who came at the edge of two may count in either.
    fn finish(&self, span_ns: u64) -> Vec<u64> {
        let mut all = vec![0; SPARKLINE_BINS];
        for (i, count) in self.counts.iter().enumerate() {
            let middle_ns = i as u128 * u128::from(self.part_ns) + u128::from(self.part_ns / 2);
            let bin = middle_ns * SPARKLINE_BINS as u128 / u128::from(span_ns.max(1));
            all[(bin as usize).min(SPARKLINE_BINS - 1)] += count;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(at_ns: u64, input_tokens: u32, blocks: Vec<u64>) -> TraceRequest {
        TraceRequest {
            at_ns,
            input_tokens,
            output_tokens: 1,
            blocks: blocks.into(),
        }
    }

    /// Figures of a stream are those of the whole: counted here with everything held.
    #[test]
    fn a_stream_is_described_like_a_list() {
        let times: Vec<u64> = (0..5_000u64).map(|i| 7_000_000 + i * i * 1_234).collect();
        let mut tally = Tally::default();
        let length = |at_ns: u64| (at_ns % 977) as u32 + 1;
        times
            .iter()
            .for_each(|&at| tally.add(&request(at, length(at), vec![])));
        let info = tally.finish(TraceFormat::Plain, 0);

        let mut lengths: Vec<u32> = times.iter().map(|&at| length(at)).collect();
        lengths.sort_unstable();
        assert_eq!(info.input_tokens.p90, lengths[4_499]);
        assert_eq!(
            (info.input_tokens.min, info.input_tokens.max),
            (lengths[0], lengths[4_999])
        );
        let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / 4_999.0;
        let squares: f64 = gaps.iter().map(|g| (g - mean).powi(2)).sum();
        let cv = (squares / 4_998.0).sqrt() / mean;
        assert!((info.gap_cv.unwrap() / cv - 1.0).abs() < 1e-9);
        let span = (times[4_999] - times[0]) as f64;
        for (bin, &found) in info.arrivals.iter().enumerate() {
            let inside = |at: &&u64| ((**at - times[0]) as f64 / span * 60.0) as usize == bin;
            let expected = times.iter().filter(inside).count() as u64;
            assert!(found.abs_diff(expected) <= 3, "{bin}: {found} {expected}");
        }
        assert_eq!(info.arrivals.iter().sum::<u64>(), 5_000);
    }

    #[test]
    fn blocks_beyond_what_is_held_are_said() {
        let mut tally = Tally::default();
        tally.add(&request(0, 1024, vec![1, 2]));
        tally.add(&request(1, 1024, vec![1, 3]));
        assert_eq!(tally.blocks.share(), Some(0.25));
        tally.blocks.seen.extend(10..10 + MOST_BLOCKS as u64);
        tally.add(&request(2, 1024, vec![1, 2]));
        let info = tally.finish(TraceFormat::Mooncake, 0);
        assert_eq!(
            (info.reusable_share, info.reusable_requests),
            (Some(0.25), Some(2))
        );
        assert_eq!(info.requests, 3);
    }
}
