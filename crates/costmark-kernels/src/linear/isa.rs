//! Which implementation of the products runs: the fastest this machine has.
//!
//! Sums of integers are exact, and each output's sum of floats runs over `width` in one fixed
//! order, in fused multiply-adds. So a result depends on neither the number of threads nor the
//! company a row is computed in, and but for `bf16` weights not on the machine either: those
//! meet rounded activations, summed up in another order, where there are matrix tiles, see
//! [`halves`](super::halves).
#![allow(unsafe_code)]

use std::ops::Range;

use super::activations::{self, Activations, Group, Rounding, Super, TILE_ROWS};
use super::packed::Packed;
use super::portable;

/// Runs the body for rows in as few and as equal blocks of at most eight as there can be,
/// with `$R` the block's rows. With four or fewer the products' latency shows.
#[cfg(target_arch = "x86_64")]
macro_rules! in_blocks {
    ($rows:expr, |$first:ident, $R:ident| $body:block) => {{
        let rows: std::ops::Range<usize> = $rows;
        let mut $first = rows.start;
        for left in (1..=rows.len().div_ceil(8)).rev() {
            let len = (rows.end - $first).div_ceil(left);
            in_blocks!(@ len, $R, $body, 1 2 3 4 5 6 7 8);
            $first += len;
        }
    }};
    (@ $len:ident, $R:ident, $body:block, $($n:literal)*) => {
        match $len {
            $($n => {
                const $R: usize = $n;
                $body
            })*
            _ => {}
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod kinds;

/// An instruction set with products of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust; what the others are tested against.
    Portable,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Detected),
    /// AVX-512 F, BW, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(Detected),
    /// The same, and AMX tiles of bytes and of bf16.
    #[cfg(target_arch = "x86_64")]
    Amx(Detected),
}

/// Proof that the CPU was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detected(());

impl Isa {
    /// The best this CPU has.
    #[must_use]
    pub fn detect() -> Self {
        Self::available().last().unwrap_or(Self::Portable)
    }

    /// All that this CPU has, the best last.
    pub fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let more = {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            let avx512 = avx2
                && has!("avx512f")
                && has!("avx512bw")
                && has!("avx512vl")
                && has!("avx512vnni");
            [
                avx2.then_some(Self::Avx2(Detected(()))),
                avx512.then_some(Self::Avx512(Detected(()))),
                (avx512 && amx::permitted()).then_some(Self::Amx(Detected(()))),
            ]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let more = [None::<Self>; 0];
        std::iter::once(Self::Portable).chain(more.into_iter().flatten())
    }

    /// The name users see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => "amx",
        }
    }

    /// Rows of a panel.
    pub(super) fn lanes(self) -> usize {
        match self {
            Self::Portable => 8,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => 8,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) | Self::Amx(_) => 16,
        }
    }

    /// Whether `bf16` weights meet activations that are sums of bf16.
    pub(super) fn multiplies_halves(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => true,
            _ => false,
        }
    }

    /// Rows that are taken at a time: what a kernel needs of them at once stays in the
    /// second-level cache. A multiple of [`TILE_ROWS`].
    pub(super) fn lot(self, rounding: Rounding) -> usize {
        match self.tiled_panels(rounding) {
            // Of the columns of a piece 256 KiB.
            Some(_) => 16 * TILE_ROWS,
            None => 4 * TILE_ROWS,
        }
    }

    /// Panels that shall share a loading of many rows' columns into the second-level cache,
    /// where kernels go through a matrix column by column.
    pub(super) fn tiled_panels(self, rounding: Rounding) -> Option<usize> {
        match (self, rounding) {
            #[cfg(target_arch = "x86_64")]
            (Self::Amx(_), Rounding::Halves) => Some(32),
            #[cfg(target_arch = "x86_64")]
            (Self::Amx(_), Rounding::Groups | Rounding::Supers) => Some(16),
            _ => None,
        }
    }

    /// Products of `panels` of the matrix with `rows` of `x`, to `out`
    /// `(panels, rows, lanes)`. The matrix was packed for this instruction set, or this is
    /// [`Portable`](Isa::Portable).
    pub(super) fn tile(
        self,
        matrix: &Packed,
        panels: Range<usize>,
        x: &Activations<'_>,
        rows: Range<usize>,
        out: &mut [f32],
    ) {
        debug_assert_eq!(out.len(), panels.len() * rows.len() * matrix.lanes());
        if out.is_empty() {
            return;
        }
        match self {
            Self::Portable => portable::tile(matrix, panels, x, rows, out),
            // SAFETY: `Detected` exists only where the CPU has these instructions.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => unsafe { avx2::tile(matrix, panels, x, rows, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => unsafe { avx512::tile(matrix, panels, x, rows, out) },
            // SAFETY: as above, and the system permits tiles.
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => unsafe { amx::tile(matrix, panels, x, rows, out) },
        }
    }

    pub(super) fn round_group(self, x: &[f32; 32], group: &mut Group) {
        match self {
            Self::Portable => activations::round_group(x, group),
            // SAFETY: as above; AVX-512 is found only where AVX2 is.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) | Self::Avx512(_) | Self::Amx(_) => unsafe {
                avx2::round_group(x, group);
            },
        }
    }

    pub(super) fn round_super(self, x: &[f32; 256], block: &mut Super) {
        match self {
            Self::Portable => activations::round_super(x, block),
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) | Self::Avx512(_) | Self::Amx(_) => unsafe {
                avx2::round_super(x, block);
            },
        }
    }
}
