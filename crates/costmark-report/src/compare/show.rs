//! A comparison for a terminal, at most [`WIDTH`] columns.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use super::{ComparedLevel, ComparedRun, Comparison, Metric};
use crate::numbers::{ends, percent, short, usd};
use crate::table::WIDTH;
use crate::text::inert;

/// Longest name of a run in a column.
const NAME: usize = 20;

impl Comparison {
    /// As text: the runs, what sets them apart, the answer, and a table per level.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (index, run) in self.runs.iter().enumerate() {
            text.push_str(&self.introduce(index, run));
        }
        if let Some(cheapest) = &self.cheapest {
            text.push('\n');
            push_folded(&mut text, "", &cheapest.words());
        }
        for level in &self.levels {
            text.push_str(&format!("\nat {}\n{}\n", level.label, self.table(level)));
        }
        text.push('\n');
        push_folded(
            &mut text,
            "",
            "ratio: of the medians to the baseline's, with a 95 % interval from the repeats of both \
             (Welch's t on logarithms); better and worse are said only where it does not hold 1",
        );
        inert(&text)
    }

    fn introduce(&self, index: usize, run: &ComparedRun) -> String {
        let mut text = String::new();
        let role = if index == 0 { "baseline " } else { "" };
        let line = format!(
            "{role}{}: {} on {}, {}/h at {} utilization, {}",
            run.name,
            run.model,
            run.machine,
            usd(run.usd_per_hour),
            percent(run.utilization),
            run.started_at.get(..16).unwrap_or(&run.started_at),
        );
        push_folded(&mut text, "", &line);
        for difference in &run.differences {
            let mark = if difference.is_other_work {
                "NOT COMPARABLE, other "
            } else {
                "differs in "
            };
            let line = format!(
                "{mark}{}: {} instead of {}",
                difference.what, difference.other, difference.baseline
            );
            push_folded(&mut text, "  ", &line);
        }
        for caution in &run.cautions {
            push_folded(&mut text, "  ", &format!("caution: {caution}"));
        }
        text
    }

    fn table(&self, level: &ComparedLevel) -> String {
        let mut table = Table::new();
        table
            .load_style(UTF8_HORIZONTAL_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(WIDTH)
            .force_no_tty()
            .set_header(["", "median", "95 %", "ratio", "95 %", "verdict"]);
        for metric in &level.metrics {
            let label = Metric::named(metric.name).map_or(metric.name, |m| m.label);
            // One row per metric, one line in it per run: rules between lines would only
            // make it longer.
            let mut cells = [
                label.to_string(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
            ];
            for (run, value) in self.runs.iter().zip(&metric.values) {
                for (cell, text) in cells.iter_mut().zip([
                    format!("  {}", cut(&run.name)),
                    value.value.map_or("–".into(), |v| short(v.value)),
                    value.value.map_or(String::new(), |v| ends(&v)),
                    value.ratio.map_or(String::new(), |r| ratio(r.value)),
                    value.ratio.map_or(String::new(), |r| ends(&r)),
                    value.verdict.words().to_string(),
                ]) {
                    cell.push('\n');
                    cell.push_str(&text);
                }
            }
            table.add_row(cells);
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if (1..5).contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
            .lines()
            .map(|line| line.trim_end().to_string())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn ratio(value: f64) -> String {
    format!("{}×", short(value))
}

/// The end of a long name: times and paths differ there least, models most.
fn cut(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME {
        return name.to_string();
    }
    let end: String = name.chars().skip(length - NAME + 1).collect();
    format!("…{end}")
}

fn push_folded(text: &mut String, indent: &str, line: &str) {
    let more = format!("{indent}  ");
    let options = textwrap::Options::new(usize::from(WIDTH))
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .initial_indent(indent)
        .subsequent_indent(&more);
    text.push_str(&textwrap::fill(line, options));
    text.push('\n');
}
