//! A comparison as Markdown and as CSV.

use std::fmt::Write as _;

use super::{Comparison, Metric};
use crate::numbers::{ends, short, usd};
use crate::text::inert_line;

impl Comparison {
    /// As GitHub-flavoured Markdown: the runs, the answer, and a table per level.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from("| run | model | machine | USD/h | started | remarks |\n");
        text.push_str("|---|---|---|---:|---|---|\n");
        for (index, run) in self.runs.iter().enumerate() {
            let mut remarks: Vec<String> = Vec::new();
            if index == 0 {
                remarks.push("baseline".into());
            }
            remarks.extend(run.differences.iter().map(|d| {
                let mark = if d.is_other_work {
                    "**NOT COMPARABLE:** "
                } else {
                    ""
                };
                format!("{mark}{}: {} instead of {}", d.what, d.other, d.baseline)
            }));
            remarks.extend(run.cautions.iter().cloned());
            row(
                &mut text,
                &[
                    run.name.clone(),
                    run.model.clone(),
                    run.machine.clone(),
                    usd(run.usd_per_hour),
                    run.started_at.clone(),
                    remarks.join("; "),
                ],
            );
        }
        if let Some(cheapest) = &self.cheapest {
            let _ = write!(text, "\n{}\n", cell(&cheapest.words()));
        }
        for level in &self.levels {
            let _ = write!(text, "\nAt {}:\n\n", cell(&level.label));
            text.push_str("| metric | run | median | 95 % | ratio | 95 % | verdict |\n");
            text.push_str("|---|---|---:|---:|---:|---:|---|\n");
            for metric in &level.metrics {
                for (run, value) in self.runs.iter().zip(&metric.values) {
                    let label = Metric::named(metric.name).map_or(metric.name, |m| m.label);
                    row(
                        &mut text,
                        &[
                            label.to_string(),
                            run.name.clone(),
                            value.value.map_or("–".into(), |v| short(v.value)),
                            value.value.map_or(String::new(), |v| ends(&v)),
                            value.ratio.map_or(String::new(), |r| short(r.value)),
                            value.ratio.map_or(String::new(), |r| ends(&r)),
                            value.verdict.words().to_string(),
                        ],
                    );
                }
            }
        }
        text
    }

    /// As CSV (RFC 4180), one line per level, metric and run, figures unrounded.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut text = String::from(
            "level,metric,run,path,value,value_low,value_high,ratio,ratio_low,ratio_high,verdict\n",
        );
        let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
        for level in &self.levels {
            for metric in &level.metrics {
                for (run, value) in self.runs.iter().zip(&metric.values) {
                    let (own, ratio) = (value.value, value.ratio);
                    let fields = [
                        quoted(level.id.as_str()),
                        metric.name.to_string(),
                        quoted(&run.name),
                        quoted(&run.path),
                        number(own.map(|v| v.value)),
                        number(own.and_then(|v| v.low)),
                        number(own.and_then(|v| v.high)),
                        number(ratio.map(|v| v.value)),
                        number(ratio.and_then(|v| v.low)),
                        number(ratio.and_then(|v| v.high)),
                        serde_json::to_value(value.verdict)
                            .ok()
                            .and_then(|v| v.as_str().map(str::to_string))
                            .unwrap_or_default(),
                    ];
                    text.push_str(&fields.join(","));
                    text.push('\n');
                }
            }
        }
        text
    }
}

fn row(text: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|c| cell(c)).collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

/// Text that stays text in Markdown: no cell, link, tag or emphasis begins in it. `**` of our
/// own marks is kept by writing it around escaped text only.
fn cell(text: &str) -> String {
    let mut out = String::new();
    for c in inert_line(text).chars() {
        match c {
            '|' | '\\' | '`' | '[' | ']' | '_' | '~' => {
                out.push('\\');
                out.push(c);
            }
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            _ => out.push(c),
        }
    }
    out
}

/// A field that holds a comma, quote or line break goes in quotes; one that a spreadsheet would
/// take for a formula is made text.
fn quoted(field: &str) -> String {
    let field = inert_line(field);
    let field = match field.starts_with(['=', '+', '-', '@']) {
        true => format!("'{field}"),
        false => field,
    };
    match field.contains([',', '"', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
    }
}
