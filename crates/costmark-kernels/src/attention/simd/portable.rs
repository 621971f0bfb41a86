//! Plain Rust; what the others are tested against.

use half::{bf16, f16};

use super::{Element, LANES, Lot, Queries, Runs, Simd};

/// Sixteen floats in an array.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Portable;

type Vector = [f32; LANES];

#[inline(always)]
fn zip(a: Vector, b: Vector, f: impl Fn(f32, f32) -> f32) -> Vector {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type Vector = Vector;
    const ROWS: usize = 1;

    #[inline(always)]
    fn meet<T: Element>(self, lot: Lot<'_>, queries: &Queries<'_>, runs: &Runs<'_, T>) {
        lot.meet::<_, T, 1, 1, 1>(self, queries, runs);
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Vector {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Vector {
        *from
    }

    #[inline(always)]
    fn store(self, vector: Vector, to: &mut [f32; LANES]) {
        *to = vector;
    }

    #[inline(always)]
    fn widen_f16(self, from: &[f16; LANES]) -> Vector {
        from.map(f16::to_f32)
    }

    #[inline(always)]
    fn widen_bf16(self, from: &[bf16; LANES]) -> Vector {
        // The upper half of an f32; unlike `to_f32` without a branch for NaNs.
        from.map(|v| f32::from_bits(u32::from(v.to_bits()) << 16))
    }

    #[inline(always)]
    fn sub(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn add(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn mul(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn fma(self, a: Vector, b: Vector, c: Vector) -> Vector {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn power(self, x: Vector) -> Vector {
        x.map(|x| f32::from_bits(x.to_bits().wrapping_add(127) << 23))
    }

    #[inline(always)]
    fn unless_less(self, value: Vector, x: Vector, bound: f32) -> Vector {
        zip(value, x, |value, x| if x < bound { 0.0 } else { value })
    }

    #[inline(always)]
    fn greatest(self, vector: Vector) -> f32 {
        vector.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn sum(self, mut vector: Vector) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                vector[i] += vector[i + half];
            }
        }
        vector[0]
    }
}
