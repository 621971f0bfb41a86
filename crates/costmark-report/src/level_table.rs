//! The levels of a run as tables of at most [`WIDTH`] columns.
//!
//! A level takes three lines: figure, low end and high end of its interval one below the
//! other on the left, p50, p90 and p99 on the right. So no cell is wider than a number, and
//! with usual figures the table of closed loops fits 80 columns.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use costmark_core::Interval;
use costmark_metrics::{AdviceCode, LatencySummary, P90_MIN_N, P99_MIN_N};

use crate::document::{LevelDocument, LoadDocument, RunDocument};
use crate::names;
use crate::numbers::{percent, short};
use crate::table::WIDTH;

/// Blanks behind each column.
const GAP: u16 = 1;

/// One table where all levels are closed loops of one workload on one model; otherwise one of
/// load and speed and one of money.
pub(crate) fn level_tables(run: &RunDocument) -> Vec<String> {
    let all_closed = run.levels.iter().all(|l| !l.load.is_open());
    if all_closed && run.plan.models.len() == 1 && run.plan.workloads.len() == 1 {
        vec![simple(run)]
    } else {
        vec![speed(run), money_table(run)]
    }
}

/// Some percentile of the time to first token is over 1 % longer on the user clock.
pub(crate) fn has_two_clocks(level: &LevelDocument) -> bool {
    let latency = &level.summary.latency;
    let Some((service, user)) = latency.ttft_ms.zip(latency.user_ttft_ms) else {
        return false;
    };
    let differ = |service: Option<f64>, user: Option<f64>| {
        service.zip(user).is_some_and(|(s, u)| u > 1.01 * s)
    };
    differ(Some(service.p50), Some(user.p50))
        || differ(service.p90, user.p90)
        || differ(service.p99, user.p99)
}

fn simple(run: &RunDocument) -> String {
    let two_clocks = run.levels.iter().any(has_two_clocks);
    let mut header = vec!["in\nflight", "", "output\ntok/s", "input\ntok/s", ""];
    header.extend(ttft_header(two_clocks));
    header.extend([
        "ITL\nms",
        "MBU",
        "input\n$/M",
        "output\n$/M",
        "blended\n$/M",
    ]);
    let rows = run.levels.iter().map(|level| {
        let mut row = vec![names::cell(level, &run.plan)];
        row.extend(throughput(level));
        row.extend(latencies(level, two_clocks));
        row.push(mbu(level));
        row.extend(prices(level));
        row
    });
    table(&header, rows)
}

fn speed(run: &RunDocument) -> String {
    let two_clocks = run.levels.iter().any(has_two_clocks);
    let mut header = vec![
        "load",
        "requests\nper s",
        "",
        "output\ntok/s",
        "input\ntok/s",
        "",
    ];
    header.extend(ttft_header(two_clocks));
    header.extend(["ITL\nms", "in\nflight", "MBU"]);
    let rows = run.levels.iter().map(|level| {
        let mut row = vec![marked(level, run), rates(level)];
        row.extend(throughput(level));
        row.extend(latencies(level, two_clocks));
        row.push(short(level.summary.concurrency.value));
        row.push(mbu(level));
        row
    });
    table(&header, rows)
}

fn money_table(run: &RunDocument) -> String {
    let header = ["load", "", "input\n$/M", "output\n$/M", "blended\n$/M"];
    let rows = run.levels.iter().map(|level| {
        let mut row = vec![names::cell(level, &run.plan), labels(level)];
        row.extend(prices(level));
        row
    });
    table(&header, rows)
}

/// The load, and what makes its figures describe something else than the backend's steady
/// service.
fn marked(level: &LevelDocument, run: &RunDocument) -> String {
    let mut text = names::cell(level, &run.plan);
    if level.summary.saturated == Some(true) {
        text.push_str("\nsaturated");
    }
    let is_limited = |a: &costmark_metrics::Advice| a.code == AdviceCode::ClientLimited;
    if level.summary.advice.iter().any(is_limited) {
        text.push_str("\nclient-limited");
    }
    text
}

fn rates(level: &LevelDocument) -> String {
    let summary = &level.summary;
    let done = format!("{} done", short(summary.requests_per_s.value));
    let offered = summary.offered_requests_per_s;
    match offered.zip(summary.delivered_requests_per_s) {
        // All are due at once: a number, not a rate.
        Some(_) if matches!(level.load, LoadDocument::MaxThroughput { .. }) => done,
        Some((offered, delivered)) => format!(
            "{} due\n{} sent\n{done}",
            short(offered.value),
            short(delivered.value)
        ),
        None => done,
    }
}

fn throughput(level: &LevelDocument) -> [String; 3] {
    let summary = &level.summary;
    [
        labels(level),
        with_ends(&summary.output_tok_per_s),
        with_ends(&summary.input_tok_per_s),
    ]
}

fn ttft_header(two_clocks: bool) -> &'static [&'static str] {
    if two_clocks {
        &["TTFT ms\nservice", "TTFT ms\nuser"]
    } else {
        &["TTFT\nms"]
    }
}

fn latencies(level: &LevelDocument, two_clocks: bool) -> Vec<String> {
    let latency = &level.summary.latency;
    let mut cells = vec![
        "p50\np90\np99".into(),
        percentiles(latency.ttft_ms.as_ref()),
    ];
    if two_clocks {
        cells.push(percentiles(latency.user_ttft_ms.as_ref()));
    }
    cells.push(percentiles(latency.itl_ms.as_ref()));
    cells
}

fn mbu(level: &LevelDocument) -> String {
    optional(level.summary.mbu.map(|mbu| percent(mbu.value)))
}

fn prices(level: &LevelDocument) -> [String; 3] {
    [
        money(level.usd_per_mtok_input.as_ref()),
        money(level.usd_per_mtok_output.as_ref()),
        money(level.usd_per_mtok_blended.as_ref()),
    ]
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(UTF8_HORIZONTAL_ONLY)
        .set_width(WIDTH)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .force_no_tty()
        .set_header(header.iter().map(right));
    for row in rows {
        table.add_row(row.iter().map(right));
    }
    let last = table.column_count().saturating_sub(1);
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if i == last { 0 } else { GAP }));
    }
    // Trailing blanks would only make copies of the table untidy.
    table
        .lines()
        .map(|line| line.trim_end().to_string())
        .collect::<Vec<_>>()
        .join("\n")
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// What the lines of a level's figures are.
fn labels(level: &LevelDocument) -> String {
    match level.repeats {
        0 | 1 => String::new(),
        _ => "median\nlow\nhigh".into(),
    }
}

/// The figure, and below it the ends of its interval where there is one.
fn with_ends(interval: &Interval) -> String {
    let end = |end: Option<f64>| end.map_or_else(|| "–".into(), short);
    let value = short(interval.value);
    match (interval.low, interval.high) {
        (None, None) => value,
        (low, high) => format!("{value}\n{}\n{}", end(low), end(high)),
    }
}

fn money(interval: Option<&Interval>) -> String {
    optional(interval.map(with_ends))
}

fn optional(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".into())
}

fn percentiles(latency: Option<&LatencySummary>) -> String {
    let Some(latency) = latency else {
        return "–".into();
    };
    let or_small =
        |value: Option<f64>, needed: u64| value.map_or_else(|| format!("n<{needed}"), short);
    format!(
        "{}\n{}\n{}",
        short(latency.p50),
        or_small(latency.p90, P90_MIN_N),
        or_small(latency.p99, P99_MIN_N)
    )
}
