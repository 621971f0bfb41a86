//! What the decoder is given: the tokens of many sequences packed one behind the other.

use std::ops::Range;

use crate::block_manager::BlockId;

/// The tokens of one sequence within a [`StepBatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Which tokens of the batch.
    pub tokens: Range<usize>,
    /// Position of the first of them: tokens already in the cache.
    pub context: usize,
    /// Tokens of the sequence's prompt. Those behind it were generated, even where a sequence that
    /// was preempted works through them again.
    pub prompt: usize,
    /// The sequence's KV blocks, covering the context and these tokens.
    pub blocks: Vec<BlockId>,
    /// Whether logits of the last of them are wanted.
    pub wants_logits: bool,
}

impl Span {
    /// Which of its tokens are of the prompt, and which were generated, counted from its first.
    #[must_use]
    pub fn parts(&self) -> [Range<usize>; 2] {
        let len = self.tokens.len();
        let prompt = self.prompt.saturating_sub(self.context).min(len);
        [0..prompt, prompt..len]
    }
}

/// Packed tokens `(tokens)` of all sequences in one step; no padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepBatch {
    /// Token ids.
    pub token_ids: Vec<u32>,
    /// Position of each token in its sequence.
    pub positions: Vec<u32>,
    /// Where each token's keys and values go: block · block size + offset.
    pub slots: Vec<u32>,
    /// The sequences, in order of their tokens.
    pub spans: Vec<Span>,
}

impl StepBatch {
    /// Appends `token_ids` that follow `context` cached tokens of a sequence, whose first
    /// `prompt` are its prompt.
    pub fn push(
        &mut self,
        token_ids: &[u32],
        context: usize,
        prompt: usize,
        blocks: &[BlockId],
        block_size: usize,
        wants_logits: bool,
    ) {
        let first = self.token_ids.len();
        self.token_ids.extend_from_slice(token_ids);
        for position in context..context + token_ids.len() {
            let block = blocks[position / block_size];
            self.positions.push(position as u32);
            self.slots
                .push(block * block_size as u32 + (position % block_size) as u32);
        }
        self.spans.push(Span {
            tokens: first..self.token_ids.len(),
            context,
            prompt,
            blocks: blocks.to_vec(),
            wants_logits,
        });
    }

    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// The rows whose logits are wanted, ascending: the last token of such sequences.
    #[must_use]
    pub fn logits_rows(&self) -> Vec<usize> {
        self.spans
            .iter()
            .filter(|s| s.wants_logits)
            .map(|s| s.tokens.end - 1)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_to_their_block() {
        let mut batch = StepBatch::default();
        batch.push(&[5, 6, 7], 15, 17, &[3, 9], 16, false);
        batch.push(&[8], 0, 1, &[1], 16, true);
        assert_eq!(batch.positions, [15, 16, 17, 0]);
        assert_eq!(batch.slots, [3 * 16 + 15, 9 * 16, 9 * 16 + 1, 16]);
        assert_eq!(batch.logits_rows(), [3]);
        assert_eq!(batch.spans[0].tokens, 0..3);
        assert_eq!(batch.spans[0].parts(), [0..2, 2..3]);
        assert_eq!(batch.spans[1].parts(), [0..1, 1..1]);
    }
}
