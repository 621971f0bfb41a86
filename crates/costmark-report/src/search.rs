//! What a search for the highest rate found, in sentences.

use crate::document::{Limit, RunDocument, SearchDocument, SearchStatus};
use crate::numbers::{percent, short};

/// A line per model and workload.
pub(crate) fn search_lines(run: &RunDocument) -> Vec<String> {
    run.searches
        .iter()
        .map(|found| format!("{}{}", which(found, run), sentence(found)))
        .collect()
}

/// The same for the finding: only what was found.
pub(crate) fn search_finding(run: &RunDocument) -> Option<String> {
    let lines: Vec<String> = run
        .searches
        .iter()
        .filter(|found| found.status == SearchStatus::Found)
        .filter_map(|found| {
            let (held, missed) = (found.held.as_ref()?, found.missed.as_ref()?);
            Some(format!(
                "The highest rate within the SLO{} is {} requests/s (goodput {} requests/s, {} output \
                 tok/s); {} keeps it under {}.",
                on(found, run),
                rate(held.requests_per_s),
                short(held.goodput_requests_per_s),
                short(held.goodput_output_tok_per_s),
                found.limit.map_or("the SLO", Limit::label),
                rate(missed.requests_per_s),
            ))
        })
        .collect();
    (!lines.is_empty()).then(|| lines.join(" "))
}

/// Model and workload where there are several, before a colon.
fn which(found: &SearchDocument, run: &RunDocument) -> String {
    match on(found, run).as_str() {
        "" => String::new(),
        text => format!("{}: ", text.trim_start()),
    }
}

fn on(found: &SearchDocument, run: &RunDocument) -> String {
    let mut text = String::new();
    if run.plan.workloads.len() > 1 {
        text.push_str(&format!(" of {}", found.workload));
    }
    if run.plan.models.len() > 1 {
        text.push_str(&format!(" on {}", found.model));
    }
    text
}

/// A rate as its level is called.
fn rate(per_s: f64) -> String {
    format!("{per_s}")
}

fn sentence(found: &SearchDocument) -> String {
    let wanted = percent(found.share);
    let (held, missed) = (found.held.as_ref(), found.missed.as_ref());
    let kept = held.map_or(String::new(), |probe| {
        format!(
            "at {}/s {} of requests kept all limits ({} wanted): goodput {} requests/s, {} output tok/s",
            rate(probe.requests_per_s),
            percent(probe.attainment),
            wanted,
            short(probe.goodput_requests_per_s),
            short(probe.goodput_output_tok_per_s)
        )
    });
    let not = missed.map_or(String::new(), |probe| {
        let attained = percent(probe.attainment);
        let why = match probe.limit {
            Some(Limit::Saturation) => "requests came faster than they were served".to_string(),
            Some(Limit::Client) => "the load generator could not send in time".to_string(),
            Some(limit) => format!("{attained} did, {} binds", limit.label()),
            None => format!("{attained} did"),
        };
        format!("at {}/s {why}", rate(probe.requests_per_s))
    });
    match (found.status, found.limit) {
        (SearchStatus::Found, _) => format!("{kept}; {not}"),
        (SearchStatus::NoneHeld, Some(limit)) => format!(
            "no rate held: {not}; with so little load {} is the backend's own",
            limit.label()
        ),
        (SearchStatus::NoneHeld, None) => format!("no rate held: {not}"),
        (SearchStatus::AllHeld, _) => format!("no limit was reached: {kept}"),
        (SearchStatus::NoCapacity, _) => {
            "no request of the batch it begins with was finished".into()
        }
        (SearchStatus::Searching, _) => format!(
            "not at its end after {} rates; `costmark run --resume` goes on",
            found.probes.len()
        ),
    }
}
