//! The price a run is reckoned with, and how it was come by.

use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::book::{Price, PriceBooks, Term};
use crate::cost::CostModel;
use crate::error::{CostError, LookupError};

/// How a price was come by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PriceBasis {
    /// It stands in a price book.
    Book {
        /// The file.
        file: String,
    },
    /// The user stated it.
    Stated,
    /// Nobody stated a price: this machine's vCPUs at the rate of a CPU instance.
    PerVcpu {
        /// Reference of the instance.
        instance: String,
        /// Its price over its vCPUs, USD per hour.
        usd_per_vcpu_hour: f64,
        /// vCPUs of this machine.
        vcpus: u32,
    },
    /// Nobody stated a price: one accelerator's share of an instance with accelerators like
    /// this machine's, the one in the middle of all that are offered on demand.
    PerAccelerator {
        /// The accelerator, as the book calls it.
        accelerator: String,
        /// Reference of the instance.
        instance: String,
        /// Offers there are.
        offers: u32,
        /// The cheapest of them, USD per hour and accelerator.
        low_usd_per_hour: f64,
        /// The dearest.
        high_usd_per_hour: f64,
    },
    /// Nobody stated a price: a whole instance with as many accelerators like this machine's, or
    /// with the next larger number there is; the one in the middle of all that are offered on
    /// demand.
    WithAccelerators {
        /// The accelerator, as the book calls it.
        accelerator: String,
        /// How many of them this run used.
        used: u32,
        /// Reference of the instance.
        instance: String,
        /// Offers with as many accelerators.
        offers: u32,
        /// The cheapest of them, USD per hour.
        low_usd_per_hour: f64,
        /// The dearest.
        high_usd_per_hour: f64,
    },
}

/// A price and its basis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceChoice {
    /// The price.
    pub price: Price,
    /// How it was come by.
    pub basis: PriceBasis,
}

impl PriceChoice {
    /// A price stated by the user for the whole machine, as of `today`.
    ///
    /// # Errors
    /// Unless it is a positive finite number.
    pub fn stated(usd_per_hour: f64, today: Date) -> Result<Self, CostError> {
        CostModel::whole(usd_per_hour)?;
        Ok(Self {
            price: Price {
                provider: String::from("user"),
                instance: String::from("this-machine"),
                accelerator: None,
                accelerator_count: 0,
                vcpus: None,
                memory_gib: None,
                region: String::from("unstated"),
                term: Term::OnDemand,
                usd_per_hour,
                as_of: today,
                source: String::from("stated by user"),
                suspect: None,
                note: None,
            },
            basis: PriceBasis::Stated,
        })
    }

    /// The cost model of this price.
    ///
    /// # Errors
    /// Utilization or share outside (0, 1].
    pub fn cost_model(&self, utilization: f64, share: f64) -> Result<CostModel, CostError> {
        CostModel::new(self.price.usd_per_hour, utilization, share)
    }

    /// The price in one line: what, how much, since when, says who.
    #[must_use]
    pub fn describe(&self) -> String {
        let Price {
            usd_per_hour,
            as_of,
            source,
            ..
        } = &self.price;
        match &self.basis {
            PriceBasis::Stated => format!("{}/h, stated by user", hourly(*usd_per_hour)),
            PriceBasis::Book { .. } => format!(
                "{}/h, {}, as of {as_of} ({source})",
                hourly(*usd_per_hour),
                self.price.reference()
            ),
            PriceBasis::PerVcpu {
                instance,
                usd_per_vcpu_hour,
                vcpus,
            } => format!(
                "${usd_per_hour:.4}/h by default: {vcpus} vCPU at ${usd_per_vcpu_hour:.5}/h each, \
                 the rate of {instance}, as of {as_of} ({source})"
            ),
            PriceBasis::PerAccelerator {
                accelerator,
                instance,
                offers,
                low_usd_per_hour,
                high_usd_per_hour,
            } => format!(
                "${usd_per_hour:.2}/h by default: one {accelerator} at the rate of {instance}, the \
                 middle of {offers} on-demand offers (${low_usd_per_hour:.2} to \
                 ${high_usd_per_hour:.2}), as of {as_of} ({source})"
            ),
            PriceBasis::WithAccelerators {
                accelerator,
                instance,
                offers,
                low_usd_per_hour,
                high_usd_per_hour,
                ..
            } => format!(
                "${usd_per_hour:.2}/h by default: {instance}, a whole machine with {} × \
                 {accelerator}, the middle of {offers} on-demand offers (${low_usd_per_hour:.2} to \
                 ${high_usd_per_hour:.2}), as of {as_of} ({source})",
                self.price.accelerator_count
            ),
        }
    }

    /// What a reader must be told beside the price, one sentence each: that it is a default,
    /// that it is doubted, and whatever its book notes.
    #[must_use]
    pub fn caveats(&self) -> Vec<String> {
        let mut caveats = Vec::new();
        if let PriceBasis::PerVcpu { instance, .. } = &self.basis {
            caveats.push(format!(
                "No price was given, so this machine is priced per vCPU like {instance}, one \
                 hardware thread for one vCPU, whatever its memory. Give --price USD_PER_HOUR or \
                 --instance PROVIDER/NAME for its real price."
            ));
        }
        if let PriceBasis::PerAccelerator {
            accelerator,
            instance,
            ..
        } = &self.basis
        {
            caveats.push(format!(
                "No price was given, so this machine is priced as one {accelerator} of {instance}: \
                 a guess from the GPU's name. Give --price USD_PER_HOUR or --instance \
                 PROVIDER/NAME for its real price."
            ));
        }
        if let PriceBasis::WithAccelerators {
            accelerator,
            used,
            instance,
            ..
        } = &self.basis
        {
            let count = self.price.accelerator_count;
            let in_part = match *used < count {
                true => format!(", of which {used} were used"),
                false => String::new(),
            };
            caveats.push(format!(
                "No price was given, so this machine is priced as {instance}, with {count} × \
                 {accelerator}{in_part}: a guess from the GPUs' name. Give --price USD_PER_HOUR or \
                 --instance PROVIDER/NAME for its real price."
            ));
        }
        if let Some(reason) = &self.price.suspect {
            caveats.push(format!("The price is suspect: {reason}."));
        }
        if let Some(note) = &self.price.note {
            caveats.push(format!("Price note: {note}."));
        }
        caveats
    }
}

impl PriceBooks {
    /// The price of a machine of `vcpus` hardware threads without accelerators that nobody
    /// priced: per vCPU like the default CPU instance of the last book that names one.
    ///
    /// # Errors
    /// No book names one, or `vcpus` is 0.
    pub fn default_for_vcpus(&self, vcpus: u32) -> Result<PriceChoice, LookupError> {
        if vcpus == 0 {
            return Err(CostError::NoVcpus.into());
        }
        let (base, base_vcpus) = self
            .books()
            .iter()
            .rev()
            .find_map(|book| {
                let name = book.default_cpu_instance.as_ref()?;
                let base = book.prices.iter().find(|p| {
                    &p.instance == name && p.term == Term::OnDemand && p.accelerator.is_none()
                })?;
                Some((base, base.vcpus?))
            })
            .ok_or(LookupError::NoDefault)?;
        let usd_per_vcpu_hour = base.usd_per_hour / f64::from(base_vcpus);
        Ok(PriceChoice {
            price: Price {
                instance: format!("{vcpus}-vcpu-of-{}", base.instance),
                vcpus: Some(vcpus),
                memory_gib: None,
                usd_per_hour: usd_per_vcpu_hour * f64::from(vcpus),
                ..base.clone()
            },
            basis: PriceBasis::PerVcpu {
                instance: base.reference(),
                usd_per_vcpu_hour,
                vcpus,
            },
        })
    }
}
/// To the cent where that is exact, otherwise as it stands in its source.
fn hourly(usd: f64) -> String {
    let cents = format!("${usd:.2}");
    match cents[1..].parse::<f64>() {
        Ok(rounded) if rounded == usd => cents,
        _ => format!("${usd}"),
    }
}
