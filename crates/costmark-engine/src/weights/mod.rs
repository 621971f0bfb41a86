//! Where weights come from: Hugging Face folders, GGUF files, or a seed.

pub(crate) mod blocks;
pub mod format;
pub mod gguf;
pub mod layout;
pub(crate) mod mmap;
pub mod progress;
pub mod safetensors;
pub(crate) mod stored;
pub mod synthetic;

use candle_core::Tensor;

use crate::error::Result;
use crate::linear::Linear;

pub use format::{FormatChoice, TensorFormat};
pub use progress::{Progress, ProgressFn};
pub use synthetic::SyntheticWeights;

/// Hands out the tensors of one checkpoint under their Hugging Face names
/// (`model.layers.0.self_attn.q_proj.weight`), in the layout the decoder expects:
/// rotary halves *not* interleaved, matrices `(out, in)`.
///
/// Each tensor is asked for once; what is not asked for is not loaded.
pub trait WeightSource {
    /// The matrix `name.weight` `(out_features, in_features)`, with `name.bias`
    /// `(out_features)` if `bias`.
    ///
    /// # Errors
    /// Names the file and tensor when it is missing, cut off or of another shape.
    fn linear(
        &mut self,
        name: &str,
        out_features: u64,
        in_features: u64,
        bias: bool,
    ) -> Result<Linear>;

    /// The vector `name.weight` of length `len`, f32.
    ///
    /// # Errors
    /// As for [`linear`](WeightSource::linear).
    fn vector(&mut self, name: &str, len: u64) -> Result<Tensor>;

    /// How [`linear`](WeightSource::linear) would store `name.weight`, without loading it.
    ///
    /// # Errors
    /// When the tensor is missing or of a type that is not supported.
    fn stored_as(&self, name: &str) -> Result<TensorFormat>;
}
