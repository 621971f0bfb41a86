//! See [`gpu_peaks`](crate::gpu_peaks). Times are those of the device's own events.
#![allow(unsafe_code)]

use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaSlice, PushKernelArg, sys};
use candle_core::{CudaDevice, DType, Device};

use super::kernels::{ROW_THREADS, compile, config, driver_error, not_loaded};
use super::random::{RandomMatrices, SOURCE};
use super::{address, kernels};
use crate::device::available_bytes;
use crate::error::{EngineError, Result};
use crate::gpu_peaks::GpuPeaks;

/// Twenty times the caches of the largest GPUs.
const BUFFER_BYTES: usize = 1 << 30;
/// Passes over the buffer that are timed, after one that is not.
const PASSES: usize = 7;
/// Products per timed pass.
pub(super) const PRODUCTS: usize = 8;

pub(crate) fn measure(device: &Device) -> Result<GpuPeaks> {
    let cuda = device.as_cuda_device()?;
    let bench = Bench::new(device)?;
    let read = bench.read()?;
    let copy = bench.copy()?;
    let buffer_bytes = bench.buffer.len() as u64;
    drop(bench);
    let side = matrix_side(device);
    let random = RandomMatrices::new(device, DType::BF16)?;
    let (a, b) = (
        random.make((side, side), 1, 1.0)?,
        random.make((side, side), 2, 1.0)?,
    );
    let product = || -> Result<()> {
        for _ in 0..PRODUCTS {
            // As the model's weights lie: the right side transposed.
            a.matmul(&b.t()?)?;
        }
        Ok(())
    };
    let flops = 2.0 * (side as f64).powi(3) * PRODUCTS as f64;
    let products = timed(cuda, flops, product)?;
    Ok(GpuPeaks {
        read_bytes_per_s: read,
        copy_bytes_per_s: copy,
        bf16_flops_per_s: products,
        buffer_bytes,
        matrix_side: side as u32,
    })
}

/// Of square matrices: three of 128 MiB each in 16 bits, or of 32 where little is free.
pub(super) fn matrix_side(device: &Device) -> usize {
    match available_bytes(device) {
        Some(free) if free > 1 << 30 => 8192,
        _ => 4096,
    }
}

pub(crate) fn quick_read(device: &Device) -> Result<Vec<f64>> {
    Bench::new(device)?.read()
}

/// A buffer to run over.
struct Bench {
    device: CudaDevice,
    buffer: CudaSlice<u8>,
    read_all: CudaFunction,
}

impl Bench {
    fn new(device: &Device) -> Result<Self> {
        let free = available_bytes(device).unwrap_or(0);
        let device = device.as_cuda_device()?.clone();
        let bytes = BUFFER_BYTES.min(usize::try_from(free / 4).unwrap_or(0));
        if bytes < BUFFER_BYTES / 4 {
            return Err(EngineError::Run(format!(
                "{free} bytes are free on the GPU, too few to measure its bandwidth beside the \
                 model: lower --kv-budget"
            )));
        }
        let ptx = compile(SOURCE, &[("ACT", 0)])?;
        let module = device.cuda_stream().context().load_module(ptx);
        let read_all = module
            .and_then(|module| module.load_function("read_all"))
            .map_err(not_loaded)?;
        Ok(Self {
            // Written, so that every page is there.
            buffer: device.alloc_zeros::<u8>(bytes / 16 * 16)?,
            read_all,
            device,
        })
    }

    fn read(&self) -> Result<Vec<f64>> {
        let out = self.device.alloc_zeros::<u32>(1)?;
        let (data, out) = (
            address(&self.buffer, &self.device),
            address(&out, &self.device),
        );
        let words = (self.buffer.len() / 16) as u64;
        let stream = self.device.cuda_stream();
        timed(&self.device, self.buffer.len() as f64, || {
            let mut launch = stream.launch_builder(&self.read_all);
            launch.arg(&data).arg(&words).arg(&out);
            // SAFETY: the order and types of the kernel's parameters; `data` holds the words.
            unsafe { launch.launch(config((2048, 1, 1), (ROW_THREADS, 1))) }
                .map_err(|error| driver_error("read_all", error))?;
            Ok(())
        })
    }

    fn copy(&self) -> Result<Vec<f64>> {
        let half = self.buffer.len() / 2;
        let stream = self.device.cuda_stream();
        let mut target = self.device.alloc_zeros::<u8>(half)?;
        timed(&self.device, 2.0 * half as f64, || {
            stream
                .memcpy_dtod(&self.buffer.slice(..half), &mut target)
                .map_err(|error| driver_error("a copy", error))
        })
    }
}

/// `amount` per second of each pass of `work`.
pub(super) fn timed(
    device: &CudaDevice,
    amount: f64,
    mut work: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    let stream = device.cuda_stream();
    let mark = || {
        stream
            .record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))
            .map_err(|error| kernels::driver_error("an event", error))
    };
    work()?;
    let mut rates = Vec::with_capacity(PASSES);
    for _ in 0..PASSES {
        let begin = mark()?;
        work()?;
        let end = mark()?;
        let passed_ms = begin
            .elapsed_ms(&end)
            .map_err(|error| kernels::driver_error("an event", error))?;
        rates.push(amount / (f64::from(passed_ms) / 1e3));
    }
    Ok(rates)
}
