//! The one seam behind which every matrix product with weights lives.
//!
//! [`Linear::forward`] takes activations `(tokens, in)` in f32 and returns `(tokens, out)`
//! in f32, whatever the weights are stored as; with float weights on a GPU it also takes
//! activations of their own type and returns that. Faster products replace what is behind it
//! and nothing else.
//!
//! On the CPU the kernels of `costmark-kernels` multiply; `cpu` says what they round.

mod cpu;
#[cfg(test)]
mod tests;
mod together;

use std::sync::Arc;

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{DType, Module, Tensor};

pub(crate) use self::cpu::CpuMatrix;
pub(crate) use self::together::Together;
use crate::error::{EngineError, Result};
use crate::weights::TensorFormat;
use crate::weights::format::Ggml;
pub use costmark_kernels::linear::mapped_bytes;

/// A weight matrix `(out, in)` ready for products with activations, and for looking up
/// its rows (an embedding table tied to the output projection is one `Linear`).
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

#[derive(Debug, Clone)]
enum Weight {
    /// ggml blocks along `in` on another device, multiplied by candle.
    Quantized(Arc<QTensor>),
    /// In the CPU's memory, held once.
    Cpu(Arc<CpuMatrix>),
    /// `(out, in)` in a float type on another device.
    Dense(Tensor),
}

impl Linear {
    /// A product with ggml blocks, `(out, in)`, and an optional f32 bias `(out)`.
    #[must_use]
    pub fn quantized(weight: QTensor, bias: Option<Tensor>) -> Self {
        Self {
            weight: Weight::Quantized(Arc::new(weight)),
            bias,
        }
    }

    /// A product with a float matrix `(out, in)`, and an optional f32 bias `(out)`.
    #[must_use]
    pub fn dense(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self {
            weight: Weight::Dense(weight),
            bias,
        }
    }

    /// A product with a matrix in the CPU's memory, and an optional f32 bias `(out)`.
    pub(crate) fn on_cpu(matrix: CpuMatrix, bias: Option<Tensor>) -> Self {
        Self {
            weight: Weight::Cpu(Arc::new(matrix)),
            bias,
        }
    }

    /// `(tokens, in)` → `(tokens, out)` of the same type: f32, or that of float weights on a
    /// GPU.
    ///
    /// # Errors
    /// When the shapes do not fit or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [y] = Self::forward_all([self], x)?;
        Ok(y)
    }

    /// The same activations `(tokens, in)` f32 with several matrices → `(tokens, out)` f32
    /// each. On the CPU they are rounded once, and all products are one piece of work.
    ///
    /// # Errors
    /// When the shapes do not fit or the device fails.
    pub fn forward_all<const N: usize>(linears: [&Self; N], x: &Tensor) -> Result<[Tensor; N]> {
        let matrices: Vec<&CpuMatrix> = linears
            .iter()
            .filter_map(|linear| match &linear.weight {
                Weight::Cpu(matrix) => Some(matrix.as_ref()),
                _ => None,
            })
            .collect();
        let mut on_cpu = CpuMatrix::forward_all(&matrices, x)?.into_iter();
        let mut outputs = linears.map(|_| x.clone());
        for (linear, output) in linears.iter().zip(&mut outputs) {
            let y = match &linear.weight {
                Weight::Quantized(weight) => QMatMul::QTensor(Arc::clone(weight)).forward(x)?,
                Weight::Cpu(_) => on_cpu
                    .next()
                    .ok_or_else(|| EngineError::Run("a product is missing".into()))?,
                Weight::Dense(weight) => x
                    .to_dtype(weight.dtype())?
                    .matmul(&weight.t()?)?
                    .to_dtype(x.dtype())?,
            };
            *output = match &linear.bias {
                Some(bias) => y.broadcast_add(&bias.to_dtype(y.dtype())?)?,
                None => y,
            };
        }
        Ok(outputs)
    }

    /// Rows of the matrix: ids `(tokens)` u32 → `(tokens, in)` f32. Only these rows are
    /// dequantised.
    ///
    /// # Errors
    /// When an id is out of range or the device fails.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(match &self.weight {
            Weight::Quantized(weight) => weight.embedding(ids)?,
            Weight::Cpu(matrix) => matrix.rows(&ids.to_vec1::<u32>()?)?,
            Weight::Dense(weight) => weight
                .index_select(&ids.to_device(weight.device())?, 0)?
                .to_dtype(DType::F32)?,
        })
    }

    /// Bytes the weights occupy, bias included: what one product must read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let weight = match &self.weight {
            Weight::Quantized(weight) => weight.storage_size_in_bytes(),
            Weight::Cpu(matrix) => matrix.bytes(),
            Weight::Dense(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
        };
        let bias = self.bias.as_ref().map_or(0, |b| b.elem_count() * 4);
        (weight + bias) as u64
    }

    /// The type of float weights on a GPU, which activations may be of, too.
    #[must_use]
    pub fn float_dtype(&self) -> Option<DType> {
        match &self.weight {
            Weight::Dense(weight) => Some(weight.dtype()),
            Weight::Quantized(_) | Weight::Cpu(_) => None,
        }
    }

    /// How the weights are stored, as users type it: `q8_0`, `q4_k`, `f32`, …
    #[must_use]
    pub fn dtype_name(&self) -> String {
        match &self.weight {
            Weight::Quantized(weight) => TensorFormat::name_of(weight.dtype()),
            Weight::Cpu(matrix) => matrix.dtype_name(),
            Weight::Dense(weight) => weight.dtype().as_str().to_string(),
        }
    }
}
