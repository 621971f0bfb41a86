//! The prices the page's sliders start at.

use serde::Serialize;

use crate::document::RunDocument;

/// What is charged for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ListPrice {
    /// Computed prompt tokens, USD per million.
    pub input: f64,
    /// Prompt tokens from the cache, USD per million.
    pub cached: f64,
    /// Output tokens, USD per million.
    pub output: f64,
}

/// The same for the page, with where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pricing {
    input: f64,
    cached: f64,
    output: f64,
    /// The user gave it; otherwise it is what the tokens cost.
    pub(super) is_given: bool,
}

impl Pricing {
    pub(super) fn given(list: &ListPrice) -> Self {
        Self {
            input: list.input,
            cached: list.cached,
            output: list.output,
            is_given: true,
        }
    }

    /// What the tokens of the cheapest level cost: the margin there is 0.
    pub(super) fn break_even(run: &RunDocument) -> Self {
        let cheapest = run
            .levels
            .iter()
            .filter_map(|l| Some((l.usd_per_mtok_blended?.value, l)))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((blended, level)) = cheapest else {
            return Self {
                input: 1.0,
                cached: 1.0,
                output: 1.0,
                is_given: false,
            };
        };
        let or_blended = |i: Option<costmark_core::Interval>| i.map_or(blended, |i| i.value);
        let (input, output) = (
            or_blended(level.usd_per_mtok_input),
            or_blended(level.usd_per_mtok_output),
        );
        Self {
            input,
            cached: level.usd_per_mtok_cached.map_or(input, |i| i.value),
            output,
            is_given: false,
        }
    }
}
