//! AVX-512.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Element, LANES, Lot, Queries, Runs, Simd};

/// One register.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Avx512(());

impl Avx512 {
    /// Where the CPU has it.
    pub(in super::super) fn detect() -> Option<Self> {
        let has = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma");
        has.then_some(Self(()))
    }
}

// SAFETY, for all of them: a value of this type exists only where `detect` found the
// instructions; loads and stores are unaligned, within the array that is referred to.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx512 {
    type Vector = __m512;
    const ROWS: usize = 16;

    #[inline(always)]
    fn meet<T: Element>(self, lot: Lot<'_>, queries: &Queries<'_>, runs: &Runs<'_, T>) {
        match lot.rows() {
            16 => lot.meet::<_, T, 16, 1, 1>(self, queries, runs),
            8 => lot.meet::<_, T, 8, 2, 2>(self, queries, runs),
            4 => lot.meet::<_, T, 4, 4, 4>(self, queries, runs),
            2 => lot.meet::<_, T, 2, 4, 8>(self, queries, runs),
            _ => lot.meet::<_, T, 1, 4, 8>(self, queries, runs),
        }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, vector: __m512, to: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), vector) }
    }

    #[inline(always)]
    fn widen_f16(self, from: &[f16; LANES]) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn widen_bf16(self, from: &[bf16; LANES]) -> __m512 {
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn power(self, x: __m512) -> __m512 {
        unsafe {
            let n = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(n))
        }
    }

    #[inline(always)]
    fn unless_less(self, value: __m512, x: __m512, bound: f32) -> __m512 {
        unsafe {
            let keep = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(bound));
            _mm512_maskz_mov_ps(keep, value)
        }
    }

    #[inline(always)]
    fn greatest(self, vector: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(vector) }
    }

    #[inline(always)]
    fn sum(self, vector: __m512) -> f32 {
        unsafe {
            let upper = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(vector));
            let eight = _mm256_add_ps(_mm512_castps512_ps256(vector), _mm256_castpd_ps(upper));
            super::avx2::sum_of_eight(eight)
        }
    }
}
