//! Weights with one scale per 32 values: `q8_0` and `q4_0`.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{AHEAD, FAR_AHEAD, Sums, fetch, fetch_in_stages, load, load_scales, store_sums};
use crate::linear::activations::Groups;
use crate::linear::packed::{Packed, Panel};

/// All rows with each panel. `FOUR_BITS` tells `q4_0` from `q8_0`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn tile<const FOUR_BITS: bool>(
    matrix: &Packed,
    panels: Range<usize>,
    x: &Groups,
    rows: Range<usize>,
    out: &mut [Sums],
) {
    for (panel, out) in panels.zip(out.chunks_exact_mut(rows.len())) {
        let panel = matrix.panel(panel);
        in_blocks!(rows.clone(), |first, R| {
            let starts: [usize; R] = std::array::from_fn(|r| x.first(first + r));
            // The first rows to meet a panel bring it into the cache.
            let cold = first == rows.start;
            let sums = products::<FOUR_BITS, R>(panel, x, starts, cold);
            let out = &mut out[first - rows.start..][..R];
            for (out, sums) in out.iter_mut().zip(sums) {
                store_sums(out, sums);
            }
        });
    }
}

/// Eight bits become unsigned by adding 128, four bits are stored plus 8.
// Index loops with constant bounds keep the arrays in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn products<const FOUR_BITS: bool, const R: usize>(
    panel: Panel<'_>,
    x: &Groups,
    starts: [usize; R],
    cold: bool,
) -> [__m512; R] {
    let raise = _mm512_set1_epi8(-128);
    let nibble = _mm512_set1_epi8(15);
    let offset = if FOUR_BITS { -8 } else { -128 };
    let words = if FOUR_BITS { 4 } else { 8 };
    let ahead = if FOUR_BITS || R > 2 { FAR_AHEAD } else { AHEAD };
    let mut sums = [_mm512_setzero_ps(); R];
    let (vectors, _) = panel.vectors.as_chunks::<2>();
    let (scales, _) = panel.scales.as_chunks::<2>();
    for (g, (group, scales)) in vectors.chunks_exact(words).zip(scales).enumerate() {
        let at: [usize; R] = std::array::from_fn(|r| starts[r] + g * x.stride());
        let quads: [&[i32; 8]; R] = std::array::from_fn(|r| &x.quads[at[r]].0);
        let mut products: [__m512i; R] =
            std::array::from_fn(|r| _mm512_set1_epi32(offset * x.sums[at[r]]));
        if cold {
            group.iter().for_each(|word| fetch_in_stages(word, ahead));
            fetch(scales, ahead / 2 / words);
        }
        for (v, word) in group.iter().enumerate() {
            let word = load(word);
            let (first, second) = if FOUR_BITS {
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(word), nibble);
                (_mm512_and_si512(word, nibble), high)
            } else {
                (_mm512_xor_si512(word, raise), raise)
            };
            for r in 0..R {
                let x = _mm512_set1_epi32(quads[r][v]);
                products[r] = _mm512_dpbusd_epi32(products[r], first, x);
                if FOUR_BITS {
                    let x = _mm512_set1_epi32(quads[r][v + 4]);
                    products[r] = _mm512_dpbusd_epi32(products[r], second, x);
                }
            }
        }
        let scales = load_scales(scales);
        for r in 0..R {
            let scale = _mm512_mul_ps(scales, _mm512_set1_ps(x.scales[at[r]]));
            sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[r]), scale, sums[r]);
        }
    }
    sums
}
