//! Which load was put on what: the axes of a plan, and the units that follow from them.
//!
//! A *level* is one load, of one workload, on one model; a *unit* is one repeat of a level.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of a level, unique and stable within a plan: `c16` for 16 requests in flight,
/// `r2.5` for 2.5 requests per second, with workload and model before it where there are
/// several (`chat/c16`). Cheap to copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LevelId(Arc<str>);

impl LevelId {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for LevelId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for LevelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl JsonSchema for LevelId {
    fn schema_name() -> Cow<'static, str> {
        "LevelId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "Name of a level, unique and stable within a plan, such as `c16`."
        })
    }
}

impl Serialize for LevelId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for LevelId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

/// How requests come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LoadDocument {
    /// As many as this are in flight: the instant one ends the next is due.
    ClosedLoop {
        /// Requests kept in flight.
        concurrency: u32,
    },
    /// They are due by a process, whatever became of earlier ones.
    OpenLoop {
        /// Offered in the long run.
        requests_per_s: f64,
        /// The process with its parameters, e.g. `poisson:2.5` or `gamma:2.5,0.25`.
        arrivals: String,
        /// Requests that may be in flight at once; those due beyond it wait and are counted.
        max_concurrency: Option<u32>,
    },
    /// They are due when a recorded trace had them.
    Trace {
        /// Played so many times faster than it was recorded.
        time_scale: f64,
        /// Requests that may be in flight at once; those due beyond it wait and are counted.
        max_concurrency: Option<u32>,
    },
    /// All are due at once: how fast can a batch be done?
    MaxThroughput {
        /// Requests that may be in flight at once; the others wait and are counted.
        max_concurrency: Option<u32>,
    },
}

impl LoadDocument {
    /// Requests kept in flight, of a closed loop.
    #[must_use]
    pub fn concurrency(&self) -> Option<u32> {
        match self {
            Self::ClosedLoop { concurrency } => Some(*concurrency),
            _ => None,
        }
    }

    /// Requests do not wait for each other.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.concurrency().is_none()
    }

    /// In words: `concurrency 16`, `2.5 requests/s`.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::ClosedLoop { concurrency } => format!("concurrency {concurrency}"),
            Self::OpenLoop { requests_per_s, .. } => format!("{requests_per_s} requests/s"),
            Self::Trace { time_scale, .. } if *time_scale == 1.0 => "the trace's times".into(),
            Self::Trace { time_scale, .. } => format!("the trace's times × {time_scale}"),
            Self::MaxThroughput { .. } => "all requests at once".into(),
        }
    }

    /// For a column of a table: `16`, `2.5/s`, `trace`, `max`.
    #[must_use]
    pub fn short(&self) -> String {
        match self {
            Self::ClosedLoop { concurrency } => concurrency.to_string(),
            Self::OpenLoop { requests_per_s, .. } => format!("{requests_per_s}/s"),
            Self::Trace { time_scale, .. } if *time_scale == 1.0 => "trace".into(),
            Self::Trace { time_scale, .. } => format!("trace×{time_scale}"),
            Self::MaxThroughput { .. } => "max".into(),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadDocument {
    /// Unique within the plan.
    pub id: String,
    /// SHA-256 of everything below in canonical form ([`canonical_hash`](super::canonical_hash)):
    /// equal in two runs that ask for the same work.
    pub workload_hash: String,
    /// Where its lengths come from, if that was said.
    pub source: Option<String>,
    /// Prompt lengths.
    pub input_len: String,
    /// Output lengths.
    pub output_len: String,
    /// Correlation of the normal numbers behind the two; absent where they are drawn in
    /// observed pairs.
    pub length_correlation: Option<f64>,
    /// SHA-256 over the lengths in files, as little-endian numbers of 4 bytes.
    pub lengths_sha256: Option<String>,
    /// Tokens all prompts of a unit begin with.
    pub shared_prefix_tokens: u32,
    /// Turns of a conversation; absent where each request stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<String>,
    /// How long users think before the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub think_time: Option<String>,
    /// The trace it is, if it is one.
    pub trace: Option<TraceDocument>,
}

/// The stretch of a trace that is replayed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceDocument {
    /// Where it was read from.
    pub file: String,
    /// Requests.
    pub requests: u64,
    /// Requests left out because they had failed when they were recorded.
    pub failed: u64,
    /// Begin of the stretch, as recorded.
    pub from_s: f64,
    /// End of the stretch, as recorded; absent for the end of the file.
    pub to_s: Option<f64>,
    /// SHA-256 over the requests: of each the instant in ns (8 bytes, little-endian), input and
    /// output tokens (4 bytes each) and block ids (8 bytes each).
    pub requests_sha256: String,
}

/// A model and how its weights are held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelDocument {
    /// Unique within the plan.
    pub id: String,
    /// As given: folder, file, hub id or built-in name.
    pub model: String,
    /// `real` or `synthetic:SEED`.
    pub weights: String,
    /// Float type asked for.
    pub dtype: Option<String>,
    /// Quantisation asked for.
    pub quantize: Option<String>,
}

/// One level as planned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LevelPlan {
    /// Its name.
    pub id: LevelId,
    /// Which of the plan's models.
    pub model: String,
    /// Which of the plan's workloads.
    pub workload: String,
    /// How requests come.
    pub load: LoadDocument,
    /// Measured requests per unit; absent where time ends it.
    pub requests: Option<u64>,
    /// Measured time per unit; absent where a number of requests ends it.
    pub duration_s: Option<f64>,
}

/// One unit as planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnitPlan {
    /// Which level.
    pub level: LevelId,
    /// Counts from 0 in each level.
    pub repeat: u32,
}
