//! The transpose that lays weights out: words of eight rows to the lanes of vectors.
#![allow(unsafe_code)]

use super::isa::Isa;
use super::packed::{LANES, Parts, Scales, Vector};

/// Eight lanes of a panel.
pub(super) struct Lanes<'a> {
    /// The rows of eight lanes as they are stored, all of the same length.
    pub(super) rows: [&'a [u8]; LANES],
    /// Where they go.
    pub(super) place: Place,
}

/// Which lanes of a panel's words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Vectors of a word.
    pub(super) eights: usize,
    /// Which of them.
    pub(super) eighth: usize,
    /// Whether a word is a pair of halves: then the first ones of all lanes come before all
    /// second ones, which is how the instruction that widens them wants them.
    pub(super) halves: bool,
}

/// Four words of each of eight rows to the first words of some vectors.
trait Quad: Fn([&[u8; 16]; LANES], &mut [Vector], Place) {}
impl<T: Fn([&[u8; 16]; LANES], &mut [Vector], Place)> Quad for T {}

impl Lanes<'_> {
    /// Puts the rows' words and scales to their places in the panel.
    pub(super) fn pack(
        &self,
        parts: &Parts,
        isa: Isa,
        vectors: &mut [Vector],
        scales: &mut [Scales],
    ) {
        #[cfg(target_arch = "x86_64")]
        if isa != Isa::Portable {
            // SAFETY: every other set has AVX2, and exists only where the CPU has it.
            unsafe { self.pack_avx2(parts, vectors, scales) };
            return;
        }
        let _ = isa;
        self.pack_by(portable_quad, parts, vectors, scales);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn pack_avx2(&self, parts: &Parts, vectors: &mut [Vector], scales: &mut [Scales]) {
        let quad = |rows: [&[u8; 16]; LANES], to: &mut [Vector], place: Place| {
            avx2_quad(rows, to, place);
        };
        self.pack_by(quad, parts, vectors, scales);
    }

    #[inline(always)]
    fn pack_by(
        &self,
        quad: impl Quad,
        parts: &Parts,
        vectors: &mut [Vector],
        scales: &mut [Scales],
    ) {
        let Place { eights, eighth, .. } = self.place;
        let row_bytes = self.rows[0].len();
        // Words of floats follow each other as if in one block.
        let (block_bytes, body) = match parts.scales {
            [] => (row_bytes.max(1), 0..row_bytes / 4 * 4),
            _ => (parts.bytes, parts.body.clone()),
        };
        let words = body.len() / 4;
        let per_block = parts.scales.len();
        for block in 0..row_bytes / block_bytes {
            let start = block * block_bytes;
            for (i, &at) in parts.scales.iter().enumerate() {
                let target = &mut scales[(block * per_block + i) * eights + eighth];
                for (target, row) in target.iter_mut().zip(&self.rows) {
                    *target = u16::from_le_bytes([row[start + at], row[start + at + 1]]);
                }
            }
            let vectors = &mut vectors[block * words * eights..];
            self.spread(&quad, start + body.start, words, vectors);
        }
        // The last of an odd number of halves.
        if parts.scales.is_empty() && row_bytes % 4 == 2 {
            let last = &mut vectors[row_bytes / 4 * eights..];
            for (lane, row) in self.rows.iter().enumerate() {
                let half = &row[row_bytes - 2..];
                self.place.put(lane, [half[0], half[1], 0, 0], last);
            }
        }
    }

    /// `words` words from byte `at` of the rows on.
    #[inline(always)]
    fn spread(&self, quad: &impl Quad, at: usize, words: usize, vectors: &mut [Vector]) {
        let eights = self.place.eights;
        if words < 4 {
            for word in 0..words {
                for (lane, row) in self.rows.iter().enumerate() {
                    if let Some(&bytes) = row[at + 4 * word..].first_chunk() {
                        self.place.put(lane, bytes, &mut vectors[word * eights..]);
                    }
                }
            }
            return;
        }
        let mut word = 0;
        while word < words {
            // The last four may overlap those before.
            let first = word.min(words - 4);
            let mut from = [&[0u8; 16]; LANES];
            for (from, row) in from.iter_mut().zip(&self.rows) {
                if let Some(words) = row[at + 4 * first..].first_chunk() {
                    *from = words;
                }
            }
            quad(from, &mut vectors[first * eights..], self.place);
            word = first + 4;
        }
    }
}

impl Place {
    /// One word of a lane, to the first of `vectors`.
    #[inline(always)]
    fn put(self, lane: usize, word: [u8; 4], vectors: &mut [Vector]) {
        if !self.halves {
            vectors[self.eighth].0[4 * lane..][..4].copy_from_slice(&word);
            return;
        }
        let first = 2 * (self.eighth * LANES + lane);
        for (half, at) in [(0, first), (2, self.eights * 2 * LANES + first)] {
            let vector = &mut vectors[at / (4 * LANES)].0;
            vector[at % (4 * LANES)..][..2].copy_from_slice(&word[half..half + 2]);
        }
    }
}

#[inline(always)]
fn portable_quad(rows: [&[u8; 16]; LANES], to: &mut [Vector], place: Place) {
    for (lane, row) in rows.iter().enumerate() {
        for (i, word) in row.as_chunks().0.iter().enumerate() {
            place.put(lane, *word, &mut to[i * place.eights..]);
        }
    }
}

/// As [`portable_quad`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn avx2_quad(rows: [&[u8; 16]; LANES], to: &mut [Vector], place: Place) {
    use std::arch::x86_64::*;
    // Rows `i` and `i + 4` in the halves of a register.
    let pair = |i: usize| {
        // SAFETY: references to 16 bytes.
        let (low, high) = unsafe {
            (
                _mm_loadu_si128(rows[i].as_ptr().cast()),
                _mm_loadu_si128(rows[i + 4].as_ptr().cast()),
            )
        };
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
    };
    let (a, b, c, d) = (pair(0), pair(1), pair(2), pair(3));
    let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    let words = [
        _mm256_unpacklo_epi64(ab_low, cd_low),
        _mm256_unpackhi_epi64(ab_low, cd_low),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ];
    if !place.halves {
        for (i, word) in words.into_iter().enumerate() {
            let to = &mut to[i * place.eights + place.eighth];
            // SAFETY: a vector is 32 bytes, aligned to 32.
            unsafe { _mm256_store_si256(std::ptr::from_mut(to).cast(), word) };
        }
        return;
    }
    // Per half of a register the first halves of four lanes, then the second ones.
    let apart = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
    ));
    for (i, word) in words.into_iter().enumerate() {
        let word = _mm256_shuffle_epi8(word, apart);
        let word = _mm256_permute4x64_epi64::<0b11_01_10_00>(word);
        let halves = [
            _mm256_castsi256_si128(word),
            _mm256_extracti128_si256::<1>(word),
        ];
        let first = place.eighth * 2 * LANES;
        let ats = [first, place.eights * 2 * LANES + first];
        for (half, at) in halves.into_iter().zip(ats) {
            let vector = &mut to[i * place.eights + at / (4 * LANES)].0;
            let part = &mut vector[at % (4 * LANES)..][..16];
            // SAFETY: 16 bytes.
            unsafe { _mm_storeu_si128(part.as_mut_ptr().cast(), half) };
        }
    }
}
