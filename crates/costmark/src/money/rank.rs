//! `costmark rank`: several machines at their prices, one table.

use std::path::PathBuf;

use clap::Args;
use costmark_report::document::{LevelDocument, RunDocument};
use costmark_report::money::{PricedLevel, RankedRun, rank_table};

use crate::failure::{Failure, Result};
use crate::money::books::Books;
use crate::money::terms::{Terms, TermsArgs, watts};
use crate::money::{load, models, run_notes};
use crate::output;

/// Which runs, at which prices.
#[derive(Debug, Clone, Args)]
pub(crate) struct RankArgs {
    /// Folders of runs
    #[arg(required = true)]
    pub(crate) runs: Vec<PathBuf>,
    /// Prices by the price book: one for all runs, or one for each in their order
    /// [default: what each run was priced with]
    #[arg(long, value_name = "PROVIDER/TYPE")]
    pub(crate) instance: Vec<String>,
    /// Power under load, W: one for all runs, or one for each [default: the datasheet of the
    /// accelerators the price names]
    #[arg(long, value_name = "W")]
    pub(crate) watts: Vec<f64>,
    /// Longest time to first token at the 90th percentile, ms, for the column of limits
    #[arg(long, value_name = "MS", alias = "slo-ttft-ms")]
    pub(crate) max_ttft_ms: Option<f64>,
    /// Longest gap between tokens at the 90th percentile, ms, for the column of limits
    #[arg(long, value_name = "MS", alias = "slo-itl-ms")]
    pub(crate) max_itl_ms: Option<f64>,
    /// Read these price books too; their entries come before the built-in ones
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &RankArgs) -> Result<()> {
    let books = Books::load(&args.prices)?;
    let count = args.runs.len();
    for (flag, given) in [
        ("--instance", args.instance.len()),
        ("--watts", args.watts.len()),
    ] {
        if given > 1 && given != count {
            return Err(Failure::input(format!(
                "{flag} is given {given} times for {count} runs; give it once, or once for each run"
            )));
        }
    }
    for (flag, ms) in [
        ("--max-ttft-ms", args.max_ttft_ms),
        ("--max-itl-ms", args.max_itl_ms),
    ] {
        if ms.is_some_and(|ms| !(ms.is_finite() && ms > 0.0)) {
            return Err(Failure::input(format!("{flag} must be over 0")));
        }
    }
    if args.watts.iter().any(|w| !(w.is_finite() && *w > 0.0)) {
        return Err(Failure::input("--watts must be over 0"));
    }
    let limits = limits(args);
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    for (i, folder) in args.runs.iter().enumerate() {
        let run = load(folder)?;
        let mut terms_args = no_terms();
        terms_args.instance = args.instance.get(i).or(args.instance.first()).cloned();
        let terms = Terms::resolve(&terms_args, &run, &books)?;
        let stated = args.watts.get(i).or(args.watts.first()).copied();
        let power = match (stated, &terms.accelerator) {
            (Some(w), _) => Some(w),
            (None, Some(name)) => watts(name)
                .ok()
                .flatten()
                .map(|w| w * f64::from(terms.accelerators)),
            (None, None) => None,
        };
        if stated.is_none() && power.is_some() {
            notes.push(format!(
                "{}: power by datasheet of its accelerators, host not included.",
                folder.display()
            ));
        }
        for note in terms.caveats.iter().cloned().chain(run_notes(&run)) {
            notes.push(format!("{}: {note}", folder.display()));
        }
        rows.push(row(args, &run, &terms, power));
    }
    let mut seen = std::collections::BTreeSet::new();
    notes.retain(|note: &String| seen.insert(note.clone()));
    RankedRun::mark(&mut rows, limits.is_some());
    let mut models: Vec<&str> = rows.iter().map(|r| r.model.as_str()).collect();
    models.dedup();
    if models.len() > 1 {
        notes.insert(
            0,
            "The runs are of different models or precisions: a cheaper token may be a worse one."
                .into(),
        );
    }
    if args.json {
        return output::json(
            &serde_json::json!({ "limits": limits, "runs": rows, "notes": notes }),
        );
    }
    output::text(&rank_table(&rows, limits.as_deref(), &notes))
}

fn limits(args: &RankArgs) -> Option<String> {
    let parts: Vec<String> = [("TTFT", args.max_ttft_ms), ("ITL", args.max_itl_ms)]
        .into_iter()
        .filter_map(|(name, ms)| Some(format!("{name} p90 up to {} ms", ms?)))
        .collect();
    (!parts.is_empty())
        .then(|| parts.join(" and ") + " (a level whose p90 has too few samples does not count)")
}

fn row(args: &RankArgs, run: &RunDocument, terms: &Terms, watts: Option<f64>) -> RankedRun {
    let priced: Vec<(&LevelDocument, PricedLevel)> = run
        .answering_levels()
        .map(|level| (level, PricedLevel::of(run, level, &terms.cost)))
        .collect();
    // Where input and output are not told apart, all of the time is charged to the output.
    let cost = |level: &LevelDocument, priced: &PricedLevel| {
        priced.usd_per_mtok_output.or_else(|| {
            terms
                .cost
                .usd_per_mtok(1.0, level.summary.output_tok_per_s)
                .ok()
        })
    };
    let cheapest = |fits: &dyn Fn(&LevelDocument) -> bool| {
        priced
            .iter()
            .filter(|(level, _)| fits(level))
            .filter_map(|(level, p)| Some((*level, p, cost(level, p)?)))
            .min_by(|a, b| a.2.value.total_cmp(&b.2.value))
    };
    let within = |level: &LevelDocument| {
        let latency = &level.summary.latency;
        let ok = |p90: Option<f64>, limit: Option<f64>| {
            limit.is_none_or(|limit| p90.is_some_and(|p90| p90 <= limit))
        };
        ok(latency.ttft_ms.and_then(|l| l.p90), args.max_ttft_ms)
            && ok(latency.itl_ms.and_then(|l| l.p90), args.max_itl_ms)
    };
    let best = cheapest(&|_| true);
    let has_limits = args.max_ttft_ms.is_some() || args.max_itl_ms.is_some();
    let kept = has_limits.then(|| cheapest(&within)).flatten();
    let counts = if has_limits {
        kept.as_ref()
    } else {
        best.as_ref()
    };
    RankedRun {
        name: format!("{} on {}", models(run), run.environment.label),
        model: models(run),
        price: terms.short.clone(),
        usd_per_hour: terms.cost.usd_per_hour(),
        output_tok_per_s: counts.map_or(f64::NAN, |(l, ..)| l.summary.output_tok_per_s.value),
        best_at: best
            .as_ref()
            .map_or_else(String::new, |(_, p, _)| p.label.clone()),
        best_usd_per_mtok: best.map(|(.., usd)| usd),
        within_at: kept
            .as_ref()
            .map_or_else(String::new, |(_, p, _)| p.label.clone()),
        within_usd_per_mtok: kept.map(|(.., usd)| usd),
        watts,
        pareto: false,
    }
}

/// The run's own price.
fn no_terms() -> TermsArgs {
    TermsArgs {
        instance: None,
        price: None,
        utilization: None,
        share: 1.0,
        upfront: None,
        reserved_years: None,
        interruptions_per_hour: None,
        minutes_lost: None,
        capex: None,
        residual: 0.0,
        life_years: 5.0,
        discount_rate: 0.0,
        load_kw: None,
        idle_kw: 0.0,
        device_name: None,
        pue: 1.3,
        usd_per_kwh: 0.08,
        colocation: 0.0,
        operations: 0.0,
    }
}
