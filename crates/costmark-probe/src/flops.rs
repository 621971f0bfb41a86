//! Rate of the dense f32 matrix product, the one candle uses on CPUs (`gemm`), on all threads.

use std::time::{Duration, Instant};

use gemm::Parallelism;

use crate::error::ProbeError;

/// Fewest products timed, however little time there is.
const MIN_PRODUCTS: usize = 3;
/// Sides of the square matrices tried: 1024 is compute bound on a few cores, more cores
/// need more work to share.
const SIDES: [usize; 3] = [1024, 2048, 4096];
/// A product shorter than this says more about starting threads than about arithmetic.
const LONG_ENOUGH: Duration = Duration::from_millis(15);

/// FLOPs per second of each product timed, and the side of its matrices.
pub(crate) fn matrix_rates(
    threads: usize,
    budget: Duration,
) -> Result<(Vec<f64>, usize), ProbeError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|_| String::from("costmark-probe"))
        .build()
        .map_err(|e| ProbeError::Threads {
            threads,
            reason: e.to_string(),
        })?;
    pool.install(|| {
        let began = Instant::now();
        let mut matrices = Matrices::new(SIDES[0]);
        matrices.timed_product(threads); // starts the threads
        for side in &SIDES[1..] {
            if matrices.timed_product(threads) >= LONG_ENOUGH {
                break;
            }
            matrices = Matrices::new(*side);
        }
        let mut rates = Vec::new();
        while rates.len() < MIN_PRODUCTS || began.elapsed() < budget {
            let seconds = matrices.timed_product(threads).as_secs_f64();
            if seconds > 0.0 {
                rates.push(matrices.flops() / seconds);
            }
        }
        matrices.check()?;
        Ok((rates, matrices.side))
    })
}

/// Square matrices, column major: `out = a · b`.
struct Matrices {
    side: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    out: Vec<f32>,
}

impl Matrices {
    /// Small numbers that do not vanish and are exact in f32, as are their products and sums.
    fn new(side: usize) -> Self {
        let fill = |step: usize| {
            (0..side * side)
                .map(|i| ((i * step) % 7) as f32 - 3.0)
                .collect()
        };
        Self {
            side,
            a: fill(3),
            b: fill(5),
            out: vec![0.0; side * side],
        }
    }

    /// Two per multiply-add.
    fn flops(&self) -> f64 {
        2.0 * (self.side as f64).powi(3)
    }

    fn timed_product(&mut self, threads: usize) -> Duration {
        let start = Instant::now();
        product(self.side, &self.a, &self.b, &mut self.out, threads);
        start.elapsed()
    }

    /// One entry against a plain sum: a machine that computes wrongly must not be rated.
    fn check(&self) -> Result<(), ProbeError> {
        let (n, row, column) = (self.side, self.side / 2, self.side - 1);
        let want: f32 = (0..n)
            .map(|k| self.a[k * n + row] * self.b[column * n + k])
            .sum();
        let got = self.out[column * n + row];
        if got == want {
            Ok(())
        } else {
            Err(ProbeError::WrongProduct { got, want })
        }
    }
}

/// `out = a · b` for column-major matrices of `side` rows and columns.
#[allow(unsafe_code)]
fn product(side: usize, a: &[f32], b: &[f32], out: &mut [f32], threads: usize) {
    let entries = side * side;
    assert!(a.len() == entries && b.len() == entries && out.len() == entries);
    let column = side as isize;
    // SAFETY: each pointer is valid for `side * side` entries (asserted above), which is all
    // that rows of stride 1 and columns of stride `side` reach; `out` is borrowed mutably,
    // so it overlaps neither input.
    unsafe {
        gemm::gemm(
            side,
            side,
            side,
            out.as_mut_ptr(),
            column,
            1,
            false,
            a.as_ptr(),
            column,
            1,
            b.as_ptr(),
            column,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            if threads > 1 {
                Parallelism::Rayon(threads)
            } else {
                Parallelism::None
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_is_a_matrix_product() {
        for threads in [1, 2] {
            let mut matrices = Matrices::new(37);
            matrices.timed_product(threads);
            let n = matrices.side;
            for row in 0..n {
                for column in 0..n {
                    let want: f32 = (0..n)
                        .map(|k| matrices.a[k * n + row] * matrices.b[column * n + k])
                        .sum();
                    assert_eq!(matrices.out[column * n + row], want, "{row}, {column}");
                }
            }
            matrices.check().unwrap();
            matrices.out.fill(0.5);
            assert!(matches!(
                matrices.check(),
                Err(ProbeError::WrongProduct { .. })
            ));
        }
    }

    #[test]
    fn rates_are_positive() {
        let (rates, side) = matrix_rates(1, Duration::ZERO).unwrap();
        assert!(rates.len() >= MIN_PRODUCTS && SIDES.contains(&side));
        assert!(rates.iter().all(|r| r.is_finite() && *r > 0.0));
    }
}
