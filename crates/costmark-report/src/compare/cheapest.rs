//! Which run's tokens cost least, by how much, and how sure that is.

use costmark_core::Interval;
use serde::Serialize;

use super::{ComparedRun, Figure, Metric, figure, judge, ratio_of};
use super::{Direction, Verdict};
use crate::document::LevelDocument;
use crate::find::NamedRun;
use crate::names;
use crate::numbers::{ends, short, usd};
use crate::text::inert_line;

/// The cheapest run, each run at the level that is cheapest for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cheapest {
    /// Which price: the first of SLO, output and blended that all runs have.
    pub metric: &'static str,
    /// Cheapest first.
    pub runs: Vec<Contender>,
}

/// A run at its cheapest level.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contender {
    /// Name of the run.
    pub run: String,
    /// Its cheapest level in words.
    pub level: String,
    /// The price there, USD per million tokens.
    pub usd_per_mtok: Interval,
    /// Its price to that of the cheapest run; absent of that run itself.
    pub ratio: Option<Interval>,
    /// Whether it is really dearer.
    pub verdict: Verdict,
}

/// In order of preference.
const PRICES: [&str; 3] = [
    "usd_per_mtok_output_at_slo",
    "usd_per_mtok_output",
    "usd_per_mtok_blended",
];

struct Best<'a> {
    run: &'a NamedRun,
    compared: &'a ComparedRun,
    level: &'a LevelDocument,
    figure: Figure,
}

impl Cheapest {
    /// `None` with fewer than two runs, or without a price that all of them have.
    pub(crate) fn of(runs: &[NamedRun], compared: &[ComparedRun]) -> Option<Self> {
        if runs.len() < 2 {
            return None;
        }
        let (metric, mut all) = PRICES.iter().find_map(|name| {
            let metric = Metric::named(name)?;
            let all: Option<Vec<Best<'_>>> = runs
                .iter()
                .zip(compared)
                .map(|(run, compared)| best(run, compared, metric))
                .collect();
            Some((metric, all?))
        })?;
        all.sort_by(|a, b| a.figure.interval.value.total_cmp(&b.figure.interval.value));
        let first = &all[0];
        let runs = all
            .iter()
            .enumerate()
            .map(|(i, own)| {
                let ratio = (i > 0).then(|| ratio_of(&first.figure, &own.figure));
                let same_work = own.compared.is_comparable() && first.compared.is_comparable();
                Contender {
                    run: own.run.name.clone(),
                    level: inert_line(&names::in_words(own.level, &own.run.document.plan)),
                    usd_per_mtok: own.figure.interval,
                    verdict: match &ratio {
                        None => Verdict::Baseline,
                        Some(_) if !same_work => Verdict::NotComparable,
                        Some(ratio) => judge(ratio, Direction::Down),
                    },
                    ratio,
                }
            })
            .collect();
        Some(Self {
            metric: metric.name,
            runs,
        })
    }

    /// The answer in sentences.
    #[must_use]
    pub fn words(&self) -> String {
        let what = match self.metric {
            "usd_per_mtok_output_at_slo" => "a million output tokens within the SLO",
            "usd_per_mtok_output" => "a million output tokens",
            _ => "a million tokens of any kind",
        };
        let Some(first) = self.runs.first() else {
            return String::new();
        };
        let mut text = format!(
            "Cheapest: {} at {}, where {what} cost {}{}.",
            first.run,
            first.level,
            usd(first.usd_per_mtok.value),
            range(&first.usd_per_mtok, "$").map_or(String::new(), |r| format!(" ({r} at 95 %)")),
        );
        const TOLD: usize = 5;
        for other in self.runs.iter().skip(1).take(TOLD) {
            let Some(ratio) = &other.ratio else { continue };
            let interval = range(ratio, "").unwrap_or_default();
            let sure = match other.verdict {
                Verdict::Worse | Verdict::Better => format!("{interval} at 95 %"),
                Verdict::NotDistinguishable => {
                    format!("{interval}, so not distinguishable at 95 %")
                }
                Verdict::NotComparable => "NOT the same work, so no verdict".into(),
                _ => "one repeat on a side, so no verdict".into(),
            };
            text.push_str(&format!(
                " {} costs {} times that ({} at {}; {sure}).",
                other.run,
                short(ratio.value),
                usd(other.usd_per_mtok.value),
                other.level,
            ));
        }
        if self.runs.len() > TOLD + 1 {
            text.push_str(&format!(" {} more are dearer.", self.runs.len() - TOLD - 1));
        }
        text
    }
}

/// `low–high`; empty where there is no interval.
fn range(interval: &Interval, unit: &str) -> Option<String> {
    Some(ends(interval))
        .filter(|text| !text.is_empty())
        .map(|text| format!("{unit}{text}"))
}

fn best<'a>(run: &'a NamedRun, compared: &'a ComparedRun, metric: &Metric) -> Option<Best<'a>> {
    run.document
        .levels
        .iter()
        .filter_map(|level| {
            let figure = figure(&run.document, &level.id, metric)?;
            Some(Best {
                run,
                compared,
                level,
                figure,
            })
        })
        .min_by(|a, b| a.figure.interval.value.total_cmp(&b.figure.interval.value))
}
