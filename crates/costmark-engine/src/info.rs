//! What a model costs in memory and per token, from its headers alone.

use costmark_core::{ModelShape, ModelWork};
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::weights::TensorFormat;
use crate::weights::layout::{Role, matrices, vectors};

/// Facts about a model. Bytes are those of the weights as the products read them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelInfo {
    /// The model's name.
    pub name: String,
    /// Entry of `architectures`.
    pub architecture: String,
    /// Where the weights come from.
    pub source: String,
    /// Commit of a hub checkpoint.
    pub revision: Option<String>,
    /// The weights are random numbers.
    pub synthetic: bool,
    /// Dimensions.
    pub shape: ModelShape,
    /// All parameters, a tied embedding counted once.
    pub params: u64,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// How the matrices are stored, most bytes first.
    pub formats: Vec<FormatShare>,
    /// What a step must move and compute.
    pub work: ModelWork,
    /// Bytes one sequence's decode step must read from weights: all blocks, the output
    /// projection and one row of the embedding.
    pub weight_bytes_per_decode_step: u64,
    /// Bytes one token adds to the KV cache.
    pub kv_bytes_per_token: u64,
    /// Conversions and other facts.
    pub notes: Vec<String>,
}

/// The matrices of one format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FormatShare {
    /// Its name, e.g. `q8_0`.
    pub format: String,
    /// Number of matrices.
    pub matrices: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl ModelInfo {
    /// Facts about `checkpoint` with keys and values of `kv_value_bytes` each (2 for f16
    /// and bf16, 4 for f32).
    ///
    /// # Errors
    /// When a tensor is missing.
    pub fn of(checkpoint: &Checkpoint, kv_value_bytes: u64) -> Result<Self> {
        let shape = checkpoint.config.shape;
        let mut shares: Vec<FormatShare> = Vec::new();
        let mut layer_bytes: u64 = vectors(&shape).iter().map(|(_, len)| 4 * len).sum();
        let mut embedding = (TensorFormat::F32, 0);
        let mut head_bytes = None;
        for matrix in matrices(&shape) {
            let format = checkpoint.weights.stored_as(&matrix.name)?;
            let bytes = format.bytes(matrix.out_features, matrix.in_features);
            match matrix.role {
                Role::Embedding => embedding = (format, bytes),
                Role::Head => head_bytes = Some(bytes),
                _ => {
                    layer_bytes += bytes
                        + if matrix.bias {
                            4 * matrix.out_features
                        } else {
                            0
                        }
                }
            }
            match shares.iter_mut().find(|s| s.format == format.name()) {
                Some(share) => {
                    share.matrices += 1;
                    share.bytes += bytes;
                }
                None => shares.push(FormatShare {
                    format: format.name().into(),
                    matrices: 1,
                    bytes,
                }),
            }
        }
        shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
        let (embedding_format, embedding_bytes) = embedding;
        let work = ModelWork {
            layer_weight_bytes: layer_bytes,
            head_weight_bytes: head_bytes.unwrap_or(embedding_bytes),
            embedding_row_bytes: embedding_format.bytes(1, shape.hidden_size),
            kv_bytes_per_token: shape.kv_values_per_token() * kv_value_bytes,
            logits_row_bytes: 4 * shape.vocab_size,
            matmul_flops_per_token: shape.matmul_flops_per_token(),
            head_flops_per_row: shape.head_flops_per_row(),
            attention_flops_per_pair: shape.attention_flops_per_pair(),
        };
        Ok(Self {
            name: checkpoint.config.name.clone(),
            architecture: checkpoint.config.family.architecture().into(),
            source: checkpoint.source.clone(),
            revision: checkpoint.revision.clone(),
            synthetic: checkpoint.synthetic,
            shape,
            params: shape.params(),
            weight_bytes: layer_bytes + embedding_bytes + head_bytes.unwrap_or(0),
            formats: shares,
            work,
            weight_bytes_per_decode_step: work.layer_weight_bytes
                + work.head_weight_bytes
                + work.embedding_row_bytes,
            kv_bytes_per_token: work.kv_bytes_per_token,
            notes: checkpoint.notes.clone(),
        })
    }

    /// Sequences of `context` tokens that fit into `memory_bytes` beside the weights.
    /// Activations and the allocator's overhead come on top and are not counted.
    #[must_use]
    pub fn sequences_in(&self, memory_bytes: u64, context: u64) -> u64 {
        let per_sequence = self.kv_bytes_per_token.saturating_mul(context);
        memory_bytes
            .saturating_sub(self.weight_bytes)
            .checked_div(per_sequence)
            .unwrap_or(0)
    }
}
