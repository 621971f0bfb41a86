//! Where it ran and what measured: machine, peaks, tool, overhead.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::machine::NeighbourDocument;

/// The program that measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// `costmark`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The commit it was built from; absent when built outside a checkout.
    pub git_revision: Option<String>,
    /// Tracked files differed from that commit.
    pub git_dirty: bool,
    /// `release` or `debug`.
    pub build_profile: String,
    /// Target triple.
    pub target: String,
}

/// The machine and its peaks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// For humans, e.g. `AMD EPYC 7B13, 2 of 2 threads, 23 GiB`.
    pub label: String,
    /// Identity and limits as `costmark probe --json` prints them.
    pub machine: serde_json::Value,
    /// Peaks in the order they were measured: before, between and after the repeats.
    pub peaks: Vec<PeakReading>,
    /// What the vendor states of the processors that computed, where that is known; absent otherwise
    /// and where the model is not computed on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datasheet: Option<DatasheetDocument>,
    /// Greatest over smallest read bandwidth, minus 1; absent with fewer than two readings.
    pub read_bandwidth_drift: Option<f64>,
    /// Share of wanted CPU time that the hypervisor gave to others during the run.
    pub steal_share: Option<f64>,
    /// CPU seconds of the run used by other programs on this system.
    pub other_cpu_s: Option<f64>,
    /// The programs that used most of that and 1 % of a core at least, the busiest first, as far as
    /// they can be seen.
    pub neighbours: Vec<NeighbourDocument>,
    /// Most memory the process held, as the system counts it.
    pub peak_rss_bytes: Option<u64>,
}

/// What a vendor states of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasheetDocument {
    /// The device, e.g. `EPYC 9004`.
    pub name: String,
    /// How many of it.
    pub devices: u32,
    /// Memory bandwidth of all of them, whole. A virtual machine shares it with others.
    pub read_bytes_per_s: f64,
    /// Dense arithmetic of all of them at the data type of the products, where the sheet states it.
    pub flops_per_s: Option<f64>,
    /// The document that states it.
    pub source: String,
    /// Why the figures are to be doubted.
    pub unconfirmed: Option<String>,
}

/// One measurement of the machine's peaks; of several GPUs the mean over them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeakReading {
    /// End of the measurement, from the start of the run.
    pub at_ns: u64,
    /// Read bandwidth.
    pub read_bytes_per_s: RateDocument,
    /// Triad bandwidth, two reads and a write; absent in the quick readings between units.
    pub triad_bytes_per_s: Option<RateDocument>,
    /// Matrix products in f32; absent in the quick readings between units.
    pub f32_flops_per_s: Option<RateDocument>,
    /// Bytes read and written by a copy within the GPU; absent without one and in quick readings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_bytes_per_s: Option<RateDocument>,
    /// Matrix products in bf16 on the GPU; absent without one and in quick readings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bf16_flops_per_s: Option<RateDocument>,
}

/// A rate measured in several passes. The best is the peak.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateDocument {
    /// Best pass.
    pub best: f64,
    /// Median pass.
    pub median: f64,
    /// Worst pass.
    pub worst: f64,
    /// How many passes.
    pub passes: u32,
}

/// What measuring itself costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Overhead {
    /// Time to record one token event, calibrated at the start.
    pub recording_ns_per_token_event: f64,
    /// Smallest step of the clock seen.
    pub timer_resolution_ns: u64,
    /// Time to read the clock.
    pub timer_read_ns: f64,
    /// Share of one core that sampling the machine took; absent where it was not sampled.
    pub telemetry_core_share: Option<f64>,
}
