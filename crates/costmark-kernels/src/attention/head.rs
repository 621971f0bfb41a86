//! The one implementation, for any instruction set.

use std::ops::Range;

use super::RUN;
use super::simd::{Element, LANES, Simd, fetch};

/// Tiles of [`LANES`] keys in a run.
pub(super) const TILES: usize = RUN / LANES;

/// Consecutive queries of a sequence: `tokens` tokens, and of each the `group` query heads
/// that share a key head.
#[derive(Debug, Clone, Copy)]
pub struct Queries<'a> {
    /// `(tokens, group, head_dim)` with `stride` elements from token to token; scaled.
    pub values: &'a [f32],
    /// See [`values`](Self::values).
    pub stride: usize,
    /// How many tokens.
    pub tokens: usize,
    /// Query heads per token.
    pub group: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Position of the first token in its sequence.
    pub first: usize,
    /// Tokens a query sees back, itself included; `None` for all.
    pub window: Option<usize>,
    /// Tokens of a block, a multiple of [`LANES`].
    pub block_size: usize,
}

/// One head's part of a block of the cache.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a, T> {
    /// `(block_size / LANES, head_dim, LANES)`.
    pub keys: &'a [T],
    /// `(block_size, head_dim)`.
    pub values: &'a [T],
}

/// Buffers of one thread, kept between calls. Rows are (token, head of the group), taken in
/// lots of as many as one register each can hold a sum of.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Per lot `(head_dim, rows)`.
    q: Vec<f32>,
    /// `(rows, vectors of a head)`.
    sums: Vec<Vector>,
    /// Per row of a lot the weights of a run's keys.
    weights: Vec<Weights>,
    /// Greatest score so far, and the sum of weights relative to it; per row.
    running: Vec<(f32, f32)>,
    #[cfg(target_arch = "x86_64")]
    pub(super) tiled: super::tiled::Scratch,
}

/// A vector that does not straddle two cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Vector([f32; LANES]);

/// One row's weights of a run's keys.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Weights([f32; RUN]);

/// Some keys of a sequence with their values, [`LANES`] at a time.
pub(super) struct Run<'a, T> {
    /// Position of the first key.
    pub(super) first: usize,
    /// Keys the sequence has. What comes after may be anything, even NaN.
    pub(super) valid: usize,
    /// `(head_dim)` vectors of keys.
    pub(super) keys: [&'a [[T; LANES]]; TILES],
    /// `(LANES, head_dim)`.
    pub(super) values: [&'a [T]; TILES],
}

/// A run to be met, and the one after it.
pub struct Runs<'a, T> {
    here: Run<'a, T>,
    /// Fetched by the first lot that meets `here`; of the last run there is nothing.
    next: Run<'a, T>,
}

/// Rows of a lot.
pub struct Lot<'a> {
    first_row: usize,
    q: &'a [f32],
    sums: &'a mut [Vector],
    running: &'a mut [(f32, f32)],
    weights: &'a mut [Weights],
}

/// See [`attend`](super::attend).
#[inline(always)]
pub(super) fn attend<'a, S: Simd, T: Element>(
    simd: S,
    queries: &Queries<'_>,
    block: &impl Fn(usize) -> Block<'a, T>,
    scratch: &mut Scratch,
    out: &mut [f32],
    out_stride: usize,
) {
    let (dim, group) = (queries.head_dim, queries.group);
    let rows = queries.tokens * group;
    let vectors = dim.div_ceil(LANES);
    scratch.gather(queries, S::ROWS);
    let end = queries.first + queries.tokens;
    let oldest = queries
        .window
        .map_or(0, |window| (queries.first + 1).saturating_sub(window));
    for index in oldest / RUN..end.div_ceil(RUN) {
        let run = |index: usize| Run::of(queries, block, index * RUN, end);
        let runs = Runs {
            here: run(index),
            next: run(index + 1),
        };
        let mut row = 0;
        while row < rows {
            let len = lot_size(S::ROWS, rows - row);
            let lot = Lot {
                first_row: row,
                q: &scratch.q[row * dim..][..len * dim],
                sums: &mut scratch.sums[row * vectors..][..len * vectors],
                running: &mut scratch.running[row..][..len],
                weights: &mut scratch.weights,
            };
            simd.meet(lot, queries, &runs);
            row += len;
        }
    }
    for row in 0..rows {
        let target = &mut out[row / group * out_stride + row % group * dim..][..dim];
        let factor = scratch.running[row].1.recip();
        let sums = &scratch.sums[row * vectors..][..vectors];
        for (target, sums) in target.chunks_mut(LANES).zip(sums) {
            for (t, s) in target.iter_mut().zip(sums.0) {
                *t = s * factor;
            }
        }
    }
}

/// How many of `left` rows are taken together.
#[inline(always)]
fn lot_size(most: usize, left: usize) -> usize {
    if left >= most {
        most
    } else {
        1 << left.ilog2()
    }
}

impl Scratch {
    #[inline(always)]
    fn gather(&mut self, queries: &Queries<'_>, most: usize) {
        let (dim, group) = (queries.head_dim, queries.group);
        let rows = queries.tokens * group;
        self.q.resize(rows * dim, 0.0);
        let mut row = 0;
        while row < rows {
            let len = lot_size(most, rows - row);
            let lot = &mut self.q[row * dim..][..len * dim];
            for offset in 0..len {
                let (token, head) = ((row + offset) / group, (row + offset) % group);
                let source = &queries.values[token * queries.stride + head * dim..][..dim];
                for (target, value) in lot[offset..].iter_mut().step_by(len).zip(source) {
                    *target = *value;
                }
            }
            row += len;
        }
        self.sums.clear();
        self.sums
            .resize(rows * dim.div_ceil(LANES), Vector([0.0; LANES]));
        self.running.clear();
        self.running.resize(rows, (f32::NEG_INFINITY, 0.0));
        self.weights.resize(most, Weights([0.0; RUN]));
    }
}

impl<'a, T: Element> Run<'a, T> {
    #[inline(always)]
    pub(super) fn of(
        queries: &Queries<'_>,
        block: &impl Fn(usize) -> Block<'a, T>,
        first: usize,
        end: usize,
    ) -> Self {
        let (dim, size) = (queries.head_dim, queries.block_size);
        let mut run = Self {
            first,
            valid: RUN.min(end.saturating_sub(first)),
            keys: [&[]; TILES],
            values: [&[]; TILES],
        };
        for tile in 0..run.valid.div_ceil(LANES) {
            let position = first + tile * LANES;
            let Block { keys, values } = block(position / size);
            let start = position % size * dim;
            run.keys[tile] = keys[start..start + LANES * dim].as_chunks().0;
            run.values[tile] = &values[start..start + LANES * dim];
        }
        run
    }
}

impl Lot<'_> {
    /// How many rows.
    #[inline(always)]
    pub(super) fn rows(&self) -> usize {
        self.running.len()
    }

    /// Takes a run in: `R` rows, `V` vectors of scores and `W` vectors of values at a time.
    #[inline(always)]
    pub(super) fn meet<S: Simd, T: Element, const R: usize, const V: usize, const W: usize>(
        self,
        simd: S,
        queries: &Queries<'_>,
        runs: &Runs<'_, T>,
    ) {
        let run = &runs.here;
        let next = (self.first_row == 0).then_some(&runs.next);
        let visible = |row: usize| {
            let position = queries.first + (self.first_row + row) / queries.group;
            visible_keys(position, queries.window, run.first, run.valid)
        };
        // Later rows see as far or further, and from as far back or less.
        let end = visible(R - 1).end;
        if end == 0 {
            return;
        }
        let (q, _) = self.q.as_chunks::<R>();
        let Some(weights) = self.weights.first_chunk_mut::<R>() else {
            return;
        };
        let tiles = end.div_ceil(LANES);
        let mut tile = 0;
        while tile < tiles {
            if tile + V <= tiles {
                score::<S, T, R, V>(simd, q, run, next, tile, weights);
                tile += V;
            } else {
                score::<S, T, R, 1>(simd, q, run, next, tile, weights);
                tile += 1;
            }
        }
        let mut rescale = [1f32; R];
        for row in 0..R {
            rescale[row] = absorb(
                simd,
                &mut weights[row].0,
                visible(row),
                tiles,
                &mut self.running[row],
            );
        }
        let vectors = self.sums.len() / R;
        let whole = queries.head_dim / LANES;
        let mut sums = Sums {
            values: self.sums,
            vectors,
            rescale,
        };
        let mut column = 0;
        while column < whole {
            if column + W <= whole {
                sums.add::<S, T, W, false>(simd, queries.head_dim, run, next, end, weights, column);
                column += W;
            } else {
                sums.add::<S, T, 1, false>(simd, queries.head_dim, run, next, end, weights, column);
                column += 1;
            }
        }
        if column < vectors {
            sums.add::<S, T, 1, true>(simd, queries.head_dim, run, next, end, weights, column);
        }
    }
}

/// Which of the `valid` keys from position `first` on a query at `position` sees.
#[inline(always)]
pub(super) fn visible_keys(
    position: usize,
    window: Option<usize>,
    first: usize,
    valid: usize,
) -> Range<usize> {
    let end = (position + 1).saturating_sub(first).min(valid);
    let oldest = window.map_or(0, |window| (position + 1).saturating_sub(window));
    oldest.saturating_sub(first).min(end)..end
}

/// Scores of `R` queries with `V` tiles of keys from `tile` on.
// Index loops with constant bounds keep the sums in registers, here and below.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn score<S: Simd, T: Element, const R: usize, const V: usize>(
    simd: S,
    q: &[[f32; R]],
    run: &Run<'_, T>,
    next: Option<&Run<'_, T>>,
    tile: usize,
    scores: &mut [Weights; R],
) {
    let mut keys: [&[[T; LANES]]; V] = [&[]; V];
    for v in 0..V {
        keys[v] = &run.keys[tile + v][..q.len()];
    }
    let mut sums = [[simd.splat(0.0); V]; R];
    for (i, q) in q.iter().enumerate() {
        if let (Some(next), 0) = (next, i % 2) {
            for v in 0..V {
                fetch(next.keys[tile + v], i);
            }
        }
        let mut key = [simd.splat(0.0); V];
        for v in 0..V {
            key[v] = T::load(simd, &keys[v][i]);
        }
        for r in 0..R {
            let factor = simd.splat(q[r]);
            for v in 0..V {
                sums[r][v] = simd.fma(factor, key[v], sums[r][v]);
            }
        }
    }
    for r in 0..R {
        let (scores, _) = scores[r].0.as_chunks_mut::<LANES>();
        for v in 0..V {
            simd.store(sums[r][v], &mut scores[tile + v]);
        }
    }
}

/// Turns the scores of the first `tiles` tiles into weights relative to the greatest so far (0
/// for keys not seen), and says what earlier sums are to be multiplied with.
#[inline(always)]
fn absorb<S: Simd>(
    simd: S,
    scores: &mut [f32; RUN],
    visible: Range<usize>,
    tiles: usize,
    running: &mut (f32, f32),
) -> f32 {
    if visible.is_empty() {
        scores.fill(0.0);
        return 1.0;
    }
    scores[..visible.start].fill(f32::NEG_INFINITY);
    scores[visible.end..tiles * LANES].fill(f32::NEG_INFINITY);
    let (scores, _) = scores.as_chunks_mut::<LANES>();
    let scores = &mut scores[..tiles];
    let mut greatest = simd.splat(running.0);
    for tile in scores.iter() {
        // Drops NaN, which comes back through the weights below.
        greatest = simd.max(simd.load(tile), greatest);
    }
    let greatest = simd.greatest(greatest);
    let mut rescale = [1f32; LANES];
    if greatest > running.0 {
        let factor = simd.exp(simd.splat(running.0 - greatest));
        simd.store(factor, &mut rescale);
        running.0 = greatest;
        running.1 *= rescale[0];
    }
    let mut sum = simd.splat(0.0);
    let greatest = simd.splat(greatest);
    for tile in scores {
        let weight = simd.exp(simd.sub(simd.load(tile), greatest));
        simd.store(weight, tile);
        sum = simd.add(sum, weight);
    }
    running.1 += simd.sum(sum);
    rescale[0]
}

/// Weighted sums of values, `(R, vectors)`.
struct Sums<'a, const R: usize> {
    values: &'a mut [Vector],
    vectors: usize,
    rescale: [f32; R],
}

impl<const R: usize> Sums<'_, R> {
    /// Adds the first `end` values of a run, `W` vectors from `column` on. `PART`: the last
    /// vector of a head that is not made of whole ones.
    // What it works on changes with every call, so a struct for it would only be filled and emptied.
    #[allow(clippy::needless_range_loop, clippy::too_many_arguments)]
    #[inline(always)]
    fn add<S: Simd, T: Element, const W: usize, const PART: bool>(
        &mut self,
        simd: S,
        dim: usize,
        run: &Run<'_, T>,
        next: Option<&Run<'_, T>>,
        end: usize,
        weights: &[Weights; R],
        column: usize,
    ) {
        let mut sums = [[simd.splat(0.0); W]; R];
        for r in 0..R {
            let from = &self.values[r * self.vectors + column..][..W];
            for w in 0..W {
                sums[r][w] = simd.mul(simd.load(&from[w].0), simd.splat(self.rescale[r]));
            }
        }
        for tile in 0..end.div_ceil(LANES) {
            let rows = run.values[tile].chunks_exact(dim);
            let first = tile * LANES;
            for (key, row) in (first..end.min(first + LANES)).zip(rows) {
                if let Some(next) = next {
                    let from = (key - first) * dim;
                    for w in (0..W).step_by(2) {
                        fetch(next.values[tile], from + (column + w) * LANES);
                    }
                }
                let (whole, rest) = row.as_chunks::<LANES>();
                let mut value = [simd.splat(0.0); W];
                if PART {
                    let mut padded = [T::ZERO; LANES];
                    padded[..rest.len()].copy_from_slice(rest);
                    value[0] = T::load(simd, &padded);
                } else {
                    let whole = &whole[column..][..W];
                    for w in 0..W {
                        value[w] = T::load(simd, &whole[w]);
                    }
                }
                for r in 0..R {
                    let weight = simd.splat(weights[r].0[key]);
                    for w in 0..W {
                        sums[r][w] = simd.fma(weight, value[w], sums[r][w]);
                    }
                }
            }
        }
        for r in 0..R {
            let to = &mut self.values[r * self.vectors + column..][..W];
            for w in 0..W {
                simd.store(sums[r][w], &mut to[w].0);
            }
        }
    }
}
