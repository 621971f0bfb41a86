//! Attention in matrix tiles (AMX), for keys and values that are bf16, or f16.
//!
//! Queries and weights are the sums of two bf16 each, 16 bits of mantissa, and an f16 is such
//! a sum without an error. Of the four products of parts the one of both lesser parts is left
//! out: a score is off by at most 2⁻¹⁵ of the sum of its products' magnitudes. Sums are in f32.
//! The order of a tile instruction's sums does not depend on the other rows in the tile, so a
//! token's result is the same bits in any company; only that of [`head`](super::head) differs.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::RUN;
use super::head::{Block, Queries, Run, TILES, visible_keys};
use super::simd::avx512::Avx512;
use super::simd::{Element, LANES, Simd, fetch};
use crate::tiles::{Shapes, Tiles, load, multiply, permitted, store, zero};

/// Rows of a tile.
const ROWS: usize = 16;
/// What one instruction sums up: dimensions of a score, keys of a weighted sum of values.
const DEPTH: usize = 32;
/// Columns of values that are summed at once.
const COLUMNS: usize = 4;

/// Proof that the CPU has all that is used here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amx(Avx512);

impl Amx {
    /// Where the CPU has it and the system permits it.
    pub(super) fn detect() -> Option<Self> {
        let has = std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512bf16");
        let avx512 = Avx512::detect().filter(|_| has && permitted())?;
        Some(Self(avx512))
    }
}

/// Pairs of bf16: rows of queries or weights with [`DEPTH`] of them, or that many rows of 16
/// keys or values, two rows side by side.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Halves([[u32; LANES]; ROWS]);

/// Scores or sums.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Sums([[f32; LANES]; ROWS]);

const NO_HALVES: Halves = Halves([[0; LANES]; ROWS]);
const NO_SUMS: Sums = Sums([[0.0; LANES]; ROWS]);

/// A tile as the sum of two.
#[derive(Debug, Clone, Copy)]
struct Parts {
    greater: Halves,
    lesser: Halves,
}

const NO_PARTS: Parts = Parts {
    greater: NO_HALVES,
    lesser: NO_HALVES,
};

/// Buffers of one thread, kept between calls.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// `(lots of rows, chunks of a head)`.
    q: Vec<Parts>,
    /// Of a run, `(tiles, chunks of a head)`.
    keys: Vec<Parts>,
    /// Of a run, `(pairs of tiles, columns of a head)`.
    values: Vec<Parts>,
    /// `(lots of rows, columns of a head)`.
    sums: Vec<Sums>,
    /// Greatest score so far, and the sum of weights relative to it; per row.
    running: Vec<(f32, f32)>,
}

/// See [`attend`](super::attend).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
pub(super) fn attend<'a, T: Element>(
    amx: Amx,
    queries: &Queries<'_>,
    block: &impl Fn(usize) -> Block<'a, T>,
    scratch: &mut Scratch,
    out: &mut [f32],
    out_stride: usize,
) {
    let (dim, group) = (queries.head_dim, queries.group);
    let rows = queries.tokens * group;
    let height = rows.min(ROWS);
    let (chunks, columns) = (dim.div_ceil(DEPTH), dim.div_ceil(LANES));
    scratch.gather(queries, height);
    let (few, all) = ((height, 64), (ROWS, 64));
    let shapes = Shapes::new([few, few, few, few, few, few, all, all]);
    // SAFETY: `Amx` exists only where tiles are permitted; the shapes are as they must be.
    let _tiles = unsafe { Tiles::shape(&shapes) };
    let end = queries.first + queries.tokens;
    let oldest = queries
        .window
        .map_or(0, |window| (queries.first + 1).saturating_sub(window));
    let runs = oldest / RUN..end.div_ceil(RUN);
    let mut next = Run::of(queries, block, runs.start * RUN, end);
    for index in runs.clone() {
        let run = next;
        // Fetched while this one is laid out; after the last there is nothing.
        next = Run::of(queries, block, (index + 1) * RUN, end);
        lay_keys(amx, &run, &next, dim, &mut scratch.keys);
        lay_values(amx, &run, &next, dim, &mut scratch.values);
        for first in (0..rows).step_by(height) {
            let count = height.min(rows - first);
            let visible = |row: usize| {
                let position = queries.first + (first + row) / group;
                visible_keys(position, queries.window, run.first, run.valid)
            };
            // Later rows see as far or further.
            let seen = visible(count - 1).end;
            if seen == 0 {
                continue;
            }
            let lot = first / height;
            let q = &scratch.q[lot * chunks..][..chunks];
            let mut scores = [NO_SUMS; TILES];
            score::<T>(q, &scratch.keys, seen.div_ceil(LANES), &mut scores);
            let mut weights = [NO_PARTS; TILES / 2];
            let sums = &mut scratch.sums[lot * columns..][..columns];
            for row in 0..count {
                let running = &mut scratch.running[first + row];
                let rescale = absorb(amx, &scores, visible(row), row, running, &mut weights);
                if rescale != 1.0 {
                    let rescale = _mm512_set1_ps(rescale);
                    for sums in &mut *sums {
                        let sum = amx.0.load(&sums.0[row]);
                        amx.0.store(_mm512_mul_ps(sum, rescale), &mut sums.0[row]);
                    }
                }
            }
            add::<T>(&weights, &scratch.values, seen.div_ceil(DEPTH), sums);
        }
    }
    for row in 0..rows {
        let target = &mut out[row / group * out_stride + row % group * dim..][..dim];
        let factor = scratch.running[row].1.recip();
        let sums = &scratch.sums[row / height * columns..][..columns];
        for (target, sums) in target.chunks_mut(LANES).zip(sums) {
            for (t, s) in target.iter_mut().zip(sums.0[row % height]) {
                *t = s * factor;
            }
        }
    }
}

/// Up to sixteen floats from `from` on, zeros where there are no more.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_some(from: &[f32]) -> __m512 {
    let mask = mask_of(from.len());
    // SAFETY: reads what the mask lets, at most the slice.
    unsafe { _mm512_maskz_loadu_ps(mask, from.as_ptr()) }
}

/// The lowest `lanes` of sixteen.
fn mask_of(lanes: usize) -> u16 {
    ((1u32 << lanes.min(LANES)) - 1) as u16
}

/// Two times sixteen floats as 32 bf16, and what is left of them.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn split(first: __m512, second: __m512) -> (__m512i, __m512i) {
    // SAFETY: 64 bytes as other 64 bytes.
    let bits = |pair: __m512bh| unsafe { std::mem::transmute::<__m512bh, __m512i>(pair) };
    let greater = bits(_mm512_cvtne2ps_pbh(second, first));
    let widen =
        |half: __m256i| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
    let first = _mm512_sub_ps(first, widen(_mm512_castsi512_si256(greater)));
    let second = _mm512_sub_ps(second, widen(_mm512_extracti64x4_epi64::<1>(greater)));
    (greater, bits(_mm512_cvtne2ps_pbh(second, first)))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_row(row: &mut [u32; LANES], bits: __m512i) {
    // SAFETY: the reference is to 64 bytes.
    unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), bits) };
}

impl Scratch {
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn gather(&mut self, queries: &Queries<'_>, height: usize) {
        let (dim, group) = (queries.head_dim, queries.group);
        let rows = queries.tokens * group;
        let lots = rows.div_ceil(height);
        let (chunks, columns) = (dim.div_ceil(DEPTH), dim.div_ceil(LANES));
        self.q.resize(lots * chunks, NO_PARTS);
        self.q[(lots - 1) * chunks..].fill(NO_PARTS);
        for row in 0..rows {
            let source = &queries.values[row / group * queries.stride + row % group * dim..][..dim];
            let lot = &mut self.q[row / height * chunks..][..chunks];
            for (part, source) in lot.iter_mut().zip(source.chunks(DEPTH)) {
                let (first, second) = source.split_at(source.len().min(LANES));
                let (greater, lesser) = split(load_some(first), load_some(second));
                store_row(&mut part.greater.0[row % height], greater);
                store_row(&mut part.lesser.0[row % height], lesser);
            }
        }
        self.keys.resize(TILES * chunks, NO_PARTS);
        self.values.resize(TILES / 2 * columns, NO_PARTS);
        self.sums.clear();
        self.sums.resize(lots * columns, NO_SUMS);
        self.running.clear();
        self.running.resize(rows, (f32::NEG_INFINITY, 0.0));
    }
}

/// Two rows of values side by side as the sum of two bf16 each: the upper halves, and what
/// they leave of an f16, which is a bf16.
#[target_feature(enable = "avx512f")]
#[inline]
fn lay<T: Element>(first: __m512, second: __m512, parts: &mut Parts, row: usize) {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let pair = |first: __m512i, second: __m512i| {
        _mm512_or_si512(
            _mm512_srli_epi32::<16>(first),
            _mm512_and_si512(second, upper),
        )
    };
    let (a, b) = (_mm512_castps_si512(first), _mm512_castps_si512(second));
    store_row(&mut parts.greater.0[row], pair(a, b));
    if T::PARTS == 2 {
        let left = |value: __m512, bits: __m512i| {
            let greater = _mm512_castsi512_ps(_mm512_and_si512(bits, upper));
            _mm512_castps_si512(_mm512_sub_ps(value, greater))
        };
        store_row(
            &mut parts.lesser.0[row],
            pair(left(first, a), left(second, b)),
        );
    }
}

/// A run's keys, `(tiles, chunks)`; in each the dimensions in pairs.
#[target_feature(enable = "avx512f,avx2,fma")]
fn lay_keys<T: Element>(
    amx: Amx,
    run: &Run<'_, T>,
    next: &Run<'_, T>,
    dim: usize,
    target: &mut [Parts],
) {
    let chunks = dim.div_ceil(DEPTH);
    let tiles = run.keys.iter().zip(&next.keys);
    let tiles = tiles.zip(target.chunks_exact_mut(chunks));
    for ((keys, next), target) in tiles.take(run.valid.div_ceil(LANES)) {
        for (chunk, (keys, parts)) in keys.chunks(DEPTH).zip(target).enumerate() {
            let (pairs, last) = keys.as_chunks::<2>();
            for (row, [first, second]) in pairs.iter().enumerate() {
                fetch(next, chunk * DEPTH + 2 * row);
                let (first, second) = (T::load(amx.0, first), T::load(amx.0, second));
                lay::<T>(first, second, parts, row);
            }
            let mut row = pairs.len();
            if let [last] = last {
                lay::<T>(T::load(amx.0, last), _mm512_setzero_ps(), parts, row);
                row += 1;
            }
            parts.greater.0[row..].fill([0; LANES]);
            parts.lesser.0[row..].fill([0; LANES]);
        }
    }
}

/// A run's values, `(pairs of tiles, columns)`; in each the keys in pairs, and zeros where the
/// sequence has no more.
#[target_feature(enable = "avx512f,avx2,fma")]
fn lay_values<T: Element>(
    amx: Amx,
    run: &Run<'_, T>,
    next: &Run<'_, T>,
    dim: usize,
    target: &mut [Parts],
) {
    let columns = dim.div_ceil(LANES);
    for (chunk, target) in target.chunks_exact_mut(columns).enumerate() {
        let first = chunk * DEPTH;
        if first >= run.valid {
            break;
        }
        for row in 0..ROWS {
            let key = first + 2 * row;
            let values = |key: usize| match key < run.valid {
                true => &run.values[key / LANES][key % LANES * dim..][..dim],
                false => &[],
            };
            let (one, two) = (values(key), values(key + 1));
            let ahead = next.values[key / LANES];
            for (column, parts) in target.iter_mut().enumerate() {
                fetch(ahead, key % LANES * dim + column * 2 * LANES);
                let one = value(amx, one, column);
                let two = value(amx, two, column);
                lay::<T>(one, two, parts, row);
            }
        }
    }
}

/// The sixteen values of a column, zeros where there are no more.
#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn value<T: Element>(amx: Amx, row: &[T], column: usize) -> __m512 {
    let from = row.get(column * LANES..).unwrap_or(&[]);
    match from.first_chunk() {
        Some(whole) => T::load(amx.0, whole),
        None if from.is_empty() => _mm512_setzero_ps(),
        None => {
            let mut padded = [T::ZERO; LANES];
            padded[..from.len()].copy_from_slice(from);
            T::load(amx.0, &padded)
        }
    }
}

/// Scores of a lot of queries with the first `tiles` tiles of a run.
#[inline]
fn score<T: Element>(q: &[Parts], keys: &[Parts], tiles: usize, scores: &mut [Sums; TILES]) {
    let chunks = q.len();
    assert!(tiles <= TILES && tiles * chunks <= keys.len());
    // One tile's products: of the queries' parts with the greater part of the keys, and of the
    // greater one with the lesser.
    macro_rules! meet {
        ($sums:literal, $tile:literal, $chunk:expr) => {
            if $tile < tiles {
                let keys = &keys[$tile * chunks + $chunk];
                load!(6, &raw const keys.greater, 64usize);
                multiply!("tdpbf16ps", $sums, 4, 6);
                multiply!("tdpbf16ps", $sums, 5, 6);
                if T::PARTS == 2 {
                    load!(7, &raw const keys.lesser, 64usize);
                    multiply!("tdpbf16ps", $sums, 4, 7);
                }
            }
        };
    }
    // SAFETY: tiles are shaped; each load is of a whole tile, each store of at most one.
    unsafe {
        zero!(0);
        zero!(1);
        zero!(2);
        zero!(3);
        for (chunk, q) in q.iter().enumerate() {
            load!(4, &raw const q.greater, 64usize);
            load!(5, &raw const q.lesser, 64usize);
            meet!(0, 0, chunk);
            meet!(1, 1, chunk);
            meet!(2, 2, chunk);
            meet!(3, 3, chunk);
        }
        store!(0, &raw mut scores[0], 64usize);
        store!(1, &raw mut scores[1], 64usize);
        store!(2, &raw mut scores[2], 64usize);
        store!(3, &raw mut scores[3], 64usize);
    }
}

/// Turns a row's scores into weights relative to the greatest so far, none for keys not seen,
/// and says what earlier sums are to be multiplied with.
#[target_feature(enable = "avx512f,avx512bf16,avx2,fma")]
#[inline]
fn absorb(
    amx: Amx,
    scores: &[Sums; TILES],
    visible: std::ops::Range<usize>,
    row: usize,
    running: &mut (f32, f32),
    weights: &mut [Parts; TILES / 2],
) -> f32 {
    if visible.is_empty() {
        return 1.0;
    }
    let seen = u64::MAX >> (RUN - visible.end) & u64::MAX << visible.start;
    let hidden = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut scored = [hidden; TILES];
    let mut greatest = _mm512_set1_ps(running.0);
    for (tile, scored) in scored.iter_mut().enumerate() {
        let mask = (seen >> (tile * LANES)) as u16;
        *scored = _mm512_mask_mov_ps(hidden, mask, amx.0.load(&scores[tile].0[row]));
        // Drops NaN, which comes back through the weights below.
        greatest = amx.0.max(*scored, greatest);
    }
    let greatest = amx.0.greatest(greatest);
    let mut rescale = 1.0;
    if greatest > running.0 {
        rescale = _mm512_cvtss_f32(amx.0.exp(_mm512_set1_ps(running.0 - greatest)));
        running.0 = greatest;
        running.1 *= rescale;
    }
    let greatest = _mm512_set1_ps(greatest);
    let mut sum = _mm512_setzero_ps();
    for scored in &mut scored {
        *scored = amx.0.exp(_mm512_sub_ps(*scored, greatest));
        sum = _mm512_add_ps(sum, *scored);
    }
    running.1 += amx.0.sum(sum);
    for (pair, weights) in scored.as_chunks::<2>().0.iter().zip(weights) {
        let (greater, lesser) = split(pair[0], pair[1]);
        store_row(&mut weights.greater.0[row], greater);
        store_row(&mut weights.lesser.0[row], lesser);
    }
    rescale
}

/// Adds a lot's weighted values of the first `chunks` chunks of a run to `sums`, one tile per
/// column.
#[inline]
fn add<T: Element>(
    weights: &[Parts; TILES / 2],
    values: &[Parts],
    chunks: usize,
    sums: &mut [Sums],
) {
    let columns = sums.len();
    assert!(chunks <= weights.len() && chunks * columns <= values.len());
    for (index, sums) in sums.chunks_mut(COLUMNS).enumerate() {
        let first = index * COLUMNS;
        let count = sums.len();
        macro_rules! meet {
            ($sums:literal, $column:literal, $chunk:expr) => {
                if $column < count {
                    let values = &values[$chunk * columns + first + $column];
                    load!(6, &raw const values.greater, 64usize);
                    multiply!("tdpbf16ps", $sums, 4, 6);
                    multiply!("tdpbf16ps", $sums, 5, 6);
                    if T::PARTS == 2 {
                        load!(7, &raw const values.lesser, 64usize);
                        multiply!("tdpbf16ps", $sums, 4, 7);
                    }
                }
            };
        }
        macro_rules! each {
            ($do:ident) => {
                each!(@ $do, 0);
                each!(@ $do, 1);
                each!(@ $do, 2);
                each!(@ $do, 3);
            };
            (@ $do:ident, $column:literal) => {
                if let Some(sums) = sums.get_mut($column) {
                    $do!($column, std::ptr::from_mut(sums), 64usize);
                }
            };
        }
        // SAFETY: as in `score`.
        unsafe {
            each!(load);
            for (chunk, weights) in weights.iter().enumerate().take(chunks) {
                load!(4, &raw const weights.greater, 64usize);
                load!(5, &raw const weights.lesser, 64usize);
                meet!(0, 0, chunk);
                meet!(1, 1, chunk);
                meet!(2, 2, chunk);
                meet!(3, 3, chunk);
            }
            each!(store);
        }
    }
}
