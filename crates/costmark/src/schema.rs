//! `costmark schema`: the shapes of files, as JSON Schemas.

// Comments on arguments are help texts, word for word, not Markdown.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use clap::{Args, ValueEnum};
use costmark_report::schema::SCHEMAS;
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};
use crate::output;

/// Made from the flags of `costmark run`; a test keeps it so.
const PLAN: &str = include_str!("../../../configs/plans/plan.schema.json");

/// Which schema.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct SchemaArgs {
    /// Of which file [default: all, in one object by these names]
    file: Option<Kind>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// run.json
    Run,
    /// Each line of requests.jsonl
    Request,
    /// Each line of steps.jsonl
    Step,
    /// Each line of telemetry.jsonl
    Telemetry,
    /// A plan file, as costmark run --plan reads it
    Plan,
}

/// Runs the command.
pub(crate) fn run(args: SchemaArgs) -> Result<()> {
    let mut all: Map<String, Value> = SCHEMAS
        .iter()
        .map(|schema| (schema.name.to_owned(), schema.schema()))
        .collect();
    all.insert(
        "plan".into(),
        serde_json::from_str(PLAN).map_err(Failure::run)?,
    );
    let Some(kind) = args.file.and_then(|kind| kind.to_possible_value()) else {
        return output::json(&all);
    };
    output::json(&all.remove(kind.get_name()).unwrap_or_default())
}
