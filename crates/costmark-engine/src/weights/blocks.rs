//! From stored bytes to a [`Linear`].

use std::borrow::Cow;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{Device, Tensor};

use super::TensorFormat;
use super::format::Ggml;
use super::stored::floats;
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
        let dense = Tensor::from_vec(floats(bytes, format), shape, device)?;
        return Ok(Linear::dense(dense, bias));
    }
    let storage = QStorage::from_data(Cow::Borrowed(bytes), device, format.ggml())?;
    Ok(Linear::quantized(QTensor::new(storage, shape)?, bias))
}
