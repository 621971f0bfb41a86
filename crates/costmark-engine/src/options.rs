//! What the user may decide about the engine, and what follows from it.

use costmark_core::ModelShape;

use crate::error::{EngineError, Result};
use crate::memory;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    /// As computed, 4 bytes.
    F32,
    /// 2 bytes, 11 significant bits. The default: attention reads half of what f32 needs,
    /// and the rounding (5e-4 relative) is far below that of quantised weights.
    F16,
    /// 2 bytes, 8 significant bits, the range of f32.
    Bf16,
}

impl KvDtype {
    /// Bytes of one value.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// `f32`, `f16` or `bf16`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// Limits of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Bytes claimed for keys and values. `None`: room for `max_sequences` contexts of
    /// [`DEFAULT_CONTEXT`] tokens (or of `max_context`, if that is given or shorter), but
    /// at most half of the memory that is left.
    pub kv_budget_bytes: Option<u64>,
    /// How keys and values are stored.
    pub kv_dtype: KvDtype,
    /// Tokens per KV block: 16 or 32.
    pub block_size: u32,
    /// Most tokens one forward pass works on. A CPU's quantised products run at full speed
    /// on 64 rows already; the default of 256 reads the weights a fourth as often and still
    /// bounds how long sequences that decode beside a long prompt wait for their token.
    pub max_batched_tokens: u32,
    /// Most prompt tokens of one sequence in one step; `None` for no limit of its own.
    pub prefill_chunk: Option<u32>,
    /// Most sequences in one step.
    pub max_sequences: u32,
    /// Longest prompt plus output of a request; `None` for the model's own limit.
    pub max_context: Option<u32>,
    /// Keep the blocks of finished prompts and reuse them for prompts that start alike.
    pub prefix_cache: bool,
}

/// Tokens per sequence the default KV budget has room for.
pub const DEFAULT_CONTEXT: u32 = 2048;

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            kv_budget_bytes: None,
            kv_dtype: KvDtype::F16,
            block_size: 16,
            max_batched_tokens: 256,
            prefill_chunk: None,
            max_sequences: 16,
            max_context: None,
            prefix_cache: true,
        }
    }
}

/// [`EngineOptions`] checked against a model: every limit as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens per KV block.
    pub block_size: u32,
    /// KV blocks there are.
    pub kv_blocks: u32,
    /// Bytes they occupy.
    pub kv_bytes: u64,
    /// Most tokens in one step.
    pub max_batched_tokens: u32,
    /// Most prompt tokens of one sequence in one step.
    pub prefill_chunk: u32,
    /// Most sequences in one step.
    pub max_sequences: u32,
    /// Longest prompt plus output; never more than fits into the cache.
    pub max_context: u32,
    /// Whether blocks are shared between prompts that start alike.
    pub prefix_cache: bool,
}

impl EngineOptions {
    /// Checks the options against `shape` and settles the KV budget.
    ///
    /// # Errors
    /// [`EngineError::Option`] naming the option that cannot be met and the way out.
    pub fn resolve(&self, shape: &ModelShape) -> Result<Limits> {
        let fail = |message: String| Err(EngineError::Option(message));
        if !matches!(self.block_size, 16 | 32) {
            return fail(format!(
                "block size {} is not supported: use 16 or 32",
                self.block_size
            ));
        }
        if self.max_sequences == 0 {
            return fail("the engine needs room for at least one sequence (max sequences)".into());
        }
        if self.max_batched_tokens < self.max_sequences {
            // Each running sequence must be able to decode in every step.
            return fail(format!(
                "{} batched tokens per step are fewer than the {} sequences that may decode \
                 in one: raise the former or lower the latter",
                self.max_batched_tokens, self.max_sequences
            ));
        }
        if self.prefill_chunk == Some(0) || self.max_context == Some(0) {
            return fail("prefill chunk and max context must be at least 1 token".into());
        }
        let model_context = u32::try_from(shape.max_context).unwrap_or(u32::MAX);
        if let Some(wanted) = self.max_context
            && wanted > model_context
        {
            return fail(format!(
                "a context of {wanted} tokens is longer than the {model_context} the model was \
                 made for: ask for shorter prompts and outputs"
            ));
        }
        let context = self.max_context.unwrap_or(model_context);
        let token_bytes = shape.kv_values_per_token() * self.kv_dtype.bytes();
        let block_bytes = token_bytes * u64::from(self.block_size);
        let budget = match self.kv_budget_bytes {
            Some(bytes) => bytes,
            None => self.default_budget(context, block_bytes),
        };
        // Block ids and slots are u32.
        let most = u64::from(u32::MAX / self.block_size);
        let kv_blocks = u32::try_from((budget / block_bytes).min(most)).unwrap_or(u32::MAX);
        let capacity = u64::from(kv_blocks) * u64::from(self.block_size);
        let needed = u64::from(self.max_context.unwrap_or(1));
        if capacity < needed {
            let blocks = needed.div_ceil(u64::from(self.block_size));
            return fail(format!(
                "--kv-budget: {budget} bytes hold {capacity} tokens, too few for one sequence \
                 of {needed}: give at least {} bytes ({token_bytes} per token, in blocks of {})",
                blocks * block_bytes,
                self.block_size
            ));
        }
        Ok(Limits {
            block_size: self.block_size,
            kv_blocks,
            kv_bytes: u64::from(kv_blocks) * block_bytes,
            max_batched_tokens: self.max_batched_tokens,
            prefill_chunk: self.prefill_chunk.unwrap_or(self.max_batched_tokens),
            max_sequences: self.max_sequences,
            max_context: context.min(u32::try_from(capacity).unwrap_or(u32::MAX)),
            prefix_cache: self.prefix_cache,
        })
    }

    fn default_budget(&self, context: u32, block_bytes: u64) -> u64 {
        let per_sequence = match self.max_context {
            Some(context) => context,
            None => context.min(DEFAULT_CONTEXT),
        };
        let blocks = u64::from(per_sequence.div_ceil(self.block_size));
        let wanted = u64::from(self.max_sequences) * blocks * block_bytes;
        match memory::available_bytes() {
            Some(left) => wanted.min(left / 2),
            None => wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ModelShape = ModelShape {
        vocab_size: 128,
        hidden_size: 64,
        intermediate_size: 128,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 16,
        max_context: 256,
        tie_word_embeddings: true,
        qkv_bias: false,
        qk_norm: false,
    };

    /// 2 × 2 layers × 2 heads × 16 values × 2 bytes.
    const TOKEN_BYTES: u64 = 256;

    #[test]
    fn the_budget_is_never_exceeded() {
        let options = EngineOptions {
            kv_budget_bytes: Some(TOKEN_BYTES * 16 * 5 + 1),
            ..EngineOptions::default()
        };
        let limits = options.resolve(&SHAPE).unwrap();
        assert_eq!(limits.kv_blocks, 5);
        assert_eq!(limits.kv_bytes, TOKEN_BYTES * 16 * 5);
        assert_eq!(limits.max_context, 80, "no longer than the cache");
    }

    #[test]
    fn the_default_budget_holds_every_sequence() {
        let limits = EngineOptions::default().resolve(&SHAPE).unwrap();
        assert_eq!(limits.kv_blocks, 16 * 256 / 16);
        assert_eq!(limits.max_context, 256);
    }

    #[test]
    fn impossible_options_name_the_way_out() {
        let small = EngineOptions {
            kv_budget_bytes: Some(TOKEN_BYTES * 16 - 1),
            ..EngineOptions::default()
        };
        let message = small.resolve(&SHAPE).unwrap_err().to_string();
        assert!(message.contains("--kv-budget"), "{message}");
        assert!(message.contains("4096 bytes"), "{message}");

        let sequence = EngineOptions {
            kv_budget_bytes: Some(TOKEN_BYTES * 16 * 2),
            max_context: Some(33),
            ..EngineOptions::default()
        };
        let message = sequence.resolve(&SHAPE).unwrap_err().to_string();
        assert!(message.contains("12288 bytes"), "{message}");

        let long = EngineOptions {
            max_context: Some(257),
            ..EngineOptions::default()
        };
        assert!(long.resolve(&SHAPE).unwrap_err().is_input());
        let narrow = EngineOptions {
            max_batched_tokens: 3,
            ..EngineOptions::default()
        };
        assert!(narrow.resolve(&SHAPE).unwrap_err().is_input());
    }
}
