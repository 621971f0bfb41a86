//! A run at a price of time: what its tokens, its requests and its users cost.

use costmark_core::Interval;
use costmark_econ::{CostModel, UsageCost};
use serde::Serialize;

use crate::compare::{Metric, units_of};
use crate::document::{LevelDocument, RunDocument};
use crate::money::energy::EnergyLine;
use crate::money::facts::label;
use crate::money::fitted::FittedLoad;
use crate::money::layout::{Grid, in_line, paragraph, with_ends};
use crate::numbers::{percent, short, usd};

/// A level at another price. `None` where the run could not tell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PricedLevel {
    /// Its load.
    pub label: String,
    /// It says what tokens cost ([`RunDocument::answers`]).
    pub answers: bool,
    /// Per million computed prompt tokens.
    pub usd_per_mtok_input: Option<Interval>,
    /// Per million cached prompt tokens.
    pub usd_per_mtok_cached: Option<Interval>,
    /// Per million output tokens.
    pub usd_per_mtok_output: Option<Interval>,
    /// Per million tokens of any kind.
    pub usd_per_mtok_blended: Option<Interval>,
    /// What all output tokens cost, per million of those of requests that met the SLO.
    pub usd_per_mtok_output_at_slo: Option<Interval>,
    /// What all tokens cost, per million tokens of any kind, in proportion to the output tokens of
    /// requests that met the SLO.
    pub usd_per_mtok_blended_at_slo: Option<Interval>,
    /// Per request of the run.
    pub usd_per_request: Option<Interval>,
}

impl PricedLevel {
    /// The level at `cost`. All money of a run is proportional to the price of its time, so it is
    /// scaled from the price the run was reckoned with, intervals included.
    #[must_use]
    pub fn of(run: &RunDocument, level: &LevelDocument, cost: &CostModel) -> Self {
        let then = run.price.usd_per_hour / run.price.utilization;
        let factor = cost.usd_per_loaded_hour() / then;
        let scaled = |x: Option<Interval>| {
            x.map(|x| Interval {
                value: x.value * factor,
                low: x.low.map(|v| v * factor),
                high: x.high.map(|v| v * factor),
            })
        };
        let units = units_of(run, level);
        let at_slo = |name: &str| {
            let figure = Metric::named(name)?.of(level, &units)?;
            scaled(Some(figure.interval))
        };
        let per_s = |rate: Option<Interval>, unit: f64| {
            rate.and_then(|rate| cost.usd_per_mtok(1.0, rate).ok())
                .map(|x| Interval {
                    value: x.value / 1e6 * unit,
                    low: x.low.map(|v| v / 1e6 * unit),
                    high: x.high.map(|v| v / 1e6 * unit),
                })
        };
        Self {
            label: label(run, level),
            answers: run.answers(level),
            usd_per_mtok_input: scaled(level.usd_per_mtok_input),
            usd_per_mtok_cached: scaled(level.usd_per_mtok_cached),
            usd_per_mtok_output: scaled(level.usd_per_mtok_output),
            usd_per_mtok_blended: scaled(level.usd_per_mtok_blended),
            usd_per_mtok_output_at_slo: at_slo("usd_per_mtok_output_at_slo"),
            usd_per_mtok_blended_at_slo: at_slo("usd_per_mtok_blended_at_slo"),
            usd_per_request: per_s(Some(level.summary.requests_per_s), 1.0),
        }
    }
}

/// What `costmark price` answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PriceReport {
    /// What was measured where.
    pub run: String,
    /// The price of time and how it came about, one sentence each.
    pub terms: Vec<String>,
    /// USD per hour of the whole machine.
    pub usd_per_hour: f64,
    /// Share of paid time at the measured load.
    pub utilization: f64,
    /// Part of the machine that is charged.
    pub share: f64,
    /// Levels.
    pub levels: Vec<PricedLevel>,
    /// Input and output over several workloads, where the run has them at the same load.
    pub fitted: Vec<FittedLoad>,
    /// Electricity, a part of the price of time, where it is known.
    pub energy: Vec<EnergyLine>,
    /// The price of electricity and what the price of time has to do with it.
    pub energy_terms: String,
    /// What the stated usage costs, at the level named in `usage_at`.
    pub usage: Option<UsageCost>,
    /// The level and the usage, in words.
    pub usage_at: Option<String>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// A figure of a level, where it has one.
type Figure = fn(&PricedLevel) -> Option<Interval>;

/// As text.
#[must_use]
pub fn price_table(report: &PriceReport) -> String {
    let mut text = paragraph("", &report.run);
    let has = |of: Figure| report.levels.iter().any(|l| of(l).is_some());
    // Where output is told apart it is what an SLO is about; elsewhere tokens of any kind are.
    let at_slo: Option<(&str, Figure)> = if has(|l| l.usd_per_mtok_output_at_slo) {
        Some(("output at\nSLO $/M", |l| l.usd_per_mtok_output_at_slo))
    } else if has(|l| l.usd_per_mtok_blended_at_slo) {
        Some(("blended at\nSLO $/M", |l| l.usd_per_mtok_blended_at_slo))
    } else {
        None
    };
    let has_cached = report
        .levels
        .iter()
        .any(|l| l.usd_per_mtok_cached.is_some());
    let mut header = vec![
        "load",
        "input\n$/M",
        "output\n$/M",
        "blended\n$/M",
        "request\n$/1000",
    ];
    if has_cached {
        header.insert(2, "cached\n$/M");
    }
    if let Some((name, _)) = at_slo {
        header.push(name);
    }
    let mut grid = Grid::new(&header, 1);
    grid.rules = true;
    let money = |x: Option<&Interval>| x.map_or_else(|| "–".into(), with_ends);
    for level in &report.levels {
        let thousand = level.usd_per_request.map(|x| Interval {
            value: x.value * 1e3,
            low: x.low.map(|v| v * 1e3),
            high: x.high.map(|v| v * 1e3),
        });
        let mut row = vec![
            level.label.clone(),
            money(level.usd_per_mtok_input.as_ref()),
            money(level.usd_per_mtok_output.as_ref()),
            money(level.usd_per_mtok_blended.as_ref()),
            money(thousand.as_ref()),
        ];
        if has_cached {
            row.insert(2, money(level.usd_per_mtok_cached.as_ref()));
        }
        if let Some((_, figure)) = at_slo {
            row.push(money(figure(level).as_ref()));
        }
        grid.row(row);
    }
    text += &grid.text();
    text += "Second lines: the run's 95 % intervals, carried into money.\n\n";
    for fitted in &report.fitted {
        text += &paragraph("Fitted    ", &fitted.in_words());
    }
    for line in &report.energy {
        text += &paragraph("Energy    ", &line.in_words());
    }
    if !report.energy.is_empty() {
        text += &paragraph("          ", &report.energy_terms);
    }
    if let (Some(usage), Some(at)) = (&report.usage, &report.usage_at) {
        text += &paragraph("Usage     ", at);
        for (what, cost) in [
            ("a request", usage.usd_per_request),
            ("a thousand conversations", usage.usd_per_1000_conversations),
            ("a user's month", usage.usd_per_user_month),
        ] {
            text += &paragraph("          ", &format!("{what}: {}", in_line(&cost, usd)));
        }
    }
    text += &paragraph(
        "Price     ",
        &format!(
            "${}/h for the whole machine; utilization {}{}",
            short(report.usd_per_hour),
            percent(report.utilization),
            if report.share < 1.0 {
                format!(
                    "; split: {} of the machine is charged",
                    percent(report.share)
                )
            } else {
                String::new()
            }
        ),
    );
    for term in &report.terms {
        text += &paragraph("          ", term);
    }
    for note in &report.notes {
        text += &paragraph("Note      ", note);
    }
    text
}
