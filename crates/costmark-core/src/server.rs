//! What a server tells of its own work.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A span of a server's life in its own words, from its metrics page. What the page does not
/// tell is `None`, never 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerMetrics {
    /// How often the page was read, at the begin and the end of the span included.
    pub readings: u64,
    /// From the first of these readings to the last, in seconds. Counters below grew in it.
    pub span_s: f64,
    /// Largest share of the KV cache in use, of the readings.
    pub kv_use_max: Option<f64>,
    /// Most requests running at once, of the readings.
    pub running_max: Option<f64>,
    /// Most requests waiting at once, of the readings.
    pub waiting_max: Option<f64>,
    /// Share of prompt tokens that the prefix cache had.
    pub cache_hit_share: Option<f64>,
    /// Seconds of prefill. Servers count differently: some sum over requests, which overlap,
    /// some over steps.
    pub prefill_s: Option<f64>,
    /// Prompt tokens in that time.
    pub prefill_tokens: Option<f64>,
    /// Seconds of decode, counted like those of prefill.
    pub decode_s: Option<f64>,
    /// Output tokens in that time.
    pub decode_tokens: Option<f64>,
}
