//! Tensors as files hold them, and the way from there to what the decoder uses.

use std::borrow::Cow;
use std::path::Path;

use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::format::Ggml;
use super::{TensorFormat, blocks};
use crate::error::{EngineError, Result};
use crate::linear::Linear;

/// Where and how a file holds one tensor. All numbers were checked against the file.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Which of the source's files.
    pub(crate) file: usize,
    /// Where in that file.
    pub(crate) range: std::ops::Range<usize>,
    /// How values are stored.
    pub(crate) format: TensorFormat,
    /// Row-major dimensions.
    pub(crate) shape: Vec<u64>,
}

/// A tensor's name for messages.
#[derive(Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) path: &'a Path,
    pub(crate) tensor: &'a str,
}

impl Origin<'_> {
    pub(crate) fn error(&self, message: impl Into<String>) -> EngineError {
        EngineError::Tensor {
            path: self.path.to_path_buf(),
            tensor: self.tensor.to_string(),
            message: message.into(),
        }
    }

    /// Whether the stored shape is the expected one.
    pub(crate) fn check_shape(&self, stored: &[u64], expected: &[u64]) -> Result<()> {
        if stored == expected {
            return Ok(());
        }
        Err(self.error(format!(
            "the shape is {stored:?} where the configuration implies {expected:?}; the weights \
             and the configuration belong to different models"
        )))
    }
}

/// A product with the stored matrix `(rows, width)`, converted to `target` where that
/// differs from `stored`.
///
/// # Errors
/// When the conversion is not possible or the device fails.
pub(crate) fn linear(
    bytes: &[u8],
    stored: TensorFormat,
    target: TensorFormat,
    (rows, width): (usize, usize),
    bias: Option<Tensor>,
    device: &Device,
) -> Result<Linear> {
    let bytes = if stored == target {
        Cow::Borrowed(bytes)
    } else {
        Cow::Owned(convert(bytes, stored, target, width)?)
    };
    blocks::linear(&bytes, target, (rows, width), bias, device)
}

/// A stored vector as f32.
///
/// # Errors
/// When it is stored in blocks, or the device fails.
pub(crate) fn vector(
    bytes: &[u8],
    stored: TensorFormat,
    origin: Origin<'_>,
    device: &Device,
) -> Result<Tensor> {
    if !stored.is_float() {
        return Err(origin.error(format!(
            "a vector stored as {stored}; vectors are expected as f32, f16 or bf16"
        )));
    }
    let values = floats(bytes, stored);
    let len = values.len();
    Ok(Tensor::from_vec(values, len, device)?)
}

/// Rows of `width` values from one format to another, a piece per thread.
fn convert(
    bytes: &[u8],
    stored: TensorFormat,
    target: TensorFormat,
    width: usize,
) -> Result<Vec<u8>> {
    /// Values per piece: its f32 form stays in the second-level cache.
    const PIECE: usize = 64 * 1024;
    let row_bytes = |format: TensorFormat| format.bytes(1, width as u64) as usize;
    let rows_per_piece = (PIECE / width.max(1)).max(1);
    let rows = bytes.len() / row_bytes(stored).max(1);
    let mut out = vec![0u8; rows * row_bytes(target)];
    out.par_chunks_mut(rows_per_piece * row_bytes(target))
        .zip(bytes.par_chunks(rows_per_piece * row_bytes(stored)))
        .try_for_each(|(to, from)| -> Result<()> {
            let values = floats(from, stored);
            let len = values.len();
            let values = Tensor::from_vec(values, len, &Device::Cpu)?;
            to.copy_from_slice(&QTensor::quantize(&values, target.ggml())?.data()?);
            Ok(())
        })?;
    Ok(out)
}

/// Stored floats as f32; exact. Blocks give nothing.
pub(crate) fn floats(bytes: &[u8], format: TensorFormat) -> Vec<f32> {
    match format {
        TensorFormat::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        TensorFormat::F16 => halves(bytes, f16::from_le_bytes).to_f32_vec(),
        TensorFormat::BF16 => halves(bytes, bf16::from_le_bytes).to_f32_vec(),
        _ => Vec::new(),
    }
}

/// Stored 16-bit values, whatever their alignment in the file.
pub(crate) fn halves<T>(bytes: &[u8], from: impl Fn([u8; 2]) -> T) -> Vec<T> {
    bytes.chunks_exact(2).map(|b| from([b[0], b[1]])).collect()
}
