//! One line of the step log: what a forward pass worked on and how long it took.

use serde::{Deserialize, Serialize};

/// The prefill or the decode half of a step.
///
/// A prompt token, or one recomputed after preemption, belongs to prefill; the
/// single token fed back to produce the next one belongs to decode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepPart {
    /// Tokens run through the model.
    pub tokens: u32,
    /// Sequences they belong to.
    pub sequences: u32,
    /// Rows for which logits were computed.
    pub logits_rows: u32,
    /// KV entries read, counted once per sequence: its context length after this step.
    pub kv_tokens_read: u64,
    /// (query, key) pairs attended.
    pub attended_pairs: u64,
    /// Of `kv_tokens_read`, those found in the prefix cache instead of computed.
    pub cached_kv_tokens_read: u64,
    /// Of `attended_pairs`, those whose key came from the prefix cache.
    pub cached_attended_pairs: u64,
}

impl StepPart {
    /// Adds one sequence's share: `tokens` new tokens after `context` earlier ones, of
    /// which the first `cached` came from the prefix cache.
    pub fn add_sequence(&mut self, tokens: u32, context: u32, cached: u32, logits: bool) {
        let (n, c, p) = (u64::from(tokens), u64::from(context), u64::from(cached));
        self.tokens += tokens;
        self.sequences += 1;
        self.logits_rows += u32::from(logits);
        self.kv_tokens_read += c + n;
        // Token i of the chunk attends to the context, its predecessors and itself.
        self.attended_pairs += n * c + n * (n + 1) / 2;
        self.cached_kv_tokens_read += p;
        self.cached_attended_pairs += n * p;
    }
}

/// One forward pass, as the backend saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counts from 0 in each backend.
    pub index: u64,
    /// Begin of scheduling.
    pub start_ns: u64,
    /// After sampling, with the device synchronised.
    pub end_ns: u64,
    /// Choosing what to run.
    pub schedule_ns: u64,
    /// The forward pass, device synchronised.
    pub forward_ns: u64,
    /// Choosing tokens from logits.
    pub sample_ns: u64,
    /// Prompt work.
    pub prefill: StepPart,
    /// Generation work.
    pub decode: StepPart,
    /// Bytes this step had to move, weights counted once ([`crate::ModelWork::step_bytes`]). Modelled.
    pub bytes: u64,
    /// FLOPs this step had to do. Modelled.
    pub flops: u64,
    /// Requests waiting to be admitted after scheduling.
    pub waiting: u32,
    /// Sequences preempted while scheduling this step.
    pub preempted: u32,
    /// KV blocks in use.
    pub kv_blocks_used: u32,
    /// KV blocks there are.
    pub kv_blocks_total: u32,
}

impl StepRecord {
    /// Wall time of the step.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        self.end_ns - self.start_ns
    }

    /// Sequences that took part.
    #[must_use]
    pub fn sequences(&self) -> u32 {
        self.prefill.sequences + self.decode.sequences
    }

    /// Whether the step held both prefill and decode work.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        self.prefill.tokens > 0 && self.decode.tokens > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_attends_causally() {
        let mut part = StepPart::default();
        part.add_sequence(3, 2, 2, true);
        // Queries at positions 2, 3, 4 see 3, 4, 5 keys.
        assert_eq!(part.attended_pairs, 3 + 4 + 5);
        assert_eq!(part.kv_tokens_read, 5);
        assert_eq!(part.cached_attended_pairs, 6);
        assert_eq!(part.logits_rows, 1);
    }
}
