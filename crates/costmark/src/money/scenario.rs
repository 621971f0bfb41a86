//! Scenarios, and the figures of a run that claims and scenarios may name.

use std::path::PathBuf;

use clap::Args;
use costmark_econ::{Measured, Scenario, Speed};
use costmark_report::money::{
    LevelFacts, level_facts, measured, paragraph, scenario_markdown, scenario_table,
};

use crate::failure::{Failure, Result};
use crate::money::books::Books;
use crate::money::margin::interval_of_margin;
use crate::money::terms::{Terms, TermsArgs};
use crate::money::{headline, load, run_notes};
use crate::output;

/// The run that fills measured figures.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Measured run")]
pub(crate) struct ResultArgs {
    /// Folder of a run: fills the measured figures
    #[arg(long, value_name = "RUN")]
    pub(crate) result: Option<PathBuf>,
    /// List price for the margin of the run, e.g. deepinfra/Qwen/Qwen3-32B
    #[arg(long, value_name = "PROVIDER/MODEL", requires = "result")]
    pub(crate) list_price: Option<String>,
    #[command(flatten)]
    pub(crate) terms: TermsArgs,
    /// Read these price books too; their entries come before the built-in ones
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Vec<PathBuf>,
}

/// Figures of a run, and what they are of.
pub(crate) struct MeasuredRun {
    pub(crate) figures: Measured,
    pub(crate) words: Vec<String>,
}

/// The level of the run whose tokens are cheapest, at its terms.
pub(crate) fn measured_of(args: &ResultArgs, books: &Books) -> Result<Option<MeasuredRun>> {
    let Some(folder) = &args.result else {
        return Ok(None);
    };
    let run = load(folder)?;
    let facts = level_facts(&run);
    let level = cheapest(&facts).ok_or_else(|| {
        Failure::input(format!(
            "{}: the run has no level with a cost",
            folder.display()
        ))
    })?;
    let terms = Terms::resolve(&args.terms, &run, books)?;
    let mut figures = measured(level, &terms.cost, terms.accelerators);
    let mut words = vec![
        format!("Run         {}, {}", headline(&run), level.label),
        format!("Price       {}", terms.words.join("; ")),
    ];
    if let Some(reference) = &args.list_price {
        let list = books
            .lists
            .find(reference)
            .map_err(|e| Failure::input(format!("--list-price: {e}")))?;
        let case = crate::money::margin::case(level, &terms.cost, list.clone());
        let margin = case.margin().map_err(Failure::input)?;
        figures.insert(
            "gross_margin".into(),
            interval_of_margin(&case, level).map_err(Failure::input)?,
        );
        figures.insert(
            "revenue_usd_per_mtok".into(),
            costmark_core::Interval::point(margin.revenue_usd_per_mtok),
        );
        words.push(format!("List price  {}", list.describe()));
        words.extend(
            list.caveats(crate::money::today())
                .into_iter()
                .map(|c| format!("Note        {c}")),
        );
    }
    let notes = terms.caveats.into_iter().chain(run_notes(&run));
    words.extend(notes.map(|n| format!("Note        {n}")));
    Ok(Some(MeasuredRun { figures, words }))
}

/// Lines whose first twelve columns are a label, folded beside it.
pub(crate) fn folded(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| match line.split_at_checked(12) {
            Some((label, content)) => paragraph(label, content),
            None => format!("{line}\n"),
        })
        .collect()
}

/// The level whose output, or else any token, takes least time, of those that say what tokens cost.
pub(crate) fn cheapest(levels: &[LevelFacts]) -> Option<&LevelFacts> {
    let time = |l: &LevelFacts| match l.speed {
        Speed::Classes { output_s, .. } => output_s,
        Speed::Blended { token_s } => token_s,
    };
    let answering = levels.iter().filter(|l| l.answers);
    answering.min_by(|a, b| time(a).total_cmp(&time(b)))
}

/// Runs a scenario with the user's figures.
pub(crate) fn run(
    reference: &str,
    set: &[String],
    measured: Option<MeasuredRun>,
    json: bool,
    markdown: bool,
) -> Result<()> {
    let mut scenario =
        Scenario::find(reference).map_err(|e| Failure::input(format!("--scenario {e}")))?;
    let mut names = Vec::new();
    for text in set {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Failure::input(format!(
                "--set `{text}`: write NAME=NUMBER, such as revenue=9e9"
            ))
        })?;
        let value: f64 = value
            .trim()
            .parse()
            .map_err(|_| Failure::input(format!("--set `{text}`: `{value}` is not a number")))?;
        scenario
            .sheet
            .set(name.trim(), value)
            .map_err(|e| Failure::input(format!("--set: {}: {e}", scenario.file)))?;
        names.push(name.trim().to_string());
    }
    let computed = scenario
        .sheet
        .compute(measured.as_ref().map(|m| &m.figures))
        .map_err(|e| Failure::input(format!("{}: {e}", scenario.file)))?;
    let words = measured.map(|m| m.words).unwrap_or_default();
    if json {
        return output::json(&serde_json::json!({
            "scenario": scenario.name, "title": scenario.title, "source": scenario.source,
            "as_of": scenario.as_of, "assumptions": scenario.assumptions,
            "inputs": scenario.sheet.inputs, "set": names, "result": words,
            "outcomes": computed.outcomes, "missing": computed.missing, "what_if": true,
        }));
    }
    let mut text = if markdown {
        scenario_markdown(&scenario, &computed, &names)
    } else {
        scenario_table(&scenario, &computed, &names)
    };
    text += &folded(&words);
    output::text(&text)
}
