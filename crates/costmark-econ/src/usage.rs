//! From dollars per million tokens to what people ask about: a request, a thousand
//! conversations, a user's month.

use costmark_core::Interval;
use serde::Serialize;

use crate::cost::TOKENS_PER_MTOK;
use crate::error::CostError;

/// What one million tokens of each class cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClassCosts {
    /// Uncached input.
    pub input: Interval,
    /// Input from the prefix cache; none where no hit was measured.
    pub cached: Option<Interval>,
    /// Output.
    pub output: Interval,
}

/// How a product is used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Usage {
    /// Prompt tokens of a request, cached ones included.
    pub input_per_request: f64,
    /// Of these, tokens from the prefix cache.
    pub cached_per_request: f64,
    /// Output tokens of a request.
    pub output_per_request: f64,
    /// Requests of a conversation.
    pub requests_per_conversation: f64,
    /// Conversations of a user in a month.
    pub conversations_per_user_month: f64,
}

/// What usage costs, USD.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct UsageCost {
    /// One request.
    pub usd_per_request: Interval,
    /// A thousand conversations.
    pub usd_per_1000_conversations: Interval,
    /// One user in one month.
    pub usd_per_user_month: Interval,
}

impl Usage {
    /// `request = Σ tokens of a class × cost per million / 1e6`; the others are multiples.
    ///
    /// The class costs follow from one throughput and move together, so the ends of their
    /// intervals add up.
    ///
    /// # Errors
    /// A negative count, cached tokens beyond the input, or cached tokens without a cost.
    pub fn cost(&self, costs: &ClassCosts) -> Result<UsageCost, CostError> {
        for (name, value) in [
            ("input tokens per request", self.input_per_request),
            ("cached tokens per request", self.cached_per_request),
            ("output tokens per request", self.output_per_request),
            ("requests per conversation", self.requests_per_conversation),
            (
                "conversations per user and month",
                self.conversations_per_user_month,
            ),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(CostError::Value {
                    name,
                    value,
                    wanted: "0 or more",
                });
            }
        }
        if self.cached_per_request > self.input_per_request {
            return Err(CostError::Value {
                name: "cached tokens per request",
                value: self.cached_per_request,
                wanted: "at most the input tokens",
            });
        }
        let mut parts = vec![
            (
                self.input_per_request - self.cached_per_request,
                costs.input,
            ),
            (self.output_per_request, costs.output),
        ];
        if self.cached_per_request > 0.0 {
            let cached = costs.cached.ok_or(CostError::CachedNotMeasured)?;
            parts.push((self.cached_per_request, cached));
        }
        let request = sum(&parts).times(1.0 / TOKENS_PER_MTOK);
        let conversation = request.times(self.requests_per_conversation);
        Ok(UsageCost {
            usd_per_request: request,
            usd_per_1000_conversations: conversation.times(1000.0),
            usd_per_user_month: conversation.times(self.conversations_per_user_month),
        })
    }
}

/// Sum of figures that move together; an end is known if all of its parts are.
fn sum(parts: &[(f64, Interval)]) -> Interval {
    let end = |pick: fn(&Interval) -> Option<f64>| -> Option<f64> {
        parts
            .iter()
            .map(|(n, figure)| {
                if *n == 0.0 {
                    Some(0.0)
                } else {
                    Some(n * pick(figure)?)
                }
            })
            .sum()
    };
    Interval {
        value: parts.iter().map(|(n, figure)| n * figure.value).sum(),
        low: end(|f| f.low),
        high: end(|f| f.high),
    }
}

/// An interval times a number that is not negative.
pub(crate) trait Times {
    /// All of its figures, multiplied.
    fn times(self, factor: f64) -> Self;
}

impl Times for Interval {
    fn times(self, factor: f64) -> Self {
        Self {
            value: self.value * factor,
            low: self.low.map(|x| x * factor),
            high: self.high.map(|x| x * factor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: ClassCosts = ClassCosts {
        input: Interval {
            value: 2.0,
            low: Some(1.0),
            high: Some(3.0),
        },
        cached: None,
        output: Interval {
            value: 10.0,
            low: Some(8.0),
            high: Some(13.0),
        },
    };

    fn chat() -> Usage {
        Usage {
            input_per_request: 500.0,
            cached_per_request: 0.0,
            output_per_request: 300.0,
            requests_per_conversation: 4.0,
            conversations_per_user_month: 20.0,
        }
    }

    /// 500 × $2/M + 300 × $10/M = $0.004; × 4 × 1000 = $16; × 4 × 20 = $0.32.
    #[test]
    fn a_chat_by_hand() {
        let cost = chat().cost(&COSTS).unwrap();
        assert!((cost.usd_per_request.value - 0.004).abs() < 1e-15);
        assert!((cost.usd_per_1000_conversations.value - 16.0).abs() < 1e-12);
        assert!((cost.usd_per_user_month.value - 0.32).abs() < 1e-12);
        assert!((cost.usd_per_request.low.unwrap() - 0.0029).abs() < 1e-15);
        assert!((cost.usd_per_user_month.high.unwrap() - 0.0054 * 80.0).abs() < 1e-12);
    }

    #[test]
    fn what_was_not_measured_or_can_not_be_is_refused() {
        let hits = Usage {
            cached_per_request: 100.0,
            ..chat()
        };
        assert_eq!(hits.cost(&COSTS), Err(CostError::CachedNotMeasured));
        let known = ClassCosts {
            cached: Some(Interval::point(0.0)),
            ..COSTS
        };
        let cost = hits.cost(&known).unwrap().usd_per_request;
        assert!((cost.value - 0.0038).abs() < 1e-15);
        assert_eq!(cost.low, None, "an unknown end stays unknown");
        let more = Usage {
            cached_per_request: 501.0,
            ..chat()
        };
        assert!(more.cost(&known).is_err());
        let negative = Usage {
            output_per_request: -1.0,
            ..chat()
        };
        assert!(negative.cost(&COSTS).is_err());
    }
}
