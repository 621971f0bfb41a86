//! [`Ops`] on plain slices.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, StorageRef, Tensor};
use costmark_kernels::{math, parallel};
use half::{bf16, f16};

use crate::error::{EngineError, Result};
use crate::kv::attention;
use crate::kv::cache::{KvCache, KvElement};
use crate::ops::{AttentionInput, AttentionShape, KvShape, Norm, Ops};
use crate::options::KvDtype;
use crate::rope::Rotations;

/// The operations and the KV cache of the CPU.
pub struct CpuOps {
    shape: AttentionShape,
    cache: Cache,
}

enum Cache {
    F32(KvCache<f32>),
    F16(KvCache<f16>),
    Bf16(KvCache<bf16>),
}

impl CpuOps {
    /// Claims the cache.
    ///
    /// # Errors
    /// When the system does not give the memory.
    pub fn new(shape: AttentionShape, kv: KvShape, dtype: KvDtype) -> Result<Self> {
        let (heads, dim) = (shape.kv_heads, shape.head_dim);
        let cache = match dtype {
            KvDtype::F32 => Cache::F32(KvCache::new(kv, heads, dim)?),
            KvDtype::F16 => Cache::F16(KvCache::new(kv, heads, dim)?),
            KvDtype::Bf16 => Cache::Bf16(KvCache::new(kv, heads, dim)?),
        };
        Ok(Self { shape, cache })
    }
}

impl Ops for CpuOps {
    fn add_norm(
        &self,
        residual: Tensor,
        delta: Option<&Tensor>,
        norm: &Norm,
    ) -> Result<(Tensor, Tensor)> {
        let dims = residual.dims2()?;
        let (_, width) = dims;
        let weight = Values::of(&norm.weight)?;
        let mut normed = vec![0f32; dims.0 * width];
        let delta = delta.map(Values::of).transpose()?;
        let delta = delta.as_ref().map(Values::get);
        let rows = parallel::rows_per_piece(dims.0) * width;
        overwrite(&residual, |sum| {
            let pieces = sum.chunks_mut(rows).zip(normed.chunks_mut(rows));
            let pieces: Vec<_> = pieces.enumerate().collect();
            parallel::for_each(pieces, dims.0 * width, |(piece, (sum, normed))| {
                if let Some(delta) = delta {
                    let delta = &delta[piece * rows..][..sum.len()];
                    for (s, d) in sum.iter_mut().zip(delta) {
                        *s += d;
                    }
                }
                normed.copy_from_slice(sum);
                for row in normed.chunks_exact_mut(width) {
                    math::rms_norm(row, weight.get(), norm.eps);
                }
            });
        })?;
        Ok((residual, tensor(normed, dims)?))
    }

    fn silu_mul(&self, gate: Tensor, up: &Tensor) -> Result<Tensor> {
        let up = Values::of(up)?;
        let up = up.get();
        overwrite(&gate, |gate| {
            let (all, len) = (gate.len(), parallel::rows_per_piece(gate.len()));
            let pieces = gate.chunks_mut(len).zip(up.chunks(len)).collect();
            parallel::for_each(pieces, all, |(gate, up): (&mut [f32], &[f32])| {
                for (gate, up) in gate.iter_mut().zip(up) {
                    *gate = math::silu(*gate) * up;
                }
            });
        })?;
        Ok(gate)
    }

    fn attend(&mut self, layer: usize, input: &AttentionInput<'_>) -> Result<Tensor> {
        let shape = &self.shape;
        let tokens = input.batch.tokens();
        let (q_norm, k_norm) = match input.qk_norm {
            Some((q, k)) => (Some(q), Some(k)),
            None => (None, None),
        };
        prepare(input.q, shape, q_norm, input.rotations, shape.scale())?;
        prepare(input.k, shape, k_norm, input.rotations, 1.0)?;
        let (q, k, v) = (
            Values::of(input.q)?,
            Values::of(input.k)?,
            Values::of(input.v)?,
        );
        let mut out = vec![0f32; tokens * shape.heads * shape.head_dim];
        let step = Step {
            layer,
            shape,
            input,
            q: q.get(),
            k: k.get(),
            v: v.get(),
        };
        match &mut self.cache {
            Cache::F32(cache) => step.run(cache, &mut out),
            Cache::F16(cache) => step.run(cache, &mut out),
            Cache::Bf16(cache) => step.run(cache, &mut out),
        }
        tensor(out, (tokens, shape.heads * shape.head_dim))
    }
}

struct Step<'a> {
    layer: usize,
    shape: &'a AttentionShape,
    input: &'a AttentionInput<'a>,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

impl Step<'_> {
    fn run<T: KvElement>(&self, cache: &mut KvCache<T>, out: &mut [f32]) {
        let batch = self.input.batch;
        cache.write(self.layer, &batch.slots, self.k, self.v);
        attention::attend(cache, self.layer, self.shape, batch, self.q, out);
    }
}

/// Norms `(tokens, heads · head_dim)` per head, rotates and scales it.
fn prepare(
    x: &Tensor,
    shape: &AttentionShape,
    norm: Option<&Norm>,
    rotations: &Rotations,
    scale: f32,
) -> Result<()> {
    let (tokens, width) = x.dims2()?;
    let weight = norm.map(|norm| Values::of(&norm.weight)).transpose()?;
    let rows = parallel::rows_per_piece(tokens);
    overwrite(x, |x| {
        let pieces = x.chunks_mut(rows * width).enumerate().collect();
        parallel::for_each(pieces, tokens * width, |(piece, x): (usize, &mut [f32])| {
            for (row, values) in x.chunks_exact_mut(width).enumerate() {
                for head in values.chunks_exact_mut(shape.head_dim) {
                    if let (Some(norm), Some(weight)) = (norm, &weight) {
                        math::rms_norm(head, weight.get(), norm.eps);
                    }
                    rotations.rotate(piece * rows + row, head);
                    if scale != 1.0 {
                        head.iter_mut().for_each(|v| *v *= scale);
                    }
                }
            }
        });
    })
}

/// A change to a tensor's elements where they are.
struct Overwrite<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Overwrite<F> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match (storage, layout.contiguous_offsets(), self.0.take()) {
            (CpuStorage::F32(values), Some((start, end)), Some(work)) => {
                work(&mut values[start..end]);
                Ok(())
            }
            _ => candle_core::bail!("a CPU operation needs contiguous f32 values, not {layout:?}"),
        }
    }
}

/// Calls `work` with the elements of a contiguous f32 tensor on the CPU. No other value's memory
/// may be the same, and `work` must not look at the tensor.
fn overwrite(tensor: &Tensor, work: impl FnOnce(&mut [f32])) -> Result<()> {
    Ok(tensor.inplace_op1(&Overwrite(Cell::new(Some(work))))?)
}

fn tensor(values: Vec<f32>, dims: (usize, usize)) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, dims, &candle_core::Device::Cpu)?)
}

/// The elements of a contiguous f32 tensor on the CPU, without copying them.
pub(crate) struct Values<'a> {
    storage: StorageRef<'a>,
    range: std::ops::Range<usize>,
}

impl<'a> Values<'a> {
    /// # Errors
    /// When the tensor is of another type, elsewhere or not contiguous.
    pub(crate) fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let is_f32 = matches!(&*storage, Storage::Cpu(CpuStorage::F32(_)));
        match layout.contiguous_offsets() {
            Some((start, end)) if is_f32 => Ok(Self {
                storage,
                range: start..end,
            }),
            _ => Err(EngineError::Run(format!(
                "a CPU operation needs contiguous f32 values, not {:?} on {:?} laid out as {layout:?}",
                tensor.dtype(),
                tensor.device().location(),
            ))),
        }
    }

    /// The elements, in order.
    pub(crate) fn get(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => &[], // `of` lets nothing else in
        }
    }
}
