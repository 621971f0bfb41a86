//! Weights that are floats: widened to f32 (exactly) in registers, summed in f32.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{AHEAD, Sums, Word, fetch_in_stages, load, store_sums};
use crate::linear::packed::Packed;

/// One value per word.
pub(super) const F32: u8 = 0;
/// All first values, all second ones.
pub(super) const F16: u8 = 1;
/// Two values per word.
pub(super) const BF16: u8 = 2;

/// All rows with all panels. Each sum is one chain of multiply-adds; blocks are shaped so
/// that enough of them are under way: four panels for up to four rows, two for up to eight.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
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
                left @ ..=8 => left,
                9 => 5,
                _ => 8,
            };
            match taken {
                1 => task.wide::<KIND, 1>(panel, count, row),
                2 => task.wide::<KIND, 2>(panel, count, row),
                3 => task.wide::<KIND, 3>(panel, count, row),
                4 => task.wide::<KIND, 4>(panel, count, row),
                5 => task.narrow::<KIND, 5>(panel, count, row),
                6 => task.narrow::<KIND, 6>(panel, count, row),
                7 => task.narrow::<KIND, 7>(panel, count, row),
                _ => task.narrow::<KIND, 8>(panel, count, row),
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
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
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

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn narrow<const KIND: u8, const R: usize>(&mut self, panel: usize, panels: usize, row: usize) {
        for pair in 0..panels / 2 {
            self.block::<KIND, 2, R>(panel + 2 * pair, row);
        }
        if panels % 2 == 1 {
            self.block::<KIND, 1, R>(panel + panels - 1, row);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn block<const KIND: u8, const P: usize, const R: usize>(&mut self, panel: usize, row: usize) {
        let width = self.matrix.width();
        let weights =
            std::array::from_fn(|p| self.matrix.panel(panel + p).vectors.as_chunks::<2>().0);
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn products<const KIND: u8, const P: usize, const R: usize>(
    weights: [&[Word]; P],
    x: [&[f32]; R],
    width: usize,
    cold: bool,
) -> [[__m512; R]; P] {
    let mut sums = [[_mm512_setzero_ps(); R]; P];
    let per_word = if KIND == F32 { 1 } else { 2 };
    let words = width / per_word;
    let x: [&[f32]; R] = std::array::from_fn(|r| &x[r][..width]);
    let weights: [&[Word]; P] = std::array::from_fn(|p| &weights[p][..width.div_ceil(per_word)]);
    for i in 0..words {
        if cold {
            (0..P).for_each(|p| fetch_in_stages(&weights[p][i], AHEAD));
        }
        let word: [__m512i; P] = std::array::from_fn(|p| load(&weights[p][i]));
        for half in 0..per_word {
            let w: [__m512; P] = std::array::from_fn(|p| widen::<KIND>(word[p], half));
            for r in 0..R {
                let x = _mm512_set1_ps(x[r][per_word * i + half]);
                for p in 0..P {
                    sums[p][r] = _mm512_fmadd_ps(w[p], x, sums[p][r]);
                }
            }
        }
    }
    if words * per_word < width {
        for p in 0..P {
            let w = widen::<KIND>(load(&weights[p][words]), 0);
            for r in 0..R {
                let x = _mm512_set1_ps(x[r][width - 1]);
                sums[p][r] = _mm512_fmadd_ps(w, x, sums[p][r]);
            }
        }
    }
    sums
}

/// The first (`half` 0) or second value of each lane.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn widen<const KIND: u8>(word: __m512i, half: usize) -> __m512 {
    match (KIND, half) {
        (F32, _) => _mm512_castsi512_ps(word),
        (F16, 0) => _mm512_cvtph_ps(_mm512_castsi512_si256(word)),
        (F16, _) => _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(word)),
        (_, 0) => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(word)),
        _ => {
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(word, upper))
        }
    }
}
