//! Weights with sub-blocks in blocks of 256 values: `q4_k`, `q5_k` and `q6_k`.
//!
//! A block of a panel is unpacked to unsigned bytes and scales of 16 bits, once for all
//! rows; then one kernel serves all three.

use std::arch::x86_64::*;
use std::ops::Range;

use super::unpack::{self, Unpacked};
use super::{Sums, load_sums, store_sums};
use crate::TensorFormat;
use crate::linear::activations::Supers;
use crate::linear::packed::Packed;

/// All rows with each panel.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile(
    matrix: &Packed,
    panels: Range<usize>,
    x: &Supers,
    rows: Range<usize>,
    out: &mut [Sums],
) {
    let mut unpacked = Unpacked::zero();
    out.fill([0.0; 8]);
    for (panel, out) in panels.zip(out.chunks_exact_mut(rows.len())) {
        let panel = matrix.panel(panel);
        for block in 0..x.per_row() {
            let column = Column {
                x,
                block,
                rows: rows.clone(),
            };
            match matrix.format() {
                TensorFormat::Q4K => {
                    unpack::q4k(panel, block, &mut unpacked);
                    column.add::<8, 8, false>(&unpacked, out);
                }
                TensorFormat::Q5K => {
                    unpack::q5k(panel, block, &mut unpacked);
                    column.add::<8, 4, false>(&unpacked, out);
                }
                _ => {
                    unpack::q6k(panel, block, &mut unpacked);
                    column.add::<4, 2, true>(&unpacked, out);
                }
            }
        }
    }
}

/// The same 256 columns of all rows of activations.
struct Column<'a> {
    x: &'a Supers,
    block: usize,
    rows: Range<usize>,
}

impl Column<'_> {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn add<const SUB: usize, const RUN: usize, const CENTRED: bool>(
        &self,
        weights: &Unpacked,
        out: &mut [Sums],
    ) {
        in_blocks!(self.rows.clone(), |first, R| {
            let at: [usize; R] =
                std::array::from_fn(|r| self.x.first(first + r) + self.block * self.x.stride());
            let out = &mut out[first - self.rows.start..][..R];
            products::<SUB, RUN, CENTRED, R>(weights, self.x, at, out);
        });
    }
}

/// Adds one block's products. `SUB` vectors (of four values per row) make a sub-block;
/// `RUN` of them can be summed in 16 bits: `2 · RUN · 127 · greatest quant < 2^15`.
/// `CENTRED`: minima count in units of `d`, not of `dmin`.
// Index loops with constant bounds keep the arrays in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn products<const SUB: usize, const RUN: usize, const CENTRED: bool, const R: usize>(
    w: &Unpacked,
    x: &Supers,
    at: [usize; R],
    out: &mut [Sums],
) {
    let zero = _mm256_setzero_si256();
    let quads: [&[i32; 64]; R] = std::array::from_fn(|r| &x.quads[at[r]].0);
    let sums: [&[i32; 8]; R] = std::array::from_fn(|r| &x.sums[at[r]].of_16);
    let mut scaled = [zero; R];
    for sub in 0..64 / SUB {
        let scale = w.scales[sub];
        for run in 0..SUB / RUN {
            let at = sub * SUB + run * RUN;
            let mut pairs = [zero; R];
            for v in at..at + RUN {
                for r in 0..R {
                    let x = _mm256_set1_epi32(quads[r][v]);
                    let product = _mm256_maddubs_epi16(w.quants[v], x);
                    pairs[r] = _mm256_add_epi16(pairs[r], product);
                }
            }
            for r in 0..R {
                scaled[r] = _mm256_add_epi32(scaled[r], _mm256_madd_epi16(pairs[r], scale));
            }
        }
    }
    let mut least = [zero; R];
    for pair in 0..8 {
        for r in 0..R {
            let sums = _mm256_set1_epi32(sums[r][pair]);
            let product = _mm256_madd_epi16(w.minima[pair], sums);
            least[r] = _mm256_add_epi32(least[r], product);
        }
    }
    for r in 0..R {
        let value = if CENTRED {
            let centred = _mm256_sub_epi32(scaled[r], least[r]);
            _mm256_mul_ps(_mm256_cvtepi32_ps(centred), w.d)
        } else {
            let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(scaled[r]), w.d);
            _mm256_fnmadd_ps(_mm256_cvtepi32_ps(least[r]), w.dmin, scaled)
        };
        let sum = _mm256_fmadd_ps(value, _mm256_set1_ps(x.scales[at[r]]), load_sums(&out[r]));
        store_sums(&mut out[r], sum);
    }
}
