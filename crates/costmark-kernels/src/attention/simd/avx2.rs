//! AVX2, FMA and F16C.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Element, LANES, Lot, Queries, Runs, Simd};

/// Two registers: the first eight elements, the others.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Avx2(());

impl Avx2 {
    /// Where the CPU has it.
    pub(in super::super) fn detect() -> Option<Self> {
        let has = std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

type Vector = [__m256; 2];

/// Lanes `i` and `i + 4` are added, then `i` and `i + 2`, then the two that are left.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn sum_of_eight(eight: __m256) -> f32 {
    // SAFETY: see above.
    unsafe {
        let four = _mm_add_ps(
            _mm256_castps256_ps128(eight),
            _mm256_extractf128_ps::<1>(eight),
        );
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

// SAFETY, for all of them: a value of this type exists only where `detect` found the
// instructions; loads and stores are unaligned, within the array that is referred to.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2 {
    type Vector = Vector;
    const ROWS: usize = 4;

    #[inline(always)]
    fn meet<T: Element>(self, lot: Lot<'_>, queries: &Queries<'_>, runs: &Runs<'_, T>) {
        match lot.rows() {
            4 => lot.meet::<_, T, 4, 1, 1>(self, queries, runs),
            2 => lot.meet::<_, T, 2, 2, 2>(self, queries, runs),
            _ => lot.meet::<_, T, 1, 4, 4>(self, queries, runs),
        }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Vector {
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Vector {
        let at = from.as_ptr();
        unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
    }

    #[inline(always)]
    fn store(self, vector: Vector, to: &mut [f32; LANES]) {
        let at = to.as_mut_ptr();
        unsafe {
            _mm256_storeu_ps(at, vector[0]);
            _mm256_storeu_ps(at.add(8), vector[1]);
        }
    }

    #[inline(always)]
    fn widen_f16(self, from: &[f16; LANES]) -> Vector {
        let at: *const __m128i = from.as_ptr().cast();
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(at)),
                _mm256_cvtph_ps(_mm_loadu_si128(at.add(1))),
            ]
        }
    }

    #[inline(always)]
    fn widen_bf16(self, from: &[bf16; LANES]) -> Vector {
        let at: *const __m128i = from.as_ptr().cast();
        let widen = |halves| unsafe {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
        };
        unsafe {
            [
                widen(_mm_loadu_si128(at)),
                widen(_mm_loadu_si128(at.add(1))),
            ]
        }
    }

    #[inline(always)]
    fn sub(self, a: Vector, b: Vector) -> Vector {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn add(self, a: Vector, b: Vector) -> Vector {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: Vector, b: Vector) -> Vector {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn fma(self, a: Vector, b: Vector, c: Vector) -> Vector {
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }

    #[inline(always)]
    fn max(self, a: Vector, b: Vector) -> Vector {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn power(self, x: Vector) -> Vector {
        x.map(|x| unsafe {
            let n = _mm256_add_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
        })
    }

    #[inline(always)]
    fn unless_less(self, value: Vector, x: Vector, bound: f32) -> Vector {
        std::array::from_fn(|i| unsafe {
            let less = _mm256_cmp_ps::<_CMP_LT_OQ>(x[i], _mm256_set1_ps(bound));
            _mm256_andnot_ps(less, value[i])
        })
    }

    #[inline(always)]
    fn greatest(self, vector: Vector) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(vector[0], vector[1]);
            let upper = _mm256_extractf128_ps::<1>(eight);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), upper);
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn sum(self, vector: Vector) -> f32 {
        unsafe { sum_of_eight(_mm256_add_ps(vector[0], vector[1])) }
    }
}
