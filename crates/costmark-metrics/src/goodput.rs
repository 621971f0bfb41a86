//! Throughput of requests that were served well enough.

use costmark_core::RequestRecord;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::latency::is_finished;
use crate::throughput::Throughput;

/// Limits a request must meet, all of them, on the user clock. No limit for `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    /// Longest time to first token, ms.
    pub ttft_ms: Option<f64>,
    /// Longest gap between token events, ms, which [`ITL_SHARE`] of the request's own gaps must
    /// not exceed. Met by requests without a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itl_ms: Option<f64>,
    /// Longest time per output token after the first, ms: the request's mean gap. Met by single
    /// tokens.
    pub tpot_ms: Option<f64>,
    /// Longest end-to-end time, ms.
    pub e2e_ms: Option<f64>,
    /// Share of requests that must meet them for the load to count as within the SLO; absent
    /// where that was not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// Share of a request's gaps that must keep [`Slo::itl_ms`]: a rare hiccup is not felt, a
/// stream that stutters is, however good its mean.
pub const ITL_SHARE: f64 = 0.95;
/// Share of requests that must meet the limits where none was stated.
pub const DEFAULT_SLO_SHARE: f64 = 0.95;

/// What of the throughput met the limits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// How many requests missed which limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<SloCounts>,
}

/// Requests by what they missed. One that missed two limits counts at both; a failed one
/// counts as failed only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SloCounts {
    /// Measured requests that finished or failed.
    pub ended: u64,
    /// Met all limits.
    pub met: u64,
    /// First token too late.
    pub ttft: u64,
    /// Gaps too long.
    pub itl: u64,
    /// Mean gap too long.
    pub tpot: u64,
    /// End too late.
    pub e2e: u64,
    /// Failed.
    pub failed: u64,
}

impl SloCounts {
    /// Adds another unit's.
    pub fn add(&mut self, other: &Self) {
        self.ended += other.ended;
        self.met += other.met;
        self.ttft += other.ttft;
        self.itl += other.itl;
        self.tpot += other.tpot;
        self.e2e += other.e2e;
        self.failed += other.failed;
    }

    /// Share that met all limits; 0 of none.
    #[must_use]
    pub fn attainment(&self) -> f64 {
        self.met as f64 / self.ended.max(1) as f64
    }

    fn count(&mut self, slo: &Slo, record: &RequestRecord) -> bool {
        self.ended += 1;
        let missed = slo.missed(record);
        let Some(Missed {
            ttft,
            itl,
            tpot,
            e2e,
        }) = missed
        else {
            self.failed += 1;
            return false;
        };
        self.ttft += u64::from(ttft);
        self.itl += u64::from(itl);
        self.tpot += u64::from(tpot);
        self.e2e += u64::from(e2e);
        let met = !(ttft || itl || tpot || e2e);
        self.met += u64::from(met);
        met
    }
}

/// Which limits a finished request missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Missed {
    ttft: bool,
    itl: bool,
    tpot: bool,
    e2e: bool,
}

/// Fewest samples from which a share such as 0.95 can be told: with this many, at least two
/// lie beyond the percentile with 99 % confidence (64 for 0.9, 130 for 0.95, 662 for 0.99).
#[must_use]
pub fn samples_for_share(share: f64) -> u64 {
    let beyond = 1.0 - share;
    // P(fewer than two beyond) of a binomial.
    let uncertain = |n: u64| {
        let (n, below) = (n as f64, share.ln());
        (n * below).exp() + n * beyond * ((n - 1.0) * below).exp()
    };
    let mut n = 2;
    while beyond > 0.0 && share > 0.0 && uncertain(n) > 0.01 && n < 1 << 40 {
        n += (n / 1000).max(1);
    }
    n
}

impl Slo {
    /// Whether any limit is set.
    #[must_use]
    pub fn has_limits(&self) -> bool {
        let all = [self.ttft_ms, self.itl_ms, self.tpot_ms, self.e2e_ms];
        all.iter().any(Option::is_some)
    }

    /// Whether a request met all limits. A failed or cancelled one took for ever.
    #[must_use]
    pub fn is_met(&self, record: &RequestRecord) -> bool {
        SloCounts::default().count(self, record)
    }

    /// What a request missed; `None` for one that did not finish.
    fn missed(&self, record: &RequestRecord) -> Option<Missed> {
        let first_ns = record.token_ns.first()?;
        let last_ns = record.token_ns.last()?;
        if !is_finished(record) {
            return None;
        }
        let over = |ns: u64, limit_ms: Option<f64>| {
            limit_ms.is_some_and(|limit_ms| ns as f64 / 1e6 > limit_ms)
        };
        let further_tokens = u64::from(record.output_tokens.saturating_sub(1));
        let mean_ns = (last_ns - first_ns).checked_div(further_tokens);
        Some(Missed {
            ttft: over(first_ns.saturating_sub(record.scheduled_ns), self.ttft_ms),
            itl: self.itl_ms.is_some_and(|limit| stutters(record, limit)),
            tpot: mean_ns.is_some_and(|ns| over(ns, self.tpot_ms)),
            e2e: over(last_ns.saturating_sub(record.scheduled_ns), self.e2e_ms),
        })
    }
}

/// Whether more than 1 − [`ITL_SHARE`] of a request's gaps exceed the limit.
fn stutters(record: &RequestRecord, limit_ms: f64) -> bool {
    let (mut gaps, mut over) = (0u64, 0u64);
    for (gap_ns, times) in record.token_ns.gaps() {
        gaps += u64::from(times);
        over += u64::from(times) * u64::from(gap_ns as f64 / 1e6 > limit_ms);
    }
    over as f64 > (1.0 - ITL_SHARE) * gaps as f64 + 1e-9
}

impl Goodput {
    /// The window's rates times the share of measured requests (of their output tokens)
    /// that met the limits; `None` when no measured request ended.
    pub(crate) fn of(slo: Slo, records: &[RequestRecord], throughput: &Throughput) -> Option<Self> {
        // A request the user cancelled says nothing about the service.
        let ended = records.iter().filter(|r| is_finished(r) || !r.is_ok());
        let (mut counts, mut finished) = (SloCounts::default(), 0u64);
        let (mut tokens, mut good_tokens) = (0u64, 0u64);
        for record in ended {
            let met = counts.count(&slo, record);
            finished += u64::from(is_finished(record));
            tokens += u64::from(record.output_tokens);
            good_tokens += u64::from(met) * u64::from(record.output_tokens);
        }
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        (counts.ended > 0).then(|| Self {
            slo,
            attainment: counts.attainment(),
            requests_per_s: share(counts.met, finished) * throughput.requests_per_s,
            output_tok_per_s: share(good_tokens, tokens) * throughput.output_tok_per_s,
            counts: Some(counts),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use costmark_core::{FinishReason, Outcome};

    /// A request due at 0 with these token instants, ms.
    fn record(instants_ms: &[u64]) -> RequestRecord {
        let instants: Vec<u64> = instants_ms.iter().map(|ms| ms * 1_000_000).collect();
        RequestRecord {
            id: 0,
            turn: None,
            scheduled_ns: 0,
            sent_ns: 0,
            finished_ns: instants.last().copied().unwrap_or(0),
            output_tokens: instants.len() as u32,
            token_ns: instants.into(),
            event_tokens: Vec::new(),
            input_tokens: 1,
            cached_tokens: 0,
            output_hash: None,
            outcome: Outcome::Finished(FinishReason::Length),
        }
    }

    /// Twenty gaps, `long` of them of 200 ms, the others of 10 ms.
    fn twenty_gaps(long: usize) -> RequestRecord {
        let mut instants = vec![0];
        for i in 0..20 {
            instants.push(instants[i] + if i < long { 200 } else { 10 });
        }
        record(&instants)
    }

    #[test]
    fn one_gap_in_twenty_may_be_long() {
        let slo = Slo {
            itl_ms: Some(100.0),
            ..Slo::default()
        };
        assert!(slo.is_met(&twenty_gaps(0)) && slo.is_met(&twenty_gaps(1)));
        assert!(!slo.is_met(&twenty_gaps(2)));
        // Of fewer gaps none may be.
        assert!(slo.is_met(&record(&[0, 10, 20])) && !slo.is_met(&record(&[0, 200, 210])));
        assert!(slo.is_met(&record(&[500])), "no gap, nothing missed");
        // The mean gap of the same request is short.
        let mean = Slo {
            tpot_ms: Some(100.0),
            ..Slo::default()
        };
        assert!(mean.is_met(&twenty_gaps(2)));
    }

    #[test]
    fn each_limit_is_counted_by_itself() {
        let slo = Slo {
            ttft_ms: Some(50.0),
            itl_ms: Some(100.0),
            tpot_ms: Some(20.0),
            e2e_ms: Some(300.0),
            share: None,
        };
        let mut counts = SloCounts::default();
        assert!(counts.count(&slo, &record(&[50, 70, 90])));
        assert!(!counts.count(&slo, &record(&[51, 70])), "TTFT");
        assert!(!counts.count(&slo, &record(&[10, 250])), "ITL and TPOT");
        assert!(!counts.count(&slo, &record(&[60, 400])), "all four");
        assert!(!counts.count(&slo, &record(&[])), "failed");
        let expected = SloCounts {
            ended: 5,
            met: 1,
            ttft: 2,
            itl: 2,
            tpot: 2,
            e2e: 1,
            failed: 1,
        };
        assert_eq!(counts, expected);
        assert_eq!(counts.attainment(), 0.2);
    }

    #[test]
    fn samples_a_share_needs_are_those_of_its_percentile() {
        assert_eq!(samples_for_share(0.9), crate::P90_MIN_N);
        assert_eq!(samples_for_share(0.99), crate::P99_MIN_N);
        assert_eq!(samples_for_share(0.95), 130);
    }
}
