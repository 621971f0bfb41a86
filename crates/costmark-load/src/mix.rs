//! Requests whose lengths belong together and whose prompts begin alike.

use std::sync::Arc;

use costmark_core::Request;
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};

use crate::source::RequestSource;
use crate::streams::{own_sampling, stream};
use crate::workload::{LENGTHS, RequestKey, Workload, WorkloadError};

/// Marks the random stream of the shared prefix.
const PREFIX: u64 = u64::from_le_bytes(*b"w-prefix");

/// How input and output lengths are drawn together.
#[derive(Debug, Clone, PartialEq)]
pub enum LengthPairs {
    /// From the workload's two distributions, correlated by a Gaussian copula: the normal
    /// numbers behind the two lengths have this correlation. From −1 to 1.
    Correlated(f64),
    /// One of these `(input, output)` pairs, each as likely as any other: as observed, with
    /// whatever ties the two together. At least one, all lengths at least 1.
    Observed(Arc<[(u32, u32)]>),
}

/// A [`Workload`] with lengths drawn in pairs and, if wanted, a system prompt that all
/// requests begin with.
///
/// The prefix counts towards the input length. Its tokens are the same in every request of
/// a unit, so a backend with a prefix cache computes it once; other units have another one.
/// A request that is not longer than the prefix begins with a part of it and ends with a
/// token of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct MixedWorkload {
    /// Vocabulary, seed and sampling, and the distributions of
    /// [`LengthPairs::Correlated`].
    pub base: Workload,
    /// How lengths are drawn.
    pub pairs: LengthPairs,
    /// Tokens all prompts of a unit begin with.
    pub shared_prefix_tokens: u32,
}

impl MixedWorkload {
    /// Input and output length of the request at `key`; they follow from seed, phase and
    /// index alone, like those of a [`Workload`].
    #[must_use]
    pub fn lengths(&self, key: RequestKey) -> (u32, u32) {
        let mut rng = stream(self.base.seed, LENGTHS, key.in_unit());
        match &self.pairs {
            LengthPairs::Observed(pairs) => {
                let index = rng.random_range(0..pairs.len().max(1));
                let (input, output) = pairs.get(index).copied().unwrap_or((1, 1));
                (input.max(1), output.max(1))
            }
            LengthPairs::Correlated(correlation) => {
                let rho = correlation.clamp(-1.0, 1.0);
                let first: f64 = StandardNormal.sample(&mut rng);
                let own: f64 = StandardNormal.sample(&mut rng);
                let second = rho * first + (1.0 - rho * rho).sqrt() * own;
                (
                    self.base.input.at_normal(first),
                    self.base.output.at_normal(second),
                )
            }
        }
    }

    /// The pair of the longest request there can be.
    fn longest(&self) -> (u32, u32) {
        match &self.pairs {
            LengthPairs::Correlated(_) => (self.base.input.longest(), self.base.output.longest()),
            LengthPairs::Observed(pairs) => pairs
                .iter()
                .copied()
                .max_by_key(|&(input, output)| u64::from(input) + u64::from(output))
                .unwrap_or((1, 1)),
        }
    }
}

impl RequestSource for MixedWorkload {
    fn make(&self, key: RequestKey, _: u64, elapsed: f64) -> Request {
        let (input, output) = self.lengths(key);
        let produced = ((f64::from(output) * elapsed).round() as u32).min(output - 1);
        let vocab = self.base.vocab_size.max(1);
        let shared = self.shared_prefix_tokens.min(input - 1);
        let mut prefix = stream(self.base.seed, PREFIX, u64::from(key.unit));
        let mut content = stream(self.base.seed, u64::from(key.unit), key.in_unit());
        let mut prompt: Vec<u32> = (0..shared).map(|_| prefix.random_range(0..vocab)).collect();
        prompt.extend((shared..input + produced).map(|_| content.random_range(0..vocab)));
        Request {
            id: key.id(),
            prompt,
            max_tokens: output - produced,
            ignore_eos: self.base.ignore_eos,
            sampling: own_sampling(self.base.sampling, &mut content),
            logprobs: None,
        }
    }

    fn shared_prefix_tokens(&self) -> u32 {
        self.shared_prefix_tokens
    }

    fn check(&self, max_context: u32) -> Result<(), WorkloadError> {
        if self.base.vocab_size == 0 {
            return Err(WorkloadError::EmptyVocabulary);
        }
        let (input, output) = self.longest();
        let needed = u64::from(input) + u64::from(output);
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::length::LengthDistribution;
    use crate::unit::Phase;
    use costmark_core::Sampling;

    fn mixed(pairs: LengthPairs, shared_prefix_tokens: u32) -> MixedWorkload {
        MixedWorkload {
            base: Workload {
                input: LengthDistribution::LogNormal { mean: 400, sd: 300 },
                output: LengthDistribution::LogNormal { mean: 100, sd: 80 },
                vocab_size: 1_000,
                seed: 9,
                ignore_eos: true,
                sampling: Sampling::Greedy,
            },
            pairs,
            shared_prefix_tokens,
        }
    }

    fn key(unit: u32, index: u64) -> RequestKey {
        RequestKey {
            unit,
            phase: Phase::Measured,
            index,
        }
    }

    /// Correlation of the logarithms, over 5,000 requests.
    fn log_correlation(workload: &MixedWorkload) -> f64 {
        let logs: Vec<(f64, f64)> = (0..5_000)
            .map(|i| workload.lengths(key(0, i)))
            .map(|(input, output)| (f64::from(input).ln(), f64::from(output).ln()))
            .collect();
        let n = logs.len() as f64;
        let (a, b) = logs
            .iter()
            .fold((0.0, 0.0), |(a, b), (x, y)| (a + x / n, b + y / n));
        let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
            logs.iter().map(|&(x, y)| f(x - a, y - b)).sum()
        };
        sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
    }

    #[test]
    fn lengths_have_the_stated_correlation() {
        for rho in [-0.8, 0.0, 0.3, 1.0] {
            let found = log_correlation(&mixed(LengthPairs::Correlated(rho), 0));
            assert!((found - rho).abs() < 0.05, "{rho}: {found}");
        }
    }

    #[test]
    fn observed_pairs_stay_together() {
        let pairs = [(10, 1), (20, 2), (700, 90)];
        let workload = mixed(LengthPairs::Observed(pairs.into()), 0);
        let mut counts = [0; 3];
        for i in 0..3_000 {
            let found = workload.lengths(key(0, i));
            let which = pairs.iter().position(|&pair| pair == found);
            counts[which.expect("one of the pairs")] += 1;
        }
        assert!(
            counts.iter().all(|&n: &i32| (n - 1_000).abs() < 160),
            "{counts:?}"
        );
        assert!(workload.check(790).is_ok() && workload.check(789).is_err());
    }

    #[test]
    fn prompts_of_a_unit_share_their_prefix_and_no_more() {
        let workload = mixed(LengthPairs::Observed([(300, 8)].into()), 128);
        let prompt = |unit, index| workload.make(key(unit, index), index, 0.0).prompt;
        let (first, second) = (prompt(0, 0), prompt(0, 1));
        assert_eq!((first.len(), second.len()), (300, 300));
        assert_eq!(first[..128], second[..128]);
        assert_ne!(first[128..144], second[128..144]);
        assert_ne!(first[..16], prompt(1, 0)[..16]);
        // Shorter than the prefix: all of it shared but the last token.
        let short = mixed(LengthPairs::Observed([(5, 8)].into()), 128);
        let made = short.make(key(0, 0), 0, 0.5);
        assert_eq!((made.prompt.len(), made.max_tokens), (9, 4));
        assert_eq!(made.prompt[..4], first[..4]);
    }
}
