//! Weights with one scale per 32 values, `q8_0` and `q4_0`: a tile instruction per group, and
//! its sums scaled in vector registers while the next one runs.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::super::avx512::{self, AHEAD, Sums, Word, load_scales, load_sums, store_sums};
use super::{Ahead, load_lanes, part_of, pieces, row_tiles};
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

/// What is kept between calls.
struct Scratch {
    /// A piece's weights as signed bytes.
    words: Vec<Word>,
    /// Its scales.
    scales: Vec<Sums>,
    /// Products of groups under way.
    products: [Products; BATCH],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch {
            words: Vec::new(),
            scales: Vec::new(),
            products: [const { Products([[0; 16]; TILE_ROWS]) }; BATCH],
        })
    };
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
    let tiles = row_tiles(&rows, TILE_ROWS);
    let many = tiles.len() > 1;
    out.fill([0.0; 16]);
    SCRATCH.with_borrow_mut(|scratch| {
        let buffer = &mut scratch.products;
        for (panel, groups) in pieces(panels.clone(), 1, x.per_row(), BLOCK, many) {
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
            let ahead = Ahead {
                words: stored,
                distance: if many {
                    size_of_val(panel.vectors)
                } else {
                    AHEAD
                },
            };
            for tile in tiles.clone() {
                let ahead = ahead.part(tile - tiles.start, tiles.len());
                let (within, at) = part_of(&rows, tile, TILE_ROWS);
                let out = &mut out[at];
                let mut sums = [_mm512_setzero_ps(); TILE_ROWS];
                for (sums, out) in sums[within.clone()].iter_mut().zip(&*out) {
                    *sums = load_sums(out);
                }
                let start = x.first(tile * TILE_ROWS) + groups.start * TILE_ROWS;
                products(words, &scratch.scales, x, start, ahead, buffer, &mut sums);
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

/// Adds a piece's products with sixteen rows, the first one's first group at `start`, and
/// fetches what is `ahead` as it goes: all at once would be more lines than a core can wait for.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn products(
    words: &[Word],
    scales: &[Sums],
    x: &Groups,
    start: usize,
    ahead: Ahead<'_>,
    buffer: &mut [Products; BATCH],
    to: &mut [__m512; TILE_ROWS],
) {
    let mut sums = *to;
    let groups = scales.len().min(words.len() / WORDS);
    let (words, _) = words[..groups * WORDS].as_chunks::<WORDS>();
    let (x_scales, x_quads) = (x.scales.tiles(start, groups), x.quads.tiles(start, groups));
    let (scales, few_scales) = scales[..groups].as_chunks::<BATCH>();
    let (x_scales, few_x_scales) = x_scales.as_chunks::<BATCH>();
    let (x_quads, few_x_quads) = x_quads.as_chunks::<BATCH>();
    let (words, few_words) = words.as_chunks::<BATCH>();
    let mut ahead = ahead.parts(groups);
    // Each group of a batch is multiplied, and the group that was in its place a batch before
    // is scaled meanwhile; tiles are stored when all are under way.
    let mut before: Option<(&[Sums; BATCH], &[[f32; TILE_ROWS]; BATCH])> = None;
    let batches = words.iter().zip(x_quads).zip(scales.iter().zip(x_scales));
    for ((words, x_quads), scales) in batches {
        macro_rules! group {
            ($index:literal, $a:literal, $b:literal) => {
                ahead.next();
                // SAFETY: tiles are shaped; each load is of 16 rows of 32 bytes from a
                // group's quads or of 8 rows of 64 bytes from its words.
                unsafe {
                    zero!($index);
                    load!($a, x_quads[$index].as_ptr(), 32usize);
                    load!($b, words[$index].as_ptr(), 64usize);
                    multiply!("tdpbssd", $index, $a, $b);
                }
                if let Some((scales, x_scales)) = before {
                    add(
                        &buffer[$index],
                        &scales[$index],
                        &x_scales[$index],
                        &mut sums,
                    );
                }
            };
        }
        group!(0, 4, 6);
        group!(1, 5, 7);
        group!(2, 4, 6);
        group!(3, 5, 7);
        let [first, second, third, fourth] = &mut *buffer;
        // SAFETY: tiles are shaped; each store is of 16 rows of 64 bytes.
        unsafe {
            store!(0, first.0.as_mut_ptr(), 64usize);
            store!(1, second.0.as_mut_ptr(), 64usize);
            store!(2, third.0.as_mut_ptr(), 64usize);
            store!(3, fourth.0.as_mut_ptr(), 64usize);
        }
        before = Some(scales);
    }
    if let Some((scales, x_scales)) = before {
        for (products, scales) in buffer.iter().zip(scales.iter().zip(x_scales)) {
            add(products, scales.0, scales.1, &mut sums);
        }
    }
    let few = few_words.iter().zip(few_x_quads);
    for ((words, x), scales) in few.zip(few_scales.iter().zip(few_x_scales)) {
        ahead.next();
        // SAFETY: as above.
        unsafe {
            zero!(0);
            load!(4, x.as_ptr(), 32usize);
            load!(6, words.as_ptr(), 64usize);
            multiply!("tdpbssd", 0, 4, 6);
            store!(0, buffer[0].0.as_mut_ptr(), 64usize);
        }
        add(&buffer[0], scales.0, scales.1, &mut sums);
    }
    *to = sums;
}

/// Adds a group's products.
// An index loop with constant bounds keeps the sums in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn add(
    products: &Products,
    scales: &Sums,
    x_scales: &[f32; TILE_ROWS],
    sums: &mut [__m512; TILE_ROWS],
) {
    let scales = load_sums(scales);
    for r in 0..TILE_ROWS {
        let scale = _mm512_mul_ps(scales, _mm512_set1_ps(x_scales[r]));
        let products = _mm512_cvtepi32_ps(load_lanes(&products.0[r]));
        sums[r] = _mm512_fmadd_ps(products, scale, sums[r]);
    }
}
