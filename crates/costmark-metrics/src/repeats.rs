//! Uncertainty from repeats.

use costmark_core::Interval;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Two-sided confidence of intervals.
const CONFIDENCE: f64 = 0.95;

/// The median over repeats with a 95 % t-interval: median ± t(n−1) · s/√n, where s is the
/// sample standard deviation. The figures are rates and times, so the lower end stops at
/// 0. A single repeat has no interval; `None` without repeats.
#[must_use]
pub fn interval_over_repeats(values: &[f64]) -> Option<Interval> {
    let median = median(values)?;
    let Some(sd) = sample_sd(values) else {
        return Some(Interval::point(median));
    };
    let n = values.len() as f64;
    let t = StudentsT::new(0.0, 1.0, n - 1.0)
        .map(|t| t.inverse_cdf(f64::midpoint(1.0, CONFIDENCE)))
        .ok()?;
    let half_width = t * sd / n.sqrt();
    Some(Interval::new(
        median,
        (median - half_width).max(0.0),
        median + half_width,
    ))
}

/// Coefficient of variation: sample standard deviation over mean. `None` for fewer than
/// two values or a mean of 0.
#[must_use]
pub fn cv(values: &[f64]) -> Option<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    sample_sd(values)
        .filter(|_| mean != 0.0)
        .map(|sd| sd / mean.abs())
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[sorted.len() / 2 - 1], upper)
    } else {
        upper
    })
}

fn sample_sd(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    Some((squares / (n - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// t(2) at 97.5 % is 4.30265 (any table of Student's t).
    #[test]
    fn three_repeats_by_hand() {
        let interval = interval_over_repeats(&[100.0, 104.0, 98.0]).unwrap();
        let sd = (28.0f64 / 3.0).sqrt(); // mean 302/3, squares 18.667
        let half_width = 4.302_65 * sd / 3f64.sqrt();
        assert_eq!(interval.value, 100.0);
        assert!((interval.low.unwrap() - (100.0 - half_width)).abs() < 1e-4);
        assert!((interval.high.unwrap() - (100.0 + half_width)).abs() < 1e-4);
        let cv = cv(&[100.0, 104.0, 98.0]).unwrap();
        assert!((cv - sd / (302.0 / 3.0)).abs() < 1e-12);
    }

    #[test]
    fn too_few_repeats_have_no_interval() {
        assert_eq!(interval_over_repeats(&[]), None);
        assert_eq!(interval_over_repeats(&[7.0]), Some(Interval::point(7.0)));
        assert_eq!((cv(&[7.0]), cv(&[0.0, 0.0])), (None, None));
        assert_eq!(interval_over_repeats(&[1.0, 3.0]).unwrap().value, 2.0);
        assert_eq!(interval_over_repeats(&[1.0, 3.0]).unwrap().low, Some(0.0));
    }
}
