//! What is asked of the backend, as a pure function of seed and position.

use costmark_core::{Request, RequestId, Sampling};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::length::LengthDistribution;
use crate::streams::{own_sampling, stream};
use crate::unit::Phase;

/// Ids each phase of a unit has to itself.
const IDS_PER_PHASE: u64 = 1_000_000_000;
/// Ids each unit has to itself: one range per phase.
const IDS_PER_UNIT: u64 = 10 * IDS_PER_PHASE;

/// The requests of a run.
///
/// Lengths follow from `(seed, phase, index)` alone, so every concurrency level and every
/// repeat asks for the same work and differences between them are the machine's. Prompt
/// ids follow from `(seed, unit, phase, index)`, so that no unit finds the prompts of an
/// earlier one in a prefix cache. Random ids also keep prompts of one unit from sharing
/// a prefix by accident.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Prompt tokens per request.
    pub input: LengthDistribution,
    /// Output tokens per request.
    pub output: LengthDistribution,
    /// Prompt ids are drawn from `0..vocab_size`, uniformly.
    pub vocab_size: u32,
    /// Seed of all lengths and ids.
    pub seed: u64,
    /// Go on past end-of-sequence tokens, so that output lengths are exact.
    pub ignore_eos: bool,
    /// How tokens are chosen. The seed of [`Sampling::Random`] is combined with the
    /// request's own stream, so that requests do not repeat each other.
    pub sampling: Sampling,
}

/// A workload that cannot be put on a backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// No ids to draw prompts from.
    #[error("the vocabulary has no tokens to draw prompts from; give the model's vocabulary size")]
    EmptyVocabulary,
    /// The longest request does not fit the model's context.
    #[error(
        "requests may have {input} input and {output} output tokens, {needed} together, but \
         the context holds {max_context}; lower --input-len or --output-len"
    )]
    TooLong {
        /// Longest input.
        input: u32,
        /// Longest output.
        output: u32,
        /// Both.
        needed: u64,
        /// What the backend takes.
        max_context: u32,
    },
}

/// The position of a request in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestKey {
    /// Which unit (one repeat at one load level).
    pub unit: u32,
    /// Which part of the unit.
    pub phase: Phase,
    /// Counts from 0 in each phase of each unit. Below 10⁹.
    pub index: u64,
}

impl RequestKey {
    /// The request's id: `unit` · 10¹⁰ + phase · 10⁹ + `index`. Unique in a run, readable,
    /// and exact in JSON readers that hold numbers as doubles for units below 900,000.
    #[must_use]
    pub fn id(self) -> RequestId {
        u64::from(self.unit) * IDS_PER_UNIT + self.in_unit()
    }

    /// The position within the unit, a number no other request of the unit has.
    pub(crate) fn in_unit(self) -> u64 {
        self.phase.ordinal() * IDS_PER_PHASE + self.index
    }
}

impl Workload {
    /// Checks that every request fits.
    ///
    /// # Errors
    /// The vocabulary is empty or the longest request exceeds `max_context`.
    pub fn check(&self, max_context: u32) -> Result<(), WorkloadError> {
        if self.vocab_size == 0 {
            return Err(WorkloadError::EmptyVocabulary);
        }
        let (input, output) = (self.input.longest(), self.output.longest());
        let needed = self.longest_request_tokens();
        if needed > u64::from(max_context) {
            return Err(WorkloadError::TooLong {
                input,
                output,
                needed,
                max_context,
            });
        }
        Ok(())
    }

    /// Input plus output tokens of the longest request there can be.
    #[must_use]
    pub fn longest_request_tokens(&self) -> u64 {
        u64::from(self.input.longest()) + u64::from(self.output.longest())
    }

    /// The request at `key`.
    #[must_use]
    pub fn request(&self, key: RequestKey) -> Request {
        self.request_under_way(key, 0.0)
    }

    /// The request at `key` as if `elapsed` of its output (0 ≤ `elapsed` < 1) had already
    /// been produced: that share of the output moves into the prompt. The context it
    /// reaches is the same; at least one token is left to produce.
    #[must_use]
    pub fn request_under_way(&self, key: RequestKey, elapsed: f64) -> Request {
        let (input, output) = self.lengths(key, elapsed);
        let mut content = self.stream(u64::from(key.unit), key);
        let prompt = (0..input)
            .map(|_| content.random_range(0..self.vocab_size.max(1)))
            .collect();
        Request {
            id: key.id(),
            prompt,
            max_tokens: output,
            ignore_eos: self.ignore_eos,
            sampling: own_sampling(self.sampling, &mut content),
            logprobs: None,
        }
    }

    /// The same with a prompt of zeros.
    pub(crate) fn blank_request(&self, key: RequestKey, elapsed: f64) -> Request {
        let (input, output) = self.lengths(key, elapsed);
        Request {
            id: key.id(),
            prompt: vec![0; input as usize],
            max_tokens: output,
            ignore_eos: self.ignore_eos,
            sampling: self.sampling,
            logprobs: None,
        }
    }

    /// Input and output tokens, `elapsed` of the output counted as input.
    fn lengths(&self, key: RequestKey, elapsed: f64) -> (u32, u32) {
        let mut lengths = self.stream(LENGTHS, key);
        let (input, output) = (
            self.input.sample(&mut lengths),
            self.output.sample(&mut lengths),
        );
        let produced = ((f64::from(output) * elapsed).round() as u32).min(output - 1);
        (input + produced, output - produced)
    }

    fn stream(&self, purpose: u64, key: RequestKey) -> ChaCha8Rng {
        stream(self.seed, purpose, key.in_unit())
    }
}

/// Purpose of the stream lengths are drawn from; outside the range of unit numbers.
pub(crate) const LENGTHS: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn workload(seed: u64) -> Workload {
        Workload {
            input: LengthDistribution::Uniform { low: 16, high: 40 },
            output: LengthDistribution::Normal { mean: 20, sd: 5 },
            vocab_size: 1000,
            seed,
            ignore_eos: true,
            sampling: Sampling::Random {
                temperature: 1.0,
                top_p: 1.0,
                top_k: 0,
                seed: 3,
            },
        }
    }

    fn key(unit: u32, phase: Phase, index: u64) -> RequestKey {
        RequestKey { unit, phase, index }
    }

    proptest! {
        /// Any position gives the same request whenever it is asked for; only the seed,
        /// the unit and the position matter.
        #[test]
        fn a_request_is_a_function_of_its_position(seed: u64, unit in 0..1000u32, index in 0..10_000u64) {
            let at = key(unit, Phase::Measured, index);
            let request = workload(seed).request(at);
            prop_assert_eq!(&request, &workload(seed).request(at));
            prop_assert!(request.prompt.iter().all(|&id| id < 1000));
            let elsewhere = workload(seed).request(key(unit + 1, Phase::Measured, index));
            prop_assert_eq!(request.prompt.len(), elsewhere.prompt.len());
            prop_assert_eq!(request.max_tokens, elsewhere.max_tokens);
            prop_assert_ne!(&request.prompt, &elsewhere.prompt);
            prop_assert_ne!(&request.prompt, &workload(seed ^ 1).request(at).prompt);
        }

        /// A request under way ends at the same context length, with something left to do.
        #[test]
        fn under_way_keeps_the_final_context(seed: u64, index in 0..1000u64, elapsed in 0.0..1.0f64) {
            let at = key(0, Phase::Warmup, index);
            let whole = workload(seed).request(at);
            let rest = workload(seed).request_under_way(at, elapsed);
            prop_assert_eq!(
                rest.prompt.len() + rest.max_tokens as usize,
                whole.prompt.len() + whole.max_tokens as usize
            );
            prop_assert!(rest.max_tokens >= 1 && rest.max_tokens <= whole.max_tokens);
            prop_assert_eq!(&rest.prompt[..whole.prompt.len()], &whole.prompt[..]);
        }
    }

    #[test]
    fn no_two_requests_share_an_id_a_first_block_or_a_sampling_seed() {
        let workload = workload(1);
        let (mut ids, mut blocks, mut seeds) = (HashSet::new(), HashSet::new(), HashSet::new());
        for unit in 0..4 {
            for phase in [Phase::Warmup, Phase::Measured, Phase::Cooldown] {
                for index in 0..200 {
                    let request = workload.request(key(unit, phase, index));
                    assert!(ids.insert(request.id));
                    assert!(blocks.insert(request.prompt[..16].to_vec()));
                    let Sampling::Random { seed, .. } = request.sampling else {
                        panic!("sampling was changed");
                    };
                    assert!(seeds.insert(seed));
                }
            }
        }
    }

    #[test]
    fn what_cannot_fit_is_refused() {
        let mut workload = workload(1);
        assert_eq!(workload.longest_request_tokens(), 75);
        assert!(workload.check(75).is_ok());
        let message = workload.check(74).unwrap_err().to_string();
        assert!(message.contains("75 together") && message.contains("--input-len"));
        workload.vocab_size = 0;
        assert_eq!(workload.check(75), Err(WorkloadError::EmptyVocabulary));
    }
}
