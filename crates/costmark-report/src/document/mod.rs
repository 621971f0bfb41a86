//! `run.json`: what was measured, on what, at which price, and what it comes to.
//!
//! These are wire types of schema version [`SCHEMA_VERSION`]. Keys carry their unit. A change
//! of any key or meaning raises the version; unknown keys are refused on reading.

mod canonical;
mod environment;
mod gpu;
mod load;
mod machine;
mod plan;
mod search;
mod unit;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use canonical::canonical_hash;
pub use environment::{DatasheetDocument, Environment, Overhead, PeakReading, RateDocument, Tool};
pub use gpu::{GpuDocument, GpuLine};
pub use load::{
    LevelId, LevelPlan, LoadDocument, ModelDocument, TraceDocument, UnitPlan, WorkloadDocument,
};
pub use machine::{EnergyDocument, MachineDocument, NeighbourDocument, Resumption};
pub use plan::{BackendDocument, PlanDocument, PriceDocument};
pub use search::{Limit, ProbeDocument, SearchDocument, SearchPlan, SearchStatus};
pub use unit::{
    AdviceDocument, Attribution, DatasheetUse, LevelDocument, UnitCost, UnitDocument,
    WarmupDocument,
};

/// Version of everything in a run folder.
pub const SCHEMA_VERSION: u32 = 2;

/// The whole result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunDocument {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// How far the run came.
    pub status: Status,
    /// Why it did not complete.
    pub failure: Option<String>,
    /// What measured.
    pub tool: Tool,
    /// The command line, program name first.
    pub command: Vec<String>,
    /// UTC, RFC 3339.
    pub started_at: String,
    /// UTC, RFC 3339; absent while running.
    pub finished_at: Option<String>,
    /// When it was taken up again after it had ended early.
    pub resumed: Vec<Resumption>,
    /// What was asked for, with every default filled in.
    pub plan: PlanDocument,
    /// SHA-256 of `plan` in canonical form: JSON without white space, keys in order.
    pub plan_hash: String,
    /// Where it ran.
    pub environment: Environment,
    /// What served, one entry per model of the plan that was loaded, in that order.
    pub backends: Vec<BackendDocument>,
    /// What an hour costs.
    pub price: PriceDocument,
    /// What measuring itself costs.
    pub overhead: Overhead,
    /// One entry per unit, in the order they ran.
    pub units: Vec<UnitDocument>,
    /// One entry per level that has at least one repeat.
    pub levels: Vec<LevelDocument>,
    /// What the search for the highest rate within the SLO found, per model and workload; absent
    /// where none was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub searches: Vec<SearchDocument>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// What the user could do for a better measurement.
    pub advice: Vec<AdviceDocument>,
    /// The result in a sentence; absent when no level has a cost.
    pub finding: Option<String>,
}

/// How far a run came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Running, or ended without saying why (a crash).
    Incomplete,
    /// All levels and repeats were measured.
    Complete,
    /// The user stopped it.
    Interrupted,
    /// It failed; see `failure`.
    Failed,
}

impl RunDocument {
    /// What served the plan's model of this id.
    #[must_use]
    pub fn backend(&self, model_id: &str) -> Option<&BackendDocument> {
        self.backends.iter().find(|b| b.model_id == model_id)
    }

    /// Whether a level says what tokens cost. All do, but after a search for the highest rate
    /// within the SLO only the rates that it found to hold: the others were tried to find those,
    /// among them rates beyond what is served, and a burst of all requests at once, which no
    /// service can live on.
    #[must_use]
    pub fn answers(&self, level: &LevelDocument) -> bool {
        let held = |search: &SearchDocument| {
            let held = search.held.as_ref();
            held.is_some_and(|probe| probe.level == level.id)
        };
        self.plan.goodput_search.is_none() || self.searches.iter().any(held)
    }

    /// The levels that say what tokens cost ([`answers`](Self::answers)).
    pub fn answering_levels(&self) -> impl Iterator<Item = &LevelDocument> {
        self.levels.iter().filter(|level| self.answers(level))
    }
}
