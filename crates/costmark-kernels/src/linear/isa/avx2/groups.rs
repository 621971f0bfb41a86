//! Weights with one scale per 32 values: `q8_0` and `q4_0`.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{AHEAD, Sums, fetch, load, load_scales, store_sums};
use crate::linear::activations::Groups;
use crate::linear::packed::{Packed, Panel};

/// All rows with each panel. `FOUR_BITS` tells `q4_0` from `q8_0`.
#[target_feature(enable = "avx2,fma,f16c")]
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
            let sums = if FOUR_BITS {
                four_bits::<R>(panel, x, starts, cold)
            } else {
                eight_bits::<R>(panel, x, starts, cold)
            };
            let out = &mut out[first - rows.start..][..R];
            for (out, sums) in out.iter_mut().zip(sums) {
                store_sums(out, sums);
            }
        });
    }
}

/// `maddubs` wants one side unsigned: it gets the weights' magnitudes, and the activations
/// their signs. No pair of products leaves 16 bits: `2 · 128 · 127 < 2^15`.
// Index loops with constant bounds keep the arrays in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn eight_bits<const R: usize>(
    panel: Panel<'_>,
    x: &Groups,
    starts: [usize; R],
    cold: bool,
) -> [__m256; R] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_ps(); R];
    let (groups, _) = panel.vectors.as_chunks::<8>();
    for (g, (group, scales)) in groups.iter().zip(panel.scales).enumerate() {
        let at: [usize; R] = std::array::from_fn(|r| starts[r] + g * x.stride());
        let quads: [&[i32; 8]; R] = std::array::from_fn(|r| &x.quads[at[r]].0);
        let mut products = [_mm256_setzero_si256(); R];
        if cold {
            (0..group.len())
                .step_by(2)
                .for_each(|v| fetch(&group[v], AHEAD));
            fetch(scales, AHEAD / 2 / group.len());
        }
        for v in 0..8 {
            let weights = load(&group[v]);
            let magnitudes = _mm256_abs_epi8(weights);
            for r in 0..R {
                let signed = _mm256_sign_epi8(_mm256_set1_epi32(quads[r][v]), weights);
                let pairs = _mm256_maddubs_epi16(magnitudes, signed);
                products[r] = _mm256_add_epi32(products[r], _mm256_madd_epi16(pairs, ones));
            }
        }
        let scales = load_scales(scales);
        for r in 0..R {
            let scale = _mm256_mul_ps(scales, _mm256_set1_ps(x.scales[at[r]]));
            sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[r]), scale, sums[r]);
        }
    }
    sums
}

/// Weights are stored plus 8, so unsigned; 8 times the sum of the activations is taken off
/// again. Eight pairs of products fit 16 bits: `8 · 2 · 15 · 127 < 2^15`.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn four_bits<const R: usize>(
    panel: Panel<'_>,
    x: &Groups,
    starts: [usize; R],
    cold: bool,
) -> [__m256; R] {
    let ones = _mm256_set1_epi16(1);
    let nibble = _mm256_set1_epi8(15);
    let mut sums = [_mm256_setzero_ps(); R];
    let (groups, _) = panel.vectors.as_chunks::<4>();
    for (g, (group, scales)) in groups.iter().zip(panel.scales).enumerate() {
        let at: [usize; R] = std::array::from_fn(|r| starts[r] + g * x.stride());
        let quads: [&[i32; 8]; R] = std::array::from_fn(|r| &x.quads[at[r]].0);
        let mut pairs = [_mm256_setzero_si256(); R];
        if cold {
            (0..group.len())
                .step_by(2)
                .for_each(|v| fetch(&group[v], AHEAD));
            fetch(scales, AHEAD / 2 / group.len());
        }
        for v in 0..4 {
            let both = load(&group[v]);
            let low = _mm256_and_si256(both, nibble);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), nibble);
            for r in 0..R {
                let first = _mm256_maddubs_epi16(low, _mm256_set1_epi32(quads[r][v]));
                let second = _mm256_maddubs_epi16(high, _mm256_set1_epi32(quads[r][v + 4]));
                pairs[r] = _mm256_add_epi16(pairs[r], _mm256_add_epi16(first, second));
            }
        }
        let scales = load_scales(scales);
        for r in 0..R {
            let offset = _mm256_set1_epi32(-8 * x.sums[at[r]]);
            let products = _mm256_add_epi32(offset, _mm256_madd_epi16(pairs[r], ones));
            let scale = _mm256_mul_ps(scales, _mm256_set1_ps(x.scales[at[r]]));
            sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), scale, sums[r]);
        }
    }
    sums
}
