//! The cost of a measured window and of a million of its tokens, by class.

use serde::{Deserialize, Serialize};

use crate::attribute::PhaseTimes;
use crate::cost::{CostModel, TOKENS_PER_MTOK};
use crate::error::Undefined;

/// Tokens of a window, as the metrics count them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowTokens {
    /// Prompt tokens, those from the prefix cache included.
    pub input: u64,
    /// Of `input`, those from the prefix cache.
    pub cached: u64,
    /// Tokens produced. The first of each request comes out of its prefill; it is counted
    /// here and its cost there.
    pub output: u64,
}

impl WindowTokens {
    /// Input and output.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.input + self.output
    }
}

/// Cost of a window by class of token, USD. `input + cached + output` is the cost of the
/// window; idle time is spread over the three in proportion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowSplit {
    /// Uncached input.
    pub input_usd: f64,
    /// Input from the prefix cache: attention to it while the rest was prefilled.
    pub cached_usd: f64,
    /// Output.
    pub output_usd: f64,
    /// Of the three together, what idle time inside the window costs.
    pub idle_usd: f64,
    /// The times it was split by.
    pub times: PhaseTimes,
}

/// What a window costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowCost {
    /// Cost of the window, USD, utilization and share included.
    pub cost_usd: f64,
    /// The tokens it is spread over.
    pub tokens: WindowTokens,
    /// Cost by class, or why it can not be told.
    pub split: Result<WindowSplit, Undefined>,
    /// USD per million tokens of any kind.
    pub usd_per_mtok_blended: Result<f64, Undefined>,
    /// USD per million uncached input tokens.
    pub usd_per_mtok_input: Result<f64, Undefined>,
    /// USD per million input tokens from the prefix cache.
    pub usd_per_mtok_cached: Result<f64, Undefined>,
    /// USD per million output tokens.
    pub usd_per_mtok_output: Result<f64, Undefined>,
}

impl WindowCost {
    /// Prices a window of `window_s` seconds.
    ///
    /// `times` are its [`crate::phase_times`]; with a reason instead, only the blended
    /// figure is given and the others carry that reason.
    ///
    /// `usd_per_mtok_input = cost × (prefill − cached time) / step time / uncached input × 1e6`,
    /// likewise cached input by cached time and output by decode time.
    ///
    /// # Errors
    /// [`Undefined::EmptyWindow`] for a window without a length,
    /// [`Undefined::CachedExceedsInput`] for impossible counts.
    pub fn new(
        model: &CostModel,
        window_s: f64,
        tokens: WindowTokens,
        times: Result<PhaseTimes, Undefined>,
    ) -> Result<Self, Undefined> {
        if !(window_s.is_finite() && window_s > 0.0) {
            return Err(Undefined::EmptyWindow);
        }
        let uncached = tokens
            .input
            .checked_sub(tokens.cached)
            .ok_or(Undefined::CachedExceedsInput)?;
        let cost_usd = model.cost_usd(window_s);
        let split = times.and_then(|times| WindowSplit::new(cost_usd, times));
        Ok(Self {
            cost_usd,
            tokens,
            split,
            usd_per_mtok_blended: per_mtok(cost_usd, tokens.total(), Undefined::NoTokens),
            usd_per_mtok_input: split
                .and_then(|s| per_mtok(s.input_usd, uncached, Undefined::NoInputTokens)),
            usd_per_mtok_cached: split
                .and_then(|s| per_mtok(s.cached_usd, tokens.cached, Undefined::NoCachedTokens)),
            usd_per_mtok_output: split
                .and_then(|s| per_mtok(s.output_usd, tokens.output, Undefined::NoOutputTokens)),
        })
    }
}

impl WindowSplit {
    /// Splits `cost_usd` by step time.
    ///
    /// # Errors
    /// [`Undefined::NoSteps`] when there is no step time to split by.
    pub fn new(cost_usd: f64, times: PhaseTimes) -> Result<Self, Undefined> {
        let busy_s = times.busy_s();
        if !(busy_s > 0.0 && times.window_s > 0.0) {
            return Err(Undefined::NoSteps);
        }
        let part = |time_s: f64| cost_usd * (time_s / busy_s);
        Ok(Self {
            input_usd: part(times.prefill_s - times.cached_s),
            cached_usd: part(times.cached_s),
            output_usd: part(times.decode_s),
            idle_usd: cost_usd * (times.idle_s / times.window_s),
            times,
        })
    }

    /// Sum of the three classes: the cost of the window.
    #[must_use]
    pub fn total_usd(&self) -> f64 {
        self.input_usd + self.cached_usd + self.output_usd
    }
}

fn per_mtok(usd: f64, tokens: u64, none: Undefined) -> Result<f64, Undefined> {
    if tokens == 0 {
        return Err(none);
    }
    Ok(usd / tokens as f64 * TOKENS_PER_MTOK)
}
