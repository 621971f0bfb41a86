//! Sixteen f32 side by side, as each instruction set holds them.
//!
//! All sets give the same bits: every operation is rounded once per lane, multiply-adds are
//! fused, and sums across lanes are taken in one fixed order.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod portable;

use half::{bf16, f16};

use super::head::{Lot, Queries, Runs};

/// Elements of one vector.
pub const LANES: usize = 16;

/// An instruction set. A value of such a type is the proof that the CPU has it, so that its
/// methods are safe to call; they are meant to be inlined into a function compiled for it.
pub trait Simd: Copy {
    /// Sixteen f32.
    type Vector: Copy;
    /// Most rows of a lot; a power of two, as its other sizes are.
    const ROWS: usize;

    /// [`Lot::meet`] for each size of a lot, with as many sums at once as its registers hold
    /// beside what they are made of.
    fn meet<T: Element>(self, lot: Lot<'_>, queries: &Queries<'_>, runs: &Runs<'_, T>);
    fn splat(self, value: f32) -> Self::Vector;
    fn load(self, from: &[f32; LANES]) -> Self::Vector;
    fn store(self, vector: Self::Vector, to: &mut [f32; LANES]);
    fn widen_f16(self, from: &[f16; LANES]) -> Self::Vector;
    fn widen_bf16(self, from: &[bf16; LANES]) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a · b + c`, rounded once.
    fn fma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The greater of each pair; `b` where one is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// 2 to the power of the integer that the low mantissa bits of `x` hold (see
    /// [`exp`](Self::exp)).
    fn power(self, x: Self::Vector) -> Self::Vector;
    /// 0 where `x` is less than `bound`, `value` elsewhere.
    fn unless_less(self, value: Self::Vector, x: Self::Vector, bound: f32) -> Self::Vector;
    /// The greatest lane; no lane is NaN.
    fn greatest(self, vector: Self::Vector) -> f32;
    /// Lanes `i` and `i + 8` are added, then `i` and `i + 4`, and so on.
    fn sum(self, vector: Self::Vector) -> f32;

    /// `e^x` for `x` of at most 0, within 2e-7 relative; 0 below -87 (where f32 results would
    /// be denormal), NaN for NaN. As [`math::exp`](crate::math::exp) in every other lane.
    #[inline(always)]
    fn exp(self, x: Self::Vector) -> Self::Vector {
        use crate::math::{LN2_HIGH, LN2_LOW, ROUND, TAYLOR};
        let clamped = self.max(self.splat(-87.0), x);
        let log2_e = self.splat(std::f32::consts::LOG2_E);
        let rounded = self.fma(clamped, log2_e, self.splat(ROUND));
        let n = self.sub(rounded, self.splat(ROUND));
        let r = self.fma(n, self.splat(-LN2_HIGH), clamped);
        let r = self.fma(n, self.splat(-LN2_LOW), r);
        let mut p = self.splat(TAYLOR[0]);
        for coefficient in &TAYLOR[1..] {
            p = self.fma(r, p, self.splat(*coefficient));
        }
        self.unless_less(self.mul(p, self.power(rounded)), x, -87.0)
    }
}

/// Brings the cache line of an element in, if there is one.
#[inline(always)]
pub(super) fn fetch<E>(from: &[E], index: usize) {
    #[cfg(target_arch = "x86_64")]
    if index < from.len() {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let line = from.as_ptr().wrapping_add(index).cast::<i8>();
        // SAFETY: a hint, which reads nothing that the program could see and never faults; the
        // instruction is part of every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, index);
}

/// How keys and values are stored.
pub trait Element: Copy + Send + Sync + 'static {
    /// What fills up vectors.
    const ZERO: Self;
    /// How many bf16 add up to each without an error; 0 where none do.
    const PARTS: usize;

    /// Sixteen of them as f32; exact.
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::Vector;
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    const PARTS: usize = 0;
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::Vector {
        simd.load(from)
    }
}

impl Element for f16 {
    const ZERO: Self = f16::ZERO;
    const PARTS: usize = 2;
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::Vector {
        simd.widen_f16(from)
    }
}

impl Element for bf16 {
    const ZERO: Self = bf16::ZERO;
    const PARTS: usize = 1;
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::Vector {
        simd.widen_bf16(from)
    }
}
