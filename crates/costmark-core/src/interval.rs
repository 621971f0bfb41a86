//! A figure with its uncertainty.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A value and the interval it lies in. Which interval (t over repeats, bootstrap, …)
/// is for whoever makes it to say.
///
/// The ends are absent where there is nothing to tell them from, such as one repeat only.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The estimate.
    pub value: f64,
    /// Lower end.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

impl Interval {
    /// A value of which no interval is known.
    #[must_use]
    pub fn point(value: f64) -> Self {
        Self {
            value,
            low: None,
            high: None,
        }
    }

    /// A value between two ends.
    #[must_use]
    pub fn new(value: f64, low: f64, high: f64) -> Self {
        Self {
            value,
            low: Some(low),
            high: Some(high),
        }
    }
}
