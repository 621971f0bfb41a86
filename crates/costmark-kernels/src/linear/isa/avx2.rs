//! Products with AVX2, FMA and F16C.
//!
//! Lane `l` of every vector belongs to row `l` of the panel. A weight vector is loaded (and
//! unpacked) once for up to `BLOCK_ROWS` rows of activations, each of which meets it as a
//! broadcast of four bytes or one float.

mod floats;
mod groups;
mod round;
mod supers;
mod unpack;

use std::arch::x86_64::*;
use std::ops::Range;

use crate::TensorFormat;
use crate::linear::activations::Activations;
use crate::linear::packed::{LANES, Packed, Scales, Vector};

pub(super) use self::round::{round_group, round_super};

/// One row's sums for a panel's outputs.
type Sums = [f32; LANES];

/// See [`Isa::tile`](super::Isa::tile).
#[target_feature(enable = "avx2,fma,f16c")]
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

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load(vector: &Vector) -> __m256i {
    // SAFETY: the reference is to 32 readable bytes, aligned to 32.
    unsafe { _mm256_load_si256(std::ptr::from_ref(vector).cast()) }
}

/// How many bytes ahead of its use a weight is fetched. Without it one row of activations
/// meets `q8_0` weights a tenth slower (7 to 14 % in five of six alternating pairs of runs, the
/// sixth disturbed, on two threads of a Zen 3 virtual machine); 1024 to 8192 bytes and other
/// hints differed by less than the noise.
const AHEAD: usize = 4096;

/// Fetches the cache line that lies `distance` bytes behind `at`, or nothing where no memory
/// is.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn fetch<T>(at: &T, distance: usize) {
    let line = std::ptr::from_ref(at).cast::<i8>().wrapping_add(distance);
    _mm_prefetch::<_MM_HINT_T0>(line);
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_scales(scales: &Scales) -> __m256 {
    // SAFETY: the reference is to 16 readable bytes.
    let bits = unsafe { _mm_loadu_si128(std::ptr::from_ref(scales).cast()) };
    _mm256_cvtph_ps(bits)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_sums(sums: &Sums) -> __m256 {
    // SAFETY: the reference is to eight floats.
    unsafe { _mm256_loadu_ps(sums.as_ptr()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store_sums(sums: &mut Sums, values: __m256) {
    // SAFETY: the reference is to eight floats.
    unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), values) }
}
