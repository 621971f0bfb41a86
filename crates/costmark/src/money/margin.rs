//! `costmark margin`: at this list price, on this hardware, what is left, and what must change?

use std::path::PathBuf;

use clap::Args;
use costmark_core::Interval;
use costmark_econ::margin::{Needed, needed, needed_hit_rate};
use costmark_econ::{
    CostModel, Lever, ListPrice, MarginCase, MarginError, Range, Speed, memory_factor, monte_carlo,
    tornado,
};
use costmark_report::money::{LevelFacts, MarginReport, level_facts, margin_table};

use crate::failure::{Failure, Result};
use crate::money::books::Books;
use crate::money::scenario::{self, ResultArgs};
use crate::money::terms::{Terms, TermsArgs};
use crate::money::{headline, load, run_notes, today};
use crate::output;

/// A margin.
#[derive(Debug, Clone, Args)]
pub(crate) struct MarginArgs {
    /// Folder of a run
    #[arg(required_unless_present = "scenario")]
    pub(crate) run: Option<PathBuf>,
    /// What the tokens are sold for, e.g. deepinfra/Qwen/Qwen3-32B
    #[arg(long, value_name = "PROVIDER/MODEL", help_heading = "List price")]
    pub(crate) list_price: Option<String>,
    /// Or: USD per million input tokens
    #[arg(
        long,
        value_name = "USD",
        conflicts_with = "list_price",
        requires = "list_output"
    )]
    #[arg(help_heading = "List price", allow_negative_numbers = true)]
    pub(crate) list_input: Option<f64>,
    /// USD per million input tokens read from the prompt cache
    #[arg(long, value_name = "USD", requires = "list_input")]
    #[arg(help_heading = "List price", allow_negative_numbers = true)]
    pub(crate) list_cached: Option<f64>,
    /// USD per million output tokens
    #[arg(long, value_name = "USD", requires = "list_input")]
    #[arg(help_heading = "List price", allow_negative_numbers = true)]
    pub(crate) list_output: Option<f64>,
    /// Read these price books too; their entries come before the built-in ones
    #[arg(long, value_name = "FILE", help_heading = "List price")]
    pub(crate) prices: Vec<PathBuf>,

    /// The level to take, by its load, e.g. "concurrency 16" or 16 [default: the cheapest output]
    #[arg(long, value_name = "LOAD", help_heading = "Mix")]
    pub(crate) level: Option<String>,
    /// Share of input read from the prompt cache [default: as measured]
    #[arg(
        long,
        value_name = "SHARE",
        help_heading = "Mix",
        allow_negative_numbers = true
    )]
    pub(crate) cached_share: Option<f64>,
    /// Share of input written to the prompt cache
    #[arg(
        long,
        value_name = "SHARE",
        help_heading = "Mix",
        allow_negative_numbers = true
    )]
    pub(crate) cache_write_share: Option<f64>,
    /// Share of tokens sold as deferred batches
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.0,
        help_heading = "Mix"
    )]
    #[arg(allow_negative_numbers = true)]
    pub(crate) batch_share: f64,

    /// Free use, as a share of paid inference
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.0,
        help_heading = "Cost of sales"
    )]
    #[arg(allow_negative_numbers = true)]
    pub(crate) free_share: f64,
    /// Part of revenue that goes to others
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.0,
        help_heading = "Cost of sales"
    )]
    #[arg(allow_negative_numbers = true)]
    pub(crate) revenue_share: f64,
    /// Other cost of sales, USD per million tokens sold
    #[arg(
        long,
        value_name = "USD",
        default_value_t = 0.0,
        help_heading = "Cost of sales"
    )]
    #[arg(allow_negative_numbers = true)]
    pub(crate) other_cost: f64,
    /// Inference costs this much over plan, e.g. 0.23
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.0,
        help_heading = "Cost of sales"
    )]
    #[arg(allow_negative_numbers = true)]
    pub(crate) overrun: f64,
    #[command(flatten)]
    pub(crate) terms: TermsArgs,

    /// Margin to reach
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.70,
        help_heading = "Questions"
    )]
    #[arg(allow_negative_numbers = true)]
    pub(crate) target: f64,
    /// Share of capital in the hourly price, to see what dearer memory does
    /// [default: known of an owned machine only]
    #[arg(
        long,
        value_name = "SHARE",
        help_heading = "Questions",
        allow_negative_numbers = true
    )]
    pub(crate) capex_share: Option<f64>,
    /// Draws of the Monte-Carlo
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10_000,
        help_heading = "Questions"
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub(crate) draws: u32,
    /// Seed of the draws
    #[arg(
        long,
        value_name = "SEED",
        default_value_t = 0,
        help_heading = "Questions"
    )]
    pub(crate) seed: u64,

    /// Instead of a margin, a scenario: provider-year, fleet, capital-intensity, memory-shock,
    /// token-multiple, or a file. With a run its measured figures are filled in
    #[arg(long, value_name = "NAME", help_heading = "Scenario")]
    pub(crate) scenario: Option<String>,
    /// Your own figure for an input of the scenario
    #[arg(
        long,
        value_name = "NAME=NUMBER",
        requires = "scenario",
        help_heading = "Scenario"
    )]
    pub(crate) set: Vec<String>,
    /// Print the scenario as Markdown
    #[arg(
        long,
        requires = "scenario",
        conflicts_with = "json",
        help_heading = "Scenario"
    )]
    pub(crate) markdown: bool,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// The case of a level, nothing added.
pub(crate) fn case(level: &LevelFacts, cost: &CostModel, list: ListPrice) -> MarginCase {
    MarginCase {
        cost: *cost,
        speed: level.speed,
        speed_factor: 1.0,
        mix: level.mix,
        list,
        list_factor: 1.0,
        free_share: 0.0,
        revenue_share: 0.0,
        other_usd_per_mtok: 0.0,
        overrun: 1.0,
    }
}

/// Gross margin with the run's interval.
pub(crate) fn interval_of_margin(
    case: &MarginCase,
    level: &LevelFacts,
) -> Result<Interval, MarginError> {
    case.interval(level.factors, |c| Ok(c.margin()?.gross_margin))
}

pub(crate) fn run(args: &MarginArgs) -> Result<()> {
    let books = Books::load(&args.prices)?;
    if let Some(reference) = &args.scenario {
        let result = ResultArgs {
            result: args.run.clone(),
            list_price: args.list_price.clone(),
            terms: args.terms.clone(),
            prices: args.prices.clone(),
        };
        let measured = scenario::measured_of(&result, &books)?;
        return scenario::run(reference, &args.set, measured, args.json, args.markdown);
    }
    let Some(folder) = &args.run else {
        return Err(Failure::input("name the folder of a run"));
    };
    let list = list_price(args, &books)?;
    let run = load(folder)?;
    let facts = level_facts(&run);
    let level = pick(&facts, args.level.as_deref(), folder)?;
    let terms = Terms::resolve(&args.terms, &run, &books)?;
    let at = |level: &LevelFacts| -> Result<MarginCase> {
        let mut case = case(level, &terms.cost, list.clone());
        for (flag, share) in [
            ("--cached-share", args.cached_share),
            ("--cache-write-share", args.cache_write_share),
        ] {
            if let Some(share) = share.filter(|s| !(0.0..=1.0).contains(s)) {
                return Err(Failure::input(format!("{flag} {share} is not in 0 to 1")));
            }
        }
        if let Some(share) = args.cached_share {
            if matches!(case.speed, Speed::Blended { .. })
                && share > 0.0
                && case.mix.cached_read != Some(share * case.mix.input)
            {
                return Err(Failure::input(format!(
                    "--cached-share: {}",
                    MarginError::NotSplit
                )));
            }
            case.mix.cached_read = Some(share * case.mix.input);
        }
        case.mix.cache_write = args.cache_write_share.map(|s| s * case.mix.input);
        case.mix.batch_share = args.batch_share;
        case.free_share = args.free_share;
        case.revenue_share = args.revenue_share;
        case.other_usd_per_mtok = args.other_cost;
        case.overrun = 1.0 + args.overrun;
        Ok(case)
    };
    let base = at(level)?;
    let margin = base.margin().map_err(Failure::input)?;
    let interval = |figure: fn(&MarginCase) -> Result<f64, MarginError>| {
        base.interval(level.factors, figure).map_err(Failure::input)
    };
    let mut levels = Vec::new();
    for other in &facts {
        levels.push((
            other.label.clone(),
            interval_of_margin(&at(other)?, other).ok(),
        ));
    }
    let (ranges, mut assumptions) = ranges(args, &base, level, terms.capital_share);
    assumptions.extend(margin.revenue.assumptions.iter().cloned());
    let outside: Vec<Range> = ranges
        .iter()
        .filter(|r| r.lever != Lever::Throughput)
        .copied()
        .collect();
    let bars = tornado(&base, &ranges);
    let usable: Vec<Range> = outside
        .iter()
        .filter(|r| {
            bars.iter()
                .any(|b| b.range.lever == r.lever && b.reason.is_none())
        })
        .copied()
        .collect();
    let spread = monte_carlo(&base, &usable, level.total_tok_per_s, args.draws, args.seed);
    let mut notes = terms.caveats;
    notes.extend(list.caveats(today()));
    if args.list_price.is_some() && !run.backends.iter().any(|b| list.is_of(&b.model)) {
        notes.push(format!(
            "The list price is that of {}, the run measured {}: the margin holds if what was \
             measured is sold at that price.",
            list.model,
            run.backends
                .iter()
                .map(|b| b.model.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    if let Some(reason) = &level.not_split {
        notes.push(format!("{reason}: only the measured mix has a margin."));
    }
    notes.extend(run_notes(&run));
    let report = MarginReport {
        run: headline(&run),
        level: level.label.clone(),
        list_price: list.describe(),
        terms: terms.words,
        gross_margin: interval(|c| Ok(c.margin()?.gross_margin))?,
        markup: interval(|c| Ok(c.margin()?.markup))?,
        margin,
        levels,
        target: args.target,
        needed: vec![
            needed_report(&base, level, 0.0),
            needed_report(&base, level, args.target),
        ],
        now: now(&base, level),
        tornado: bars,
        no_spread: spread.as_ref().err().map(ToString::to_string),
        spread: spread.ok(),
        assumptions,
        notes,
    };
    if args.json {
        output::json(&report)
    } else {
        output::text(&margin_table(&report))
    }
}

fn list_price(args: &MarginArgs, books: &Books) -> Result<ListPrice> {
    match (&args.list_price, args.list_input, args.list_output) {
        (Some(reference), ..) => books
            .lists
            .find(reference)
            .cloned()
            .map_err(|e| Failure::input(format!("--list-price: {e}"))),
        (None, Some(input), Some(output)) => {
            ListPrice::stated(input, args.list_cached, output, today())
                .map_err(|e| Failure::input(format!("--list-…: {e}")))
        }
        _ => Err(Failure::input(
            "name what the tokens are sold for: --list-price PROVIDER/MODEL (`costmark prices list \
             --kind api` shows them), or --list-input and --list-output in USD per million",
        )),
    }
}

fn pick<'a>(
    facts: &'a [LevelFacts],
    wanted: Option<&str>,
    folder: &std::path::Path,
) -> Result<&'a LevelFacts> {
    let none = || {
        Failure::input(format!(
            "{}: the run has no level with a cost",
            folder.display()
        ))
    };
    let Some(wanted) = wanted else {
        return scenario::cheapest(facts).ok_or_else(none);
    };
    facts
        .iter()
        .find(|l| l.label == wanted || l.label.split(' ').any(|part| part == wanted))
        .ok_or_else(|| {
            let labels: Vec<&str> = facts.iter().map(|l| l.label.as_str()).collect();
            Failure::input(format!(
                "--level {wanted}: the levels are {}",
                labels.join(", ")
            ))
        })
}

/// What is varied, and what that assumes.
fn ranges(
    args: &MarginArgs,
    case: &MarginCase,
    level: &LevelFacts,
    capital_share: Option<f64>,
) -> (Vec<Range>, Vec<String>) {
    let range = |lever, low, high| Range { lever, low, high };
    let mut assumptions = Vec::new();
    let throughput = match (level.factors.low, level.factors.high) {
        (Some(low), Some(high)) if low > 0.0 && high > low => range(Lever::Throughput, low, high),
        _ => {
            assumptions.push(
                "The run gives no interval of throughput (one repeat, or one that reaches 0): ± 20 % \
                 stand for it in the table."
                    .into(),
            );
            range(Lever::Throughput, 0.8, 1.2)
        }
    };
    let u = case.cost.utilization();
    let mut ranges = vec![
        throughput,
        range(Lever::HourlyPrice, 0.8, 1.2),
        range(Lever::Utilization, u * 0.6, u),
        range(Lever::ListPrice, 0.8, 1.2),
        range(Lever::Overrun, 1.0, 1.23),
        range(Lever::InputOutputRatio, 0.5, 2.0),
    ];
    if let Speed::Classes {
        cached_s: Some(_), ..
    } = case.speed
    {
        ranges.push(range(Lever::CacheHitRate, 0.0, 0.5));
    }
    if let Some(share) = args.capex_share.or(capital_share) {
        let factor = memory_factor(share, 0.30, 2.0);
        ranges.push(range(Lever::MemoryPrice, 1.0, factor));
        assumptions.push(format!(
            "Memory: its price doubles, it is 30 % of capital (36Kr, spring 2026) and capital is {:.0} % \
             of the hourly price.",
            share * 100.0
        ));
    }
    assumptions.push(
        "Ranges, unless the run gives them: hourly and list price ± 20 %, utilization down to 60 % of \
         what it is, half to twice the input per output, inference up to 23 % over plan."
            .into(),
    );
    (ranges, assumptions)
}

type Report = costmark_report::money::NeededReport;

fn needed_report(case: &MarginCase, level: &LevelFacts, target: f64) -> Report {
    let figure =
        |pick: fn(&Needed) -> f64| case.interval(level.factors, |c| Ok(pick(&needed(c, target)?)));
    let hit = case.interval(level.factors, |c| needed_hit_rate(c, target));
    // A throughput needed does not depend on the one that was measured.
    let tok_per_s = needed(case, target).map(|n| Interval::point(n.tok_per_s));
    Report {
        margin: target,
        utilization: figure(|n| n.utilization).ok(),
        list_factor: figure(|n| n.list_factor).ok(),
        tok_per_s: tok_per_s.ok(),
        usd_per_hour: figure(|n| n.usd_per_hour).ok(),
        hit_reason: hit.as_ref().err().map(ToString::to_string),
        hit_rate: hit.ok(),
        reason: needed(case, target).err().map(|e| e.to_string()),
    }
}

fn now(case: &MarginCase, level: &LevelFacts) -> Report {
    Report {
        utilization: Some(Interval::point(case.cost.utilization())),
        list_factor: Some(Interval::point(1.0)),
        tok_per_s: case.interval(level.factors, MarginCase::tok_per_s).ok(),
        usd_per_hour: Some(Interval::point(case.cost.usd_per_hour())),
        hit_rate: case.mix.hit_rate().map(Interval::point),
        ..Report::default()
    }
}
