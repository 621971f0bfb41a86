//! The page's words and tables, in the order a stranger asks for them.

use super::Pricing;
use super::data::RunData;
use super::html::{details, escaped, figure, table};
use crate::compare::{Comparison, Metric};
use crate::document::{RunDocument, Status};
use crate::find::NamedRun;
use crate::numbers::{ends, percent, short, usd};
use costmark_core::Interval;

mod conditions;
mod formulas;
mod inside;
mod machines;

const HEADING: &str = "What a million tokens cost";

/// What the page is made of.
pub(super) struct Page<'a> {
    pub(super) runs: &'a [NamedRun],
    pub(super) data: &'a [RunData],
    pub(super) comparison: &'a Comparison,
    pub(super) remarks: &'a [String],
    pub(super) list: &'a Pricing,
}

/// `value (low–high)`.
pub(super) fn with_ends(interval: Option<Interval>, show: fn(f64) -> String) -> String {
    match interval {
        None => "–".into(),
        Some(i) => match ends(&i) {
            range if range.is_empty() => show(i.value),
            range => format!("{} ({range})", show(i.value)),
        },
    }
}

fn or_dash(value: Option<f64>, show: fn(f64) -> String) -> String {
    value.map_or("–".into(), show)
}

impl Page<'_> {
    pub(super) fn title(&self) -> String {
        format!("{HEADING}: {}", self.subject())
    }

    fn subject(&self) -> String {
        match self.runs {
            [one] => format!(
                "{} on {}",
                served(&one.document),
                one.document.environment.label
            ),
            many => format!("{} runs compared", many.len()),
        }
    }

    /// The body, without data and scripts.
    pub(super) fn body(&self) -> String {
        let mut out = format!(
            "<main class=\"no-script\"><h1>{HEADING}</h1><p class=\"subject\">{}</p>",
            escaped(&self.subject())
        );
        self.head(&mut out);
        if self.runs.len() > 1 {
            self.machines(&mut out);
        }
        self.money(&mut out);
        self.speed(&mut out);
        self.inside(&mut out);
        self.conditions(&mut out);
        self.raw(&mut out);
        out.push_str("</main>");
        out
    }

    fn head(&self, out: &mut String) {
        let first = &self.runs[0].document;
        if self.runs.len() == 1 {
            if let Some(finding) = &first.finding {
                out.push_str(&format!("<p class=\"finding\">{}</p>", escaped(finding)));
            }
            cards(first, &self.data[0], out);
        } else if let Some(cheapest) = &self.comparison.cheapest {
            out.push_str(&format!(
                "<p class=\"finding\">{}</p>",
                escaped(&cheapest.words())
            ));
        }
        for (run, compared) in self.runs.iter().zip(&self.comparison.runs) {
            let name = if self.runs.len() > 1 {
                format!("{}: ", run.name)
            } else {
                String::new()
            };
            for difference in compared.differences.iter().filter(|d| d.is_other_work) {
                out.push_str(&format!(
                    "<p class=\"alarm\">{}NOT COMPARABLE, other {}: {} instead of {}</p>",
                    escaped(&name),
                    escaped(difference.what),
                    escaped(&difference.other),
                    escaped(&difference.baseline)
                ));
            }
            for caution in &compared.cautions {
                let text = format!("{name}{caution}");
                out.push_str(&format!("<p class=\"alarm\">{}</p>", escaped(&text)));
            }
        }
    }

    fn each_level(&self, row: impl Fn(usize, usize) -> Vec<String>) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for (r, run) in self.runs.iter().enumerate() {
            for (l, _) in run.document.levels.iter().enumerate() {
                let label = &self.data[r].levels[l].label;
                let mut cells = vec![match self.runs.len() {
                    1 => label.clone(),
                    _ => format!("{}, {label}", run.name),
                }];
                cells.extend(row(r, l));
                rows.push(cells);
            }
        }
        rows
    }

    fn money(&self, out: &mut String) {
        out.push_str("<h2>Cost and margin</h2>");
        let rows = self.each_level(|r, l| {
            let level = &self.runs[r].document.levels[l];
            let cell = |i| with_ends(i, usd);
            vec![
                cell(level.usd_per_mtok_input),
                cell(level.usd_per_mtok_cached),
                cell(level.usd_per_mtok_output),
                cell(level.usd_per_mtok_blended),
            ]
        });
        let costs = table(
            "USD per million tokens at the run's own price: median over repeats (95 % interval)",
            &["level", "input", "cached input", "output", "blended"],
            &rows,
        );
        out.push_str(&figure(
            "cost",
            "What a million tokens cost, against load",
            "The line is the median over repeats, the band its 95 % interval. More requests at \
             once share each reading of the weights: tokens get cheaper until another limit is \
             reached.",
            &costs,
        ));
        out.push_str(&details("How cost is computed", formulas::COST));
        let start = if self.list.is_given {
            "They start at the price of the run and the list price that was given."
        } else {
            "They start at the price of the run. No list price was given, so it starts at what \
             the tokens cost at the cheapest level: a margin of about 0."
        };
        out.push_str(&format!(
            "<h3 id=\"margin-controls\">Margin at a list price</h3><p class=\"soft\">Move the \
             controls: costs above and margins below are computed anew, from the tokens and \
             seconds that were measured. {start}</p>\
             <form class=\"controls\" aria-labelledby=\"margin-controls\" autocomplete=\"off\">{}{}{}{}{}{}</form>\
             <output id=\"margin-words\" aria-live=\"polite\"></output>",
            self.run_choice(),
            control("usd_per_hour", "Hourly price, USD", 0.001),
            control("utilization", "Utilization, % of paid time", 1.0),
            control("list_input", "List price of input, USD/M", 0.001),
            control("list_cached", "List price of cached input, USD/M", 0.001),
            control("list_output", "List price of output, USD/M", 0.001),
        ));
        out.push_str(&figure(
            "margin",
            "Gross margin against load",
            "Share of revenue left after paying for the machine. Below 0 the tokens are sold at a \
             loss.",
            "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Margin by level\">\
             <table id=\"margin-table\"><caption>At the controls' prices</caption><thead><tr>\
             <th scope=\"col\">level</th><th scope=\"col\">$/M output</th><th scope=\"col\">$/M \
             blended</th><th scope=\"col\">gross margin (95 %)</th><th scope=\"col\">breaks even \
             at utilization</th><th scope=\"col\">highest hourly price</th></tr></thead><tbody>\
             </tbody></table></div>",
        ));
        out.push_str(&details("How margin is computed", formulas::MARGIN));
    }

    fn run_choice(&self) -> String {
        if self.runs.len() == 1 {
            return String::new();
        }
        let mut out = String::from("<label>Prices of <select id=\"priced-run\">");
        for (i, run) in self.runs.iter().enumerate() {
            out.push_str(&format!(
                "<option value=\"{i}\">{}</option>",
                escaped(&run.name)
            ));
        }
        out.push_str("</select></label>");
        out
    }

    fn speed(&self, out: &mut String) {
        out.push_str("<h2>Speed</h2>");
        let rows = self.each_level(|r, l| {
            let summary = &self.runs[r].document.levels[l].summary;
            vec![
                with_ends(Some(summary.output_tok_per_s), short),
                with_ends(Some(summary.input_tok_per_s), short),
                with_ends(summary.ttft_p50_ms, short),
                with_ends(summary.itl_p50_ms, short),
                or_dash(self.data[r].levels[l].tok_per_s_per_user, short),
            ]
        });
        out.push_str(&figure(
            "tradeoff",
            "Latency against throughput",
            "Each point is a level of load. Up and to the right: more tokens per second, each \
             waiting longer. A dashed line is the limit (SLO) the run was given, if any.",
            &table(
                "Medians over repeats (95 % interval)",
                &[
                    "level",
                    "output tok/s",
                    "input tok/s",
                    "TTFT p50 ms",
                    "ITL p50 ms",
                    "tok/s per user",
                ],
                &rows,
            ),
        ));
        let rows = self.each_level(|r, l| {
            let latency = &self.runs[r].document.levels[l].summary.latency;
            [
                latency.ttft_ms,
                latency.itl_ms,
                latency.tpot_ms,
                latency.e2e_ms,
            ]
            .into_iter()
            .map(|summary| {
                summary.map_or("–".into(), |s| {
                    let tail = |p: Option<f64>| p.map_or("n too small".into(), short);
                    format!(
                        "{} / {} / {} / {}",
                        short(s.p50),
                        tail(s.p90),
                        tail(s.p99),
                        short(s.max)
                    )
                })
            })
            .collect()
        });
        out.push_str(
            "<p class=\"no-print\"><label>Distribution of <select id=\"quantity\">\
             <option value=\"ttft\">TTFT, time to first token</option>\
             <option value=\"itl\">ITL, gap between tokens</option>\
             <option value=\"tpot\">TPOT, time per output token</option>\
             <option value=\"e2e\">E2E, whole request</option></select></label></p>",
        );
        out.push_str(&figure(
            "percentiles",
            "Latency by percentile",
            "How long the slowest share of requests took: towards the right ever rarer ones. Lines \
             end where the samples do.",
            &table(
                "Milliseconds: p50 / p90 / p99 / longest",
                &["level", "TTFT", "ITL", "TPOT", "E2E"],
                &rows,
            ),
        ));
        out.push_str(&details("What the latencies mean", formulas::LATENCY));
    }
}

/// A number with a slider. The script sets values and ends.
fn control(id: &str, label: &str, step: f64) -> String {
    format!(
        "<div><label for=\"{id}\">{label}</label> <input type=\"number\" id=\"{id}\" min=\"0\" \
         step=\"any\" inputmode=\"decimal\"><input type=\"range\" data-for=\"{id}\" \
         data-least=\"{step}\" aria-label=\"{label}, slider\"></div>"
    )
}

fn served(run: &RunDocument) -> String {
    let names: Vec<&str> = run.backends.iter().map(|b| &b.model[..]).collect();
    names.join(", ")
}

/// The figures to take home, of the level with the cheapest tokens.
fn cards(run: &RunDocument, data: &RunData, out: &mut String) {
    let price = |l: &crate::document::LevelDocument| {
        l.usd_per_mtok_output
            .or(l.usd_per_mtok_blended)
            .map(|i| i.value)
    };
    let best = run
        .levels
        .iter()
        .zip(&data.levels)
        .filter(|(l, _)| run.answers(l))
        .filter_map(|(l, d)| Some((price(l)?, l, d)))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    let Some((_, level, shown)) = best else {
        if run.status == Status::Complete {
            let why = match run.plan.goodput_search {
                Some(_) => "The search found no rate within the SLO, so there is no price of one.",
                None => "No level has a cost.",
            };
            out.push_str(&format!("<p class=\"alarm\">{why}</p>"));
        }
        return;
    };
    out.push_str("<ul class=\"cards\">");
    let mut card = |value: String, name: &str, more: String| {
        out.push_str(&format!(
            "<li><b>{}</b><span>{}</span><span>{}</span></li>",
            escaped(&value),
            escaped(name),
            escaped(&more)
        ));
    };
    let range = |i: Option<Interval>, show: fn(f64) -> String| match i
        .map(|i| (i.low.map(show), i.high.map(show)))
    {
        Some((Some(low), Some(high))) => format!("95 %: {low} to {high}"),
        Some((Some(low), None)) => format!("95 %: at least {low}"),
        Some((None, Some(high))) => format!("95 %: at most {high}"),
        _ => "one repeat: no interval".into(),
    };
    let at = &shown.label;
    let money = level.usd_per_mtok_output.or(level.usd_per_mtok_blended);
    let what = if level.usd_per_mtok_output.is_some() {
        "output tokens"
    } else {
        "tokens"
    };
    card(
        or_dash(money.map(|i| i.value), usd),
        &format!("per million {what}, at {at}"),
        range(money, usd),
    );
    if run.plan.slo.is_some() {
        let answering = run.levels.iter().zip(&data.levels);
        let within = answering
            .filter(|(l, _)| run.answers(l))
            .filter_map(|(_, l)| Some((l.usd_per_mtok_at_slo?, l)));
        let within = within.min_by(|a, b| a.0.value.total_cmp(&b.0.value));
        match within {
            Some((money, level)) => card(
                usd(money.value),
                &format!("per million {what} within the SLO, at {}", level.label),
                range(Some(money), usd),
            ),
            None => card("–".into(), "within the SLO", "no level keeps it".into()),
        }
    }
    let rate = level.summary.output_tok_per_s;
    card(
        short(rate.value),
        "output tokens per second",
        range(Some(rate), short),
    );
    if let Some(ttft) = level.summary.ttft_p50_ms {
        card(
            format!("{} ms", short(ttft.value)),
            "median TTFT",
            range(Some(ttft), short),
        );
    }
    if let Some(mbu) = level.summary.mbu {
        card(
            percent(mbu.value),
            "memory bandwidth use (MBU), modelled",
            range(Some(mbu), percent),
        );
    }
    out.push_str("</ul>");
}

/// The name of a metric in a table.
pub(super) fn label(name: &str) -> &str {
    Metric::named(name).map_or(name, |m| m.label)
}
