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
    /// KV entries read, counted once per sequence: its context length after this step, or
    /// what of it a sliding window shows.
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
        self.add_windowed_sequence(tokens, context, cached, logits, None);
    }

    /// As [`add_sequence`](Self::add_sequence), for a model whose tokens attend to at most
    /// `window` tokens, themselves included.
    pub fn add_windowed_sequence(
        &mut self,
        tokens: u32,
        context: u32,
        cached: u32,
        logits: bool,
        window: Option<u32>,
    ) {
        let window = window.map_or(u64::MAX, u64::from);
        // First position that the token at `position` sees.
        let oldest = |position: u64| (position + 1).saturating_sub(window);
        let (n, c, p) = (u64::from(tokens), u64::from(context), u64::from(cached));
        self.tokens += tokens;
        self.sequences += 1;
        self.logits_rows += u32::from(logits);
        self.kv_tokens_read += c + n - oldest(c);
        self.cached_kv_tokens_read += p.saturating_sub(oldest(c));
        // Token i of the chunk attends to the context, its predecessors and itself.
        self.attended_pairs += n * c + n * (n + 1) / 2;
        self.cached_attended_pairs += n * p;
        if oldest(c + n) > 0 {
            let out_of_sight = |seen: u64| (c..c + n).map(|q| oldest(q).min(seen)).sum::<u64>();
            self.attended_pairs -= out_of_sight(u64::MAX);
            self.cached_attended_pairs -= out_of_sight(p);
        }
    }
}

/// One forward pass, as the backend saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counts from 0 in each backend, of several replicas in each of them.
    pub index: u64,
    /// Which of several replicas ran it, from 0; 0 where there is one. Steps of one replica
    /// never overlap, those of different ones do.
    pub replica: u32,
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
    /// Bytes this step had to move, weights counted once ([`crate::ModelWork::step`]). Modelled.
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

    /// Against counting keys one by one.
    #[test]
    fn a_window_hides_what_lies_before_it() {
        for window in [1, 2, 3, 5, 6, 100] {
            for (tokens, context, cached) in [(1u32, 0u32, 0u32), (3, 4, 2), (4, 6, 6), (1, 9, 8)] {
                let mut part = StepPart::default();
                part.add_windowed_sequence(tokens, context, cached, false, Some(window));
                let sees = |q: u32, k: u32| k <= q && q - k < window;
                let queries = context..context + tokens;
                let keys = 0..context + tokens;
                let pairs = |end: u32| {
                    let seen = |q: u32| (0..end).filter(|&k| sees(q, k)).count() as u64;
                    queries.clone().map(seen).sum::<u64>()
                };
                assert_eq!(part.attended_pairs, pairs(context + tokens));
                assert_eq!(part.cached_attended_pairs, pairs(cached));
                let read = |k: &u32| queries.clone().any(|q| sees(q, *k));
                assert_eq!(
                    part.kv_tokens_read,
                    keys.clone().filter(read).count() as u64
                );
                let cached_read = (0..cached).filter(read).count() as u64;
                assert_eq!(part.cached_kv_tokens_read, cached_read);
            }
        }
    }
}
