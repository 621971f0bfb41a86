//! `costmark claims`: published claims, recomputed.

use std::path::PathBuf;

use clap::Args;
use costmark_econ::{CheckedClaim, ClaimFile};
use costmark_report::money::{claims_markdown, claims_table};

use crate::failure::{Failure, Result};
use crate::money::books::Books;
use crate::money::scenario::{ResultArgs, folded, measured_of};
use crate::output;

/// Which claims.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClaimsArgs {
    /// Claims of your own instead of the built-in ones (as in configs/claims/)
    pub(crate) files: Vec<PathBuf>,
    /// Only claims whose id holds this
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,
    #[command(flatten)]
    pub(crate) result: ResultArgs,
    /// Print Markdown
    #[arg(long, conflicts_with = "json", help_heading = "Output")]
    pub(crate) markdown: bool,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &ClaimsArgs) -> Result<()> {
    let files = if args.files.is_empty() {
        ClaimFile::embedded().map_err(Failure::input)?
    } else {
        args.files
            .iter()
            .map(|path| ClaimFile::load(path).map_err(Failure::input))
            .collect::<Result<_>>()?
    };
    let books = Books::load(&args.result.prices)?;
    let run = measured_of(&args.result, &books)?;
    let measured = run.as_ref().map(|r| &r.figures);
    let mut checked: Vec<(&ClaimFile, Vec<CheckedClaim>)> = Vec::new();
    for file in &files {
        let mut claims = file.check(measured).map_err(Failure::input)?;
        if let Some(part) = &args.only {
            claims.retain(|c| c.id.contains(part.as_str()));
        }
        if !claims.is_empty() {
            checked.push((file, claims));
        }
    }
    if checked.is_empty() {
        return Err(Failure::input(format!(
            "--only {}: no claim of that name; leave it out to see all",
            args.only.as_deref().unwrap_or_default()
        )));
    }
    let words = run.map(|r| r.words).unwrap_or_default();
    if args.json {
        let files: Vec<serde_json::Value> = checked
            .iter()
            .map(|(file, claims)| {
                serde_json::json!({
                    "file": file.file, "title": file.title, "source": file.source,
                    "as_of": file.as_of, "claims": claims,
                })
            })
            .collect();
        return output::json(&serde_json::json!({ "result": words, "files": files }));
    }
    let lead = folded(&words);
    let table = if args.markdown {
        claims_markdown(&checked)
    } else {
        claims_table(&checked)
    };
    if lead.is_empty() {
        output::text(&table)
    } else if args.markdown {
        output::text(&format!("{table}\n## The measured run\n\n{lead}"))
    } else {
        output::text(&format!("{table}\n{lead}"))
    }
}
