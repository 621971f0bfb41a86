//! How levels are called in sentences and tables.

use crate::document::{LevelDocument, LoadDocument, PlanDocument};

/// `at concurrency 16`, with workload and model where the plan has several.
pub(crate) fn in_words(level: &LevelDocument, plan: &PlanDocument) -> String {
    format!("{}{}", level.load.label(), which(level, plan))
}

/// The same with closed loops as streams: `16 streams`.
pub(crate) fn as_streams(level: &LevelDocument, plan: &PlanDocument) -> String {
    match &level.load {
        LoadDocument::ClosedLoop { concurrency } => {
            format!("{}{}", streams(*concurrency), which(level, plan))
        }
        _ => in_words(level, plan),
    }
}

pub(crate) fn streams(concurrency: u32) -> String {
    match concurrency {
        1 => "1 stream".into(),
        n => format!("{n} streams"),
    }
}

/// What tells the level from those of other workloads and models.
fn which(level: &LevelDocument, plan: &PlanDocument) -> String {
    let mut text = String::new();
    if plan.workloads.len() > 1 {
        text.push_str(&format!(" of {}", level.workload));
    }
    if plan.models.len() > 1 {
        text.push_str(&format!(" on {}", level.model));
    }
    text
}

/// For a column of a table: model and workload where there are several, each on a line of
/// its own, then the load.
pub(crate) fn cell(level: &LevelDocument, plan: &PlanDocument) -> String {
    let mut lines = Vec::new();
    if plan.models.len() > 1 {
        lines.push(level.model.clone());
    }
    if plan.workloads.len() > 1 {
        lines.push(level.workload.clone());
    }
    lines.push(level.load.short());
    lines.join("\n")
}
