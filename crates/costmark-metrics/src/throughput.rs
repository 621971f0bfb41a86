//! Counts and rates in the measured window.

use std::collections::BTreeMap;

use costmark_core::{ErrorClass, Outcome, RequestRecord};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::latency::is_finished;
use crate::window::Window;

/// What became of the measured requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestCounts {
    /// Ran to their own end.
    pub finished: u64,
    /// Cancelled from outside.
    pub cancelled: u64,
    /// Failed.
    pub failed: u64,
    /// The failed ones by kind.
    pub errors: BTreeMap<ErrorClass, u64>,
}

impl RequestCounts {
    pub(crate) fn of(records: &[RequestRecord]) -> Self {
        let mut counts = Self::default();
        for record in records {
            match &record.outcome {
                Outcome::Failed(error) => {
                    counts.failed += 1;
                    *counts.errors.entry(error.class).or_default() += 1;
                }
                Outcome::Finished(_) if is_finished(record) => counts.finished += 1,
                Outcome::Finished(_) => counts.cancelled += 1,
            }
        }
        counts
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.finished += other.finished;
        self.cancelled += other.cancelled;
        self.failed += other.failed;
        for (&class, count) in &other.errors {
            *self.errors.entry(class).or_default() += count;
        }
    }

    /// Share of requests that failed, of those that were not cancelled; 0 of none.
    #[must_use]
    pub fn failed_share(&self) -> f64 {
        self.failed as f64 / (self.finished + self.failed).max(1) as f64
    }
}

/// Tokens and rates of the window, over all requests that were in flight in it: those of
/// warm-up and cool-down load the machine as much as measured ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Throughput {
    /// Prompt tokens of the requests whose first token falls into the window: their
    /// prefill ended there.
    pub input_tokens: u64,
    /// Of these, tokens whose KV came from the prefix cache.
    pub cached_tokens: u64,
    /// Output tokens whose instant falls into the window.
    pub output_tokens: u64,
    /// Input tokens per second, cached ones included.
    pub input_tok_per_s: f64,
    /// Output tokens per second.
    pub output_tok_per_s: f64,
    /// Input and output tokens per second.
    pub total_tok_per_s: f64,
    /// Requests that ran to their own end in the window, per second.
    pub requests_per_s: f64,
    /// Time-weighted requests in flight, from sent to ended.
    pub concurrency: f64,
}

impl Throughput {
    pub(crate) fn in_window<'a>(
        window: &Window,
        records: impl IntoIterator<Item = &'a RequestRecord>,
    ) -> Self {
        let mut sums = Self::default();
        let (mut completed, mut in_flight_ns) = (0u64, 0u64);
        for record in records {
            if record
                .token_ns
                .first()
                .is_some_and(|at_ns| window.contains(at_ns))
            {
                sums.input_tokens += u64::from(record.input_tokens);
                sums.cached_tokens += u64::from(record.cached_tokens);
            }
            sums.output_tokens += record.tokens_between(window.start_ns, window.end_ns);
            completed += u64::from(is_finished(record) && window.contains(record.finished_ns));
            in_flight_ns += window.overlap_ns(record.sent_ns, record.finished_ns);
        }
        // An empty window has no rates; 0 is what was seen in it.
        if window.seconds > 0.0 {
            sums.input_tok_per_s = sums.input_tokens as f64 / window.seconds;
            sums.output_tok_per_s = sums.output_tokens as f64 / window.seconds;
            sums.total_tok_per_s = (sums.input_tokens + sums.output_tokens) as f64 / window.seconds;
            sums.requests_per_s = completed as f64 / window.seconds;
            sums.concurrency = in_flight_ns as f64 / 1e9 / window.seconds;
        }
        sums
    }
}
