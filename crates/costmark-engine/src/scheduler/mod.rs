//! Which tokens of which sequences the next forward pass works on. No tensor, no clock.
//!
//! First come, first served, under a budget of tokens per step:
//!
//! 1. Every running sequence that decodes gets its one token. If that needs a block and
//!    none is free, the sequence admitted last is preempted: its blocks are given back,
//!    its tokens kept, and it waits at the head of the line to be computed again.
//! 2. What is left of the budget goes to prompts under way, in chunks.
//! 3. Then waiting sequences are admitted, each only with blocks for all its tokens, and
//!    none in a step that had to preempt.
//!
//! Since admission keeps the order of arrival, the oldest sequence is never preempted and
//! proceeds in each step; so every admitted request finishes.

use std::collections::VecDeque;

use costmark_core::RequestId;

use crate::block_manager::BlockManager;
use crate::options::Limits;
use crate::sequence::Sequence;

/// What a chunk of tokens is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Prompt tokens, or tokens computed again after preemption.
    Prefill,
    /// The token produced last, fed back.
    Decode,
}

/// The tokens of one sequence in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Which sequence.
    pub id: RequestId,
    /// Position of the first token; everything before it is in the cache.
    pub start: usize,
    /// Number of tokens, at least one.
    pub len: usize,
    /// What for.
    pub phase: Phase,
    /// Tokens before `start` that came from the prefix cache.
    pub cached: usize,
    /// The chunk reaches the sequence's end, so its last row gives the next token.
    pub wants_logits: bool,
}

/// One step's work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Decode chunks first, then prefill chunks; at most one of each sequence.
    pub chunks: Vec<Chunk>,
    /// Sequences preempted to make it possible.
    pub preempted: u32,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Scheduler {
    blocks: BlockManager,
    max_batched_tokens: usize,
    prefill_chunk: usize,
    max_sequences: usize,
    waiting: VecDeque<Sequence>,
    /// In order of arrival.
    running: Vec<Sequence>,
}

impl Scheduler {
    /// A scheduler of nothing, within `limits`.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            blocks: BlockManager::new(limits.kv_blocks, limits.block_size, limits.prefix_cache),
            max_batched_tokens: limits.max_batched_tokens as usize,
            prefill_chunk: limits.prefill_chunk as usize,
            max_sequences: limits.max_sequences as usize,
            waiting: VecDeque::new(),
            running: Vec::new(),
        }
    }

    /// The block manager, for its counts.
    #[must_use]
    pub fn blocks(&self) -> &BlockManager {
        &self.blocks
    }

    /// Puts a sequence in line. All it may ever hold, prompt and output, must fit into
    /// the cache, and the prompt must not be empty: the engine checks both before.
    pub fn add(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// Sequences waiting to be admitted.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences admitted.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// An admitted sequence.
    #[must_use]
    pub fn sequence(&self, id: RequestId) -> Option<&Sequence> {
        self.running.iter().find(|s| s.id == id)
    }

    /// The next step's work; empty only when there is no sequence.
    pub fn schedule(&mut self) -> Schedule {
        let mut schedule = Schedule::default();
        let mut budget = self.max_batched_tokens;
        self.schedule_decodes(&mut schedule, &mut budget);
        for sequence in self.running.iter().filter(|s| s.catching_up) {
            if budget == 0 {
                break;
            }
            let chunk = prefill(sequence, budget.min(self.prefill_chunk));
            budget -= chunk.len;
            schedule.chunks.push(chunk);
        }
        if schedule.preempted == 0 {
            self.admit(&mut schedule, budget);
        }
        schedule
    }

    /// Tells that the step's keys and values are in the cache.
    pub fn commit(&mut self, schedule: &Schedule) {
        for chunk in &schedule.chunks {
            let Some(sequence) = self.running.iter_mut().find(|s| s.id == chunk.id) else {
                continue; // cancelled meanwhile
            };
            sequence.computed = chunk.start + chunk.len;
            if sequence.remaining() == 0 {
                sequence.catching_up = false;
            }
            let (table, tokens) = (&mut sequence.table, &sequence.tokens);
            self.blocks.register(table, tokens, sequence.computed);
        }
    }

    /// Appends the token a sequence produced. Unknown ids are ignored.
    pub fn push_token(&mut self, id: RequestId, token: u32) {
        if let Some(sequence) = self.running.iter_mut().find(|s| s.id == id) {
            sequence.tokens.push(token);
        }
    }

    /// Takes a sequence out, finished or not, and gives its blocks back.
    pub fn remove(&mut self, id: RequestId) -> Option<Sequence> {
        if let Some(index) = self.running.iter().position(|s| s.id == id) {
            let mut sequence = self.running.remove(index);
            self.blocks.release(std::mem::take(&mut sequence.table));
            return Some(sequence);
        }
        let index = self.waiting.iter().position(|s| s.id == id)?;
        self.waiting.remove(index)
    }

    /// Takes all sequences out, oldest first.
    pub fn clear(&mut self) -> Vec<Sequence> {
        let mut all = std::mem::take(&mut self.running);
        for sequence in &mut all {
            self.blocks.release(std::mem::take(&mut sequence.table));
        }
        all.extend(self.waiting.drain(..));
        all
    }

    fn schedule_decodes(&mut self, schedule: &mut Schedule, budget: &mut usize) {
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &mut self.running[index];
            if sequence.catching_up {
                index += 1;
                continue;
            }
            let needed = sequence.tokens().len();
            if self.blocks.grow(&mut sequence.table, needed) {
                schedule.chunks.push(Chunk {
                    id: sequence.id,
                    start: sequence.computed,
                    len: 1,
                    phase: Phase::Decode,
                    cached: sequence.cached,
                    wants_logits: true,
                });
                *budget -= 1;
                index += 1;
            } else {
                // Takes one from behind, or this one itself: nothing scheduled so far.
                self.preempt_last();
                schedule.preempted += 1;
            }
        }
    }

    fn preempt_last(&mut self) {
        if let Some(mut sequence) = self.running.pop() {
            self.blocks.release(std::mem::take(&mut sequence.table));
            sequence.computed = 0;
            sequence.catching_up = true;
            self.waiting.push_front(sequence);
        }
    }

    fn admit(&mut self, schedule: &mut Schedule, mut budget: usize) {
        while budget > 0 && self.running.len() < self.max_sequences {
            let Some(sequence) = self.waiting.front() else {
                return;
            };
            // A block for each running sequence's next tokens, lest it preempt this one
            // right away.
            let headroom = self.running.len();
            let Some((table, found)) = self.blocks.admit(sequence.tokens(), headroom) else {
                return;
            };
            let Some(mut sequence) = self.waiting.pop_front() else {
                return;
            };
            sequence.table = table;
            sequence.computed = found;
            let first = *sequence.first_cached.get_or_insert(found);
            sequence.cached = first.min(found);
            let chunk = prefill(&sequence, budget.min(self.prefill_chunk));
            budget -= chunk.len;
            schedule.chunks.push(chunk);
            self.running.push(sequence);
        }
    }
}

fn prefill(sequence: &Sequence, most: usize) -> Chunk {
    let len = sequence.remaining().min(most);
    Chunk {
        id: sequence.id,
        start: sequence.computed,
        len,
        phase: Phase::Prefill,
        cached: sequence.cached,
        wants_logits: len == sequence.remaining(),
    }
}

#[cfg(test)]
mod tests;
