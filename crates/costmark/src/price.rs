//! What an hour costs: by flag, by price book, or per vCPU of a stated instance family.

use costmark_econ::{CostModel, Price, PriceBooks, PriceChoice};
use costmark_report::document::PriceDocument;

use crate::accelerators::Called;
use crate::args::PriceArgs;
use crate::failure::{Failure, Result};
use crate::money::books::Books;
use crate::money::today;

/// A price and what follows from it.
#[derive(Debug, Clone)]
pub(crate) struct Pricing {
    pub(crate) choice: PriceChoice,
    pub(crate) model: CostModel,
}

impl Pricing {
    /// `vcpus` are the hardware threads this process may use, `gpus` those that the model runs on.
    pub(crate) fn resolve(args: &PriceArgs, vcpus: u32, gpus: Option<&Called>) -> Result<Self> {
        let books = Books::load(&args.prices)?.rental;
        let choice = match (&args.instance, args.price) {
            (Some(reference), _) => {
                let choice = books
                    .find(reference)
                    .map_err(|e| Failure::input(format!("--instance: {e}")))?;
                check(&choice.price, gpus).map_err(Failure::input)?;
                choice
            }
            (None, Some(usd_per_hour)) => PriceChoice::stated(usd_per_hour, today())
                .map_err(|e| Failure::input(format!("--price: {e}")))?,
            (None, None) => match gpus {
                None => books.default_for_vcpus(vcpus).map_err(Failure::input)?,
                Some(gpus) => guess(&books, gpus).ok_or_else(|| {
                    let what = match gpus.count {
                        1 => format!("an {}", gpus.name),
                        n => format!("{n} × {}", gpus.name),
                    };
                    Failure::input(format!(
                        "no price is known for a machine with {what}: give --price USD_PER_HOUR or \
                         --instance PROVIDER/TYPE (`costmark prices list` has them)"
                    ))
                })?,
            },
        };
        let model = choice
            .cost_model(args.utilization, 1.0)
            .map_err(|e| Failure::input(format!("--utilization: {e}")))?;
        Ok(Self { choice, model })
    }

    /// As it goes into the result.
    pub(crate) fn document(&self) -> PriceDocument {
        let price = &self.choice.price;
        PriceDocument {
            usd_per_hour: price.usd_per_hour,
            reference: price.reference(),
            basis: self.choice.basis.clone(),
            explanation: self.choice.describe(),
            as_of: price.as_of.to_string(),
            source: price.source.clone(),
            utilization: self.model.utilization(),
            suspect: price.suspect.clone(),
        }
    }
}

/// One GPU is a share of what is rented, several are a machine of their own.
fn guess(books: &PriceBooks, gpus: &Called) -> Option<PriceChoice> {
    match gpus.count {
        1 => books.default_for_accelerator(&gpus.name),
        n => books.default_for_accelerators(&gpus.name, n),
    }
}

/// Whether a machine that was named can have that many GPUs.
fn check(price: &Price, gpus: Option<&Called>) -> Result<(), String> {
    let used = gpus.map_or(1, |gpus| gpus.count);
    if used > 1 && price.accelerator_count < used {
        return Err(format!(
            "--instance: {} has {} accelerators, but {used} are measured: name a machine that has \
             them all, or give --price USD_PER_HOUR of this one",
            price.reference(),
            price.accelerator_count
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(instance: Option<&str>) -> PriceArgs {
        PriceArgs {
            instance: instance.map(Into::into),
            price: None,
            utilization: 1.0,
            prices: Vec::new(),
        }
    }

    fn h100(count: u32) -> Called {
        Called {
            name: "NVIDIA H100 80GB HBM3".into(),
            count,
        }
    }

    fn resolve(instance: Option<&str>, gpus: &Called) -> Result<Price> {
        let pricing = Pricing::resolve(&args(instance), 2, Some(gpus))?;
        Ok(pricing.choice.price)
    }

    #[test]
    fn the_whole_machine_is_priced() {
        let eight = resolve(None, &h100(8)).unwrap();
        assert_eq!(eight.accelerator_count, 8);
        assert!(eight.usd_per_hour > 8.0, "{eight:?}");
        let one = resolve(None, &h100(1)).unwrap();
        assert_eq!(one.accelerator_count, 1);
        assert!(one.usd_per_hour < eight.usd_per_hour / 4.0, "{one:?}");
        let none = resolve(None, &h100(100)).unwrap_err().message();
        assert!(none.contains("100 × NVIDIA H100 80GB HBM3"), "{none}");
    }

    #[test]
    fn a_machine_that_is_named_must_have_them_all() {
        let eight = resolve(Some("aws/p5.48xlarge"), &h100(8)).unwrap();
        assert_eq!(eight.accelerator_count, 8);
        // All of it is paid for, however much is used.
        let four = resolve(Some("aws/p5.48xlarge"), &h100(4)).unwrap();
        assert_eq!(four.usd_per_hour, eight.usd_per_hour);
        let small = resolve(Some("aws/p5.4xlarge"), &h100(2)).unwrap_err();
        let small = small.message();
        assert!(
            small.contains("has 1 accelerators, but 2 are measured") && small.contains("--price"),
            "{small}"
        );
    }
}
