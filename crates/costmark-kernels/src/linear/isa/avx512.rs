//! Products with AVX-512 and its instruction for bytes (VNNI).
//!
//! As with AVX2, lane `l` of every vector belongs to row `l` of the panel, and a weight vector
//! is loaded once for up to eight rows of activations, each of which meets it as a broadcast of
//! four bytes or one float. The instruction wants unsigned weights: what they are raised by
//! times the sum of the activations is taken off where a sum starts.

mod floats;
mod groups;
mod supers;
mod unpack;

use std::arch::x86_64::*;
use std::ops::Range;

pub(super) use self::unpack::{Unpacked, twice};
use crate::TensorFormat;
use crate::linear::activations::Activations;
use crate::linear::packed::{Packed, Scales, Vector};

/// Rows of a panel.
pub(super) const LANES: usize = 16;
/// One row's sums for a panel's outputs.
pub(super) type Sums = [f32; LANES];
/// One word of each row of a panel.
pub(super) type Word = [Vector; 2];
/// One scale of each row of a panel.
pub(super) type WordScales = [Scales; 2];

/// See [`Isa::tile`](super::Isa::tile).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn tile(
    matrix: &Packed,
    panels: Range<usize>,
    x: &Activations<'_>,
    rows: Range<usize>,
    out: &mut [f32],
) {
    let (out, _) = out.as_chunks_mut::<LANES>();
    match (matrix.format(), x) {
        (TensorFormat::F32, Activations::Exact(x, _)) => {
            floats::tile::<{ floats::F32 }>(matrix, panels, x, rows, out);
        }
        (TensorFormat::F16, Activations::Exact(x, _)) => {
            floats::tile::<{ floats::F16 }>(matrix, panels, x, rows, out);
        }
        (TensorFormat::BF16, Activations::Exact(x, _)) => {
            floats::tile::<{ floats::BF16 }>(matrix, panels, x, rows, out);
        }
        (TensorFormat::Q8_0, Activations::Groups(x)) => {
            groups::tile::<false>(matrix, panels, x, rows, out);
        }
        (TensorFormat::Q4_0, Activations::Groups(x)) => {
            groups::tile::<true>(matrix, panels, x, rows, out);
        }
        (_, Activations::Supers(x)) => supers::tile(matrix, panels, x, rows, out),
        _ => debug_assert!(false, "activations were rounded for another format"),
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load(word: &Word) -> __m512i {
    // SAFETY: the reference is to 64 readable bytes.
    unsafe { _mm512_loadu_si512(std::ptr::from_ref(word).cast()) }
}

/// How many bytes ahead of its use a weight is fetched where a line is soon done with.
pub(super) const AHEAD: usize = 4096;

/// The same where more is done with each line.
///
/// Beside [`AHEAD`], calls in turn, medians of 60 or 200, two threads of a Zen 4: `q4_0` 1.04 to 1.13 times
/// as fast, `q4_k`, `q5_k` and `q6_k` 1.02 to 1.40 with one to four rows; `q8_0` 0.87 to 0.95 with
/// one and two, 1.03 to 1.27 with four, 1.08 to 1.13 with eight.
pub(super) const FAR_AHEAD: usize = 2 * AHEAD;

/// Where lines are brought into the second-level cache first: how many bytes ahead of its use a
/// weight comes from there into the first.
const NEAR: usize = 1024;

/// Fetches the cache line that lies `ahead` bytes behind `at` into the second-level cache and the
/// one [`NEAR`] behind it from there into the first, which has too few places to wait for memory in.
///
/// Beside one fetch into the first, calls in turn, medians of 57, two threads of a Xeon, `ahead` of
/// [`AHEAD`]: with one row `q8_0` 1.08 times as fast, `q4_0` 1.06, `q4_k` 1.20, `q6_k` 1.13, `bf16`
/// 1.06, `f16` 1.07; with eight 1.03, 1.01, 1.11, 1.07, 1.11 and 0.99.
#[inline(always)]
pub(super) fn fetch_in_stages<T>(at: &T, ahead: usize) {
    fetch_far(at, ahead);
    fetch(at, NEAR);
}

/// Fetches the cache line that lies `distance` bytes behind `at`, or nothing where no memory
/// is.
#[inline(always)]
pub(super) fn fetch<T>(at: &T, distance: usize) {
    let line = std::ptr::from_ref(at).cast::<i8>().wrapping_add(distance);
    // SAFETY: a hint, which reads nothing that the program could see and never faults; the
    // instruction is part of every x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
}

/// The same, but only into the second-level cache.
#[inline(always)]
fn fetch_far<T>(at: &T, distance: usize) {
    let line = std::ptr::from_ref(at).cast::<i8>().wrapping_add(distance);
    // SAFETY: as for `fetch`.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line) };
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load_scales(scales: &WordScales) -> __m512 {
    // SAFETY: the reference is to 32 readable bytes.
    let bits = unsafe { _mm256_loadu_si256(std::ptr::from_ref(scales).cast()) };
    _mm512_cvtph_ps(bits)
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load_sums(sums: &Sums) -> __m512 {
    // SAFETY: the reference is to sixteen floats.
    unsafe { _mm512_loadu_ps(sums.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store_sums(sums: &mut Sums, values: __m512) {
    // SAFETY: the reference is to sixteen floats.
    unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), values) }
}
