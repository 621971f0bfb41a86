//! The verbs of money: price books, a run at another price, margins, claims, machines compared.

pub(crate) mod books;
pub(crate) mod claims;
pub(crate) mod margin;
pub(crate) mod price;
pub(crate) mod prices;
pub(crate) mod rank;
mod scenario;
mod terms;

use std::path::Path;

use costmark_report::{RunDocument, read_document};

use crate::failure::{Failure, Result};

/// Today, UTC. Arithmetic gets the day as an argument.
pub(crate) fn today() -> jiff::civil::Date {
    jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date()
}

/// The result in a run folder. Money follows from its summaries: raw lines are not read, of which
/// there may be millions.
fn load(folder: &Path) -> Result<RunDocument> {
    // Whatever is wrong with it, it is the folder that was named.
    read_document(folder).map_err(Failure::input)
}

/// What was measured where, in a line.
fn headline(run: &RunDocument) -> String {
    format!(
        "{} on {}, measured {}",
        models(run),
        run.environment.label,
        run.started_at.get(..10).unwrap_or(&run.started_at)
    )
}

/// The models and how their weights are held.
fn models(run: &RunDocument) -> String {
    let models: Vec<String> = run
        .backends
        .iter()
        .map(|b| {
            let synthetic = if b.synthetic { "SYNTHETIC " } else { "" };
            format!("{}, {synthetic}{} weights,", b.model, b.weight_dtype)
        })
        .collect();
    models.join(" and ")
}

/// What must be known of a run before its money is believed.
fn run_notes(run: &RunDocument) -> Vec<String> {
    let mut remarks = Vec::new();
    if run.status != costmark_report::Status::Complete {
        remarks.push(format!(
            "The run is not complete: {}.",
            run.failure.as_deref().unwrap_or("it was cut short")
        ));
    }
    if run.tool.build_profile != "release" {
        remarks.push("The run is of a debug build: its speed says nothing.".into());
    }
    if run.backends.iter().any(|b| b.synthetic) {
        remarks.push(
            "Synthetic weights: the speed is that of the model's shape, the text is noise.".into(),
        );
    }
    remarks
}
