//! Random matrices made where they are used: a 70B shape is there in seconds.
#![allow(unsafe_code)]

use candle_core::cuda_backend::cudarc::driver::{CudaFunction, PushKernelArg};
use candle_core::{CudaDevice, DType, Device, Tensor};

use super::kernels::{ROW_THREADS, activation_number, compile, config, driver_error, not_loaded};
use super::pointer;
use crate::error::Result;

/// The part of the kernels' text that does not depend on a head size.
pub(super) const SOURCE: &str = concat!(
    include_str!("kernels/numbers.cuh"),
    include_str!("kernels/steps.cu")
);

/// Makes matrices of one float type.
pub(crate) struct RandomMatrices {
    device: CudaDevice,
    dtype: DType,
    function: CudaFunction,
}

impl RandomMatrices {
    /// For a GPU and f32, f16 or bf16.
    ///
    /// # Errors
    /// When the kernel cannot be compiled or loaded.
    pub(crate) fn new(device: &Device, dtype: DType) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let ptx = compile(SOURCE, &[("ACT", activation_number(dtype)?)])?;
        let module = device.cuda_stream().context().load_module(ptx);
        let function = module
            .and_then(|module| module.load_function("random_weights"))
            .map_err(not_loaded)?;
        Ok(Self {
            device,
            dtype,
            function,
        })
    }

    /// The type of what it makes.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// `dims` numbers, evenly spread in ±`limit`; equal seeds give equal ones.
    ///
    /// # Errors
    /// When the memory is not there or the device fails.
    pub(crate) fn make(&self, dims: (usize, usize), seed: u64, limit: f32) -> Result<Tensor> {
        let n = (dims.0 * dims.1) as u64;
        // SAFETY: plain numbers, all written below.
        let matrix =
            unsafe { Tensor::empty(dims, self.dtype, &Device::Cuda(self.device.clone())) }?;
        let out = pointer(&matrix, self.dtype, dims.0 * dims.1, &self.device)?;
        let stream = self.device.cuda_stream();
        let mut launch = stream.launch_builder(&self.function);
        launch.arg(&out).arg(&n).arg(&seed).arg(&limit);
        // SAFETY: the order and types of the kernel's parameters; `out` holds n numbers.
        unsafe { launch.launch(config((2048, 1, 1), (ROW_THREADS, 1))) }
            .map_err(|error| driver_error("random_weights", error))?;
        Ok(matrix)
    }
}
