//! Causal attention of packed tokens over the paged cache, block by block with a running
//! softmax (Milakov and Gimelshein, 2018; Dao et al., 2022).
//!
//! Keys are visited in blocks counted from position 0, so a token's result is the same
//! bits whether it came in one chunk or in many, alone or beside others.

use std::cell::RefCell;

use crate::batch::{Span, StepBatch};
use crate::kv::cache::{KvCache, KvElement};
use crate::ops::AttentionShape;
use costmark_kernels::tile::{LANES, multiply_add};
use costmark_kernels::{math, parallel};

/// Query rows (tokens × heads of a group) that share one load of a block: enough to make
/// unpacking it cheap, few enough to stay in the second-level cache.
const TILE_ROWS: usize = 64;

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
    for span in &batch.spans {
        work += (span.context + span.tokens.len()) * shape.kv_heads * shape.head_dim;
        if span.tokens.len() == 1 {
            // A decoding sequence: one unit per key head, to spread long contexts.
            for kv_head in 0..shape.kv_heads {
                let (piece, tail) = rest.split_at_mut(shape.group() * shape.head_dim);
                rest = tail;
                units.push(Unit {
                    span,
                    first: 0,
                    kv_heads: kv_head..kv_head + 1,
                    out: piece,
                });
            }
            continue;
        }
        let tile = (TILE_ROWS / shape.group()).max(1);
        for first in (0..span.tokens.len()).step_by(tile) {
            let len = tile.min(span.tokens.len() - first);
            let (piece, tail) = rest.split_at_mut(len * width);
            rest = tail;
            units.push(Unit {
                span,
                first,
                kv_heads: 0..shape.kv_heads,
                out: piece,
            });
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
    span: &'a Span,
    /// Offset of the first token within the span.
    first: usize,
    kv_heads: std::ops::Range<usize>,
    /// `(tokens, heads of kv_heads, head_dim)`.
    out: &'a mut [f32],
}

/// Buffers of one thread, kept between calls. Rows are padded to whole vectors.
#[derive(Default)]
struct Scratch {
    /// `(rows, head_dim)`.
    q: Vec<f32>,
    /// `(head_dim, block_size)` keys, then `(block_size, padded head_dim)` values.
    block: Vec<f32>,
    /// `(rows, block_size)`.
    scores: Vec<f32>,
    /// `(rows, padded head_dim)`.
    sums: Vec<f32>,
    /// Greatest score so far, and the sum of weights relative to it; per row.
    running: Vec<(f32, f32)>,
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
        let heads_here = self.kv_heads.len() * group;
        let tokens = self.out.len() / (heads_here * dim);
        for kv_head in self.kv_heads.clone() {
            // Rows are (token, head of the group).
            scratch.q.clear();
            for token in 0..tokens {
                let row = self.span.tokens.start + self.first + token;
                let start = (row * shape.heads + kv_head * group) * dim;
                scratch.q.extend_from_slice(&q[start..start + group * dim]);
            }
            self.attend_head(cache, layer, shape, kv_head, tokens, scratch);
            let padded = dim.next_multiple_of(LANES);
            for row in 0..tokens * group {
                let (token, head) = (row / group, row % group);
                let head = (kv_head - self.kv_heads.start) * group + head;
                let target = &mut self.out[(token * heads_here + head) * dim..][..dim];
                let factor = scratch.running[row].1.recip();
                for (t, s) in target.iter_mut().zip(&scratch.sums[row * padded..]) {
                    *t = s * factor;
                }
            }
        }
    }

    /// Leaves weighted sums of values in `scratch.sums` and their weights in `running`.
    fn attend_head<T: KvElement>(
        &self,
        cache: &KvCache<T>,
        layer: usize,
        shape: &AttentionShape,
        kv_head: usize,
        tokens: usize,
        scratch: &mut Scratch,
    ) {
        let (dim, group) = (shape.head_dim, shape.group());
        let size = cache.shape.block_size;
        let padded = dim.next_multiple_of(LANES);
        let rows = tokens * group;
        let first_position = self.span.context + self.first;
        let end = first_position + tokens;
        let Scratch {
            q,
            block,
            scores,
            sums,
            running,
        } = scratch;
        sums.clear();
        sums.resize(rows * padded, 0.0);
        running.clear();
        running.resize(rows, (f32::NEG_INFINITY, 0.0));
        block.resize(size * padded, 0.0);
        let oldest = shape
            .window
            .map_or(0, |window| (first_position + 1).saturating_sub(window));
        for index in oldest / size..end.div_ceil(size) {
            let id = self.span.blocks[index];
            T::load(cache.keys(layer, id, kv_head), &mut block[..dim * size]);
            scores.clear();
            scores.resize(rows * size, 0.0);
            multiply_add(q, dim, dim, block, size, scores);
            // Beyond `end` the block may hold what another sequence left, even NaN.
            let valid = size.min(end - index * size);
            for (row, scores) in scores.chunks_exact_mut(size).enumerate() {
                let position = first_position + row / group;
                let visible = visible_keys(position, shape.window, index * size, valid);
                let sums = &mut sums[row * padded..][..padded];
                absorb(scores, visible, &mut running[row], sums);
            }
            load_values(cache.values(layer, id, kv_head), dim, padded, valid, block);
            multiply_add(scores, size, valid, block, padded, sums);
        }
    }
}

/// Which of the `valid` keys from position `first` on a query at `position` sees.
fn visible_keys(
    position: usize,
    window: Option<usize>,
    first: usize,
    valid: usize,
) -> std::ops::Range<usize> {
    let end = (position + 1).saturating_sub(first).min(valid);
    let oldest = window.map_or(0, |window| (position + 1).saturating_sub(window));
    oldest.saturating_sub(first).min(end)..end
}

/// Turns scores into weights relative to the greatest so far (0 for keys not seen) and
/// rescales what was summed up before if that grew.
fn absorb(
    scores: &mut [f32],
    visible: std::ops::Range<usize>,
    running: &mut (f32, f32),
    sums: &mut [f32],
) {
    if visible.is_empty() {
        scores.fill(0.0);
        return;
    }
    let seen = &scores[visible.clone()];
    // `max` drops NaN; it comes back through the weights below.
    let greatest = seen.iter().fold(running.0, |m, &s| m.max(s));
    if greatest > running.0 {
        let rescale = math::exp(running.0 - greatest);
        running.0 = greatest;
        running.1 *= rescale;
        sums.iter_mut().for_each(|s| *s *= rescale);
    }
    for score in &mut *scores {
        *score = math::exp(*score - greatest);
    }
    scores[..visible.start].fill(0.0);
    scores[visible.end..].fill(0.0);
    running.1 += math::sum_of(scores, |s| s);
}

/// `(valid, dim)` of the block's values, rows padded with zeros to whole vectors.
fn load_values<T: KvElement>(
    values: &[T],
    dim: usize,
    padded: usize,
    valid: usize,
    target: &mut [f32],
) {
    if dim == padded {
        T::load(&values[..valid * dim], &mut target[..valid * dim]);
        return;
    }
    for (source, target) in values
        .chunks_exact(dim)
        .zip(target.chunks_exact_mut(padded))
        .take(valid)
    {
        T::load(source, &mut target[..dim]);
        target[dim..].fill(0.0);
    }
}
