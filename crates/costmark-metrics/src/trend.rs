//! Does a queue grow, or does it only wander?
//!
//! Counts in flight and waiting times are strongly autocorrelated: close to capacity a
//! queue that is stable wanders for minutes, and a straight line fitted to it nearly always
//! has a "significant" slope if its points are taken for independent. So the line is not
//! tested against scatter around it but against a *random walk*, the most wandering a queue
//! can do without growing (which is what it does at exactly its capacity):
//!
//! The series is cut into *m* blocks with means *x₁ … xₘ*. The slope is the mean of the
//! differences *dᵢ = xᵢ₊₁ − xᵢ*, and its statistic
//!
//! ```text
//! t = d̄ / √(3/2 · s²(d) / (m − 1)),   against Student's t with m − 2 degrees of freedom
//! ```
//!
//! A random walk grows per block with a variance σ² of which differences of block means show
//! 2/3 (they are moving averages of order 1 with autocorrelation 1/4; Working, 1960): hence
//! the 3/2. On a random walk without drift the test has its stated level. On a stable queue
//! differences cancel, d̄ goes to 0 faster than its estimated error, and false alarms become
//! rarer still. A sudden rise in one block, such as the filling of an empty machine, raises
//! s² with d̄ and is not taken for a trend either.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// One-sided significance of each trend.
const LEVEL: f64 = 0.05;
/// A rise over the window under this share of the mean is no matter, however certain.
const MATERIAL_SHARE: f64 = 0.1;

/// How a quantity moves over the window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trend {
    /// Mean over the window.
    pub mean: f64,
    /// Rise per second.
    pub slope_per_s: f64,
    /// Rise over the whole window.
    pub rise: f64,
    /// Probability of such a slope, or a steeper one, on a random walk without drift.
    pub p_value: f64,
    /// `p_value` under 5 % and a rise of at least a tenth of the mean.
    pub is_rising: bool,
}

impl Trend {
    /// The trend of block means; `None` for fewer than four blocks or a window of no length.
    pub(crate) fn of_blocks(means: &[f64], window_s: f64) -> Option<Self> {
        let (first, last) = (means.first()?, means.last()?);
        if means.len() < 4 || window_s <= 0.0 {
            return None;
        }
        let m = means.len() as f64;
        let mean = means.iter().sum::<f64>() / m;
        let step = (last - first) / (m - 1.0);
        let squares: f64 = means
            .windows(2)
            .map(|pair| (pair[1] - pair[0] - step).powi(2))
            .sum();
        let error = (1.5 * squares / (m - 2.0) / (m - 1.0)).sqrt();
        let p_value = if error > 0.0 {
            let t = StudentsT::new(0.0, 1.0, m - 2.0).ok()?;
            1.0 - t.cdf(step / error)
        } else {
            // A perfect line: certain, if it rises at all.
            f64::from(u8::from(step <= 0.0))
        };
        let rise = step * m;
        Some(Self {
            mean,
            slope_per_s: rise / window_s,
            rise,
            p_value,
            is_rising: p_value < LEVEL && rise >= MATERIAL_SHARE * mean,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn a_line_by_hand() {
        let trend = Trend::of_blocks(&[10.0, 12.0, 13.0, 16.0], 8.0).expect("four blocks");
        // Differences 2, 1, 3: mean 2, squares 2, error √(1.5 · 2/2 / 3) = 0.7071.
        assert_eq!(
            (trend.mean, trend.rise, trend.slope_per_s),
            (12.75, 8.0, 1.0)
        );
        // t = 2.8284 with 2 degrees of freedom: p = ½ − t/(2·√(2 + t²)) = 0.05279.
        assert!(
            (trend.p_value - 0.052_786).abs() < 1e-5,
            "{}",
            trend.p_value
        );
        assert!(!trend.is_rising);
    }

    #[test]
    fn perfect_lines_and_constants() {
        let line = Trend::of_blocks(&[1.0, 2.0, 3.0, 4.0, 5.0], 5.0).expect("five blocks");
        assert!(line.is_rising && line.p_value == 0.0);
        for flat in [[7.0; 5], [5.0, 4.0, 3.0, 2.0, 1.0]] {
            assert!(!Trend::of_blocks(&flat, 5.0).expect("five blocks").is_rising);
        }
        // Certain, but no matter: 1 % over the window.
        let slight = [100.0, 100.25, 100.5, 100.75, 101.0];
        assert!(
            !Trend::of_blocks(&slight, 5.0)
                .expect("five blocks")
                .is_rising
        );
        assert_eq!(Trend::of_blocks(&[1.0, 2.0, 3.0], 5.0), None);
    }

    /// Share of series of 20 block means, of 50 steps each, in which a slope is significant.
    fn alarms(mut step: impl FnMut(f64, f64) -> f64) -> f64 {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let series = 2_000;
        let mut alarms = 0;
        for _ in 0..series {
            let mut value = 0.0;
            let means: Vec<f64> = (0..20)
                .map(|_| {
                    let sum: f64 = (0..50)
                        .map(|_| {
                            value = step(value, rng.random_range(-1.0..1.0));
                            value
                        })
                        .sum();
                    sum / 50.0
                })
                .collect();
            let trend = Trend::of_blocks(&means, 1.0).expect("twenty blocks");
            alarms += u32::from(trend.p_value < LEVEL);
        }
        f64::from(alarms) / f64::from(series)
    }

    #[test]
    fn a_random_walk_raises_the_stated_share_of_alarms() {
        let share = alarms(|value, noise| value + noise);
        assert!((0.03..0.07).contains(&share), "{share}");
    }

    #[test]
    fn what_returns_to_its_mean_raises_next_to_none() {
        // Correlation times of 1, 20 and 200 steps in a window of 1000.
        for memory in [0.37, 0.95, 0.995] {
            let share = alarms(|value, noise| memory * value + noise);
            assert!(share < 0.04, "{memory}: {share}");
        }
    }

    #[test]
    fn growth_is_found() {
        // Drift 0.1 a step against noise of 0.58: over 1000 steps 100 against 18.
        let share = alarms(|value, noise| value + noise + 0.1);
        assert!(share > 0.98, "{share}");
    }
}
