//! What was asked for: the command line resolved, the model as served, the price.

use costmark_core::{BackendInfo, BackendKind, ModelShape, ModelWork, Sampling};
use costmark_econ::PriceBasis;
use costmark_metrics::Slo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::canonical::canonical_hash;
use super::load::{LevelId, LevelPlan, ModelDocument, UnitPlan, WorkloadDocument};
use super::search::SearchPlan;

/// The resolved plan: everything that decides what is measured, and in which order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanDocument {
    /// Models, in the order they are loaded.
    pub models: Vec<ModelDocument>,
    /// Workloads.
    pub workloads: Vec<WorkloadDocument>,
    /// Levels: a load, of a workload, on a model.
    pub levels: Vec<LevelPlan>,
    /// Units in the order they are run.
    pub units: Vec<UnitPlan>,
    /// `cpu`, `cuda:N`, or `cuda:0-7` for a replica on each of several GPUs.
    pub device: String,
    /// What serves.
    pub backend: BackendKind,
    /// Compute threads.
    pub threads: u32,
    /// Bytes for keys and values; absent where the backend decides.
    pub kv_budget_bytes: Option<u64>,
    /// How keys and values are held; absent where the backend decides.
    pub kv_dtype: Option<String>,
    /// Tokens per KV block; absent where the backend decides.
    pub block_size: Option<u32>,
    /// Most tokens per step; absent where the backend decides.
    pub max_batched_tokens: Option<u32>,
    /// Most sequences per step; absent where the backend decides.
    pub max_sequences: Option<u32>,
    /// Longest prompt plus output; absent where the model decides.
    pub max_context: Option<u32>,
    /// Prefix reuse.
    pub prefix_cache: bool,
    /// How the mock behaves, where that is what serves.
    pub mock: Option<String>,
    /// The server that was driven and how it was asked; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Repeats.
    pub repeats: u32,
    /// Seed.
    pub seed: u64,
    /// Most warm-up requests per concurrent request; 0 for no warm-up. Absent where warm-up
    /// takes a stated time.
    pub warmup_requests_per_slot: Option<u32>,
    /// Stated time of the warm-up.
    pub warmup_s: Option<f64>,
    /// Exact lengths: end-of-sequence tokens do not stop a request.
    pub ignore_eos: bool,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Limits a request must meet to count as goodput.
    pub slo: Option<Slo>,
    /// Search for the highest rate within them; `levels` and `units` are then what was measured
    /// so far, and not part of [`hash`](Self::hash).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goodput_search: Option<SearchPlan>,
    /// Share of paid time at the measured load.
    pub utilization: f64,
    /// Share of requests that may fail.
    pub max_errors: f64,
}

impl PlanDocument {
    /// The level of this name.
    #[must_use]
    pub fn level(&self, id: &LevelId) -> Option<&LevelPlan> {
        self.levels.iter().find(|level| level.id == *id)
    }

    /// SHA-256 of the plan in canonical form ([`canonical_hash`]). Runs with equal hashes
    /// ask for the same measurement.
    #[must_use]
    pub fn hash(&self) -> String {
        match self.goodput_search {
            None => canonical_hash(self),
            Some(_) => canonical_hash(&Self {
                levels: Vec::new(),
                units: Vec::new(),
                ..self.clone()
            }),
        }
    }
}

/// What served, as it described itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendDocument {
    /// Which of the plan's models.
    pub model_id: String,
    /// What serves.
    pub kind: BackendKind,
    /// Name of the model.
    pub model: String,
    /// Where the weights came from.
    pub source: String,
    /// The weights are random numbers.
    pub synthetic: bool,
    /// How weights are held.
    pub weight_dtype: String,
    /// How keys and values are held.
    pub kv_dtype: String,
    /// Where it runs.
    pub device: String,
    /// Engines that served side by side, each with the whole model; left out where there was one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub replicas: u32,
    /// What computes, with version.
    pub software: String,
    /// Dimensions.
    pub shape: Option<ModelShape>,
    /// What a step must move and compute.
    pub work: Option<ModelWork>,
    /// Longest prompt plus output, in tokens.
    pub max_context: u32,
    /// Most sequences in a step, summed over replicas.
    pub max_sequences: u32,
    /// Tokens that fit into the KV cache, summed over replicas.
    pub kv_capacity_tokens: u64,
    /// Bytes held by weights, summed over replicas.
    pub weight_bytes: u64,
    /// Facts a reader must know.
    pub notes: Vec<String>,
}

fn one() -> u32 {
    1
}

fn is_one(n: &u32) -> bool {
    *n == 1
}

impl BackendDocument {
    /// What `info` says, of the plan's model of this id.
    #[must_use]
    pub fn new(model_id: &str, info: &BackendInfo) -> Self {
        Self {
            model_id: model_id.to_owned(),
            kind: info.kind,
            model: info.model.clone(),
            source: info.source.clone(),
            synthetic: info.synthetic,
            weight_dtype: info.weight_dtype.clone(),
            kv_dtype: info.kv_dtype.clone(),
            device: info.device.clone(),
            replicas: info.replicas,
            software: info.software.clone(),
            shape: info.shape,
            work: info.work,
            max_context: info.max_context,
            max_sequences: info.max_sequences,
            kv_capacity_tokens: info.kv_capacity_tokens,
            weight_bytes: info.weight_bytes,
            notes: info.notes.clone(),
        }
    }
}

/// What an hour of the machine costs, and who says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceDocument {
    /// The whole machine.
    pub usd_per_hour: f64,
    /// `provider/instance@region:term`.
    pub reference: String,
    /// Stated by the user, from a price book, per vCPU, per accelerator, or like a machine with as
    /// many.
    pub basis: PriceBasis,
    /// The full account: how the figure came about, with source and date.
    pub explanation: String,
    /// Date of the figure, YYYY-MM-DD.
    pub as_of: String,
    /// Where the figure stands.
    pub source: String,
    /// Share of paid time at the measured load.
    pub utilization: f64,
    /// What makes the figure doubtful.
    pub suspect: Option<String>,
}

impl PriceDocument {
    /// Where the figure comes from, in a few words.
    #[must_use]
    pub fn short_source(&self) -> String {
        match &self.basis {
            PriceBasis::Stated => "stated by user".into(),
            PriceBasis::Book { .. } => format!("{}, {}", self.reference, self.as_of),
            PriceBasis::PerVcpu { instance, .. } => {
                format!("default: per vCPU like {instance}, {}", self.as_of)
            }
            PriceBasis::PerAccelerator { instance, .. } => {
                format!("default: per GPU like {instance}, {}", self.as_of)
            }
            PriceBasis::WithAccelerators { instance, .. } => {
                format!("default: like {instance}, {}", self.as_of)
            }
        }
    }
}
