//! What a reader must know about a run, and what the user could do for a better one.

use costmark_econ::PriceChoice;
use costmark_report::document::{AdviceDocument, RunDocument, UnitDocument};
use costmark_report::numbers::percent;

/// Drift of the read bandwidth from which it is told.
const DRIFT: f64 = 0.1;
/// Share of CPU time taken by others from which it is told.
const TAKEN: f64 = 0.02;

/// Facts of model, price and cost that belong to every reading of the result.
pub(crate) fn notes(document: &RunDocument, price: &PriceChoice) -> Vec<String> {
    let mut notes = Vec::new();
    for note in document.backends.iter().flat_map(|b| &b.notes) {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    let talks = document.plan.workloads.iter().any(|w| w.turns.is_some());
    if talks && document.plan.endpoint.is_some() {
        notes.push(
            "Where the server does not tell the token ids of its output, conversations go on with \
             others in their place: lengths are right, but its cache finds the prompt only."
                .into(),
        );
    }
    notes.extend(price.caveats());
    let counted = document.units.iter().filter(|u| u.usable);
    for note in counted.filter_map(|u| u.cost_note.as_ref()) {
        let text = format!("Cost is not split between input and output: {note}.");
        if !notes.contains(&text) {
            notes.push(text);
        }
    }
    if document.plan.repeats > 1
        && document
            .levels
            .iter()
            .any(|l| l.repeats < document.plan.repeats)
    {
        notes.push("Some levels have fewer repeats than planned.".into());
    }
    notes
}

/// Advice on the run as a whole.
pub(crate) fn advise(document: &RunDocument) -> Vec<AdviceDocument> {
    let mut list = Vec::new();
    let mut add = |code: &str, message: String| {
        list.push(AdviceDocument {
            code: code.into(),
            message,
        });
    };
    if document.tool.build_profile == "debug" {
        add(
            "debug_build",
            "this is a debug build, which is slower; build with --release for figures to keep"
                .into(),
        );
    }
    let environment = &document.environment;
    if let Some(drift) = environment.read_bandwidth_drift.filter(|&d| d > DRIFT) {
        add(
            "bandwidth_drift",
            format!(
                "memory bandwidth drifted by {} during the run; each MBU uses the readings \
                 nearest to it, but the machine is shared or throttled: run again with more \
                 --repeats when it is quiet",
                percent(drift)
            ),
        );
    }
    if let Some(steal) = environment.steal_share.filter(|&s| s > TAKEN) {
        add(
            "steal",
            format!(
                "the hypervisor gave {} of the CPU time wanted to others; measure on a machine \
                 with dedicated cores",
                percent(steal)
            ),
        );
    }
    if let Some(share) = other_share(document).filter(|&s| s > TAKEN) {
        add(
            "other_programs",
            format!(
                "other programs used {} of the CPU time of this machine{}; stop them and run again",
                percent(share),
                named(document)
            ),
        );
    }
    let unsettled = |u: &&UnitDocument| u.usable && !u.warmup.settled;
    let unsettled = document.units.iter().filter(unsettled).count();
    if unsettled > 0
        && document
            .plan
            .warmup_requests_per_slot
            .is_some_and(|n| n > 0)
    {
        add(
            "not_settled",
            format!(
                "in {unsettled} of {} units step times had not settled when the measurement \
                 began; raise --warmup",
                document.units.len()
            ),
        );
    }
    list
}

/// Who they were, in brackets.
fn named(document: &RunDocument) -> String {
    let neighbours = &document.environment.neighbours;
    let names: Vec<String> = neighbours
        .iter()
        .map(|n| format!("{} {:.0} s", n.name, n.cpu_s))
        .collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(" ({})", names.join(", ")),
    }
}

/// Share of the usable CPU time since the first unit that others used.
fn other_share(document: &RunDocument) -> Option<f64> {
    let taken_s = document.environment.other_cpu_s?;
    let begin_ns = document.environment.peaks.first()?.at_ns;
    let end_ns = document.environment.peaks.last()?.at_ns;
    let wall_s = end_ns.checked_sub(begin_ns).filter(|&ns| ns > 0)? as f64 / 1e9;
    Some(taken_s / (wall_s * f64::from(document.plan.threads)))
}
