//! Several machines side by side.

use super::{Page, label, with_ends};
use crate::numbers::{ends, percent, short, usd};
use crate::page::html::{details, escaped, figure, table};

impl Page<'_> {
    pub(super) fn machines(&self, out: &mut String) {
        out.push_str("<h2>Which machine is cheaper</h2>");
        if let Some(cheapest) = &self.comparison.cheapest {
            let rows: Vec<Vec<String>> = cheapest
                .runs
                .iter()
                .map(|c| {
                    vec![
                        c.run.clone(),
                        c.level.clone(),
                        with_ends(Some(c.usd_per_mtok), usd),
                        c.ratio.map_or("1".into(), |r| short(r.value)),
                        c.ratio.map_or(String::new(), |r| ends(&r)),
                        c.verdict.words().into(),
                    ]
                })
                .collect();
            out.push_str(&figure(
                "hardware",
                &format!(
                    "{} by run, each at its cheapest level",
                    label(cheapest.metric)
                ),
                "Bars are medians over repeats, whiskers 95 % intervals.",
                &table(
                    "Cheapest level of each run, against the cheapest run",
                    &[
                        "run",
                        "level",
                        "USD per million (95 %)",
                        "times the cheapest",
                        "95 %",
                        "verdict",
                    ],
                    &rows,
                ),
            ));
        }
        let rows = self.each_level(|r, l| {
            let level = &self.data[r].levels[l];
            let usd_per_mtok = self.runs[r].document.levels[l]
                .usd_per_mtok_output
                .or(self.runs[r].document.levels[l].usd_per_mtok_blended);
            vec![
                level.tok_per_s_per_user.map_or("–".into(), short),
                usd_per_mtok.map_or("–".into(), |i| short(1e6 / i.value)),
            ]
        });
        out.push_str(&figure(
            "pareto",
            "Speed for each user against tokens for a dollar",
            "Each point is a level of a run. Points on the line are not beaten in both at once by any \
             other: up is faster for each user, right is more output tokens for a dollar.",
            &table(
                "All levels",
                &["level", "tok/s per user", "output tokens per USD"],
                &rows,
            ),
        ));
        let rows: Vec<Vec<String>> = self
            .runs
            .iter()
            .map(|run| {
                let price = &run.document.price;
                vec![
                    run.name.clone(),
                    run.document.environment.label.clone(),
                    usd(price.usd_per_hour),
                    percent(price.utilization),
                    price.reference.clone(),
                    price.as_of.clone(),
                    price.source.clone(),
                    price.suspect.clone().unwrap_or_default(),
                ]
            })
            .collect();
        out.push_str("<h3>Price terms</h3>");
        out.push_str(&table(
            "What an hour of each machine was taken to cost",
            &[
                "run",
                "machine",
                "USD/h",
                "utilization",
                "offer",
                "as of",
                "source",
                "doubts",
            ],
            &rows,
        ));
        let mut body = String::new();
        for level in &self.comparison.levels {
            let mut rows = Vec::new();
            for metric in &level.metrics {
                for (run, value) in self.comparison.runs.iter().zip(&metric.values) {
                    rows.push(vec![
                        format!("{}, {}", label(metric.name), run.name),
                        value.value.map_or("–".into(), |v| short(v.value)),
                        value.value.map_or(String::new(), |v| ends(&v)),
                        value.ratio.map_or(String::new(), |r| short(r.value)),
                        value.ratio.map_or(String::new(), |r| ends(&r)),
                        value.verdict.words().into(),
                    ]);
                }
            }
            body.push_str(&table(
                &format!("At {}", level.label),
                &[
                    "metric and run",
                    "median",
                    "95 %",
                    "ratio to the first run",
                    "95 %",
                    "verdict",
                ],
                &rows,
            ));
        }
        out.push_str(&details("All figures, level by level", &body));
        let marks = self
            .comparison
            .runs
            .iter()
            .filter(|r| !r.is_comparable())
            .count();
        if marks > 0 {
            let text =
                format!("{marks} of the runs did other work than the first: no verdict on them.");
            out.push_str(&format!("<p class=\"alarm\">{}</p>", escaped(&text)));
        }
    }
}
