//! Several machines at their prices, side by side.

use costmark_core::Interval;
use costmark_econ::pareto;
use serde::Serialize;

use crate::money::layout::{Grid, paragraph, with_ends};
use crate::numbers::short;

/// One run at one price.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankedRun {
    /// Model and machine.
    pub name: String,
    /// Model and precision: rows of different models are not comparable.
    pub model: String,
    /// The price of time, in words.
    pub price: String,
    /// USD per hour.
    pub usd_per_hour: f64,
    /// Cheapest output, whatever the latency, USD per million.
    pub best_usd_per_mtok: Option<Interval>,
    /// Load of that.
    pub best_at: String,
    /// Cheapest output of levels whose percentiles keep the limits, USD per million. Not the cost
    /// at an SLO, which charges what requests within it bring with what the others cost.
    pub within_usd_per_mtok: Option<Interval>,
    /// Load of that.
    pub within_at: String,
    /// Output tokens per second at the level that counts.
    pub output_tok_per_s: f64,
    /// Power under load, W.
    pub watts: Option<f64>,
    /// It is not beaten in cost and energy at once.
    pub pareto: bool,
}

impl RankedRun {
    /// Output tokens per dollar, by the figure that counts.
    fn tokens_per_usd(&self, within: bool) -> Option<f64> {
        Some(1e6 / self.cost(within)?.value)
    }

    fn cost(&self, within: bool) -> Option<Interval> {
        if within {
            self.within_usd_per_mtok
        } else {
            self.best_usd_per_mtok
        }
    }

    fn tok_per_joule(&self) -> Option<f64> {
        self.watts.map(|w| self.output_tok_per_s / w)
    }

    /// Marks the runs that no other beats in cost and energy per token at once; in cost alone
    /// where the power of one is not known.
    pub fn mark(runs: &mut [Self], within: bool) {
        let known = runs.iter().all(|r| r.watts.is_some());
        let points: Vec<[f64; 2]> = runs
            .iter()
            .map(|r| {
                let usd = r.cost(within).map_or(f64::NAN, |c| c.value);
                let joules = r.tok_per_joule().map_or(f64::NAN, |t| 1.0 / t);
                [usd, if known { joules } else { 0.0 }]
            })
            .collect();
        for (run, marked) in runs.iter_mut().zip(pareto(&points)) {
            run.pareto = marked;
        }
    }
}

/// As text. `limits` are the latency limits in words, if any were given.
#[must_use]
pub fn rank_table(runs: &[RankedRun], limits: Option<&str>, notes: &[String]) -> String {
    let within = limits.is_some();
    let mut grid = Grid::new(
        &[
            "",
            "run",
            "$/h",
            "best\n$/M out",
            "in limits\n$/M out",
            "tokens\nper $",
            "tokens\nper J",
        ],
        2,
    );
    grid.rules = true;
    let money = |x: Option<Interval>, at: &str| match x {
        Some(x) => format!("{}\n{at}", with_ends(&x)),
        None => "–".into(),
    };
    let figure = |x: Option<f64>| x.map_or_else(|| "–".into(), short);
    for run in runs {
        grid.row(vec![
            if run.pareto { "P" } else { "" }.into(),
            format!("{}\n{}", run.name, run.price),
            short(run.usd_per_hour),
            money(run.best_usd_per_mtok, &run.best_at),
            if within {
                money(run.within_usd_per_mtok, &run.within_at)
            } else {
                "–".into()
            },
            figure(run.tokens_per_usd(within)),
            figure(run.tok_per_joule()),
        ]);
    }
    let mut text = grid.text();
    let by_power = runs.iter().all(|r| r.watts.is_some());
    text += &paragraph(
        "",
        &format!(
            "P: not beaten in {}. Output tokens; second lines are the runs' 95 % intervals. Tokens \
             per $ and per J at {}.{}",
            if by_power {
                "cost and energy per token at once"
            } else {
                "cost (power is not known for all: --watts)"
            },
            if within {
                "the level in the limits"
            } else {
                "the cheapest level"
            },
            limits.map_or_else(String::new, |l| format!(" Limits: {l}.")),
        ),
    );
    for note in notes {
        text += &paragraph("Note  ", note);
    }
    text
}
