//! Makes the prompts of a trace.

use std::sync::Arc;

use costmark_core::{Request, Sampling};
use rand::RngExt;

use super::{TRACE_BLOCK_TOKENS, Trace, TraceRequest};
use crate::source::RequestSource;
use crate::streams::{own_sampling, stream};
use crate::workload::{RequestKey, WorkloadError};

/// Marks the random streams of blocks that requests share.
const BLOCKS: u64 = u64::from_le_bytes(*b"t-blocks");

/// Requests of the lengths a trace has, in its order. Where the trace tells which blocks
/// prompts are made of, equal ids give equal tokens: a backend with a prefix cache finds as
/// much of a prompt as the recorded service could have. Other prompts are random and share
/// nothing. Units share no blocks with each other.
#[derive(Debug, Clone)]
pub struct TraceSource {
    requests: Arc<[TraceRequest]>,
    /// Prompt ids are drawn from `0..vocab_size`, uniformly.
    pub vocab_size: u32,
    /// Seed of all ids.
    pub seed: u64,
    /// Go on past end-of-sequence tokens, so that output lengths are the trace's.
    pub ignore_eos: bool,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

impl Trace {
    /// What it asks for, with greedy sampling to the exact recorded output length.
    #[must_use]
    pub fn source(&self, vocab_size: u32, seed: u64) -> TraceSource {
        TraceSource {
            requests: Arc::clone(&self.requests),
            vocab_size,
            seed,
            ignore_eos: true,
            sampling: Sampling::Greedy,
        }
    }
}

impl RequestSource for TraceSource {
    /// The request at `position`; from the begin again once the trace is used up.
    fn make(&self, key: RequestKey, position: u64, _: f64) -> Request {
        let entry = &self.requests[(position % self.requests.len() as u64) as usize];
        let vocab = self.vocab_size.max(1);
        let mut content = stream(self.seed, u64::from(key.unit), key.in_unit());
        let mut prompt = Vec::with_capacity(entry.input_tokens as usize);
        for &block in &entry.blocks {
            let left = entry.input_tokens - prompt.len() as u32;
            let purpose = BLOCKS.wrapping_add(u64::from(key.unit));
            let mut tokens = stream(self.seed, purpose, block);
            let n = left.min(TRACE_BLOCK_TOKENS);
            prompt.extend((0..n).map(|_| tokens.random_range(0..vocab)));
        }
        let left = entry.input_tokens as usize - prompt.len();
        prompt.extend((0..left).map(|_| content.random_range(0..vocab)));
        Request {
            id: key.id(),
            prompt,
            max_tokens: entry.output_tokens,
            ignore_eos: self.ignore_eos,
            sampling: own_sampling(self.sampling, &mut content),
            logprobs: None,
        }
    }

    fn make_blank(&self, key: RequestKey, position: u64, _: f64) -> Request {
        let entry = &self.requests[(position % self.requests.len() as u64) as usize];
        Request {
            id: key.id(),
            prompt: vec![0; entry.input_tokens as usize],
            max_tokens: entry.output_tokens,
            ignore_eos: self.ignore_eos,
            sampling: self.sampling,
            logprobs: None,
        }
    }

    fn check(&self, max_context: u32) -> Result<(), WorkloadError> {
        if self.vocab_size == 0 {
            return Err(WorkloadError::EmptyVocabulary);
        }
        let tokens = |r: &TraceRequest| u64::from(r.input_tokens) + u64::from(r.output_tokens);
        match self.requests.iter().max_by_key(|r| tokens(r)) {
            Some(r) if tokens(r) > u64::from(max_context) => Err(WorkloadError::TooLong {
                input: r.input_tokens,
                output: r.output_tokens,
                needed: tokens(r),
                max_context,
            }),
            _ => Ok(()),
        }
    }
}
