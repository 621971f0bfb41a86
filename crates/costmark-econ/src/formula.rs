//! Formulas of claims and scenarios. Parsing and evaluation are `exmex`'s; here names are checked
//! before anything is computed, and what is not a finite number is an error.
//!
//! A name with a dot, such as `measured.usd_per_mtok_output`, stands in braces.

use exmex::{Express, FlatEx};

use crate::nearest::nearest;

/// A formula that parsed.
#[derive(Debug, Clone)]
pub(crate) struct Formula {
    expression: FlatEx<f64>,
}

impl Formula {
    /// Reads a formula.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match exmex::parse::<f64>(text) {
            Ok(expression) => Ok(Self { expression }),
            Err(e) => Err(format!(
                "`{text}` is not a formula ({e}); names, numbers such as 4500000000, + - * / ^ ( ) \
                 min max sqrt ln exp are understood, names with a dot stand in braces"
            )),
        }
    }

    /// The names in it.
    pub(crate) fn names(&self) -> &[String] {
        self.expression.var_names()
    }

    /// Its value.
    ///
    /// # Errors
    /// A name without a value, or a value that is no finite number.
    pub(crate) fn value(&self, of: impl Fn(&str) -> Option<f64>) -> Result<f64, String> {
        let values: Result<Vec<f64>, String> = self
            .names()
            .iter()
            .map(|name| of(name).ok_or_else(|| format!("`{name}` has no value")))
            .collect();
        let value = self
            .expression
            .eval(&values?)
            .map_err(|e| format!("it can not be computed: {e}"))?;
        if value.is_finite() {
            Ok(value)
        } else {
            Err(format!(
                "it comes to {value}: it divides by zero or leaves the real numbers"
            ))
        }
    }
}

/// Whether a name can be used in formulas: a letter first, then letters, digits and `_`, and not
/// a constant or function of the evaluator (`e`, `PI`, `sin`).
pub(crate) fn is_name(name: &str) -> bool {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    plain
        && exmex::parse::<f64>(name)
            .is_ok_and(|e: FlatEx<f64>| e.var_names() == [String::from(name)])
}

/// Refuses names that are not known, with the closest that are.
///
/// # Errors
/// The first unknown name.
pub(crate) fn known(formula: &Formula, known: &[String]) -> Result<(), String> {
    let Some(unknown) = formula.names().iter().find(|n| !known.contains(n)) else {
        return Ok(());
    };
    let near = nearest(unknown, known.iter().cloned());
    Err(if near.is_empty() {
        format!(
            "`{unknown}` is not a quantity here; there are {}",
            known.join(", ")
        )
    } else {
        format!(
            "`{unknown}` is not a quantity here; did you mean {}?",
            near.join(", ")
        )
    })
}
