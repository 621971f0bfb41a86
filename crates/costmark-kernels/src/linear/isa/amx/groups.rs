//! Weights with one scale per 32 values, `q8_0` and `q4_0`: a tile instruction per group, and
//! its sums scaled in vector registers while the next one runs.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::super::avx512::{self, Sums, Word, load_scales, load_sums, store_sums};
use super::{fetch_next, load_lanes, part_of, pieces, row_tiles};
use crate::TensorFormat;
use crate::linear::activations::{Groups, TILE_ROWS};
use crate::linear::packed::{Packed, Vector};
use crate::tiles::{Shapes, Tiles, load, multiply, store, zero};

/// Words of a group: four values of each lane.
const WORDS: usize = 8;

/// Groups of a piece: 16 KiB of weights.
const BLOCK: usize = 32;
/// Groups under way at a time: as many as there are registers for their sums.
const BATCH: usize = 4;

/// A piece's weights as signed bytes and its scales, kept between calls.
#[derive(Default)]
struct Scratch {
    words: Vec<Word>,
    scales: Vec<Sums>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A tile of sums.
#[repr(C, align(64))]
struct Products([[i32; 16]; TILE_ROWS]);

/// All rows with each panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn tile(
    matrix: &Packed,
    panels: Range<usize>,
    x: &Groups,
    rows: Range<usize>,
    out: &mut [Sums],
) {
    debug_assert_eq!(x.stride(), TILE_ROWS);
    let (sums, a, b) = ((TILE_ROWS, 64), (TILE_ROWS, 32), (WORDS, 64));
    let shapes = Shapes::new([sums, sums, sums, sums, a, a, b, b]);
    // SAFETY: this is called where tiles are permitted; the shapes are as they must be.
    let _tiles = unsafe { Tiles::shape(&shapes) };
    let count = rows.len();
    out.fill([0.0; 16]);
    SCRATCH.with_borrow_mut(|scratch| {
        for (panel, groups) in pieces(panels.clone(), 1, x.per_row(), BLOCK, true) {
            let out = &mut out[(panel.start - panels.start) * count..][..count];
            let panel = matrix.panel(panel.start);
            scratch.scales.clear();
            let (scales, _) = panel.scales.as_chunks::<2>();
            for scales in &scales[groups.clone()] {
                let mut widened = [0.0; 16];
                store_sums(&mut widened, load_scales(scales));
                scratch.scales.push(widened);
            }
            let (words, _) = panel.vectors.as_chunks::<2>();
            let eight_bits = matrix.format() == TensorFormat::Q8_0;
            let of_group = if eight_bits { WORDS } else { WORDS / 2 };
            let stored = &words[groups.start * of_group..groups.end * of_group];
            let words = if eight_bits {
                stored
            } else {
                unpack(stored, &mut scratch.words);
                &scratch.words
            };
            let tiles = row_tiles(&rows, TILE_ROWS);
            for tile in tiles.clone() {
                fetch_next(
                    stored,
                    size_of_val(panel.vectors),
                    tile - tiles.start,
                    tiles.len(),
                );
                let (within, at) = part_of(&rows, tile, TILE_ROWS);
                let out = &mut out[at];
                let mut sums = [_mm512_setzero_ps(); TILE_ROWS];
                for (sums, out) in sums[within.clone()].iter_mut().zip(&*out) {
                    *sums = load_sums(out);
                }
                let start = x.first(tile * TILE_ROWS) + groups.start * TILE_ROWS;
                products(words, &scratch.scales, x, start, &mut sums);
                for (out, sums) in out.iter_mut().zip(&sums[within]) {
                    store_sums(out, *sums);
                }
            }
        }
    });
}

/// Four bits, stored plus 8, to signed bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn unpack(words: &[Word], to: &mut Vec<Word>) {
    to.resize(2 * words.len(), [Vector::default(); 2]);
    let nibble = _mm512_set1_epi8(15);
    let eight = _mm512_set1_epi8(8);
    let (groups, _) = words.as_chunks::<4>();
    for (group, to) in groups.iter().zip(to.as_chunks_mut::<WORDS>().0) {
        for v in 0..4 {
            let both = avx512::load(&group[v]);
            let low = _mm512_and_si512(both, nibble);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(both), nibble);
            store_word(&mut to[v], _mm512_sub_epi8(low, eight));
            store_word(&mut to[v + 4], _mm512_sub_epi8(high, eight));
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store_word(word: &mut Word, value: __m512i) {
    // SAFETY: the reference is to 64 writable bytes.
    unsafe { _mm512_storeu_si512(std::ptr::from_mut(word).cast(), value) }
}

/// Adds a piece's products with sixteen rows, the first one's first group at `start`.
// Index loops with constant bounds keep the sums in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn products(
    words: &[Word],
    scales: &[Sums],
    x: &Groups,
    start: usize,
    to: &mut [__m512; TILE_ROWS],
) {
    let mut sums = *to;
    let groups = scales.len().min(words.len() / WORDS);
    let (x_scales, x_quads) = (x.scales.tiles(start, groups), x.quads.tiles(start, groups));
    let mut products = [const { Products([[0; 16]; TILE_ROWS]) }; BATCH];
    let add = |products: &Products, g: usize, sums: &mut [__m512; TILE_ROWS]| {
        let scales = load_sums(&scales[g]);
        for r in 0..TILE_ROWS {
            let scale = _mm512_mul_ps(scales, _mm512_set1_ps(x_scales[g][r]));
            let products = _mm512_cvtepi32_ps(load_lanes(&products.0[r]));
            sums[r] = _mm512_fmadd_ps(products, scale, sums[r]);
        }
    };
    // Each group of a batch is multiplied, and the group that was in its place a batch before
    // is scaled meanwhile; tiles are stored when all are under way.
    let mut done: Range<usize> = 0..0;
    while done.end < groups {
        let batch = done.end..groups.min(done.end + BATCH);
        macro_rules! group {
            ($index:literal, $a:literal, $b:literal) => {
                let g = batch.start + $index;
                if g < batch.end {
                    let (x, words) = (&x_quads[g], &words[g * WORDS..][..WORDS]);
                    // SAFETY: tiles are shaped; each load is of 16 rows of 32 bytes from a
                    // group's quads or of 8 rows of 64 bytes from its words.
                    unsafe {
                        zero!($index);
                        load!($a, x.as_ptr(), 32usize);
                        load!($b, words.as_ptr(), 64usize);
                        multiply!("tdpbssd", $index, $a, $b);
                    }
                }
                if done.start + $index < done.end {
                    add(&products[$index], done.start + $index, &mut sums);
                }
            };
        }
        group!(0, 4, 6);
        group!(1, 5, 7);
        group!(2, 4, 6);
        group!(3, 5, 7);
        let [first, second, third, fourth] = &mut products;
        // SAFETY: tiles are shaped; each store is of 16 rows of 64 bytes.
        unsafe {
            store!(0, first.0.as_mut_ptr(), 64usize);
            store!(1, second.0.as_mut_ptr(), 64usize);
            store!(2, third.0.as_mut_ptr(), 64usize);
            store!(3, fourth.0.as_mut_ptr(), 64usize);
        }
        done = batch;
    }
    for (products, g) in products.iter().zip(done) {
        add(products, g, &mut sums);
    }
    *to = sums;
}
