//! Activations for products of bf16 in matrix tiles, and those products in plain Rust.
//!
//! A value is rounded to bf16, and what is left of it again: the two together are 16 bits of
//! mantissa, off by at most 2⁻¹⁷ of the value.
//!
//! The order of the sums is the one of the tile instruction: of 32 columns those with even
//! and with odd index are summed up apart from zero, in fused multiply-adds; the two sums are
//! added, and that is added to what there is. The lesser parts of 32 columns come first. The
//! instruction takes and gives values below 2⁻¹²⁶ as zero, where plain Rust does not.

use super::activations::Chunks;
use crate::parallel;

/// Columns of a chunk: what one tile instruction sums up.
pub(crate) const COLUMNS: usize = 32;

/// Bits of bf16 values.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Chunk(pub(crate) [u16; COLUMNS]);

impl Default for Chunk {
    fn default() -> Self {
        Self([0; COLUMNS])
    }
}

/// Rows of values as sums of two bf16.
#[derive(Debug, PartialEq)]
pub(crate) struct Halves {
    pub(crate) greater: Chunks<Chunk>,
    pub(crate) lesser: Chunks<Chunk>,
    width: usize,
}

impl Halves {
    /// Rounds `x`, rows of `width`.
    pub(crate) fn new(x: &[f32], width: usize) -> Self {
        let rows = x.len().checked_div(width).unwrap_or(0);
        let per_row = width.div_ceil(COLUMNS);
        let new = || Chunks::new(rows, per_row);
        let mut this = Self {
            greater: new(),
            lesser: new(),
            width,
        };
        let places = Chunks::<()>::new(rows, per_row);
        let len = parallel::rows_per_piece(rows * per_row);
        let greater = this.greater.as_mut_slice().chunks_mut(len);
        let lesser = this.lesser.as_mut_slice().chunks_mut(len);
        let pieces = greater.zip(lesser).enumerate().collect();
        parallel::for_each(pieces, x.len(), |(piece, (greater, lesser))| {
            for (i, (greater, lesser)) in greater.iter_mut().zip(lesser).enumerate() {
                let (row, chunk) = places.place(piece * len + i);
                if row < rows {
                    let x = &x[row * width..][..width];
                    let start = chunk * COLUMNS;
                    let x = &x[start..width.min(start + COLUMNS)];
                    let parts = greater.0.iter_mut().zip(&mut lesser.0);
                    for (x, (greater, lesser)) in x.iter().zip(parts) {
                        (*greater, *lesser) = split(*x);
                    }
                }
            }
        });
        this
    }

    pub(crate) fn per_row(&self) -> usize {
        self.greater.per_row()
    }

    pub(crate) fn stride(&self) -> usize {
        self.greater.stride()
    }

    pub(crate) fn first(&self, row: usize) -> usize {
        self.greater.first(row)
    }
}

/// The nearest bf16, an even one of two; a NaN stays one.
#[inline]
fn nearest(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let nan = bits & 0x7fff_ffff > 0x7f80_0000;
    (if nan { bits >> 16 | 0x40 } else { rounded }) as u16
}

/// The parts of a value. What is not finite has only one.
#[inline]
fn split(x: f32) -> (u16, u16) {
    let greater = nearest(x);
    let lesser = nearest(x - widen(greater));
    let finite = x.to_bits() & 0x7f80_0000 != 0x7f80_0000;
    (greater, if finite { lesser } else { 0 })
}

#[inline]
fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// A row of values as the products see it.
pub(super) fn values(x: &Halves, row: usize) -> Vec<f32> {
    let (greater, lesser) = parts(x, row);
    let sums = greater.iter().zip(&lesser).map(|(a, b)| a + b);
    sums.take(x.width).collect()
}

/// The parts of a row, filled up to whole chunks.
fn parts(x: &Halves, row: usize) -> (Vec<f32>, Vec<f32>) {
    let of = |chunks: &Chunks<Chunk>| {
        let at = |chunk| &chunks[x.first(row) + chunk * x.stride()];
        let chunks = (0..x.per_row()).map(at);
        chunks.flat_map(|chunk| chunk.0.map(widen)).collect()
    };
    (of(&x.greater), of(&x.lesser))
}

/// The product of a row with weights, which are bf16 values; what tiles are tested against.
pub(super) fn dot(weights: &[f32], x: &Halves, row: usize) -> f32 {
    let mut weights = weights.to_vec();
    weights.resize(weights.len().next_multiple_of(COLUMNS), 0.0);
    let (greater, lesser) = parts(x, row);
    let mut sum = 0.0;
    for (chunk, w) in weights.chunks_exact(COLUMNS).enumerate() {
        for part in [&lesser, &greater] {
            sum += chunk_dot(w, &part[chunk * COLUMNS..][..COLUMNS]);
        }
    }
    sum
}

fn chunk_dot(w: &[f32], x: &[f32]) -> f32 {
    let mut sums = [0f32; 2];
    for (i, (w, x)) in w.iter().zip(x).enumerate() {
        sums[i % 2] = x.mul_add(*w, sums[i % 2]);
    }
    sums[0] + sums[1]
}
