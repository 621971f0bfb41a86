//! `(rows, width) · (outputs, width)ᵀ` over all threads, for several matrices at once.

use std::cell::Cell;
use std::ops::Range;

use super::activations::{Activations, Rounding, TILE_ROWS};
use super::packed::Packed;
use crate::parallel;

/// Bytes of weights in a unit of work when several lots of rows meet them: what a core
/// keeps in its second-level cache beside the rows.
const UNIT_BYTES_MANY: usize = 128 * 1024;
/// The same when every weight is met once.
const UNIT_BYTES_FEW: usize = 512 * 1024;
/// Units a thread should find in a product, so that one that is held up leaves little.
const UNITS_PER_THREAD: usize = 8;
/// Floats of a line of the cache.
const LINE: usize = 16;
/// Panels are handed out by this many, which some kernels work on together.
const PANELS: usize = 4;

thread_local! {
    /// Sums of a unit, kept between units.
    static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Some outputs of one of the matrices.
struct Unit<'a> {
    matrix: &'a Packed,
    panels: Range<usize>,
    /// Where the outputs go, per row.
    y: Vec<&'a mut [f32]>,
}

/// `x` `(rows, width)` with each matrix `(outputs, width)`: `(rows, outputs)` for each.
/// Every weight is read once per lot of rows; all matrices are one piece of work, so that
/// threads are woken once.
#[must_use]
pub fn multiply(matrices: &[&Packed], x: &[f32], rows: usize) -> Vec<Vec<f32>> {
    let mut results: Vec<Vec<f32>> = matrices
        .iter()
        .map(|matrix| vec![0f32; rows * matrix.outputs()])
        .collect();
    let width = matrices.first().map_or(0, |matrix| matrix.width());
    if rows == 0 || width == 0 {
        return results;
    }
    let activations = Rounding::ALL.map(|kind| {
        let user = matrices.iter().find(|matrix| rounding(matrix) == kind);
        user.map(|matrix| Activations::new(x, width, kind, matrix.isa()))
    });
    let panels: usize = matrices.iter().map(|matrix| matrix.panels()).sum();
    let even = panels.div_ceil(parallel::threads() * UNITS_PER_THREAD);
    let units = matrices.iter().zip(&mut results);
    let units: Vec<Unit<'_>> = units
        .flat_map(|(matrix, y)| split(matrix, y, rows, even))
        .collect();
    let outputs: usize = matrices.iter().map(|matrix| matrix.outputs()).sum();
    parallel::for_each(units, outputs * width * rows / 4, |unit| {
        let kind = rounding(unit.matrix);
        let mut made = Rounding::ALL.iter().zip(&activations);
        if let Some((_, Some(x))) = made.find(|(k, _)| **k == kind) {
            unit.run(x, rows);
        }
    });
    results
}

fn rounding(matrix: &Packed) -> Rounding {
    Rounding::of(matrix.format(), matrix.isa())
}

/// Rows that a unit's weights meet before the next ones do.
fn lot(matrix: &Packed) -> usize {
    matrix.isa().lot(rounding(matrix))
}

/// The outputs of a matrix in units of about `even` panels.
fn split<'a>(matrix: &'a Packed, y: &'a mut [f32], rows: usize, even: usize) -> Vec<Unit<'a>> {
    let tiled = matrix.isa().tiled_panels(rounding(matrix));
    let panels = match tiled.filter(|_| rows > TILE_ROWS) {
        Some(most) => (2 * even).min(most),
        None => {
            let bytes = if rows > lot(matrix) {
                UNIT_BYTES_MANY
            } else {
                UNIT_BYTES_FEW
            };
            even.min(bytes * matrix.panels().max(1) / matrix.bytes().max(1))
        }
    };
    let panels = panels.next_multiple_of(PANELS).max(PANELS);
    let mut units: Vec<Unit<'a>> = (0..matrix.panels())
        .step_by(panels)
        .map(|first| Unit {
            matrix,
            panels: first..matrix.panels().min(first + panels),
            y: Vec::with_capacity(rows),
        })
        .collect();
    if matrix.outputs() > 0 {
        for row in y.chunks_exact_mut(matrix.outputs()) {
            for (unit, y) in units
                .iter_mut()
                .zip(row.chunks_mut(panels * matrix.lanes()))
            {
                unit.y.push(y);
            }
        }
    }
    units
}

impl Unit<'_> {
    fn run(self, x: &Activations<'_>, rows: usize) {
        let (panels, lanes) = (self.panels.len(), self.matrix.lanes());
        let most = lot(self.matrix);
        let mut kept = SUMS.take();
        let len = panels * lanes * rows.min(most);
        kept.resize((len + LINE).max(kept.len()), 0.0);
        // A vector of sums is a line of the cache, not parts of two.
        let start = kept.as_ptr().align_offset(LINE * size_of::<f32>());
        let sums = &mut kept[start.min(LINE)..];
        let mut y = self.y.into_iter();
        for first in (0..rows).step_by(most) {
            let lot = first..rows.min(first + most);
            let sums = &mut sums[..panels * lanes * lot.len()];
            let isa = self.matrix.isa();
            isa.tile(self.matrix, self.panels.clone(), x, lot.clone(), sums);
            let y = y.by_ref().take(lot.len()).enumerate();
            match lanes {
                16 => y.for_each(|(row, y)| copy::<16>(y, sums, row, lot.len())),
                _ => y.for_each(|(row, y)| copy::<8>(y, sums, row, lot.len())),
            }
        }
        SUMS.set(kept);
    }
}

/// The sums of a row out of those of `rows`, `(panels, rows, LANES)`.
fn copy<const LANES: usize>(y: &mut [f32], sums: &[f32], row: usize, rows: usize) {
    let mut sums = sums.as_chunks::<LANES>().0.iter().skip(row).step_by(rows);
    let (whole, rest) = y.as_chunks_mut::<LANES>();
    for (y, sums) in whole.iter_mut().zip(&mut sums) {
        *y = *sums;
    }
    if let (false, Some(sums)) = (rest.is_empty(), sums.next()) {
        rest.copy_from_slice(&sums[..rest.len()]);
    }
}
