//! From the stored bits of `q4_k`, `q5_k` and `q6_k` to bytes and 16-bit scales.

use std::arch::x86_64::*;

use super::super::kinds::{Q4K, Q5K, Q6K, sub, vectors_of_sub, words};
use super::{AHEAD, fetch, load, load_scales};
use crate::linear::packed::{Panel, Vector};

/// Vectors that can be summed in 16 bits: `2 · run · 127 · greatest quant < 2^15`.
pub(super) const fn run(kind: u8) -> usize {
    match kind {
        Q4K => 8,
        Q5K => 4,
        _ => 2,
    }
}

/// One block of a panel, as it is stored.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    words: &'a [Vector],
    /// `d`, and `dmin` where there is one.
    halves: [__m256; 2],
}

/// What 256 quants of eight rows are multiplied with: `d · scale · quant − dmin · min`.
pub(super) struct Scaling {
    /// Per sub-block, each scale twice in 16 bits.
    pub(super) scales: [__m256i; 16],
    /// For every 32 values, the minima of both halves in 16 bits.
    pub(super) minima: [__m256i; 8],
    pub(super) d: __m256,
    pub(super) dmin: __m256,
}

/// 256 values of eight rows.
pub(super) struct Unpacked {
    /// Unsigned bytes, four values of each row per vector.
    pub(super) quants: [__m256i; 64],
    pub(super) scaling: Scaling,
}

impl<'a> Stored<'a> {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub(super) fn new<const KIND: u8>(panel: Panel<'a>, block: usize) -> Self {
        let words = words(KIND);
        let halves = match KIND {
            Q6K => [load_scales(&panel.scales[block]), _mm256_setzero_ps()],
            _ => [
                load_scales(&panel.scales[2 * block]),
                load_scales(&panel.scales[2 * block + 1]),
            ],
        };
        Self {
            words: &panel.vectors[words * block..][..words],
            halves,
        }
    }

    /// Fetches what will be read a while after this block, a quarter of as much as a block. A
    /// whole block's at once would hold up the loads behind it.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub(super) fn fetch_quarter(self, quarter: usize) {
        // Two vectors are a line of the cache.
        let len = self.words.len().div_ceil(8) * 2;
        let words = self.words.iter().skip(quarter * len).take(len);
        words.step_by(2).for_each(|word| fetch(word, AHEAD));
    }

    /// Vector `v` of each sub-block of a quarter, two of them or four. Which sub-blocks they are
    /// tells [`sub`].
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub(super) fn quants<const KIND: u8>(self, quarter: usize, v: usize) -> [__m256i; 4] {
        let four = _mm256_set1_epi8(0x0f);
        let zero = _mm256_setzero_si256();
        let low = |v| _mm256_and_si256(v, four);
        let high = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), four);
        match KIND {
            Q4K => {
                let both = load(&self.words[3 + 8 * quarter + v]);
                [low(both), high(both), zero, zero]
            }
            Q5K => {
                let fifth = _mm256_set1_epi8(0x10);
                // Bit `i` of a byte belongs to sub-block `i`.
                let bits = load(&self.words[3 + v]);
                let bits = _mm256_srl_epi16(bits, _mm_cvtsi32_si128(2 * quarter as i32));
                let both = load(&self.words[11 + 8 * quarter + v]);
                let first = _mm256_and_si256(_mm256_slli_epi16::<4>(bits), fifth);
                let second = _mm256_and_si256(_mm256_slli_epi16::<3>(bits), fifth);
                let first = _mm256_or_si256(low(both), first);
                [first, _mm256_or_si256(high(both), second), zero, zero]
            }
            _ => {
                let top = _mm256_set1_epi8(0x30);
                let (half, v) = (quarter / 2, quarter % 2 * 4 + v);
                let a = load(&self.words[16 * half + v]);
                let b = load(&self.words[16 * half + 8 + v]);
                let bits = load(&self.words[32 + 8 * half + v]);
                let quant = |low, bits| _mm256_or_si256(low, _mm256_and_si256(bits, top));
                [
                    quant(low(a), _mm256_slli_epi16::<4>(bits)),
                    quant(low(b), _mm256_slli_epi16::<2>(bits)),
                    quant(high(a), bits),
                    quant(high(b), _mm256_srli_epi16::<2>(bits)),
                ]
            }
        }
    }
}

impl Scaling {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub(super) fn zero() -> Self {
        let zero = _mm256_setzero_si256();
        Self {
            scales: [zero; 16],
            minima: [zero; 8],
            d: _mm256_setzero_ps(),
            dmin: _mm256_setzero_ps(),
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub(super) fn fill<const KIND: u8>(&mut self, block: Stored<'_>) {
        [self.d, self.dmin] = block.halves;
        match KIND {
            Q6K => self.signed_bytes(&block.words[48..]),
            _ => self.six_bits(block.words),
        }
    }

    /// Those of `q4_k` and `q5_k`: 6 bits each, eight of both in three words.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn six_bits(&mut self, words: &[Vector]) {
        let (a, b, c) = (load(&words[0]), load(&words[1]), load(&words[2]));
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
                self.scales[4 * i + byte] = spread(scales[i], [byte as i32; 2]);
                self.minima[4 * i + byte] = spread(minima[i], [byte as i32; 2]);
            }
        }
    }

    /// Those of `q6_k`.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn signed_bytes(&mut self, words: &[Vector]) {
        for (word, bytes) in words.iter().enumerate() {
            // To the upper half of 16 bits, and down again with their sign.
            let bytes = load(bytes);
            let signed = |at| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(spread(bytes, at)));
            for byte in 0..4 {
                self.scales[4 * word + byte] = signed([byte as i32; 2]);
            }
            // Values are stored plus 32.
            self.minima[2 * word] = _mm256_slli_epi16::<5>(signed([0, 1]));
            self.minima[2 * word + 1] = _mm256_slli_epi16::<5>(signed([2, 3]));
        }
    }
}

impl Unpacked {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub(super) fn zero() -> Self {
        Self {
            quants: [_mm256_setzero_si256(); 64],
            scaling: Scaling::zero(),
        }
    }

    /// Unpacks a block.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub(super) fn fill<const KIND: u8>(&mut self, panel: Panel<'_>, block: usize) {
        let stored = Stored::new::<KIND>(panel, block);
        self.scaling.fill::<KIND>(stored);
        let of_sub = vectors_of_sub(KIND);
        for quarter in 0..4 {
            stored.fetch_quarter(quarter);
            for v in 0..of_sub {
                let quants = stored.quants::<KIND>(quarter, v);
                for (index, quants) in quants.into_iter().take(16 / of_sub).enumerate() {
                    self.quants[sub(KIND, quarter, index) * of_sub + v] = quants;
                }
            }
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
