//! Weights with sub-blocks in blocks of 256 values: `q4_k`, `q5_k` and `q6_k`.
//!
//! For many rows a block of a panel is unpacked to unsigned bytes and scales, once for all of
//! them. For few, whose products take no longer than that, quants stay in registers. Calls in turn,
//! medians of 60, two threads of a Zen 4, beside unpacking and fetching whole blocks: with one row
//! `q4_k` 1.72 times as fast, `q5_k` 1.65, `q6_k` 1.52; with four 2.14, 2.12 and 1.81; with eight
//! 1.89, 1.80 and 1.88. With sixteen, beside unpacking alone, 1.11, 0.98 and 1.08. On two threads of a
//! Xeon all of these are 1.1 to 1.4 times as fast.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::kinds::{Q4K, Q5K, Q6K, sub, vectors_of_sub};
use super::unpack::{Scaling, Stored, Unpacked};
use super::{Sums, load_sums, store_sums};
use crate::TensorFormat;
use crate::linear::activations::Supers;
use crate::linear::packed::{Packed, Panel};

/// Most rows that quants stay in registers for.
const FEW: usize = 16;

/// All rows with each panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
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
        if rows.len() <= FEW {
            in_blocks!(rows.clone(), |first, R| {
                let starts: [usize; R] = std::array::from_fn(|r| x.first(first + r));
                let sums = in_registers::<KIND, R>(panel, x, starts);
                let out = &mut out[first - rows.start..][..R];
                for (out, sums) in out.iter_mut().zip(sums) {
                    store_sums(out, sums);
                }
            });
            continue;
        }
        out.fill([0.0; 16]);
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

/// Products of a panel, whose quants are unpacked where they are used.
// Index loops with constant bounds keep the arrays in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn in_registers<const KIND: u8, const R: usize>(
    panel: Panel<'_>,
    x: &Supers,
    starts: [usize; R],
) -> [__m512; R] {
    let zero = _mm512_setzero_si512();
    let of_sub = vectors_of_sub(KIND);
    let mut scaling = Scaling::zero();
    let mut sums = [_mm512_setzero_ps(); R];
    for block in 0..x.per_row() {
        let at: [usize; R] = std::array::from_fn(|r| starts[r] + block * x.stride());
        let quads: [&[i32; 64]; R] = std::array::from_fn(|r| &x.quads[at[r]].0);
        let stored = Stored::new::<KIND>(panel, block);
        scaling.fill::<KIND>(stored);
        let mut scaled = [zero; R];
        for quarter in 0..4 {
            stored.fetch_quarter(quarter);
            let quants = stored.quants::<KIND>(quarter);
            for index in 0..16 / of_sub {
                let sub = sub(KIND, quarter, index);
                let mut products = [zero; R];
                for v in 0..of_sub {
                    for r in 0..R {
                        let x = _mm512_set1_epi32(quads[r][sub * of_sub + v]);
                        products[r] =
                            _mm512_dpbusd_epi32(products[r], quants[index * of_sub + v], x);
                    }
                }
                for r in 0..R {
                    let product = _mm512_mullo_epi32(products[r], scaling.scales[sub]);
                    scaled[r] = _mm512_add_epi32(scaled[r], product);
                }
            }
        }
        for r in 0..R {
            sums[r] = add_block::<KIND>(&scaling, scaled[r], x, at[r], sums[r]);
        }
    }
    sums
}

/// Adds one block's products.
// Index loops with constant bounds keep the arrays in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn products<const KIND: u8, const R: usize>(
    w: &Unpacked,
    x: &Supers,
    at: [usize; R],
    out: &mut [Sums],
) {
    let zero = _mm512_setzero_si512();
    let of_sub = vectors_of_sub(KIND);
    let quads: [&[i32; 64]; R] = std::array::from_fn(|r| &x.quads[at[r]].0);
    let mut scaled = [zero; R];
    for sub in 0..64 / of_sub {
        let mut products = [zero; R];
        for v in sub * of_sub..sub * of_sub + of_sub {
            for r in 0..R {
                let x = _mm512_set1_epi32(quads[r][v]);
                products[r] = _mm512_dpbusd_epi32(products[r], w.quants[v], x);
            }
        }
        for r in 0..R {
            let product = _mm512_mullo_epi32(products[r], w.scaling.scales[sub]);
            scaled[r] = _mm512_add_epi32(scaled[r], product);
        }
    }
    for r in 0..R {
        let sum = add_block::<KIND>(&w.scaling, scaled[r], x, at[r], load_sums(&out[r]));
        store_sums(&mut out[r], sum);
    }
}

/// `sums` and what a row's block comes to: its products times scales are `scaled`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn add_block<const KIND: u8>(
    w: &Scaling,
    scaled: __m512i,
    x: &Supers,
    at: usize,
    sums: __m512,
) -> __m512 {
    let mut least = _mm512_setzero_si512();
    for (minima, sums) in w.minima.iter().zip(x.sums[at].of_16) {
        least = _mm512_dpwssd_epi32(least, *minima, _mm512_set1_epi32(sums));
    }
    // Of `q6_k` minima count in units of `d`, not of `dmin`.
    let value = if KIND == Q6K {
        let centred = _mm512_sub_epi32(scaled, least);
        _mm512_mul_ps(_mm512_cvtepi32_ps(centred), w.d)
    } else {
        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(scaled), w.d);
        _mm512_fnmadd_ps(_mm512_cvtepi32_ps(least), w.dmin, scaled)
    };
    _mm512_fmadd_ps(value, _mm512_set1_ps(x.scales[at]), sums)
}
