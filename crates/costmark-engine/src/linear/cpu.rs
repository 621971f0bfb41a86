//! Matrices in the CPU's memory, and the choice of product for the number of rows.
//!
//! What each product rounds: with float weights only sums, in f32. With ggml blocks the
//! activations are first rounded to 8 bits per value with one scale per 32 (`q*_0`) or 256
//! (`q*_k`) values, as ggml does; the sum is then exact integers within a block and f32
//! between blocks. For many rows the rounded activations and the blocks are brought to f32
//! and multiplied there: the same sum but for its order, so that a prompt gives the same
//! logits however it is cut into steps, up to rounding in f32.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QStorage, QTensor, QuantizedType};
use candle_core::{CpuStorage, Device, Storage, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use super::floats::{Floats, few_rows_widened};
use crate::error::{EngineError, Result};

/// Up to this many rows each weight is met by all rows while it is in a register; beyond, a
/// blocked product of f32 tiles is faster.
const FEW_ROWS: usize = 64;
/// The same limit for ggml's integer products, which beat both while bringing the blocks
/// to f32 costs more than it saves.
fn few_integer_rows(blocks: GgmlDType) -> usize {
    match blocks {
        // Cheap to bring to f32, and the slowest integer product of all.
        GgmlDType::Q8_0 => 4,
        _ => 48,
    }
}
/// Weight rows brought to f32 at a time for many rows.
const TILE_ROWS: usize = 128;

/// A matrix `(outputs, width)` in the CPU's memory.
pub(crate) struct CpuMatrix {
    values: Values,
    outputs: usize,
    width: usize,
}

pub(crate) enum Values {
    F16(Vec<f16>),
    BF16(Vec<bf16>),
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

/// Whether candle's products over repacked blocks pay on this CPU. They hold every block
/// matrix a second time (up to 1.5 times as large), which pays where the instructions for
/// 8-bit dot products exist; with plain AVX2 it buys nothing at one row.
pub(crate) fn repacking_pays() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512vnni")
            || std::arch::is_x86_feature_detected!("avxvnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        cfg!(target_arch = "aarch64")
    }
}

impl CpuMatrix {
    /// A matrix of `outputs × width` values.
    pub(crate) fn new(values: Values, outputs: usize, width: usize) -> Self {
        Self {
            values,
            outputs,
            width,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.values {
            Values::Blocks(blocks) => blocks.storage_size_in_bytes(),
            Values::F16(_) | Values::BF16(_) => 2 * self.outputs * self.width,
        }
    }

    pub(super) fn dtype_name(&self) -> String {
        match &self.values {
            Values::F16(_) => "f16".into(),
            Values::BF16(_) => "bf16".into(),
            Values::Blocks(blocks) => format!("{:?}", blocks.dtype()).to_lowercase(),
        }
    }

    /// `x` `(rows, width)` f32 → `(rows, outputs)` f32.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        if width != self.width {
            return Err(EngineError::Run(format!(
                "{width} activations for a matrix of {} columns",
                self.width
            )));
        }
        let y = match &self.values {
            Values::F16(v) if rows <= FEW_ROWS => {
                Floats::F16(v).few_rows(&to_vec(x)?, rows, self.outputs)
            }
            Values::BF16(v) if rows <= FEW_ROWS => {
                Floats::BF16(v).few_rows(&to_vec(x)?, rows, self.outputs)
            }
            Values::F16(_) | Values::BF16(_) => return self.in_f32(x),
            Values::Blocks(blocks) => {
                if rows > few_integer_rows(blocks.dtype())
                    && let Some(kind) = activation_blocks(blocks.dtype())
                {
                    let rounded = QTensor::quantize(x, kind)?.dequantize(&Device::Cpu)?;
                    if rows > FEW_ROWS {
                        return self.in_f32(&rounded);
                    }
                    let widen = |first: usize, out: &mut [f32]| self.widen(first, out);
                    let y = few_rows_widened(&to_vec(&rounded)?, rows, self.outputs, widen)?;
                    return Ok(Tensor::from_vec(y, (rows, self.outputs), &Device::Cpu)?);
                }
                let mut y = vec![0f32; rows * self.outputs];
                blocks.matmul_t((rows, width, self.outputs), &to_vec(x)?, &mut y)?;
                y
            }
        };
        Ok(Tensor::from_vec(y, (rows, self.outputs), &Device::Cpu)?)
    }

    /// Rows `ids` as f32, `(ids, width)`.
    pub(super) fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let mut out = vec![0f32; ids.len() * self.width];
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.width)) {
            if id as usize >= self.outputs {
                return Err(EngineError::Run(format!(
                    "row {id} of a matrix of {} rows",
                    self.outputs
                )));
            }
            self.widen(id as usize, out)?;
        }
        Ok(Tensor::from_vec(
            out,
            (ids.len(), self.width),
            &Device::Cpu,
        )?)
    }

    /// Whole rows from `first` on, as f32.
    fn widen(&self, first: usize, out: &mut [f32]) -> Result<()> {
        match &self.values {
            Values::F16(v) => Floats::F16(v).widen(first * self.width, out),
            Values::BF16(v) => Floats::BF16(v).widen(first * self.width, out),
            Values::Blocks(blocks) => {
                let last = first + out.len() / self.width;
                let ids: Vec<u32> = (first as u32..last as u32).collect();
                if let CpuStorage::F32(values) = blocks.embedding(&ids, self.outputs, self.width)? {
                    out.copy_from_slice(&values);
                }
            }
        }
        Ok(())
    }

    /// The product in f32, a tile of weight rows per thread.
    fn in_f32(&self, x: &Tensor) -> Result<Tensor> {
        let tiles: Vec<Tensor> = (0..self.outputs.div_ceil(TILE_ROWS))
            .into_par_iter()
            .map(|tile| {
                let first = tile * TILE_ROWS;
                let rows = TILE_ROWS.min(self.outputs - first);
                let mut wide = vec![0f32; rows * self.width];
                self.widen(first, &mut wide)?;
                let wide = Tensor::from_vec(wide, (rows, self.width), &Device::Cpu)?;
                Ok(x.matmul(&wide.t()?)?)
            })
            .collect::<Result<_>>()?;
        Ok(Tensor::cat(&tiles, 1)?)
    }
}

/// The product with an f32 tensor `(outputs, width)` for few rows; none where candle's own
/// is to be used.
pub(super) fn few_rows_f32(weight: &Tensor, x: &Tensor) -> Result<Option<Tensor>> {
    let (rows, width) = x.dims2()?;
    let (outputs, weight_width) = weight.dims2()?;
    if rows > FEW_ROWS || width != weight_width {
        return Ok(None);
    }
    let (storage, layout) = weight.storage_and_layout();
    let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
        (&*storage, layout.contiguous_offsets())
    else {
        return Ok(None);
    };
    let y = Floats::F32(&values[start..end]).few_rows(&to_vec(x)?, rows, outputs);
    Ok(Some(Tensor::from_vec(y, (rows, outputs), &Device::Cpu)?))
}

fn to_vec(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

/// The blocks to which ggml rounds activations for weights in blocks of this kind; none
/// where candle cannot bring those back to f32.
fn activation_blocks(weights: GgmlDType) -> Option<GgmlDType> {
    match weights {
        GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => Some(GgmlDType::Q8_0),
        GgmlDType::Q2K | GgmlDType::Q3K | GgmlDType::Q4K | GgmlDType::Q5K | GgmlDType::Q6K => {
            Some(GgmlDType::Q8K)
        }
        _ => None,
    }
}

/// Blocks of `dtype` on the CPU, copied from `bytes`.
pub(crate) fn blocks(bytes: &[u8], dtype: GgmlDType) -> Result<Box<dyn QuantizedType>> {
    match QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, dtype)? {
        QStorage::Cpu(blocks) => Ok(blocks),
        _ => Err(EngineError::Run("blocks were not put on the CPU".into())),
    }
}
