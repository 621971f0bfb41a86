//! Causal attention of packed tokens over the paged cache: cuts the step into units of work
//! and leaves each to [`costmark_kernels::attention`], whose result for a token does not
//! depend on how it is cut.

use std::cell::RefCell;

use costmark_kernels::attention::{Block, Isa, Queries, Scratch, attend as attend_head};
use costmark_kernels::parallel;

use crate::batch::{Span, StepBatch};
use crate::kv::cache::{KvCache, KvElement};
use crate::ops::AttentionShape;

/// Query rows (tokens × heads of a group) that share one load of a block: enough to make
/// unpacking it cheap, few enough to stay in the second-level cache.
const TILE_ROWS: std::ops::RangeInclusive<usize> = 64..=256;
/// Tiles of a prompt that a thread should find, as they are not of the same size.
const TILES_PER_THREAD: usize = 4;

/// Attends to `layer`. `q` is `(tokens, heads, head_dim)`, scaled and rotated, `out` the
/// same shape; the tokens' own keys and values are in the cache already.
pub(crate) fn attend<T: KvElement>(
    cache: &KvCache<T>,
    layer: usize,
    shape: &AttentionShape,
    batch: &StepBatch,
    q: &[f32],
    out: &mut [f32],
) {
    let width = shape.heads * shape.head_dim;
    let mut work = 0;
    let mut rest = out;
    let mut units = Vec::new();
    let isas = [Isa::for_prompts(), Isa::for_generated()];
    let parts = batch.spans.iter().flat_map(|span| {
        let parts = span.parts().into_iter().zip(isas);
        let parts = parts.filter(|(tokens, _)| !tokens.is_empty());
        parts.map(move |(tokens, isa)| (span, tokens, isa))
    });
    for (span, tokens, isa) in parts {
        work += (span.context + tokens.end) * shape.kv_heads * shape.head_dim;
        let unit = |first, kv_heads, out| Unit {
            isa,
            span,
            first,
            kv_heads,
            out,
        };
        if tokens.len() == 1 {
            // A decoding sequence: one unit per key head, to spread long contexts.
            for kv_head in 0..shape.kv_heads {
                let (piece, tail) = rest.split_at_mut(shape.group() * shape.head_dim);
                rest = tail;
                units.push(unit(tokens.start, kv_head..kv_head + 1, piece));
            }
            continue;
        }
        let even = tokens.len() * shape.group() / (parallel::threads() * TILES_PER_THREAD);
        let rows = even.clamp(*TILE_ROWS.start(), *TILE_ROWS.end());
        let tile = (rows / shape.group()).max(1);
        for first in tokens.clone().step_by(tile) {
            let len = tile.min(tokens.end - first);
            let (piece, tail) = rest.split_at_mut(len * width);
            rest = tail;
            units.push(unit(first, 0..shape.kv_heads, piece));
        }
    }
    // The last tiles of a prompt see the most keys: start them first.
    units.reverse();
    parallel::for_each(units, work, |unit| {
        SCRATCH.with_borrow_mut(|scratch| unit.run(cache, layer, shape, q, scratch));
    });
}

/// Consecutive tokens of a sequence, and the key heads to do.
struct Unit<'a> {
    isa: Isa,
    span: &'a Span,
    /// Offset of the first token within the span.
    first: usize,
    kv_heads: std::ops::Range<usize>,
    /// `(tokens, heads of kv_heads, head_dim)`.
    out: &'a mut [f32],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Unit<'_> {
    fn run<T: KvElement>(
        self,
        cache: &KvCache<T>,
        layer: usize,
        shape: &AttentionShape,
        q: &[f32],
        scratch: &mut Scratch,
    ) {
        let (dim, group) = (shape.head_dim, shape.group());
        let out_stride = self.kv_heads.len() * group * dim;
        let stride = shape.heads * dim;
        for (index, kv_head) in self.kv_heads.enumerate() {
            let token = self.span.tokens.start + self.first;
            let queries = Queries {
                values: &q[token * stride + kv_head * group * dim..],
                stride,
                tokens: self.out.len() / out_stride,
                group,
                head_dim: dim,
                first: self.span.context + self.first,
                window: shape.window,
                block_size: cache.shape.block_size,
            };
            let block = |index: usize| {
                let id = self.span.blocks[index];
                Block {
                    keys: cache.keys(layer, id, kv_head),
                    values: cache.values(layer, id, kv_head),
                }
            };
            let out = &mut self.out[index * group * dim..];
            attend_head(self.isa, &queries, block, scratch, out, out_stride);
        }
    }
}
