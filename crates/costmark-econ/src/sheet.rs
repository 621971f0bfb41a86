//! A small sheet of arithmetic: quantities with units, and results that follow from them by a
//! formula each. Claims and scenarios are sheets.
//!
//! Published figures are rounded. Each quantity may carry half a unit of its last digit
//! (`rounding`); results are then given with the range over all corners of these, which is exact
//! for formulas that rise or fall in each quantity.

use std::collections::BTreeMap;

use costmark_core::Interval;
use serde::{Deserialize, Serialize};

use crate::formula::{Formula, is_name, known};
use crate::nearest::nearest;

/// Quantities of a measured run that a formula may name as `{measured.NAME}`.
pub const MEASURED: [&str; 10] = [
    "usd_per_mtok_input",
    "usd_per_mtok_cached",
    "usd_per_mtok_output",
    "usd_per_mtok_blended",
    "tokens_per_machine_hour",
    "tokens_per_accelerator_hour",
    "output_tokens_per_accelerator_hour",
    "revenue_usd_per_mtok",
    "gross_margin",
    "usd_per_hour",
];

/// Figures of a run, by name; those the run does not have are absent.
pub type Measured = BTreeMap<String, Interval>;

const PREFIX: &str = "measured.";
/// More corners than 2^10 are not computed.
const MAX_UNCERTAIN: usize = 10;

/// An input as published or assumed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantity {
    /// The figure.
    pub value: f64,
    /// Half a unit of its last published digit; none for exact figures.
    #[serde(default)]
    pub rounding: f64,
    /// `USD`, `share`, `x`, `hours`, …
    pub unit: String,
    /// What it is.
    pub text: String,
}

/// A figure that follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Name, for later formulas.
    pub name: String,
    /// Over quantities, earlier results and `{measured.…}`.
    pub formula: String,
    /// Unit of the result.
    pub unit: String,
    /// What it is.
    pub text: String,
    /// The figure as published, where one was.
    pub published: Option<f64>,
    /// By how much the published figure may be off and still be that figure: half a unit of its
    /// last digit, more for words such as "nearly".
    pub tolerance: Option<f64>,
    /// What the figure must lie in to be possible or to fit the words, where no number was given.
    pub within: Option<[f64; 2]>,
}

/// One result, computed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Which.
    pub name: String,
    /// What it is.
    pub text: String,
    /// Unit.
    pub unit: String,
    /// By which formula.
    pub formula: String,
    /// Value, with the range that rounding of the inputs or the interval of the run leaves open.
    pub recomputed: Interval,
    /// As published.
    pub published: Option<f64>,
    /// Recomputed over published, minus 1.
    pub deviation: Option<f64>,
    /// The range it had to lie in.
    pub within: Option<[f64; 2]>,
    /// Whether it agrees with what was published; none where nothing was.
    pub agrees: Option<bool>,
}

/// A result that can not be computed, because the run is missing or lacks a figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Which result.
    pub name: String,
    /// What it is.
    pub text: String,
    /// What is missing.
    pub reason: String,
}

/// Inputs and results of one claim or scenario.
#[derive(Debug, Clone)]
pub struct Sheet {
    /// Inputs by name.
    pub inputs: BTreeMap<String, Quantity>,
    /// Results in order.
    pub steps: Vec<Step>,
    formulas: Vec<Formula>,
}

/// What a sheet comes to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Computed {
    /// Results.
    pub outcomes: Vec<Outcome>,
    /// Results that could not be had.
    pub missing: Vec<Missing>,
}

impl Sheet {
    /// Checks names, formulas and figures.
    ///
    /// # Errors
    /// What is wrong with which input or result, in words.
    pub fn new(inputs: BTreeMap<String, Quantity>, steps: Vec<Step>) -> Result<Self, String> {
        for (name, quantity) in &inputs {
            if !is_name(name) {
                return Err(format!(
                    "input `{name}`: a name is letters, digits and `_`, and none the formulas \
                     already use (e, E, PI, sin, …)"
                ));
            }
            if !(quantity.value.is_finite()
                && quantity.rounding.is_finite()
                && quantity.rounding >= 0.0)
            {
                return Err(format!(
                    "input `{name}`: value must be a finite number and rounding 0 or more"
                ));
            }
            if quantity.unit.trim().is_empty() || quantity.text.trim().is_empty() {
                return Err(format!("input `{name}`: unit and text must say something"));
            }
        }
        if steps.is_empty() {
            return Err(String::from("it has no results"));
        }
        let mut names: Vec<String> = inputs.keys().cloned().collect();
        names.extend(MEASURED.iter().map(|m| format!("{PREFIX}{m}")));
        let mut formulas = Vec::new();
        for step in &steps {
            let at = |problem: String| format!("result `{}`: {problem}", step.name);
            if !is_name(&step.name) {
                return Err(at(String::from(
                    "a name is letters, digits and `_`, and none the formulas already use",
                )));
            }
            if names.contains(&step.name) {
                return Err(at(String::from("the name is taken; choose another")));
            }
            if step.unit.trim().is_empty() || step.text.trim().is_empty() {
                return Err(at(String::from("unit and text must say something")));
            }
            if step.published.is_some() != step.tolerance.is_some() {
                return Err(at(String::from(
                    "published and tolerance belong together; give both or neither",
                )));
            }
            if step.published.is_some_and(|p| !p.is_finite())
                || step.tolerance.is_some_and(|t| !(t.is_finite() && t >= 0.0))
                || step
                    .within
                    .is_some_and(|[a, b]| !a.is_finite() || !b.is_finite() || a > b)
            {
                return Err(at(String::from(
                    "published must be finite, tolerance 0 or more, within [low, high]",
                )));
            }
            let formula = Formula::parse(&step.formula).map_err(at)?;
            known(&formula, &names).map_err(|p| format!("result `{}`: {p}", step.name))?;
            formulas.push(formula);
            names.push(step.name.clone());
        }
        Ok(Self {
            inputs,
            steps,
            formulas,
        })
    }

    /// Replaces the value of an input by the user's own, which is exact.
    ///
    /// # Errors
    /// No such input (with the closest there are), or no finite number.
    pub fn set(&mut self, name: &str, value: f64) -> Result<(), String> {
        if !value.is_finite() {
            return Err(format!("{name}={value} is not a finite number"));
        }
        match self.inputs.get_mut(name) {
            Some(quantity) => {
                quantity.value = value;
                quantity.rounding = 0.0;
                Ok(())
            }
            None => {
                let near = nearest(name, self.inputs.keys().cloned());
                let names: Vec<String> = if near.is_empty() {
                    self.inputs.keys().cloned().collect()
                } else {
                    near
                };
                Err(format!(
                    "`{name}` is not an input here; there is {}",
                    names.join(", ")
                ))
            }
        }
    }

    /// Computes all results, in order.
    ///
    /// # Errors
    /// A formula that divides by zero or leaves the real numbers, by its result; too many rounded
    /// inputs.
    pub fn compute(&self, measured: Option<&Measured>) -> Result<Computed, String> {
        let mut uncertain: Vec<(String, [f64; 2])> = Vec::new();
        let mut middle: BTreeMap<String, f64> = BTreeMap::new();
        for (name, q) in &self.inputs {
            middle.insert(name.clone(), q.value);
            if q.rounding > 0.0 {
                uncertain.push((name.clone(), [q.value - q.rounding, q.value + q.rounding]));
            }
        }
        for (name, figure) in measured.into_iter().flatten() {
            let name = format!("{PREFIX}{name}");
            middle.insert(name.clone(), figure.value);
            let used = self.formulas.iter().any(|f| f.names().contains(&name));
            if let (Some(low), Some(high), true) = (figure.low, figure.high, used) {
                uncertain.push((name, [low, high]));
            }
        }
        if uncertain.len() > MAX_UNCERTAIN {
            return Err(format!(
                "{} inputs are rounded; at most {MAX_UNCERTAIN} can be",
                uncertain.len()
            ));
        }
        let (values, missing) = self.pass(middle.clone(), measured.is_some())?;
        let mut ends: BTreeMap<&str, Option<[f64; 2]>> = values
            .iter()
            .map(|(name, &v)| (name.as_str(), Some([v, v])))
            .collect();
        for corner in 0..(1usize << uncertain.len()) {
            if uncertain.is_empty() {
                break;
            }
            let mut at = middle.clone();
            for (bit, (name, [low, high])) in uncertain.iter().enumerate() {
                let upper = (corner >> bit) & 1 == 1;
                at.insert(name.clone(), if upper { *high } else { *low });
            }
            // A corner without a value leaves the range open.
            let values = self.pass(at, measured.is_some()).map(|(v, _)| v).ok();
            for (name, end) in &mut ends {
                let value = values.as_ref().and_then(|v| v.get(*name));
                *end = match (*end, value) {
                    (Some([low, high]), Some(&v)) => Some([low.min(v), high.max(v)]),
                    _ => None,
                };
            }
        }
        let range = !uncertain.is_empty();
        let outcomes = self
            .steps
            .iter()
            .filter_map(|step| {
                let value = *values.get(&step.name)?;
                let ends = ends.get(step.name.as_str()).copied().flatten();
                let spread = ends.filter(|[low, high]| range && low < high);
                Some(step.outcome(Interval {
                    value,
                    low: spread.map(|[low, _]| low),
                    high: spread.map(|[_, high]| high),
                }))
            })
            .collect();
        Ok(Computed { outcomes, missing })
    }

    /// All results at one set of values.
    fn pass(
        &self,
        mut at: BTreeMap<String, f64>,
        has_run: bool,
    ) -> Result<(BTreeMap<String, f64>, Vec<Missing>), String> {
        let (mut values, mut missing) = (BTreeMap::new(), Vec::new());
        for (step, formula) in self.steps.iter().zip(&self.formulas) {
            if let Some(name) = formula.names().iter().find(|n| !at.contains_key(*n)) {
                let reason = match name.strip_prefix(PREFIX) {
                    Some(_) if !has_run => String::from("needs a measured run"),
                    Some(figure) => format!("the run does not tell {figure}"),
                    None => format!("needs {name}"),
                };
                missing.push(Missing {
                    name: step.name.clone(),
                    text: step.text.clone(),
                    reason,
                });
                continue;
            }
            let value = formula
                .value(|name| at.get(name).copied())
                .map_err(|p| format!("result `{}`: `{}`: {p}", step.name, step.formula))?;
            at.insert(step.name.clone(), value);
            values.insert(step.name.clone(), value);
        }
        Ok((values, missing))
    }
}

impl Step {
    fn outcome(&self, recomputed: Interval) -> Outcome {
        let low = recomputed.low.unwrap_or(recomputed.value);
        let high = recomputed.high.unwrap_or(recomputed.value);
        // Sums of decimal fractions miss by a last bit what they mean.
        let slack = 1e-9 * recomputed.value.abs();
        let meets = |[from, to]: [f64; 2]| low <= to + slack && from <= high + slack;
        let stated = self
            .published
            .zip(self.tolerance)
            .map(|(p, t)| meets([p - t, p + t]));
        let fits = self.within.map(meets);
        Outcome {
            name: self.name.clone(),
            text: self.text.clone(),
            unit: self.unit.clone(),
            formula: self.formula.clone(),
            recomputed,
            published: self.published,
            deviation: self
                .published
                .filter(|p| *p != 0.0)
                .map(|p| recomputed.value / p - 1.0),
            within: self.within,
            agrees: match (stated, fits) {
                (None, None) => None,
                (a, b) => Some(a.unwrap_or(true) && b.unwrap_or(true)),
            },
        }
    }
}
