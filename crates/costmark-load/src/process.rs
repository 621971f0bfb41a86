//! Arrival processes of open loops, and how they are written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How requests arrive when they do not wait for each other. Rates are requests per second.
///
/// | written | arrivals |
/// |---|---|
/// | `constant:2` | every 1/2 s, the first at once |
/// | `poisson:4` | independent gaps, exponential with mean 1/4 s |
/// | `gamma:4,0.25` | independent gaps, gamma distributed with shape 0.25 and mean 1/4 s |
/// | `ramp:1..8,60s` | Poisson, its rate rising from 1 to 8 in a straight line over 60 s, then 8 |
/// | `bursts:8,2s` | 8 together every 2 s, the first at once |
/// | `max` | all at once |
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ArrivalProcess {
    /// Equal gaps.
    Constant {
        /// Requests per second.
        per_s: f64,
    },
    /// Exponential gaps: users who know nothing of each other.
    Poisson {
        /// Requests per second.
        per_s: f64,
    },
    /// Gamma distributed gaps of shape *b* (the burstiness) and scale 1/(*b* · rate), as
    /// `vllm bench serve --burstiness` has them: mean gap 1/rate and coefficient of
    /// variation 1/√*b*. 1 is Poisson, less is burstier, more is more even.
    Gamma {
        /// Requests per second.
        per_s: f64,
        /// Shape of the distribution of gaps.
        burstiness: f64,
    },
    /// A Poisson process of rate *a* + (*b* − *a*) · *t*/*d* until *d*, and *b* after.
    Ramp {
        /// Rate at the begin (*a*), may be 0.
        from_per_s: f64,
        /// Rate at the end (*b*).
        to_per_s: f64,
        /// How long it takes to get there (*d*), seconds.
        over_s: f64,
    },
    /// Groups of requests due at the same instant.
    Bursts {
        /// Requests in a group.
        size: u32,
        /// Seconds from group to group.
        every_s: f64,
    },
    /// Every request at the begin: how fast can a batch be done?
    AtOnce,
}

/// An arrival process that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "arrivals `{text}`: {reason}; use `constant:RATE`, `poisson:RATE`, `gamma:RATE,BURSTINESS`, \
     `ramp:FROM..TO,DURATION`, `bursts:SIZE,INTERVAL` or `max`, with rates in requests per \
     second and times like `500ms`, `60s` or `5m`"
)]
pub struct ArrivalsError {
    text: String,
    reason: String,
}

impl ArrivalsError {
    /// What is wrong, without what would be right.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }
}

impl ArrivalProcess {
    /// Requests per second in the long run; `None` for [`AtOnce`](Self::AtOnce).
    #[must_use]
    pub fn rate_per_s(&self) -> Option<f64> {
        match *self {
            Self::Constant { per_s } | Self::Poisson { per_s } | Self::Gamma { per_s, .. } => {
                Some(per_s)
            }
            Self::Ramp { to_per_s, .. } => Some(to_per_s),
            Self::Bursts { size, every_s } => Some(f64::from(size) / every_s),
            Self::AtOnce => None,
        }
    }

    /// The same kind of process at another long-run rate: what a search over rates varies.
    /// Bursts keep their size and come more often, a ramp keeps its shape. `None` for
    /// [`AtOnce`](Self::AtOnce).
    #[must_use]
    pub fn at_rate(&self, per_s: f64) -> Option<Self> {
        Some(match *self {
            Self::Constant { .. } => Self::Constant { per_s },
            Self::Poisson { .. } => Self::Poisson { per_s },
            Self::Gamma { burstiness, .. } => Self::Gamma { per_s, burstiness },
            Self::Ramp {
                from_per_s,
                to_per_s,
                over_s,
            } => Self::Ramp {
                from_per_s: from_per_s * per_s / to_per_s,
                to_per_s: per_s,
                over_s,
            },
            Self::Bursts { size, .. } => Self::Bursts {
                size,
                every_s: f64::from(size) / per_s,
            },
            Self::AtOnce => return None,
        })
    }

    /// How long the process takes to reach its long-run rate, seconds.
    #[must_use]
    pub fn ramp_up_s(&self) -> f64 {
        match *self {
            Self::Ramp { over_s, .. } => over_s,
            _ => 0.0,
        }
    }

    /// Checks that all parameters can be meant.
    ///
    /// # Errors
    /// A rate, burstiness, size or time is 0, negative or not finite.
    pub fn check(&self) -> Result<(), ArrivalsError> {
        let positive = |what: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                return Ok(());
            }
            Err(format!("{what} is {value} and must be more than 0"))
        };
        let checked = match *self {
            Self::Constant { per_s } | Self::Poisson { per_s } => positive("the rate", per_s),
            Self::Gamma { per_s, burstiness } => {
                positive("the rate", per_s).and(positive("the burstiness", burstiness))
            }
            Self::Ramp {
                from_per_s,
                to_per_s,
                over_s,
            } => {
                // It may begin at 0, but must lead somewhere.
                positive("the rate at the end", to_per_s)
                    .and(positive("the duration", over_s))
                    .and(match from_per_s {
                        0.0 => Ok(()),
                        from => positive("the rate at the begin", from),
                    })
            }
            Self::Bursts { size, every_s } => {
                positive("the size", f64::from(size)).and(positive("the interval", every_s))
            }
            Self::AtOnce => Ok(()),
        };
        checked.map_err(|reason| ArrivalsError {
            text: self.to_string(),
            reason,
        })
    }
}

impl fmt::Display for ArrivalProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant { per_s } => write!(f, "constant:{per_s}"),
            Self::Poisson { per_s } => write!(f, "poisson:{per_s}"),
            Self::Gamma { per_s, burstiness } => write!(f, "gamma:{per_s},{burstiness}"),
            Self::Ramp {
                from_per_s,
                to_per_s,
                over_s,
            } => write!(f, "ramp:{from_per_s}..{to_per_s},{over_s}s"),
            Self::Bursts { size, every_s } => write!(f, "bursts:{size},{every_s}s"),
            Self::AtOnce => write!(f, "max"),
        }
    }
}

impl FromStr for ArrivalProcess {
    type Err = ArrivalsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let process = read(text.trim()).map_err(|reason| ArrivalsError {
            text: text.to_owned(),
            reason,
        })?;
        process.check()?;
        Ok(process)
    }
}

fn read(text: &str) -> Result<ArrivalProcess, String> {
    if text == "max" {
        return Ok(ArrivalProcess::AtOnce);
    }
    let (kind, parameters) = text
        .split_once(':')
        .ok_or_else(|| "the parameters are missing".to_owned())?;
    let two = |second: &str| {
        parameters
            .split_once(',')
            .ok_or_else(|| format!("the {second} is missing"))
    };
    Ok(match kind {
        "constant" => ArrivalProcess::Constant {
            per_s: number(parameters)?,
        },
        "poisson" => ArrivalProcess::Poisson {
            per_s: number(parameters)?,
        },
        "gamma" => {
            let (per_s, burstiness) = two("burstiness")?;
            ArrivalProcess::Gamma {
                per_s: number(per_s)?,
                burstiness: number(burstiness)?,
            }
        }
        "ramp" => {
            let (rates, over) = two("duration")?;
            let (from, to) = rates
                .split_once("..")
                .ok_or_else(|| "the rate at the end is missing".to_owned())?;
            ArrivalProcess::Ramp {
                from_per_s: number(from)?,
                to_per_s: number(to)?,
                over_s: seconds(over)?,
            }
        }
        "bursts" => {
            let (size, every) = two("interval")?;
            let size = size.trim();
            ArrivalProcess::Bursts {
                size: size
                    .parse()
                    .map_err(|_| format!("`{size}` is not a whole number of requests"))?,
                every_s: seconds(every)?,
            }
        }
        other => return Err(format!("there is no process `{other}`")),
    })
}

fn number(text: &str) -> Result<f64, String> {
    let text = text.trim();
    text.parse()
        .map_err(|_| format!("`{text}` is not a number"))
}

/// A time with its unit; a bare number is seconds.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        unit => return Err(format!("`{unit}` is not a unit of time")),
    };
    Ok(number(digits)? * unit_s)
}

impl From<ArrivalProcess> for String {
    fn from(process: ArrivalProcess) -> Self {
        process.to_string()
    }
}

impl TryFrom<String> for ArrivalProcess {
    type Error = ArrivalsError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn processes() -> impl Strategy<Value = ArrivalProcess> {
        let rate = 1e-3..1e4f64;
        prop_oneof![
            rate.clone()
                .prop_map(|per_s| ArrivalProcess::Constant { per_s }),
            rate.clone()
                .prop_map(|per_s| ArrivalProcess::Poisson { per_s }),
            (rate.clone(), 0.01..50.0f64)
                .prop_map(|(per_s, burstiness)| ArrivalProcess::Gamma { per_s, burstiness }),
            (0.0..1e3f64, rate.clone(), 1e-3..1e4f64).prop_map(|(from_per_s, to_per_s, over_s)| {
                ArrivalProcess::Ramp {
                    from_per_s,
                    to_per_s,
                    over_s,
                }
            }),
            (1..1000u32, 1e-3..1e3f64)
                .prop_map(|(size, every_s)| ArrivalProcess::Bursts { size, every_s }),
            Just(ArrivalProcess::AtOnce),
        ]
    }

    proptest! {
        #[test]
        fn text_round_trips(process in processes()) {
            prop_assert_eq!(process.to_string().parse::<ArrivalProcess>().unwrap(), process);
            let json = serde_json::to_string(&process).unwrap();
            prop_assert_eq!(serde_json::from_str::<ArrivalProcess>(&json).unwrap(), process);
        }

        #[test]
        fn another_rate_is_the_long_run_rate(process in processes(), per_s in 0.1..1e3f64) {
            if let Some(other) = process.at_rate(per_s) {
                prop_assert!((other.rate_per_s().unwrap() / per_s - 1.0).abs() < 1e-12);
                prop_assert!(other.check().is_ok());
            }
        }
    }

    #[test]
    fn times_have_units() {
        for (text, over_s) in [("60", 60.0), ("500ms", 0.5), ("2m", 120.0), ("1h", 3600.0)] {
            let process: ArrivalProcess = format!("ramp: 0..8, {text}").parse().unwrap();
            assert_eq!(process.ramp_up_s(), over_s);
        }
    }

    #[test]
    fn errors_say_what_is_wrong_and_what_is_accepted() {
        for (text, reason) in [
            ("4", "the parameters are missing"),
            ("poison:4", "there is no process `poison`"),
            ("poisson:x", "`x` is not a number"),
            ("poisson:0", "the rate is 0 and must be more than 0"),
            ("poisson:-1", "must be more than 0"),
            ("poisson:inf", "the rate is inf"),
            ("gamma:4", "the burstiness is missing"),
            ("gamma:4,0", "the burstiness is 0"),
            ("ramp:4,60s", "the rate at the end is missing"),
            ("ramp:4..0,60s", "the rate at the end is 0"),
            ("ramp:-4..2,60s", "the rate at the begin is -4"),
            ("ramp:1..2,60d", "`d` is not a unit of time"),
            ("bursts:1.5,2s", "`1.5` is not a whole number"),
            ("bursts:0,2s", "the size is 0"),
        ] {
            let message = text.parse::<ArrivalProcess>().unwrap_err().to_string();
            assert!(message.contains(reason), "{text}: {message}");
            assert!(message.contains("gamma:RATE,BURSTINESS"), "{message}");
        }
    }
}
