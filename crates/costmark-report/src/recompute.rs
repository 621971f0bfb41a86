//! The summaries and the money of a run again, from nothing but its raw lines, its plan and its
//! price.

use costmark_core::{RequestRecord, StepRecord};
use costmark_econ::CostModel;
use costmark_metrics::{OpenLoad, Slo, UnitInput, UnitSummary, summarise, summarise_open};
use serde_json::Value;

use crate::document::{
    DatasheetUse, LevelDocument, LoadDocument, RunDocument, SearchDocument, UnitCost, UnitDocument,
};
use crate::error::{ReportError, Result};
use crate::finding::finding;
use crate::lines::{Phase, UnitTag};
use crate::read::{StoredRun, UnitRecords};
use crate::store::RUN_FILE;

/// What [`recompute`] takes as it stands, in words.
pub const TAKEN_AS_STORED: &str = "the bounds of each unit, measured peaks, samples of the machine \
and energy, how many requests --max-concurrency held back, which rates a search tried, notes and advice";

/// The document of `run` with every figure of its units, levels and searches computed anew, counts
/// of the SLO included. What cannot be had from raw lines stays ([`TAKEN_AS_STORED`]).
///
/// # Errors
/// When a unit has no raw lines, or the stored price is not one.
pub fn recompute(run: &StoredRun) -> Result<RunDocument> {
    let mut document = run.document.clone();
    let wrong = |message: String| ReportError::Format {
        path: run.path.join(RUN_FILE),
        line: None,
        message,
    };
    let price = &document.price;
    let model = CostModel::new(price.usd_per_hour, price.utilization, 1.0)
        .map_err(|e| wrong(format!("price: {e}")))?;
    for unit in &mut document.units {
        let records = Records::of(run, unit);
        if records.measured.is_empty() && unit.summary.requests.finished > 0 {
            return Err(wrong(format!(
                "the raw lines of repeat {} of {} are not in the folder, so its figures cannot be \
                 computed anew",
                unit.repeat, unit.level
            )));
        }
        let level = run.document.plan.level(&unit.level);
        let Some(level) = level else {
            return Err(wrong(format!("the plan has no level {}", unit.level)));
        };
        let backend = run.document.backend(&level.model);
        let replicas = backend.map_or(1, |b| b.replicas);
        unit.summary = records.summarise(unit, &level.load, replicas, run.document.plan.slo);
        unit.of_datasheet = DatasheetUse::of(
            &unit.summary,
            unit.roofline.as_ref(),
            run.document.environment.datasheet.as_ref(),
        );
        let work = backend.and_then(|b| b.work);
        (unit.cost, unit.cost_note) = UnitCost::of(
            &unit.summary,
            &records.steps,
            work.as_ref(),
            unit.roofline.as_ref(),
            &model,
        );
    }
    document.levels = document
        .plan
        .levels
        .iter()
        .filter_map(|level| {
            let units = document.units.iter();
            let units: Vec<&UnitDocument> =
                units.filter(|u| u.level == level.id && u.usable).collect();
            LevelDocument::from_units(level, &units, &model)
        })
        .collect();
    document.searches = searches(&document);
    document.finding = finding(&document);
    Ok(document)
}

/// The verdicts of searches on the units as they are now.
fn searches(document: &RunDocument) -> Vec<SearchDocument> {
    let again = |search: &SearchDocument| {
        let mut again = search.judged_again(&document.units);
        let batch = document.units.iter().find(|unit| {
            let level = document.plan.level(&unit.level);
            level.is_some_and(|level| {
                (&level.model, &level.workload) == (&search.model, &search.workload)
                    && matches!(level.load, LoadDocument::MaxThroughput { .. })
            })
        });
        if search.batch_requests_per_s.is_some() {
            again.batch_requests_per_s = batch.map(|u| u.summary.throughput.requests_per_s);
        }
        again
    };
    document.searches.iter().map(again).collect()
}

/// The raw records of a unit as they were when it was summed up.
struct Records {
    measured: Vec<RequestRecord>,
    background: Vec<RequestRecord>,
    steps: Vec<StepRecord>,
}

impl Records {
    fn of(run: &StoredRun, unit: &UnitDocument) -> Self {
        let none = UnitRecords::default();
        let [warmup, measured, cooldown] =
            [Phase::Warmup, Phase::Measured, Phase::Cooldown].map(|phase| {
                let tag = UnitTag {
                    level: unit.level.clone(),
                    repeat: unit.repeat,
                    phase,
                };
                run.units.get(&tag).unwrap_or(&none)
            });
        let mut background = [&warmup.requests[..], &cooldown.requests].concat();
        background.retain(|r| r.finished_ns > unit.start_ns && r.scheduled_ns < unit.end_ns);
        let mut steps = [&warmup.steps[..], &measured.steps, &cooldown.steps].concat();
        steps.retain(|s| s.end_ns > unit.start_ns && s.start_ns < unit.end_ns);
        Self {
            measured: measured.requests.clone(),
            background,
            steps,
        }
    }

    fn summarise(
        &self,
        unit: &UnitDocument,
        load: &LoadDocument,
        replicas: u32,
        slo: Option<Slo>,
    ) -> UnitSummary {
        let input = UnitInput {
            concurrency: load.concurrency().or(unit.summary.concurrency_target),
            start_ns: unit.start_ns,
            end_ns: unit.end_ns,
            requests: &self.measured,
            background: &self.background,
            steps: &self.steps,
            replicas,
            roofline: unit.roofline,
            slo,
        };
        match &unit.summary.open_loop {
            None => summarise(&input),
            Some(open) => summarise_open(
                &input,
                OpenLoad {
                    max_in_flight: open.max_in_flight,
                    delayed_by_cap: open.delayed_by_cap,
                },
            ),
        }
    }
}

/// Where two results differ, as paths of keys with both values; numbers may differ by `1e-9` of
/// themselves, which is what the order of additions can do.
#[must_use]
pub fn differences(stored: &RunDocument, again: &RunDocument) -> Vec<String> {
    let value = |run: &RunDocument| serde_json::to_value(run).unwrap_or_default();
    let mut found = Vec::new();
    walk(&value(stored), &value(again), "", &mut found);
    found
}

fn walk(a: &Value, b: &Value, path: &str, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(one), Value::Object(other)) => {
            for (key, value) in one {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                walk(value, other.get(key).unwrap_or(&Value::Null), &path, found);
            }
            for key in other.keys().filter(|key| !one.contains_key(*key)) {
                found.push(format!("{path}.{key}: not in run.json"));
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (i, (a, b)) in one.iter().zip(other).enumerate() {
                walk(a, b, &format!("{path}[{i}]"), found);
            }
        }
        (Value::Number(one), Value::Number(other)) => {
            let (Some(x), Some(y)) = (one.as_f64(), other.as_f64()) else {
                return;
            };
            if (x - y).abs() > 1e-9 * x.abs().max(y.abs()) {
                found.push(format!(
                    "{path}: {one} in run.json, {other} from the raw lines"
                ));
            }
        }
        _ if a != b => found.push(format!("{path}: {a} in run.json, {b} from the raw lines")),
        _ => {}
    }
}
