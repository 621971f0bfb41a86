//! What a careful reader of price books would object to.

use jiff::civil::Date;
use serde::Serialize;

use crate::api::ListPrice;
use crate::book::{Price, Term};

/// Prices older than this are warned of.
pub const STALE_DAYS: i64 = 180;
/// How many times dearer or cheaper than the median of its kind a price may be.
const OUTLIER: f64 = 2.5;
/// A median of fewer says nothing.
const MIN_PEERS: usize = 4;

/// An objection to one price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Objection {
    /// The file it stands in.
    pub file: String,
    /// Its reference.
    pub reference: String,
    /// `stale`, `future`, `outlier`, `suspect` or `retired`.
    pub code: &'static str,
    /// In words.
    pub message: String,
}

/// Days from `then` to `today`; negative for a day to come.
#[must_use]
pub fn age_days(then: Date, today: Date) -> i64 {
    (today - then).get_days().into()
}

/// Objections to rental prices: older than [`STALE_DAYS`] or dated after `today`, marked suspect,
/// or far from the median price of the same accelerator on the same terms.
#[must_use]
pub fn check_rental<'a>(
    prices: impl Iterator<Item = (&'a str, &'a Price)>,
    today: Date,
) -> Vec<Objection> {
    let prices: Vec<(&str, &Price)> = prices.collect();
    let mut found = Vec::new();
    for &(file, price) in &prices {
        let mut object = |code: &'static str, message: String| {
            found.push(Objection {
                file: file.to_owned(),
                reference: price.reference(),
                code,
                message,
            });
        };
        if let Some((code, message)) = date_problem(price.as_of, today) {
            object(code, message);
        }
        if let Some(reason) = &price.suspect {
            object("suspect", reason.clone());
        }
        let rate = price.usd_per_accelerator_hour();
        if let (Some(usd), Some(median)) = (rate, median_of_peers(price, &prices)) {
            let times = usd / median;
            if !(1.0 / OUTLIER..=OUTLIER).contains(&times) {
                object(
                    "outlier",
                    format!(
                        "${usd:.2} per accelerator-hour is {times:.1} times the median ${median:.2} \
                         of {} {}",
                        price.accelerator.as_deref().unwrap_or_default(),
                        family(price.term)
                    ),
                );
            }
        }
    }
    found
}

/// Objections to list prices: age, marks, models no longer sold.
#[must_use]
pub fn check_lists<'a>(
    prices: impl Iterator<Item = (&'a str, &'a ListPrice)>,
    today: Date,
) -> Vec<Objection> {
    let mut found = Vec::new();
    for (file, price) in prices {
        let mut object = |code: &'static str, message: String| {
            found.push(Objection {
                file: file.to_owned(),
                reference: price.reference(),
                code,
                message,
            });
        };
        if let Some((code, message)) = date_problem(price.as_of, today) {
            object(code, message);
        }
        if let Some(reason) = &price.suspect {
            object("suspect", reason.clone());
        }
        if let Some(day) = price.retires.filter(|day| *day < today) {
            object("retired", format!("no longer sold since {day}"));
        }
    }
    found
}

fn date_problem(as_of: Date, today: Date) -> Option<(&'static str, String)> {
    let days = age_days(as_of, today);
    if days > STALE_DAYS {
        Some(("stale", format!("{days} days old; look it up again")))
    } else if days < 0 {
        Some(("future", format!("dated {as_of}, after today ({today})")))
    } else {
        None
    }
}

/// Spot is one kind of price; what is sold at a fixed rate is another.
fn family(term: Term) -> &'static str {
    match term {
        Term::Spot => "spot prices",
        Term::Marketplace => "marketplace prices",
        _ => "fixed prices",
    }
}

fn median_of_peers(price: &Price, prices: &[(&str, &Price)]) -> Option<f64> {
    let mut rates: Vec<f64> = prices
        .iter()
        .filter(|(_, p)| p.accelerator == price.accelerator && family(p.term) == family(price.term))
        .filter_map(|(_, p)| p.usd_per_accelerator_hour())
        .collect();
    rates.sort_unstable_by(f64::total_cmp);
    if rates.len() < MIN_PEERS {
        return None;
    }
    rates.get(rates.len() / 2).copied()
}
