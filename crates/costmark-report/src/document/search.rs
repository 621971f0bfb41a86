//! The search for the highest rate within an SLO: how it was asked for, and what it found.

use costmark_metrics::{Slo, SloCounts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::load::LevelId;

/// How a search is asked for. The levels of the plan follow from what is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchPlan {
    /// The rate it begins with; absent where a batch tells it.
    pub first_requests_per_s: Option<f64>,
    /// How requests arrive at a rate, e.g. `poisson`.
    pub arrivals: String,
    /// Requests that may be in flight at once.
    pub max_concurrency: Option<u32>,
    /// Measured requests per probe and repeat, at least.
    pub requests: u64,
    /// Time measured per probe and repeat, at least, by the rate; 0 in results of before there was
    /// a least time.
    #[serde(default)]
    pub min_duration_s: f64,
    /// Share of requests that must meet the limits.
    pub share: f64,
    /// The search ends when rates that did and did not hold differ by at most this factor.
    pub bracket: f64,
}

/// What the search on one model and workload has found so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchDocument {
    /// Which of the plan's models.
    pub model: String,
    /// Which of the plan's workloads.
    pub workload: String,
    /// The limits.
    pub slo: Slo,
    /// Share of requests that must meet them.
    pub share: f64,
    /// How it stands.
    pub status: SearchStatus,
    /// Requests per second of a batch sent at once, where that began the search.
    pub batch_requests_per_s: Option<f64>,
    /// The highest rate that held below the lowest that did not: the answer.
    pub held: Option<ProbeDocument>,
    /// The lowest rate that did not hold.
    pub missed: Option<ProbeDocument>,
    /// What `missed` missed: what keeps the rate from being higher.
    pub limit: Option<Limit>,
    /// Every rate that was tried, in order.
    pub probes: Vec<ProbeDocument>,
}

/// How a search stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SearchStatus {
    /// It is not at its end.
    Searching,
    /// `held` and `missed` are close.
    Found,
    /// Not even the lowest rate that was tried held.
    NoneHeld,
    /// Even the highest rate that was tried held.
    AllHeld,
    /// No request of the batch it begins with was finished.
    NoCapacity,
}

/// A rate that was tried. All repeats together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbeDocument {
    /// Its level, in which all of its figures are.
    pub level: LevelId,
    /// Offered in the long run.
    pub requests_per_s: f64,
    /// Share of requests that met the limits.
    pub attainment: f64,
    /// Which limits they missed.
    pub counts: SloCounts,
    /// Requests per second that met the limits, mean over repeats.
    pub goodput_requests_per_s: f64,
    /// Output tokens per second of these.
    pub goodput_output_tok_per_s: f64,
    /// Requests came faster than they were served, in more than half of the repeats; absent
    /// where that could not be told.
    pub saturated: Option<bool>,
    /// Enough requests met the limits, and they did not pile up.
    pub held: bool,
    /// What it missed, if it did not hold.
    pub limit: Option<Limit>,
}

/// What keeps a rate from holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Time to first token.
    Ttft,
    /// Gaps between tokens.
    Itl,
    /// Mean gap between tokens.
    Tpot,
    /// End-to-end time.
    E2e,
    /// Requests came faster than they were served.
    Saturation,
    /// Requests failed.
    Failures,
    /// The load generator could not send them in time.
    Client,
}

impl Limit {
    /// In words.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ttft => "TTFT",
            Self::Itl => "ITL",
            Self::Tpot => "TPOT",
            Self::E2e => "E2E",
            Self::Saturation => "saturation",
            Self::Failures => "failed requests",
            Self::Client => "the load generator",
        }
    }
}
