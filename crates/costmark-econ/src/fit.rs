//! What an input and an output token take where the phases can not be seen: fitted over
//! several workloads.
//!
//! The law is `seconds = a · input + b · output` for the busy seconds of a window. Long windows
//! err by more seconds than short ones, so the *relative* error is what is kept small: each
//! window is the equation `1 = a · input/seconds + b · output/seconds`, solved by least squares.

use costmark_core::Interval;
use statrs::distribution::{ContinuousCDF, FisherSnedecor, StudentsT};

/// Confidence of the intervals, and one minus the level of the test for lack of fit.
const CONFIDENCE: f64 = 0.95;
/// Largest variance inflation: two workloads whose input:output ratios differ by half reach it.
/// Beyond it an error of 1 % in the windows is one of over 5 % in the split.
const MAX_INFLATION: f64 = 25.0;

/// One window that was kept busy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BusyWindow {
    /// Which workload, as an index; windows of the same are repeats.
    pub workload: usize,
    /// Length.
    pub seconds: f64,
    /// Prompt tokens computed in it.
    pub input: f64,
    /// Tokens produced in it.
    pub output: f64,
}

/// The seconds of a machine that a token takes.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedSplit {
    /// Of a computed prompt token.
    pub input_s: Interval,
    /// Of an output token.
    pub output_s: Interval,
    /// The workload the law fits worst, and by what share its windows are longer (below 0:
    /// shorter) than the law says.
    pub worst: (usize, f64),
    /// What could be said about the law itself.
    pub law: Law,
}

/// Whether the windows look as if the law held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// Two workloads, which two unknowns always fit: nothing is known about it.
    Untested,
    /// What the workloads deviate is explained by what repeats vary (F-test at 5 %).
    Holds,
    /// Workloads deviate by more than repeats explain. The intervals are as wide as the workloads
    /// deviate, not as the repeats vary.
    Approximate,
}

/// Why there is no fitted split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoFit {
    /// One equation for two unknowns.
    #[error("it takes two workloads of different input:output ratio at the same load")]
    OneWorkload,
    /// All workloads have nearly the same ratio.
    #[error(
        "the workloads have nearly the same input:output ratio; add one whose ratio is at least \
         twice or half as large"
    )]
    SameRatio,
    /// A window is empty or a count is not a number.
    #[error("a window is empty")]
    EmptyWindow,
}

/// Fits the law to windows of at least two workloads under the same load.
///
/// `a` and `b` are not negative: where least squares would have one below 0 it is 0, and the
/// other is fitted alone. Intervals are those of the linear model, t with n − 2 degrees of
/// freedom, cut at 0. Where an F-test finds that workloads deviate by more than repeats do,
/// each workload counts as one observation instead (k − 2 degrees of freedom): repeats of a
/// workload then share an error, and would feign certainty. Without a degree of freedom left
/// there is no interval.
///
/// # Errors
/// [`NoFit`].
pub fn fit(windows: &[BusyWindow]) -> Result<FittedSplit, NoFit> {
    let possible = |x: f64| x.is_finite() && x >= 0.0;
    if windows.iter().any(|w| {
        !(w.seconds.is_finite() && w.seconds > 0.0 && possible(w.input) && possible(w.output))
            || w.input + w.output <= 0.0
    }) {
        return Err(NoFit::EmptyWindow);
    }
    let mut workloads: Vec<usize> = windows.iter().map(|w| w.workload).collect();
    workloads.sort_unstable();
    workloads.dedup();
    if workloads.len() < 2 {
        return Err(NoFit::OneWorkload);
    }
    let rows: Vec<[f64; 2]> = windows
        .iter()
        .map(|w| [w.input / w.seconds, w.output / w.seconds])
        .collect();
    let means: Vec<[f64; 2]> = workloads
        .iter()
        .map(|id| mean_row(windows, &rows, *id))
        .collect();
    let all = Solution::of(&rows).ok_or(NoFit::SameRatio)?;
    let between = Solution::of(&means).ok_or(NoFit::SameRatio)?;

    // What repeats of a workload vary, and what workloads deviate beyond it.
    let misfit: Vec<f64> = workloads
        .iter()
        .map(|id| mean(residuals_of(windows, &rows, &all, *id)))
        .collect();
    let within: f64 = workloads
        .iter()
        .zip(&misfit)
        .flat_map(|(id, mean)| {
            residuals_of(windows, &rows, &all, *id).map(move |e| (e - mean).powi(2))
        })
        .sum();
    let (n, k) = (windows.len(), workloads.len());
    let lack = (all.squares - within).max(0.0);
    let law = if k == 2 {
        Law::Untested
    } else if n == k || is_lack_of_fit(lack, k - 2, within, n - k) {
        Law::Approximate
    } else {
        Law::Holds
    };
    let solution = if law == Law::Approximate {
        between
    } else {
        all
    };
    let [input_s, output_s] = solution.intervals();
    let (worst, deviation) = workloads
        .iter()
        .zip(&means)
        .map(|(id, row)| (*id, 1.0 / solution.seconds(row) - 1.0))
        .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
        .ok_or(NoFit::OneWorkload)?;
    Ok(FittedSplit {
        input_s,
        output_s,
        worst: (worst, deviation),
        law,
    })
}

/// Least squares of `1 = a · x + b · y` over rows `(x, y)`.
#[derive(Debug, Clone, Copy)]
struct Solution {
    /// As least squares has it.
    free: [f64; 2],
    /// Not negative.
    bounded: [f64; 2],
    /// Diagonal of the inverse of the normal matrix.
    inverse: [f64; 2],
    /// Sum of squared residuals of `free`.
    squares: f64,
    rows: usize,
}

impl Solution {
    /// None when the columns are too nearly proportional to be told apart.
    fn of(rows: &[[f64; 2]]) -> Option<Self> {
        let sum = |of: fn(&[f64; 2]) -> f64| rows.iter().map(of).sum::<f64>();
        let (xx, yy) = (sum(|r| r[0] * r[0]), sum(|r| r[1] * r[1]));
        let (xy, x, y) = (sum(|r| r[0] * r[1]), sum(|r| r[0]), sum(|r| r[1]));
        let determinant = xx * yy - xy * xy;
        // Variance inflation is 1 / (1 − cos²) of the angle between the columns.
        if determinant.is_nan() || determinant * MAX_INFLATION <= xx * yy {
            return None;
        }
        let free = [
            (yy * x - xy * y) / determinant,
            (xx * y - xy * x) / determinant,
        ];
        let bounded = if free[0] < 0.0 {
            [0.0, y / yy]
        } else if free[1] < 0.0 {
            [x / xx, 0.0]
        } else {
            free
        };
        let residual = |r: &[f64; 2]| 1.0 - free[0] * r[0] - free[1] * r[1];
        Some(Self {
            free,
            bounded,
            inverse: [yy / determinant, xx / determinant],
            squares: rows.iter().map(|r| residual(r).powi(2)).sum(),
            rows: rows.len(),
        })
    }

    /// What the law says for the row of a window, in units of its length.
    fn seconds(&self, row: &[f64; 2]) -> f64 {
        self.bounded[0] * row[0] + self.bounded[1] * row[1]
    }

    fn intervals(&self) -> [Interval; 2] {
        let freedom = self.rows.saturating_sub(2);
        let t = StudentsT::new(0.0, 1.0, freedom as f64)
            .map(|t| t.inverse_cdf(f64::midpoint(1.0, CONFIDENCE)))
            .ok()
            .filter(|_| freedom > 0);
        [0, 1].map(|i| {
            let value = self.bounded[i];
            let Some(t) = t else {
                return Interval::point(value);
            };
            let half = t * (self.squares / freedom as f64 * self.inverse[i]).sqrt();
            Interval::new(
                value,
                (self.free[i] - half).clamp(0.0, value),
                (self.free[i] + half).max(value),
            )
        })
    }
}

/// Rows and windows of one workload go together by position.
fn rows_of<'a>(
    windows: &'a [BusyWindow],
    rows: &'a [[f64; 2]],
    workload: usize,
) -> impl Iterator<Item = &'a [f64; 2]> {
    windows
        .iter()
        .zip(rows)
        .filter(move |(w, _)| w.workload == workload)
        .map(|(_, row)| row)
}

fn mean_row(windows: &[BusyWindow], rows: &[[f64; 2]], workload: usize) -> [f64; 2] {
    let column = |i: usize| mean(rows_of(windows, rows, workload).map(move |row| row[i]));
    [column(0), column(1)]
}

fn residuals_of<'a>(
    windows: &'a [BusyWindow],
    rows: &'a [[f64; 2]],
    solution: &'a Solution,
    workload: usize,
) -> impl Iterator<Item = f64> + 'a {
    rows_of(windows, rows, workload)
        .map(|row| 1.0 - solution.free[0] * row[0] - solution.free[1] * row[1])
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), x| (sum + x, n + 1.0));
    sum / n
}

/// F-test of the sum of squares between groups against that within them.
fn is_lack_of_fit(
    between: f64,
    between_freedom: usize,
    within: f64,
    within_freedom: usize,
) -> bool {
    // Rounding alone is no deviation.
    if between < 1e-18 {
        return false;
    }
    let ratio = (between / between_freedom as f64) / (within / within_freedom as f64);
    FisherSnedecor::new(between_freedom as f64, within_freedom as f64)
        .is_ok_and(|f| ratio > f.inverse_cdf(CONFIDENCE))
}
