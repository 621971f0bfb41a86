//! Element-wise functions the compiler can vectorise.

/// 1.5 · 2^23: adding it rounds to an integer in the low mantissa bits.
pub(crate) const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, the first of few bits: its products with small integers are exact.
pub(crate) const LN2_HIGH: f32 = 0.693_359_4;
/// See [`LN2_HIGH`].
pub(crate) const LN2_LOW: f32 = -2.121_944_4e-4;
/// Taylor coefficients of `e^r`, the highest power first.
pub(crate) const TAYLOR: [f32; 8] = [
    1.0 / 5040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// `e^x` of each element, within 2e-7 relative; 0 below -87 (where f32 results would be
/// denormal), infinite above 88.7.
///
/// Splits `x = n ln 2 + r` with `|r| ≤ ln 2 / 2`, takes a degree-7 Taylor polynomial in
/// `r` and multiplies by `2^n` through the exponent bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.0, 88.0);
    let rounded = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let p = TAYLOR[1..].iter().fold(TAYLOR[0], |p, c| r.mul_add(p, *c));
    let exponent = rounded
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    let result = p * f32::from_bits(exponent);
    // Comparisons are false for NaN, which must come out as NaN.
    if x < -87.0 {
        0.0
    } else if x <= 88.0 {
        result
    } else {
        // Above 88, and NaN.
        x * f32::INFINITY
    }
}

/// `x · sigmoid(x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Sum of `f` over the elements, in eight interleaved partial sums: one chain of additions
/// could not be vectorised.
#[inline(always)]
pub fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0f32; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for (sum, v) in sums.iter_mut().zip(chunk) {
            *sum += f(*v);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|v| f(*v)).sum::<f32>()
}

/// `x / sqrt(mean(x²) + eps) · weight`, in place.
#[inline]
pub fn rms_norm(x: &mut [f32], weight: &[f32], eps: f64) {
    let mean = sum_of(x, |v| v * v) / x.len() as f32;
    let factor = (mean + eps as f32).sqrt().recip();
    for (v, w) in x.iter_mut().zip(weight) {
        *v = *v * factor * w;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exp_is_close(x in -87f32..88.0) {
            let exact = f64::from(x).exp();
            prop_assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2e-7, "{x}");
        }

        #[test]
        fn silu_is_close(x in -100f32..100.0) {
            let exact = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            prop_assert!((f64::from(silu(x)) - exact).abs() <= 4e-7 * exact.abs() + 1e-30);
        }
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert!(silu(f32::NAN).is_nan());
        assert_eq!(silu(f32::NEG_INFINITY.max(-1e30)), 0.0);
    }

    #[test]
    fn norm_of_a_known_vector() {
        let mut x = [3.0, 4.0];
        rms_norm(&mut x, &[1.0, 2.0], 0.0);
        let root = 12.5f32.sqrt();
        assert!((x[0] - 3.0 / root).abs() < 1e-6 && (x[1] - 8.0 / root).abs() < 1e-6);
    }
}
