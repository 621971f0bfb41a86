//! In what two runs differ, and whether that makes them different work.

use serde::Serialize;

use crate::document::{RunDocument, canonical_hash};
use crate::text::inert_line;

/// Something that is not the same in two runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What, e.g. `workload`.
    pub what: &'static str,
    /// Of the baseline.
    pub baseline: String,
    /// Of the other run.
    pub other: String,
    /// The two did not do the same work: no verdict may be given. Otherwise it is what a
    /// comparison is made for (another machine, another price) or a remark.
    pub is_other_work: bool,
}

/// In what `other` differs from `baseline`. Machine, price and date are not listed: they stand
/// in the comparison itself.
pub(crate) fn between(baseline: &RunDocument, other: &RunDocument) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut note = |what: &'static str, a: String, b: String, is_other_work: bool| {
        if a != b {
            found.push(Difference {
                what,
                baseline: inert_line(&a),
                other: inert_line(&b),
                is_other_work,
            });
        }
    };
    let (a, b) = (&baseline.plan, &other.plan);
    note("model", models(baseline), models(other), true);
    if baseline
        .backends
        .iter()
        .chain(&other.backends)
        .all(|b| b.shape.is_some())
    {
        note("model shape", shapes(baseline), shapes(other), true);
    }
    note("workload", workloads(baseline), workloads(other), true);
    note("warm-up", warmup(baseline), warmup(other), true);
    let slo = |run: &RunDocument| {
        let unit = run.units.iter().find_map(|u| u.summary.goodput);
        unit.map_or("none".into(), |g| format!("{:?}", g.slo))
    };
    note("SLO", slo(baseline), slo(other), true);
    note(
        "end of sequence",
        eos(a.ignore_eos),
        eos(b.ignore_eos),
        true,
    );
    note("weights held as", dtypes(baseline), dtypes(other), false);
    note("backend", software(baseline), software(other), false);
    note(
        "threads",
        a.threads.to_string(),
        b.threads.to_string(),
        false,
    );
    note("seed", a.seed.to_string(), b.seed.to_string(), false);
    found
}

fn models(run: &RunDocument) -> String {
    let mut names: Vec<&str> = run.backends.iter().map(|b| &b.model[..]).collect();
    names.sort_unstable();
    names.join(", ")
}

/// What decides the work of a model; unknown of a server.
fn shapes(run: &RunDocument) -> String {
    let mut hashes: Vec<String> = run
        .backends
        .iter()
        .filter_map(|b| canonical_hash(&b.shape?).get(..12).map(str::to_string))
        .collect();
    hashes.sort_unstable();
    hashes.join(", ")
}

fn dtypes(run: &RunDocument) -> String {
    let all: Vec<&str> = run.backends.iter().map(|b| &b.weight_dtype[..]).collect();
    all.join(", ")
}

fn software(run: &RunDocument) -> String {
    let all: Vec<&str> = run.backends.iter().map(|b| &b.software[..]).collect();
    all.join(", ")
}

fn workloads(run: &RunDocument) -> String {
    run.plan
        .workloads
        .iter()
        .map(|w| {
            let hash = w.workload_hash.get(..12).unwrap_or(&w.workload_hash);
            format!("{} in, {} out ({hash})", w.input_len, w.output_len)
        })
        .collect::<Vec<_>>()
        .join("; ")
}

fn eos(is_ignored: bool) -> String {
    if is_ignored {
        "ignored"
    } else {
        "stops a request"
    }
    .into()
}

fn warmup(run: &RunDocument) -> String {
    match (run.plan.warmup_requests_per_slot, run.plan.warmup_s) {
        (Some(n), _) => format!("at most {n} requests per slot"),
        (None, Some(seconds)) => format!("{seconds} s"),
        (None, None) => "none".into(),
    }
}
