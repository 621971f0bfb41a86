//! From what a GPU calls itself to what renting one costs.

use costmark_core::accelerator::likeness;

use crate::book::{Price, PriceBooks, Term};
use crate::choice::{PriceBasis, PriceChoice};

impl PriceBooks {
    /// The price of a machine with one GPU that nobody priced: the share of one accelerator in the
    /// on-demand offer in the middle of all offers of accelerators like it. `None` where there is
    /// none. A guess, and told as one.
    ///
    /// `name` is what the driver says, e.g. `NVIDIA H100 80GB HBM3`.
    #[must_use]
    pub fn default_for_accelerator(&self, name: &str) -> Option<PriceChoice> {
        let likeness = |price: &Price| likeness(name, price.accelerator.as_deref()?);
        let on_demand = || {
            let prices = self.prices().map(|(_, price)| price);
            prices.filter(|price| price.term == Term::OnDemand)
        };
        let most = on_demand().filter_map(likeness).max()?;
        let mut offers: Vec<(f64, &Price)> = on_demand()
            .filter(|price| likeness(price) == Some(most))
            .filter_map(|price| Some((price.usd_per_accelerator_hour()?, price)))
            .collect();
        offers.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (low, high) = (offers.first()?.0, offers.last()?.0);
        // Of an even number the dearer: a guess should not flatter.
        let (usd_per_hour, like) = *offers.get(offers.len() / 2)?;
        Some(PriceChoice {
            price: Price {
                instance: format!("share-of-{}", like.instance),
                accelerator_count: 1,
                vcpus: None,
                memory_gib: None,
                usd_per_hour,
                ..like.clone()
            },
            basis: PriceBasis::PerAccelerator {
                accelerator: like.accelerator.clone().unwrap_or_default(),
                instance: like.reference(),
                offers: u32::try_from(offers.len()).unwrap_or(u32::MAX),
                low_usd_per_hour: low,
                high_usd_per_hour: high,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What drivers say, and what the built-in books call it.
    #[test]
    fn drivers_names_find_their_offers() {
        let books = PriceBooks::embedded().unwrap();
        for (driver, expected) in [
            ("NVIDIA H200", "H200"),
            ("NVIDIA H100 80GB HBM3", "H100 SXM"),
            ("NVIDIA H100 PCIe", "H100 PCIe"),
            ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
            ("NVIDIA A100-SXM4-40GB", "A100 40GB SXM"),
            ("NVIDIA L40S", "L40S"),
            ("NVIDIA B200", "B200"),
        ] {
            let choice = books.default_for_accelerator(driver).unwrap();
            let PriceBasis::PerAccelerator {
                accelerator,
                offers,
                low_usd_per_hour,
                high_usd_per_hour,
                ..
            } = &choice.basis
            else {
                panic!("{driver}: {:?}", choice.basis);
            };
            assert_eq!(accelerator, expected, "{driver}");
            let price = choice.price.usd_per_hour;
            assert!(*low_usd_per_hour <= price && price <= *high_usd_per_hour);
            assert!(*offers >= 1 && choice.price.accelerator_count == 1);
            assert!(
                choice.describe().contains("by default"),
                "{}",
                choice.describe()
            );
            assert!(choice.caveats()[0].contains("--instance"));
        }
    }

    #[test]
    fn an_unknown_gpu_has_no_price() {
        let books = PriceBooks::embedded().unwrap();
        assert_eq!(books.default_for_accelerator("NVIDIA GeForce GT 710"), None);
        assert_eq!(books.default_for_accelerator(""), None);
    }
}
