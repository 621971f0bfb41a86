//! `costmark report`: runs as one page that needs no network.

// Comments on arguments are help texts, word for word, not Markdown.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::path::{Path, PathBuf};

use clap::Args;
use costmark_report::page::{ListPrice, page};
use costmark_report::{NamedRun, find_runs};

use crate::failure::{Failure, Result};
use crate::output;

/// Name of the page in a run folder.
pub(crate) const PAGE_FILE: &str = "report.html";

/// What to show.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReportArgs {
    /// Run folders, or folders that hold some. With several, the page compares them with the first
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Where to write the page; an earlier one is replaced. `-` for stdout
    #[arg(short, long, value_name = "FILE", default_value = PAGE_FILE)]
    output: PathBuf,
    /// What a million input tokens are sold for, USD: where the page's slider starts
    #[arg(long, value_name = "USD", value_parser = usd, requires = "list_output")]
    #[arg(help_heading = "List price")]
    list_input: Option<f64>,
    /// What a million input tokens from the cache are sold for [default: as other input]
    #[arg(long, value_name = "USD", value_parser = usd, requires = "list_input")]
    #[arg(help_heading = "List price")]
    list_cached: Option<f64>,
    /// What a million output tokens are sold for
    #[arg(long, value_name = "USD", value_parser = usd, requires = "list_input")]
    #[arg(help_heading = "List price")]
    list_output: Option<f64>,
}

fn usd(text: &str) -> Result<f64, String> {
    text.trim_start_matches('$')
        .parse::<f64>()
        .ok()
        .filter(|usd| usd.is_finite() && *usd >= 0.0)
        .ok_or_else(|| "expected USD per million tokens, such as 0.55".to_string())
}

impl ReportArgs {
    fn list_price(&self) -> Option<ListPrice> {
        let (input, output) = (self.list_input?, self.list_output?);
        Some(ListPrice {
            input,
            cached: self.list_cached.unwrap_or(input),
            output,
        })
    }
}

/// Runs the command.
pub(crate) fn run(args: &ReportArgs) -> Result<()> {
    let runs = find_runs(&args.runs)?;
    let html = page(&runs, args.list_price().as_ref())?;
    if args.output == Path::new("-") {
        return output::raw(&html);
    }
    write(&args.output, &html).map_err(|e| {
        Failure::input(format!(
            "{}: cannot write the page: {e}. Name a file that can be written with --output",
            args.output.display()
        ))
    })?;
    output::text(&format!("{}\n", args.output.display()))
}

/// Writes the page of a run into its folder and says where it is.
pub(crate) fn write_beside(folder: &Path) -> Result<PathBuf> {
    let runs: Vec<NamedRun> = find_runs(&[folder.to_path_buf()])?;
    let path = folder.join(PAGE_FILE);
    let html = page(&runs, None)?;
    write(&path, &html)
        .map_err(|e| Failure::run(format!("{}: cannot write the page: {e}", path.display())))?;
    Ok(path)
}

/// By rename, so that a reader never sees half a page.
fn write(path: &Path, html: &str) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    let written = std::fs::write(&temporary, html).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // What matters is the error; a leftover temporary file does no harm.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
