//! How much more or less one thing has of a figure than another, and how sure that is.

use costmark_core::Interval;
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::repeats::median_to_mean;

/// Two-sided confidence of intervals.
const CONFIDENCE: f64 = 0.95;

/// A 95 % interval around `ratio`, the ratio of two medians, from the repeats behind them.
///
/// Welch's t-interval for the difference of the means of logarithms (Welch 1947), with each
/// side's standard error widened to that of a median ([`median_to_mean`]), turned back into a
/// factor: the repeats of each side may scatter differently, and swapping the sides gives the
/// reciprocal. `None` when a side has fewer than two repeats, or when a figure is
/// not positive and finite.
#[must_use]
pub fn ratio_interval(ratio: f64, baseline: &[f64], other: &[f64]) -> Option<Interval> {
    let positive = |value: f64| value.is_finite() && value > 0.0;
    if !positive(ratio) {
        return None;
    }
    let (a, b) = (log_mean_square(baseline)?, log_mean_square(other)?);
    let (squared, freedom) = (
        a.squared_error + b.squared_error,
        a.squared_error.powi(2) / a.freedom + b.squared_error.powi(2) / b.freedom,
    );
    // Repeats without any scatter (virtual time) leave no doubt.
    let half_width = if squared > 0.0 {
        let freedom = squared * squared / freedom;
        let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
        t.inverse_cdf(f64::midpoint(1.0, CONFIDENCE)) * squared.sqrt()
    } else {
        0.0
    };
    let factor = half_width.exp();
    Some(Interval::new(ratio, ratio / factor, ratio * factor))
}

struct Scatter {
    /// Square of the standard error of the median of the logarithms.
    squared_error: f64,
    freedom: f64,
}

fn log_mean_square(values: &[f64]) -> Option<Scatter> {
    let positive = values.iter().all(|v| v.is_finite() && *v > 0.0);
    if values.len() < 2 || !positive {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().map(|v| v.ln()).sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v.ln() - mean).powi(2)).sum();
    Some(Scatter {
        squared_error: squares / (n - 1.0) / n * median_to_mean(values.len()).powi(2),
        freedom: n - 1.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, on logarithms 0, 0.1, 0.2 and 1.0, 1.2, 1.4: variances 0.01 and 0.04, so the
    /// standard error is √(0.05/3) and the degrees of freedom
    /// (0.05/3)² / ((0.01/3)²/2 + (0.04/3)²/2) = 2.941; t(2.941) at 97.5 % is 3.21876
    /// (its density integrated by Simpson's rule). As many repeats on both sides, so the factor
    /// of a median stands before the root.
    #[test]
    fn three_against_three() {
        let a: Vec<f64> = [0.0f64, 0.1, 0.2].iter().map(|x| x.exp()).collect();
        let b: Vec<f64> = [1.0f64, 1.2, 1.4].iter().map(|x| x.exp()).collect();
        let ratio = 1.1f64.exp();
        let interval = ratio_interval(ratio, &a, &b).unwrap();
        let half_width = T_2_941 * median_to_mean(3) * (0.05f64 / 3.0).sqrt();
        assert!((interval.low.unwrap().ln() - (1.1 - half_width)).abs() < 1e-4);
        assert!((interval.high.unwrap().ln() - (1.1 + half_width)).abs() < 1e-4);
        let back = ratio_interval(1.0 / ratio, &b, &a).unwrap();
        assert!((back.low.unwrap() * interval.high.unwrap() - 1.0).abs() < 1e-12);
    }
    const T_2_941: f64 = 3.218_76;

    #[test]
    fn what_has_no_scatter_is_sure_and_what_has_no_repeats_is_not() {
        let sure = ratio_interval(2.0, &[1.0, 1.0], &[2.0, 2.0]).unwrap();
        assert_eq!((sure.low, sure.high), (Some(2.0), Some(2.0)));
        assert_eq!(ratio_interval(2.0, &[1.0], &[2.0, 2.0]), None);
        assert_eq!(ratio_interval(2.0, &[0.0, 1.0], &[2.0, 2.0]), None);
        assert_eq!(ratio_interval(f64::NAN, &[1.0, 1.0], &[2.0, 2.0]), None);
    }

    /// Of pairs of samples from one distribution about 95 % must have 1 in their interval.
    #[test]
    fn equal_things_are_seldom_told_apart() {
        let mut state = 7u64;
        // A multiplicative generator; twelve uniforms make a normal variate.
        let mut normal = || {
            (0..12)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    (state >> 11) as f64 / (1u64 << 53) as f64
                })
                .sum::<f64>()
                - 6.0
        };
        let mut told = 0;
        for _ in 0..4000 {
            let mut draw = || -> Vec<f64> { (0..5).map(|_| (0.05 * normal()).exp()).collect() };
            let (a, b) = (draw(), draw());
            let median = |v: &[f64]| {
                let mut v = v.to_vec();
                v.sort_by(f64::total_cmp);
                v[v.len() / 2]
            };
            let ratio = median(&b) / median(&a);
            let interval = ratio_interval(ratio, &a, &b).unwrap();
            told += usize::from(interval.low.unwrap() > 1.0 || interval.high.unwrap() < 1.0);
        }
        let share = f64::from(u32::try_from(told).unwrap()) / 4000.0;
        assert!((0.03..0.06).contains(&share), "{share}");
    }
}
