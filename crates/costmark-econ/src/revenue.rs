//! What a mix of tokens brings in at a list price.

use serde::Serialize;

use crate::api::ListPrice;
use crate::cost::TOKENS_PER_MTOK;
use crate::error::MarginError;

/// Tokens by class, in any common unit (of a window, a day, a request).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TokenMix {
    /// Prompt tokens, cached ones included.
    pub input: f64,
    /// Of `input`, tokens read from the prompt cache; none where nobody counted them.
    pub cached_read: Option<f64>,
    /// Of `input`, tokens written to the prompt cache; none where nobody counted them.
    pub cache_write: Option<f64>,
    /// Output tokens.
    pub output: f64,
    /// Share of all tokens sold as deferred batches, 0 to 1.
    pub batch_share: f64,
    /// Prompt tokens of a typical request: decides on long-context prices.
    pub input_per_request: Option<f64>,
}

/// Revenue of a mix by class, USD; the parts add up to `total_usd`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Revenue {
    /// Input at the full price.
    pub input_usd: f64,
    /// Input read from the cache.
    pub cached_read_usd: f64,
    /// Input written to the cache.
    pub cache_write_usd: f64,
    /// Output.
    pub output_usd: f64,
    /// All of it.
    pub total_usd: f64,
    /// What was assumed on the way, one sentence each.
    pub assumptions: Vec<String>,
}

impl TokenMix {
    /// All tokens.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.input + self.output
    }

    /// Share of the input read from the cache; none where nobody counted.
    #[must_use]
    pub fn hit_rate(&self) -> Option<f64> {
        let cached = self.cached_read?;
        Some(if self.input > 0.0 {
            cached / self.input
        } else {
            0.0
        })
    }

    fn check(&self) -> Result<(), MarginError> {
        let count = |x: f64| x.is_finite() && x >= 0.0;
        let (read, write) = (
            self.cached_read.unwrap_or(0.0),
            self.cache_write.unwrap_or(0.0),
        );
        if ![self.input, self.output, read, write]
            .into_iter()
            .all(count)
            || self.total() <= 0.0
        {
            return Err(MarginError::Mix(
                "token counts must be 0 or more, not all 0",
            ));
        }
        // Counts of different origin may round; a millionth is not a contradiction.
        if read + write > self.input * (1.0 + 1e-6) {
            return Err(MarginError::Mix(
                "more tokens were read from or written to the cache than came in",
            ));
        }
        if !(0.0..=1.0).contains(&self.batch_share) {
            return Err(MarginError::Mix(
                "the share sold as batches is not in 0 to 1",
            ));
        }
        Ok(())
    }
}

/// `revenue = Σ tokens of a class × list price of the class`.
///
/// - Cached input brings the cached price where one is listed, else the full one.
/// - With `batch_share` b, input and output bring `(1 − b) × standard + b × batch`.
/// - A prompt longer than the long-context limit brings the long-context prices.
///
/// # Errors
/// Impossible counts; cache counts that are missing although the list price tells cached from
/// other input (never taken as 0); a batch share without a batch price.
pub fn revenue(mix: &TokenMix, list: &ListPrice) -> Result<Revenue, MarginError> {
    mix.check()?;
    let mut assumptions = Vec::new();
    let long = list.long_context.filter(|long| {
        mix.input_per_request
            .is_some_and(|n| n > long.over_tokens as f64)
    });
    if let Some(long) = long {
        assumptions.push(format!(
            "long-context prices: requests have more than {} prompt tokens",
            long.over_tokens
        ));
    }
    let standard_input = long.map_or(list.input, |l| l.input);
    let read_price = match long {
        Some(l) => l.cached_read,
        None => list.cached_read,
    };
    let write_price = match long {
        Some(l) => l.cache_write,
        None => list.cache_write,
    };
    let read = match (mix.cached_read, read_price) {
        (Some(read), _) => read,
        (None, None) => 0.0,
        (None, Some(usd)) if usd == standard_input => 0.0,
        (None, Some(usd)) => {
            return Err(MarginError::NoCacheCounts {
                reference: list.reference(),
                what: "read from",
                usd,
                input_usd: standard_input,
            });
        }
    };
    let write = match (mix.cache_write, write_price) {
        (Some(write), _) => write,
        (None, None) => 0.0,
        (None, Some(_)) if read == 0.0 => {
            assumptions.push(String::from(
                "nothing is written to the prompt cache, since nothing is read from it",
            ));
            0.0
        }
        (None, Some(usd)) if usd == standard_input => 0.0,
        (None, Some(usd)) => {
            return Err(MarginError::NoCacheCounts {
                reference: list.reference(),
                what: "written to",
                usd,
                input_usd: standard_input,
            });
        }
    };
    if read > 0.0 && read_price.is_none() {
        assumptions.push(format!(
            "{} lists no price for cached input: it is charged in full",
            list.reference()
        ));
    }
    let batch = |standard: f64, batch: Option<f64>| -> Result<f64, MarginError> {
        if mix.batch_share == 0.0 {
            return Ok(standard);
        }
        let usd = batch.ok_or_else(|| MarginError::NoBatchPrice(list.reference()))?;
        Ok(standard * (1.0 - mix.batch_share) + usd * mix.batch_share)
    };
    let input_price = batch(standard_input, list.batch_input)?;
    let output_price = batch(long.map_or(list.output, |l| l.output), list.batch_output)?;
    if mix.batch_share > 0.0 && read > 0.0 {
        assumptions.push(String::from(
            "batches get no discount on cached input beyond its own price",
        ));
    }
    let per_token = |usd_per_mtok: f64| usd_per_mtok / TOKENS_PER_MTOK;
    let input_usd = (mix.input - read - write).max(0.0) * per_token(input_price);
    let cached_read_usd = read * per_token(read_price.unwrap_or(input_price));
    let cache_write_usd = write * per_token(write_price.unwrap_or(input_price));
    let output_usd = mix.output * per_token(output_price);
    Ok(Revenue {
        input_usd,
        cached_read_usd,
        cache_write_usd,
        output_usd,
        total_usd: input_usd + cached_read_usd + cache_write_usd + output_usd,
        assumptions,
    })
}
