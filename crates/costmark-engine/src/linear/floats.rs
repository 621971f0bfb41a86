//! Products with matrices of floats, on the CPU.
//!
//! 16-bit weights are widened to f32 (exactly) a piece at a time, while they are in the
//! cache, and multiplied with f32 activations; sums are f32. So a `bf16` or `f16`
//! checkpoint keeps its size in memory, a decode step reads 2 bytes per weight, and
//! nothing but the order of the sum differs from a product in f32.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::error::Result;

/// Values widened at a time: with the activations that meet them they stay in the
/// first-level cache.
const PIECE: usize = 256;
/// Rows of activations taken at a time: their pieces fill half of that cache.
const GROUP: usize = 16;
/// Weight rows handed to a thread at a time.
const ROWS_PER_TASK: usize = 16;

/// Products of fewer multiplications than this take less time than waking a thread.
const SERIAL: usize = 128 * 1024;

/// Values of a matrix, row-major.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Floats<'a> {
    /// As the products compute.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// The upper half of an f32.
    BF16(&'a [bf16]),
}

impl Floats<'_> {
    /// The values from `start` on, as f32.
    pub(crate) fn widen(&self, start: usize, out: &mut [f32]) {
        match self {
            Floats::F32(values) => out.copy_from_slice(&values[start..start + out.len()]),
            Floats::F16(values) => values[start..start + out.len()].convert_to_f32_slice(out),
            Floats::BF16(values) => {
                for (out, value) in out.iter_mut().zip(&values[start..]) {
                    *out = f32::from_bits(u32::from(value.to_bits()) << 16);
                }
            }
        }
    }

    /// `x` `(rows, width)` with this matrix `(outputs, width)` → `(rows, outputs)`. Each
    /// weight is read once whatever the number of rows; made for few rows, where a blocked
    /// product of large tiles has nothing to reuse.
    pub(crate) fn few_rows(&self, x: &[f32], rows: usize, outputs: usize) -> Vec<f32> {
        let width = x.len() / rows.max(1);
        in_tasks(x, rows, outputs, |first, x, sums| {
            vectorize(Task {
                weights: *self,
                first: first * width,
                x,
                width,
                rows,
                sums,
            });
            Ok(())
        })
        .unwrap_or_default()
    }
}

/// The same for weights that `widen` writes as f32: whole rows from the given one on.
///
/// # Errors
/// Those of `widen`.
pub(crate) fn few_rows_widened(
    x: &[f32],
    rows: usize,
    outputs: usize,
    widen: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
) -> Result<Vec<f32>> {
    let width = x.len() / rows.max(1);
    in_tasks(x, rows, outputs, |first, x, sums| {
        let mut wide = vec![0f32; sums.len() / rows * width];
        widen(first, &mut wide)?;
        vectorize(Task {
            weights: Floats::F32(&wide),
            first: 0,
            x,
            width,
            rows,
            sums,
        });
        Ok(())
    })
}

/// Shares the weight rows out to threads: `task` adds the products of its rows, from the
/// given one on, with all of `x` to `(weight rows, rows)`. Gives `(rows, outputs)`.
fn in_tasks(
    x: &[f32],
    rows: usize,
    outputs: usize,
    task: impl Fn(usize, &[f32], &mut [f32]) -> Result<()> + Sync,
) -> Result<Vec<f32>> {
    if rows == 0 || outputs == 0 {
        return Ok(Vec::new());
    }
    // Transposed, so that each thread writes one piece.
    let mut transposed = vec![0f32; outputs * rows];
    let run = |(index, sums): (usize, &mut [f32])| task(index * ROWS_PER_TASK, x, sums);
    if x.len() * outputs < SERIAL {
        let mut tasks = transposed.chunks_mut(ROWS_PER_TASK * rows).enumerate();
        tasks.try_for_each(run)?;
    } else {
        let tasks = transposed.par_chunks_mut(ROWS_PER_TASK * rows).enumerate();
        tasks.try_for_each(run)?;
    }
    if rows == 1 {
        return Ok(transposed);
    }
    let mut y = vec![0f32; transposed.len()];
    for (out, sums) in transposed.chunks_exact(rows).enumerate() {
        for (row, &sum) in sums.iter().enumerate() {
            y[row * outputs + out] = sum;
        }
    }
    Ok(y)
}

/// Runs the task with this machine's vector instructions.
fn vectorize(task: Task<'_>) {
    // The general dispatch knows AVX2 only with a feature of `pulp` that would have the
    // whole tensor stack built differently.
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return Simd::vectorize(simd, task);
    }
    Arch::new().dispatch(task);
}

/// A few rows of the matrix with all rows of `x`.
struct Task<'a> {
    weights: Floats<'a>,
    /// Where its first weight row begins.
    first: usize,
    x: &'a [f32],
    width: usize,
    rows: usize,
    /// `(weight rows, rows)`, to be added to.
    sums: &'a mut [f32],
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut buffer = [0f32; PIECE];
        for at in (0..self.width).step_by(PIECE) {
            let len = PIECE.min(self.width - at);
            let piece = |row: usize| &self.x[row * self.width + at..][..len];
            for first in (0..self.rows).step_by(GROUP) {
                let group = GROUP.min(self.rows - first);
                for (i, sums) in self.sums.chunks_exact_mut(self.rows).enumerate() {
                    let row_start = self.first + i * self.width;
                    let weights = match self.weights {
                        Floats::F32(values) => &values[row_start + at..][..len],
                        halves => {
                            halves.widen(row_start + at, &mut buffer[..len]);
                            &buffer[..len]
                        }
                    };
                    let (fours, rest) = sums[first..first + group].as_chunks_mut::<4>();
                    let after = first + 4 * fours.len();
                    for (four, sums) in fours.iter_mut().enumerate() {
                        let x = std::array::from_fn(|j| piece(first + 4 * four + j));
                        dots::<S, 4>(simd, weights, x, sums);
                    }
                    for (j, sum) in rest.iter_mut().enumerate() {
                        dots(simd, weights, [piece(after + j)], std::array::from_mut(sum));
                    }
                }
            }
        }
    }
}

/// Adds the dot product of `weights` with each of `x` to `sums`. Each has two running
/// vectors, so that one addition need not wait for the last.
#[inline(always)]
fn dots<S: Simd, const N: usize>(simd: S, weights: &[f32], x: [&[f32]; N], sums: &mut [f32; N]) {
    let (w, w_rest) = S::as_simd_f32s(weights);
    let x = x.map(S::as_simd_f32s);
    let zero = simd.splat_f32s(0.0);
    let mut even = [zero; N];
    let mut odd = [zero; N];
    let (pairs, last) = w.as_chunks::<2>();
    for (i, [w0, w1]) in pairs.iter().enumerate() {
        for j in 0..N {
            even[j] = simd.mul_add_e_f32s(*w0, x[j].0[2 * i], even[j]);
            odd[j] = simd.mul_add_e_f32s(*w1, x[j].0[2 * i + 1], odd[j]);
        }
    }
    for j in 0..N {
        if let ([w], Some(x)) = (last, x[j].0.last()) {
            even[j] = simd.mul_add_e_f32s(*w, *x, even[j]);
        }
        let tail: f32 = w_rest.iter().zip(x[j].1).map(|(w, x)| w * x).sum();
        sums[j] += simd.reduce_sum_f32s(simd.add_f32s(even[j], odd[j])) + tail;
    }
}
