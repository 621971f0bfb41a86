//! What can be compared: each figure with its name, its direction, and where it stands.

use costmark_core::Interval;
use costmark_metrics::interval_over_repeats;

use crate::document::{LevelDocument, UnitDocument};

/// Which way a figure is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// More is better.
    Up,
    /// Less is better.
    Down,
}

/// A figure of a level that can be set against the same of another run.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// As in results and on the command line, with its unit.
    pub name: &'static str,
    /// Shorter names that mean the same.
    pub aliases: &'static [&'static str],
    /// In a table.
    pub label: &'static str,
    /// Which way it is good.
    pub direction: Direction,
    /// It is money.
    pub is_usd: bool,
    /// Shown without being asked for.
    pub is_default: bool,
    unit: fn(&UnitDocument) -> Option<f64>,
    level: Option<fn(&LevelDocument) -> Option<Interval>>,
}

/// A figure of one level of one run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    /// The median over repeats with its interval.
    pub(crate) interval: Interval,
    /// What each repeat gave.
    pub(crate) repeats: Vec<f64>,
}

/// All of them, in the order of a table.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "output_tok_per_s",
        aliases: &["throughput"],
        label: "output tok/s",
        direction: Direction::Up,
        is_usd: false,
        is_default: true,
        unit: |u| Some(u.summary.throughput.output_tok_per_s),
        level: Some(|l| Some(l.summary.output_tok_per_s)),
    },
    Metric {
        name: "input_tok_per_s",
        aliases: &[],
        label: "input tok/s",
        direction: Direction::Up,
        is_usd: false,
        is_default: false,
        unit: |u| Some(u.summary.throughput.input_tok_per_s),
        level: Some(|l| Some(l.summary.input_tok_per_s)),
    },
    Metric {
        name: "total_tok_per_s",
        aliases: &[],
        label: "total tok/s",
        direction: Direction::Up,
        is_usd: false,
        is_default: false,
        unit: |u| Some(u.summary.throughput.total_tok_per_s),
        level: Some(|l| Some(l.summary.total_tok_per_s)),
    },
    Metric {
        name: "requests_per_s",
        aliases: &[],
        label: "requests/s",
        direction: Direction::Up,
        is_usd: false,
        is_default: false,
        unit: |u| Some(u.summary.throughput.requests_per_s),
        level: Some(|l| Some(l.summary.requests_per_s)),
    },
    Metric {
        name: "goodput_output_tok_per_s",
        aliases: &["goodput"],
        label: "tok/s within SLO",
        direction: Direction::Up,
        is_usd: false,
        is_default: true,
        unit: |u| Some(u.summary.goodput?.output_tok_per_s),
        level: Some(|l| l.summary.goodput_output_tok_per_s),
    },
    Metric {
        name: "ttft_p50_ms",
        aliases: &["ttft"],
        label: "TTFT p50 ms",
        direction: Direction::Down,
        is_usd: false,
        is_default: true,
        unit: |u| Some(u.summary.latency.ttft_ms?.p50),
        level: Some(|l| l.summary.ttft_p50_ms),
    },
    Metric {
        name: "ttft_p90_ms",
        aliases: &[],
        label: "TTFT p90 ms",
        direction: Direction::Down,
        is_usd: false,
        is_default: false,
        unit: |u| u.summary.latency.ttft_ms?.p90,
        level: None,
    },
    Metric {
        name: "itl_p50_ms",
        aliases: &["itl"],
        label: "ITL p50 ms",
        direction: Direction::Down,
        is_usd: false,
        is_default: true,
        unit: |u| Some(u.summary.latency.itl_ms?.p50),
        level: Some(|l| l.summary.itl_p50_ms),
    },
    Metric {
        name: "itl_p99_ms",
        aliases: &[],
        label: "ITL p99 ms",
        direction: Direction::Down,
        is_usd: false,
        is_default: false,
        unit: |u| u.summary.latency.itl_ms?.p99,
        level: None,
    },
    Metric {
        name: "tpot_p50_ms",
        aliases: &["tpot"],
        label: "TPOT p50 ms",
        direction: Direction::Down,
        is_usd: false,
        is_default: false,
        unit: |u| Some(u.summary.latency.tpot_ms?.p50),
        level: None,
    },
    Metric {
        name: "e2e_p50_ms",
        aliases: &["e2e"],
        label: "E2E p50 ms",
        direction: Direction::Down,
        is_usd: false,
        is_default: false,
        unit: |u| Some(u.summary.latency.e2e_ms?.p50),
        level: None,
    },
    Metric {
        name: "usd_per_mtok_input",
        aliases: &[],
        label: "$/M input",
        direction: Direction::Down,
        is_usd: true,
        is_default: true,
        unit: |u| u.cost.as_ref()?.usd_per_mtok_input,
        level: Some(|l| l.usd_per_mtok_input),
    },
    Metric {
        name: "usd_per_mtok_output",
        aliases: &[],
        label: "$/M output",
        direction: Direction::Down,
        is_usd: true,
        is_default: true,
        unit: |u| u.cost.as_ref()?.usd_per_mtok_output,
        level: Some(|l| l.usd_per_mtok_output),
    },
    Metric {
        name: "usd_per_mtok_blended",
        aliases: &["cost"],
        label: "$/M blended",
        direction: Direction::Down,
        is_usd: true,
        is_default: true,
        unit: |u| u.cost.as_ref()?.usd_per_mtok_blended,
        level: Some(|l| l.usd_per_mtok_blended),
    },
    Metric {
        name: "usd_per_mtok_output_at_slo",
        aliases: &["cost_at_slo"],
        label: "$/M output at SLO",
        direction: Direction::Down,
        is_usd: true,
        is_default: true,
        unit: usd_per_mtok_output_at_slo,
        level: None,
    },
    Metric {
        name: "usd_per_mtok_blended_at_slo",
        aliases: &[],
        label: "$/M at SLO",
        direction: Direction::Down,
        is_usd: true,
        is_default: false,
        unit: |u| at_slo(u, u.cost.as_ref()?.usd_per_mtok_blended?),
        level: None,
    },
    Metric {
        name: "mbu",
        aliases: &[],
        label: "MBU",
        direction: Direction::Up,
        is_usd: false,
        is_default: true,
        unit: |u| u.summary.steps?.mbu,
        level: Some(|l| l.summary.mbu),
    },
];

/// The same cost over fewer tokens: only those of requests within the limits count.
fn usd_per_mtok_output_at_slo(unit: &UnitDocument) -> Option<f64> {
    at_slo(unit, unit.cost.as_ref()?.usd_per_mtok_output?)
}

/// What is paid for all tokens, over those of requests within the SLO.
fn at_slo(unit: &UnitDocument, usd_per_mtok: f64) -> Option<f64> {
    let good = unit.summary.goodput?.output_tok_per_s;
    let all = unit.summary.throughput.output_tok_per_s;
    (good > 0.0).then(|| usd_per_mtok * all / good)
}

impl Metric {
    /// The metric of this name or alias.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        METRICS
            .iter()
            .find(|m| m.name == name || m.aliases.contains(&name))
    }

    /// Those shown without being asked for.
    pub fn usual() -> impl Iterator<Item = &'static Self> {
        METRICS.iter().filter(|m| m.is_default)
    }

    /// All names that can be typed, for a message.
    #[must_use]
    pub fn names() -> String {
        METRICS
            .iter()
            .map(|m| match m.aliases {
                [] => m.name.to_string(),
                more => format!("{} ({})", m.name, more.join(", ")),
            })
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// What `units`, the repeats of `level`, say; `None` where one of them does not say it.
    pub(crate) fn of(&self, level: &LevelDocument, units: &[&UnitDocument]) -> Option<Figure> {
        let repeats: Option<Vec<f64>> = units.iter().map(|u| (self.unit)(u)).collect();
        let repeats = repeats?;
        let interval = match self.level {
            Some(stored) => stored(level)?,
            None => interval_over_repeats(&repeats)?,
        };
        interval
            .value
            .is_finite()
            .then_some(Figure { interval, repeats })
    }
}
