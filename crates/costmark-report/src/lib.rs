//! What a run leaves behind and how it is shown: the run folder with its schema, reading it
//! back, the console table, comparisons, and the page.
//!
//! Nothing is measured, priced or printed here; tables are returned as text.

mod append;
pub mod compare;
mod cost;
pub mod document;
mod error;
mod find;
mod finding;
mod goodput;
mod level_table;
pub mod lines;
pub mod money;
mod names;
pub mod numbers;
pub mod page;
mod read;
pub mod recompute;
pub mod schema;
mod search;
mod store;
mod table;
mod text;

pub use document::{LevelId, RunDocument, SCHEMA_VERSION, Status};
pub use error::{ReportError, Result};
pub use find::{NamedRun, find_runs};
pub use finding::finding;
pub use lines::{Gap, Phase, RequestLine, StepLine, TelemetryLine, UnitTag};
pub use read::{StoredRun, UnitRecords, read_document};
pub use store::{FLUSH_EVERY, REQUESTS_FILE, RUN_FILE, RunFolder, STEPS_FILE, TELEMETRY_FILE};
pub use table::{WIDTH, render, render_for};
pub use text::{inert, inert_line};
