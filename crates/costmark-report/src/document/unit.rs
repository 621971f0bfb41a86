//! What came out: units, levels, their cost.

use costmark_core::{Interval, Roofline, ServerMetrics};
use costmark_metrics::{LevelSummary, UnitSummary};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::environment::DatasheetDocument;
use super::load::{LevelId, LoadDocument};
use super::machine::{EnergyDocument, MachineDocument};

/// One level once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnitDocument {
    /// Which of the plan's levels.
    pub level: LevelId,
    /// Counts from 0.
    pub repeat: u32,
    /// Begin of the measurement.
    pub start_ns: u64,
    /// End of the measurement.
    pub end_ns: u64,
    /// It ran to its planned end.
    pub complete: bool,
    /// It counts in its level: it ended without an error, planned or stopped by the user.
    pub usable: bool,
    /// Its warm-up.
    pub warmup: WarmupDocument,
    /// What was measured.
    pub summary: UnitSummary,
    /// The peaks its MBU and MFU are shares of, of one replica; absent where none were measured
    /// because the model is not computed on this machine.
    pub roofline: Option<Roofline>,
    /// The same use as shares of what the vendor states; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_datasheet: Option<DatasheetUse>,
    /// What the machine did in its window; absent where time was simulated.
    pub machine: Option<MachineDocument>,
    /// What the server told of its own work meanwhile, warm-up included; absent where none was
    /// driven or it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerMetrics>,
    /// What energy its window took.
    pub energy: EnergyDocument,
    /// What its window cost; absent with a reason.
    pub cost: Option<UnitCost>,
    /// Why there is no cost, or no split of it.
    pub cost_note: Option<String>,
}

/// Use of the machine over a window against [`Environment::datasheet`](super::Environment::datasheet).
/// Modelled, as [`StepSummary`](costmark_metrics::StepSummary) has it against the measured peaks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasheetUse {
    /// Bytes that had to move ÷ (time × stated bandwidth).
    pub mbu: f64,
    /// FLOPs that had to be done ÷ (time × stated FLOP/s); absent where none are stated.
    pub mfu: Option<f64>,
}

impl DatasheetUse {
    /// From the use of the measured peaks.
    #[must_use]
    pub fn of(
        summary: &UnitSummary,
        measured: Option<&Roofline>,
        stated: Option<&DatasheetDocument>,
    ) -> Option<Self> {
        let (steps, measured, stated) = (summary.steps?, measured?, stated?);
        // Peaks are measured of one replica and stated of all devices.
        let all = f64::from(steps.replicas);
        Some(Self {
            mbu: steps.mbu? * all * measured.read_bytes_per_s / stated.read_bytes_per_s,
            mfu: stated
                .flops_per_s
                .zip(steps.mfu)
                .map(|(stated, mfu)| mfu * all * measured.flops_per_s / stated),
        })
    }
}

/// How a warm-up went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmupDocument {
    /// Warm-up requests sent.
    pub requests: u64,
    /// Of these, failed.
    pub failed: u64,
    /// How long it took.
    pub duration_ns: u64,
    /// Step times had settled when the measurement began.
    pub settled: bool,
}

/// What the window of one unit cost.
///
/// `usd_input + usd_cached + usd_output = usd` when the phases could be told apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnitCost {
    /// Length of the window.
    pub window_s: f64,
    /// Whole cost of the window.
    pub usd: f64,
    /// Charged to computed prompt tokens.
    pub usd_input: Option<f64>,
    /// Charged to prompt tokens from the prefix cache.
    pub usd_cached: Option<f64>,
    /// Charged to output tokens.
    pub usd_output: Option<f64>,
    /// Of the three together, what the time in which no step ran costs.
    pub usd_idle: Option<f64>,
    /// Step time spent on prompts; of several replicas their mean, as in the next three.
    pub prefill_s: Option<f64>,
    /// Step time spent on generation.
    pub decode_s: Option<f64>,
    /// Time in which no step ran.
    pub idle_s: Option<f64>,
    /// Time in steps with both phases, split by what each would take alone.
    pub mixed_s: Option<f64>,
    /// Prompt tokens of the window, those from the prefix cache included.
    pub input_tokens: u64,
    /// Of these, tokens from the prefix cache.
    pub cached_tokens: u64,
    /// Output tokens of the window.
    pub output_tokens: u64,
    /// Per million computed prompt tokens.
    pub usd_per_mtok_input: Option<f64>,
    /// Per million cached prompt tokens.
    pub usd_per_mtok_cached: Option<f64>,
    /// Per million output tokens.
    pub usd_per_mtok_output: Option<f64>,
    /// Per million tokens of any kind.
    pub usd_per_mtok_blended: Option<f64>,
}

/// One level over its repeats: medians with 95 % t-intervals.
///
/// A `usd_per_mtok` is absent where a repeat could not be priced so, such as cached input
/// without a prefix in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LevelDocument {
    /// Its name in the plan.
    pub id: LevelId,
    /// Which of the plan's models.
    pub model: String,
    /// Which of the plan's workloads.
    pub workload: String,
    /// How requests came.
    pub load: LoadDocument,
    /// Repeats measured.
    pub repeats: u32,
    /// What was measured.
    pub summary: LevelSummary,
    /// Per million computed prompt tokens.
    pub usd_per_mtok_input: Option<Interval>,
    /// Per million cached prompt tokens.
    pub usd_per_mtok_cached: Option<Interval>,
    /// Per million output tokens.
    pub usd_per_mtok_output: Option<Interval>,
    /// Per million tokens of any kind.
    pub usd_per_mtok_blended: Option<Interval>,
    /// Shares of the windows' cost, summed over repeats.
    pub attribution: Option<Attribution>,
}

/// Where the money of a level went. The first three add up to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attribution {
    /// Share of computed prompt tokens.
    pub input_share: f64,
    /// Share of cached prompt tokens.
    pub cached_share: f64,
    /// Share of output tokens.
    pub output_share: f64,
    /// Share of paid time in which no step ran, spread over the three.
    pub idle_share: f64,
    /// Share of step time in steps with both phases.
    pub mixed_step_share: f64,
}

/// Something the user could do for a better measurement as a whole. Advice on a level is
/// in its summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdviceDocument {
    /// Stable name, e.g. `bandwidth_drift`.
    pub code: String,
    /// What was seen and which flag helps.
    pub message: String,
}
