//! Workload files: those that come with costmark, and the user's own.

use std::path::Path;

use serde::Deserialize;

use crate::failure::{Failure, Result};
use crate::hints;

/// Name and text of each workload that comes with costmark.
pub(crate) const PRESETS: [(&str, &str); 7] = [
    (
        "chat",
        include_str!("../../../../configs/workloads/chat.toml"),
    ),
    (
        "conversation",
        include_str!("../../../../configs/workloads/conversation.toml"),
    ),
    (
        "code-completion",
        include_str!("../../../../configs/workloads/code-completion.toml"),
    ),
    (
        "summarisation",
        include_str!("../../../../configs/workloads/summarisation.toml"),
    ),
    (
        "rag",
        include_str!("../../../../configs/workloads/rag.toml"),
    ),
    (
        "agent-loop",
        include_str!("../../../../configs/workloads/agent-loop.toml"),
    ),
    (
        "batch",
        include_str!("../../../../configs/workloads/batch.toml"),
    ),
];

/// What a workload file says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkloadFile {
    /// A line for people.
    pub(crate) description: String,
    /// Where the lengths come from.
    pub(crate) source: String,
    /// As `--input-len`.
    pub(crate) input_len: String,
    /// As `--output-len`.
    pub(crate) output_len: String,
    /// As `--length-correlation`.
    #[serde(default)]
    pub(crate) correlation: f64,
    /// As `--shared-prefix`.
    #[serde(default)]
    pub(crate) shared_prefix: u32,
    /// As `--turns`.
    #[serde(default)]
    pub(crate) turns: Option<String>,
    /// As `--think-time`.
    #[serde(default)]
    pub(crate) think_time: Option<String>,
}

/// The workload of a name, or in a file whose name ends in `.toml`, with its name.
pub(crate) fn find(text: &str) -> Result<(String, WorkloadFile)> {
    if let Some((name, content)) = PRESETS.iter().find(|(name, _)| *name == text) {
        return Ok(((*name).to_string(), parse(content, name)?));
    }
    let path = Path::new(text);
    if path.extension().is_none_or(|e| e != "toml") {
        let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
        return Err(Failure::input(format!(
            "--workload {text}: there is no workload of this name{}; there are {}, or name a \
             .toml file",
            hints::nearest(text, &names),
            names.join(", ")
        )));
    }
    let content = std::fs::read_to_string(path)
        .map_err(|e| Failure::input(format!("--workload {text}: {e}")))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok((stem.into_owned(), parse(&content, text)?))
}

fn parse(content: &str, name: &str) -> Result<WorkloadFile> {
    toml::from_str(content)
        .map_err(|error| Failure::input(hints::toml_error(name, content, &error)))
}
