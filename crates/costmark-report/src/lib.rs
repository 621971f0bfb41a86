//! What a run leaves behind and how it is shown: the run folder with its schema, reading it
//! back, and the console table.
//!
//! Nothing is measured, priced or printed here; tables are returned as text.

mod append;
mod cost;
pub mod document;
mod error;
mod finding;
mod level_table;
pub mod lines;
pub mod money;
mod names;
pub mod numbers;
mod read;
mod store;
mod table;

pub use document::{LevelId, RunDocument, SCHEMA_VERSION, Status};
pub use error::{ReportError, Result};
pub use finding::finding;
pub use lines::{Gap, Phase, RequestLine, StepLine, TelemetryLine, UnitTag};
pub use read::{StoredRun, UnitRecords, read_document};
pub use store::{FLUSH_EVERY, REQUESTS_FILE, RUN_FILE, RunFolder, STEPS_FILE, TELEMETRY_FILE};
pub use table::{WIDTH, render, render_for};
