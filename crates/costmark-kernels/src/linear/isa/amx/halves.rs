//! `bf16` and `f16` weights with activations that are sums of two bf16, see
//! [`halves`](crate::linear::halves).

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::super::avx512::{self, Sums, Word, fetch};
use super::groups::store_word;
use super::tiles::{Shapes, Tiles, load, multiply, store};
use super::{part_of, pieces, row_tiles};
use crate::linear::activations::TILE_ROWS;
use crate::linear::halves::{Chunk, Halves};
use crate::linear::packed::{Packed, Vector};

/// Words of a tile: two values of each lane.
const WORDS: usize = 16;
/// How many bytes ahead of its use a weight is fetched.
const AHEAD: usize = 4096;

/// Chunks of a piece of two panels: 32 KiB of weights in bf16.
const BLOCK: usize = 16;

type Tile = [Word; WORDS];

/// Tiles of two panels, kept between calls.
#[derive(Default)]
struct Scratch {
    panels: [Parts; 2],
}

/// A panel's tiles where they are not in memory already.
#[derive(Default)]
struct Parts {
    /// `bf16`: the last one, filled up with zeros. `f16`: all, rounded to bf16.
    main: Vec<Tile>,
    /// `f16`: what is left of them.
    rest: Vec<Tile>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A piece of a panel as tiles: those of `whole` and then those of `main`.
#[derive(Clone, Copy)]
struct Weights<'a> {
    whole: &'a [Tile],
    main: &'a [Tile],
    rest: &'a [Tile],
}

/// A tile of sums.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Products([Sums; TILE_ROWS]);

/// All rows with each panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn tile<const F16: bool>(
    matrix: &Packed,
    panels: Range<usize>,
    x: &Halves,
    rows: Range<usize>,
    out: &mut [Sums],
) {
    let height = x.stride();
    let (few, all) = ((height, 64), (WORDS, 64));
    let shapes = Shapes::new([few, few, few, few, few, few, all, all]);
    // SAFETY: this is called where tiles are permitted; the shapes are as they must be.
    let _tiles = unsafe { Tiles::shape(&shapes) };
    let count = rows.len();
    let many = count > TILE_ROWS;
    // What is unpacked shall stay in the first-level cache; what is not is read to the end.
    let block = if F16 {
        BLOCK / 2
    } else if many {
        BLOCK
    } else {
        usize::MAX / 2
    };
    out.fill([0.0; 16]);
    SCRATCH.with_borrow_mut(|scratch| {
        for (pair, chunks) in pieces(panels.clone(), 2, x.greater.per_row(), block, many) {
            let at = (pair.start - panels.start) * count;
            let out = &mut out[at..at + pair.len() * count];
            let mut weights = pair.zip(&mut scratch.panels).map(|(panel, parts)| {
                let (words, _) = matrix.panel(panel).vectors.as_chunks::<2>();
                let words = &words[chunks.start * WORDS..words.len().min(chunks.end * WORDS)];
                parts.fill::<F16>(words);
                Weights {
                    whole: if F16 { &[] } else { words.as_chunks().0 },
                    main: &parts.main,
                    rest: &parts.rest,
                }
            });
            let rows = Rows {
                x,
                chunks: chunks.clone(),
                rows: rows.clone(),
            };
            match (weights.next(), weights.next()) {
                (Some(first), Some(second)) => rows.meet::<F16, 2>([first, second], out),
                (Some(first), None) => rows.meet::<F16, 1>([first], out),
                _ => {}
            }
        }
    });
}

/// Some chunks of rows of activations.
struct Rows<'a> {
    x: &'a Halves,
    chunks: Range<usize>,
    rows: Range<usize>,
}

impl Rows<'_> {
    /// Adds products with all rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn meet<const F16: bool, const P: usize>(&self, weights: [Weights<'_>; P], out: &mut [Sums]) {
        let mut tiles = row_tiles(&self.rows, self.x.stride());
        let mut cold = true;
        while let Some(tile) = tiles.next() {
            if tiles.next().is_some() {
                self.add::<F16, P, 2>(&weights, tile, cold, out);
            } else {
                self.add::<F16, P, 1>(&weights, tile, cold, out);
            }
            cold = false;
        }
    }

    /// Adds products with `T` tiles of rows from tile `first` on.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn add<const F16: bool, const P: usize, const T: usize>(
        &self,
        weights: &[Weights<'_>; P],
        first: usize,
        cold: bool,
        out: &mut [Sums],
    ) {
        let (height, count) = (self.x.stride(), self.rows.len());
        let mut sums = [[Products([[0.0; 16]; TILE_ROWS]); P]; T];
        for (t, sums) in sums.iter_mut().enumerate() {
            let (within, at) = part_of(&self.rows, first + t, height);
            for (sums, out) in sums.iter_mut().zip(out.chunks_exact(count)) {
                sums.0[within.clone()].copy_from_slice(&out[at.clone()]);
            }
        }
        let starts = std::array::from_fn(|t| {
            self.x.first((first + t) * height) + self.chunks.start * height
        });
        let chunks = self.chunks.len();
        products::<F16, P, T>(weights, self.x, starts, chunks, cold, &mut sums);
        for (t, sums) in sums.iter().enumerate() {
            let (within, at) = part_of(&self.rows, first + t, height);
            for (sums, out) in sums.iter().zip(out.chunks_exact_mut(count)) {
                out[at.clone()].copy_from_slice(&sums.0[within.clone()]);
            }
        }
    }
}

impl Parts {
    /// From a piece of a panel.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn fill<const F16: bool>(&mut self, words: &[Word]) {
        let empty = [[Vector::default(); 2]; WORDS];
        if !F16 {
            let (_, last) = words.as_chunks::<WORDS>();
            self.main.clear();
            if !last.is_empty() {
                let mut tile = empty;
                tile[..last.len()].copy_from_slice(last);
                self.main.push(tile);
            }
            return;
        }
        let tiles = words.len().div_ceil(WORDS);
        self.main.resize(tiles, empty);
        self.rest.resize(tiles, empty);
        let main = self.main.as_flattened_mut();
        let rest = self.rest.as_flattened_mut();
        main[words.len()..].fill(empty[0]);
        rest[words.len()..].fill(empty[0]);
        for ((word, main), rest) in words.iter().zip(main).zip(rest) {
            fetch(word, AHEAD);
            let word = avx512::load(word);
            let first = _mm512_cvtph_ps(_mm512_castsi512_si256(word));
            let second = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(word));
            let (first_main, second_main) = (rounded(first), rounded(second));
            store_word(main, pairs(first_main, second_main));
            let left = |value, main| _mm512_sub_ps(value, _mm512_castsi512_ps(main));
            let first = _mm512_castps_si512(left(first, first_main));
            let second = _mm512_castps_si512(left(second, second_main));
            store_word(rest, pairs(first, second));
        }
    }
}

/// The nearest bf16 as f32, of two equally near ones the even one. What stands for no number
/// stays so: f16 has no bits where rounding could carry over.
#[target_feature(enable = "avx512f")]
#[inline]
fn rounded(value: __m512) -> __m512i {
    let bits = _mm512_castps_si512(value);
    let one = _mm512_set1_epi32(1);
    let even = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), one);
    let half = _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff));
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    _mm512_and_si512(_mm512_add_epi32(bits, half), upper)
}

/// The upper halves of both, side by side per lane.
#[target_feature(enable = "avx512f")]
#[inline]
fn pairs(first: __m512i, second: __m512i) -> __m512i {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    _mm512_or_si512(
        _mm512_srli_epi32::<16>(first),
        _mm512_and_si512(second, upper),
    )
}

/// Adds products of `P` panels with `chunks` of `T` tiles of rows, which begin at `starts`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn products<const F16: bool, const P: usize, const T: usize>(
    weights: &[Weights<'_>; P],
    x: &Halves,
    starts: [usize; T],
    chunks: usize,
    cold: bool,
    sums: &mut [[Products; P]; T],
) {
    let height = x.stride();
    // SAFETY: in this block tiles are shaped; each load is of as many rows of 64 bytes as
    // lie in a tile of activations, weights or sums, each store of as many rows of sums.
    unsafe {
        load!(0, sums[0][0].0.as_ptr(), 64usize);
        if P == 2 {
            load!(1, sums[0][P - 1].0.as_ptr(), 64usize);
        }
        if T == 2 {
            load!(2, sums[T - 1][0].0.as_ptr(), 64usize);
        }
        if P == 2 && T == 2 {
            load!(3, sums[T - 1][P - 1].0.as_ptr(), 64usize);
        }
        for chunk in 0..chunks {
            let main = |p: usize| {
                let Weights { whole, main, .. } = weights[p];
                match whole.get(chunk) {
                    Some(tile) => tile,
                    None => &main[chunk - whole.len()],
                }
            };
            if cold && !F16 {
                (0..P).for_each(|p| main(p).iter().for_each(|word| fetch(word, AHEAD)));
            }
            let of = |part: &'_ [Chunk]| -> *const Chunk { part.as_ptr() };
            let greater: [*const Chunk; T] =
                std::array::from_fn(|t| of(x.greater.rows(starts[t] + chunk * height)));
            let lesser: [*const Chunk; T] =
                std::array::from_fn(|t| of(x.lesser.rows(starts[t] + chunk * height)));
            load!(6, main(0).as_ptr(), 64usize);
            if P == 2 {
                load!(7, main(P - 1).as_ptr(), 64usize);
            }
            add_all::<P, T>(greater);
            add_all::<P, T>(lesser);
            if F16 {
                load!(6, weights[0].rest[chunk].as_ptr(), 64usize);
                if P == 2 {
                    load!(7, weights[P - 1].rest[chunk].as_ptr(), 64usize);
                }
                add_all::<P, T>(greater);
            }
        }
        store!(0, sums[0][0].0.as_mut_ptr(), 64usize);
        if P == 2 {
            store!(1, sums[0][P - 1].0.as_mut_ptr(), 64usize);
        }
        if T == 2 {
            store!(2, sums[T - 1][0].0.as_mut_ptr(), 64usize);
        }
        if P == 2 && T == 2 {
            store!(3, sums[T - 1][P - 1].0.as_mut_ptr(), 64usize);
        }
    }
}

/// Adds the products of activations with the loaded weights of all panels.
///
/// # Safety
/// Tiles are shaped, and behind each pointer there are as many chunks as a tile has rows.
#[inline(always)]
unsafe fn add_all<const P: usize, const T: usize>(x: [*const Chunk; T]) {
    // SAFETY: the caller vouches for it.
    unsafe {
        load!(4, x[0], 64usize);
        multiply!("tdpbf16ps", 0, 4, 6);
        if P == 2 {
            multiply!("tdpbf16ps", 1, 4, 7);
        }
        if T == 2 {
            load!(5, x[T - 1], 64usize);
            multiply!("tdpbf16ps", 2, 5, 6);
            if P == 2 {
                multiply!("tdpbf16ps", 3, 5, 7);
            }
        }
    }
}
