//! What an hour costs: by flag, by price book, or per vCPU of a stated instance family.

use costmark_core::BackendKind;
use costmark_core::accelerator::likeness;
use costmark_econ::{CostModel, Price, PriceBooks, PriceChoice};
use costmark_report::document::{BackendDocument, PriceDocument};

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

    /// What is said before processors are measured at the price of accelerators.
    pub(crate) fn warning(&self, gpus: Option<&Called>, backend: BackendKind) -> Option<String> {
        let is_here = matches!(backend, BackendKind::Engine | BackendKind::Lockstep);
        let price = &self.choice.price;
        (is_here && gpus.is_none() && price.accelerator_count > 0).then(|| {
            format!(
                "warning: {} is a machine with accelerators, and the model runs on processors: \
                 measure with --device cuda, or name a machine without one in --instance",
                price.reference()
            )
        })
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

/// Whether a machine that was named can have these GPUs.
pub(crate) fn check(price: &Price, gpus: Option<&Called>) -> Result<(), String> {
    let Some(Called { name, count: used }) = gpus else {
        return Ok(());
    };
    let reference = price.reference();
    match price.accelerator_count {
        0 => Err(format!(
            "--instance: {reference} has no accelerator, but the model runs on an {name}: name a \
             machine that has one (`costmark prices list` has them), give --price USD_PER_HOUR of \
             this one, or measure a processor (--device cpu)"
        )),
        count if count < *used => Err(format!(
            "--instance: {reference} has {count} accelerators, but {used} are measured: name a \
             machine that has them all, or give --price USD_PER_HOUR of this one"
        )),
        _ => Ok(()),
    }
}

/// The GPUs that computed a run; none where processors did, or where that is not known.
pub(crate) fn gpus_of(backends: &[BackendDocument]) -> Option<Called> {
    let engines = backends.iter().filter(|b| b.kind == BackendKind::Engine);
    engines
        .filter_map(|b| {
            Some(Called {
                name: gpu_in(&b.device)?.into(),
                count: b.replicas,
            })
        })
        .max_by_key(|called| called.count)
}

/// What a GPU is called in `cuda:0 (NVIDIA H200)` or `8 × NVIDIA H200 (cuda:0-7)`.
fn gpu_in(device: &str) -> Option<&str> {
    match device.strip_prefix("cuda:") {
        Some(one) => one.split_once(" (")?.1.strip_suffix(')'),
        None => device
            .split_once(" (cuda:")?
            .0
            .split_once(" × ")
            .map(|s| s.1),
    }
}

/// What a reader must be told where the price of a machine that was named and the speed may not
/// belong together: no error, since all of a machine is paid for, whatever part of it computes.
pub(crate) fn misfit(backends: &[BackendDocument], label: &str, price: &Price) -> Option<String> {
    let accelerator = price.accelerator.as_deref()?;
    if let Some(gpus) = gpus_of(backends) {
        let is_other = likeness(&gpus.name, accelerator).is_none();
        return is_other.then(|| {
            format!(
                "The price is that of a machine with {accelerator}; the speed was measured on an \
                 {}. The two may not belong together.",
                gpus.name
            )
        });
    }
    let on_processors = backends.iter().any(|b| b.device.starts_with("cpu"));
    on_processors.then(|| {
        format!(
            "The price is that of a machine with accelerators; the speed was measured on {label} \
             without one. The two do not belong together."
        )
    })
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

    const PROCESSORS: &str = "aws/c7a.16xlarge";

    #[test]
    fn a_gpu_is_not_priced_as_a_machine_without_one() {
        for gpus in [h100(1), h100(8)] {
            let error = resolve(Some(PROCESSORS), &gpus).unwrap_err();
            let message = error.message();
            assert!(matches!(error, Failure::Input(_)), "{message}");
            for part in [
                "aws/c7a.16xlarge",
                "no accelerator",
                "NVIDIA H100",
                "--price",
                "cpu",
            ] {
                assert!(message.contains(part), "{message}");
            }
        }
        // What is stated is believed.
        let stated = PriceArgs {
            price: Some(2.5),
            ..args(None)
        };
        assert!(Pricing::resolve(&stated, 2, Some(&h100(1))).is_ok());
    }

    #[test]
    fn processors_at_the_price_of_accelerators_are_warned_of() {
        let with = Pricing::resolve(&args(Some("aws/p5.4xlarge")), 2, None).unwrap();
        let told = with.warning(None, BackendKind::Engine).unwrap();
        assert!(
            told.contains("aws/p5.4xlarge") && told.contains("--device cuda"),
            "{told}"
        );
        assert_eq!(with.warning(Some(&h100(1)), BackendKind::Engine), None);
        // What a server elsewhere runs on is not known.
        assert_eq!(with.warning(None, BackendKind::Http), None);
        let without = Pricing::resolve(&args(Some(PROCESSORS)), 2, None).unwrap();
        assert_eq!(without.warning(None, BackendKind::Engine), None);
    }

    #[test]
    fn devices_of_a_result_are_known_again() {
        let one = "cuda:0 (NVIDIA H100 80GB HBM3)";
        assert_eq!(gpu_in(one), Some("NVIDIA H100 80GB HBM3"));
        assert_eq!(gpu_in("8 × NVIDIA H200 (cuda:0-7)"), Some("NVIDIA H200"));
        for other in ["cpu (8 threads)", "3 × cpu", "none", "unknown"] {
            assert_eq!(gpu_in(other), None, "{other}");
        }
    }

    #[test]
    fn a_price_that_may_not_belong_is_told() {
        let backend = |device: &str| BackendDocument {
            model_id: "m".into(),
            kind: BackendKind::Engine,
            model: "m".into(),
            source: "synthetic".into(),
            synthetic: true,
            weight_dtype: "bf16".into(),
            kv_dtype: "f16".into(),
            device: device.into(),
            replicas: 1,
            software: "costmark".into(),
            shape: None,
            work: None,
            max_context: 1,
            max_sequences: 1,
            kv_capacity_tokens: 1,
            weight_bytes: 1,
            notes: Vec::new(),
        };
        let books = PriceBooks::embedded().unwrap();
        let price = |reference: &str| books.find(reference).unwrap().price;
        let told = |device: &str, reference: &str| {
            misfit(&[backend(device)], "a label", &price(reference))
        };
        let h200 = "cuda:0 (NVIDIA H200)";
        let other = told(h200, "aws/p5.4xlarge").unwrap();
        assert!(
            other.contains("H100") && other.contains("NVIDIA H200"),
            "{other}"
        );
        let h100 = "cuda:0 (NVIDIA H100 80GB HBM3)";
        assert_eq!(told(h100, "aws/p5.4xlarge"), None);
        let cpu = told("cpu (8 threads)", "aws/p5.4xlarge").unwrap();
        assert!(cpu.contains("a label without one"), "{cpu}");
        assert_eq!(told("cpu (8 threads)", PROCESSORS), None);
        assert_eq!(told("unknown", "aws/p5.4xlarge"), None);
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
