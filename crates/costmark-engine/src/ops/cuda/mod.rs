//! [`Ops`] on an NVIDIA GPU, with kernels of our own.
//!
//! The sum of the residual stream is f32 as everywhere; what goes into products and comes out
//! of them is of the weights' own type, which spares two conversions per product.

pub(crate) mod fp8;
mod kernels;
pub(crate) mod peaks;
mod random;
mod step;

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, sys};
use candle_core::{CudaDevice, DType, Device, Storage, Tensor};

use self::kernels::{
    Attending, Columns, DECODE_ROUND, Kernels, PROMPT_ROWS, Pointer, Preparing, Shape,
};
use self::step::StepNumbers;
use super::{AttentionInput, AttentionShape, Drawn, DrawsThere, KvShape, Norm, Ops};
use crate::batch::StepBatch;
use crate::error::{EngineError, Result};
use crate::options::KvDtype;
use crate::rope::Rotations;
use crate::sampler::Draw;

pub(crate) use self::random::RandomMatrices;

/// The operations and the KV cache of one GPU.
pub struct CudaOps {
    device: CudaDevice,
    kernels: Kernels,
    shape: AttentionShape,
    launch_shape: Shape,
    activations: DType,
    /// Keys and values of each layer, `(blocks, kv_heads, block_size, head_dim)` of 16 bits.
    layers: Vec<(CudaSlice<u16>, CudaSlice<u16>)>,
    processors: usize,
    /// Of the rotary embedding; a model's are always the same.
    frequencies: Option<CudaSlice<f32>>,
    step: Option<Step>,
}

/// A step's numbers on the device.
struct Step {
    at: StepNumbers,
    numbers: CudaSlice<u32>,
    /// `(tokens, 2, head_dim / 2)`.
    rotations: CudaSlice<f32>,
    /// Queries, `(tokens, heads, head_dim)`.
    q: CudaSlice<u16>,
    splits: usize,
    /// Sums and weights of split sequences.
    parts: (CudaSlice<f32>, CudaSlice<f32>),
}

impl Step {
    fn pointer(&self, device: &CudaDevice, part: usize) -> Pointer {
        address(&self.numbers, device) + 4 * part as u64
    }
}

impl CudaOps {
    /// Compiles the kernels and claims the cache. `activations` is the type of what goes into
    /// products.
    ///
    /// # Errors
    /// [`EngineError::Option`] when the cache does not fit, or is f32; otherwise when the device
    /// fails.
    pub fn new(
        shape: AttentionShape,
        kv: KvShape,
        dtype: KvDtype,
        activations: DType,
        device: &Device,
    ) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let kv_bf16 = match dtype {
            KvDtype::F16 => false,
            KvDtype::Bf16 => true,
            KvDtype::F32 => {
                return Err(EngineError::Option(
                    "--kv-dtype f32: on GPUs keys and values are held as f16 or bf16, which is \
                     what their tensor cores multiply"
                        .into(),
                ));
            }
        };
        let kernels = Kernels::new(&device, shape.head_dim, kv_bf16, activations)?;
        let len = kv.blocks * shape.kv_heads * kv.block_size * shape.head_dim;
        let claim = || {
            device.alloc_zeros::<u16>(len).map_err(|error| {
                EngineError::Option(format!(
                    "--kv-budget: the GPU refuses {} bytes for the KV cache: lower the budget \
                     ({error})",
                    4 * len * kv.layers
                ))
            })
        };
        let layers = (0..kv.layers)
            .map(|_| Ok((claim()?, claim()?)))
            .collect::<Result<_>>()?;
        let stream = device.cuda_stream();
        let processors = stream
            .context()
            .attribute(sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(|error| kernels::driver_error("multiprocessors", error))?;
        Ok(Self {
            kernels,
            launch_shape: Shape::new(&shape, kv.block_size),
            shape,
            activations,
            layers,
            processors: usize::try_from(processors).unwrap_or(1),
            frequencies: None,
            step: None,
            device,
        })
    }

    /// A tensor of `dims` whose memory holds anything yet.
    #[allow(unsafe_code)]
    fn room(&self, dims: (usize, usize), dtype: DType) -> Result<Tensor> {
        let device = Device::Cuda(self.device.clone());
        // SAFETY: plain numbers, and each caller's kernel writes all of them.
        Ok(unsafe { Tensor::empty(dims, dtype, &device) }?)
    }

    /// Memory that holds anything yet.
    #[allow(unsafe_code)]
    fn claim<T: candle_core::cuda_backend::cudarc::driver::DeviceRepr>(
        &self,
        len: usize,
    ) -> Result<CudaSlice<T>> {
        // SAFETY: plain numbers, written by a kernel before one reads them.
        Ok(unsafe { self.device.alloc::<T>(len.max(1)) }?)
    }

    fn pointer(&self, tensor: &Tensor, dtype: DType, elements: usize) -> Result<Pointer> {
        pointer(tensor, dtype, elements, &self.device)
    }

    /// Where activations `(rows, width)` are that may be columns of a wider tensor.
    fn columns(&self, tensor: &Tensor, (rows, width): (usize, usize)) -> Result<Columns> {
        let (storage, layout) = tensor.storage_and_layout();
        let at = begin(&storage, self.activations, &self.device);
        match (at, layout.stride()) {
            (Some(at), &[row, 1]) if layout.dims() == [rows, width] => Ok(Columns {
                at: at + (layout.start_offset() * self.activations.size_in_bytes()) as u64,
                row: kernels::int(row),
            }),
            _ => {
                let dtype = self.activations;
                Err(unfit(
                    tensor,
                    &format!("{rows} rows of {width} values of {dtype:?}"),
                ))
            }
        }
    }
}

/// Where a tensor of `dtype` is, if it is `elements` contiguous values on this device.
fn pointer(tensor: &Tensor, dtype: DType, elements: usize, device: &CudaDevice) -> Result<Pointer> {
    let (storage, layout) = tensor.storage_and_layout();
    match (begin(&storage, dtype, device), layout.contiguous_offsets()) {
        (Some(at), Some((start, end))) if end - start == elements => {
            Ok(at + (start * dtype.size_in_bytes()) as u64)
        }
        _ => Err(unfit(
            tensor,
            &format!("{elements} contiguous values of {dtype:?}"),
        )),
    }
}

/// Where memory on a GPU begins, if it holds values of `dtype`.
fn begin(storage: &Storage, dtype: DType, device: &CudaDevice) -> Option<Pointer> {
    let Storage::Cuda(storage) = storage else {
        return None;
    };
    match (&storage.slice, dtype) {
        (CudaStorageSlice::F32(slice), DType::F32) => Some(address(slice, device)),
        (CudaStorageSlice::F16(slice), DType::F16) => Some(address(slice, device)),
        (CudaStorageSlice::BF16(slice), DType::BF16) => Some(address(slice, device)),
        _ => None,
    }
}

fn unfit(tensor: &Tensor, wanted: &str) -> EngineError {
    EngineError::Run(format!(
        "a CUDA operation needs {wanted}, not {:?} of {:?} on {:?}",
        tensor.dims(),
        tensor.dtype(),
        tensor.device().location()
    ))
}

/// Where memory is. It is used in the order of one stream only, so nothing need be waited for.
fn address<T>(slice: &CudaSlice<T>, device: &CudaDevice) -> Pointer {
    slice.device_ptr(&device.cuda_stream()).0
}

impl Ops for CudaOps {
    fn begin(&mut self, batch: &StepBatch, frequencies: &[f32]) -> Result<Rotations> {
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            window,
        } = self.shape;
        let (tokens, pairs) = (batch.tokens(), head_dim / 2);
        let at = StepNumbers::new(batch, self.shape.group(), PROMPT_ROWS);
        let numbers = self.device.clone_htod(&at.numbers)?;
        let known = match self.frequencies.take() {
            Some(known) => known,
            None => self.device.clone_htod(frequencies)?,
        };
        let known = self.frequencies.insert(known);
        let frequencies = address(known, &self.device);
        let rotations = self.claim::<f32>(tokens * 2 * pairs)?;
        let longest = at.longest_decode.min(window.unwrap_or(usize::MAX));
        let tiles = kv_heads * self.shape.group().div_ceil(16);
        let splits = step::splits(
            at.decode_count * tiles,
            longest,
            DECODE_ROUND,
            self.processors,
        );
        let parts = if splits > 1 {
            at.decode_count * heads * splits
        } else {
            0
        };
        let step = Step {
            rotations,
            q: self.claim(tokens * heads * head_dim)?,
            splits,
            parts: (self.claim(parts * head_dim)?, self.claim(2 * parts)?),
            numbers,
            at,
        };
        self.kernels.rotations(
            step.pointer(&self.device, step.at.positions),
            frequencies,
            address(&step.rotations, &self.device),
            (tokens, pairs),
        )?;
        self.step = Some(step);
        // They stay on the device.
        Ok(Rotations::new(&[], &[]))
    }

    fn add_norm(
        &self,
        residual: Tensor,
        delta: Option<&Tensor>,
        norm: &Norm,
    ) -> Result<(Tensor, Tensor)> {
        let dims = residual.dims2()?;
        let elements = dims.0 * dims.1;
        let sum = self.room(dims, DType::F32)?;
        let normed = self.room(dims, self.activations)?;
        let inputs = [
            self.pointer(&residual, DType::F32, elements)?,
            match delta {
                Some(delta) => self.pointer(delta, self.activations, elements)?,
                None => 0,
            },
            self.pointer(&norm.weight, DType::F32, dims.1)?,
        ];
        let outputs = [
            self.pointer(&sum, DType::F32, elements)?,
            self.pointer(&normed, self.activations, elements)?,
        ];
        self.kernels
            .add_norm(inputs, outputs, dims, norm.eps as f32)?;
        Ok((sum, normed))
    }

    fn silu_mul(&self, gate: Tensor, up: &Tensor) -> Result<Tensor> {
        let dims = gate.dims2()?;
        let out = self.room(dims, self.activations)?;
        self.kernels.silu_mul(
            self.columns(&gate, dims)?,
            self.columns(up, dims)?,
            self.pointer(&out, self.activations, dims.0 * dims.1)?,
            dims,
        )?;
        Ok(out)
    }

    fn attend(&mut self, layer: usize, input: &AttentionInput<'_>) -> Result<Tensor> {
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.shape;
        let tokens = input.batch.tokens();
        let out = self.room((tokens, heads * head_dim), self.activations)?;
        let norms = match input.qk_norm {
            Some((q, k)) => (
                self.pointer(&q.weight, DType::F32, head_dim)?,
                self.pointer(&k.weight, DType::F32, head_dim)?,
            ),
            None => (0, 0),
        };
        let (q, k, v) = (
            self.columns(input.q, (tokens, heads * head_dim))?,
            self.columns(input.k, (tokens, kv_heads * head_dim))?,
            self.columns(input.v, (tokens, kv_heads * head_dim))?,
        );
        let to = self.pointer(&out, self.activations, tokens * heads * head_dim)?;
        let device = &self.device;
        let (Some(step), Some((keys, values))) = (&self.step, self.layers.get_mut(layer)) else {
            return Err(EngineError::Run(format!(
                "layer {layer} was not begun or does not exist"
            )));
        };
        let stream = device.cuda_stream();
        let (keys, _) = keys.device_ptr_mut(&stream);
        let (values, _) = values.device_ptr_mut(&stream);
        let prepared = address(&step.q, device);
        let preparing = Preparing {
            q,
            k,
            v,
            norms,
            rotations: address(&step.rotations, device),
            slots: step.pointer(device, step.at.slots),
            q_out: prepared,
            keys,
            values,
            head_dim,
            eps: input.qk_norm.map_or(0.0, |(q, _)| q.eps as f32),
        };
        self.kernels
            .prepare(&preparing, &self.launch_shape, tokens)?;
        let mut attending = Attending {
            q: prepared,
            keys,
            values,
            tables: step.pointer(device, step.at.tables),
            spans: step.pointer(device, step.at.prompts),
            out: to,
            shape: self.launch_shape,
        };
        if step.at.tile_count > 0 {
            let tiles = step.pointer(device, step.at.tiles);
            self.kernels
                .attend_prompts(&attending, tiles, step.at.tile_count)?;
        }
        if step.at.decode_count > 0 {
            attending.spans = step.pointer(device, step.at.decodes);
            let parts = (
                address(&step.parts.0, device),
                address(&step.parts.1, device),
            );
            self.kernels
                .attend_decode(&attending, step.at.decode_count, step.splits, parts)?;
        }
        Ok(out)
    }

    fn draws_there(&self) -> Option<&dyn DrawsThere> {
        Some(self)
    }

    fn wait(&self) -> Result<()> {
        self.device
            .cuda_stream()
            .synchronize()
            .map_err(|error| kernels::driver_error("waiting for the step", error))
    }
}

impl DrawsThere for CudaOps {
    fn draw(&self, logits: &Tensor, draws: &[Draw]) -> Result<Vec<Drawn>> {
        let dims = logits.dims2()?;
        if draws.len() != dims.0 {
            return Err(EngineError::Run(format!(
                "{} draws from {} rows of logits",
                draws.len(),
                dims.0
            )));
        }
        let found = self.claim::<u32>(2 * dims.0)?;
        let logits = self.pointer(logits, DType::F32, dims.0 * dims.1)?;
        let out = address(&found, &self.device);
        self.kernels.greatest(logits, out, dims)?;
        if draws.iter().any(|draw| *draw != Draw::Greatest) {
            let numbers: Vec<f64> = draws.iter().flat_map(numbers).collect();
            let numbers = self.device.clone_htod(&numbers)?;
            let draws = address(&numbers, &self.device);
            self.kernels.draw_tokens(logits, draws, out, dims)?;
        }
        let found = self.device.clone_dtoh(&found)?;
        let (pairs, _) = found.as_chunks::<2>();
        Ok(pairs
            .iter()
            .map(|&[id, not_finite]| Drawn {
                id,
                not_finite: (not_finite != u32::MAX).then_some(not_finite),
            })
            .collect())
    }
}

/// A draw as `draw_tokens` reads it.
fn numbers(draw: &Draw) -> [f64; 2] {
    match *draw {
        Draw::Greatest => [0.0, 0.0],
        Draw::Weighted {
            uniform,
            inverse_temperature,
        } => [uniform, f64::from(inverse_temperature)],
    }
}
