//! The electricity in a price of time.

use costmark_econ::{CostError, energy_usd_per_mtok};
use serde::Serialize;

use crate::document::{LevelDocument, RunDocument};
use crate::money::facts::{label, units_of};
use crate::numbers::{short, usd};

/// What the output tokens of a level take in electricity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EnergyLine {
    /// The load.
    pub label: String,
    /// Joules for each output token: all of the machine's energy is charged to the output.
    pub joules_per_output_token: f64,
    /// USD per million output tokens at the stated price of electricity.
    pub usd_per_mtok_output: f64,
    /// Where the joules are from: a counter, or a power that was stated.
    pub source: String,
}

impl EnergyLine {
    /// Of a level: what counters saw over its repeats, else `power` (watts, and where they are
    /// from) at its throughput. None where neither is known.
    ///
    /// # Errors
    /// [`CostError`] for an impossible PUE or price of electricity.
    pub fn of(
        run: &RunDocument,
        level: &LevelDocument,
        power: Option<(f64, &str)>,
        pue: f64,
        usd_per_kwh: f64,
    ) -> Result<Option<Self>, CostError> {
        let units = units_of(run, level);
        let counted: Option<f64> = units.iter().map(|u| u.energy.joules).sum();
        let tokens: u64 = units
            .iter()
            .map(|u| u.summary.throughput.output_tokens)
            .sum();
        let rate = level.summary.output_tok_per_s.value;
        let (joules, source) = match (counted, power) {
            (Some(joules), _) if tokens > 0 && !units.is_empty() => (
                joules / tokens as f64,
                format!("measured ({})", units[0].energy.source),
            ),
            (_, Some((watts, source))) if rate > 0.0 => {
                (watts / rate, format!("NOT measured: {source}"))
            }
            _ => return Ok(None),
        };
        Ok(Some(Self {
            label: label(run, level),
            joules_per_output_token: joules,
            usd_per_mtok_output: energy_usd_per_mtok(joules, pue, usd_per_kwh)?,
            source,
        }))
    }

    /// In a sentence.
    #[must_use]
    pub fn in_words(&self) -> String {
        format!(
            "at {}: {} J per output token, {} of electricity per million; {}",
            self.label,
            short(self.joules_per_output_token),
            usd(self.usd_per_mtok_output),
            self.source
        )
    }
}
