//! The margin at a list price, and what must change.

use costmark_core::Interval;
use costmark_econ::sensitivity::Lever;
use costmark_econ::{Bar, Margin, Spread};
use serde::Serialize;

use crate::money::layout::{Grid, in_line, margin_percent, paragraph};
use crate::numbers::{short, usd};

/// What `costmark margin` answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MarginReport {
    /// What was measured where.
    pub run: String,
    /// The load the margin is of.
    pub level: String,
    /// The list price in words.
    pub list_price: String,
    /// The price of time, one sentence each.
    pub terms: Vec<String>,
    /// The margin as measured.
    pub margin: Margin,
    /// Gross margin with the run's interval.
    pub gross_margin: Interval,
    /// Markup with the run's interval.
    pub markup: Interval,
    /// Gross margin of every level.
    pub levels: Vec<(String, Option<Interval>)>,
    /// Margin wanted.
    pub target: f64,
    /// For a margin of 0 and for the target, what each quantity alone must become.
    pub needed: Vec<NeededReport>,
    /// One lever at a time.
    pub tornado: Vec<Bar>,
    /// All levers at once.
    pub spread: Option<Spread>,
    /// Why there is no spread.
    pub no_spread: Option<String>,
    /// What is assumed.
    pub assumptions: Vec<String>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// What is now: utilization, list factor 1, tokens per second, USD per hour, hit rate.
    pub now: NeededReport,
}

/// What each quantity alone must be for a margin.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NeededReport {
    /// The margin.
    pub margin: f64,
    /// Utilization.
    pub utilization: Option<Interval>,
    /// Factor on the list price.
    pub list_factor: Option<Interval>,
    /// Tokens per second.
    pub tok_per_s: Option<Interval>,
    /// Price of the machine.
    pub usd_per_hour: Option<Interval>,
    /// Cache hit rate.
    pub hit_rate: Option<Interval>,
    /// Why one of them is absent.
    pub reason: Option<String>,
    /// Why the hit rate is absent.
    pub hit_reason: Option<String>,
}

/// As text.
#[must_use]
pub fn margin_table(report: &MarginReport) -> String {
    let mut text = paragraph("", &report.run);
    text += &paragraph("", &answer(report));
    let m = &report.margin;
    let mut grid = Grid::new(
        &["per million tokens of the run's mix", "USD", "of revenue"],
        1,
    );
    let mut line = |name: &str, value: f64| {
        grid.row(vec![
            name.into(),
            short(value),
            margin_percent(value / m.revenue_usd_per_mtok),
        ]);
    };
    line("revenue at list price", m.revenue_usd_per_mtok);
    line("  input", m.revenue.input_usd);
    if m.revenue.cached_read_usd > 0.0 {
        line("  cached input", m.revenue.cached_read_usd);
    }
    if m.revenue.cache_write_usd > 0.0 {
        line("  cache writes", m.revenue.cache_write_usd);
    }
    line("  output", m.revenue.output_usd);
    line("inference", m.inference_usd_per_mtok);
    for (name, value) in [
        ("free use", m.free_usd_per_mtok),
        ("other cost of sales", m.other_usd_per_mtok),
        ("revenue share", m.revenue_share_usd_per_mtok),
    ] {
        if value > 0.0 {
            line(name, value);
        }
    }
    text += &grid.text();
    text += &paragraph(
        "",
        &format!("Markup: {}.", in_line(&report.markup, margin_percent)),
    );
    let others: Vec<String> = report
        .levels
        .iter()
        .filter(|(label, _)| *label != report.level)
        .map(|(label, margin)| {
            let margin = margin.map_or_else(|| "–".into(), |m| margin_percent(m.value));
            format!("{label}: {margin}")
        })
        .collect();
    if !others.is_empty() {
        text += &paragraph("", &format!("Other loads: {}.", others.join(", ")));
    }
    text.push('\n');
    text += &needed_grid(report).text();
    text += &paragraph(
        "",
        "Each alone, the others as they are; in brackets what the run's interval makes of it.",
    );
    for needed in &report.needed {
        if let Some(reason) = &needed.reason {
            text += &paragraph("", &format!("{}: {reason}.", margin_percent(needed.margin)));
        }
    }
    if let Some(reason) = report.needed.iter().find_map(|n| n.hit_reason.as_ref()) {
        text += &paragraph("", &format!("Cache hit rate: {reason}."));
    }
    text.push('\n');
    text += &tornado_grid(&report.tornado).text();
    match (&report.spread, &report.no_spread) {
        (Some(s), _) => {
            text += &paragraph(
                "",
                &format!(
                    "All of these at once, drawn uniformly over the ranges (throughput from the \
                     run's interval; {} draws, seed {}): margin P5 {}, P50 {}, P95 {}; {} of the \
                     draws lose money. Ranges are what-ifs, not forecasts.",
                    s.draws,
                    s.seed,
                    margin_percent(s.p5),
                    margin_percent(s.p50),
                    margin_percent(s.p95),
                    margin_percent(s.loss_share),
                ),
            );
        }
        (None, Some(reason)) => text += &paragraph("", &format!("No Monte-Carlo: {reason}.")),
        (None, None) => {}
    }
    text.push('\n');
    text += &paragraph("List price  ", &report.list_price);
    for (i, term) in report.terms.iter().enumerate() {
        let label = if i == 0 {
            "Cost        "
        } else {
            "            "
        };
        text += &paragraph(label, term);
    }
    for assumption in &report.assumptions {
        text += &paragraph("Assumption  ", assumption);
    }
    for note in &report.notes {
        text += &paragraph("Note        ", note);
    }
    text
}

/// The margin, and what alone would make it the one wanted, in two sentences.
fn answer(report: &MarginReport) -> String {
    let margin = format!(
        "At this list price and {} the gross margin is {}.",
        report.level,
        in_line(&report.gross_margin, margin_percent)
    );
    let target = margin_percent(report.target);
    let Some(needed) = report.needed.last().filter(|n| n.reason.is_none()) else {
        return format!("{margin} Nothing alone makes it {target}.");
    };
    let now = &report.now;
    let value = |x: Option<Interval>| x.map(|x| x.value);
    let mut ways = Vec::new();
    if let Some(factor) = value(needed.list_factor) {
        ways.push(format!("a list price {} times as high", short(factor)));
    }
    if let (Some(then), Some(now)) = (value(needed.tok_per_s), value(now.tok_per_s)) {
        ways.push(format!("{} tok/s instead of {}", short(then), short(now)));
    }
    if let (Some(then), Some(now)) = (value(needed.usd_per_hour), value(now.usd_per_hour)) {
        ways.push(format!("{} an hour instead of {}", usd(then), usd(now)));
    }
    if let (Some(then), Some(now)) = (value(needed.utilization), value(now.utilization))
        && then <= 1.0
    {
        ways.push(format!(
            "a utilization of {} instead of {}",
            margin_percent(then),
            margin_percent(now)
        ));
    }
    if ways.is_empty() {
        return format!("{margin} Nothing alone makes it {target}.");
    }
    let far = if report.gross_margin.value < report.target {
        "It takes one of these alone to reach"
    } else {
        "Any of these alone would bring it down to"
    };
    format!("{margin} {far} {target}: {}.", ways.join(", or "))
}

fn needed_grid(report: &MarginReport) -> Grid {
    let target = format!("margin {}", margin_percent(report.target));
    let mut grid = Grid::new(&["to change alone", "now", "margin 0.0 %", &target], 1);
    grid.rules = true;
    let at = |i: usize| report.needed.get(i);
    type Pick = fn(&NeededReport) -> Option<Interval>;
    type Row = (&'static str, Pick, fn(f64) -> String);
    let rows: [Row; 5] = [
        (
            "utilization",
            |n| n.utilization,
            |x| {
                let text = margin_percent(x);
                if x > 1.0 {
                    format!("{text}: not possible")
                } else {
                    text
                }
            },
        ),
        ("list price, times", |n| n.list_factor, short),
        ("throughput, tok/s", |n| n.tok_per_s, short),
        ("machine, per hour", |n| n.usd_per_hour, usd),
        (
            "cache hit rate",
            |n| n.hit_rate,
            |x| {
                let text = margin_percent(x);
                if (0.0..=1.0).contains(&x) {
                    text
                } else {
                    format!("{text}: not possible")
                }
            },
        ),
    ];
    for (name, pick, show) in rows {
        let cell = |n: Option<&NeededReport>| {
            n.and_then(pick)
                .map_or_else(|| "–".into(), |x| brackets(&x, show))
        };
        grid.row(vec![
            name.into(),
            cell(Some(&report.now)),
            cell(at(0)),
            cell(at(1)),
        ]);
    }
    grid
}

fn brackets(interval: &Interval, show: fn(f64) -> String) -> String {
    match (interval.low, interval.high) {
        (Some(low), Some(high)) => format!(
            "{}\n[{}, {}]",
            show(interval.value),
            short_of(low, show),
            short_of(high, show)
        ),
        _ => show(interval.value),
    }
}

/// Without the remark that stands beside the value already.
fn short_of(x: f64, show: fn(f64) -> String) -> String {
    show(x).replace(": not possible", "")
}

fn tornado_grid(bars: &[Bar]) -> Grid {
    let mut grid = Grid::new(
        &[
            "one at a time",
            "from",
            "to",
            "margin from",
            "margin to",
            "swing, points",
        ],
        1,
    );
    for bar in bars {
        let value = |x: f64| match bar.range.lever {
            Lever::Utilization | Lever::CacheHitRate => margin_percent(x),
            _ => format!("× {}", short(x)),
        };
        let margin = |m: Option<f64>| m.map_or_else(|| "–".into(), margin_percent);
        let swing = match &bar.reason {
            None => short(bar.swing() * 100.0),
            Some(_) => "–".into(),
        };
        grid.row(vec![
            bar.range.lever.name().into(),
            value(bar.range.low),
            value(bar.range.high),
            margin(bar.at_low),
            margin(bar.at_high),
            swing,
        ]);
    }
    grid
}
