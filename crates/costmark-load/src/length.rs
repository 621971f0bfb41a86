//! How long prompts and outputs are.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rand::{Rng, RngExt};
use rand_distr::{Distribution, StandardNormal};

/// Standard deviations after which a normal length, or the logarithm of a lognormal one, is
/// clamped. It bounds the longest request, so that it can be checked against a model's
/// context before a run; 0.27 % of draws are affected.
const NORMAL_CLAMP_SD: u32 = 3;

/// A distribution of token counts, all at least 1.
///
/// Written as `128`, `64..256` (both ends included), `normal:128,32` or `lognormal:128,96`
/// (mean and standard deviation of the length; rounded to whole tokens, clamped to three
/// deviations, a lognormal's in the logarithm, and to at least 1), or
/// `quantiles:0=2,50=1020,100=14050` (percent=length, straight lines between them).
/// [`Observed`](Self::Observed) lengths come from files and have no written form: they show
/// as `observed:N`, which is not read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LengthDistribution {
    /// Always this many.
    Fixed(u32),
    /// Every length from `low` to `high`, both included, equally often.
    Uniform {
        /// Shortest.
        low: u32,
        /// Longest.
        high: u32,
    },
    /// Normally distributed, rounded and clamped.
    Normal {
        /// Mean before clamping.
        mean: u32,
        /// Standard deviation before clamping.
        sd: u32,
    },
    /// Lognormally distributed, rounded and clamped: many short ones, few very long ones.
    LogNormal {
        /// Mean before clamping.
        mean: u32,
        /// Standard deviation before clamping.
        sd: u32,
    },
    /// `(probability in millionths, length)`, both ascending, from 0 to a million: the
    /// quantile function is straight between these points.
    Quantiles(Arc<[(u32, u32)]>),
    /// One of these lengths, ascending, each as likely as any other. Not empty.
    Observed(Arc<[u32]>),
}

/// Longest length that is taken: more than any model's context, and still little memory.
const MAX_LENGTH: u32 = 100_000_000;

/// A probability of 1, in the unit of [`LengthDistribution::Quantiles`].
const WHOLE: u32 = 1_000_000;

/// A length that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "length `{text}`: {reason}; use a number (`128`), a range with both ends included \
     (`64..256`), `normal:MEAN,SD` (`normal:128,32`), `lognormal:MEAN,SD` or \
     `quantiles:PERCENT=LENGTH,…` from 0 to 100"
)]
pub struct LengthError {
    text: String,
    reason: String,
}

impl LengthDistribution {
    /// Draws a length.
    pub fn sample(&self, rng: &mut impl Rng) -> u32 {
        match self {
            Self::Fixed(tokens) => *tokens,
            Self::Uniform { low, high } => rng.random_range(*low..=*high),
            Self::Observed(all) => all[rng.random_range(0..all.len())],
            Self::Normal { .. } | Self::LogNormal { .. } | Self::Quantiles(_) => {
                self.at_normal(StandardNormal.sample(rng))
            }
        }
    }

    /// The length a standard normal number stands for: the quantile of the same probability.
    /// Correlated numbers so give correlated lengths (a Gaussian copula).
    #[must_use]
    pub fn at_normal(&self, z: f64) -> u32 {
        let drawn = match self {
            Self::Fixed(tokens) => return *tokens,
            Self::Observed(all) => {
                let rank = (normal_cdf(z) * all.len() as f64) as usize;
                return all[rank.min(all.len() - 1)];
            }
            Self::Quantiles(points) => quantile(points, normal_cdf(z)),
            &Self::Uniform { low, high } => {
                let steps = (f64::from(high - low) + 1.0) * normal_cdf(z);
                f64::from(low) + steps.floor()
            }
            &Self::Normal { mean, sd } => f64::from(mean) + f64::from(sd) * z,
            &Self::LogNormal { mean, sd } => {
                let (mu, sigma) = log_parameters(mean, sd);
                (mu + sigma * z).exp()
            }
        };
        // Saturating: clamped right after.
        (drawn.round() as u32).clamp(self.shortest(), self.longest())
    }

    /// The shortest length that can be drawn.
    #[must_use]
    pub fn shortest(&self) -> u32 {
        match self {
            Self::Fixed(tokens) => *tokens,
            Self::Quantiles(points) => points.first().map_or(1, |p| p.1),
            Self::Observed(all) => all.first().copied().unwrap_or(1),
            Self::Uniform { low, .. } => *low,
            &Self::Normal { mean, sd } => mean
                .saturating_sub(sd.saturating_mul(NORMAL_CLAMP_SD))
                .max(1),
            &Self::LogNormal { mean, sd } => {
                let (mu, sigma) = log_parameters(mean, sd);
                ((mu - f64::from(NORMAL_CLAMP_SD) * sigma).exp().round() as u32).max(1)
            }
        }
    }

    /// The longest length that can be drawn.
    #[must_use]
    pub fn longest(&self) -> u32 {
        match self {
            Self::Fixed(tokens) => *tokens,
            Self::Quantiles(points) => points.last().map_or(1, |p| p.1),
            Self::Observed(all) => all.last().copied().unwrap_or(1),
            Self::Uniform { high, .. } => *high,
            &Self::Normal { mean, sd } => mean.saturating_add(sd.saturating_mul(NORMAL_CLAMP_SD)),
            &Self::LogNormal { mean, sd } => {
                let (mu, sigma) = log_parameters(mean, sd);
                ((mu + f64::from(NORMAL_CLAMP_SD) * sigma).exp().round() as u32).max(1)
            }
        }
    }

    /// The mean length (of a normal or lognormal: before clamping), for estimates of how long a run takes.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match self {
            Self::Fixed(tokens) => f64::from(*tokens),
            Self::Uniform { low, high } => f64::midpoint(f64::from(*low), f64::from(*high)),
            Self::Normal { mean, .. } | Self::LogNormal { mean, .. } => f64::from(*mean),
            Self::Quantiles(points) => points
                .windows(2)
                .map(|pair| {
                    let share = f64::from(pair[1].0 - pair[0].0) / f64::from(WHOLE);
                    share * f64::midpoint(f64::from(pair[0].1), f64::from(pair[1].1))
                })
                .sum(),
            Self::Observed(all) => {
                all.iter().map(|&n| f64::from(n)).sum::<f64>() / all.len().max(1) as f64
            }
        }
    }
}

/// The length at probability `p`, on the straight line between the points around it.
fn quantile(points: &[(u32, u32)], p: f64) -> f64 {
    let p = p * f64::from(WHOLE);
    let above = points.partition_point(|point| f64::from(point.0) < p);
    let Some(&(p1, y1)) = points.get(above) else {
        return points.last().map_or(1.0, |point| f64::from(point.1));
    };
    let (p0, y0) = match above {
        0 => return f64::from(y1),
        _ => points[above - 1],
    };
    let share = (p - f64::from(p0)) / f64::from(p1 - p0);
    f64::from(y0) + share * (f64::from(y1) - f64::from(y0))
}

/// Mean and standard deviation of the logarithm of a lognormal quantity, from its own:
/// σ² = ln(1 + sd²/mean²), μ = ln(mean) − σ²/2.
fn log_parameters(mean: u32, sd: u32) -> (f64, f64) {
    let (mean, sd) = (f64::from(mean.max(1)), f64::from(sd));
    let variance = (sd / mean).powi(2).ln_1p();
    (mean.ln() - variance / 2.0, variance.sqrt())
}

/// Probability of a standard normal number up to `z`.
pub(crate) fn normal_cdf(z: f64) -> f64 {
    0.5 * statrs::function::erf::erfc(-z / std::f64::consts::SQRT_2)
}

impl fmt::Display for LengthDistribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(tokens) => write!(f, "{tokens}"),
            Self::Uniform { low, high } => write!(f, "{low}..{high}"),
            Self::Normal { mean, sd } => write!(f, "normal:{mean},{sd}"),
            Self::LogNormal { mean, sd } => write!(f, "lognormal:{mean},{sd}"),
            Self::Quantiles(points) => {
                write!(f, "quantiles:")?;
                for (i, (p, tokens)) in points.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(
                        f,
                        "{comma}{}={tokens}",
                        f64::from(*p) / f64::from(WHOLE / 100)
                    )?;
                }
                Ok(())
            }
            Self::Observed(all) => write!(f, "observed:{}", all.len()),
        }
    }
}

impl FromStr for LengthDistribution {
    type Err = LengthError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let length = Self::read(text)?;
        match length.longest() {
            0..=MAX_LENGTH => Ok(length),
            longest => Err(LengthError {
                text: text.to_owned(),
                reason: format!("{longest} tokens are too many; at most {MAX_LENGTH}"),
            }),
        }
    }
}

impl LengthDistribution {
    fn read(text: &str) -> Result<Self, LengthError> {
        let error = |reason: String| LengthError {
            text: text.to_owned(),
            reason,
        };
        let tokens = |part: &str| {
            part.trim()
                .parse::<u32>()
                .map_err(|_| error(format!("`{}` is not a whole number of tokens", part.trim())))
        };
        let at_least_one = |length: u32| match length {
            0 => Err(error("a length is at least 1 token".into())),
            _ => Ok(length),
        };
        if let Some((kind @ ("normal" | "lognormal"), parameters)) = text.trim().split_once(':') {
            let (mean, sd) = parameters
                .split_once(',')
                .ok_or_else(|| error("the standard deviation is missing".into()))?;
            let (mean, sd) = (at_least_one(tokens(mean)?)?, tokens(sd)?);
            return Ok(match kind {
                "normal" => Self::Normal { mean, sd },
                _ => Self::LogNormal { mean, sd },
            });
        }
        if let Some(points) = text.trim().strip_prefix("quantiles:") {
            return quantiles(points).map_err(error);
        }
        if let Some((low, high)) = text.split_once("..") {
            // `64..=256` means what it says here too.
            let high = high.strip_prefix('=').unwrap_or(high);
            let (low, high) = (at_least_one(tokens(low)?)?, at_least_one(tokens(high)?)?);
            if low > high {
                return Err(error(format!("{low} is greater than {high}")));
            }
            return Ok(Self::Uniform { low, high });
        }
        Ok(Self::Fixed(at_least_one(tokens(text)?)?))
    }
}

/// `0=2,50=1020,99.9=9000,100=14050`.
fn quantiles(text: &str) -> Result<LengthDistribution, String> {
    let mut points: Vec<(u32, u32)> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (percent, tokens) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is not PERCENT=LENGTH"))?;
        let p: f64 = percent
            .trim()
            .parse()
            .ok()
            .filter(|p| (0.0..=100.0).contains(p))
            .ok_or_else(|| format!("`{percent}` is not a percentage"))?;
        let tokens: u32 = tokens
            .trim()
            .parse()
            .ok()
            .filter(|&tokens| tokens > 0)
            .ok_or_else(|| format!("`{tokens}` is not a whole number of tokens above 0"))?;
        let p = (p * f64::from(WHOLE / 100)).round() as u32;
        if let Some(&(before, shorter)) = points.last()
            && (p <= before || tokens < shorter)
        {
            return Err(format!(
                "`{part}` does not come after the point in front of it"
            ));
        }
        points.push((p, tokens));
    }
    match (points.first(), points.last()) {
        (Some((0, _)), Some((WHOLE, _))) => Ok(LengthDistribution::Quantiles(points.into())),
        _ => Err("quantiles begin at 0 (the shortest) and end at 100 (the longest)".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn lengths() -> impl Strategy<Value = LengthDistribution> {
        prop_oneof![
            (1..10_000u32).prop_map(LengthDistribution::Fixed),
            (1..5_000u32, 0..5_000u32).prop_map(|(low, more)| LengthDistribution::Uniform {
                low,
                high: low + more
            }),
            (1..5_000u32, 0..2_000u32)
                .prop_map(|(mean, sd)| LengthDistribution::Normal { mean, sd }),
            (1..5_000u32, 0..9_000u32)
                .prop_map(|(mean, sd)| LengthDistribution::LogNormal { mean, sd }),
        ]
    }

    proptest! {
        #[test]
        fn text_round_trips(length in lengths()) {
            prop_assert_eq!(length.to_string().parse::<LengthDistribution>().unwrap(), length);
        }

        #[test]
        fn draws_stay_in_bounds(length in lengths(), seed: u64) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for i in 0..200 {
                let drawn = if i % 2 == 0 {
                    length.sample(&mut rng)
                } else {
                    length.at_normal(StandardNormal.sample(&mut rng))
                };
                prop_assert!(drawn >= 1);
                prop_assert!((length.shortest()..=length.longest()).contains(&drawn));
            }
        }
    }

    /// Means of 20,000 draws against the stated means, at six standard errors.
    #[test]
    fn draws_have_the_stated_mean_and_spread() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for (length, sd) in [
            (LengthDistribution::Uniform { low: 1, high: 199 }, 57.4),
            (LengthDistribution::Normal { mean: 500, sd: 50 }, 50.0),
            (LengthDistribution::LogNormal { mean: 500, sd: 100 }, 100.0),
        ] {
            let n = 20_000;
            let draws: Vec<f64> = (0..n).map(|_| f64::from(length.sample(&mut rng))).collect();
            let mean = draws.iter().sum::<f64>() / f64::from(n);
            let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / f64::from(n);
            assert!((mean - length.mean()).abs() < 6.0 * sd / f64::from(n).sqrt());
            assert!((variance.sqrt() / sd - 1.0).abs() < 0.03);
        }
    }

    #[test]
    fn errors_say_what_is_accepted() {
        for (text, reason) in [
            (
                "100000001",
                "100000001 tokens are too many; at most 100000000",
            ),
            ("normal:90000000,9000000", "117000000 tokens are too many"),
            ("", "`` is not a whole number"),
            ("0", "at least 1"),
            ("12.5", "`12.5` is not"),
            ("-3", "`-3` is not"),
            ("256..64", "256 is greater than 64"),
            ("0..64", "at least 1"),
            ("normal:128", "standard deviation is missing"),
            ("normal:128,x", "`x` is not"),
            ("lognormal:128", "standard deviation is missing"),
            ("poisson:1,2", "`poisson:1,2` is not"),
            ("quantiles:0=1,50=9", "end at 100"),
            ("quantiles:0=5,100=3", "does not come after"),
            ("quantiles:0=0,100=3", "above 0"),
            ("quantiles:0=1,101=3", "`101` is not a percentage"),
            ("quantiles:9", "PERCENT=LENGTH"),
        ] {
            let message = text.parse::<LengthDistribution>().unwrap_err().to_string();
            assert!(message.contains(reason), "{text}: {message}");
            assert!(message.contains("normal:MEAN,SD"), "{text}: {message}");
        }
        assert_eq!(
            "64..=256".parse::<LengthDistribution>().unwrap(),
            LengthDistribution::Uniform { low: 64, high: 256 }
        );
    }

    #[test]
    fn quantiles_are_met_and_straight_between() {
        let text = "quantiles:0=10,50=20,90=100,100=1000";
        let length: LengthDistribution = text.parse().unwrap();
        assert_eq!(length.to_string(), text);
        assert_eq!((length.shortest(), length.longest()), (10, 1000));
        // 0.5 × 15 + 0.4 × 60 + 0.1 × 550
        assert!((length.mean() - 86.5).abs() < 1e-9);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut draws: Vec<u32> = (0..20_000).map(|_| length.sample(&mut rng)).collect();
        draws.sort_unstable();
        // Six standard errors of a quantile's probability, on the slope there.
        for (share, expected, tolerance) in [(0.25, 15.0, 1.0), (0.5, 20.0, 1.5), (0.9, 100.0, 9.0)]
        {
            let found = f64::from(draws[(share * 20_000.0) as usize]);
            assert!((found - expected).abs() <= tolerance, "{share}: {found}");
        }
        let mean = draws.iter().map(|&d| f64::from(d)).sum::<f64>() / 20_000.0;
        assert!((mean / 86.5 - 1.0).abs() < 0.06, "{mean}");
    }

    #[test]
    fn observed_lengths_are_drawn_equally_often() {
        let length = LengthDistribution::Observed([3, 5, 9].into());
        assert_eq!([-2.0, 0.0, 2.0].map(|z| length.at_normal(z)), [3, 5, 9]);
        assert_eq!((length.shortest(), length.longest()), (3, 9));
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let count = (0..3_000).filter(|_| length.sample(&mut rng) == 5).count();
        assert!(count.abs_diff(1_000) < 160, "{count}");
    }
}
