//! What an hour of a machine costs that is bought, reserved, or may be taken away.

use serde::Serialize;

use crate::error::CostError;

/// Hours of a year of 365 days.
pub const HOURS_PER_YEAR: f64 = 8760.0;

/// A machine that is bought and run. All sums in US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ownership {
    /// Price of the whole machine: accelerators, host, its share of network and racks.
    pub capex_usd: f64,
    /// What it is worth at the end of its life.
    pub residual_usd: f64,
    /// Useful life, years.
    pub years: f64,
    /// Yearly interest on the capital bound in it; 0 for straight-line depreciation.
    pub discount_rate: f64,
    /// Power under load, kW.
    pub load_kw: f64,
    /// Power when idle, kW.
    pub idle_kw: f64,
    /// Share of all hours it is under load.
    pub load_share: f64,
    /// Power usage effectiveness: energy of the site over energy of the machine, at least 1.
    pub pue: f64,
    /// Electricity, USD per kWh.
    pub usd_per_kwh: f64,
    /// Space, cooling and power provision, USD per month and kW of load power.
    pub colocation_usd_per_kw_month: f64,
    /// Staff, repair, insurance, software, USD per year.
    pub operations_usd_per_year: f64,
}

/// What owning costs per year, by part; the parts add up to `total_usd`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct YearlyCost {
    /// Depreciation and interest.
    pub capital_usd: f64,
    /// Electricity, cooling included (PUE).
    pub power_usd: f64,
    /// Space.
    pub colocation_usd: f64,
    /// Fixed operations.
    pub operations_usd: f64,
    /// All of it.
    pub total_usd: f64,
    /// All of it over the hours of a year.
    pub usd_per_hour: f64,
}

/// Capital recovery factor: what one dollar today is worth as equal payments at the end of
/// each of `years` years, `r(1+r)^n / ((1+r)^n − 1)`; `1/n` at a rate of 0 (any textbook of
/// engineering economy).
#[must_use]
pub fn capital_recovery_factor(rate: f64, years: f64) -> f64 {
    if rate == 0.0 {
        return 1.0 / years;
    }
    // (1+r)^n − 1 without losing digits at small rates.
    let growth_less_one = (years * rate.ln_1p()).exp_m1();
    rate * (growth_less_one + 1.0) / growth_less_one
}

impl Ownership {
    /// Yearly cost by part.
    ///
    /// - capital: `(capex − residual) × CRF(r, n) + residual × r`; the second part is the
    ///   interest on what is not used up, and vanishes at r = 0
    /// - power: `(load kW × load share + idle kW × (1 − load share)) × PUE × 8760 h × USD/kWh`
    /// - colocation: `USD per kW-month × load kW × 12`
    ///
    /// # Errors
    /// A value no machine can have, by its name.
    pub fn yearly(&self) -> Result<YearlyCost, CostError> {
        self.check()?;
        let consumed = self.capex_usd - self.residual_usd;
        let capital_usd = consumed * capital_recovery_factor(self.discount_rate, self.years)
            + self.residual_usd * self.discount_rate;
        let mean_kw = self.load_kw * self.load_share + self.idle_kw * (1.0 - self.load_share);
        let power_usd = mean_kw * self.pue * HOURS_PER_YEAR * self.usd_per_kwh;
        let colocation_usd = self.colocation_usd_per_kw_month * self.load_kw * 12.0;
        let total_usd = capital_usd + power_usd + colocation_usd + self.operations_usd_per_year;
        Ok(YearlyCost {
            capital_usd,
            power_usd,
            colocation_usd,
            operations_usd: self.operations_usd_per_year,
            total_usd,
            usd_per_hour: total_usd / HOURS_PER_YEAR,
        })
    }

    fn check(&self) -> Result<(), CostError> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let not_negative = |x: f64| x.is_finite() && x >= 0.0;
        for (name, value, ok, wanted) in [
            (
                "capex",
                self.capex_usd,
                positive(self.capex_usd),
                "over 0 USD",
            ),
            (
                "residual value",
                self.residual_usd,
                not_negative(self.residual_usd) && self.residual_usd <= self.capex_usd,
                "from 0 to the capex",
            ),
            (
                "useful life",
                self.years,
                positive(self.years),
                "over 0 years",
            ),
            (
                "discount rate",
                self.discount_rate,
                (0.0..=1.0).contains(&self.discount_rate),
                "from 0 to 1",
            ),
            (
                "load power",
                self.load_kw,
                positive(self.load_kw),
                "over 0 kW",
            ),
            (
                "idle power",
                self.idle_kw,
                not_negative(self.idle_kw) && self.idle_kw <= self.load_kw,
                "from 0 to the load power",
            ),
            (
                "share of hours under load",
                self.load_share,
                (0.0..=1.0).contains(&self.load_share),
                "from 0 to 1",
            ),
            (
                "PUE",
                self.pue,
                self.pue.is_finite() && self.pue >= 1.0,
                "at least 1",
            ),
            (
                "electricity price",
                self.usd_per_kwh,
                not_negative(self.usd_per_kwh),
                "0 USD per kWh or more",
            ),
            (
                "colocation price",
                self.colocation_usd_per_kw_month,
                not_negative(self.colocation_usd_per_kw_month),
                "0 USD per kW-month or more",
            ),
            (
                "cost of operations",
                self.operations_usd_per_year,
                not_negative(self.operations_usd_per_year),
                "0 USD per year or more",
            ),
        ] {
            if !ok {
                return Err(CostError::Value {
                    name,
                    value,
                    wanted,
                });
            }
        }
        Ok(())
    }
}

/// Hourly price of a reservation with a down payment: `hourly + upfront / (years × 8760)`.
/// Every hour of the term is paid, used or not: idle hours belong into the utilisation.
///
/// # Errors
/// A negative sum, no positive total, or a term that is not positive.
pub fn reserved_usd_per_hour(
    usd_per_hour: f64,
    upfront_usd: f64,
    years: f64,
) -> Result<f64, CostError> {
    if !(upfront_usd.is_finite() && upfront_usd >= 0.0) {
        return Err(CostError::Value {
            name: "down payment",
            value: upfront_usd,
            wanted: "0 USD or more",
        });
    }
    if !(years.is_finite() && years > 0.0) {
        return Err(CostError::Value {
            name: "reserved term",
            value: years,
            wanted: "over 0 years",
        });
    }
    let total = usd_per_hour + upfront_usd / (years * HOURS_PER_YEAR);
    if usd_per_hour >= 0.0 && total.is_finite() && total > 0.0 {
        Ok(total)
    } else {
        Err(CostError::Price(usd_per_hour))
    }
}

/// How often a spot machine is taken away and what that costs in time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interruptions {
    /// Interruptions per hour of machine time.
    pub per_hour: f64,
    /// Paid minutes without service at each: start, load the model, repeat lost work.
    pub minutes_lost: f64,
}

impl Interruptions {
    /// Share of paid time in service, `1 − interruptions per hour × minutes lost / 60`.
    ///
    /// # Errors
    /// A negative value, or interruptions that leave no time in service.
    pub fn useful_share(&self) -> Result<f64, CostError> {
        for (name, value) in [
            ("interruptions per hour", self.per_hour),
            ("minutes lost per interruption", self.minutes_lost),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(CostError::Value {
                    name,
                    value,
                    wanted: "0 or more",
                });
            }
        }
        let share = 1.0 - self.per_hour * self.minutes_lost / 60.0;
        if share > 0.0 {
            Ok(share)
        } else {
            Err(CostError::Value {
                name: "share of spot time in service",
                value: share,
                wanted: "over 0: the interruptions take all of the time",
            })
        }
    }

    /// What an hour in service costs: the spot price over the share of time in service.
    ///
    /// # Errors
    /// As [`useful_share`](Self::useful_share), and a price that is not positive.
    pub fn usd_per_hour(&self, spot_usd_per_hour: f64) -> Result<f64, CostError> {
        if !(spot_usd_per_hour.is_finite() && spot_usd_per_hour > 0.0) {
            return Err(CostError::Price(spot_usd_per_hour));
        }
        Ok(spot_usd_per_hour / self.useful_share()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An 8-GPU server of $300,000 over five years at 0 %: 60,000 a year; 10 kW × 0.7 + 3 kW ×
    /// 0.3 = 7.9 kW, × 1.3 × 8760 × $0.08 = 7,197.2; 10 kW × $150 × 12 = 18,000; 5,000.
    fn server() -> Ownership {
        Ownership {
            capex_usd: 300_000.0,
            residual_usd: 0.0,
            years: 5.0,
            discount_rate: 0.0,
            load_kw: 10.0,
            idle_kw: 3.0,
            load_share: 0.7,
            pue: 1.3,
            usd_per_kwh: 0.08,
            colocation_usd_per_kw_month: 150.0,
            operations_usd_per_year: 5000.0,
        }
    }

    #[test]
    fn a_server_by_hand() {
        let year = server().yearly().unwrap();
        assert_eq!(year.capital_usd, 60_000.0);
        assert!((year.power_usd - 7197.216).abs() < 1e-9);
        assert_eq!(year.colocation_usd, 18_000.0);
        assert!((year.total_usd - 90_197.216).abs() < 1e-9);
        assert!((year.usd_per_hour - 90_197.216 / 8760.0).abs() < 1e-12);
    }

    /// $10,000 at 10 % over five years: 0.263797 (tables of engineering economy).
    #[test]
    fn capital_recovery_by_table() {
        assert!((capital_recovery_factor(0.10, 5.0) - 0.263_797).abs() < 5e-7);
        assert_eq!(capital_recovery_factor(0.0, 4.0), 0.25);
        let nearly_none = capital_recovery_factor(1e-12, 4.0);
        assert!((nearly_none - 0.25).abs() < 1e-9);
    }

    /// Payments of that size have the present value of what they pay for.
    #[test]
    fn payments_discount_to_what_was_spent() {
        let machine = Ownership {
            residual_usd: 40_000.0,
            discount_rate: 0.08,
            ..server()
        };
        let payment = machine.yearly().unwrap().capital_usd;
        let present: f64 = (1..=5).map(|n| payment / 1.08f64.powi(n)).sum();
        let spent = 300_000.0 - 40_000.0 / 1.08f64.powi(5);
        assert!((present - spent).abs() < 1e-6, "{present} {spent}");
    }

    #[test]
    fn spot_time_lost_is_paid_for() {
        let rare = Interruptions {
            per_hour: 0.05,
            minutes_lost: 12.0,
        };
        assert!((rare.useful_share().unwrap() - 0.99).abs() < 1e-15);
        assert!((rare.usd_per_hour(1.98).unwrap() - 2.0).abs() < 1e-12);
        let never = Interruptions {
            per_hour: 6.0,
            minutes_lost: 10.0,
        };
        assert!(never.usd_per_hour(1.0).is_err());
    }

    #[test]
    fn a_down_payment_is_spread_over_all_hours() {
        let hourly = reserved_usd_per_hour(1.5, 8760.0, 1.0).unwrap();
        assert_eq!(hourly, 2.5);
        assert!(reserved_usd_per_hour(0.0, 0.0, 1.0).is_err());
        assert!(reserved_usd_per_hour(1.0, 1.0, 0.0).is_err());
        assert!(reserved_usd_per_hour(1.0, -1.0, 1.0).is_err());
    }

    #[test]
    fn impossible_machines_are_refused_by_name() {
        let named = |machine: Ownership| machine.yearly().unwrap_err().to_string();
        let of = server();
        assert!(
            named(Ownership {
                capex_usd: 0.0,
                ..of
            })
            .contains("capex")
        );
        assert!(
            named(Ownership {
                residual_usd: 4e5,
                ..of
            })
            .contains("residual")
        );
        assert!(named(Ownership { years: -1.0, ..of }).contains("useful life"));
        assert!(named(Ownership { pue: 0.9, ..of }).contains("PUE"));
        assert!(
            named(Ownership {
                idle_kw: 11.0,
                ..of
            })
            .contains("idle power")
        );
        assert!(
            named(Ownership {
                load_share: f64::NAN,
                ..of
            })
            .contains("share of hours")
        );
    }
}
