//! Rounding activations to 8 bits; the same bits as in plain Rust.

use std::arch::x86_64::*;

use half::f16;

use crate::linear::activations::{Group, Super};

/// See [`activations::round_group`](crate::linear::activations::round_group).
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::linear::isa) fn round_group(x: &[f32; 32], group: &mut Group) {
    let scale = greatest(x) / 127.0;
    let factor = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let bytes = round(x, factor);
    store(bytes, &mut group.quads.0);
    group.scale = f16::from_f32(scale).to_f32();
    let quads = sums_of_quads(bytes);
    let (low, high) = (
        _mm256_castsi256_si128(quads),
        _mm256_extracti128_si256::<1>(quads),
    );
    group.sum = across(_mm_add_epi32(low, high), |a, b| _mm_add_epi32(a, b));
}

/// See [`activations::round_super`](crate::linear::activations::round_super).
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::linear::isa) fn round_super(x: &[f32; 256], block: &mut Super) {
    let greatest = greatest(x);
    if greatest == 0.0 {
        *block = Super::default();
        return;
    }
    let factor = 127.0 / greatest;
    let (quads, _) = block.quads.0.as_chunks_mut::<8>();
    let parts = x.as_chunks::<32>().0.iter().zip(quads);
    for ((x, quads), sums) in parts.zip(&mut block.sums) {
        let bytes = round(x, factor);
        store(bytes, quads);
        let quads = sums_of_quads(bytes);
        let add = |a, b| _mm_add_epi32(a, b);
        let low = across(_mm256_castsi256_si128(quads), add);
        let high = across(_mm256_extracti128_si256::<1>(quads), add);
        *sums = (low & 0xffff) | (high << 16);
    }
    block.scale = 1.0 / factor;
}

/// The greatest magnitude, by its bits, among which those of NaN are the greatest.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn greatest(x: &[f32]) -> f32 {
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    let mut most = _mm256_setzero_si256();
    for x in x.as_chunks::<8>().0 {
        let bits = _mm256_and_si256(_mm256_castps_si256(load(x)), magnitude);
        most = _mm256_max_epi32(most, bits);
    }
    let (low, high) = (
        _mm256_castsi256_si128(most),
        _mm256_extracti128_si256::<1>(most),
    );
    let most = across(_mm_max_epi32(low, high), |a, b| _mm_max_epi32(a, b));
    f32::from_bits(most as u32)
}

/// `op` over the four lanes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn across(lanes: __m128i, op: impl Fn(__m128i, __m128i) -> __m128i) -> i32 {
    let pairs = op(lanes, _mm_shuffle_epi32::<0b01_00_11_10>(lanes));
    _mm_cvtsi128_si32(op(pairs, _mm_shuffle_epi32::<0b10_11_00_01>(pairs)))
}

/// 32 values times `factor` as bytes in order, halves rounded away from zero.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn round(x: &[f32; 32], factor: f32) -> __m256i {
    let factor = _mm256_set1_ps(factor);
    let sign = _mm256_set1_ps(-0.0);
    // The number just below a half: adding it and cutting off rounds halves away from zero
    // and lifts nothing that is smaller over the edge.
    let half = _mm256_set1_ps(0.499_999_97);
    let part = |x: &[f32; 8]| {
        let x = _mm256_mul_ps(load(x), factor);
        let half = _mm256_or_ps(half, _mm256_and_ps(x, sign));
        _mm256_cvttps_epi32(_mm256_add_ps(x, half))
    };
    let (x, _) = x.as_chunks::<8>();
    let first = _mm256_packs_epi32(part(&x[0]), part(&x[1]));
    let second = _mm256_packs_epi32(part(&x[2]), part(&x[3]));
    // Packing works on halves of the register and leaves quads 0 2 4 6 1 3 5 7.
    let packed = _mm256_packs_epi16(first, second);
    _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sums_of_quads(bytes: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load(x: &[f32; 8]) -> __m256 {
    // SAFETY: the reference is to eight floats.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store(bytes: __m256i, quads: &mut [i32; 8]) {
    // SAFETY: the reference is to 32 writable bytes.
    unsafe { _mm256_storeu_si256(quads.as_mut_ptr().cast(), bytes) }
}
