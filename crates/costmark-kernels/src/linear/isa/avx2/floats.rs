//! Weights that are floats: widened to f32 (exactly) in registers, summed in f32.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{AHEAD, Sums, fetch, load, store_sums};
use crate::linear::packed::{Packed, Vector};

/// One value per word.
pub(super) const F32: u8 = 0;
/// Eight first values, eight second ones.
pub(super) const F16: u8 = 1;
/// Two values per word.
pub(super) const BF16: u8 = 2;

/// All rows with all panels. Each sum is one chain of multiply-adds; blocks are shaped so
/// that enough of them are under way: four panels for up to three rows, two for up to six.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile<const KIND: u8>(
    matrix: &Packed,
    panels: Range<usize>,
    x: &[f32],
    rows: Range<usize>,
    out: &mut [Sums],
) {
    let mut task = Task {
        matrix,
        x,
        rows: rows.clone(),
        out,
        first_panel: panels.start,
    };
    let mut panel = panels.start;
    while panel < panels.end {
        let count = (panels.end - panel).min(4);
        let mut row = rows.start;
        while row < rows.end {
            let taken = match rows.end - row {
                left @ ..=6 => left,
                7 | 8 => 4,
                _ => 6,
            };
            match taken {
                1 => task.wide::<KIND, 1>(panel, count, row),
                2 => task.wide::<KIND, 2>(panel, count, row),
                3 => task.wide::<KIND, 3>(panel, count, row),
                4 => task.narrow::<KIND, 4>(panel, count, row),
                5 => task.narrow::<KIND, 5>(panel, count, row),
                _ => task.narrow::<KIND, 6>(panel, count, row),
            }
            row += taken;
        }
        panel += count;
    }
}

struct Task<'a> {
    matrix: &'a Packed,
    x: &'a [f32],
    rows: Range<usize>,
    out: &'a mut [Sums],
    first_panel: usize,
}

impl Task<'_> {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn wide<const KIND: u8, const R: usize>(&mut self, panel: usize, panels: usize, row: usize) {
        if panels == 4 {
            self.block::<KIND, 4, R>(panel, row);
        } else {
            for panel in panel..panel + panels {
                self.block::<KIND, 1, R>(panel, row);
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn narrow<const KIND: u8, const R: usize>(&mut self, panel: usize, panels: usize, row: usize) {
        for pair in 0..panels / 2 {
            self.block::<KIND, 2, R>(panel + 2 * pair, row);
        }
        if panels % 2 == 1 {
            self.block::<KIND, 1, R>(panel + panels - 1, row);
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn block<const KIND: u8, const P: usize, const R: usize>(&mut self, panel: usize, row: usize) {
        let width = self.matrix.width();
        let weights = std::array::from_fn(|p| self.matrix.panel(panel + p).vectors);
        let x = std::array::from_fn(|r| &self.x[(row + r) * width..][..width]);
        // The first rows to meet a panel bring it into the cache.
        let cold = row == self.rows.start;
        let sums = products::<KIND, P, R>(weights, x, width, cold);
        for (p, sums) in sums.into_iter().enumerate() {
            let at = (panel - self.first_panel + p) * self.rows.len() + row - self.rows.start;
            for (out, sums) in self.out[at..at + R].iter_mut().zip(sums) {
                store_sums(out, sums);
            }
        }
    }
}

// Index loops with constant bounds keep the sums in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn products<const KIND: u8, const P: usize, const R: usize>(
    weights: [&[Vector]; P],
    x: [&[f32]; R],
    width: usize,
    cold: bool,
) -> [[__m256; R]; P] {
    let mut sums = [[_mm256_setzero_ps(); R]; P];
    let per_word = if KIND == F32 { 1 } else { 2 };
    let words = width / per_word;
    let x: [&[f32]; R] = std::array::from_fn(|r| &x[r][..width]);
    let weights: [&[Vector]; P] = std::array::from_fn(|p| &weights[p][..width.div_ceil(per_word)]);
    for i in 0..words {
        if cold && i % 2 == 0 {
            (0..P).for_each(|p| fetch(&weights[p][i], AHEAD / P));
        }
        let word: [__m256i; P] = std::array::from_fn(|p| load(&weights[p][i]));
        for half in 0..per_word {
            let w: [__m256; P] = std::array::from_fn(|p| widen::<KIND>(word[p], half));
            for r in 0..R {
                let x = _mm256_set1_ps(x[r][per_word * i + half]);
                for p in 0..P {
                    sums[p][r] = _mm256_fmadd_ps(w[p], x, sums[p][r]);
                }
            }
        }
    }
    if words * per_word < width {
        for p in 0..P {
            let w = widen::<KIND>(load(&weights[p][words]), 0);
            for r in 0..R {
                let x = _mm256_set1_ps(x[r][width - 1]);
                sums[p][r] = _mm256_fmadd_ps(w, x, sums[p][r]);
            }
        }
    }
    sums
}

/// The first (`half` 0) or second value of each lane.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn widen<const KIND: u8>(word: __m256i, half: usize) -> __m256 {
    match (KIND, half) {
        (F32, _) => _mm256_castsi256_ps(word),
        (F16, 0) => _mm256_cvtph_ps(_mm256_castsi256_si128(word)),
        (F16, _) => _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(word)),
        (_, 0) => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(word)),
        _ => {
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            _mm256_castsi256_ps(_mm256_and_si256(word, upper))
        }
    }
}
