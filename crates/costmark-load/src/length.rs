//! How long prompts and outputs are.

use std::fmt;
use std::str::FromStr;

use rand::{Rng, RngExt};
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};

/// Standard deviations after which a normal length is clamped. It bounds the longest
/// request, so that it can be checked against a model's context before a run; 0.27 %
/// of draws are affected.
const NORMAL_CLAMP_SD: u32 = 3;

/// A distribution of token counts, all at least 1.
///
/// Written as `128`, `64..256` (both ends included) or `normal:128,32` (mean, standard
/// deviation; rounded to whole tokens, clamped to three deviations and to at least 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "NumberOrText")]
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
}

/// A length that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "length `{text}`: {reason}; use a number (`128`), a range with both ends included \
     (`64..256`) or `normal:MEAN,SD` (`normal:128,32`)"
)]
pub struct LengthError {
    text: String,
    reason: String,
}

impl LengthDistribution {
    /// Draws a length.
    pub fn sample(&self, rng: &mut impl Rng) -> u32 {
        match *self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform { low, high } => rng.random_range(low..=high),
            Self::Normal { mean, sd } => {
                // A finite mean and a finite, non-negative deviation are always accepted.
                let drawn = Normal::new(f64::from(mean), f64::from(sd))
                    .map_or(f64::from(mean), |normal| normal.sample(rng));
                // Saturating: clamped right after.
                (drawn.round() as u32).clamp(self.shortest(), self.longest())
            }
        }
    }

    /// The shortest length that can be drawn.
    #[must_use]
    pub fn shortest(&self) -> u32 {
        match *self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform { low, .. } => low,
            Self::Normal { mean, sd } => mean
                .saturating_sub(sd.saturating_mul(NORMAL_CLAMP_SD))
                .max(1),
        }
    }

    /// The longest length that can be drawn.
    #[must_use]
    pub fn longest(&self) -> u32 {
        match *self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform { high, .. } => high,
            Self::Normal { mean, sd } => mean.saturating_add(sd.saturating_mul(NORMAL_CLAMP_SD)),
        }
    }

    /// The mean length (of a normal: before clamping), for estimates of how long a run takes.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match *self {
            Self::Fixed(tokens) => f64::from(tokens),
            Self::Uniform { low, high } => f64::midpoint(f64::from(low), f64::from(high)),
            Self::Normal { mean, .. } => f64::from(mean),
        }
    }
}

impl fmt::Display for LengthDistribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(tokens) => write!(f, "{tokens}"),
            Self::Uniform { low, high } => write!(f, "{low}..{high}"),
            Self::Normal { mean, sd } => write!(f, "normal:{mean},{sd}"),
        }
    }
}

impl FromStr for LengthDistribution {
    type Err = LengthError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
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
        if let Some(parameters) = text.trim().strip_prefix("normal:") {
            let (mean, sd) = parameters
                .split_once(',')
                .ok_or_else(|| error("the standard deviation is missing".into()))?;
            let (mean, sd) = (at_least_one(tokens(mean)?)?, tokens(sd)?);
            return Ok(Self::Normal { mean, sd });
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

impl From<LengthDistribution> for String {
    fn from(length: LengthDistribution) -> Self {
        length.to_string()
    }
}

/// In a plan file a fixed length may be a plain number.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u32),
    Text(String),
}

impl TryFrom<NumberOrText> for LengthDistribution {
    type Error = LengthError;

    fn try_from(value: NumberOrText) -> Result<Self, Self::Error> {
        match value {
            NumberOrText::Number(tokens) => tokens.to_string().parse(),
            NumberOrText::Text(text) => text.parse(),
        }
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
            for _ in 0..200 {
                let drawn = length.sample(&mut rng);
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
            ("", "`` is not a whole number"),
            ("0", "at least 1"),
            ("12.5", "`12.5` is not"),
            ("-3", "`-3` is not"),
            ("256..64", "256 is greater than 64"),
            ("0..64", "at least 1"),
            ("normal:128", "standard deviation is missing"),
            ("normal:128,x", "`x` is not"),
            ("lognormal:1,2", "`lognormal:1,2` is not"),
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
    fn plans_may_hold_numbers_or_text() {
        let read = |json: &str| serde_json::from_str::<LengthDistribution>(json);
        assert_eq!(read("128").unwrap(), LengthDistribution::Fixed(128));
        assert_eq!(
            read("\"normal:9,2\"").unwrap(),
            LengthDistribution::Normal { mean: 9, sd: 2 }
        );
        assert!(read("0").is_err());
        let text = serde_json::to_string(&LengthDistribution::Fixed(128)).unwrap();
        assert_eq!(text, "\"128\"");
    }
}
