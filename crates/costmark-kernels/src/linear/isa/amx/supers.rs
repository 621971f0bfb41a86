//! Weights with sub-blocks in blocks of 256 values: `q4_k`, `q5_k` and `q6_k`.
//!
//! A weight times its sub-block's scale is an integer of 13 bits at most. It is split into a
//! greater byte, signed, and a lesser one, unsigned: so the sums over all 256 values are those
//! of two tiles, exact, without a look at the scales in between.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::super::avx512::{Sums, Unpacked, Word, load_sums, store_sums, twice};
use super::super::kinds::{Q4K, Q5K, Q6K};
use super::groups::store_word;
use super::{fetch_next, load_lanes, part_of, pieces, row_tiles};
use crate::TensorFormat;
use crate::linear::activations::{Quads, Supers, TILE_ROWS};
use crate::linear::packed::{Packed, Vector};
use crate::tiles::{Shapes, Tiles, load, multiply, store, zero};

/// Tiles of a block: 64 values each.
const STEPS: usize = 4;
/// Blocks of a piece: 16 KiB of scaled weights.
const BLOCKS: usize = 2;
/// Words of a tile: four values of each lane.
const WORDS: usize = 16;
/// From a row of activations to the next, in bytes.
const ROW: usize = size_of::<Quads<64>>();

/// A block of a panel.
struct Block {
    lesser: [[Word; WORDS]; STEPS],
    greater: [[Word; WORDS]; STEPS],
    /// Of 32 values each, two in 16 bits.
    minima: [__m512i; 4],
    d: __m512,
    dmin: __m512,
}

thread_local! {
    /// The blocks of a piece, kept between calls.
    static SCRATCH: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// Two tiles of sums for up to two tiles of rows.
#[repr(C, align(64))]
struct Products([[[[i32; 16]; TILE_ROWS]; 2]; 2]);

/// All rows with each panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn tile(
    matrix: &Packed,
    panels: Range<usize>,
    x: &Supers,
    rows: Range<usize>,
    out: &mut [Sums],
) {
    debug_assert_eq!(x.stride(), TILE_ROWS);
    // SAFETY: this is called where tiles are permitted; the shapes are as they must be.
    let _tiles = unsafe { Tiles::shape(&Shapes::new([(16, 64); 8])) };
    let centred = matrix.format() == TensorFormat::Q6K;
    let mut unpacked = Unpacked::zero();
    let count = rows.len();
    let many = row_tiles(&rows, TILE_ROWS).len() > 1;
    out.fill([0.0; 16]);
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize_with(BLOCKS, || Block::zero());
        for (panel, blocks) in pieces(panels.clone(), 1, x.per_row(), BLOCKS, many) {
            let out = &mut out[(panel.start - panels.start) * count..][..count];
            let panel = matrix.panel(panel.start);
            let scratch = &mut scratch[..blocks.len()];
            for (index, block) in blocks.clone().zip(&mut *scratch) {
                match matrix.format() {
                    TensorFormat::Q4K => unpacked.fill::<Q4K>(panel, index),
                    TensorFormat::Q5K => unpacked.fill::<Q5K>(panel, index),
                    _ => unpacked.fill::<Q6K>(panel, index),
                }
                if centred {
                    block.fill::<4, true>(&unpacked);
                } else {
                    block.fill::<8, false>(&unpacked);
                }
            }
            let rows = Rows {
                x,
                block: blocks.start,
                rows: rows.clone(),
            };
            let (words, _) = panel.vectors.as_chunks::<2>();
            let of_block = words.len() / x.per_row();
            let stored = &words[blocks.start * of_block..blocks.end * of_block];
            let mut tiles = row_tiles(&rows.rows, TILE_ROWS);
            let (first, steps) = (tiles.start, tiles.len().div_ceil(2));
            while let Some(tile) = tiles.next() {
                // With one tile of rows the weights are met in the order in which they lie, and
                // unpacking has fetched them.
                if many {
                    let distance = size_of_val(panel.vectors);
                    fetch_next(stored, distance, (tile - first) / 2, steps);
                }
                match (tiles.next(), centred) {
                    (None, false) => rows.add::<1, false>(scratch, tile, out),
                    (None, true) => rows.add::<1, true>(scratch, tile, out),
                    (_, false) => rows.add::<2, false>(scratch, tile, out),
                    (_, true) => rows.add::<2, true>(scratch, tile, out),
                }
            }
        }
    });
}

/// Rows of activations from one of their blocks on.
struct Rows<'a> {
    x: &'a Supers,
    block: usize,
    rows: Range<usize>,
}

impl Rows<'_> {
    /// Adds products of `T` tiles of rows from tile `first` on.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn add<const T: usize, const CENTRED: bool>(
        &self,
        blocks: &[Block],
        first: usize,
        out: &mut [Sums],
    ) {
        let mut sums = [[[0.0; 16]; TILE_ROWS]; T];
        for (t, sums) in sums.iter_mut().enumerate() {
            let (within, at) = part_of(&self.rows, first + t, TILE_ROWS);
            sums[within].copy_from_slice(&out[at]);
        }
        let starts =
            std::array::from_fn(|t| self.x.first((first + t) * TILE_ROWS) + self.block * TILE_ROWS);
        products::<T, CENTRED>(blocks, self.x, starts, &mut sums);
        for (t, sums) in sums.iter().enumerate() {
            let (within, at) = part_of(&self.rows, first + t, TILE_ROWS);
            out[at].copy_from_slice(&sums[within]);
        }
    }
}

impl Block {
    #[target_feature(enable = "avx512f")]
    fn zero() -> Self {
        Self {
            lesser: [[[Vector::default(); 2]; WORDS]; STEPS],
            greater: [[[Vector::default(); 2]; WORDS]; STEPS],
            minima: [_mm512_setzero_si512(); 4],
            d: _mm512_setzero_ps(),
            dmin: _mm512_setzero_ps(),
        }
    }

    /// Scales the quants. `SUB` words make a sub-block. `CENTRED`: they are raised by 32, which
    /// is taken off, and there are no minima.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn fill<const SUB: usize, const CENTRED: bool>(&mut self, from: &Unpacked) {
        let low = _mm512_set1_epi16(0xff);
        let raised = _mm512_set1_epi16(if CENTRED { 32 } else { 0 });
        let lesser = self.lesser.as_flattened_mut().iter_mut();
        let words = lesser.zip(self.greater.as_flattened_mut());
        for (v, (lesser, greater)) in words.enumerate() {
            let scale = from.scaling.scales[v / SUB];
            let scale = twice(scale, scale);
            let scaled = |quants| {
                let quants = _mm512_sub_epi16(quants, raised);
                _mm512_mullo_epi16(quants, scale)
            };
            let quants = from.quants[v];
            let even = scaled(_mm512_and_si512(quants, low));
            let odd = scaled(_mm512_srli_epi16::<8>(quants));
            let of_odd = |v| _mm512_andnot_si512(low, v);
            let value = _mm512_or_si512(_mm512_and_si512(even, low), _mm512_slli_epi16::<8>(odd));
            store_word(lesser, value);
            let value = _mm512_or_si512(_mm512_srli_epi16::<8>(even), of_odd(odd));
            store_word(greater, value);
        }
        if !CENTRED {
            for (minima, from) in self
                .minima
                .iter_mut()
                .zip(from.scaling.minima.as_chunks::<2>().0)
            {
                *minima = twice(from[0], from[1]);
            }
        }
        self.d = from.scaling.d;
        self.dmin = from.scaling.dmin;
    }
}

/// Adds a piece's products with `T` tiles of rows, whose first rows' blocks are at `starts`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn products<const T: usize, const CENTRED: bool>(
    blocks: &[Block],
    x: &Supers,
    starts: [usize; T],
    sums: &mut [[Sums; TILE_ROWS]; T],
) {
    let mut products = Products([[[[0; 16]; TILE_ROWS]; 2]; 2]);
    let at =
        |index: usize| -> [usize; T] { std::array::from_fn(|t| starts[t] + index * TILE_ROWS) };
    let mut done: Option<(&Block, [usize; T])> = None;
    for (index, block) in blocks.iter().enumerate() {
        let at = at(index);
        let quads: [&[Quads<64>; TILE_ROWS]; T] = std::array::from_fn(|t| x.quads.tile(at[t]));
        // SAFETY: tiles are shaped.
        unsafe {
            zero!(0);
            zero!(1);
            zero!(2);
            zero!(3);
        }
        for step in 0..STEPS {
            // SAFETY: as above; each load is of 16 rows of 64 bytes of `quads`, which lie
            // `ROW` bytes apart, or of a step's words.
            unsafe {
                load!(6, block.lesser[step].as_ptr(), 64usize);
                load!(7, block.greater[step].as_ptr(), 64usize);
                let part = |t: usize| quads[t].as_ptr().cast::<u8>().add(64 * step);
                load!(4, part(0), ROW);
                multiply!("tdpbsud", 0, 4, 6);
                multiply!("tdpbssd", 1, 4, 7);
                if T == 2 {
                    load!(5, part(T - 1), ROW);
                    multiply!("tdpbsud", 2, 5, 6);
                    multiply!("tdpbssd", 3, 5, 7);
                }
            }
            // Meanwhile a quarter of the block before is scaled.
            if let Some((block, at)) = done {
                let rows = 4 * T * step..4 * T * (step + 1);
                scale::<T, CENTRED>(block, &products, x, at, rows, sums);
            }
        }
        // SAFETY: as above; each store is of 16 rows of 64 bytes.
        unsafe {
            store!(0, products.0[0][0].as_mut_ptr(), 64usize);
            store!(1, products.0[0][1].as_mut_ptr(), 64usize);
            if T == 2 {
                store!(2, products.0[1][0].as_mut_ptr(), 64usize);
                store!(3, products.0[1][1].as_mut_ptr(), 64usize);
            }
        }
        done = Some((block, at));
    }
    if let Some((block, at)) = done {
        scale::<T, CENTRED>(block, &products, x, at, 0..T * TILE_ROWS, sums);
    }
}

/// Adds a block's products in `rows` of all tiles' rows, scaled.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn scale<const T: usize, const CENTRED: bool>(
    block: &Block,
    products: &Products,
    x: &Supers,
    at: [usize; T],
    rows: Range<usize>,
    sums: &mut [[Sums; TILE_ROWS]; T],
) {
    for row in rows {
        let (t, r) = (row / TILE_ROWS, row % TILE_ROWS);
        let [lesser, greater] = &products.0[t];
        let greater = _mm512_slli_epi32::<8>(load_lanes(&greater[r]));
        let scaled = _mm512_add_epi32(load_lanes(&lesser[r]), greater);
        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(scaled), block.d);
        let value = if CENTRED {
            scaled
        } else {
            let mut least = _mm512_setzero_si512();
            for (minima, sums) in block.minima.iter().zip(&x.sums[at[t] + r].of_32) {
                least = _mm512_dpwssd_epi32(least, *minima, _mm512_set1_epi32(*sums));
            }
            _mm512_fnmadd_ps(_mm512_cvtepi32_ps(least), block.dmin, scaled)
        };
        let sum = &mut sums[t][r];
        let scale = _mm512_set1_ps(x.scales[at[t] + r]);
        store_sums(sum, _mm512_fmadd_ps(value, scale, load_sums(sum)));
    }
}
