//! One unit (one repeat at one load level) in figures.

use costmark_core::{RequestRecord, Roofline, StepRecord};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bootstrap::WithinUnit;
use crate::goodput::{Goodput, Slo};
use crate::latency::{LatencyHistograms, LatencySummaries};
use crate::open_loop::OpenLoopSummary;
use crate::steps::StepSummary;
use crate::throughput::{RequestCounts, Throughput};
use crate::window::Window;

/// The raw records of a unit.
#[derive(Debug, Clone, Copy)]
pub struct UnitInput<'a> {
    /// Requests that were to be in flight, if the load was given so.
    pub concurrency: Option<u32>,
    /// Begin of the measured time.
    pub start_ns: u64,
    /// End of the measured time.
    pub end_ns: u64,
    /// Measured requests: latencies and counts are theirs.
    pub requests: &'a [RequestRecord],
    /// Warm-up and cool-down requests in flight within the measured time: they count
    /// towards throughput and concurrency.
    pub background: &'a [RequestRecord],
    /// Steps, if the backend can see them. Those outside the window are ignored.
    pub steps: &'a [StepRecord],
    /// Replicas that ran them side by side, at least 1.
    pub replicas: u32,
    /// Peaks of one replica measured nearest to this unit; without them there is no MBU and MFU.
    pub roofline: Option<Roofline>,
    /// Limits for goodput, if any were given.
    pub slo: Option<Slo>,
}

/// One unit in figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnitSummary {
    /// Requests that were to be in flight, if the load was given so.
    pub concurrency_target: Option<u32>,
    /// Where figures per second come from.
    pub window: Window,
    /// What became of the measured requests.
    pub requests: RequestCounts,
    /// Tokens and rates of the window.
    pub throughput: Throughput,
    /// Latencies of measured requests.
    pub latency: LatencySummaries,
    /// What the step log tells; `None` without one.
    pub steps: Option<StepSummary>,
    /// How sharp this unit's own figures are: 95 % intervals from within it. `None` for a
    /// window of no length.
    pub within: Option<WithinUnit>,
    /// Throughput within limits; `None` where none were given.
    pub goodput: Option<Goodput>,
    /// Offered and delivered load; `None` of a closed loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_loop: Option<OpenLoopSummary>,
    /// The distributions behind `latency`, for merging.
    pub histograms: LatencyHistograms,
}

/// Takes all statistics of a unit.
#[must_use]
pub fn summarise(input: &UnitInput<'_>) -> UnitSummary {
    let all = || input.requests.iter().chain(input.background);
    let window = Window::find(all(), input.concurrency, input.start_ns, input.end_ns);
    let throughput = Throughput::in_window(&window, all());
    let mut histograms = LatencyHistograms::default();
    histograms.record_all(input.requests);
    UnitSummary {
        concurrency_target: input.concurrency,
        requests: RequestCounts::of(input.requests),
        latency: histograms.summaries(),
        steps: StepSummary::in_window(&window, input.steps, input.replicas.max(1), input.roofline),
        goodput: input
            .slo
            .and_then(|slo| Goodput::of(slo, input.requests, &throughput)),
        open_loop: None,
        within: WithinUnit::of(input, &window),
        window,
        throughput,
        histograms,
    }
}
