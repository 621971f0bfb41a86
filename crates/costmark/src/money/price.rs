//! `costmark price`: a run that was measured, at any price of time.

use std::path::PathBuf;

use clap::Args;
use costmark_econ::{ClassCosts, Usage};
use costmark_report::money::{EnergyLine, PriceReport, PricedLevel, fitted_loads, price_table};

use crate::failure::{Failure, Result};
use crate::money::books::Books;
use crate::money::terms::{Terms, TermsArgs};
use crate::money::{headline, load, run_notes};
use crate::output;

/// A run at another price.
#[derive(Debug, Clone, Args)]
pub(crate) struct PriceRunArgs {
    /// Folder of a run
    pub(crate) run: PathBuf,
    #[command(flatten)]
    pub(crate) terms: TermsArgs,
    /// Read these price books too; their entries come before the built-in ones
    #[arg(long, value_name = "FILE", help_heading = "Price of time")]
    pub(crate) prices: Vec<PathBuf>,

    /// Prompt tokens of a request, for the cost of usage
    #[arg(
        long,
        value_name = "N",
        requires = "usage_output",
        help_heading = "Usage"
    )]
    pub(crate) usage_input: Option<f64>,
    /// Of these, tokens from the prefix cache
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0.0,
        requires = "usage_input"
    )]
    #[arg(help_heading = "Usage")]
    pub(crate) usage_cached: f64,
    /// Output tokens of a request
    #[arg(
        long,
        value_name = "N",
        requires = "usage_input",
        help_heading = "Usage"
    )]
    pub(crate) usage_output: Option<f64>,
    /// Requests of a conversation
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5.0,
        requires = "usage_input"
    )]
    #[arg(help_heading = "Usage")]
    pub(crate) requests_per_conversation: f64,
    /// Conversations of a user in a month
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20.0,
        requires = "usage_input"
    )]
    #[arg(help_heading = "Usage")]
    pub(crate) conversations_per_month: f64,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &PriceRunArgs) -> Result<()> {
    let books = Books::load(&args.prices)?;
    let run = load(&args.run)?;
    if run.levels.is_empty() {
        return Err(Failure::input(format!(
            "{}: the run measured no level, so there is nothing to price",
            args.run.display()
        )));
    }
    let terms = Terms::resolve(&args.terms, &run, &books)?;
    let levels: Vec<PricedLevel> = run
        .levels
        .iter()
        .map(|level| PricedLevel::of(&run, level, &terms.cost))
        .collect();
    let (usage, usage_at) = usage(args, &levels)?.unzip();
    let mut notes = terms.caveats;
    notes.extend(run_notes(&run));
    if levels.iter().any(|l| l.usd_per_mtok_output.is_none())
        && let Some(reason) = run.units.iter().find_map(|u| u.cost_note.as_ref())
    {
        notes.push(format!(
            "Input and output are not priced apart by step time: {reason}. Several workloads of \
             different input:output ratio at the same load tell them apart by a fit: run with \
             --workload chat,rag,batch, for example."
        ));
    }
    let TermsArgs {
        pue, usd_per_kwh, ..
    } = args.terms;
    let energy: Vec<EnergyLine> = run
        .levels
        .iter()
        .filter_map(|l| EnergyLine::of(&run, l, terms.power, pue, usd_per_kwh).transpose())
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Failure::input(format!("--pue, --usd-per-kwh: {e}")))?;
    let energy_terms = format!(
        "at ${usd_per_kwh}/kWh and a PUE of {pue}; {}, so it is not added",
        if args.terms.capex.is_some() {
            "the cost of the owned machine holds its power"
        } else {
            "a rental price holds it"
        }
    );
    let report = PriceReport {
        run: headline(&run),
        terms: terms.words,
        usd_per_hour: terms.cost.usd_per_hour(),
        utilization: terms.cost.utilization(),
        share: terms.cost.share(),
        fitted: fitted_loads(&run, &terms.cost),
        levels,
        energy,
        energy_terms,
        usage,
        usage_at,
        notes,
    };
    if args.json {
        output::json(&report)
    } else {
        output::text(&price_table(&report))
    }
}

/// Usage at the level with the cheapest output, of those that say what tokens cost.
fn usage(
    args: &PriceRunArgs,
    levels: &[PricedLevel],
) -> Result<Option<(costmark_econ::UsageCost, String)>> {
    let (Some(input), Some(output)) = (args.usage_input, args.usage_output) else {
        return Ok(None);
    };
    let (level, costs) = levels
        .iter()
        .filter(|level| level.answers)
        .filter_map(|level| {
            let costs = ClassCosts {
                input: level.usd_per_mtok_input?,
                cached: level.usd_per_mtok_cached,
                output: level.usd_per_mtok_output?,
            };
            Some((level, costs))
        })
        .min_by(|a, b| a.1.output.value.total_cmp(&b.1.output.value))
        .ok_or_else(|| {
            Failure::input(
                "--usage-input: the run does not price input and output apart, so only its own mix \
                 has a cost",
            )
        })?;
    let usage = Usage {
        input_per_request: input,
        cached_per_request: args.usage_cached,
        output_per_request: output,
        requests_per_conversation: args.requests_per_conversation,
        conversations_per_user_month: args.conversations_per_month,
    };
    let cost = usage
        .cost(&costs)
        .map_err(|e| Failure::input(format!("--usage-…: {e}")))?;
    let cached = match args.usage_cached {
        0.0 => String::new(),
        n => format!(" ({n} of them cached)"),
    };
    let words = format!(
        "at {}: {input} input{cached} and {output} output tokens a request, {} requests a \
         conversation, {} conversations a user and month",
        level.label, args.requests_per_conversation, args.conversations_per_month
    );
    Ok(Some((cost, words)))
}
