//! The result in a sentence: only what was measured, and the arithmetic of a price.

use crate::compare::{Metric, units_of};
use crate::document::{LevelDocument, RunDocument};
use crate::names::{as_streams, streams};
use crate::numbers::{percent, usd};
use crate::search::search_finding;

/// What a search found, and the level whose output tokens are cheapest, told with machine and
/// price; `None` where there is neither.
#[must_use]
pub fn finding(run: &RunDocument) -> Option<String> {
    let parts: Vec<String> = [search_finding(run), cost_finding(run)]
        .into_iter()
        .flatten()
        .collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

fn cost_finding(run: &RunDocument) -> Option<String> {
    let (level, what, cost) = cheapest(run)?;
    let at = as_streams(level, &run.plan);
    let mut text = format!(
        "At {} a million {} cost {} on {} at {}/h ({})",
        match run.plan.goodput_search {
            Some(_) => format!("the highest rate within the SLO ({at})"),
            None => at,
        },
        what.words(),
        usd(cost),
        run.environment.label,
        usd(run.price.usd_per_hour),
        run.price.short_source(),
    );
    if let Some(mbu) = level.summary.mbu {
        text.push_str(&format!("; memory bandwidth use is {}", percent(mbu.value)));
    }
    text.push_str(&format!(
        "; halving the hourly price would halve that to {}",
        usd(cost / 2.0)
    ));
    if run.price.utilization < 1.0 {
        text.push_str(&format!(
            ". This counts {} of the paid time as used",
            percent(run.price.utilization)
        ));
    }
    text.push('.');
    if let Some(more) = against_one(run, level, what, cost) {
        text.push(' ');
        text.push_str(&more);
    }
    Some(text)
}

/// Which tokens a price is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Priced {
    Output,
    Any,
    OutputAtSlo,
    AnyAtSlo,
}

impl Priced {
    fn words(self) -> &'static str {
        match self {
            Self::Output => "output tokens",
            Self::Any => "tokens of any kind",
            Self::OutputAtSlo => "output tokens within the SLO",
            Self::AnyAtSlo => "tokens of any kind within the SLO",
        }
    }

    fn metric(self) -> Option<&'static Metric> {
        Metric::named(match self {
            Self::Output => "usd_per_mtok_output",
            Self::Any => "usd_per_mtok_blended",
            Self::OutputAtSlo => "usd_per_mtok_output_at_slo",
            Self::AnyAtSlo => "usd_per_mtok_blended_at_slo",
        })
    }
}

/// Of output tokens where some level tells them apart; within the SLO where its rate was searched.
fn cheapest(run: &RunDocument) -> Option<(&LevelDocument, Priced, f64)> {
    let prices = match run.plan.goodput_search {
        None => [Priced::Output, Priced::Any],
        Some(_) => [Priced::OutputAtSlo, Priced::AnyAtSlo],
    };
    prices.into_iter().find_map(|what| {
        let metric = what.metric()?;
        run.answering_levels()
            .filter_map(|level| {
                let figure = metric.of(level, &units_of(run, level))?;
                Some((level, what, figure.interval.value))
            })
            .min_by(|a, b| a.2.total_cmp(&b.2))
    })
}

/// What sharing the machine does to the price: the cheapest level against the smallest
/// closed loop of the same workload and model.
fn against_one(
    run: &RunDocument,
    level: &LevelDocument,
    what: Priced,
    cost: f64,
) -> Option<String> {
    let concurrency = level.load.concurrency()?;
    let (fewest, least) = run
        .levels
        .iter()
        .filter(|l| (&l.model, &l.workload) == (&level.model, &level.workload))
        .filter_map(|l| Some((l.load.concurrency()?, l)))
        .min_by_key(|(concurrency, _)| *concurrency)?;
    let alone = match what {
        Priced::Output => least.usd_per_mtok_output,
        Priced::Any => least.usd_per_mtok_blended,
        Priced::OutputAtSlo | Priced::AnyAtSlo => None,
    }?
    .value;
    (fewest < concurrency && cost > 0.0).then(|| {
        format!(
            "With {} it was {}, {}.",
            streams(fewest),
            usd(alone),
            times(alone / cost)
        )
    })
}

/// A ratio of at least one in words.
fn times(ratio: f64) -> String {
    match ratio {
        _ if ratio < 1.005 => "the same".into(),
        _ if ratio < 1.25 => format!("{:.0} % more", (ratio - 1.0) * 100.0),
        _ if ratio < 9.95 => format!("{ratio:.1} times as much"),
        _ => format!("{ratio:.0} times as much"),
    }
}
