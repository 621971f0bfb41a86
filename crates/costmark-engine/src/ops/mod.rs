//! Everything a decoder layer does around its matrix products.
//!
//! [`Ops`] is the seam for devices. [`cpu`] does each step in one pass over plain slices,
//! because at small batches the cost of many little tensor operations would show beside
//! the products; with the feature `cuda`, `cuda` does the same in kernels of its own; [`reference`](mod@reference) says the same in tensor operations, works on any device,
//! and is what `cpu` is tested against.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod reference;

use candle_core::Tensor;

use crate::batch::StepBatch;
use crate::error::Result;
use crate::rope::Rotations;
use crate::sampler::Draw;

/// Dimensions of a layer's attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Tokens a query sees back, itself included; `None` for all.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// Query heads that share one key head.
    #[must_use]
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Scores are multiplied by this before the softmax: `1 / sqrt(head_dim)`.
    #[must_use]
    pub fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }
}

/// Dimensions of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Decoder layers.
    pub layers: usize,
    /// Blocks in each.
    pub blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
}

/// An RMS norm: `x / sqrt(mean(x²) + eps) · weight` over the last dimension.
#[derive(Debug, Clone)]
pub struct Norm {
    /// f32 `(width)`.
    pub weight: Tensor,
    /// Added to the mean square.
    pub eps: f64,
}

/// What one layer's attention works on.
#[derive(Debug)]
pub struct AttentionInput<'a> {
    /// `(tokens, heads · head_dim)`, as projected. What is in it afterwards is left open.
    pub q: &'a Tensor,
    /// `(tokens, kv_heads · head_dim)`, as projected. The same.
    pub k: &'a Tensor,
    /// `(tokens, kv_heads · head_dim)`, as projected.
    pub v: &'a Tensor,
    /// Norms over each head of `q` and `k`, for families that have them.
    pub qk_norm: Option<&'a (Norm, Norm)>,
    /// The rotations of the step's tokens.
    pub rotations: &'a Rotations,
    /// Which token belongs to which sequence, and where its keys and values live.
    pub batch: &'a StepBatch,
}

/// The token that a row of logits brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    /// Its id.
    pub id: u32,
    /// The lowest id whose logit is NaN or infinite, if any is; `id` means nothing then.
    pub not_finite: Option<u32>,
}

/// Where rows of logits need not come back, but only the tokens that they bring.
pub trait DrawsThere {
    /// A token of each row of `logits` `(rows, vocab)` f32.
    ///
    /// # Errors
    /// When there is not one draw for each row, or the device fails.
    fn draw(&self, logits: &Tensor, draws: &[Draw]) -> Result<Vec<Drawn>>;
}

/// The operations around the products, and the KV cache they work on. All tensors are
/// contiguous and f32, or, on a GPU and but for the residual sum, of the type that
/// [`Decoder::activation_dtype`](crate::Decoder::activation_dtype) says. What comes out of
/// several products may be columns of one wider tensor there.
pub trait Ops: Send {
    /// What a step's layers share, told before the first of them: rotations by
    /// `frequencies` of the batch's tokens.
    ///
    /// # Errors
    /// When the device fails.
    fn begin(&mut self, batch: &StepBatch, frequencies: &[f32]) -> Result<Rotations> {
        Ok(Rotations::new(frequencies, &batch.positions))
    }

    /// `residual + delta`, and its norm; both `(tokens, hidden)`. May use the memory of
    /// `residual` for it, so that other handles to the same memory see anything.
    ///
    /// # Errors
    /// When shapes do not fit or the device fails.
    fn add_norm(
        &self,
        residual: Tensor,
        delta: Option<&Tensor>,
        norm: &Norm,
    ) -> Result<(Tensor, Tensor)>;

    /// `silu(gate) · up`, `(tokens, intermediate)`. May use the memory of `gate` for it.
    ///
    /// # Errors
    /// When shapes do not fit or the device fails.
    fn silu_mul(&self, gate: Tensor, up: &Tensor) -> Result<Tensor>;

    /// Norms and rotates queries and keys, writes keys and values to `layer`'s cache, and
    /// attends: `(tokens, heads · head_dim)`.
    ///
    /// # Errors
    /// When shapes do not fit or the device fails.
    fn attend(&mut self, layer: usize, input: &AttentionInput<'_>) -> Result<Tensor>;

    /// What draws tokens where the logits are; `None` where reading them here costs nothing.
    fn draws_there(&self) -> Option<&dyn DrawsThere> {
        None
    }

    /// Waits until all that was asked for is done, so that a clock may be read.
    ///
    /// # Errors
    /// When the device failed at any of it.
    fn wait(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
