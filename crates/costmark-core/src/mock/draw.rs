//! Random times that follow from seed and position alone.

use serde::{Deserialize, Serialize};

/// How a time varies around its mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Draw {
    /// Not at all.
    #[default]
    Fixed,
    /// Exponentially, as the service times of an M/M/1 queue.
    Exponential,
}

impl Draw {
    /// A time of this mean. The same arguments give the same time.
    pub(super) fn time_ns(self, mean_ns: u64, seed: u64, request: u64, position: u32) -> u64 {
        match self {
            Self::Fixed => mean_ns,
            Self::Exponential => {
                let bits = mix(mix(mix(seed) ^ request) ^ u64::from(position));
                // 53 random bits, never 0: an exponential by inversion.
                let uniform = ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
                (-uniform.ln() * mean_ns as f64).round() as u64
            }
        }
    }
}

/// The output function of SplitMix64 (Steele, Lea and Flood, 2014) after one step.
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_times_have_their_moments() {
        let n = 200_000u64;
        let times: Vec<f64> = (0..n)
            .map(|id| Draw::Exponential.time_ns(1_000_000, 7, id, 0) as f64)
            .collect();
        let mean = times.iter().sum::<f64>() / n as f64;
        let variance = times.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / n as f64;
        // Mean and deviation are equal; five standard errors of either.
        assert!((mean / 1e6 - 1.0).abs() < 0.0115, "{mean}");
        assert!((variance.sqrt() / 1e6 - 1.0).abs() < 0.02, "{variance}");
        let over = times.iter().filter(|&&t| t > 3e6).count() as f64 / n as f64;
        assert!((over - (-3f64).exp()).abs() < 0.0025, "{over}");
    }

    #[test]
    fn seed_request_and_position_all_matter() {
        let at = |seed, id, position| Draw::Exponential.time_ns(1 << 40, seed, id, position);
        assert_eq!(at(1, 2, 3), at(1, 2, 3));
        let all = [at(1, 2, 3), at(2, 2, 3), at(1, 3, 3), at(1, 2, 4)];
        assert!((1..4).all(|i| !all[..i].contains(&all[i])), "{all:?}");
        assert_eq!(Draw::Fixed.time_ns(5, 1, 2, 3), 5);
    }
}
