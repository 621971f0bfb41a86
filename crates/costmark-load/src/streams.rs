//! Independent random streams by purpose and position.

use costmark_core::Sampling;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The random stream of one purpose at one position. ChaCha is specified and its streams
/// are independent, so positions can be visited in any order.
pub(crate) fn stream(seed: u64, purpose: u64, position: u64) -> ChaCha8Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&purpose.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(bytes);
    rng.set_stream(position);
    rng
}

/// Sampling with a seed of the request's own, so that requests do not repeat each other.
pub(crate) fn own_sampling(sampling: Sampling, content: &mut impl Rng) -> Sampling {
    match sampling {
        Sampling::Greedy => Sampling::Greedy,
        Sampling::Random {
            temperature,
            top_p,
            top_k,
            seed,
        } => Sampling::Random {
            temperature,
            top_p,
            top_k,
            seed: seed ^ content.next_u64(),
        },
    }
}
