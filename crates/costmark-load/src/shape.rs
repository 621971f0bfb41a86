//! Arrival processes apart from their rate: what stays the same while a rate is varied.

use std::fmt;
use std::str::FromStr;

use crate::process::{ArrivalProcess, seconds};

/// How requests arrive, apart from how many per second. With a rate it makes an
/// [`ArrivalProcess`].
///
/// | written | at rate *r* |
/// |---|---|
/// | `poisson` | independent gaps, exponential with mean 1/*r* |
/// | `constant` | every 1/*r* |
/// | `gamma:B` | independent gaps, gamma distributed with shape B and mean 1/*r* |
/// | `bursts:N` | N together every N/*r* |
/// | `ramp:TIME` | Poisson, its rate rising from 0 to *r* in a straight line over TIME, then *r* |
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum ArrivalShape {
    /// Exponential gaps.
    #[default]
    Poisson,
    /// Equal gaps.
    Constant,
    /// Gamma distributed gaps of this shape (burstiness).
    Gamma(f64),
    /// Groups of this size.
    Bursts(u32),
    /// Poisson behind a ramp of so many seconds.
    Ramp(f64),
}

/// An arrival shape that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "arrivals `{text}`: {reason}; use `poisson`, `constant`, `gamma:BURSTINESS`, `bursts:SIZE` \
     or `ramp:TIME`, with times like `500ms`, `60s` or `5m`"
)]
pub struct ArrivalShapeError {
    text: String,
    reason: String,
}

impl ArrivalShape {
    /// The process that brings so many requests per second in the long run.
    #[must_use]
    pub fn at_rate(self, per_s: f64) -> ArrivalProcess {
        match self {
            Self::Poisson => ArrivalProcess::Poisson { per_s },
            Self::Constant => ArrivalProcess::Constant { per_s },
            Self::Gamma(burstiness) => ArrivalProcess::Gamma { per_s, burstiness },
            Self::Bursts(size) => ArrivalProcess::Bursts {
                size,
                every_s: f64::from(size) / per_s,
            },
            Self::Ramp(over_s) => ArrivalProcess::Ramp {
                from_per_s: 0.0,
                to_per_s: per_s,
                over_s,
            },
        }
    }
}

impl fmt::Display for ArrivalShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poisson => write!(f, "poisson"),
            Self::Constant => write!(f, "constant"),
            Self::Gamma(burstiness) => write!(f, "gamma:{burstiness}"),
            Self::Bursts(size) => write!(f, "bursts:{size}"),
            Self::Ramp(over_s) => write!(f, "ramp:{over_s}s"),
        }
    }
}

impl FromStr for ArrivalShape {
    type Err = ArrivalShapeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = read(text.trim()).map_err(|reason| ArrivalShapeError {
            text: text.to_owned(),
            reason,
        })?;
        // What no rate could mend is told with the rest of the process.
        shape
            .at_rate(1.0)
            .check()
            .map_err(|error| ArrivalShapeError {
                text: text.to_owned(),
                reason: error.reason().to_owned(),
            })?;
        Ok(shape)
    }
}

fn read(text: &str) -> Result<ArrivalShape, String> {
    let (kind, parameter) = match text.split_once(':') {
        Some((kind, parameter)) => (kind, Some(parameter.trim())),
        None => (text, None),
    };
    let needed = |what: &str| parameter.ok_or_else(|| format!("the {what} is missing"));
    match (kind, parameter) {
        ("poisson", None) => Ok(ArrivalShape::Poisson),
        ("constant", None) => Ok(ArrivalShape::Constant),
        ("poisson" | "constant", Some(parameter)) => Err(format!(
            "`{kind}` takes no `{parameter}`; the rate is given apart"
        )),
        ("gamma", _) => {
            let text = needed("burstiness")?;
            text.parse()
                .map(ArrivalShape::Gamma)
                .map_err(|_| format!("`{text}` is not a number"))
        }
        ("bursts", _) => {
            let text = needed("size")?;
            text.parse()
                .map(ArrivalShape::Bursts)
                .map_err(|_| format!("`{text}` is not a whole number of requests"))
        }
        ("ramp", _) => seconds(needed("duration")?).map(ArrivalShape::Ramp),
        _ => Err(format!("there is no process `{kind}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_takes_a_rate() {
        for (text, process) in [
            ("poisson", "poisson:4"),
            ("constant", "constant:4"),
            ("gamma:0.25", "gamma:4,0.25"),
            ("bursts:8", "bursts:8,2s"),
            ("ramp:60s", "ramp:0..4,60s"),
        ] {
            let shape: ArrivalShape = text.parse().unwrap();
            assert_eq!(shape.to_string(), text);
            assert_eq!(shape.at_rate(4.0), process.parse().unwrap());
            assert_eq!(shape.at_rate(4.0).rate_per_s(), Some(4.0));
        }
        let minutes: ArrivalShape = "ramp:2m".parse().unwrap();
        assert_eq!(minutes, ArrivalShape::Ramp(120.0));
    }

    #[test]
    fn errors_say_what_is_wrong_and_what_is_accepted() {
        for (text, reason) in [
            ("poison", "there is no process `poison`"),
            ("poisson:4", "the rate is given apart"),
            ("gamma", "the burstiness is missing"),
            ("gamma:x", "`x` is not a number"),
            ("gamma:0", "the burstiness is 0"),
            ("bursts:0", "the size is 0"),
            ("bursts:1.5", "`1.5` is not a whole number"),
            ("ramp:60d", "`d` is not a unit of time"),
            ("ramp:0s", "the duration is 0"),
        ] {
            let message = text.parse::<ArrivalShape>().unwrap_err().to_string();
            assert!(message.contains(reason), "{text}: {message}");
            assert!(message.contains("gamma:BURSTINESS"), "{message}");
        }
    }
}
