//! `costmark recompute`: every figure of a run again, from its raw lines.

// Comments on arguments are help texts, word for word, not Markdown.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::path::PathBuf;

use clap::Args;
use costmark_report::recompute::{TAKEN_AS_STORED, differences, recompute};
use costmark_report::{StoredRun, render_for};

use crate::failure::{Failure, Result};
use crate::output;

/// Differences told one by one; a change of one figure shows in others.
const TOLD: usize = 10;

/// Which run.
#[derive(Debug, Clone, Args)]
pub(crate) struct RecomputeArgs {
    /// Folder of a run
    run: PathBuf,
    /// Print the document as JSON, as run.json would be
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &RecomputeArgs) -> Result<()> {
    let stored = StoredRun::load(&args.run)?;
    let document = recompute(&stored)?;
    if args.json {
        output::json(&document)?;
    } else {
        let remarks: String = stored.remarks.iter().map(|r| format!("{r}\n")).collect();
        output::text(&(render_for(&document, output::columns()) + "\n" + &remarks))?;
    }
    let found = differences(&stored.document, &document);
    if !args.json {
        let words = format!("Taken as stored: {TAKEN_AS_STORED}.");
        output::text(&costmark_report::money::paragraph("", &words))?;
    }
    if found.is_empty() {
        if !args.json {
            output::text("Every other figure in run.json is what the raw lines give.\n")?;
        }
        return Ok(());
    }
    let more = match found.len().saturating_sub(TOLD) {
        0 => String::new(),
        n => format!("\n  and {n} more"),
    };
    Err(Failure::run(format!(
        "{}: {} not what the raw lines give:\n  {}{more}",
        args.run.display(),
        match found.len() {
            1 => "a figure in run.json is".to_owned(),
            n => format!("{n} figures in run.json are"),
        },
        found[..found.len().min(TOLD)].join("\n  "),
    )))
}
