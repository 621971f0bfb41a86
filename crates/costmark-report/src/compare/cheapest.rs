//! Which run's tokens cost least, by how much, and how sure that is.

use costmark_core::Interval;
use serde::Serialize;

use super::{ComparedRun, Figure, Metric, figure, judge, ratio_of};
use super::{Direction, Verdict};
use crate::document::{LevelDocument, RunDocument};
use crate::find::NamedRun;
use crate::names;
use crate::numbers::{ends, short, usd};
use crate::text::inert_line;

/// The cheapest run, each run at the level that is cheapest for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cheapest {
    /// Which price: within the SLO if the runs were given one and some run keeps it, otherwise
    /// without; of output tokens if all runs have one, otherwise of tokens of any kind.
    pub metric: &'static str,
    /// Cheapest first.
    pub runs: Vec<Contender>,
    /// Runs that were given an SLO and keep it at no level. If all are here, they are ranked
    /// without it.
    pub miss_slo: Vec<String>,
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

/// Within the SLO and without, in order of preference.
const PRICES: [(&str, &str); 2] = [
    ("usd_per_mtok_output_at_slo", "usd_per_mtok_output"),
    ("usd_per_mtok_blended_at_slo", "usd_per_mtok_blended"),
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
        let has_slo = runs.iter().all(|run| run.document.plan.slo.is_some());
        let (metric, mut all, miss_slo) = PRICES.iter().find_map(|(at_slo, without)| {
            let (at_slo, without) = (Metric::named(at_slo)?, Metric::named(without)?);
            let each = || runs.iter().zip(compared);
            let all =
                || -> Option<Vec<Best<'_>>> { each().map(|(r, c)| best(r, c, without)).collect() };
            if !has_slo {
                return Some((without, all()?, Vec::new()));
            }
            if !runs.iter().all(|run| has_price(&run.document, without)) {
                return None;
            }
            let within: Vec<_> = each().map(|(r, c)| best(r, c, at_slo)).collect();
            let miss_slo = runs.iter().zip(&within).filter(|(_, best)| best.is_none());
            let miss_slo: Vec<String> = miss_slo.map(|(run, _)| run.name.clone()).collect();
            if miss_slo.len() == runs.len() {
                return Some((without, all()?, miss_slo));
            }
            Some((at_slo, within.into_iter().flatten().collect(), miss_slo))
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
            miss_slo,
        })
    }

    /// The answer in sentences.
    #[must_use]
    pub fn words(&self) -> String {
        let what = match self.metric {
            "usd_per_mtok_output_at_slo" => "a million output tokens within the SLO",
            "usd_per_mtok_blended_at_slo" => "a million tokens of any kind within the SLO",
            "usd_per_mtok_output" => "a million output tokens",
            _ => "a million tokens of any kind",
        };
        let Some(first) = self.runs.first() else {
            return String::new();
        };
        let none_keeps = self.none_keeps_slo();
        let mut text = format!(
            "{}Cheapest: {} at {}, where {what} cost {}{}.",
            if none_keeps {
                "No run keeps the SLO at any level. Without it: "
            } else {
                ""
            },
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
        if !none_keeps && !self.miss_slo.is_empty() {
            text.push_str(&format!(
                " At no level within the SLO: {}.",
                self.miss_slo.join(", ")
            ));
        }
        text
    }

    /// The runs were given an SLO, and none of them keeps it at any level.
    fn none_keeps_slo(&self) -> bool {
        !self.runs.is_empty()
            && self.miss_slo.len() == self.runs.len()
            && !self.metric.ends_with("_at_slo")
    }
}

/// `low–high`; empty where there is no interval.
fn range(interval: &Interval, unit: &str) -> Option<String> {
    Some(ends(interval))
        .filter(|text| !text.is_empty())
        .map(|text| format!("{unit}{text}"))
}

fn has_price(run: &RunDocument, metric: &Metric) -> bool {
    let mut levels = run.levels.iter();
    levels.any(|level| figure(run, &level.id, metric).is_some())
}

fn best<'a>(run: &'a NamedRun, compared: &'a ComparedRun, metric: &Metric) -> Option<Best<'a>> {
    run.document
        .answering_levels()
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
