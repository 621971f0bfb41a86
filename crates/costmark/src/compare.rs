//! `costmark compare`: runs side by side, with verdicts and bars.

// Comments on arguments are help texts, word for word, not Markdown.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::path::PathBuf;

use clap::Args;
use costmark_report::compare::{Bar, Metric, compare};
use costmark_report::find_runs;
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::output;

/// What to compare.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompareArgs {
    /// Run folders, or folders that hold some. The first run is the baseline
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Which run to compare with, instead of the first
    #[arg(long, value_name = "RUN")]
    baseline: Option<PathBuf>,
    /// Which figures, e.g. throughput,ttft_p50_ms,usd_per_mtok_output [default: the usual ones]
    #[arg(long, value_name = "METRIC,…", value_delimiter = ',', value_parser = metric)]
    metrics: Vec<&'static Metric>,
    /// Exit with code 1 when this holds for some run and level: `throughput<-5%` is a change
    /// against the baseline that the repeats tell from noise (95 %), `ttft_p50_ms>500` the
    /// figure itself. Runs that did not do the same work are an error. May be repeated
    #[arg(long, value_name = "BAR")]
    fail_on: Vec<Bar>,
    /// Write Markdown tables
    #[arg(long, group = "form")]
    markdown: bool,
    /// Write CSV with unrounded figures
    #[arg(long, group = "form")]
    csv: bool,
    /// Write JSON
    #[arg(long, group = "form")]
    json: bool,
}

fn metric(name: &str) -> Result<&'static Metric, String> {
    Metric::named(name).ok_or_else(|| {
        format!(
            "no metric is called `{name}`; there are {}",
            Metric::names()
        )
    })
}

/// Runs the command.
pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    let mut paths: Vec<PathBuf> = args.baseline.clone().into_iter().collect();
    paths.extend(args.runs.iter().cloned());
    let runs = find_runs(&paths)?;
    if runs.len() < 2 {
        return Err(Failure::input(
            "only one run was named; name the runs to compare, the baseline first",
        ));
    }
    let mut metrics = args.metrics.clone();
    if !metrics.is_empty() {
        // A bar on a figure that is not shown would be checked against nothing.
        metrics.extend(args.fail_on.iter().map(Bar::metric));
    } else if args.fail_on.iter().any(|bar| !bar.metric().is_default) {
        metrics.extend(Metric::usual());
        metrics.extend(args.fail_on.iter().map(Bar::metric));
    }
    let mut named = std::collections::BTreeSet::new();
    metrics.retain(|metric| named.insert(metric.name));
    let comparison = compare(&runs, &metrics);
    let outcomes: Vec<_> = args
        .fail_on
        .iter()
        .map(|bar| bar.check(&comparison))
        .collect();

    if args.json {
        let mut value = serde_json::to_value(&comparison).map_err(Failure::run)?;
        value["bars"] = json!(outcomes);
        output::json(&value)?;
    } else if args.csv {
        output::text(&comparison.csv())?;
    } else if args.markdown {
        output::text(&comparison.markdown())?;
    } else {
        output::text(&comparison.render())?;
    }
    for outcome in &outcomes {
        if !outcome.unknown.is_empty() {
            return Err(Failure::input(format!(
                "--fail-on {}: cannot be checked for {}",
                outcome.bar,
                outcome.unknown.join("; ")
            )));
        }
    }
    let passed: Vec<String> = outcomes
        .iter()
        .filter(|outcome| !outcome.passed.is_empty())
        .map(|outcome| format!("{} holds for {}", outcome.bar, outcome.passed.join("; ")))
        .collect();
    match passed[..] {
        [] => Ok(()),
        _ => Err(Failure::run(passed.join("; "))),
    }
}
