//! From stored bytes to a [`Linear`].

use std::borrow::Cow;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{DType, Device, Tensor};

use super::TensorFormat;
use super::format::Ggml;
use crate::error::Result;
use crate::linear::{CpuMatrix, Linear};

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
    if device.is_cpu() {
        let matrix = CpuMatrix::new(bytes, format, out_features, in_features)?;
        return Ok(Linear::on_cpu(matrix, bias));
    }
    let shape = (out_features, in_features);
    if format.is_float() {
        let dtype = float_dtype(format);
        let dense = Tensor::from_raw_buffer(bytes, dtype, &[out_features, in_features], device)?;
        // Of the type that activations will have, so that it need not be converted each time.
        let bias = bias.map(|bias| bias.to_dtype(dtype)).transpose()?;
        return Ok(Linear::dense(dense, bias));
    }
    let storage = QStorage::from_data(Cow::Borrowed(bytes), device, format.ggml())?;
    Ok(Linear::quantized(QTensor::new(storage, shape)?, bias))
}

/// candle's name for a float format; f32 for blocks, which have none.
pub(crate) fn float_dtype(format: TensorFormat) -> DType {
    match format {
        TensorFormat::F16 => DType::F16,
        TensorFormat::BF16 => DType::BF16,
        _ => DType::F32,
    }
}
