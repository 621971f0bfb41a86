//! The repeats of one load level together.

use costmark_core::Interval;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::advice::{Advice, advise};
use crate::latency::{LatencyHistograms, LatencySummaries};
use crate::repeats::{cv, interval_over_repeats};
use crate::throughput::RequestCounts;
use crate::unit::UnitSummary;

/// One load level: medians over repeats with 95 % t-intervals
/// ([`interval_over_repeats`]), and latencies of all repeats pooled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LevelSummary {
    /// Requests that were to be in flight, if the load was given so.
    pub concurrency_target: Option<u32>,
    /// Repeats.
    pub repeats: u32,
    /// Measured requests of all repeats.
    pub requests: RequestCounts,
    /// Input tokens per second, cached ones included.
    pub input_tok_per_s: Interval,
    /// Output tokens per second.
    pub output_tok_per_s: Interval,
    /// Input and output tokens per second.
    pub total_tok_per_s: Interval,
    /// Requests completed per second.
    pub requests_per_s: Interval,
    /// Requests due per second; `None` of a closed loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_requests_per_s: Option<Interval>,
    /// Requests sent per second; `None` of a closed loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_requests_per_s: Option<Interval>,
    /// Requests came faster than they were served in more than half of the repeats; `None`
    /// of a closed loop, or if some repeat is too short to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturated: Option<bool>,
    /// Time-weighted requests in flight.
    pub concurrency: Interval,
    /// Memory bandwidth use over the window. Modelled.
    pub mbu: Option<Interval>,
    /// Arithmetic use over the window. Modelled.
    pub mfu: Option<Interval>,
    /// Memory bandwidth use in steps of generation only. Modelled.
    pub decode_mbu: Option<Interval>,
    /// Arithmetic use in steps of prompt work only. Modelled.
    pub prefill_mfu: Option<Interval>,
    /// Time-weighted sequences per step.
    pub batch_occupancy: Option<Interval>,
    /// Requests per second within the limits.
    pub goodput_requests_per_s: Option<Interval>,
    /// Output tokens per second within the limits.
    pub goodput_output_tok_per_s: Option<Interval>,
    /// Medians of each repeat: time to first token, service clock, ms.
    pub ttft_p50_ms: Option<Interval>,
    /// Medians of each repeat: gaps between token events, ms.
    pub itl_p50_ms: Option<Interval>,
    /// Latencies of the requests of all repeats pooled.
    pub latency: LatencySummaries,
    /// Coefficient of variation of `total_tok_per_s` over repeats.
    pub cv: Option<f64>,
    /// What would make the figures better.
    pub advice: Vec<Advice>,
}

impl LevelSummary {
    /// Puts the repeats of one level together; `None` without any.
    #[must_use]
    pub fn from_units(units: &[UnitSummary]) -> Option<Self> {
        let (mut requests, mut pooled) = (RequestCounts::default(), LatencyHistograms::default());
        for unit in units {
            requests.add(&unit.requests);
            pooled.merge(&unit.histograms);
        }
        // A figure some repeat lacks would be a median of others: none is given.
        let over = |figure: &dyn Fn(&UnitSummary) -> Option<f64>| {
            let values: Option<Vec<f64>> = units.iter().map(figure).collect();
            values.and_then(|values| interval_over_repeats(&values))
        };
        let totals: Vec<f64> = units.iter().map(|u| u.throughput.total_tok_per_s).collect();
        let mut level = Self {
            concurrency_target: units.first()?.concurrency_target,
            repeats: u32::try_from(units.len()).unwrap_or(u32::MAX),
            requests,
            input_tok_per_s: over(&|u| Some(u.throughput.input_tok_per_s))?,
            output_tok_per_s: over(&|u| Some(u.throughput.output_tok_per_s))?,
            total_tok_per_s: over(&|u| Some(u.throughput.total_tok_per_s))?,
            requests_per_s: over(&|u| Some(u.throughput.requests_per_s))?,
            offered_requests_per_s: over(&|u| Some(u.open_loop?.offered_requests_per_s)),
            delivered_requests_per_s: over(&|u| Some(u.open_loop?.delivered_requests_per_s)),
            saturated: saturated(units),
            concurrency: over(&|u| Some(u.throughput.concurrency))?,
            mbu: over(&|u| u.steps?.mbu),
            mfu: over(&|u| u.steps?.mfu),
            decode_mbu: over(&|u| u.steps?.decode.mbu),
            prefill_mfu: over(&|u| u.steps?.prefill.mfu),
            batch_occupancy: over(&|u| u.steps.map(|s| s.batch_occupancy)),
            goodput_requests_per_s: over(&|u| u.goodput.map(|g| g.requests_per_s)),
            goodput_output_tok_per_s: over(&|u| u.goodput.map(|g| g.output_tok_per_s)),
            ttft_p50_ms: over(&|u| u.latency.ttft_ms.map(|l| l.p50)),
            itl_p50_ms: over(&|u| u.latency.itl_ms.map(|l| l.p50)),
            latency: pooled.summaries(),
            cv: cv(&totals),
            advice: Vec::new(),
        };
        level.advice = advise(&level, units);
        Some(level)
    }
}

fn saturated(units: &[UnitSummary]) -> Option<bool> {
    let verdicts: Option<Vec<bool>> = units
        .iter()
        .map(|u| Some(u.open_loop?.saturation?.is_saturated))
        .collect();
    let verdicts = verdicts?;
    let count = verdicts.iter().filter(|&&saturated| saturated).count();
    Some(2 * count > verdicts.len())
}
