//! The result in a sentence: only what was measured, and the arithmetic of a price.

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
    let (level, what, cost) = cheapest(&run.levels)?;
    let mut text = format!(
        "At {} a million {what} {} on {} at {}/h ({})",
        as_streams(level, &run.plan),
        match what {
            "output tokens" => format!("cost {}", usd(cost)),
            _ => format!("of any kind cost {}", usd(cost)),
        },
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

fn cheapest(levels: &[LevelDocument]) -> Option<(&LevelDocument, &'static str, f64)> {
    let by = |what: &'static str, figure: fn(&LevelDocument) -> Option<f64>| {
        levels
            .iter()
            .filter_map(|level| Some((level, what, figure(level)?)))
            .min_by(|a, b| a.2.total_cmp(&b.2))
    };
    by("output tokens", |l| l.usd_per_mtok_output.map(|i| i.value))
        .or_else(|| by("tokens", |l| l.usd_per_mtok_blended.map(|i| i.value)))
}

/// What sharing the machine does to the price: the cheapest level against the smallest
/// closed loop of the same workload and model.
fn against_one(run: &RunDocument, level: &LevelDocument, what: &str, cost: f64) -> Option<String> {
    let concurrency = level.load.concurrency()?;
    let (fewest, least) = run
        .levels
        .iter()
        .filter(|l| (&l.model, &l.workload) == (&level.model, &level.workload))
        .filter_map(|l| Some((l.load.concurrency()?, l)))
        .min_by_key(|(concurrency, _)| *concurrency)?;
    let alone = match what {
        "output tokens" => least.usd_per_mtok_output,
        _ => least.usd_per_mtok_blended,
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
