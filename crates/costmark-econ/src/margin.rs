//! Gross margin at a list price, and what must change to reach another.
//!
//! Everything is reckoned per million tokens of the mix that is sold. With R the revenue, I
//! what inference costs, f the share of free use on top, o other cost of sales and s the
//! share of revenue given away:
//!
//! `COGS = I × (1 + f) + o + R × s`, `gross margin = 1 − COGS / R`,
//! `markup = (R − COGS) / COGS`.

use costmark_core::Interval;
use serde::Serialize;

use crate::api::ListPrice;
use crate::cost::{CostModel, TOKENS_PER_MTOK};
use crate::error::MarginError;
use crate::revenue::{Revenue, TokenMix, revenue};

/// How long the machine takes per token, seconds of paid window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Speed {
    /// The phases could not be told apart: one figure for the mix as measured.
    Blended {
        /// Seconds per token of any kind.
        token_s: f64,
    },
    /// Attributed by step time; idle time is spread over the classes.
    Classes {
        /// Seconds per uncached input token.
        input_s: f64,
        /// Seconds per cached input token; none where no hit was measured.
        cached_s: Option<f64>,
        /// Seconds per output token.
        output_s: f64,
    },
}

/// One machine, one mix of tokens, one list price.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MarginCase {
    /// Price of time.
    pub cost: CostModel,
    /// Time per token.
    pub speed: Speed,
    /// Multiplies throughput; 1 as measured.
    pub speed_factor: f64,
    /// What is sold.
    pub mix: TokenMix,
    /// At which price.
    pub list: ListPrice,
    /// Multiplies the list price; 1 as listed.
    pub list_factor: f64,
    /// Free use, as a share of paid inference.
    pub free_share: f64,
    /// Part of revenue that goes to others (marketplaces, clouds).
    pub revenue_share: f64,
    /// Other cost of sales, USD per million tokens sold.
    pub other_usd_per_mtok: f64,
    /// Multiplies what inference costs; 1 as planned, 1.23 for 23 % over plan.
    pub overrun: f64,
}

/// Revenue, cost of sales and margin, USD per million tokens of the mix.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Margin {
    /// Revenue.
    pub revenue_usd_per_mtok: f64,
    /// Inference for what is sold.
    pub inference_usd_per_mtok: f64,
    /// Inference given away.
    pub free_usd_per_mtok: f64,
    /// Other cost of sales.
    pub other_usd_per_mtok: f64,
    /// What goes to others.
    pub revenue_share_usd_per_mtok: f64,
    /// The four together.
    pub cogs_usd_per_mtok: f64,
    /// `1 − COGS / revenue`.
    pub gross_margin: f64,
    /// `(revenue − COGS) / COGS`.
    pub markup: f64,
    /// Revenue by class, per million tokens.
    pub revenue: Revenue,
}

impl MarginCase {
    fn check(&self) -> Result<(), MarginError> {
        let share = |x: f64| x.is_finite() && (0.0..1.0).contains(&x);
        let not_negative = |x: f64| x.is_finite() && x >= 0.0;
        let positive = |x: f64| x.is_finite() && x > 0.0;
        for (name, value, ok, wanted) in [
            (
                "free share",
                self.free_share,
                not_negative(self.free_share),
                "0 or more",
            ),
            (
                "revenue share",
                self.revenue_share,
                share(self.revenue_share),
                "from 0 to below 1",
            ),
            (
                "other cost of sales",
                self.other_usd_per_mtok,
                not_negative(self.other_usd_per_mtok),
                "0 USD or more",
            ),
            (
                "cost overrun",
                self.overrun,
                positive(self.overrun),
                "over 0",
            ),
            (
                "throughput factor",
                self.speed_factor,
                positive(self.speed_factor),
                "over 0",
            ),
            (
                "list price factor",
                self.list_factor,
                positive(self.list_factor),
                "over 0",
            ),
        ] {
            if !ok {
                return Err(MarginError::Value {
                    name,
                    value,
                    wanted,
                });
            }
        }
        Ok(())
    }

    /// Seconds of loaded machine time for one token of the mix.
    ///
    /// # Errors
    /// Cached tokens in the mix whose time was not measured.
    pub fn token_s(&self) -> Result<f64, MarginError> {
        let token_s = match self.speed {
            Speed::Blended { token_s } => token_s,
            Speed::Classes {
                input_s,
                cached_s,
                output_s,
            } => {
                let cached = self.mix.cached_read.unwrap_or(0.0);
                let cached_total_s = match (cached, cached_s) {
                    (0.0, _) => 0.0,
                    (_, Some(s)) => cached * s,
                    (_, None) => return Err(MarginError::CachedNotMeasured),
                };
                let seconds = (self.mix.input - cached) * input_s
                    + cached_total_s
                    + self.mix.output * output_s;
                seconds / self.mix.total()
            }
        };
        if token_s.is_finite() && token_s > 0.0 {
            Ok(token_s / self.speed_factor)
        } else {
            Err(MarginError::NoThroughput)
        }
    }

    /// Tokens per second of the mix, input and output together.
    ///
    /// # Errors
    /// As [`token_s`](Self::token_s).
    pub fn tok_per_s(&self) -> Result<f64, MarginError> {
        Ok(1.0 / self.token_s()?)
    }

    /// The margin.
    ///
    /// # Errors
    /// Impossible inputs, missing cache counts or prices, no throughput.
    pub fn margin(&self) -> Result<Margin, MarginError> {
        self.check()?;
        let mut revenue = revenue(&self.mix, &self.list)?;
        let scale = self.list_factor / self.mix.total() * TOKENS_PER_MTOK;
        for usd in [
            &mut revenue.input_usd,
            &mut revenue.cached_read_usd,
            &mut revenue.cache_write_usd,
            &mut revenue.output_usd,
            &mut revenue.total_usd,
        ] {
            *usd *= scale;
        }
        let income = revenue.total_usd;
        let inference = self.cost.cost_usd(self.token_s()?) * TOKENS_PER_MTOK * self.overrun;
        let free = inference * self.free_share;
        let given = income * self.revenue_share;
        let cogs = inference + free + self.other_usd_per_mtok + given;
        Ok(Margin {
            revenue_usd_per_mtok: income,
            inference_usd_per_mtok: inference,
            free_usd_per_mtok: free,
            other_usd_per_mtok: self.other_usd_per_mtok,
            revenue_share_usd_per_mtok: given,
            cogs_usd_per_mtok: cogs,
            gross_margin: 1.0 - cogs / income,
            markup: (income - cogs) / cogs,
            revenue,
        })
    }

    /// The case at another throughput, as a factor on the measured one.
    #[must_use]
    pub fn at_speed(&self, factor: f64) -> Self {
        Self {
            speed_factor: self.speed_factor * factor,
            ..self.clone()
        }
    }

    /// A figure with the interval of the throughput carried in: the figure at both ends. All
    /// figures of this module rise or fall with throughput, so the image of the interval is
    /// exactly that and keeps its coverage. `factors` is the throughput relative to its value
    /// (1 in the middle). An end of 0 has no image and is absent.
    ///
    /// # Errors
    /// When the figure is not defined at the measured throughput.
    pub fn interval(
        &self,
        factors: Interval,
        figure: impl Fn(&Self) -> Result<f64, MarginError>,
    ) -> Result<Interval, MarginError> {
        let value = figure(self)?;
        let at = |factor: Option<f64>| {
            let factor = factor.filter(|f| f.is_finite() && *f > 0.0)?;
            figure(&self.at_speed(factor)).ok()
        };
        let (slow, fast) = (at(factors.low), at(factors.high));
        let rises = match (slow, fast) {
            (Some(a), Some(b)) => a <= b,
            (Some(a), None) => a <= value,
            (None, Some(b)) => value <= b,
            (None, None) => true,
        };
        let (low, high) = if rises { (slow, fast) } else { (fast, slow) };
        Ok(Interval { value, low, high })
    }
}

/// What one quantity alone must become for the margin to be `target`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Needed {
    /// Utilization; over 1 it can not be reached.
    pub utilization: f64,
    /// Factor on all list prices.
    pub list_factor: f64,
    /// Tokens per second of the mix.
    pub tok_per_s: f64,
    /// Highest price of the whole machine, USD per hour.
    pub usd_per_hour: f64,
}

/// Solves for each quantity in turn, the others held (closed forms).
///
/// With `H = R × (1 − s − target) − o`, what may be spent on inference: utilization, throughput
/// and hourly price have to improve by `q = I × (1 + f) / H`; list prices by
/// `(I × (1 + f) + o) / ((1 − s − target) × R)`.
///
/// # Errors
/// As [`MarginCase::margin`]; [`MarginError::Unreachable`] when not even free inference, or no
/// list price, reaches the target.
pub fn needed(case: &MarginCase, target: f64) -> Result<Needed, MarginError> {
    let margin = case.margin()?;
    let kept = 1.0 - case.revenue_share - target;
    if kept.is_nan() || kept <= 0.0 {
        return Err(MarginError::Unreachable {
            target,
            because: "the revenue share alone leaves less",
        });
    }
    let inference = margin.inference_usd_per_mtok + margin.free_usd_per_mtok;
    let room = margin.revenue_usd_per_mtok * kept - case.other_usd_per_mtok;
    if room <= 0.0 {
        return Err(MarginError::Unreachable {
            target,
            because: "other cost of sales alone leaves less, even with free inference",
        });
    }
    let q = inference / room;
    Ok(Needed {
        utilization: case.cost.utilization() * q,
        list_factor: (inference + case.other_usd_per_mtok) / (kept * margin.revenue_usd_per_mtok),
        tok_per_s: case.tok_per_s()? * q,
        usd_per_hour: case.cost.usd_per_hour() / q,
    })
}

/// The cache hit rate at which the margin is `target`, cost and revenue both following it.
///
/// Both are linear in the rate h, so `I(h)(1 + f) + o = (1 − s − target) R(h)` is one linear
/// equation. The answer may lie outside 0 to 1: then no hit rate reaches the target.
///
/// # Errors
/// [`MarginError::CachedNotMeasured`] without the time of a cached token; other errors as
/// [`MarginCase::margin`]; [`MarginError::Unreachable`] when the margin does not depend on h.
pub fn needed_hit_rate(case: &MarginCase, target: f64) -> Result<f64, MarginError> {
    if !matches!(
        case.speed,
        Speed::Classes {
            cached_s: Some(_),
            ..
        }
    ) {
        return Err(MarginError::CachedNotMeasured);
    }
    let gap = |hit: f64| -> Result<f64, MarginError> {
        let mut at = case.clone();
        at.mix.cached_read = Some(at.mix.input * hit);
        // What is written is not known at another rate; nothing is assumed to be.
        at.mix.cache_write = at.mix.cache_write.map(|_| 0.0).or(Some(0.0));
        let m = at.margin()?;
        Ok(
            m.inference_usd_per_mtok + m.free_usd_per_mtok + case.other_usd_per_mtok
                - (1.0 - case.revenue_share - target) * m.revenue_usd_per_mtok,
        )
    };
    let (none, all) = (gap(0.0)?, gap(1.0)?);
    let slope = all - none;
    if slope == 0.0 || !slope.is_finite() {
        return Err(MarginError::Unreachable {
            target,
            because: "the margin does not depend on the hit rate",
        });
    }
    Ok(-none / slope)
}
