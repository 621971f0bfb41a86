//! Which implementation of the products runs: the fastest this machine has.
//!
//! All give the same bits: sums of integers are exact, and each output's sum of floats
//! runs over `width` in one fixed order, in fused multiply-adds. So a result depends on
//! neither the machine, nor the number of threads, nor the company a row is computed in.
#![allow(unsafe_code)]

use std::ops::Range;

use super::activations::{self, Activations, Group, Super};
use super::packed::{LANES, Packed};
use super::portable;

#[cfg(target_arch = "x86_64")]
mod avx2;

/// One row's sums for a panel's outputs.
pub(crate) type Sums = [f32; LANES];

/// An instruction set with products of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust; what the others are tested against.
    Portable,
    /// AVX2, FMA and F16C. Made by [`Isa::detect`] only, where the CPU has them.
    #[cfg(target_arch = "x86_64")]
    Avx2(Detected),
}

/// Proof that the CPU was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detected(());

impl Isa {
    /// The best this CPU has.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c")
        {
            return Self::Avx2(Detected(()));
        }
        Self::Portable
    }

    /// Products of `panels` of the matrix with `rows` of `x`, to `out`
    /// `(panels, rows)`.
    pub(super) fn tile(
        self,
        matrix: &Packed,
        panels: Range<usize>,
        x: &Activations<'_>,
        rows: Range<usize>,
        out: &mut [Sums],
    ) {
        debug_assert_eq!(out.len(), panels.len() * rows.len());
        if out.is_empty() {
            return;
        }
        match self {
            Self::Portable => portable::tile(matrix, panels, x, rows, out),
            // SAFETY: `Detected` exists only where the CPU has these instructions.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => unsafe { avx2::tile(matrix, panels, x, rows, out) },
        }
    }

    pub(super) fn round_group(self, x: &[f32; 32], group: &mut Group) {
        match self {
            Self::Portable => activations::round_group(x, group),
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => unsafe { avx2::round_group(x, group) },
        }
    }

    pub(super) fn round_super(self, x: &[f32; 256], block: &mut Super) {
        match self {
            Self::Portable => activations::round_super(x, block),
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => unsafe { avx2::round_super(x, block) },
        }
    }
}
