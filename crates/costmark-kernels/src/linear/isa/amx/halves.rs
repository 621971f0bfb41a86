//! `bf16` weights with activations that are sums of two bf16, see
//! [`halves`](crate::linear::halves).

use std::cell::RefCell;
use std::ops::Range;

use super::super::avx512::{AHEAD, LANES, Sums, Word, fetch_in_stages};
use super::{fetch_next, part_of, pieces, row_tiles};
use crate::linear::activations::TILE_ROWS;
use crate::linear::halves::Halves;
use crate::linear::packed::{Packed, Vector};
use crate::tiles::{Shapes, Tiles, load, multiply, store, zero};

/// Words of a tile: two values of each lane.
const WORDS: usize = 16;

/// Chunks of a piece of two panels: 16 KiB of weights.
const BLOCK: usize = 8;

type Tile = [Word; WORDS];

/// A tile of sums.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Products([Sums; TILE_ROWS]);

/// What is kept between calls.
struct Scratch {
    panels: [Parts; 2],
    /// In place of sums that are fewer than a tile's.
    spare: Spare,
}

type Spare = [[Products; 2]; 2];

/// A panel's tiles where they are not in memory already: all for many rows, else the last one
/// where it is filled up with zeros.
#[derive(Default)]
struct Parts(Vec<Tile>);

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch {
            panels: [const { Parts(Vec::new()) }; 2],
            spare: [[Products([[0.0; LANES]; TILE_ROWS]); 2]; 2],
        })
    };
}

/// A piece of a panel as tiles: those of `whole` and then those of `copied`.
#[derive(Clone, Copy)]
struct Weights<'a> {
    /// What they were made of.
    stored: &'a [Word],
    whole: &'a [Tile],
    copied: &'a [Tile],
}

/// All rows with each panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn tile(
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
    let block = if many { BLOCK } else { usize::MAX / 2 };
    if x.per_row() == 0 {
        out.fill([0.0; LANES]);
    }
    SCRATCH.with_borrow_mut(
        |Scratch {
             panels: parts,
             spare,
         }| {
            for (pair, chunks) in pieces(panels.clone(), 2, x.per_row(), block, many) {
                let at = (pair.start - panels.start) * count;
                let out = &mut out[at..at + pair.len() * count];
                let mut weights = pair.zip(&mut *parts).map(|(panel, parts)| {
                    let (words, _) = matrix.panel(panel).vectors.as_chunks::<2>();
                    let words = &words[chunks.start * WORDS..words.len().min(chunks.end * WORDS)];
                    parts.fill(words, many);
                    Weights {
                        stored: words,
                        whole: if many { &[] } else { words.as_chunks().0 },
                        copied: &parts.0,
                    }
                });
                let rows = Rows {
                    x,
                    chunks: chunks.clone(),
                    rows: rows.clone(),
                    next: 2 * size_of_val(matrix.panel(panels.start).vectors),
                };
                match (weights.next(), weights.next()) {
                    (Some(first), Some(second)) => rows.meet::<2>([first, second], spare, out),
                    (Some(first), None) => rows.meet::<1>([first], spare, out),
                    _ => {}
                }
            }
        },
    );
}

/// Some chunks of rows of activations.
struct Rows<'a> {
    x: &'a Halves,
    chunks: Range<usize>,
    rows: Range<usize>,
    /// Bytes to the weights that these rows meet next.
    next: usize,
}

impl Rows<'_> {
    /// Adds products with all rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn meet<const P: usize>(&self, weights: [Weights<'_>; P], spare: &mut Spare, out: &mut [Sums]) {
        let mut tiles = row_tiles(&self.rows, self.x.stride());
        let (first, steps) = (tiles.start, tiles.len().div_ceil(2));
        let mut cold = self.rows.len() <= TILE_ROWS;
        while let Some(tile) = tiles.next() {
            if !cold {
                for weights in &weights {
                    fetch_next(weights.stored, self.next, (tile - first) / 2, steps);
                }
            }
            if tiles.next().is_some() {
                self.add::<P, 2>(&weights, tile, cold, spare, out);
            } else {
                self.add::<P, 1>(&weights, tile, cold, spare, out);
            }
            cold = false;
        }
    }

    /// Adds products with `T` tiles of rows from tile `first` on.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn add<const P: usize, const T: usize>(
        &self,
        weights: &[Weights<'_>; P],
        first: usize,
        cold: bool,
        spare: &mut Spare,
        out: &mut [Sums],
    ) {
        let (height, count) = (self.x.stride(), self.rows.len());
        let parts: [_; T] = std::array::from_fn(|t| part_of(&self.rows, first + t, height));
        let starts = std::array::from_fn(|t| {
            self.x.first((first + t) * height) + self.chunks.start * height
        });
        let mut sums = [[std::ptr::null_mut(); P]; T];
        for (t, (within, at)) in parts.iter().enumerate() {
            for (p, out) in out.chunks_exact_mut(count).take(P).enumerate() {
                let out = &mut out[at.clone()];
                sums[t][p] = if out.len() == height {
                    out.as_mut_ptr()
                } else {
                    spare[t][p].0[within.clone()].copy_from_slice(out);
                    spare[t][p].0.as_mut_ptr()
                };
            }
        }
        // SAFETY: tiles are shaped; each of `sums` is `height` rows of sums, and no two overlap.
        unsafe {
            products::<P, T>(weights, self.x, starts, self.chunks.clone(), cold, sums);
        }
        for (t, (within, at)) in parts.iter().enumerate() {
            for (p, out) in out.chunks_exact_mut(count).take(P).enumerate() {
                let out = &mut out[at.clone()];
                if out.len() < height {
                    out.copy_from_slice(&spare[t][p].0[within.clone()]);
                }
            }
        }
    }
}

impl Parts {
    /// From a piece of a panel.
    fn fill(&mut self, words: &[Word], many: bool) {
        let (whole, last) = words.as_chunks::<WORDS>();
        self.0.clear();
        if many {
            // Read once from far away, and many times from near.
            self.0.extend_from_slice(whole);
        }
        if !last.is_empty() {
            let mut tile = [[Vector::default(); 2]; WORDS];
            tile[..last.len()].copy_from_slice(last);
            self.0.push(tile);
        }
    }
}

/// Adds products of `P` panels with `chunks` of `T` tiles of rows, which begin at `starts`, to
/// `sums`, or sets them where the chunks are a row's first ones.
///
/// # Safety
/// Tiles are shaped; each of `sums` is as many rows of sums as a tile of activations has, and no
/// two share any.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn products<const P: usize, const T: usize>(
    weights: &[Weights<'_>; P],
    x: &Halves,
    starts: [usize; T],
    chunks: Range<usize>,
    cold: bool,
    sums: [[*mut Sums; P]; T],
) {
    let height = x.stride();
    macro_rules! each_sum {
        ($do:ident) => {
            $do!(0, sums[0][0], 64usize);
            if P == 2 {
                $do!(1, sums[0][P - 1], 64usize);
            }
            if T == 2 {
                $do!(2, sums[T - 1][0], 64usize);
            }
            if P == 2 && T == 2 {
                $do!(3, sums[T - 1][P - 1], 64usize);
            }
        };
    }
    // SAFETY: in this block each load is of as many rows of 64 bytes as lie in a tile of
    // activations, weights or sums, each store of as many rows of sums.
    unsafe {
        if chunks.start == 0 {
            zero!(0);
            zero!(1);
            zero!(2);
            zero!(3);
        } else {
            each_sum!(load);
        }
        for chunk in 0..chunks.len() {
            let tile = |p: usize| {
                let Weights { whole, copied, .. } = weights[p];
                match whole.get(chunk) {
                    Some(tile) => tile,
                    None => &copied[chunk - whole.len()],
                }
            };
            if cold {
                let fetch = |word| fetch_in_stages(word, AHEAD);
                (0..P).for_each(|p| tile(p).iter().for_each(fetch));
            }
            load!(6, tile(0).as_ptr(), 64usize);
            if P == 2 {
                load!(7, tile(P - 1).as_ptr(), 64usize);
            }
            for part in [&x.lesser, &x.greater] {
                let rows = |t: usize| part.rows(starts[t] + chunk * height).as_ptr();
                load!(4, rows(0), 64usize);
                multiply!("tdpbf16ps", 0, 4, 6);
                if P == 2 {
                    multiply!("tdpbf16ps", 1, 4, 7);
                }
                if T == 2 {
                    load!(5, rows(T - 1), 64usize);
                    multiply!("tdpbf16ps", 2, 5, 6);
                    if P == 2 {
                        multiply!("tdpbf16ps", 3, 5, 7);
                    }
                }
            }
        }
        each_sum!(store);
    }
}
