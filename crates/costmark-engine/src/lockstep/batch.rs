//! The static batch: sequences of one prompt length that run until the longest is done.

use std::collections::VecDeque;

use candle_core::{Device, Tensor};
use costmark_core::{FinishReason, Request, StepPart, TokenLogprobs, Usage};

use crate::error::Result;
use crate::logprobs;
use crate::sampler::{NonFinite, Sampler};

/// One sequence of a batch.
pub(super) struct Slot {
    pub(super) request: Request,
    pub(super) produced: u32,
    /// Fed into the next step, also after the request has ended.
    next: u32,
    sampler: Sampler,
    /// Ended; keeps computing until the batch ends.
    pub(super) done: bool,
}

/// A batch between its first and its last step.
pub(super) struct Batch {
    pub(super) slots: Vec<Slot>,
    prompt_len: usize,
    steps: usize,
}

/// What became of a slot in one step.
pub(super) enum Sampled {
    /// It had ended before.
    Nothing,
    /// A token.
    Token {
        token: u32,
        /// How likely it was, where that was asked for.
        logprobs: Option<Box<TokenLogprobs>>,
        /// Why the request ended with it, if it did.
        reason: Option<FinishReason>,
    },
    /// Its logits were NaN or infinite; it ends.
    NonFinite(NonFinite),
}

impl Batch {
    /// Takes up to `size` slots whose prompt is as long as that of the first in line,
    /// in order of arrival. `None` when nobody waits.
    pub(super) fn form(queue: &mut VecDeque<Slot>, size: usize) -> Option<Self> {
        let prompt_len = queue.front()?.request.prompt.len();
        let mut slots = Vec::new();
        let mut rest = VecDeque::with_capacity(queue.len());
        for slot in queue.drain(..) {
            if slots.len() < size && slot.request.prompt.len() == prompt_len {
                slots.push(slot);
            } else {
                rest.push_back(slot);
            }
        }
        *queue = rest;
        Some(Self {
            slots,
            prompt_len,
            steps: 0,
        })
    }

    /// How many of `queue` the next batch would take.
    pub(super) fn available(queue: &VecDeque<Slot>) -> usize {
        queue.front().map_or(0, |first| {
            let len = first.request.prompt.len();
            let same = |slot: &&Slot| slot.request.prompt.len() == len;
            queue.iter().filter(same).count()
        })
    }

    /// Whether every request has ended.
    pub(super) fn is_done(&self) -> bool {
        self.slots.iter().all(|slot| slot.done)
    }

    /// Input of the next step, `(slots, len)`, and the position of its first token.
    ///
    /// # Errors
    /// When candle fails.
    pub(super) fn input(&self) -> Result<(Tensor, usize)> {
        let (ids, offset): (Vec<u32>, usize) = if self.steps == 0 {
            let prompts = self.slots.iter().flat_map(|slot| &slot.request.prompt);
            (prompts.copied().collect(), 0)
        } else {
            let next = self.slots.iter().map(|slot| slot.next).collect();
            (next, self.prompt_len + self.steps - 1)
        };
        let input = Tensor::from_vec(ids, (self.slots.len(), ()), &Device::Cpu)?;
        Ok((input, offset))
    }

    /// The next step's work as `(prefill, decode)`. Ended slots do not count.
    pub(super) fn parts(&self) -> (StepPart, StepPart) {
        let (mut prefill, mut decode) = (StepPart::default(), StepPart::default());
        let to_u32 = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        for _ in self.slots.iter().filter(|slot| !slot.done) {
            if self.steps == 0 {
                prefill.add_sequence(to_u32(self.prompt_len), 0, 0, true);
            } else {
                decode.add_sequence(1, to_u32(self.prompt_len + self.steps - 1), 0, true);
            }
        }
        (prefill, decode)
    }

    /// Chooses the next token of every slot from logits `(slots, vocabulary)`.
    ///
    /// # Errors
    /// When candle fails.
    pub(super) fn sample(&mut self, logits: &Tensor, eos: &[u32]) -> Result<Vec<Sampled>> {
        self.steps += 1;
        let rows = logits.to_vec2::<f32>()?;
        let slots = self.slots.iter_mut().zip(&rows);
        Ok(slots.map(|(slot, row)| slot.sample(row, eos)).collect())
    }
}

impl Slot {
    /// A request in line.
    ///
    /// # Errors
    /// A message when a sampling parameter is outside its range.
    pub(super) fn new(request: Request) -> Result<Self, String> {
        Ok(Self {
            sampler: Sampler::new(&request.sampling)?,
            request,
            produced: 0,
            next: 0,
            done: false,
        })
    }

    fn sample(&mut self, row: &[f32], eos: &[u32]) -> Sampled {
        if self.done {
            // Any token costs the same.
            return Sampled::Nothing;
        }
        let token = match self.sampler.sample(row) {
            Ok(token) => token,
            Err(error) => {
                self.done = true;
                return Sampled::NonFinite(error);
            }
        };
        self.next = token;
        self.produced += 1;
        let reason = if !self.request.ignore_eos && eos.contains(&token) {
            Some(FinishReason::Stop)
        } else {
            (self.produced == self.request.max_tokens).then_some(FinishReason::Length)
        };
        self.done = reason.is_some();
        let (id, top) = (self.request.id, self.request.logprobs);
        Sampled::Token {
            token,
            logprobs: top.map(|top| Box::new(logprobs::of(id, token, row, top))),
            reason,
        }
    }

    /// What the request consumed and produced so far.
    pub(super) fn usage(&self) -> Usage {
        Usage {
            input_tokens: u32::try_from(self.request.prompt.len()).unwrap_or(u32::MAX),
            cached_tokens: 0,
            output_tokens: self.produced,
        }
    }
}

#[cfg(test)]
mod tests {
    use costmark_core::Sampling;

    use super::*;

    fn slot(id: u64, prompt_len: usize, max_tokens: u32) -> Slot {
        Slot::new(Request {
            id,
            prompt: vec![1; prompt_len],
            max_tokens,
            ignore_eos: true,
            sampling: Sampling::Greedy,
            logprobs: None,
        })
        .unwrap()
    }

    #[test]
    fn a_batch_takes_prompts_of_one_length_in_order() {
        let lengths = [3, 5, 3, 3, 5, 3];
        let mut queue: VecDeque<_> = (0..).zip(lengths).map(|(i, n)| slot(i, n, 2)).collect();
        assert_eq!(Batch::available(&queue), 4);
        let mut taken = Vec::new();
        while let Some(batch) = Batch::form(&mut queue, 3) {
            taken.push(batch.slots.iter().map(|s| s.request.id).collect::<Vec<_>>());
        }
        assert_eq!(taken, [vec![0, 2, 3], vec![1, 4], vec![5]]);
    }

    #[test]
    fn ended_slots_compute_but_do_not_count() {
        let mut queue: VecDeque<_> = [slot(0, 3, 1), slot(1, 3, 2)].into();
        let mut batch = Batch::form(&mut queue, 2).unwrap();
        assert_eq!(batch.parts().0.tokens, 6);
        let logits = Tensor::new(&[[0f32, 1.0], [1.0, 0.0]], &Device::Cpu).unwrap();
        batch.sample(&logits, &[]).unwrap();
        let (input, offset) = batch.input().unwrap();
        assert_eq!(input.to_vec2::<u32>().unwrap(), [[1], [0]]);
        assert_eq!(offset, 3);
        let (prefill, decode) = batch.parts();
        assert_eq!((prefill.tokens, decode.tokens), (0, 1));
        assert_eq!(decode.kv_tokens_read, 4);
    }
}
