//! From the stored bits of `q4_k`, `q5_k` and `q6_k` to bytes and 16-bit scales.

use std::arch::x86_64::*;

use super::{AHEAD, fetch, load, load_scales};
use crate::linear::packed::{Panel, Scales, Vector};

/// 256 values of eight rows: `d · scale · quant − dmin · min`.
pub(super) struct Unpacked {
    /// Unsigned bytes, four values of each row per vector.
    pub(super) quants: [__m256i; 64],
    /// Per sub-block, each scale twice in 16 bits.
    pub(super) scales: [__m256i; 16],
    /// For every 32 values, the minima of both halves in 16 bits.
    pub(super) minima: [__m256i; 8],
    pub(super) d: __m256,
    pub(super) dmin: __m256,
}

impl Unpacked {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub(super) fn zero() -> Self {
        let zero = _mm256_setzero_si256();
        Self {
            quants: [zero; 64],
            scales: [zero; 16],
            minima: [zero; 8],
            d: _mm256_setzero_ps(),
            dmin: _mm256_setzero_ps(),
        }
    }
}

/// Where a lane's four bytes go: `at` names two of them, each to the low half of 16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn spread(bytes: __m256i, at: [i32; 2]) -> __m256i {
    let lane = |byte: i32| (byte + at[0]) | 0x80 << 8 | (byte + at[1]) << 16 | 0x80 << 24;
    let mask = _mm_setr_epi32(lane(0), lane(4), lane(8), lane(12));
    _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(mask))
}

/// The scales and minima of `q4_k` and `q5_k`: 6 bits each, eight of both in three words.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn six_bits(words: [&Vector; 3], halves: &[Scales], to: &mut Unpacked) {
    let (a, b, c) = (load(words[0]), load(words[1]), load(words[2]));
    let six = _mm256_set1_epi8(0x3f);
    let four = _mm256_set1_epi8(0x0f);
    let top = _mm256_set1_epi8(0x30);
    let shifted = |v| _mm256_and_si256(_mm256_srli_epi16::<2>(v), top);
    let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(c), four);
    let scales = [
        _mm256_and_si256(a, six),
        _mm256_or_si256(_mm256_and_si256(c, four), shifted(a)),
    ];
    let minima = [_mm256_and_si256(b, six), _mm256_or_si256(upper, shifted(b))];
    for i in 0..2 {
        for byte in 0..4 {
            to.scales[4 * i + byte] = spread(scales[i], [byte as i32; 2]);
            to.minima[4 * i + byte] = spread(minima[i], [byte as i32; 2]);
        }
    }
    to.d = load_scales(&halves[0]);
    to.dmin = load_scales(&halves[1]);
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q4k(panel: Panel<'_>, block: usize, to: &mut Unpacked) {
    let words = &panel.vectors[35 * block..][..35];
    (0..35)
        .step_by(2)
        .for_each(|word| fetch(&words[word], AHEAD));
    let scales = [&words[0], &words[1], &words[2]];
    six_bits(scales, &panel.scales[2 * block..][..2], to);
    let four = _mm256_set1_epi8(0x0f);
    let (quants, _) = to.quants.as_chunks_mut::<16>();
    let (words, _) = words[3..].as_chunks::<8>();
    for (words, quants) in words.iter().zip(quants) {
        for v in 0..8 {
            let both = load(&words[v]);
            quants[v] = _mm256_and_si256(both, four);
            quants[8 + v] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), four);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q5k(panel: Panel<'_>, block: usize, to: &mut Unpacked) {
    let words = &panel.vectors[43 * block..][..43];
    (0..43)
        .step_by(2)
        .for_each(|word| fetch(&words[word], AHEAD));
    let scales = [&words[0], &words[1], &words[2]];
    six_bits(scales, &panel.scales[2 * block..][..2], to);
    let four = _mm256_set1_epi8(0x0f);
    let fifth = _mm256_set1_epi8(0x10);
    for v in 0..8 {
        // Bit `i` of a byte belongs to sub-block `i`.
        let mut bits = load(&words[3 + v]);
        for pair in 0..4 {
            let both = load(&words[11 + 8 * pair + v]);
            let low = _mm256_and_si256(both, four);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), four);
            let first = _mm256_and_si256(_mm256_slli_epi16::<4>(bits), fifth);
            let second = _mm256_and_si256(_mm256_slli_epi16::<3>(bits), fifth);
            to.quants[16 * pair + v] = _mm256_or_si256(low, first);
            to.quants[16 * pair + 8 + v] = _mm256_or_si256(high, second);
            bits = _mm256_srli_epi16::<2>(bits);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q6k(panel: Panel<'_>, block: usize, to: &mut Unpacked) {
    let words = &panel.vectors[52 * block..][..52];
    (0..52)
        .step_by(2)
        .for_each(|word| fetch(&words[word], AHEAD));
    let four = _mm256_set1_epi8(0x0f);
    let top = _mm256_set1_epi8(0x30);
    for half in 0..2 {
        for v in 0..8 {
            let a = load(&words[16 * half + v]);
            let b = load(&words[16 * half + 8 + v]);
            let bits = load(&words[32 + 8 * half + v]);
            let low = |v| _mm256_and_si256(v, four);
            let high = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), four);
            let parts = [
                (low(a), _mm256_slli_epi16::<4>(bits)),
                (low(b), _mm256_slli_epi16::<2>(bits)),
                (high(a), bits),
                (high(b), _mm256_srli_epi16::<2>(bits)),
            ];
            for (part, (low, bits)) in parts.into_iter().enumerate() {
                let quant = _mm256_or_si256(low, _mm256_and_si256(bits, top));
                to.quants[32 * half + 8 * part + v] = quant;
            }
        }
    }
    for word in 0..4 {
        // Signed bytes to the upper half of 16 bits, and down again with their sign.
        let bytes = load(&words[48 + word]);
        let signed = |at| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(spread(bytes, at)));
        for byte in 0..4 {
            to.scales[4 * word + byte] = signed([byte as i32; 2]);
        }
        // Values are stored plus 32.
        to.minima[2 * word] = _mm256_slli_epi16::<5>(signed([0, 1]));
        to.minima[2 * word + 1] = _mm256_slli_epi16::<5>(signed([2, 3]));
    }
    to.d = load_scales(&panel.scales[block]);
}
