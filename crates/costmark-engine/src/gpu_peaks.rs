//! What a GPU's memory and tensor cores can do, measured: the denominators of MBU and MFU.
//!
//! In the engine because its kernels and cuBLAS are here: the peak of products is that of the
//! library the model's own products use.

use candle_core::Device;

use crate::error::{EngineError, Result};

/// Rates of the single passes.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuPeaks {
    /// Bytes read per second, of a buffer far beyond the caches.
    pub read_bytes_per_s: Vec<f64>,
    /// Bytes read plus bytes written per second, of a copy within the GPU.
    pub copy_bytes_per_s: Vec<f64>,
    /// FLOP/s of a large bf16 product with sums in f32, on random numbers: less power than zeros
    /// would take is no peak a model could see.
    pub bf16_flops_per_s: Vec<f64>,
    /// Size of the buffer.
    pub buffer_bytes: u64,
    /// Side of the square matrices.
    pub matrix_side: u32,
}

/// Measures everything; about a second.
///
/// # Errors
/// On a CPU, when less than 1 GiB is free, or when the device fails.
pub fn measure(device: &Device) -> Result<GpuPeaks> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return crate::ops::cuda::peaks::measure(device);
    }
    Err(no_gpu(device))
}

/// Measures the read bandwidth again; some tens of milliseconds.
///
/// # Errors
/// As for [`measure`].
pub fn quick_read(device: &Device) -> Result<Vec<f64>> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return crate::ops::cuda::peaks::quick_read(device);
    }
    Err(no_gpu(device))
}

/// FLOP/s of the single passes of a large product of 8-bit floats (e4m3) with sums in f32 and bf16
/// coming out, by cuBLASLt; about a second.
///
/// Apart from the others, since no model of ours is computed so: it says what the GPU could do.
///
/// # Errors
/// On a CPU, on a GPU older than compute capability 8.9, when the library refuses or computes
/// something else, or when the device fails.
pub fn fp8_flops(device: &Device) -> Result<Vec<f64>> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return crate::ops::cuda::fp8::measure(device);
    }
    Err(no_gpu(device))
}

fn no_gpu(device: &Device) -> EngineError {
    EngineError::Run(format!("{:?} is no GPU", device.location()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_refused() {
        assert!(measure(&Device::Cpu).is_err());
        assert!(quick_read(&Device::Cpu).is_err());
        assert!(fp8_flops(&Device::Cpu).is_err());
    }
}
