//! Products in matrix tiles (AMX), for many rows of activations at once, and for `bf16` weights
//! for any number of them.
//!
//! A tile instruction multiplies 16 rows of activations of up to 64 bytes with as many bytes
//! of 16 outputs, which lie in a panel as it wants them. For bytes its sums are exact
//! integers, so that with ggml blocks the bits are those of the other kernels: few rows are
//! left to them.

mod groups;
mod halves;
mod supers;

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::{self, Word};
use crate::TensorFormat;
use crate::linear::activations::{Activations, TILE_ROWS};
use crate::linear::packed::Packed;
use crate::tiles;

pub(super) use self::tiles::permitted;

/// See [`Isa::tile`](super::Isa::tile).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn tile(
    matrix: &Packed,
    panels: Range<usize>,
    x: &Activations<'_>,
    rows: Range<usize>,
    out: &mut [f32],
) {
    // Beside VNNI with 16 rows, calls in turn, median of 57, two threads of a Xeon: `q8_0` 1.30
    // times as fast, `q4_k` 1.02, `q5_k` 1.09, `q6_k` 1.15; `q4_0` 0.87, whose unpacking one tile
    // of rows does not make up for.
    let least = match matrix.format() {
        TensorFormat::Q4_0 => TILE_ROWS + 1,
        _ => TILE_ROWS,
    };
    let many = |height| rows.len() >= least && height == TILE_ROWS;
    let (sums, _) = out.as_chunks_mut::<{ avx512::LANES }>();
    match (matrix.format(), x) {
        (TensorFormat::BF16, Activations::Halves(x)) => {
            halves::tile(matrix, panels, x, rows, sums);
        }
        (_, Activations::Groups(x)) if many(x.stride()) => {
            groups::tile(matrix, panels, x, rows, sums);
        }
        (_, Activations::Supers(x)) if many(x.stride()) => {
            supers::tile(matrix, panels, x, rows, sums);
        }
        _ => avx512::tile(matrix, panels, x, rows, out),
    }
}

/// Pieces of a matrix, each `block` of a row's `columns` (in whatever unit) and up to `group`
/// panels. With many rows one such block of all panels comes before the next, so that the
/// activations it meets stay in the second-level cache, and the weights of a piece in the
/// first-level one. With few a panel is read to its end first, as it lies in memory.
fn pieces(
    panels: Range<usize>,
    group: usize,
    columns: usize,
    block: usize,
    many: bool,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let (groups, blocks) = (panels.len().div_ceil(group), columns.div_ceil(block));
    (0..groups * blocks).map(move |index| {
        let (panel, column) = if many {
            (index % groups, index / groups)
        } else {
            (index / blocks, index % blocks)
        };
        let first = panels.start + panel * group;
        let columns = column * block..columns.min((column + 1) * block);
        (first..panels.end.min(first + group), columns)
    })
}

/// Words to be fetched: those that lie `distance` bytes behind `words`.
#[derive(Clone, Copy)]
struct Ahead<'a> {
    words: &'a [Word],
    distance: usize,
}

impl<'a> Ahead<'a> {
    /// What is due in `step` of `steps`, so that all is near when the last step is done.
    #[inline(always)]
    fn part(self, step: usize, steps: usize) -> Self {
        let each = self.words.len().div_ceil(steps.max(1));
        let from = (step * each).min(self.words.len());
        Self {
            words: &self.words[from..self.words.len().min(from + each)],
            ..self
        }
    }

    /// One step of `steps` with each `next`.
    #[inline(always)]
    fn parts(self, steps: usize) -> impl Iterator<Item = ()> + 'a {
        let each = self.words.len().div_ceil(steps.max(1)).max(1);
        let words = self.words.chunks(each);
        words.map(move |words| Ahead { words, ..self }.fetch())
    }

    #[inline(always)]
    fn fetch(self) {
        for word in self.words {
            avx512::fetch(word, self.distance);
        }
    }
}

/// Fetches a part of the words that lie `distance` bytes behind `words`: the one that is due
/// in `step` of `steps`, so that they are near when the last step is done.
#[inline(always)]
fn fetch_next(words: &[Word], distance: usize, step: usize, steps: usize) {
    Ahead { words, distance }.part(step, steps).fetch();
}

/// Tiles of `height` rows that `rows` take part in.
fn row_tiles(rows: &Range<usize>, height: usize) -> Range<usize> {
    rows.start / height..rows.end.div_ceil(height)
}

/// Of the tile's `height` rows those among `rows`, and where they lie among those.
fn part_of(rows: &Range<usize>, tile: usize, height: usize) -> (Range<usize>, Range<usize>) {
    let first = tile * height;
    let within = rows.start.max(first)..rows.end.min(first + height);
    let in_rows = within.start - rows.start..within.end - rows.start;
    (within.start - first..within.end - first, in_rows)
}

/// Sixteen lanes of integers from where a tile was stored.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_lanes(lanes: &[i32; 16]) -> __m512i {
    // SAFETY: the reference is to 64 readable bytes.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}
