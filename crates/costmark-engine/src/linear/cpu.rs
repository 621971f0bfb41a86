//! Matrices in the CPU's memory.
//!
//! The formats that [`Packed`] takes are multiplied by our own kernels (what they round is
//! said in [`costmark_kernels::linear`]); ggml's other block formats are held as stored and
//! multiplied by candle.

use std::borrow::Cow;

use candle_core::quantized::{QStorage, QuantizedType};
use candle_core::{CpuStorage, Device, Tensor};
use costmark_kernels::linear::{Isa, Packed, multiply};

use crate::error::{EngineError, Result};
use crate::ops::cpu::Values;
use crate::weights::format::Ggml;
use crate::weights::{TensorFormat, stored};

/// A matrix `(outputs, width)` in the CPU's memory.
pub(crate) struct CpuMatrix {
    weights: Weights,
    outputs: usize,
    width: usize,
}

enum Weights {
    Packed(Packed),
    /// Blocks as stored, multiplied by candle.
    Blocks(Box<dyn QuantizedType>),
}

impl std::fmt::Debug for CpuMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "CpuMatrix[{}; {} × {}]",
            self.dtype_name(),
            self.outputs,
            self.width
        )
    }
}

impl CpuMatrix {
    /// A matrix of `outputs × width` values stored in `bytes`, which are copied once.
    ///
    /// # Errors
    /// When `bytes` are not that many values, or candle refuses them.
    pub(crate) fn new(
        bytes: &[u8],
        format: TensorFormat,
        outputs: usize,
        width: usize,
    ) -> Result<Self> {
        let weights = if Packed::takes(format) {
            Weights::Packed(Packed::new(bytes, format, outputs, width, Isa::detect())?)
        } else {
            Weights::Blocks(blocks(bytes, format)?)
        };
        Ok(Self {
            weights,
            outputs,
            width,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Packed(packed) => packed.bytes(),
            Weights::Blocks(blocks) => blocks.storage_size_in_bytes(),
        }
    }

    pub(super) fn dtype_name(&self) -> String {
        match &self.weights {
            Weights::Packed(packed) => packed.format().name().into(),
            Weights::Blocks(blocks) => TensorFormat::name_of(blocks.dtype()),
        }
    }

    /// `x` `(rows, width)` f32 with each matrix → `(rows, outputs)` f32 each, as one piece
    /// of work where the matrices are packed.
    pub(super) fn forward_all(matrices: &[&Self], x: &Tensor) -> Result<Vec<Tensor>> {
        let (rows, width) = x.dims2()?;
        if let Some(other) = matrices.iter().find(|m| m.width != width) {
            return Err(EngineError::Run(format!(
                "{width} activations for a matrix of {} columns",
                other.width
            )));
        }
        let x = x.contiguous()?;
        let x = Values::of(&x)?;
        let packed: Vec<&Packed> = matrices.iter().filter_map(|m| m.packed()).collect();
        let mut products = multiply(&packed, x.get(), rows).into_iter();
        matrices
            .iter()
            .map(|matrix| {
                let y = match &matrix.weights {
                    Weights::Packed(_) => products.next().unwrap_or_default(),
                    Weights::Blocks(blocks) => {
                        let mut y = vec![0f32; rows * matrix.outputs];
                        blocks.matmul_t((rows, width, matrix.outputs), x.get(), &mut y)?;
                        y
                    }
                };
                Ok(Tensor::from_vec(y, (rows, matrix.outputs), &Device::Cpu)?)
            })
            .collect()
    }

    /// Rows `ids` as f32, `(ids, width)`.
    pub(super) fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let mut out = Vec::with_capacity(ids.len() * self.width);
        for &id in ids {
            if id as usize >= self.outputs {
                return Err(EngineError::Run(format!(
                    "row {id} of a matrix of {} rows",
                    self.outputs
                )));
            }
            out.extend(self.row(id)?);
        }
        Ok(Tensor::from_vec(
            out,
            (ids.len(), self.width),
            &Device::Cpu,
        )?)
    }

    fn row(&self, id: u32) -> Result<Vec<f32>> {
        let values = match &self.weights {
            Weights::Packed(packed) => {
                let row = packed.row(id as usize);
                if packed.format().is_float() {
                    return Ok(stored::floats(&row, packed.format()));
                }
                blocks(&row, packed.format())?.embedding(&[0], 1, self.width)?
            }
            Weights::Blocks(blocks) => blocks.embedding(&[id], self.outputs, self.width)?,
        };
        match values {
            CpuStorage::F32(values) => Ok(values),
            _ => Err(EngineError::Run(format!("row {id} did not become f32"))),
        }
    }

    fn packed(&self) -> Option<&Packed> {
        match &self.weights {
            Weights::Packed(packed) => Some(packed),
            Weights::Blocks(_) => None,
        }
    }
}

/// Blocks on the CPU, copied from `bytes`.
fn blocks(bytes: &[u8], format: TensorFormat) -> Result<Box<dyn QuantizedType>> {
    // candle takes blocks only where their scales are aligned, which files with an odd
    // alignment need not be; a fresh allocation is aligned by every allocator in use.
    let aligned = if bytes.as_ptr().addr().is_multiple_of(align_of::<u32>()) {
        Cow::Borrowed(bytes)
    } else {
        Cow::Owned(bytes.to_vec())
    };
    match QStorage::from_data(aligned, &Device::Cpu, format.ggml())? {
        QStorage::Cpu(blocks) => Ok(blocks),
        _ => Err(EngineError::Run("blocks were not put on the CPU".into())),
    }
}
