//! From stored bytes to a [`Linear`].

use std::borrow::Cow;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{Device, Tensor};
use half::{bf16, f16};

use super::TensorFormat;
use crate::error::Result;
use crate::linear::Linear;

/// A product with the matrix `(out, in)` stored in `bytes`, which are copied once. On a
/// CPU 16-bit floats are widened to f32, which is exact.
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
    if format.is_float() {
        let dense = Tensor::from_vec(to_f32(bytes, format), shape, device)?;
        return Ok(Linear::dense(dense, bias));
    }
    let storage = QStorage::from_data(Cow::Borrowed(bytes), device, format.ggml())?;
    Ok(Linear::quantized(QTensor::new(storage, shape)?, bias))
}

fn to_f32(bytes: &[u8], format: TensorFormat) -> Vec<f32> {
    match format {
        TensorFormat::F16 => bytes
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        TensorFormat::BF16 => bytes
            .chunks_exact(2)
            .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        _ => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
    }
}
