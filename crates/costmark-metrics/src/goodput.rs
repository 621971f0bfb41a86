//! Throughput of requests that were served well enough.

use costmark_core::RequestRecord;
use serde::{Deserialize, Serialize};

use crate::latency::is_finished;
use crate::throughput::Throughput;

/// Limits a request must meet, all of them, on the user clock. No limit for `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    /// Longest time to first token, ms.
    pub ttft_ms: Option<f64>,
    /// Longest time per output token after the first, ms. Met by single tokens.
    pub tpot_ms: Option<f64>,
    /// Longest end-to-end time, ms.
    pub e2e_ms: Option<f64>,
}

/// What of the throughput met the limits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goodput {
    /// The limits.
    pub slo: Slo,
    /// Share of measured requests that met them; failed ones did not.
    pub attainment: f64,
    /// Requests per second that met them.
    pub requests_per_s: f64,
    /// Output tokens per second of requests that met them.
    pub output_tok_per_s: f64,
}

impl Slo {
    /// Whether a request met all limits. A failed or cancelled one took for ever.
    #[must_use]
    pub fn is_met(&self, record: &RequestRecord) -> bool {
        let (Some(first_ns), Some(last_ns)) = (record.token_ns.first(), record.token_ns.last())
        else {
            return false;
        };
        let within = |ns: u64, limit_ms: Option<f64>| {
            limit_ms.is_none_or(|limit_ms| ns as f64 / 1e6 <= limit_ms)
        };
        let further_tokens = u64::from(record.output_tokens.saturating_sub(1));
        is_finished(record)
            && within(first_ns.saturating_sub(record.scheduled_ns), self.ttft_ms)
            && within(last_ns.saturating_sub(record.scheduled_ns), self.e2e_ms)
            && (further_tokens == 0 || within((last_ns - first_ns) / further_tokens, self.tpot_ms))
    }
}

impl Goodput {
    /// The window's rates times the share of measured requests (of their output tokens)
    /// that met the limits; `None` when no measured request ended.
    pub(crate) fn of(slo: Slo, records: &[RequestRecord], throughput: &Throughput) -> Option<Self> {
        // A request the user cancelled says nothing about the service.
        let ended = records.iter().filter(|r| is_finished(r) || !r.is_ok());
        let (mut all, mut finished, mut good) = (0u64, 0u64, 0u64);
        let (mut tokens, mut good_tokens) = (0u64, 0u64);
        for record in ended {
            let met = u64::from(slo.is_met(record));
            all += 1;
            finished += u64::from(is_finished(record));
            good += met;
            tokens += u64::from(record.output_tokens);
            good_tokens += met * u64::from(record.output_tokens);
        }
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        (all > 0).then(|| Self {
            slo,
            attainment: share(good, all),
            requests_per_s: share(good, finished) * throughput.requests_per_s,
            output_tok_per_s: share(good_tokens, tokens) * throughput.output_tok_per_s,
        })
    }
}
