//! Keys and values in blocks, claimed once.
//!
//! One layer is `(blocks, kv_heads, …)`: what a head needs of a block is one stretch of
//! memory. Within it values are `(block_size, head_dim)` and keys transposed, in tiles of
//! [`LANES`] of them, `(block_size / LANES, head_dim, LANES)`, so that both of attention's
//! products run along memory without a sum across vector lanes.

use costmark_kernels::attention::{Element, LANES};
use costmark_kernels::linear::{Memory, Plain};
use costmark_kernels::parallel;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{EngineError, Result};
use crate::ops::KvShape;

/// How one value is stored.
pub(crate) trait KvElement: Element + Plain {
    /// Rounds to the nearest.
    fn store(source: &[f32], target: &mut [Self]);
}

impl KvElement for f32 {
    fn store(source: &[f32], target: &mut [Self]) {
        target.copy_from_slice(source);
    }
}

impl KvElement for f16 {
    fn store(source: &[f32], target: &mut [Self]) {
        target.convert_from_f32_slice(source);
    }
}

impl KvElement for bf16 {
    fn store(source: &[f32], target: &mut [Self]) {
        for (t, s) in target.iter_mut().zip(source) {
            *t = bf16::from_f32(*s);
        }
    }
}

/// The cache of all layers.
pub(crate) struct KvCache<T> {
    pub(crate) shape: KvShape,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    layers: Vec<Layer<T>>,
}

struct Layer<T> {
    keys: Memory<T>,
    values: Memory<T>,
}

impl<T: KvElement> KvCache<T> {
    /// Claims the memory: every page is written, so that it is there when it is needed.
    pub(crate) fn new(shape: KvShape, kv_heads: usize, head_dim: usize) -> Result<Self> {
        let len = shape.blocks * kv_heads * shape.block_size * head_dim;
        let layers = (0..shape.layers)
            .map(|_| {
                Ok(Layer {
                    keys: claim(len)?,
                    values: claim(len)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            shape,
            kv_heads,
            head_dim,
            layers,
        })
    }

    /// Writes tokens' keys and values, each `(tokens, kv_heads, head_dim)`, to their slots.
    pub(crate) fn write(&mut self, layer: usize, slots: &[u32], k: &[f32], v: &[f32]) {
        let (size, dim, heads) = (self.shape.block_size, self.head_dim, self.kv_heads);
        let len = size * dim;
        let layer = &mut self.layers[layer];
        // A block belongs to one piece of work: cut the layer at the blocks that are written.
        let mut tokens: Vec<(usize, usize)> = slots
            .iter()
            .enumerate()
            .map(|(token, &slot)| (slot as usize, token))
            .collect();
        tokens.sort_unstable();
        let (mut keys, mut values) = (&mut layer.keys[..], &mut layer.values[..]);
        let mut passed = 0;
        let mut pieces = Vec::new();
        for tokens in tokens.chunk_by(|a, b| a.0 / size == b.0 / size) {
            let start = tokens[0].0 / size * heads * len;
            let block = start - passed..start - passed + heads * len;
            passed = start + heads * len;
            let keys_here = split_off(&mut keys, block.clone());
            pieces.push((tokens, keys_here, split_off(&mut values, block)));
        }
        parallel::for_each(pieces, k.len(), |(tokens, keys, values)| {
            let heads = keys.chunks_exact_mut(len).zip(values.chunks_exact_mut(len));
            let mut key = vec![T::ZERO; dim];
            for (head, (keys, values)) in heads.enumerate() {
                for &(slot, token) in tokens {
                    let offset = slot % size;
                    let source = (token * self.kv_heads + head) * dim..;
                    T::store(&k[source.clone()][..dim], &mut key);
                    let (tile, lane) = (offset / LANES * LANES * dim, offset % LANES);
                    let (tile, _) = keys[tile..][..LANES * dim].as_chunks_mut::<LANES>();
                    for (vector, value) in tile.iter_mut().zip(&key) {
                        vector[lane] = *value;
                    }
                    T::store(&v[source][..dim], &mut values[offset * dim..][..dim]);
                }
            }
        });
    }

    /// A head's keys in a block, `(block_size / LANES, head_dim, LANES)`.
    pub(crate) fn keys(&self, layer: usize, block: u32, head: usize) -> &[T] {
        &self.layers[layer].keys[self.tile(block, head)]
    }

    /// A head's values in a block, `(block_size, head_dim)`.
    pub(crate) fn values(&self, layer: usize, block: u32, head: usize) -> &[T] {
        &self.layers[layer].values[self.tile(block, head)]
    }

    fn tile(&self, block: u32, head: usize) -> std::ops::Range<usize> {
        let len = self.shape.block_size * self.head_dim;
        let start = (block as usize * self.kv_heads + head) * len;
        start..start + len
    }
}

/// Takes `range` out of `rest`, which what comes after it remains in.
fn split_off<'a, T>(rest: &mut &'a mut [T], range: std::ops::Range<usize>) -> &'a mut [T] {
    let (head, tail) = std::mem::take(rest).split_at_mut(range.end);
    *rest = tail;
    &mut head[range.start..]
}

fn claim<T: KvElement>(len: usize) -> Result<Memory<T>> {
    let mut memory = Memory::zeroed(len).map_err(|_| {
        EngineError::Option(format!(
            "--kv-budget: the system refuses {} bytes for the KV cache: lower the budget",
            len * size_of::<T>()
        ))
    })?;
    // Zeroed memory may be a promise only; a write the compiler cannot see through keeps it.
    let chunks = memory
        .chunks_mut((len / (parallel::threads() * 8)).max(1))
        .collect();
    parallel::for_each(chunks, len, |chunk: &mut [T]| {
        chunk.fill(std::hint::black_box(T::ZERO));
    });
    Ok(memory)
}
