//! Activations for products of bf16 in matrix tiles, and those products in plain Rust.
//!
//! A value is cut off after the 8 bits of mantissa that bf16 has, what is left of it again,
//! and again: the three together are its 24 bits, so nothing is rounded but the sums.
//!
//! The order of the sums is the one of the tile instruction: of 32 columns those with even
//! and with odd index are summed up apart from zero, in fused multiply-adds; the two sums are
//! added, and that is added to what there is. The greatest parts of 32 columns come first,
//! the least ones last. The instruction takes and gives values below 2⁻¹²⁶ as zero, where plain
//! Rust does not.

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

/// Parts of a value.
pub(crate) const PARTS: usize = 3;

/// Rows of values as sums of bf16.
#[derive(Debug, PartialEq)]
pub(crate) struct Halves {
    /// The greatest first.
    pub(crate) parts: [Chunks<Chunk>; PARTS],
    width: usize,
}

impl Halves {
    /// Rounds `x`, rows of `width`.
    pub(crate) fn new(x: &[f32], width: usize) -> Self {
        let rows = x.len().checked_div(width).unwrap_or(0);
        let per_row = width.div_ceil(COLUMNS);
        let new = || Chunks::new(rows, per_row);
        let mut this = Self {
            parts: [new(), new(), new()],
            width,
        };
        let places = Chunks::<()>::new(rows, per_row);
        let [first, second, third] = &mut this.parts;
        let len = parallel::rows_per_piece(rows * per_row);
        let first = first.as_mut_slice().chunks_mut(len);
        let second = second.as_mut_slice().chunks_mut(len);
        let third = third.as_mut_slice().chunks_mut(len);
        let pieces = first.zip(second).zip(third).enumerate().collect();
        parallel::for_each(pieces, x.len(), |(piece, ((first, second), third))| {
            let chunks = first.iter_mut().zip(second).zip(third).enumerate();
            for (i, ((first, second), third)) in chunks {
                let (row, chunk) = places.place(piece * len + i);
                if row < rows {
                    let x = &x[row * width..][..width];
                    let start = chunk * COLUMNS;
                    let x = &x[start..width.min(start + COLUMNS)];
                    for (i, x) in x.iter().enumerate() {
                        [first.0[i], second.0[i], third.0[i]] = split(*x);
                    }
                }
            }
        });
        this
    }

    pub(crate) fn per_row(&self) -> usize {
        self.parts[0].per_row()
    }

    pub(crate) fn stride(&self) -> usize {
        self.parts[0].stride()
    }

    pub(crate) fn first(&self, row: usize) -> usize {
        self.parts[0].first(row)
    }
}

/// The parts of a value. What is not finite has only one.
#[inline]
fn split(x: f32) -> [u16; PARTS] {
    let cut = |x: f32| x.to_bits() & 0xffff_0000;
    let first = cut(x);
    let rest = x - f32::from_bits(first);
    let second = cut(rest);
    let third = cut(rest - f32::from_bits(second));
    let bits = x.to_bits();
    if bits & 0x7f80_0000 == 0x7f80_0000 {
        // Cutting off must not make a NaN anything else.
        let nan = bits & 0x7fff_ffff > 0x7f80_0000;
        return [(bits >> 16) as u16 | if nan { 0x40 } else { 0 }, 0, 0];
    }
    [first, second, third].map(|part| (part >> 16) as u16)
}

#[inline]
fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// A row of values as the products see it.
pub(super) fn values(x: &Halves, row: usize) -> Vec<f32> {
    let [first, second, third] = parts(x, row);
    let all = first.iter().zip(&second).zip(&third);
    all.map(|((a, b), c)| a + (b + c)).take(x.width).collect()
}

/// The parts of a row, filled up to whole chunks.
fn parts(x: &Halves, row: usize) -> [Vec<f32>; PARTS] {
    let of = |chunks: &Chunks<Chunk>| {
        let at = |chunk| &chunks[x.first(row) + chunk * x.stride()];
        let chunks = (0..x.per_row()).map(at);
        chunks.flat_map(|chunk| chunk.0.map(widen)).collect()
    };
    x.parts.each_ref().map(of)
}

/// The product of a row with weights, which are bf16 values; what tiles are tested against.
pub(super) fn dot(weights: &[f32], x: &Halves, row: usize) -> f32 {
    let mut weights = weights.to_vec();
    weights.resize(weights.len().next_multiple_of(COLUMNS), 0.0);
    let parts = parts(x, row);
    let mut sum = 0.0;
    for (chunk, w) in weights.chunks_exact(COLUMNS).enumerate() {
        for part in &parts {
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
