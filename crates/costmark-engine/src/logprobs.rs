//! How likely a token was, from the row of logits it was chosen from.

use costmark_core::{RequestId, TokenLogprobs};
use costmark_kernels::math;

/// Log-probabilities of `token_id` and of the `top` likeliest tokens: of the softmax of `logits`
/// (one finite value per vocabulary entry) as the model gave them, whatever the sampler made of
/// it.
///
/// `ln p(i) = logits[i] − m − ln Σ exp(logits[j] − m)`, `m` the greatest logit.
pub(crate) fn of(request: RequestId, token_id: u32, logits: &[f32], top: u32) -> TokenLogprobs {
    let greatest = logits.iter().fold(f32::NEG_INFINITY, |g, &l| g.max(l));
    // Sums of single chunks are small enough for f32; their sum is not.
    let sum: f64 = logits
        .chunks(256)
        .map(|chunk| f64::from(chunk.iter().map(|l| math::exp(l - greatest)).sum::<f32>()))
        .sum();
    let ln_sum = f64::from(greatest) + sum.ln();
    // What f32 cannot hold is as good as impossible, and JSON has no infinity.
    let logprob = |logit: f32| ((f64::from(logit) - ln_sum) as f32).max(f32::MIN);
    let chosen = logits.get(token_id as usize);
    TokenLogprobs {
        request,
        token_id,
        logprob: chosen.map_or(f32::MIN, |&logit| logprob(logit)),
        top: likeliest(logits, top as usize)
            .into_iter()
            .map(|(id, logit)| (id, logprob(logit)))
            .collect(),
    }
}

/// The `n` greatest with their positions, greatest first, of equal ones the lower position. For
/// an `n` far below their number, of which few rows change more than a handful.
fn likeliest(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let mut found: Vec<(u32, f32)> = Vec::with_capacity(n.min(logits.len()) + 1);
    for (id, &logit) in (0u32..).zip(logits) {
        if found.len() == n && found.last().is_none_or(|last| logit <= last.1) {
            continue;
        }
        let at = found.partition_point(|other| other.1 >= logit);
        found.insert(at, (id, logit));
        found.truncate(n);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the definition in f64, and a full sort.
        #[test]
        fn they_are_those_of_the_softmax(
            logits in prop::collection::vec(-30f32..30.0, 1..700),
            at in any::<prop::sample::Index>(),
            top in 0usize..25,
        ) {
            let token_id = at.index(logits.len());
            let told = of(3, token_id as u32, &logits, top as u32);
            let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
            let exact = |id: usize| f64::from(logits[id]) - sum.ln();
            prop_assert_eq!((told.request, told.token_id), (3, token_id as u32));
            prop_assert!((f64::from(told.logprob) - exact(token_id)).abs() < 1e-5);
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            order.truncate(top);
            prop_assert_eq!(told.top.len(), order.len());
            for (&(id, logprob), &expected) in told.top.iter().zip(&order) {
                prop_assert_eq!(id as usize, expected);
                prop_assert!((f64::from(logprob) - exact(expected)).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn ties_go_to_the_lower_id_and_extremes_stay_finite() {
        let told = of(0, 1, &[2.0, 5.0, 5.0, 5.0], 2);
        assert_eq!(told.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2]);
        let told = of(0, 1, &[f32::MAX, f32::MIN], 2);
        assert_eq!((told.top[0].1, told.logprob), (0.0, f32::MIN));
    }
}
