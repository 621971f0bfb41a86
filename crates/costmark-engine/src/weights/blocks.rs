//! From stored bytes to a [`Linear`].

use std::borrow::Cow;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{Device, Tensor};
use half::{bf16, f16};

use super::TensorFormat;
use super::stored::{floats, halves};
use crate::error::Result;
use crate::linear::{CpuMatrix, Linear, Values, blocks, repacking_pays};

/// A product with the matrix `(out, in)` stored in `bytes`, which are copied once.
///
/// # Errors
/// When the device fails.
pub(crate) fn linear(
    bytes: &[u8],
    format: TensorFormat,
    (out_features, in_features): (usize, usize),
    bias: Option<Tensor>,
    device: &Device,
) -> Result<Linear> {
    let shape = (out_features, in_features);
    let matrix = |values| CpuMatrix::new(values, out_features, in_features);
    if device.is_cpu() {
        let values = match format {
            TensorFormat::F16 => Some(Values::F16(halves(bytes, f16::from_le_bytes))),
            TensorFormat::BF16 => Some(Values::BF16(halves(bytes, bf16::from_le_bytes))),
            TensorFormat::F32 => None,
            _ if repacking_pays() => None,
            _ => Some(Values::Blocks(blocks(&aligned(bytes), format.ggml())?)),
        };
        if let Some(values) = values {
            return Ok(Linear::on_cpu(matrix(values), bias));
        }
    }
    if format.is_float() {
        let dense = Tensor::from_vec(floats(bytes, format), shape, device)?;
        return Ok(Linear::dense(dense, bias));
    }
    let storage = QStorage::from_data(aligned(bytes), device, format.ggml())?;
    Ok(Linear::quantized(QTensor::new(storage, shape)?, bias))
}

/// candle takes blocks only where their scales are aligned, which files with an odd
/// alignment need not be.
fn aligned(bytes: &[u8]) -> Cow<'_, [u8]> {
    if bytes.as_ptr().addr().is_multiple_of(align_of::<u32>()) {
        Cow::Borrowed(bytes)
    } else {
        // A fresh allocation of this size is aligned by every allocator in use.
        Cow::Owned(bytes.to_vec())
    }
}
