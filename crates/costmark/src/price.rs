//! What an hour costs: by flag, by price book, or per vCPU of a stated instance family.

use costmark_econ::{CostModel, PriceChoice};
use costmark_report::document::PriceDocument;

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
    /// `vcpus` are the hardware threads this process may use, `gpu` what the GPU is called that
    /// the model runs on.
    pub(crate) fn resolve(args: &PriceArgs, vcpus: u32, gpu: Option<&str>) -> Result<Self> {
        let books = Books::load(&args.prices)?.rental;
        let choice = match (&args.instance, args.price) {
            (Some(reference), _) => books
                .find(reference)
                .map_err(|e| Failure::input(format!("--instance: {e}")))?,
            (None, Some(usd_per_hour)) => PriceChoice::stated(usd_per_hour, today())
                .map_err(|e| Failure::input(format!("--price: {e}")))?,
            (None, None) => match gpu {
                None => books.default_for_vcpus(vcpus).map_err(Failure::input)?,
                Some(name) => books.default_for_accelerator(name).ok_or_else(|| {
                    Failure::input(format!(
                        "no price is known for a machine with an {name}: give --price \
                         USD_PER_HOUR or --instance PROVIDER/TYPE (`costmark prices list` has them)"
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
