//! Grids and paragraphs, for a terminal and for Markdown.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table};
use costmark_core::Interval;

use crate::numbers::short;
use crate::table::WIDTH;

/// A grid of text; the first `left` columns are words, the others figures.
pub(crate) struct Grid {
    pub(crate) header: Vec<String>,
    pub(crate) left: usize,
    pub(crate) rows: Vec<Vec<String>>,
    /// Lines between rows.
    pub(crate) rules: bool,
    /// The first column is not broken over lines.
    pub(crate) whole_first: bool,
}

impl Grid {
    pub(crate) fn new(header: &[&str], left: usize) -> Self {
        Self {
            header: header.iter().map(|h| (*h).to_string()).collect(),
            rules: false,
            whole_first: false,
            left,
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn text(&self) -> String {
        let align = |(i, text): (usize, &str)| {
            let alignment = if i < self.left {
                CellAlignment::Left
            } else {
                CellAlignment::Right
            };
            Cell::new(text).set_alignment(alignment)
        };
        let mut table = Table::new();
        table
            .load_style(UTF8_HORIZONTAL_ONLY)
            .set_width(WIDTH)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .force_no_tty()
            .set_header(
                self.header
                    .iter()
                    .map(String::as_str)
                    .enumerate()
                    .map(align),
            );
        for row in &self.rows {
            table.add_row(row.iter().map(String::as_str).enumerate().map(align));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        if self.whole_first
            && let Some(first) = table.column_mut(0)
        {
            first.set_constraint(ColumnConstraint::ContentWidth);
        }
        table
            .lines()
            .enumerate()
            .filter(|(i, line)| *i == 0 || self.rules || !is_rule(line) || line.contains('═'))
            .map(|(_, line)| line.trim_end().to_string() + "\n")
            .collect()
    }

    pub(crate) fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let clean = |cell: &str| cell.replace('\n', " ").replace('|', "\\|");
        let mut text = line(self.header.iter().map(|h| clean(h)).collect());
        text += &line(
            (0..self.header.len())
                .map(|i| if i < self.left { "---" } else { "---:" }.to_string())
                .collect(),
        );
        for row in &self.rows {
            text += &line(row.iter().map(|cell| clean(cell)).collect());
        }
        text
    }
}

fn is_rule(line: &str) -> bool {
    !line.is_empty() && line.chars().all(|c| c == '─' || c == '═' || c == ' ')
}

/// `label` before the first line, further lines indented below it, at most 100 columns wide.
#[must_use]
pub fn paragraph(label: &str, content: &str) -> String {
    let indent = " ".repeat(label.chars().count());
    let options = textwrap::Options::new(usize::from(WIDTH))
        .initial_indent(label)
        .subsequent_indent(&indent)
        .break_words(false)
        // Dates and names have hyphens.
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::fill(content, options) + "\n"
}

/// A value with its ends on a line below.
pub(crate) fn with_ends(interval: &Interval) -> String {
    format!(
        "{}\n{}",
        short(interval.value),
        crate::numbers::ends(interval)
    )
    .trim_end()
    .to_string()
}

/// A value with its ends on the same line.
pub(crate) fn in_line(interval: &Interval, show: impl Fn(f64) -> String) -> String {
    let value = show(interval.value);
    match (interval.low, interval.high) {
        (Some(low), Some(high)) => format!("{value} ({} to {})", show(low), show(high)),
        (Some(low), None) => format!("{value} (at least {})", show(low)),
        (None, Some(high)) => format!("{value} (at most {})", show(high)),
        (None, None) => value,
    }
}

/// A margin in percent, one decimal where that says something.
pub(crate) fn margin_percent(share: f64) -> String {
    let value = share * 100.0;
    if value.abs() >= 1000.0 {
        format!("{} %", short(value))
    } else {
        format!("{value:.1} %")
    }
}

/// A figure in its unit.
pub(crate) fn with_unit(value: f64, unit: &str) -> String {
    let sign = if value < 0.0 { "-" } else { "" };
    match unit {
        "USD" => format!("{sign}${}", large(value.abs())),
        "USD/M" => format!("{sign}${}/M", short(value.abs())),
        "share" => margin_percent(value),
        "points" => format!("{:+.1} points", value * 100.0),
        "x" => format!("{} ×", short(value)),
        other if value.abs() < 1000.0 => {
            let text = format!("{value:.2}");
            format!(
                "{} {other}",
                text.trim_end_matches('0').trim_end_matches('.')
            )
        }
        other => format!("{} {other}", large(value)),
    }
}

/// Three digits with a word for the size: `4.50 B`.
fn large(value: f64) -> String {
    let size = value.abs();
    let (scale, word) = if size >= 1e12 {
        (1e12, " T")
    } else if size >= 1e9 {
        (1e9, " B")
    } else if size >= 1e6 {
        (1e6, " M")
    } else {
        (1.0, "")
    };
    format!("{}{word}", short(value / scale))
}
