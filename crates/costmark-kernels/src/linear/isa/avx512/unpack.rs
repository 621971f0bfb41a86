//! From the stored bits of `q4_k`, `q5_k` and `q6_k` to bytes and scales.

use std::arch::x86_64::*;

use super::{Word, fetch_in_stages, load, load_scales};
use crate::TensorFormat;
use crate::linear::packed::Panel;

/// 256 values of sixteen rows: `d · scale · quant − dmin · min`.
pub(in crate::linear::isa) struct Unpacked {
    /// Unsigned bytes, four values of each row per vector.
    pub(in crate::linear::isa) quants: [__m512i; 64],
    /// Per sub-block, of eight vectors (`q6_k`: four).
    pub(in crate::linear::isa) scales: [__m512i; 16],
    /// For every 32 values, the minima of both halves in 16 bits.
    pub(in crate::linear::isa) minima: [__m512i; 8],
    pub(in crate::linear::isa) d: __m512,
    pub(in crate::linear::isa) dmin: __m512,
}

impl Unpacked {
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(in crate::linear::isa) fn zero() -> Self {
        let zero = _mm512_setzero_si512();
        Self {
            quants: [zero; 64],
            scales: [zero; 16],
            minima: [zero; 8],
            d: _mm512_setzero_ps(),
            dmin: _mm512_setzero_ps(),
        }
    }

    /// Unpacks a block.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    pub(in crate::linear::isa) fn fill(
        &mut self,
        format: TensorFormat,
        panel: Panel<'_>,
        block: usize,
    ) {
        let (vectors, _) = panel.vectors.as_chunks::<2>();
        let (scales, _) = panel.scales.as_chunks::<2>();
        let words = match format {
            TensorFormat::Q4K => 35,
            TensorFormat::Q5K => 43,
            _ => 52,
        };
        let vectors = &vectors[words * block..][..words];
        vectors.iter().for_each(fetch_in_stages);
        match format {
            TensorFormat::Q4K => self.q4k(vectors),
            TensorFormat::Q5K => self.q5k(vectors),
            _ => self.q6k(vectors),
        }
        if format == TensorFormat::Q6K {
            self.d = load_scales(&scales[block]);
        } else {
            self.d = load_scales(&scales[2 * block]);
            self.dmin = load_scales(&scales[2 * block + 1]);
        }
    }

    /// The scales and minima of `q4_k` and `q5_k`: 6 bits each, eight of both in three words.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn six_bits(&mut self, words: &[Word]) {
        let (a, b, c) = (load(&words[0]), load(&words[1]), load(&words[2]));
        let six = _mm512_set1_epi8(0x3f);
        let four = _mm512_set1_epi8(0x0f);
        let top = _mm512_set1_epi8(0x30);
        let shifted = |v| _mm512_and_si512(_mm512_srli_epi16::<2>(v), top);
        let upper = _mm512_and_si512(_mm512_srli_epi16::<4>(c), four);
        let lower = _mm512_and_si512(c, four);
        let scales = [_mm512_and_si512(a, six), _mm512_or_si512(lower, shifted(a))];
        let minima = [_mm512_and_si512(b, six), _mm512_or_si512(upper, shifted(b))];
        for i in 0..2 {
            for (byte, scale) in bytes(scales[i]).into_iter().enumerate() {
                self.scales[4 * i + byte] = scale;
            }
            for (byte, min) in bytes(minima[i]).into_iter().enumerate() {
                self.minima[4 * i + byte] = twice(min, min);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn q4k(&mut self, words: &[Word]) {
        self.six_bits(words);
        let four = _mm512_set1_epi8(0x0f);
        let (quants, _) = self.quants.as_chunks_mut::<16>();
        let (words, _) = words[3..].as_chunks::<8>();
        for (words, quants) in words.iter().zip(quants) {
            for v in 0..8 {
                let both = load(&words[v]);
                quants[v] = _mm512_and_si512(both, four);
                quants[8 + v] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), four);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn q5k(&mut self, words: &[Word]) {
        self.six_bits(words);
        let four = _mm512_set1_epi8(0x0f);
        let fifth = _mm512_set1_epi8(0x10);
        for v in 0..8 {
            // Bit `i` of a byte belongs to sub-block `i`.
            let mut bits = load(&words[3 + v]);
            for pair in 0..4 {
                let both = load(&words[11 + 8 * pair + v]);
                let low = _mm512_and_si512(both, four);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(both), four);
                let first = _mm512_and_si512(_mm512_slli_epi16::<4>(bits), fifth);
                let second = _mm512_and_si512(_mm512_slli_epi16::<3>(bits), fifth);
                self.quants[16 * pair + v] = _mm512_or_si512(low, first);
                self.quants[16 * pair + 8 + v] = _mm512_or_si512(high, second);
                bits = _mm512_srli_epi16::<2>(bits);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn q6k(&mut self, words: &[Word]) {
        let four = _mm512_set1_epi8(0x0f);
        let top = _mm512_set1_epi8(0x30);
        for half in 0..2 {
            for v in 0..8 {
                let a = load(&words[16 * half + v]);
                let b = load(&words[16 * half + 8 + v]);
                let bits = load(&words[32 + 8 * half + v]);
                let low = |v| _mm512_and_si512(v, four);
                let high = |v| _mm512_and_si512(_mm512_srli_epi16::<4>(v), four);
                let parts = [
                    (low(a), _mm512_slli_epi16::<4>(bits)),
                    (low(b), _mm512_slli_epi16::<2>(bits)),
                    (high(a), bits),
                    (high(b), _mm512_srli_epi16::<2>(bits)),
                ];
                for (part, (low, bits)) in parts.into_iter().enumerate() {
                    let quant = _mm512_or_si512(low, _mm512_and_si512(bits, top));
                    self.quants[32 * half + 8 * part + v] = quant;
                }
            }
        }
        for (word, scales) in words[48..].iter().enumerate() {
            // Signed bytes: up to the sign, and down again with it.
            let scales = bytes(load(scales))
                .map(|byte| _mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(byte)));
            // Values are stored plus 32.
            let raised = scales.map(|scale| _mm512_slli_epi32::<5>(scale));
            self.minima[2 * word] = twice(raised[0], raised[1]);
            self.minima[2 * word + 1] = twice(raised[2], raised[3]);
            for (byte, scale) in scales.into_iter().enumerate() {
                self.scales[4 * word + byte] = scale;
            }
        }
    }
}

/// The four bytes of each lane, unsigned in 32 bits.
#[target_feature(enable = "avx512f")]
#[inline]
fn bytes(word: __m512i) -> [__m512i; 4] {
    let byte = _mm512_set1_epi32(0xff);
    [
        _mm512_and_si512(word, byte),
        _mm512_and_si512(_mm512_srli_epi32::<8>(word), byte),
        _mm512_and_si512(_mm512_srli_epi32::<16>(word), byte),
        _mm512_srli_epi32::<24>(word),
    ]
}

/// Both in 16 bits.
#[target_feature(enable = "avx512f")]
#[inline]
pub(in crate::linear::isa) fn twice(low: __m512i, high: __m512i) -> __m512i {
    let low = _mm512_and_si512(low, _mm512_set1_epi32(0xffff));
    _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
}
