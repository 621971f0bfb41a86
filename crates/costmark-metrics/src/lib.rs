//! From raw records to figures: latencies, throughput, steady state, utilisation, and
//! intervals over repeats.
//!
//! [`summarise`] turns the records of one unit (one repeat at one load level) into a
//! [`UnitSummary`], and [`summarise_open`] does where requests came whatever became of
//! earlier ones; [`LevelSummary::from_units`] puts the repeats of a level together.
//! All are pure functions of the records: summaries can be recomputed from a stored run
//! at any time and come out the same.
//!
//! Nothing here reads a clock, prints, or knows where records come from.

mod advice;
mod bootstrap;
mod goodput;
mod histogram;
mod latency;
mod level;
mod open_loop;
mod ratio;
mod repeats;
mod steps;
mod throughput;
mod trend;
mod unit;
mod window;

pub use advice::{Advice, AdviceCode, UNUSABLE_CV};
pub use bootstrap::{WithinUnit, block_length, mean_by_blocks};
pub use goodput::{DEFAULT_SLO_SHARE, Goodput, ITL_SHARE, Slo, SloCounts, samples_for_share};
pub use histogram::{HistogramError, LatencyHistogram, LatencySummary, P90_MIN_N, P99_MIN_N};
pub use latency::{LatencyHistograms, LatencySummaries};
pub use level::LevelSummary;
pub use open_loop::{OpenLoad, OpenLoopSummary, Saturation, summarise_open};
pub use ratio::ratio_interval;
pub use repeats::{cv, interval_over_repeats, median_to_mean};
pub use steps::{PhaseSummary, StepSummary};
pub use throughput::{RequestCounts, Throughput};
pub use trend::Trend;
pub use unit::{UnitInput, UnitSummary, summarise};
pub use window::Window;
