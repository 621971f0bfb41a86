//! Weights with sub-blocks in blocks of 256 values: `q4_k`, `q5_k` and `q6_k`.
//!
//! A block of a panel is unpacked to unsigned bytes and scales, once for all rows; then one
//! kernel serves all three.

use std::arch::x86_64::*;
use std::ops::Range;

use super::unpack::Unpacked;
use super::{Sums, load_sums, store_sums};
use crate::TensorFormat;
use crate::linear::activations::Supers;
use crate::linear::packed::Packed;

/// All rows with each panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn tile(
    matrix: &Packed,
    panels: Range<usize>,
    x: &Supers,
    rows: Range<usize>,
    out: &mut [Sums],
) {
    let mut unpacked = Unpacked::zero();
    out.fill([0.0; 16]);
    for (panel, out) in panels.zip(out.chunks_exact_mut(rows.len())) {
        let panel = matrix.panel(panel);
        for block in 0..x.per_row() {
            unpacked.fill(matrix.format(), panel, block);
            in_blocks!(rows.clone(), |first, R| {
                let at: [usize; R] =
                    std::array::from_fn(|r| x.first(first + r) + block * x.stride());
                let out = &mut out[first - rows.start..][..R];
                if matrix.format() == TensorFormat::Q6K {
                    products::<4, true, R>(&unpacked, x, at, out);
                } else {
                    products::<8, false, R>(&unpacked, x, at, out);
                }
            });
        }
    }
}

/// Adds one block's products. `SUB` vectors (of four values per row) make a sub-block.
/// `CENTRED`: minima count in units of `d`, not of `dmin`.
// Index loops with constant bounds keep the arrays in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn products<const SUB: usize, const CENTRED: bool, const R: usize>(
    w: &Unpacked,
    x: &Supers,
    at: [usize; R],
    out: &mut [Sums],
) {
    let zero = _mm512_setzero_si512();
    let quads: [&[i32; 64]; R] = std::array::from_fn(|r| &x.quads[at[r]].0);
    let sums: [&[i32; 8]; R] = std::array::from_fn(|r| &x.sums[at[r]].of_16);
    let mut scaled = [zero; R];
    for sub in 0..64 / SUB {
        let mut products = [zero; R];
        for v in sub * SUB..sub * SUB + SUB {
            for r in 0..R {
                let x = _mm512_set1_epi32(quads[r][v]);
                products[r] = _mm512_dpbusd_epi32(products[r], w.quants[v], x);
            }
        }
        for r in 0..R {
            let product = _mm512_mullo_epi32(products[r], w.scales[sub]);
            scaled[r] = _mm512_add_epi32(scaled[r], product);
        }
    }
    let mut least = [zero; R];
    for pair in 0..8 {
        for r in 0..R {
            let sums = _mm512_set1_epi32(sums[r][pair]);
            least[r] = _mm512_dpwssd_epi32(least[r], w.minima[pair], sums);
        }
    }
    for r in 0..R {
        let value = if CENTRED {
            let centred = _mm512_sub_epi32(scaled[r], least[r]);
            _mm512_mul_ps(_mm512_cvtepi32_ps(centred), w.d)
        } else {
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(scaled[r]), w.d);
            _mm512_fnmadd_ps(_mm512_cvtepi32_ps(least[r]), w.dmin, scaled)
        };
        let sum = _mm512_fmadd_ps(value, _mm512_set1_ps(x.scales[at[r]]), load_sums(&out[r]));
        store_sums(&mut out[r], sum);
    }
}
