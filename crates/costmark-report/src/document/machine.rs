//! What the machine did while a unit was measured.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gpu::GpuDocument;

/// The machine over the window of a unit, from the samples in `telemetry.jsonl`. CPU use is in
/// cores: 1.5 is one and a half cores busy all the time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineDocument {
    /// Samples inside.
    pub samples: u64,
    /// Cores costmark kept busy.
    pub own_cores: f64,
    /// Cores other programs of this system kept busy.
    pub other_cores: Option<f64>,
    /// Cores that the hypervisor gave to others though they were wanted here.
    pub steal_cores: Option<f64>,
    /// The same as a share of all that was wanted here.
    pub steal_share: Option<f64>,
    /// Mean frequency.
    pub mhz: Option<f64>,
    /// Lowest frequency.
    pub min_mhz: Option<f64>,
    /// Most resident memory of costmark.
    pub max_rss_bytes: Option<u64>,
    /// Least memory that could still be claimed.
    pub min_available_bytes: Option<u64>,
    /// The GPU that computed, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuDocument>,
    /// The GPUs that computed, where several did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuDocument>,
}

impl MachineDocument {
    /// Every GPU that computed and was sampled.
    pub fn all_gpus(&self) -> impl Iterator<Item = &GpuDocument> {
        self.gpu.iter().chain(&self.gpus)
    }
}

/// Energy over the window of a unit. Only what was counted: never an estimate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnergyDocument {
    /// `rapl` (counters of the processor packages, everything that runs on them included), `nvml`
    /// (the counters of the GPUs that computed, added up, without the machine around them), or
    /// `none`: the system shows no counter.
    pub source: String,
    /// Joules over the window.
    pub joules: Option<f64>,
    /// Joules for each output token of the window.
    pub joules_per_output_token: Option<f64>,
    /// Joules for each token of the window, input and output.
    pub joules_per_token: Option<f64>,
}

/// Another program that used the processor while costmark measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NeighbourDocument {
    /// Its name.
    pub name: String,
    /// CPU seconds it used.
    pub cpu_s: f64,
}

/// A run was taken up again after it had ended early.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resumption {
    /// UTC, RFC 3339.
    pub at: String,
    /// The first unit that was measured after it: its place in the order of units, from 0.
    pub unit: u64,
}
