//! Weights with sub-blocks in blocks of 256 values: `q4_k`, `q5_k` and `q6_k`.
//!
//! For many rows a block of a panel is unpacked to unsigned bytes and scales of 16 bits, once for
//! all of them. For one and two, whose products take no longer than that, quants stay in registers.
//! Calls in turn, medians of 80, two threads of a Zen 4: so `q4_k` is 1.13 and 1.08 times as fast,
//! `q5_k` 1.43 and 1.16, `q6_k` 2.02 and 1.55. With three and four rows the registers are too few
//! (0.92 to 1.12).

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::kinds::{Q4K, Q5K, Q6K, sub, vectors_of_sub};
use super::unpack::{Scaling, Stored, Unpacked, run};
use super::{Sums, load_sums, store_sums};
use crate::TensorFormat;
use crate::linear::activations::Supers;
use crate::linear::packed::{Packed, Panel};

/// All rows with each panel.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile(
    matrix: &Packed,
    panels: Range<usize>,
    x: &Supers,
    rows: Range<usize>,
    out: &mut [Sums],
) {
    match matrix.format() {
        TensorFormat::Q4K => tile_of::<Q4K>(matrix, panels, x, rows, out),
        TensorFormat::Q5K => tile_of::<Q5K>(matrix, panels, x, rows, out),
        _ => tile_of::<Q6K>(matrix, panels, x, rows, out),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn tile_of<const KIND: u8>(
    matrix: &Packed,
    panels: Range<usize>,
    x: &Supers,
    rows: Range<usize>,
    out: &mut [Sums],
) {
    let mut unpacked = Unpacked::zero();
    for (panel, out) in panels.zip(out.chunks_exact_mut(rows.len())) {
        let panel = matrix.panel(panel);
        match rows.len() {
            1 => few_rows::<KIND, 1>(panel, x, rows.start, out),
            2 => few_rows::<KIND, 2>(panel, x, rows.start, out),
            _ => {
                out.fill([0.0; 8]);
                for block in 0..x.per_row() {
                    unpacked.fill::<KIND>(panel, block);
                    in_blocks!(rows.clone(), |first, R| {
                        let at: [usize; R] =
                            std::array::from_fn(|r| x.first(first + r) + block * x.stride());
                        let out = &mut out[first - rows.start..][..R];
                        products::<KIND, R>(&unpacked, x, at, out);
                    });
                }
            }
        }
    }
}

/// Products of a panel, whose quants are unpacked where they are used.
// Index loops with constant bounds keep the arrays in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn few_rows<const KIND: u8, const R: usize>(
    panel: Panel<'_>,
    x: &Supers,
    first: usize,
    out: &mut [Sums],
) {
    let zero = _mm256_setzero_si256();
    let (of_sub, run) = (vectors_of_sub(KIND), run(KIND));
    let starts: [usize; R] = std::array::from_fn(|r| x.first(first + r));
    let mut scaling = Scaling::zero();
    let mut sums = [_mm256_setzero_ps(); R];
    for block in 0..x.per_row() {
        let at: [usize; R] = std::array::from_fn(|r| starts[r] + block * x.stride());
        let quads: [&[i32; 64]; R] = std::array::from_fn(|r| &x.quads[at[r]].0);
        let stored = Stored::new::<KIND>(panel, block);
        scaling.fill::<KIND>(stored);
        let mut scaled = [zero; R];
        for quarter in 0..4 {
            stored.fetch_quarter(quarter);
            for first in (0..of_sub).step_by(run) {
                let mut pairs = [[zero; R]; 4];
                for v in first..first + run {
                    let quants = stored.quants::<KIND>(quarter, v);
                    for index in 0..16 / of_sub {
                        let at = sub(KIND, quarter, index) * of_sub + v;
                        for r in 0..R {
                            let x = _mm256_set1_epi32(quads[r][at]);
                            let product = _mm256_maddubs_epi16(quants[index], x);
                            pairs[index][r] = _mm256_add_epi16(pairs[index][r], product);
                        }
                    }
                }
                for index in 0..16 / of_sub {
                    let scale = scaling.scales[sub(KIND, quarter, index)];
                    for r in 0..R {
                        let products = _mm256_madd_epi16(pairs[index][r], scale);
                        scaled[r] = _mm256_add_epi32(scaled[r], products);
                    }
                }
            }
        }
        for r in 0..R {
            sums[r] = add_block::<KIND>(&scaling, scaled[r], x, at[r], sums[r]);
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        store_sums(out, sums);
    }
}

/// Adds one block's products.
// Index loops with constant bounds keep the arrays in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn products<const KIND: u8, const R: usize>(
    w: &Unpacked,
    x: &Supers,
    at: [usize; R],
    out: &mut [Sums],
) {
    let zero = _mm256_setzero_si256();
    let (of_sub, run) = (vectors_of_sub(KIND), run(KIND));
    let quads: [&[i32; 64]; R] = std::array::from_fn(|r| &x.quads[at[r]].0);
    let mut scaled = [zero; R];
    for sub in 0..64 / of_sub {
        let scale = w.scaling.scales[sub];
        for first in (sub * of_sub..(sub + 1) * of_sub).step_by(run) {
            let mut pairs = [zero; R];
            for v in first..first + run {
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
    for r in 0..R {
        let sum = add_block::<KIND>(&w.scaling, scaled[r], x, at[r], load_sums(&out[r]));
        store_sums(&mut out[r], sum);
    }
}

/// `sums` and what a row's block comes to: its products times scales are `scaled`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_block<const KIND: u8>(
    w: &Scaling,
    scaled: __m256i,
    x: &Supers,
    at: usize,
    sums: __m256,
) -> __m256 {
    let mut least = _mm256_setzero_si256();
    for (minima, sums) in w.minima.iter().zip(x.sums[at].of_16) {
        let product = _mm256_madd_epi16(*minima, _mm256_set1_epi32(sums));
        least = _mm256_add_epi32(least, product);
    }
    // Of `q6_k` minima count in units of `d`, not of `dmin`.
    let value = if KIND == Q6K {
        let centred = _mm256_sub_epi32(scaled, least);
        _mm256_mul_ps(_mm256_cvtepi32_ps(centred), w.d)
    } else {
        let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(scaled), w.d);
        _mm256_fnmadd_ps(_mm256_cvtepi32_ps(least), w.dmin, scaled)
    };
    _mm256_fmadd_ps(value, _mm256_set1_ps(x.scales[at]), sums)
}
