//! Activations as the products take them: as they are, or rounded to 8 bits as ggml does.
//!
//! For `q*_0` weights a group of 32 values shares one scale, the greatest magnitude over
//! 127, rounded to f16; for `q*_k` weights 256 values share one in f32. A value that is
//! not finite makes its whole group so: it must not vanish in the rounding.

use half::f16;

use super::isa::Isa;
use crate::TensorFormat;
use crate::parallel;

/// 32 values of one row.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct Group {
    /// Four rounded values each, first in the low byte.
    pub(crate) quads: [i32; 8],
    /// What one unit stands for.
    pub(crate) scale: f32,
    /// Sum of the rounded values.
    pub(crate) sum: i32,
}

/// 256 values of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct Super {
    /// Four rounded values each, first in the low byte.
    pub(crate) quads: [i32; 64],
    /// Sums of 16 rounded values, two each, first in the low half.
    pub(crate) sums: [i32; 8],
    /// What one unit stands for.
    pub(crate) scale: f32,
}

impl Default for Super {
    fn default() -> Self {
        Self {
            quads: [0; 64],
            sums: [0; 8],
            scale: 0.0,
        }
    }
}

/// `(rows, width)`.
#[derive(Debug, PartialEq)]
pub enum Activations<'a> {
    /// As they are.
    Exact(&'a [f32], usize),
    /// One scale per 32 values; groups of a row.
    Groups(Vec<Group>, usize),
    /// One scale per 256 values; supers of a row.
    Supers(Vec<Super>, usize),
}

/// Which of them a format's products take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Not at all.
    Exact,
    /// 8 bits, one scale per 32 values.
    Groups,
    /// 8 bits, one scale per 256 values.
    Supers,
}

impl Rounding {
    /// The one that `weights` are multiplied with.
    #[must_use]
    pub fn of(weights: TensorFormat) -> Self {
        match weights {
            TensorFormat::Q8_0 | TensorFormat::Q4_0 => Self::Groups,
            TensorFormat::Q4K | TensorFormat::Q5K | TensorFormat::Q6K => Self::Supers,
            _ => Self::Exact,
        }
    }
}

impl<'a> Activations<'a> {
    /// Rounds `x`, rows of `width`, which is a multiple of the group's length.
    #[must_use]
    pub fn new(x: &'a [f32], width: usize, rounding: Rounding, isa: Isa) -> Self {
        match rounding {
            Rounding::Exact => Self::Exact(x, width),
            Rounding::Groups => {
                let groups = rounded(x, |x, group| isa.round_group(x, group));
                Self::Groups(groups, width / 32)
            }
            Rounding::Supers => {
                let supers = rounded(x, |x, block| isa.round_super(x, block));
                Self::Supers(supers, width / 256)
            }
        }
    }
}

impl Activations<'_> {
    /// The values that the products see, `(rows, width)`.
    #[must_use]
    pub fn values(&self) -> Vec<f32> {
        let bytes = |quads: &[i32], scale: f32| -> Vec<f32> {
            let bytes = quads.iter().flat_map(|quad| quad.to_le_bytes());
            bytes.map(|byte| f32::from(byte as i8) * scale).collect()
        };
        match self {
            Self::Exact(x, _) => x.to_vec(),
            Self::Groups(x, _) => x.iter().flat_map(|g| bytes(&g.quads, g.scale)).collect(),
            Self::Supers(x, _) => x.iter().flat_map(|s| bytes(&s.quads, s.scale)).collect(),
        }
    }
}

/// Rounds each `N` values of `x` with `round`.
fn rounded<const N: usize, T: Default + Clone + Send>(
    x: &[f32],
    round: impl Fn(&[f32; N], &mut T) + Sync,
) -> Vec<T> {
    let (x, _) = x.as_chunks::<N>();
    let mut out = vec![T::default(); x.len()];
    let len = parallel::rows_per_piece(x.len());
    let pieces = x.chunks(len).zip(out.chunks_mut(len)).collect();
    parallel::for_each(pieces, x.len() * N, |(x, out): (&[[f32; N]], &mut [T])| {
        x.iter().zip(out).for_each(|(x, out)| round(x, out));
    });
    out
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
    for (quad_out, x) in group.quads.iter_mut().zip(x.as_chunks::<4>().0) {
        *quad_out = quad(x, factor);
    }
    group.scale = f16::from_f32(scale).to_f32();
    group.sum = sum(&group.quads);
}

/// 256 values in plain Rust; what faster ones are tested against.
pub(super) fn round_super(x: &[f32; 256], block: &mut Super) {
    let greatest = greatest(x);
    if greatest == 0.0 {
        *block = Super::default();
        return;
    }
    let factor = 127.0 / greatest;
    for (quad_out, x) in block.quads.iter_mut().zip(x.as_chunks::<4>().0) {
        *quad_out = quad(x, factor);
    }
    for (sums, quads) in block.sums.iter_mut().zip(block.quads.chunks_exact(8)) {
        let (low, high) = (sum(&quads[..4]), sum(&quads[4..]));
        *sums = (low & 0xffff) | (high << 16);
    }
    block.scale = 1.0 / factor;
}
