//! The next token from a row of logits.

use costmark_core::Sampling;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use costmark_kernels::math;

/// A logit was NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("logits hold NaN or infinity (first at token id {token_id})")]
pub struct NonFinite {
    /// The first such token id.
    pub token_id: u32,
}

/// How a token is chosen from a row of logits by whoever holds them elsewhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Draw {
    /// The greatest logit; of equal ones the lowest id.
    Greatest,
    /// With probability in proportion to `exp(logit · inverse_temperature)`: the first token at
    /// which the sum of these, in the order of ids, exceeds `uniform` times the sum of all.
    Weighted {
        /// Of [0, 1).
        uniform: f64,
        /// Above 0, finite.
        inverse_temperature: f32,
    },
}

/// Draws the tokens of one request, from its own random stream.
#[derive(Debug)]
pub enum Sampler {
    /// The greatest logit; of equal ones the lowest id.
    Greedy,
    /// See [`Sampling::Random`].
    Random {
        /// Divides the logits.
        temperature: f32,
        /// Probability mass kept.
        top_p: f32,
        /// Tokens kept; 0 for all.
        top_k: usize,
        /// The request's random stream.
        rng: Box<ChaCha8Rng>,
        /// Candidates, kept to spare an allocation per token.
        candidates: Vec<(f32, u32)>,
    },
}

impl Sampler {
    /// A sampler at the start of its random stream.
    ///
    /// # Errors
    /// A message when a parameter is outside its range.
    pub fn new(sampling: &Sampling) -> Result<Self, String> {
        match *sampling {
            Sampling::Greedy => Ok(Self::Greedy),
            Sampling::Random {
                temperature,
                top_p,
                top_k,
                seed,
            } => {
                let divides = temperature.is_finite() && temperature.recip().is_finite();
                if !(divides && temperature > 0.0) {
                    return Err(format!(
                        "nothing can be divided by a temperature of {temperature:?}: ask for greedy \
                         sampling or give one above 0"
                    ));
                }
                if !(top_p > 0.0 && top_p <= 1.0) {
                    return Err(format!("top-p {top_p} is not in (0, 1]"));
                }
                Ok(Self::Random {
                    temperature,
                    top_p,
                    top_k: top_k as usize,
                    rng: Box::new(ChaCha8Rng::seed_from_u64(seed)),
                    candidates: Vec::new(),
                })
            }
        }
    }

    /// Whether the next token can be drawn elsewhere: not where only the likeliest are kept, which
    /// takes a sorted row.
    pub fn draws_elsewhere(&self) -> bool {
        match self {
            Self::Greedy => true,
            Self::Random { top_p, top_k, .. } => *top_p >= 1.0 && *top_k == 0,
        }
    }

    /// How the next token is drawn elsewhere, if [that is possible](Self::draws_elsewhere). Takes
    /// the random number that [`sample`](Self::sample) would have taken.
    pub fn draw(&mut self) -> Draw {
        match self {
            Self::Greedy => Draw::Greatest,
            Self::Random {
                temperature, rng, ..
            } => Draw::Weighted {
                uniform: rng.random(),
                inverse_temperature: temperature.recip(),
            },
        }
    }

    /// Chooses a token.
    ///
    /// # Errors
    /// When a logit is NaN or infinite.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, NonFinite> {
        let greatest = greatest_finite(logits)?;
        match self {
            Self::Greedy => Ok(position(logits, |l| l == greatest)),
            Self::Random {
                temperature,
                top_p,
                top_k,
                rng,
                candidates,
            } => {
                // Unnormalised probabilities relative to the greatest.
                let inverse = temperature.recip();
                candidates.clear();
                candidates.extend(
                    (0u32..)
                        .zip(logits)
                        .map(|(id, l)| (math::exp((l - greatest) * inverse), id)),
                );
                keep_top_k(candidates, *top_k);
                keep_top_p(candidates, *top_p);
                Ok(draw(candidates, rng))
            }
        }
    }
}

/// The greatest logit, one pass in independent lanes.
fn greatest_finite(logits: &[f32]) -> Result<f32, NonFinite> {
    let mut greatest = [f32::NEG_INFINITY; 32];
    // x · 0 is 0 for finite x and NaN otherwise.
    let mut zeros = [0f32; 32];
    let (chunks, rest) = logits.as_chunks::<32>();
    for chunk in chunks {
        for ((g, z), l) in greatest.iter_mut().zip(&mut zeros).zip(chunk) {
            *g = if *l > *g { *l } else { *g };
            *z += l * 0.0;
        }
    }
    let zero = zeros.iter().sum::<f32>() + rest.iter().map(|l| l * 0.0).sum::<f32>();
    if zero.is_nan() {
        return Err(NonFinite {
            token_id: position(logits, |l| !l.is_finite()),
        });
    }
    Ok(greatest
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |g, &l| g.max(l)))
}

/// The first index that satisfies `is`, in steps the compiler can vectorise.
fn position(logits: &[f32], is: impl Fn(f32) -> bool) -> u32 {
    let found = logits
        .chunks(64)
        .position(|chunk| chunk.iter().fold(false, |any, &l| any | is(l)))
        .and_then(|chunk| {
            let within = logits[chunk * 64..].iter().position(|&l| is(l))?;
            Some(chunk * 64 + within)
        });
    found.unwrap_or(0) as u32
}

/// Greater probability first, lower id among equals.
fn descending(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

fn keep_top_k(candidates: &mut Vec<(f32, u32)>, top_k: usize) {
    if top_k > 0 && top_k < candidates.len() {
        candidates.select_nth_unstable_by(top_k - 1, descending);
        candidates.truncate(top_k);
        candidates.sort_unstable_by_key(|&(_, id)| id);
    }
}

/// Keeps the smallest set of most likely candidates with at least `top_p` of the mass.
fn keep_top_p(candidates: &mut Vec<(f32, u32)>, top_p: f32) {
    if top_p >= 1.0 {
        return;
    }
    let total: f64 = candidates.iter().map(|c| f64::from(c.0)).sum();
    let wanted = total * f64::from(top_p);
    // The mass usually sits in few tokens: sort a growing head instead of everything.
    let mut head = 256;
    loop {
        let sorted = head >= candidates.len();
        if sorted {
            head = candidates.len();
        } else {
            candidates.select_nth_unstable_by(head - 1, descending);
        }
        candidates[..head].sort_unstable_by(descending);
        let mut mass = 0.0;
        let enough = candidates[..head].iter().position(|c| {
            mass += f64::from(c.0);
            mass >= wanted
        });
        if let Some(last) = enough {
            candidates.truncate(last + 1);
            return;
        }
        if sorted {
            return; // rounding left the sum just under the mass wanted
        }
        head *= 16;
    }
}

/// One candidate, with probability in proportion to its weight.
fn draw(candidates: &[(f32, u32)], rng: &mut impl Rng) -> u32 {
    let total: f64 = candidates.iter().map(|c| f64::from(c.0)).sum();
    let mut left = rng.random::<f64>() * total;
    for &(weight, id) in candidates {
        left -= f64::from(weight);
        if left < 0.0 {
            return id;
        }
    }
    // Rounding only: the last candidate that can be drawn at all.
    let possible = candidates.iter().rev().find(|c| c.0 > 0.0);
    possible.map_or(0, |c| c.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn random(temperature: f32, top_p: f32, top_k: u32, seed: u64) -> Sampler {
        Sampler::new(&Sampling::Random {
            temperature,
            top_p,
            top_k,
            seed,
        })
        .unwrap()
    }

    #[test]
    fn greedy_ties_go_to_the_lower_id() {
        let mut logits = vec![0.0; 200];
        logits[70] = 3.0;
        logits[150] = 3.0;
        assert_eq!(Sampler::Greedy.sample(&logits), Ok(70));
        assert_eq!(Sampler::Greedy.sample(&[-1.0, -0.5, -0.5]), Ok(1));
    }

    #[test]
    fn bad_logits_are_named() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 63, 64, 199] {
                let mut logits = vec![1.0; 200];
                logits[at] = bad;
                let token_id = at as u32;
                assert_eq!(Sampler::Greedy.sample(&logits), Err(NonFinite { token_id }));
            }
        }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0, -50.0];
        let mut sampler = random(2.0, 1.0, 0, 7);
        let mut counts = [0u32; 4];
        let draws = 40_000;
        for _ in 0..draws {
            counts[sampler.sample(&logits).unwrap() as usize] += 1;
        }
        let weights = logits.map(|l: f32| (l / 2.0).exp());
        let total: f32 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            let (seen, expected) = (*count as f32 / draws as f32, weight / total);
            // Five standard deviations of a binomial share.
            let bound = 5.0 * (expected * (1.0 - expected) / draws as f32).sqrt() + 1e-9;
            assert!((seen - expected).abs() < bound, "{seen} {expected}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_off() {
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let logits = [4f32, 2.0, 1.0, 1.0].map(f32::ln);
        let drawn = |sampler: &mut Sampler| -> std::collections::BTreeSet<u32> {
            (0..400).map(|_| sampler.sample(&logits).unwrap()).collect()
        };
        assert_eq!(drawn(&mut random(1.0, 1.0, 0, 1)).len(), 4);
        assert_eq!(drawn(&mut random(1.0, 1.0, 3, 1)), [0, 1, 2].into());
        assert_eq!(drawn(&mut random(1.0, 0.5, 0, 1)), [0].into());
        assert_eq!(drawn(&mut random(1.0, 0.6, 0, 1)), [0, 1].into());
        // Of the two kept by k, the first already has two thirds.
        assert_eq!(drawn(&mut random(1.0, 0.6, 2, 1)), [0].into());
    }

    impl Draw {
        /// The token that this means, in plain words.
        pub(crate) fn from(&self, row: &[f32]) -> u32 {
            let greatest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let Self::Weighted {
                uniform,
                inverse_temperature,
            } = *self
            else {
                return row.iter().position(|l| *l == greatest).unwrap() as u32;
            };
            let weight = |l: &f32| f64::from(math::exp((l - greatest) * inverse_temperature));
            let wanted = uniform * row.iter().map(weight).sum::<f64>();
            let mut sum = 0.0;
            let exceeds = |l: &f32| {
                sum += weight(l);
                sum > wanted
            };
            row.iter().position(exceeds).unwrap() as u32
        }
    }

    #[test]
    fn what_is_drawn_elsewhere_is_what_would_be_drawn_here() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for temperature in [0.5, 1.0, 30.0] {
            let sampler = || random(temperature, 1.0, 0, 5);
            let (mut here, mut there) = (sampler(), sampler());
            for _ in 0..300 {
                let row: Vec<f32> = (0..50).map(|_| rng.random::<f32>() * 9.0).collect();
                // The stream goes on whoever draws.
                assert!(there.draws_elsewhere());
                assert_eq!(here.sample(&row), Ok(there.draw().from(&row)));
                std::mem::swap(&mut here, &mut there);
            }
        }
        assert_eq!(Sampler::Greedy.draw().from(&[1.0, 3.0, 3.0]), 1);
        for sorted in [random(1.0, 0.9, 0, 1), random(1.0, 1.0, 9, 1)] {
            assert!(!sorted.draws_elsewhere());
        }
    }

    #[test]
    fn parameters_outside_their_range_are_refused() {
        let with = |temperature, top_p| {
            Sampler::new(&Sampling::Random {
                temperature,
                top_p,
                top_k: 0,
                seed: 0,
            })
        };
        assert!(with(0.0, 1.0).unwrap_err().contains("greedy"));
        assert!(with(f32::NAN, 1.0).is_err());
        assert!(with(1e-39, 1.0).unwrap_err().contains("greedy"));
        assert!(with(1.0, 0.0).is_err());
        assert!(with(1.0, 1.5).is_err());
    }

    proptest! {
        /// The growing head gives what sorting everything gives.
        #[test]
        fn top_p_equals_a_full_sort(
            // Whole numbers: proptest's ranges of floats trip over their own rounding now and then.
            weights in prop::collection::vec(1u32..1_000_000, 1..3000),
            p in 10u16..999,
        ) {
            let weights = weights.iter().map(|&w| w as f32 / 1e6);
            let p = f32::from(p) / 1e3;
            let all: Vec<(f32, u32)> = weights.zip(0..).collect();
            let mut kept = all.clone();
            keep_top_p(&mut kept, p);
            let mut sorted = all.clone();
            sorted.sort_by(descending);
            prop_assert_eq!(&kept[..], &sorted[..kept.len()]);
            let total: f64 = all.iter().map(|c| f64::from(c.0)).sum();
            let mass: f64 = kept.iter().map(|c| f64::from(c.0)).sum();
            prop_assert!(mass >= total * f64::from(p) * (1.0 - 1e-9));
            let without: f64 = kept[..kept.len() - 1].iter().map(|c| f64::from(c.0)).sum();
            prop_assert!(without < total * f64::from(p));
        }

        /// Equal seeds draw equal tokens.
        #[test]
        fn a_seed_fixes_the_stream(seed in any::<u64>(), logits in prop::collection::vec(-5f32..5.0, 1..300)) {
            let (mut a, mut b) = (random(0.8, 0.9, 40, seed), random(0.8, 0.9, 40, seed));
            for _ in 0..5 {
                prop_assert_eq!(a.sample(&logits), b.sample(&logits));
            }
        }
    }
}
