//! What the electricity of a token costs.

use crate::cost::TOKENS_PER_MTOK;
use crate::error::CostError;

/// Joules in a kilowatt-hour.
const JOULES_PER_KWH: f64 = 3.6e6;

/// USD per million tokens that take `joules_per_token` at the machine, in a site that draws `pue`
/// times what its machines do: `J/token × PUE × 10⁶ ÷ 3.6 · 10⁶ J/kWh × USD/kWh`.
///
/// This is a part of what an hour costs, whoever pays the bill: to be shown beside the price of
/// rented time, never added to it.
///
/// # Errors
/// [`CostError::Value`] for a negative or infinite price, energy, or a PUE below 1.
pub fn energy_usd_per_mtok(
    joules_per_token: f64,
    pue: f64,
    usd_per_kwh: f64,
) -> Result<f64, CostError> {
    let within = |name, value: f64, least: f64, wanted| {
        if value.is_finite() && value >= least {
            Ok(())
        } else {
            Err(CostError::Value {
                name,
                value,
                wanted,
            })
        }
    };
    within("energy of a token", joules_per_token, 0.0, "0 J or more")?;
    within("PUE", pue, 1.0, "1 or more")?;
    within(
        "price of electricity",
        usd_per_kwh,
        0.0,
        "0 USD per kWh or more",
    )?;
    Ok(joules_per_token * pue * TOKENS_PER_MTOK / JOULES_PER_KWH * usd_per_kwh)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 700 W at 100 tokens per second are 7 J a token: 7 MJ a million, 1.944 kWh; at $0.10 and a
    /// PUE of 1.2, $0.2333.
    #[test]
    fn by_hand() {
        let usd = energy_usd_per_mtok(700.0 / 100.0, 1.2, 0.10).unwrap();
        assert!((usd - 0.233_333_333).abs() < 1e-8, "{usd}");
        assert_eq!(energy_usd_per_mtok(5.0, 1.0, 0.0), Ok(0.0));
    }

    #[test]
    fn impossible_values_are_refused() {
        for (joules, pue, price) in [(-1.0, 1.0, 0.1), (1.0, 0.9, 0.1), (1.0, 1.0, f64::NAN)] {
            assert!(energy_usd_per_mtok(joules, pue, price).is_err());
        }
    }
}
