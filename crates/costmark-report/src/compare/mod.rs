//! Runs side by side: ratios to a baseline with intervals, and what they allow to say.
//!
//! Levels are matched by their name. Each ratio is that of the two medians; its interval comes
//! from the repeats of both sides ([`ratio_interval`]). Runs that did not do the same work are
//! compared too, but get no verdict.

mod bar;
mod cheapest;
mod differences;
mod export;
mod metric;
mod show;

use costmark_core::Interval;
use costmark_metrics::ratio_interval;
use serde::Serialize;

use crate::document::{LevelDocument, LevelId, RunDocument, Status, UnitDocument};
use crate::find::NamedRun;
use crate::text::inert_line;

pub use bar::{Bar, BarOutcome};
pub use cheapest::{Cheapest, Contender};
pub use differences::Difference;
pub(crate) use metric::Figure;
pub use metric::{Direction, METRICS, Metric};

/// Runs side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The runs, the baseline first.
    pub runs: Vec<ComparedRun>,
    /// One entry per level of any run.
    pub levels: Vec<ComparedLevel>,
    /// Which run's tokens are cheapest.
    pub cheapest: Option<Cheapest>,
}

/// One run of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparedRun {
    /// Short and unique in the comparison.
    pub name: String,
    /// Where it lies.
    pub path: String,
    /// What served which model.
    pub model: String,
    /// Where.
    pub machine: String,
    /// When, UTC.
    pub started_at: String,
    /// Price of an hour.
    pub usd_per_hour: f64,
    /// Share of paid time at the measured load.
    pub utilization: f64,
    /// How far it came.
    pub status: Status,
    /// How it differs from the baseline.
    pub differences: Vec<Difference>,
    /// What else a reader must know before believing it.
    pub cautions: Vec<String>,
}

impl ComparedRun {
    /// It did the same work as the baseline.
    #[must_use]
    pub fn is_comparable(&self) -> bool {
        self.differences.iter().all(|d| !d.is_other_work)
    }
}

/// One level, in all runs that have it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparedLevel {
    /// Its name.
    pub id: LevelId,
    /// In words.
    pub label: String,
    /// One entry per metric that some run has.
    pub metrics: Vec<ComparedMetric>,
}

/// One figure of one level, in all runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparedMetric {
    /// Its name, with its unit.
    pub name: &'static str,
    /// One entry per run, in their order.
    pub values: Vec<ComparedValue>,
}

/// One figure of one run against that of the baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparedValue {
    /// Median over repeats; absent where the run has none.
    pub value: Option<Interval>,
    /// Of this run to the baseline; absent of the baseline itself.
    pub ratio: Option<Interval>,
    /// What may be said.
    pub verdict: Verdict,
}

/// What a ratio and its interval allow to say, at 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is what others are compared with.
    Baseline,
    /// The interval lies on the good side of 1.
    Better,
    /// The interval lies on the bad side of 1.
    Worse,
    /// The interval holds 1.
    NotDistinguishable,
    /// No interval: a side has fewer than two repeats.
    OneRepeat,
    /// The runs did not do the same work.
    NotComparable,
    /// This run or the baseline lacks the figure.
    Missing,
}

impl Verdict {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NotDistinguishable => "not distinguishable",
            Self::OneRepeat => "one repeat: no verdict",
            Self::NotComparable => "NOT COMPARABLE",
            Self::Missing => "–",
        }
    }
}

/// Sets `runs` against the first of them. `metrics` chooses the figures; empty means the
/// usual ones.
#[must_use]
pub fn compare(runs: &[NamedRun], metrics: &[&'static Metric]) -> Comparison {
    let usual: Vec<&'static Metric> = Metric::usual().collect();
    let metrics = if metrics.is_empty() { &usual } else { metrics };
    let compared: Vec<ComparedRun> = runs.iter().map(|run| describe(run, &runs[0])).collect();
    let mut ids: Vec<&LevelId> = Vec::new();
    for level in runs.iter().flat_map(|run| &run.document.levels) {
        if !ids.contains(&&level.id) {
            ids.push(&level.id);
        }
    }
    let levels = ids
        .into_iter()
        .map(|id| compare_level(id, runs, &compared, metrics))
        .collect();
    let cheapest = Cheapest::of(runs, &compared);
    Comparison {
        runs: compared,
        levels,
        cheapest,
    }
}

fn describe(run: &NamedRun, baseline: &NamedRun) -> ComparedRun {
    let document = &run.document;
    let served: Vec<String> = document
        .backends
        .iter()
        .map(|b| inert_line(&format!("{} {}", b.model, b.weight_dtype)))
        .collect();
    ComparedRun {
        name: run.name.clone(),
        path: inert_line(&run.path.display().to_string()),
        model: served.join(", "),
        machine: inert_line(&document.environment.label),
        started_at: inert_line(&document.started_at),
        usd_per_hour: document.price.usd_per_hour,
        utilization: document.price.utilization,
        status: document.status,
        differences: differences::between(&baseline.document, document),
        cautions: cautions(document),
    }
}

fn cautions(run: &RunDocument) -> Vec<String> {
    let mut cautions = Vec::new();
    if run.status != Status::Complete {
        let why = run.failure.as_deref().unwrap_or("it was cut short");
        cautions.push(format!("not complete: {}", inert_line(why)));
    }
    if run.tool.build_profile != "release" {
        cautions.push("measured by a debug build".into());
    }
    if let Some(suspect) = &run.price.suspect {
        cautions.push(format!("price in doubt: {}", inert_line(suspect)));
    }
    // A search goes beyond what holds on purpose.
    let is_search = run.plan.goodput_search.is_some();
    if !is_search && run.levels.iter().any(|l| l.summary.saturated == Some(true)) {
        cautions.push("some level got more requests than it could serve".into());
    }
    cautions
}

/// The usable units of a level.
pub(crate) fn units_of<'a>(run: &'a RunDocument, level: &LevelDocument) -> Vec<&'a UnitDocument> {
    run.units
        .iter()
        .filter(|u| u.usable && u.level == level.id)
        .collect()
}

fn figure(run: &RunDocument, id: &LevelId, metric: &Metric) -> Option<Figure> {
    let level = run.levels.iter().find(|l| l.id == *id)?;
    metric.of(level, &units_of(run, level))
}

fn compare_level(
    id: &LevelId,
    runs: &[NamedRun],
    compared: &[ComparedRun],
    metrics: &[&'static Metric],
) -> ComparedLevel {
    let label = runs
        .iter()
        .find_map(|run| {
            let level = run.document.levels.iter().find(|l| l.id == *id)?;
            Some(crate::names::in_words(level, &run.document.plan))
        })
        .unwrap_or_default();
    let metrics = metrics
        .iter()
        .map(|metric| compare_metric(id, runs, compared, metric))
        .filter(|m| m.values.iter().any(|v| v.value.is_some()))
        .collect();
    ComparedLevel {
        id: id.clone(),
        label: inert_line(&label),
        metrics,
    }
}

fn compare_metric(
    id: &LevelId,
    runs: &[NamedRun],
    compared: &[ComparedRun],
    metric: &'static Metric,
) -> ComparedMetric {
    let baseline = figure(&runs[0].document, id, metric);
    let values = runs
        .iter()
        .zip(compared)
        .enumerate()
        .map(|(index, (run, compared))| {
            let own = figure(&run.document, id, metric);
            let ratio = match (&baseline, &own) {
                (Some(a), Some(b)) if index > 0 => Some(ratio_of(a, b)),
                _ => None,
            };
            let verdict = match ratio {
                _ if index == 0 && own.is_some() => Verdict::Baseline,
                None => Verdict::Missing,
                Some(_) if !compared.is_comparable() => Verdict::NotComparable,
                Some(ratio) => judge(&ratio, metric.direction),
            };
            ComparedValue {
                value: own.map(|figure| figure.interval),
                ratio,
                verdict,
            }
        })
        .collect();
    ComparedMetric {
        name: metric.name,
        values,
    }
}

/// The ratio of the medians, with an interval where both sides were repeated.
pub(crate) fn ratio_of(baseline: &Figure, other: &Figure) -> Interval {
    let ratio = other.interval.value / baseline.interval.value;
    ratio_interval(ratio, &baseline.repeats, &other.repeats)
        .unwrap_or_else(|| Interval::point(ratio))
}

fn judge(ratio: &Interval, direction: Direction) -> Verdict {
    let (Some(low), Some(high)) = (ratio.low, ratio.high) else {
        return Verdict::OneRepeat;
    };
    let is_more = low > 1.0;
    if low <= 1.0 && high >= 1.0 {
        Verdict::NotDistinguishable
    } else if is_more == (direction == Direction::Up) {
        Verdict::Better
    } else {
        Verdict::Worse
    }
}
