//! The result for a terminal: at most [`WIDTH`] columns, no colour needed to read it.

use costmark_econ::CostModel;
use costmark_metrics::{
    Advice, AdviceCode, LatencySummary, P90_MIN_N, P99_MIN_N, interval_over_repeats,
};

use crate::document::{BackendDocument, LevelDocument, RunDocument, Status, WorkloadDocument};
use crate::level_table::{has_two_clocks, level_tables};
use crate::money::{FittedLoad, fitted_loads};
use crate::names;
use crate::numbers::{percent, short};
use crate::search::search_lines;

/// Widest line.
pub const WIDTH: u16 = 100;
/// Narrowest width that text is folded to.
const MIN_WIDTH: u16 = 60;

/// The whole result as text: what ran, the table, where the money went, the machine, the
/// price, and what a reader must know.
#[must_use]
pub fn render(run: &RunDocument) -> String {
    render_for(run, WIDTH)
}

/// As [`render`] for a terminal of so many columns: text is folded to it, within 60 and
/// [`WIDTH`].
#[must_use]
pub fn render_for(run: &RunDocument, columns: u16) -> String {
    let mut text = Text {
        width: columns.clamp(MIN_WIDTH, WIDTH).into(),
        ..Text::default()
    };
    text.paragraph("", &headline(run));
    if run.status != Status::Complete {
        let failure = run.failure.as_deref().unwrap_or("it was cut short");
        text.paragraph("", &format!("NOT COMPLETE: {failure}"));
    }
    if run.levels.is_empty() {
        text.paragraph("", "No level was measured.");
    } else {
        for table in level_tables(run) {
            text.raw(&table);
        }
        text.paragraph("", &footnote(&run.levels));
        text.blank();
        for level in &run.levels {
            text.paragraph("Cost      ", &attribution(level, run));
        }
    }
    for line in fitted(run) {
        text.paragraph("Fitted    ", &line);
    }
    for line in run.levels.iter().filter_map(|level| goodput(level, run)) {
        text.paragraph("Goodput   ", &line);
    }
    for line in search_lines(run) {
        text.paragraph("Search    ", &line);
    }
    text.paragraph("Machine   ", &machine(run));
    if let Some(line) = of_datasheet(run) {
        text.paragraph("Datasheet ", &line);
    }
    text.paragraph("Price     ", &price(run));
    text.paragraph("Harness   ", &harness(run));
    for note in &run.notes {
        text.paragraph("Note      ", note);
    }
    for advice in level_advice(run) {
        text.paragraph("Advice    ", &advice);
    }
    for advice in &run.advice {
        text.paragraph("Advice    ", &advice.message);
    }
    if let Some(finding) = &run.finding {
        text.blank();
        text.paragraph("", finding);
    }
    text.content
}

#[derive(Default)]
struct Text {
    content: String,
    width: usize,
}

impl Text {
    fn raw(&mut self, text: &str) {
        self.content.push_str(text);
        self.content.push('\n');
    }

    fn blank(&mut self) {
        self.content.push('\n');
    }

    /// `label` before the first line, further lines indented below it.
    fn paragraph(&mut self, label: &str, content: &str) {
        let indent = " ".repeat(label.chars().count());
        let options = textwrap::Options::new(self.width)
            .initial_indent(label)
            .subsequent_indent(&indent)
            // Long paths are worth more whole than within the margin.
            .break_words(false);
        self.raw(&textwrap::fill(content, options));
    }
}

fn headline(run: &RunDocument) -> String {
    let plan = &run.plan;
    let models: Vec<String> = run.backends.iter().map(model).collect();
    let repeats = match plan.repeats {
        1 => "once".to_string(),
        n => format!("{n} repeats"),
    };
    let workloads: Vec<String> = plan
        .workloads
        .iter()
        .map(|workload| {
            let name = match plan.workloads.len() {
                1 => String::new(),
                _ => format!("{}: ", workload.id),
            };
            if let Some(trace) = &workload.trace {
                return format!("{name}{} requests of {}", trace.requests, trace.file);
            }
            if plan.workloads.len() == 1 && workload.source.is_none()
                || workload.input_len.len() < 20
            {
                let prefix = match workload.shared_prefix_tokens {
                    0 => String::new(),
                    n => format!(", {n} of the input shared"),
                };
                return format!(
                    "{name}{} input and {} output tokens per request{prefix}{}",
                    workload.input_len,
                    workload.output_len,
                    talk(workload)
                );
            }
            format!("{} requests{}", workload.id, talk(workload))
        })
        .collect();
    format!("{}: {}, {repeats}", models.join("; "), workloads.join("; "))
}

fn talk(workload: &WorkloadDocument) -> String {
    let Some(turns) = &workload.turns else {
        return String::new();
    };
    let think = match workload.think_time.as_deref() {
        None | Some("0s") => String::new(),
        Some(time) => format!(" and {time} to think"),
    };
    format!(", in conversations of {turns} turns{think}")
}

fn model(backend: &BackendDocument) -> String {
    let weights = if backend.synthetic {
        format!("SYNTHETIC {} weights", backend.weight_dtype)
    } else {
        format!("{} weights", backend.weight_dtype)
    };
    format!(
        "{}, {weights}, {} KV, on {} with {}",
        backend.model, backend.kv_dtype, backend.device, backend.software
    )
}

fn footnote(levels: &[LevelDocument]) -> String {
    let mut parts = Vec::new();
    let repeats = levels.iter().map(|l| l.repeats).max().unwrap_or(0);
    if repeats > 1 {
        parts.push("Low and high: ends of the 95 % t-interval over repeats.".to_string());
    }
    let withheld = |l: &LatencySummary| l.p99.is_none();
    let latencies = levels
        .iter()
        .flat_map(|l| [l.summary.latency.ttft_ms, l.summary.latency.itl_ms]);
    if latencies.flatten().any(|l| withheld(&l)) {
        parts.push(format!(
            "n<{P90_MIN_N}, n<{P99_MIN_N}: n too small; a p90 needs {P90_MIN_N} samples, a p99 \
             {P99_MIN_N}."
        ));
    }
    if levels.iter().any(has_two_clocks) {
        parts.push("TTFT: service from when a request was sent, user from when it was due.".into());
    }
    if levels.iter().any(|l| l.summary.latency.itl_is_inter_chunk) {
        parts.push("ITL is between chunks of several tokens.".into());
    }
    if levels.iter().any(|l| l.summary.mbu.is_some()) {
        parts.push(
            "MBU: bytes that had to move (modelled) over time × measured peak read bandwidth."
                .into(),
        );
    }
    parts.join(" ")
}

/// Input and output by a fit over workloads, where steps do not tell them apart.
fn fitted(run: &RunDocument) -> Vec<String> {
    if run.levels.iter().all(|level| level.attribution.is_some()) {
        return Vec::new();
    }
    let price = &run.price;
    CostModel::new(price.usd_per_hour, price.utilization, 1.0)
        .map(|cost| fitted_loads(run, &cost))
        .unwrap_or_default()
        .iter()
        .map(FittedLoad::in_words)
        .collect()
}

/// What met the limits, where there are any.
fn goodput(level: &LevelDocument, run: &RunDocument) -> Option<String> {
    let slo = run.plan.slo?;
    let summary = &level.summary;
    let (requests, tokens) = summary
        .goodput_requests_per_s
        .zip(summary.goodput_output_tok_per_s)?;
    let limits: Vec<String> = [
        ("TTFT", slo.ttft_ms),
        ("95 % of gaps", slo.itl_ms),
        ("mean gap", slo.tpot_ms),
        ("E2E", slo.e2e_ms),
    ]
    .iter()
    .filter_map(|(name, ms)| Some(format!("{name} up to {} ms", short((*ms)?))))
    .collect();
    Some(format!(
        "at {}: {} of {} requests/s and {} of {} output tok/s met {}",
        names::in_words(level, &run.plan),
        short(requests.value),
        short(summary.requests_per_s.value),
        short(tokens.value),
        short(summary.output_tok_per_s.value),
        limits.join(", ")
    ))
}

fn attribution(level: &LevelDocument, run: &RunDocument) -> String {
    let at = format!("at {}: ", names::in_words(level, &run.plan));
    let Some(shares) = &level.attribution else {
        return format!("{at}not split between input and output");
    };
    let cached = if shares.cached_share > 0.0 {
        format!(" + {} cached input", percent(shares.cached_share))
    } else {
        String::new()
    };
    format!(
        "{at}{} input{cached} + {} output, by step time; {} of it in steps that mix both, idle {}",
        percent(shares.input_share),
        percent(shares.output_share),
        percent(shares.mixed_step_share),
        percent(shares.idle_share),
    )
}

/// Advice on levels, equal ones together. Of the levels with too few samples only the one
/// with the fewest is told: what helps it helps the others.
fn level_advice(run: &RunDocument) -> Vec<String> {
    let samples = |level: &LevelDocument| level.summary.latency.ttft_ms.map(|ttft| ttft.n);
    let fewest = run
        .levels
        .iter()
        .filter_map(|level| Some((samples(level)?, &level.id)))
        .min_by_key(|(n, _)| *n);
    let mut grouped: Vec<(&Advice, Vec<&LevelDocument>)> = Vec::new();
    for level in &run.levels {
        for advice in &level.summary.advice {
            // A search goes beyond what holds on purpose.
            if advice.code == AdviceCode::Saturated && run.plan.goodput_search.is_some() {
                continue;
            }
            let is_fewest = fewest.is_some_and(|(_, id)| *id == level.id);
            if advice.code == AdviceCode::TooFewSamples && !is_fewest {
                continue;
            }
            match grouped.iter_mut().find(|(known, _)| *known == advice) {
                Some((_, levels)) => levels.push(level),
                None => grouped.push((advice, vec![level])),
            }
        }
    }
    grouped
        .into_iter()
        .map(|(advice, levels)| format!("at {}: {}", together(&levels, run), advice.message))
        .collect()
}

/// `concurrency 1, 4`; levels that are not plain closed loops each by their name.
fn together(levels: &[&LevelDocument], run: &RunDocument) -> String {
    let plan = &run.plan;
    let concurrencies: Option<Vec<String>> = levels
        .iter()
        .map(|level| level.load.concurrency().map(|c| c.to_string()))
        .collect();
    match concurrencies {
        Some(all) if plan.models.len() == 1 && plan.workloads.len() == 1 => {
            format!("concurrency {}", all.join(", "))
        }
        _ => levels
            .iter()
            .map(|level| names::in_words(level, plan))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn machine(run: &RunDocument) -> String {
    let environment = &run.environment;
    let reads = || environment.peaks.iter().map(|p| p.read_bytes_per_s.best);
    let (low, high) = reads().fold((f64::INFINITY, 0.0f64), |(low, high), x| {
        (low.min(x), high.max(x))
    });
    let mut text = environment.label.clone();
    if high > 0.0 {
        let range = if low < high {
            format!("{}–{}", short(low / 1e9), short(high / 1e9))
        } else {
            short(high / 1e9)
        };
        text.push_str(&format!("; measured peaks: read {range} GB/s"));
    }
    if let Some(flops) = environment.peaks.iter().find_map(|p| p.bf16_flops_per_s) {
        text.push_str(&format!(
            ", bf16 products {} TFLOP/s",
            short(flops.best / 1e12)
        ));
    }
    if let Some(flops) = environment.peaks.iter().find_map(|p| p.f32_flops_per_s) {
        text.push_str(&format!(
            ", f32 products {} GFLOP/s",
            short(flops.best / 1e9)
        ));
    }
    text
}

/// The use of what the vendor states, beside that of the measured peaks.
fn of_datasheet(run: &RunDocument) -> Option<String> {
    let sheet = run.environment.datasheet.as_ref()?;
    let mbu = |level: &LevelDocument| {
        let units = run.units.iter().filter(|u| u.usable && u.level == level.id);
        let all: Option<Vec<f64>> = units.map(|u| Some(u.of_datasheet?.mbu)).collect();
        interval_over_repeats(&all?)
    };
    let levels: Vec<String> = run
        .levels
        .iter()
        .filter_map(|level| {
            let at = names::in_words(level, &run.plan);
            Some(format!("{} at {at}", percent(mbu(level)?.value)))
        })
        .collect();
    if levels.is_empty() {
        return None;
    }
    let devices = match sheet.devices {
        1 => sheet.name.clone(),
        n => format!("{n} × {}", sheet.name),
    };
    Some(format!(
        "MBU of the {} GB/s stated for a whole {devices}, of which this machine may have a part: {}{}",
        short(sheet.read_bytes_per_s / 1e9),
        levels.join(", "),
        match sheet.unconfirmed {
            Some(_) => " (figure not confirmed)",
            None => "",
        }
    ))
}

fn price(run: &RunDocument) -> String {
    format!(
        "{}; utilization {}",
        run.price.explanation,
        percent(run.price.utilization)
    )
}

fn harness(run: &RunDocument) -> String {
    let overhead = &run.overhead;
    let mut text = format!(
        "recording takes {} ns per token event, the clock steps by {} ns",
        short(overhead.recording_ns_per_token_event),
        overhead.timer_resolution_ns
    );
    let outside = run
        .units
        .iter()
        .filter_map(|unit| unit.summary.steps)
        .map(|steps| steps.outside_forward_share)
        .reduce(f64::max);
    if let Some(outside) = outside {
        text.push_str(&format!(
            "; up to {} of step time was outside the forward pass",
            percent(outside)
        ));
    }
    text
}
