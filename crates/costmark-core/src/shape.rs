//! The dimensions of a decoder-only transformer and the counts that follow from them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Dimensions of a dense, gated-MLP decoder (Llama and its relatives).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    /// Rows of the embedding table.
    pub vocab_size: u64,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Width of the MLP.
    pub intermediate_size: u64,
    /// Transformer blocks.
    pub num_layers: u64,
    /// Query heads.
    pub num_heads: u64,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: u64,
    /// Width of one head.
    pub head_dim: u64,
    /// Longest context the model was made for, in tokens.
    pub max_context: u64,
    /// The output projection is the embedding table.
    pub tie_word_embeddings: bool,
    /// Query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Queries and keys are normalised per head.
    pub qk_norm: bool,
}

impl ModelShape {
    /// Weights of one block's matrix products: q, k, v, o, gate, up, down.
    #[must_use]
    pub fn layer_matmul_params(&self) -> u64 {
        let q = self.num_heads * self.head_dim;
        let kv = self.num_kv_heads * self.head_dim;
        self.hidden_size * (2 * q + 2 * kv + 3 * self.intermediate_size)
    }

    /// Weights of one block that are vectors: norms and biases.
    #[must_use]
    pub fn layer_vector_params(&self) -> u64 {
        let q = self.num_heads * self.head_dim;
        let kv = self.num_kv_heads * self.head_dim;
        let bias = if self.qkv_bias { q + 2 * kv } else { 0 };
        let qk_norm = if self.qk_norm { 2 * self.head_dim } else { 0 };
        2 * self.hidden_size + bias + qk_norm
    }

    /// Entries of the embedding table (and of the output projection).
    #[must_use]
    pub fn embedding_params(&self) -> u64 {
        self.vocab_size * self.hidden_size
    }

    /// All parameters, a tied embedding counted once.
    #[must_use]
    pub fn params(&self) -> u64 {
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 };
        self.num_layers * (self.layer_matmul_params() + self.layer_vector_params())
            + self.hidden_size
            + embeddings * self.embedding_params()
    }

    /// Key and value entries one token adds over all layers.
    #[must_use]
    pub fn kv_values_per_token(&self) -> u64 {
        2 * self.num_layers * self.num_kv_heads * self.head_dim
    }

    /// FLOPs of the blocks' matrix products for one token: two per weight.
    #[must_use]
    pub fn matmul_flops_per_token(&self) -> u64 {
        2 * self.num_layers * self.layer_matmul_params()
    }

    /// FLOPs of the output projection for one row of logits.
    #[must_use]
    pub fn head_flops_per_row(&self) -> u64 {
        2 * self.embedding_params()
    }

    /// FLOPs of attention for one (query, key) pair over all layers:
    /// a multiply-add per head dimension for the score and one for the value.
    #[must_use]
    pub fn attention_flops_per_pair(&self) -> u64 {
        4 * self.num_layers * self.num_heads * self.head_dim
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published parameter counts: Qwen3-0.6B has 596,049,920 (0.44 B without embedding),
    /// Llama-3.1-8B 8,030,261,248.
    #[test]
    fn published_parameter_counts() {
        let qwen3 = ModelShape {
            vocab_size: 151_936,
            hidden_size: 1024,
            intermediate_size: 3072,
            num_layers: 28,
            num_heads: 16,
            num_kv_heads: 8,
            head_dim: 128,
            max_context: 40_960,
            tie_word_embeddings: true,
            qkv_bias: false,
            qk_norm: true,
        };
        assert_eq!(qwen3.params(), 596_049_920);
        let llama = ModelShape {
            vocab_size: 128_256,
            hidden_size: 4096,
            intermediate_size: 14_336,
            num_layers: 32,
            num_heads: 32,
            num_kv_heads: 8,
            head_dim: 128,
            max_context: 131_072,
            tie_word_embeddings: false,
            qkv_bias: false,
            qk_norm: false,
        };
        assert_eq!(llama.params(), 8_030_261_248);
        assert_eq!(llama.kv_values_per_token() * 2, 131_072);
    }
}
