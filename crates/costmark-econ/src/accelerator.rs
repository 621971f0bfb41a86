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
        let offers = self.offers_of(name);
        let per_hour = offers
            .into_iter()
            .filter_map(|price| Some((price.usd_per_accelerator_hour()?, price)));
        let Middle {
            usd_per_hour,
            like,
            offers,
            low,
            high,
        } = Middle::of(per_hour.collect())?;
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
                offers,
                low_usd_per_hour: low,
                high_usd_per_hour: high,
            },
        })
    }

    /// The price of a machine with `count` such GPUs that nobody priced: the whole on-demand
    /// offer in the middle of all with as many, or with the next larger number that is rented,
    /// since a machine cannot be rented in part. `None` where there is none. A guess, and told as
    /// one.
    ///
    /// `name` is what the driver says, e.g. `NVIDIA H100 80GB HBM3`.
    #[must_use]
    pub fn default_for_accelerators(&self, name: &str, count: u32) -> Option<PriceChoice> {
        let offers = self.offers_of(name);
        let counts = offers.iter().map(|price| price.accelerator_count);
        let rented = counts.filter(|&n| n >= count).min()?;
        let whole = offers
            .into_iter()
            .filter(|price| price.accelerator_count == rented)
            .map(|price| (price.usd_per_hour, price));
        let Middle {
            like,
            offers,
            low,
            high,
            ..
        } = Middle::of(whole.collect())?;
        Some(PriceChoice {
            price: like.clone(),
            basis: PriceBasis::WithAccelerators {
                accelerator: like.accelerator.clone().unwrap_or_default(),
                used: count,
                instance: like.reference(),
                offers,
                low_usd_per_hour: low,
                high_usd_per_hour: high,
            },
        })
    }

    /// On-demand offers of the accelerator that is most like what the driver says.
    fn offers_of(&self, name: &str) -> Vec<&Price> {
        let likeness = |price: &Price| likeness(name, price.accelerator.as_deref()?);
        let on_demand = || {
            let prices = self.prices().map(|(_, price)| price);
            prices.filter(|price| price.term == Term::OnDemand)
        };
        let most = on_demand().filter_map(likeness).max();
        on_demand()
            .filter(|price| most.is_some() && likeness(price) == most)
            .collect()
    }
}

/// The offer in the middle of several, and what lies around it.
struct Middle<'a> {
    usd_per_hour: f64,
    like: &'a Price,
    offers: u32,
    low: f64,
    high: f64,
}

impl<'a> Middle<'a> {
    /// Of offers and what an hour of each costs; `None` of none.
    fn of(mut offers: Vec<(f64, &'a Price)>) -> Option<Self> {
        offers.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Of an even number the dearer: a guess should not flatter.
        let (usd_per_hour, like) = *offers.get(offers.len() / 2)?;
        Some(Self {
            usd_per_hour,
            like,
            offers: u32::try_from(offers.len()).unwrap_or(u32::MAX),
            low: offers.first()?.0,
            high: offers.last()?.0,
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

    /// A machine is rented whole: with as many accelerators, or with more where there is no such.
    #[test]
    fn several_gpus_are_priced_as_a_whole_machine() {
        let books = PriceBooks::embedded().unwrap();
        for (driver, used, rented) in [
            ("NVIDIA H200", 8, 8),
            ("NVIDIA H100 80GB HBM3", 2, 8),
            ("NVIDIA L4", 4, 4),
            ("NVIDIA L4", 3, 4),
            ("NVIDIA L4", 5, 8),
        ] {
            let choice = books.default_for_accelerators(driver, used).unwrap();
            let price = &choice.price;
            assert_eq!(price.accelerator_count, rented, "{driver}");
            let PriceBasis::WithAccelerators {
                used: told,
                offers,
                low_usd_per_hour: low,
                high_usd_per_hour: high,
                ..
            } = choice.basis
            else {
                panic!("{driver}: {:?}", choice.basis);
            };
            assert_eq!(told, used);
            assert!(offers >= 1 && low <= price.usd_per_hour && price.usd_per_hour <= high);
            // It stands in a book, word for word.
            assert!(books.prices().any(|(_, listed)| listed == price));
            let (told, caveat) = (choice.describe(), choice.caveats().remove(0));
            assert!(told.contains(&format!("{rented} × ")), "{told}");
            assert!(caveat.contains("--instance"), "{caveat}");
            let in_part = format!("of which {used} were used");
            assert_eq!(caveat.contains(&in_part), used < rented, "{caveat}");
        }
        assert_eq!(books.default_for_accelerators("NVIDIA H200", 1_000), None);
        assert_eq!(
            books.default_for_accelerators("NVIDIA GeForce GT 710", 2),
            None
        );
    }

    #[test]
    fn an_unknown_gpu_has_no_price() {
        let books = PriceBooks::embedded().unwrap();
        assert_eq!(books.default_for_accelerator("NVIDIA GeForce GT 710"), None);
        assert_eq!(books.default_for_accelerator(""), None);
    }
}
