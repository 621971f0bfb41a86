//! What paid time costs, and what that makes of a throughput.

use costmark_core::Interval;
use serde::Serialize;

use crate::error::{CostError, Undefined};

/// Tokens in the unit of every `usd_per_mtok`.
pub const TOKENS_PER_MTOK: f64 = 1e6;

const SECONDS_PER_HOUR: f64 = 3600.0;

/// The price of time on a machine. Valid by construction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CostModel {
    usd_per_hour: f64,
    utilization: f64,
    share: f64,
}

impl CostModel {
    /// A machine of `usd_per_hour` for the whole instance, of whose paid time the share
    /// `utilization` is spent at the measured load, and of which the part `share` is charged
    /// (1 unless the user splits the instance; a report says that it was split).
    ///
    /// # Errors
    /// A price that is not positive and finite; utilization or share outside (0, 1].
    pub fn new(usd_per_hour: f64, utilization: f64, share: f64) -> Result<Self, CostError> {
        if !(usd_per_hour.is_finite() && usd_per_hour > 0.0) {
            return Err(CostError::Price(usd_per_hour));
        }
        if !(utilization > 0.0 && utilization <= 1.0) {
            return Err(CostError::Utilization(utilization));
        }
        if !(share > 0.0 && share <= 1.0) {
            return Err(CostError::Share(share));
        }
        Ok(Self {
            usd_per_hour,
            utilization,
            share,
        })
    }

    /// The whole instance, always at the measured load.
    ///
    /// # Errors
    /// A price that is not positive and finite.
    pub fn whole(usd_per_hour: f64) -> Result<Self, CostError> {
        Self::new(usd_per_hour, 1.0, 1.0)
    }

    /// Price of the whole instance, USD per hour.
    #[must_use]
    pub fn usd_per_hour(&self) -> f64 {
        self.usd_per_hour
    }

    /// Share of paid time at the measured load, (0, 1].
    #[must_use]
    pub fn utilization(&self) -> f64 {
        self.utilization
    }

    /// Part of the instance that is charged, (0, 1].
    #[must_use]
    pub fn share(&self) -> f64 {
        self.share
    }

    /// What an hour at the measured load costs: the charged part of the instance hour,
    /// plus the idle hours it has to carry (division by utilization).
    #[must_use]
    pub fn usd_per_loaded_hour(&self) -> f64 {
        self.usd_per_hour * self.share / self.utilization
    }

    /// What `seconds` at the measured load cost, USD.
    #[must_use]
    pub fn cost_usd(&self, seconds: f64) -> f64 {
        self.usd_per_loaded_hour() * seconds / SECONDS_PER_HOUR
    }

    /// Cost of a million tokens at `tok_per_s` when `time_share` of the time is charged to
    /// them: 1 and the total rate give the blended figure; the decode share of step time
    /// and the output rate give the price of output.
    ///
    /// `usd_per_mtok = time_share × usd_per_hour / (tok_per_s × 3600 / 1e6) / utilization`
    ///
    /// The interval of the throughput is carried over by its ends: cost falls as throughput
    /// rises, so the image of `[low, high]` is exactly `[cost(high), cost(low)]` and keeps
    /// its coverage. It is not symmetric around the value. A lower end of zero or less has
    /// no finite cost; the upper end is then absent.
    ///
    /// # Errors
    /// [`Undefined::NoThroughput`] unless the rate is positive and finite.
    pub fn usd_per_mtok(
        &self,
        time_share: f64,
        tok_per_s: Interval,
    ) -> Result<Interval, Undefined> {
        let cost = |rate: f64| {
            (rate.is_finite() && rate > 0.0).then(|| {
                time_share * self.usd_per_loaded_hour() / SECONDS_PER_HOUR / rate * TOKENS_PER_MTOK
            })
        };
        Ok(Interval {
            value: cost(tok_per_s.value).ok_or(Undefined::NoThroughput)?,
            low: tok_per_s.high.and_then(cost),
            high: tok_per_s.low.and_then(cost),
        })
    }

    /// [`usd_per_mtok`](Self::usd_per_mtok) of all tokens, input and output together.
    ///
    /// # Errors
    /// [`Undefined::NoThroughput`] unless the rate is positive and finite.
    pub fn usd_per_mtok_blended(&self, total_tok_per_s: Interval) -> Result<Interval, Undefined> {
        self.usd_per_mtok(1.0, total_tok_per_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_dollar_an_hour_at_a_thousand_tokens_per_second() {
        // 3.6 M tokens an hour.
        let model = CostModel::whole(1.0).unwrap();
        let cost = model.usd_per_mtok_blended(Interval::point(1000.0)).unwrap();
        assert!((cost.value - 1.0 / 3.6).abs() < 1e-15);
        assert_eq!((cost.low, cost.high), (None, None));
    }

    #[test]
    fn idle_half_of_the_time_doubles_the_cost_and_half_an_instance_halves_it() {
        let whole = CostModel::whole(4.0).unwrap().cost_usd(3600.0);
        assert_eq!(whole, 4.0);
        assert_eq!(CostModel::new(4.0, 0.5, 1.0).unwrap().cost_usd(3600.0), 8.0);
        assert_eq!(CostModel::new(4.0, 1.0, 0.5).unwrap().cost_usd(3600.0), 2.0);
    }

    #[test]
    fn impossible_inputs_are_refused() {
        for price in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(
                matches!(CostModel::whole(price), Err(CostError::Price(_))),
                "{price}"
            );
        }
        for part in [0.0, -0.1, 1.1, f64::NAN] {
            assert!(matches!(
                CostModel::new(1.0, part, 1.0),
                Err(CostError::Utilization(_))
            ));
            assert!(matches!(
                CostModel::new(1.0, 1.0, part),
                Err(CostError::Share(_))
            ));
        }
    }

    #[test]
    fn no_throughput_has_no_cost() {
        let model = CostModel::whole(1.0).unwrap();
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(
                model.usd_per_mtok_blended(Interval::point(rate)),
                Err(Undefined::NoThroughput)
            );
        }
        let wide = model
            .usd_per_mtok_blended(Interval::new(10.0, -1.0, 20.0))
            .unwrap();
        assert_eq!(wide.high, None);
        assert!(wide.low.unwrap() < wide.value);
    }

    proptest! {
        #[test]
        fn the_interval_of_cost_is_the_mirrored_interval_of_throughput(
            price in 0.01f64..500.0,
            utilization in 0.01f64..=1.0,
            low in 0.1f64..1e5,
            up in 0.0f64..1e5,
            more in 0.0f64..1e5,
        ) {
            let model = CostModel::new(price, utilization, 1.0).unwrap();
            let rate = Interval::new(low + up, low, low + up + more);
            let cost = model.usd_per_mtok_blended(rate).unwrap();
            let (cost_low, cost_high) = (cost.low.unwrap(), cost.high.unwrap());
            prop_assert!(cost_low <= cost.value && cost.value <= cost_high);
            // Each end, turned back into a throughput, is the end it came from.
            for (usd, tok_per_s) in [(cost_low, low + up + more), (cost_high, low)] {
                let back = price / utilization / 3600.0 * 1e6 / usd;
                prop_assert!((back / tok_per_s - 1.0).abs() < 1e-12);
            }
        }

        /// Cost of a window over its tokens is the blended figure at the window's rate.
        #[test]
        fn blended_is_window_cost_over_tokens(
            price in 0.01f64..500.0,
            seconds in 0.1f64..1e5,
            tokens in 1u32..1_000_000_000,
        ) {
            let model = CostModel::whole(price).unwrap();
            let by_cost = model.cost_usd(seconds) / f64::from(tokens) * 1e6;
            let rate = Interval::point(f64::from(tokens) / seconds);
            let by_rate = model.usd_per_mtok_blended(rate).unwrap().value;
            prop_assert!((by_cost / by_rate - 1.0).abs() < 1e-12);
        }
    }
}
