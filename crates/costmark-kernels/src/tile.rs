//! The one product attention is made of: `c (rows, n) += a (rows, k) · b (k, n)`.
//!
//! Each element of `c` is one chain of multiply-adds over `k` in order, whatever the
//! number of rows; so a token's result does not depend on what else is in its tile.

/// Elements of one vector.
pub const LANES: usize = 8;

type Vector = [f32; LANES];

/// `c += a · b`. `a` is `(rows, lda)` of which the first `k` columns count, `b` `(k, n)`,
/// `c` `(rows, n)`; `n` is a multiple of [`LANES`].
pub fn multiply_add(a: &[f32], lda: usize, k: usize, b: &[f32], n: usize, c: &mut [f32]) {
    debug_assert!(n.is_multiple_of(LANES) && k <= lda && k * n <= b.len());
    let (b, _) = b.as_chunks::<LANES>();
    let (c, _) = c.as_chunks_mut::<LANES>();
    let n = n / LANES;
    let rows = c.len() / n;
    let mut row = 0;
    while row < rows {
        let a = &a[row * lda..];
        let c = &mut c[row * n..];
        // Few rows take wide strips, so that enough independent sums are under way.
        match rows - row {
            4.. => {
                strips::<4, 2>(a, lda, k, b, n, c);
                row += 4;
            }
            2..=3 => {
                strips::<2, 4>(a, lda, k, b, n, c);
                row += 2;
            }
            _ => {
                strips::<1, 4>(a, lda, k, b, n, c);
                row += 1;
            }
        }
    }
}

/// `R` rows; `n` counts vectors.
fn strips<const R: usize, const V: usize>(
    a: &[f32],
    lda: usize,
    k: usize,
    b: &[Vector],
    n: usize,
    c: &mut [Vector],
) {
    let mut column = 0;
    while column + V <= n {
        strip::<R, V>(a, lda, k, b, n, column, c);
        column += V;
    }
    while column + 2 <= n {
        strip::<R, 2>(a, lda, k, b, n, column, c);
        column += 2;
    }
    if column < n {
        strip::<R, 1>(a, lda, k, b, n, column, c);
    }
}

/// `R` rows by `V` vectors from vector `column` on.
// Index loops with constant bounds are what keeps `sums` in registers; with iterators over
// them the compiler stores every sum in every round.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn strip<const R: usize, const V: usize>(
    a: &[f32],
    lda: usize,
    k: usize,
    b: &[Vector],
    n: usize,
    column: usize,
    c: &mut [Vector],
) {
    let mut sums = [[[0f32; LANES]; V]; R];
    for r in 0..R {
        sums[r].copy_from_slice(&c[r * n + column..][..V]);
    }
    let rows: [&[f32]; R] = std::array::from_fn(|r| &a[r * lda..][..k]);
    for (i, b) in b.chunks_exact(n).take(k).enumerate() {
        let b = &b[column..][..V];
        for r in 0..R {
            let factor = rows[r][i];
            for v in 0..V {
                for l in 0..LANES {
                    sums[r][v][l] = factor.mul_add(b[v][l], sums[r][v][l]);
                }
            }
        }
    }
    for r in 0..R {
        c[r * n + column..][..V].copy_from_slice(&sums[r]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Equal to the textbook loop, and bit for bit the same for a row alone.
        #[test]
        fn equals_the_textbook(rows in 1usize..10, k in 1usize..20, strips in 1usize..10, extra in 0usize..3, seed in any::<u32>()) {
            let n = strips * LANES;
            let lda = k + extra;
            let value = |i: usize| ((seed as usize + i * 7919) % 1000) as f32 / 500.0 - 1.0;
            let a: Vec<f32> = (0..rows * lda).map(value).collect();
            let b: Vec<f32> = (0..k * n).map(|i| value(i + 31)).collect();
            let start: Vec<f32> = (0..rows * n).map(|i| value(i + 77)).collect();
            let mut c = start.clone();
            multiply_add(&a, lda, k, &b, n, &mut c);
            for r in 0..rows {
                for j in 0..n {
                    let sum = (0..k).fold(start[r * n + j], |s, i| a[r * lda + i].mul_add(b[i * n + j], s));
                    prop_assert_eq!(c[r * n + j].to_bits(), sum.to_bits());
                }
            }
        }
    }
}
