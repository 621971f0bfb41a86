//! What the arithmetic of money needs of a level of a run.

use std::collections::BTreeMap;

use costmark_core::{BackendKind, Interval};
use costmark_econ::{CostModel, Measured, Speed, TokenMix};
use serde::Serialize;

use crate::document::{LevelDocument, RunDocument, UnitDocument};
use crate::money::fitted::split_of;

/// One level: how fast, which tokens, how the time was split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LevelFacts {
    /// Its load, in words.
    pub label: String,
    /// It says what tokens cost ([`RunDocument::answers`]).
    pub answers: bool,
    /// Input and output tokens per second.
    pub total_tok_per_s: Interval,
    /// Output tokens per second.
    pub output_tok_per_s: Interval,
    /// Throughput relative to its value: the interval that is carried into money.
    pub factors: Interval,
    /// Tokens of the windows.
    pub mix: TokenMix,
    /// Time per token: by step time, else by a fit over the run's workloads, else of any token.
    pub speed: Speed,
    /// Why input and output time were not told apart.
    pub not_split: Option<String>,
}

/// The facts of every level that has a cost, in the order of the run.
///
/// Classes of tokens share the windows' time as it was attributed, over all repeats together; the
/// whole is the headline throughput, the median over repeats.
#[must_use]
pub fn level_facts(run: &RunDocument) -> Vec<LevelFacts> {
    run.levels
        .iter()
        .filter_map(|level| facts(run, level))
        .collect()
}

fn facts(run: &RunDocument, level: &LevelDocument) -> Option<LevelFacts> {
    let units: Vec<&UnitDocument> = units_of(run, level);
    let costs: Vec<_> = units.iter().filter_map(|u| u.cost.as_ref()).collect();
    let sum = |of: fn(&crate::document::UnitCost) -> f64| costs.iter().map(|c| of(c)).sum::<f64>();
    let input = sum(|c| c.input_tokens as f64);
    let cached = sum(|c| c.cached_tokens as f64);
    let output = sum(|c| c.output_tokens as f64);
    let window_s = sum(|c| c.window_s);
    let total = level.summary.total_tok_per_s;
    if costs.is_empty() || input + output <= 0.0 || window_s <= 0.0 || total.value <= 0.0 {
        return None;
    }
    let pooled = (input + output) / window_s;
    let to_headline = pooled / total.value;
    let requests = level.summary.requests.finished.max(1) as f64;
    // A server need not say what hit its cache: 0 may mean that it did not tell.
    let counted = !is_server(run) || cached > 0.0;
    let charged = |of: fn(&crate::document::UnitCost) -> Option<f64>, tokens: f64| -> Option<f64> {
        let seconds: Option<f64> = costs
            .iter()
            .map(|c| (c.usd > 0.0).then(|| of(c).map(|usd| usd / c.usd * c.window_s))?)
            .sum();
        seconds
            .filter(|_| tokens > 0.0)
            .map(|s| s / tokens * to_headline)
    };
    let speed = match (
        charged(|c| c.usd_input, input - cached),
        charged(|c| c.usd_output, output),
    ) {
        (Some(input_s), Some(output_s)) => Speed::Classes {
            input_s,
            cached_s: charged(|c| c.usd_cached, cached),
            output_s,
        },
        _ => fitted_speed(run, level, input, cached, output, window_s * to_headline).unwrap_or(
            Speed::Blended {
                token_s: 1.0 / total.value,
            },
        ),
    };
    let is_split = matches!(speed, Speed::Classes { .. });
    Some(LevelFacts {
        label: label(run, level),
        answers: run.answers(level),
        total_tok_per_s: total,
        output_tok_per_s: level.summary.output_tok_per_s,
        factors: Interval {
            value: 1.0,
            low: total.low.map(|x| x / total.value),
            high: total.high.map(|x| x / total.value),
        },
        mix: TokenMix {
            input,
            cached_read: counted.then_some(cached),
            cache_write: None,
            output,
            batch_share: 0.0,
            input_per_request: Some(input / requests),
        },
        speed,
        not_split: units
            .iter()
            .find_map(|u| u.cost_note.clone())
            .filter(|_| !is_split),
    })
}

/// The proportion of a fit over the run's workloads, scaled to the `seconds` this level took: the
/// parts add up to what was measured here. None with cached input, whose cost no fit tells.
fn fitted_speed(
    run: &RunDocument,
    level: &LevelDocument,
    input: f64,
    cached: f64,
    output: f64,
    seconds: f64,
) -> Option<Speed> {
    let split = split_of(run, level).filter(|_| cached == 0.0)?;
    let (input_s, output_s) = (split.input_s.value, split.output_s.value);
    let scale = seconds / (input_s * input + output_s * output);
    scale.is_finite().then_some(Speed::Classes {
        input_s: input_s * scale,
        cached_s: None,
        output_s: output_s * scale,
    })
}

/// The load of a level, in words.
pub(crate) fn label(run: &RunDocument, level: &LevelDocument) -> String {
    crate::names::in_words(level, &run.plan)
}

pub(crate) fn units_of<'a>(run: &'a RunDocument, level: &LevelDocument) -> Vec<&'a UnitDocument> {
    run.units
        .iter()
        .filter(|u| u.level == level.id && u.usable)
        .collect()
}

fn is_server(run: &RunDocument) -> bool {
    run.backends.iter().any(|b| b.kind == BackendKind::Http)
}

/// The figures a claim or scenario may name, of one level at a price of time.
/// `accelerators` is how many the price is for; without any there are no figures per accelerator.
#[must_use]
pub fn measured(facts: &LevelFacts, cost: &CostModel, accelerators: u32) -> Measured {
    let mut figures: Measured = BTreeMap::new();
    let scaled = |x: Interval, by: f64| Interval {
        value: x.value * by,
        low: x.low.map(|v| v * by),
        high: x.high.map(|v| v * by),
    };
    if let Ok(usd) = cost.usd_per_mtok_blended(facts.total_tok_per_s) {
        figures.insert("usd_per_mtok_blended".into(), usd);
    }
    if let Speed::Classes {
        input_s,
        cached_s,
        output_s,
    } = facts.speed
    {
        for (name, token_s) in [
            ("usd_per_mtok_input", Some(input_s)),
            ("usd_per_mtok_cached", cached_s),
            ("usd_per_mtok_output", Some(output_s)),
        ] {
            let rate = token_s
                .filter(|s| *s > 0.0)
                .map(|s| scaled(facts.factors, 1.0 / s));
            if let Some(Ok(usd)) = rate.map(|rate| cost.usd_per_mtok(1.0, rate)) {
                figures.insert(name.into(), usd);
            }
        }
    }
    let hour = 3600.0;
    figures.insert(
        "tokens_per_machine_hour".into(),
        scaled(facts.total_tok_per_s, hour),
    );
    if accelerators > 0 {
        let per = hour / f64::from(accelerators);
        figures.insert(
            "tokens_per_accelerator_hour".into(),
            scaled(facts.total_tok_per_s, per),
        );
        figures.insert(
            "output_tokens_per_accelerator_hour".into(),
            scaled(facts.output_tok_per_s, per),
        );
    }
    figures.insert("usd_per_hour".into(), Interval::point(cost.usd_per_hour()));
    figures
}
