//! A GPU during a run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The GPU over the window of a unit, from the samples in `telemetry.jsonl`. What the driver does
/// not tell is absent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuDocument {
    /// Its number as the CUDA driver counts, where several computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<u32>,
    /// Samples inside.
    pub samples: u64,
    /// Mean power.
    pub power_w: Option<f64>,
    /// Mean clock of the multiprocessors.
    pub sm_mhz: Option<f64>,
    /// Lowest such clock.
    pub min_sm_mhz: Option<f64>,
    /// Highest temperature.
    pub max_temperature_c: Option<f64>,
    /// Most memory in use by whomever.
    pub max_used_bytes: Option<u64>,
    /// Share of samples in which the power limit held clocks down.
    pub power_throttled_share: Option<f64>,
    /// Share of samples in which heat did.
    pub heat_throttled_share: Option<f64>,
    /// Share of samples in which hardware did: power brake, too much current, a GPU it is tied to.
    pub hardware_throttled_share: Option<f64>,
    /// Most other processes that held memory of it.
    pub max_other_processes: Option<u32>,
}

/// The GPU at one moment, in a line of `telemetry.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuLine {
    /// Its number as the CUDA driver counts, where several compute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<u32>,
    /// Energy since the first sample, by the GPU's own counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// Power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<f64>,
    /// Clock of the multiprocessors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm_mhz: Option<f64>,
    /// Clock of the memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mhz: Option<f64>,
    /// Temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    /// Memory in use by whomever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// The power limit holds clocks down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_throttled: Option<bool>,
    /// Heat does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heat_throttled: Option<bool>,
    /// Hardware does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_throttled: Option<bool>,
    /// Other processes that hold memory of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_processes: Option<u32>,
}
