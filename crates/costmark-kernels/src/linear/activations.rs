//! Activations as the products take them: as they are, or rounded.
//!
//! For `q*_0` weights a group of 32 values shares one scale, the greatest magnitude over
//! 127, rounded to f16; for `q*_k` weights 256 values share one in f32; both as ggml does. A
//! value that is not finite makes its whole group so: it must not vanish in the rounding.
//! Where matrix tiles multiply bf16, a value is the sum of two of those, see
//! [`halves`].

use half::f16;

use super::halves::{self, Halves};
use super::isa::Isa;
use crate::TensorFormat;
use crate::parallel;

/// Rows whose chunks lie side by side, where there are as many.
pub(crate) const TILE_ROWS: usize = 16;

/// Rows cut into chunks along their width, `(tiles of rows, chunks, rows of a tile)`: what a
/// tile of rows needs next always comes next in memory. The last tile is filled up with
/// rows of zeros.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chunks<T> {
    chunks: Vec<T>,
    /// Chunks of a row.
    per_row: usize,
    /// Rows of a tile.
    height: usize,
}

impl<T: Default + Clone> Chunks<T> {
    pub(crate) fn new(rows: usize, per_row: usize) -> Self {
        let height = rows.clamp(1, TILE_ROWS);
        Self {
            chunks: vec![T::default(); rows.next_multiple_of(height) * per_row],
            per_row,
            height,
        }
    }
}

impl<T> Chunks<T> {
    /// Chunks of a row.
    pub(crate) fn per_row(&self) -> usize {
        self.per_row
    }

    /// From a chunk of a row to the next one of the same row; also the rows of a tile.
    pub(crate) fn stride(&self) -> usize {
        self.height
    }

    /// Where the first chunk of a row lies.
    pub(crate) fn first(&self, row: usize) -> usize {
        row / self.height * self.per_row * self.height + row % self.height
    }

    /// Row and chunk of what lies at `index`.
    pub(crate) fn place(&self, index: usize) -> (usize, usize) {
        let (column, row) = (index / self.height, index % self.height);
        let (tile, chunk) = (column / self.per_row, column % self.per_row);
        (tile * self.height + row, chunk)
    }

    /// What the rows of a tile have at `index`, which is where the first one's lies.
    pub(crate) fn rows(&self, index: usize) -> &[T] {
        &self.chunks[index..index + self.height]
    }

    /// The same of tiles of [`TILE_ROWS`].
    pub(crate) fn tile(&self, index: usize) -> &[T; TILE_ROWS] {
        &self.tiles(index, 1)[0]
    }

    /// The same for consecutive chunks.
    pub(crate) fn tiles(&self, index: usize, chunks: usize) -> &[[T; TILE_ROWS]] {
        self.chunks[index..index + chunks * TILE_ROWS].as_chunks().0
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.chunks
    }

    /// In row-major order, `rows` of them.
    fn in_rows(&self, rows: usize) -> impl Iterator<Item = &T> {
        let at = move |row| (0..self.per_row).map(move |c| self.first(row) + c * self.height);
        (0..rows).flat_map(at).map(|index| &self.chunks[index])
    }
}

impl<T> std::ops::Index<usize> for Chunks<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.chunks[index]
    }
}

/// Four rounded values each, first in the low byte.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(32))]
pub(crate) struct Quads<const N: usize>(pub(crate) [i32; N]);

impl<const N: usize> Default for Quads<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

/// 32 values of one row.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Group {
    pub(crate) quads: Quads<8>,
    /// What one unit stands for.
    pub(crate) scale: f32,
    /// Sum of the rounded values.
    pub(crate) sum: i32,
}

/// Sums of rounded values, two each, first in the low half.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Sums {
    /// Of 16 values each.
    pub(crate) of_16: [i32; 8],
    /// Of 32 values each.
    pub(crate) of_32: [i32; 4],
}

impl Sums {
    fn new(of_16: [i32; 8]) -> Self {
        let halves = |pair: i32| (pair << 16 >> 16) + (pair >> 16);
        let of_32 =
            std::array::from_fn(|i| halves(of_16[2 * i]) & 0xffff | halves(of_16[2 * i + 1]) << 16);
        Self { of_16, of_32 }
    }
}

/// 256 values of one row.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Super {
    pub(crate) quads: Quads<64>,
    /// Sums of 16 rounded values, two each, first in the low half.
    pub(crate) sums: [i32; 8],
    /// What one unit stands for.
    pub(crate) scale: f32,
}

/// Rounded values of rows; the parts of a chunk of `V` values have the same index.
#[derive(Debug, PartialEq)]
pub(crate) struct Rounded<Q, S> {
    pub(crate) quads: Chunks<Q>,
    pub(crate) sums: Chunks<S>,
    pub(crate) scales: Chunks<f32>,
}

/// See [`Group`].
pub(crate) type Groups = Rounded<Quads<8>, i32>;
/// See [`Super`].
pub(crate) type Supers = Rounded<Quads<64>, Sums>;

impl<Q: Default + Clone + Send, S: Default + Clone + Send> Rounded<Q, S> {
    /// Rounds each `N` values of `x`, rows of `width`.
    fn new<const N: usize>(
        x: &[f32],
        width: usize,
        round: impl Fn(&[f32; N]) -> (Q, S, f32) + Sync,
    ) -> Self {
        let (rows, per_row) = (x.len().checked_div(width).unwrap_or(0), width / N);
        let mut rounded = Self {
            quads: Chunks::new(rows, per_row),
            sums: Chunks::new(rows, per_row),
            scales: Chunks::new(rows, per_row),
        };
        let (places, x) = (rounded.scales.clone(), x.as_chunks::<N>().0);
        let len = parallel::rows_per_piece(x.len());
        let quads = rounded.quads.as_mut_slice().chunks_mut(len);
        let sums = rounded.sums.as_mut_slice().chunks_mut(len);
        let scales = rounded.scales.as_mut_slice().chunks_mut(len);
        let pieces = quads.zip(sums).zip(scales).enumerate().collect();
        parallel::for_each(pieces, x.len() * N, |(piece, ((quads, sums), scales))| {
            let values = quads.iter_mut().zip(sums).zip(scales).enumerate();
            for (i, ((quads, sums), scale)) in values {
                let (row, chunk) = places.place(piece * len + i);
                if row < rows {
                    (*quads, *sums, *scale) = round(&x[row * per_row + chunk]);
                }
            }
        });
        rounded
    }

    pub(crate) fn per_row(&self) -> usize {
        self.scales.per_row()
    }

    pub(crate) fn stride(&self) -> usize {
        self.scales.stride()
    }

    pub(crate) fn first(&self, row: usize) -> usize {
        self.scales.first(row)
    }
}

/// `(rows, width)`.
#[derive(Debug, PartialEq)]
pub(crate) enum Activations<'a> {
    /// As they are, and their width.
    Exact(&'a [f32], usize),
    /// One scale per 32 values.
    Groups(Groups),
    /// One scale per 256 values.
    Supers(Supers),
    /// Sums of two bf16.
    Halves(Halves),
}

/// Which of them a format's products take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// Not at all.
    Exact,
    /// 8 bits, one scale per 32 values.
    Groups,
    /// 8 bits, one scale per 256 values.
    Supers,
    /// Sums of two bf16.
    Halves,
}

impl Rounding {
    /// Every one.
    pub(crate) const ALL: [Self; 4] = [Self::Exact, Self::Groups, Self::Supers, Self::Halves];

    /// The one that `weights` are multiplied with.
    pub(crate) fn of(weights: TensorFormat, isa: Isa) -> Self {
        match weights {
            TensorFormat::Q8_0 | TensorFormat::Q4_0 => Self::Groups,
            TensorFormat::Q4K | TensorFormat::Q5K | TensorFormat::Q6K => Self::Supers,
            TensorFormat::BF16 if isa.multiplies_halves() => Self::Halves,
            _ => Self::Exact,
        }
    }
}

impl<'a> Activations<'a> {
    /// Rounds `x`, rows of `width`, which is a multiple of the group's length.
    pub(crate) fn new(x: &'a [f32], width: usize, rounding: Rounding, isa: Isa) -> Self {
        match rounding {
            Rounding::Exact => Self::Exact(x, width),
            Rounding::Groups => Self::Groups(Rounded::new(x, width, |x| {
                let mut group = Group::default();
                isa.round_group(x, &mut group);
                (group.quads, group.sum, group.scale)
            })),
            Rounding::Supers => Self::Supers(Rounded::new(x, width, |x| {
                let mut block = Super::default();
                isa.round_super(x, &mut block);
                (block.quads, Sums::new(block.sums), block.scale)
            })),
            Rounding::Halves => Self::Halves(Halves::new(x, width)),
        }
    }

    /// The values that the products see, `(rows, width)`.
    fn values(&self, rows: usize) -> Vec<f32> {
        fn bytes<const N: usize, S>(x: &Rounded<Quads<N>, S>, rows: usize) -> Vec<f32> {
            let chunks = x.quads.in_rows(rows).zip(x.scales.in_rows(rows));
            let chunk = |(quads, scale): (&Quads<N>, &f32)| {
                let bytes = quads.0.map(i32::to_le_bytes);
                bytes
                    .as_flattened()
                    .iter()
                    .map(|byte| f32::from(*byte as i8) * scale)
                    .collect()
            };
            chunks.flat_map::<Vec<f32>, _>(chunk).collect()
        }
        match self {
            Self::Exact(x, _) => x.to_vec(),
            Self::Groups(x) => bytes(x, rows),
            Self::Supers(x) => bytes(x, rows),
            Self::Halves(x) => (0..rows).flat_map(|row| halves::values(x, row)).collect(),
        }
    }
}

/// The values that products with weights of this format see instead of `x`, rows of `width`;
/// for tests of what they round.
#[must_use]
pub fn rounded(x: &[f32], width: usize, weights: TensorFormat, isa: Isa) -> Vec<f32> {
    let rows = x.len().checked_div(width).unwrap_or(0);
    Activations::new(x, width, Rounding::of(weights, isa), isa).values(rows)
}

/// The greatest magnitude; NaN if there is one, since its bits are the greatest then.
fn greatest(x: &[f32]) -> f32 {
    let bits = x.iter().map(|v| v.to_bits() & 0x7fff_ffff);
    f32::from_bits(bits.max().unwrap_or(0))
}

fn quad(x: &[f32; 4], factor: f32) -> i32 {
    i32::from_le_bytes(x.map(|v| (v * factor).round() as i8 as u8))
}

/// Sum of the four values of each quad.
fn sum(quads: &[i32]) -> i32 {
    let bytes = quads.iter().flat_map(|quad| quad.to_le_bytes());
    bytes.map(|byte| i32::from(byte as i8)).sum()
}

/// A group in plain Rust; what faster ones are tested against.
pub(super) fn round_group(x: &[f32; 32], group: &mut Group) {
    let scale = greatest(x) / 127.0;
    let factor = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    for (quad_out, x) in group.quads.0.iter_mut().zip(x.as_chunks::<4>().0) {
        *quad_out = quad(x, factor);
    }
    group.scale = f16::from_f32(scale).to_f32();
    group.sum = sum(&group.quads.0);
}

/// 256 values in plain Rust; what faster ones are tested against.
pub(super) fn round_super(x: &[f32; 256], block: &mut Super) {
    let greatest = greatest(x);
    if greatest == 0.0 {
        *block = Super::default();
        return;
    }
    let factor = 127.0 / greatest;
    for (quad_out, x) in block.quads.0.iter_mut().zip(x.as_chunks::<4>().0) {
        *quad_out = quad(x, factor);
    }
    for (sums, quads) in block.sums.iter_mut().zip(block.quads.0.chunks_exact(8)) {
        let (low, high) = (sum(&quads[..4]), sum(&quads[4..]));
        *sums = (low & 0xffff) | (high << 16);
    }
    block.scale = 1.0 / factor;
}
