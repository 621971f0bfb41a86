//! From the stored bits of `q4_k`, `q5_k` and `q6_k` to bytes and scales.

use std::arch::x86_64::*;

use super::super::kinds::{Q4K, Q5K, Q6K, sub, vectors_of_sub, words};
use super::{FAR_AHEAD, Word, fetch_in_stages, load, load_scales};
use crate::linear::packed::Panel;

/// One block of a panel, as it is stored.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    words: &'a [Word],
    /// `d`, and `dmin` where there is one.
    halves: [__m512; 2],
}

/// What 256 quants of sixteen rows are multiplied with: `d · scale · quant − dmin · min`.
pub(in crate::linear::isa) struct Scaling {
    /// Per sub-block, of eight vectors (`q6_k`: four).
    pub(in crate::linear::isa) scales: [__m512i; 16],
    /// For every 32 values, the minima of both halves in 16 bits.
    pub(in crate::linear::isa) minima: [__m512i; 8],
    pub(in crate::linear::isa) d: __m512,
    pub(in crate::linear::isa) dmin: __m512,
}

/// 256 values of sixteen rows.
pub(in crate::linear::isa) struct Unpacked {
    /// Unsigned bytes, four values of each row per vector.
    pub(in crate::linear::isa) quants: [__m512i; 64],
    pub(in crate::linear::isa) scaling: Scaling,
}

impl<'a> Stored<'a> {
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn new<const KIND: u8>(panel: Panel<'a>, block: usize) -> Self {
        let (vectors, _) = panel.vectors.as_chunks::<2>();
        let (scales, _) = panel.scales.as_chunks::<2>();
        let words = words(KIND);
        let halves = match KIND {
            Q6K => [load_scales(&scales[block]), _mm512_setzero_ps()],
            _ => [
                load_scales(&scales[2 * block]),
                load_scales(&scales[2 * block + 1]),
            ],
        };
        Self {
            words: &vectors[words * block..][..words],
            halves,
        }
    }

    /// Fetches what will be read a while after this block, a quarter of as much as a block. A
    /// whole block's at once would hold up the loads behind it.
    #[inline(always)]
    pub(super) fn fetch_quarter(self, quarter: usize) {
        let len = self.words.len().div_ceil(4);
        let words = self.words.iter().skip(quarter * len).take(len);
        words.for_each(|word| fetch_in_stages(word, FAR_AHEAD));
    }

    /// Quarter `quarter` of the quants: 16 vectors, those of a sub-block side by side. Which
    /// sub-blocks they are tells [`sub`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    pub(super) fn quants<const KIND: u8>(self, quarter: usize) -> [__m512i; 16] {
        let four = _mm512_set1_epi8(0x0f);
        let low = |v| _mm512_and_si512(v, four);
        let high = |v| _mm512_and_si512(_mm512_srli_epi16::<4>(v), four);
        let mut quants = [_mm512_setzero_si512(); 16];
        match KIND {
            Q4K => {
                for v in 0..8 {
                    let both = load(&self.words[3 + 8 * quarter + v]);
                    (quants[v], quants[8 + v]) = (low(both), high(both));
                }
            }
            Q5K => {
                let fifth = _mm512_set1_epi8(0x10);
                for v in 0..8 {
                    // Bit `i` of a byte belongs to sub-block `i`.
                    let bits = load(&self.words[3 + v]);
                    let bits = _mm512_srl_epi16(bits, _mm_cvtsi32_si128(2 * quarter as i32));
                    let both = load(&self.words[11 + 8 * quarter + v]);
                    let first = _mm512_and_si512(_mm512_slli_epi16::<4>(bits), fifth);
                    let second = _mm512_and_si512(_mm512_slli_epi16::<3>(bits), fifth);
                    quants[v] = _mm512_or_si512(low(both), first);
                    quants[8 + v] = _mm512_or_si512(high(both), second);
                }
            }
            _ => {
                let top = _mm512_set1_epi8(0x30);
                let (half, first) = (quarter / 2, quarter % 2 * 4);
                for v in 0..4 {
                    let a = load(&self.words[16 * half + first + v]);
                    let b = load(&self.words[16 * half + 8 + first + v]);
                    let bits = load(&self.words[32 + 8 * half + first + v]);
                    let parts = [
                        (low(a), _mm512_slli_epi16::<4>(bits)),
                        (low(b), _mm512_slli_epi16::<2>(bits)),
                        (high(a), bits),
                        (high(b), _mm512_srli_epi16::<2>(bits)),
                    ];
                    for (part, (low, bits)) in parts.into_iter().enumerate() {
                        quants[4 * part + v] = _mm512_or_si512(low, _mm512_and_si512(bits, top));
                    }
                }
            }
        }
        quants
    }
}

impl Scaling {
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn zero() -> Self {
        let zero = _mm512_setzero_si512();
        Self {
            scales: [zero; 16],
            minima: [zero; 8],
            d: _mm512_setzero_ps(),
            dmin: _mm512_setzero_ps(),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    pub(super) fn fill<const KIND: u8>(&mut self, block: Stored<'_>) {
        [self.d, self.dmin] = block.halves;
        match KIND {
            Q6K => self.signed_bytes(&block.words[48..]),
            _ => self.six_bits(block.words),
        }
    }

    /// Those of `q4_k` and `q5_k`: 6 bits each, eight of both in three words.
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

    /// Those of `q6_k`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn signed_bytes(&mut self, words: &[Word]) {
        for (word, scales) in words.iter().enumerate() {
            // Up to the sign, and down again with it.
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

impl Unpacked {
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(in crate::linear::isa) fn zero() -> Self {
        Self {
            quants: [_mm512_setzero_si512(); 64],
            scaling: Scaling::zero(),
        }
    }

    /// Unpacks a block.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    pub(in crate::linear::isa) fn fill<const KIND: u8>(&mut self, panel: Panel<'_>, block: usize) {
        let stored = Stored::new::<KIND>(panel, block);
        self.scaling.fill::<KIND>(stored);
        let of_sub = vectors_of_sub(KIND);
        for quarter in 0..4 {
            stored.fetch_quarter(quarter);
            let quants = stored.quants::<KIND>(quarter);
            for (index, quants) in quants.chunks_exact(of_sub).enumerate() {
                let at = sub(KIND, quarter, index) * of_sub;
                self.quants[at..at + of_sub].copy_from_slice(quants);
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
