//! Running the engine with every row of logits kept.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use costmark_core::{Event, MonotonicClock, RequestId, StepRecord, Usage};
use costmark_engine::{Checkpoint, Decoder, EngineCore, EngineOptions, KvDtype, OpenOptions};

use super::greedy_request;

/// What became of one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output {
    pub(crate) tokens: Vec<u32>,
    /// Logits each token was chosen from.
    pub(crate) logits: Vec<Vec<f32>>,
    pub(crate) usage: Usage,
}

/// What an engine did with several requests.
pub(crate) struct Outputs {
    /// In the order of the requests.
    pub(crate) outputs: Vec<Output>,
    pub(crate) steps: Vec<StepRecord>,
}

/// Keys and values as computed, no prefix reuse.
pub(crate) fn exact() -> EngineOptions {
    EngineOptions {
        kv_dtype: KvDtype::F32,
        prefix_cache: false,
        kv_budget_bytes: Some(4 << 20),
        max_context: Some(128),
        ..EngineOptions::default()
    }
}

/// An engine on a checkpoint.
pub(crate) fn engine(path: &Path, options: &EngineOptions) -> EngineCore {
    let mut checkpoint = Checkpoint::open(&OpenOptions::new(path.to_str().unwrap())).unwrap();
    let decoder = Decoder::load(&checkpoint.config, checkpoint.weights.as_mut()).unwrap();
    EngineCore::new(decoder, options, MonotonicClock::start()).unwrap()
}

/// Runs `prompts` together, each for `n` greedy tokens.
pub(crate) fn run(core: &mut EngineCore, prompts: &[&[u32]], n: usize) -> Outputs {
    type Seen = HashMap<(RequestId, usize), Vec<f32>>;
    let seen = Arc::new(Mutex::new(Seen::new()));
    let sink = Arc::clone(&seen);
    core.observe_logits(Box::new(move |id, index, row| {
        sink.lock().unwrap().insert((id, index), row.to_vec());
    }));
    for (id, prompt) in (0..).zip(prompts) {
        core.add_request(&greedy_request(id, prompt, n)).unwrap();
    }
    let mut events = Vec::new();
    while !core.is_idle() {
        core.step(&mut events).unwrap();
    }
    let mut outputs = vec![Output::default(); prompts.len()];
    let mut steps = Vec::new();
    for event in events {
        match event {
            Event::Tokens(t) => outputs[t.request as usize].tokens.extend(t.token_id),
            Event::Finished { request, usage, .. } => outputs[request as usize].usage = usage,
            Event::Failed { error, .. } => panic!("{error}"),
            Event::Step(step) => steps.push(step),
            Event::Sent { .. } => panic!("sent when submitted"),
            Event::TokenRun(_) => unreachable!("the engine tells every token"),
            Event::Logprobs(_) => panic!("they were not asked for"),
        }
    }
    let mut seen = seen.lock().unwrap();
    for (id, output) in (0..).zip(&mut outputs) {
        output.logits = (0..n).map(|i| seen.remove(&(id, i)).unwrap()).collect();
    }
    Outputs { outputs, steps }
}

/// Largest absolute difference.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}
