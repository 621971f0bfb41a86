//! The golden checkpoints as test data.
#![allow(dead_code)] // each test crate uses its own part

pub(crate) mod engine;
pub(crate) mod gguf;

use std::path::{Path, PathBuf};

use candle_core::Device;
use costmark_core::{Backend, Event, FinishReason, Request, RequestId, Sampling};

/// A folder or file under `tests/golden`.
///
/// `COSTMARK_GOLDEN` names another place for it: tests that were built on one machine run on
/// another.
pub(crate) fn golden_path(name: &str) -> PathBuf {
    std::env::var_os("COSTMARK_GOLDEN")
        .map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
            PathBuf::from,
        )
        .join(name)
}

/// One prompt and what Hugging Face transformers makes of it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) prompt: Vec<u32>,
    /// Greedy continuation.
    pub(crate) greedy: Vec<u32>,
    /// Logits each greedy token was chosen from.
    pub(crate) logits: Vec<Vec<f32>>,
}

/// Cases stored as `<stem>.json` and `<stem>.safetensors`.
pub(crate) fn cases(stem: &str) -> Vec<Case> {
    #[derive(serde::Deserialize)]
    struct Stored {
        prompt: Vec<u32>,
        greedy: Vec<u32>,
    }
    let stem = golden_path(stem);
    let json = std::fs::read_to_string(stem.with_extension("json")).unwrap();
    let stored: Vec<Stored> = serde_json::from_str(&json).unwrap();
    let logits =
        candle_core::safetensors::load(stem.with_extension("safetensors"), &Device::Cpu).unwrap();
    stored
        .into_iter()
        .enumerate()
        .map(|(i, stored)| Case {
            logits: logits[&format!("logits.{i}")].to_vec2().unwrap(),
            prompt: stored.prompt,
            greedy: stored.greedy,
        })
        .collect()
}

/// A copy of a golden checkpoint with `config.json` as transformers 4 wrote it.
pub(crate) fn with_transformers4_config(name: &str) -> tempfile::TempDir {
    let folder = copy(name);
    std::fs::rename(
        folder.path().join("config.transformers4.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    folder
}

/// A copy of a golden checkpoint, to be damaged. Golden values are left behind.
pub(crate) fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden_path(name)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "golden.safetensors" {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    folder
}

/// A greedy request that goes on past end-of-sequence tokens.
pub(crate) fn greedy_request(id: RequestId, prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        id,
        prompt: prompt.to_vec(),
        max_tokens: max_tokens as u32,
        ignore_eos: true,
        sampling: Sampling::Greedy,
        logprobs: None,
    }
}

/// Polls until nothing is in flight.
pub(crate) fn drain(backend: &mut dyn Backend) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let before = events.len();
        backend.poll(None, &mut events).unwrap();
        if events.len() == before {
            return events;
        }
    }
}

/// Token ids of one request in order; panics unless it finished by length.
pub(crate) fn output(events: &[Event], id: RequestId) -> Vec<u32> {
    let finished = events.iter().any(|event| {
        matches!(event, Event::Finished { request, reason: FinishReason::Length, .. }
            if *request == id)
    });
    assert!(finished, "request {id} did not finish: {events:?}");
    events
        .iter()
        .filter_map(|event| match event {
            Event::Tokens(t) if t.request == id => t.token_id,
            _ => None,
        })
        .collect()
}
