//! [`Ops`] said in tensor operations, with no regard for speed: what every faster
//! implementation must agree with. Works on any device.

use candle_core::{D, DType, Device, Tensor};

use crate::batch::Span;
use crate::error::Result;
use crate::ops::{AttentionInput, AttentionShape, KvShape, Norm, Ops};
use crate::options::KvDtype;
use crate::rope::Rotations;

/// The operations, and a KV cache of one `(slots, kv_heads, head_dim)` tensor for keys and
/// one for values per layer.
pub struct ReferenceOps {
    shape: AttentionShape,
    kv: KvShape,
    dtype: DType,
    layers: Vec<(Tensor, Tensor)>,
}

impl ReferenceOps {
    /// Claims the cache on `device`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn new(
        shape: AttentionShape,
        kv: KvShape,
        dtype: KvDtype,
        device: &Device,
    ) -> Result<Self> {
        let dtype = match dtype {
            KvDtype::F32 => DType::F32,
            KvDtype::F16 => DType::F16,
            KvDtype::Bf16 => DType::BF16,
        };
        let dims = (kv.blocks * kv.block_size, shape.kv_heads, shape.head_dim);
        let layers = (0..kv.layers)
            .map(|_| {
                let zeros = || Tensor::zeros(dims, dtype, device);
                Ok((zeros()?, zeros()?))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            shape,
            kv,
            dtype,
            layers,
        })
    }

    /// One sequence's attention: `q` `(n, heads, head_dim)` → `(n, heads · head_dim)`.
    fn attend_span(&self, layer: usize, span: &Span, q: &Tensor) -> Result<Tensor> {
        let AttentionShape {
            heads, head_dim, ..
        } = self.shape;
        let n = span.tokens.len();
        let end = span.context + n;
        let size = self.kv.block_size;
        let slots: Vec<u32> = (0..end)
            .map(|p| span.blocks[p / size] * size as u32 + (p % size) as u32)
            .collect();
        let slots = Tensor::new(slots, q.device())?;
        let gather = |cache: &Tensor| -> Result<Tensor> {
            // (end, kv_heads, d) → (heads, end, d), each key head repeated for its group.
            let rows = cache.index_select(&slots, 0)?.to_dtype(DType::F32)?;
            let rows = rows
                .unsqueeze(2)?
                .repeat((1, 1, self.shape.group(), 1))?
                .reshape((end, heads, head_dim))?;
            Ok(rows.transpose(0, 1)?.contiguous()?)
        };
        let (keys, values) = (
            gather(&self.layers[layer].0)?,
            gather(&self.layers[layer].1)?,
        );
        let window = self.shape.window.unwrap_or(usize::MAX);
        let mask: Vec<f32> = (span.context..end)
            .flat_map(|query| {
                (0..end).map(move |key| {
                    let seen = key <= query && query - key < window;
                    if seen { 0.0 } else { f32::NEG_INFINITY }
                })
            })
            .collect();
        let mask = Tensor::from_vec(mask, (1, n, end), q.device())?;
        let q = q.transpose(0, 1)?.contiguous()?; // (heads, n, d)
        let scale = f64::from(self.shape.scale());
        let scores = (q.matmul(&keys.transpose(1, 2)?.contiguous()?)? * scale)?; // (heads, n, end)
        let weights = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
        let out = weights.matmul(&values)?; // (heads, n, d)
        Ok(out
            .transpose(0, 1)?
            .contiguous()?
            .reshape((n, heads * head_dim))?)
    }
}

impl Ops for ReferenceOps {
    fn add_norm(
        &self,
        residual: Tensor,
        delta: Option<&Tensor>,
        norm: &Norm,
    ) -> Result<(Tensor, Tensor)> {
        let sum = match delta {
            Some(delta) => (residual + delta)?,
            None => residual,
        };
        let normed = rms_norm(&sum, norm)?;
        Ok((sum, normed))
    }

    fn silu_mul(&self, gate: Tensor, up: &Tensor) -> Result<Tensor> {
        Ok((gate.silu()? * up)?)
    }

    fn attend(&mut self, layer: usize, input: &AttentionInput<'_>) -> Result<Tensor> {
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.shape;
        let tokens = input.batch.tokens();
        let mut q = input.q.reshape((tokens, heads, head_dim))?;
        let mut k = input.k.reshape((tokens, kv_heads, head_dim))?;
        let v = input.v.reshape((tokens, kv_heads, head_dim))?;
        if let Some((q_norm, k_norm)) = input.qk_norm {
            q = rms_norm(&q, q_norm)?;
            k = rms_norm(&k, k_norm)?;
        }
        let q = rotate(&q, input.rotations)?;
        let k = rotate(&k, input.rotations)?.to_dtype(self.dtype)?;
        let v = v.to_dtype(self.dtype)?;
        let (keys, values) = &self.layers[layer];
        for (token, &slot) in input.batch.slots.iter().enumerate() {
            keys.slice_set(&k.narrow(0, token, 1)?.contiguous()?, 0, slot as usize)?;
            values.slice_set(&v.narrow(0, token, 1)?.contiguous()?, 0, slot as usize)?;
        }
        let parts = input
            .batch
            .spans
            .iter()
            .map(|span| {
                let q = q.narrow(0, span.tokens.start, span.tokens.len())?;
                self.attend_span(layer, span, &q)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }
}

fn rms_norm(x: &Tensor, norm: &Norm) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    let scaled = x.broadcast_div(&(mean + norm.eps)?.sqrt()?)?;
    Ok(scaled.broadcast_mul(&norm.weight)?)
}

/// `(tokens, heads, head_dim)` → the same, rotated.
fn rotate(x: &Tensor, rotations: &Rotations) -> Result<Tensor> {
    let (tokens, _, head_dim) = x.dims3()?;
    let pairs = head_dim / 2;
    let table = |sine: bool| -> Result<Tensor> {
        let values: Vec<f32> = (0..tokens)
            .flat_map(|token| {
                let (cos, sin) = rotations.of(token);
                if sine { sin } else { cos }
            })
            .copied()
            .collect();
        Ok(Tensor::from_vec(values, (tokens, 1, pairs), x.device())?)
    };
    let (cos, sin) = (table(false)?, table(true)?);
    let first = x.narrow(2, 0, pairs)?;
    let second = x.narrow(2, pairs, pairs)?;
    Ok(Tensor::cat(
        &[
            (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
            (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
        ],
        2,
    )?)
}
