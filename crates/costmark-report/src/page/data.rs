//! What the page's script draws from.

use costmark_core::Interval;
use costmark_metrics::{LatencyHistogram, LatencyHistograms};
use serde::Serialize;

use super::Download;
use super::pictures::Finished;
use crate::compare::{Metric, units_of};
use crate::document::{LevelDocument, LoadDocument, RunDocument, UnitDocument};
use crate::find::NamedRun;
use crate::names;
use crate::text::inert_line;

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct RunData {
    name: String,
    machine: String,
    usd_per_hour: f64,
    utilization: f64,
    pub(super) levels: Vec<LevelData>,
    peaks: Option<Peaks>,
    pub(super) pictures: Finished,
    units: Vec<UnitSpan>,
    downloads: Vec<Download>,
}

/// When a unit was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct UnitSpan {
    label: String,
    start_s: f64,
    end_s: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Peaks {
    read_bytes_per_s: f64,
    flops_per_s: f64,
}

/// One level of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct LevelData {
    pub(super) label: String,
    short: String,
    concurrency: Option<u32>,
    requests_per_s: Option<f64>,
    output_tok_per_s: Interval,
    total_tok_per_s: Interval,
    /// Output tokens per second each request gets while it generates: 1000 over median TPOT.
    pub(super) tok_per_s_per_user: Option<f64>,
    ttft_ms: Option<Interval>,
    itl_ms: Option<Interval>,
    slo_ttft_ms: Option<f64>,
    slo_itl_ms: Option<f64>,
    slo_tpot_ms: Option<f64>,
    usd_per_mtok_input: Option<Interval>,
    usd_per_mtok_output: Option<Interval>,
    usd_per_mtok_blended: Option<Interval>,
    /// Of tokens within the SLO alone; of output where it has a price, else of any kind.
    pub(super) usd_per_mtok_at_slo: Option<Interval>,
    /// By the price that ranks the runs of a page.
    usd_ranked: Option<Interval>,
    /// Of the windows of all usable repeats together.
    input_tokens: u64,
    cached_tokens: u64,
    output_tokens: u64,
    pub(super) time: Option<TimeData>,
    pub(super) percentiles: Percentiles,
}

/// Where the time of a level's windows went, as shares.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct TimeData {
    pub(super) prefill: f64,
    pub(super) decode: f64,
    pub(super) mixed: f64,
    pub(super) idle: f64,
    /// Of step time, outside the forward pass.
    pub(super) outside_forward: f64,
    pub(super) decode_mbu: Option<f64>,
    pub(super) prefill_mfu: Option<f64>,
    pub(super) mbu: Option<f64>,
    pub(super) mfu: Option<f64>,
}

/// Pairs of quantile and latency in milliseconds, as far as there are samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) ttft: Vec<(f64, f64)>,
    pub(super) itl: Vec<(f64, f64)>,
    pub(super) tpot: Vec<(f64, f64)>,
    pub(super) e2e: Vec<(f64, f64)>,
}

impl RunData {
    /// `ranked_by` is the price that tells which run is cheapest, of several.
    pub(super) fn new(
        run: &NamedRun,
        pictures: Finished,
        downloads: Vec<Download>,
        ranked_by: Option<&Metric>,
    ) -> Self {
        let document = &run.document;
        let peaks = document.units.iter().find_map(super::roofline);
        Self {
            name: run.name.clone(),
            machine: inert_line(&document.environment.label),
            usd_per_hour: document.price.usd_per_hour,
            utilization: document.price.utilization,
            levels: document
                .levels
                .iter()
                .map(|level| LevelData::new(level, document, ranked_by))
                .collect(),
            peaks: peaks.map(|p| Peaks {
                read_bytes_per_s: p.read_bytes_per_s,
                flops_per_s: p.flops_per_s,
            }),
            units: document
                .units
                .iter()
                .map(|unit| UnitSpan {
                    label: inert_line(unit.level.as_str()),
                    start_s: unit.start_ns as f64 / 1e9,
                    end_s: unit.end_ns as f64 / 1e9,
                })
                .collect(),
            pictures,
            downloads,
        }
    }
}

impl LevelData {
    fn new(level: &LevelDocument, run: &RunDocument, ranked_by: Option<&Metric>) -> Self {
        let units = units_of(run, level);
        let price = |metric: &Metric| Some(metric.of(level, &units)?.interval);
        let summary = &level.summary;
        let slo = units.iter().find_map(|u| u.summary.goodput).map(|g| g.slo);
        let mut pooled = LatencyHistograms::default();
        units
            .iter()
            .for_each(|u| pooled.merge(&u.summary.histograms));
        let tokens = |of: fn(&costmark_metrics::Throughput) -> u64| {
            units.iter().map(|u| of(&u.summary.throughput)).sum()
        };
        Self {
            label: inert_line(&names::in_words(level, &run.plan)),
            short: inert_line(&names::cell(level, &run.plan).replace('\n', " ")),
            concurrency: level.load.concurrency(),
            requests_per_s: match level.load {
                LoadDocument::OpenLoop { requests_per_s, .. } => Some(requests_per_s),
                _ => None,
            },
            output_tok_per_s: summary.output_tok_per_s,
            total_tok_per_s: summary.total_tok_per_s,
            tok_per_s_per_user: summary
                .latency
                .tpot_ms
                .map(|tpot| tpot.p50)
                .filter(|&ms| ms > 0.0)
                .map(|ms| 1e3 / ms),
            ttft_ms: summary.ttft_p50_ms,
            itl_ms: summary.itl_p50_ms,
            slo_ttft_ms: slo.and_then(|s| s.ttft_ms),
            slo_itl_ms: slo.and_then(|s| s.itl_ms),
            slo_tpot_ms: slo.and_then(|s| s.tpot_ms),
            usd_per_mtok_input: level.usd_per_mtok_input,
            usd_per_mtok_output: level.usd_per_mtok_output,
            usd_per_mtok_blended: level.usd_per_mtok_blended,
            usd_per_mtok_at_slo: ["usd_per_mtok_output_at_slo", "usd_per_mtok_blended_at_slo"]
                .into_iter()
                .filter_map(Metric::named)
                .find_map(price),
            usd_ranked: ranked_by.and_then(price),
            input_tokens: tokens(|t| t.input_tokens),
            cached_tokens: tokens(|t| t.cached_tokens),
            output_tokens: tokens(|t| t.output_tokens),
            time: TimeData::new(level, run),
            percentiles: Percentiles {
                ttft: percentiles(&pooled.ttft),
                itl: percentiles(&pooled.itl),
                tpot: percentiles(&pooled.tpot),
                e2e: percentiles(&pooled.e2e),
            },
        }
    }
}

impl TimeData {
    fn new(level: &LevelDocument, run: &RunDocument) -> Option<Self> {
        let units = units_of(run, level);
        // Of all replicas, as the seconds of steps are.
        let seconds = |u: &&UnitDocument| {
            let replicas = u.summary.steps.map_or(1, |s| s.replicas);
            f64::from(replicas) * u.summary.window.seconds
        };
        let all_s: f64 = units.iter().map(seconds).sum();
        let steps: Option<Vec<_>> = units.iter().map(|u| u.summary.steps).collect();
        let steps = steps.filter(|s| !s.is_empty() && all_s > 0.0)?;
        let share = |of: fn(&costmark_metrics::StepSummary) -> f64| {
            steps.iter().map(of).sum::<f64>() / all_s
        };
        let (prefill, decode, mixed) = (
            share(|s| s.prefill.seconds),
            share(|s| s.decode.seconds),
            share(|s| s.mixed.seconds),
        );
        let n = steps.len() as f64;
        Some(Self {
            prefill,
            decode,
            mixed,
            idle: (1.0 - prefill - decode - mixed).max(0.0),
            outside_forward: steps.iter().map(|s| s.outside_forward_share).sum::<f64>() / n,
            decode_mbu: level.summary.decode_mbu.map(|i| i.value),
            prefill_mfu: level.summary.prefill_mfu.map(|i| i.value),
            mbu: level.summary.mbu.map(|i| i.value),
            mfu: level.summary.mfu.map(|i| i.value),
        })
    }
}

/// The quantiles that `n` samples can tell, denser towards the tail: 1 − 10^(−k/10).
fn percentiles(histogram: &LatencyHistogram) -> Vec<(f64, f64)> {
    let n = histogram.n() as f64;
    (0..)
        .map(|k| 1.0 - 10f64.powf(-f64::from(k) / 10.0))
        .take_while(|q| n > 0.0 && (1.0 - q) * n >= 1.0)
        .filter_map(|q| Some((q, histogram.quantile_ns(q)? as f64 / 1e6)))
        .collect()
}
