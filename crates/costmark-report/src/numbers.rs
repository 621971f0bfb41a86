//! Numbers as people read them in a table.

use costmark_core::Interval;

/// Three significant digits, never in powers of ten: `0.0123`, `4.56`, `78.9`, `12,345`.
#[must_use]
pub fn short(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let size = value.abs();
    let decimals = if size == 0.0 || size >= 99.95 {
        0
    } else {
        // 10^k ≤ size < 10^(k+1) needs 2 − k decimals for three digits.
        (2 - size.log10().floor() as i32).clamp(0, 8) as usize
    };
    let text = format!("{value:.decimals$}");
    if decimals > 0 || size < 9_999.5 {
        return text;
    }
    let (sign, digits) = text
        .strip_prefix('-')
        .map_or(("", text.as_str()), |d| ("-", d));
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}")
}

/// US dollars: three significant digits, but cents from a dollar to a hundred: `$0.0123`,
/// `$4.56`, `$19.60`, `$123`.
#[must_use]
pub fn usd(value: f64) -> String {
    match value.abs() {
        1.0..99.995 => format!("${value:.2}"),
        _ => format!("${}", short(value)),
    }
}

/// A share as a percentage.
#[must_use]
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    if value.abs() >= 9.95 {
        format!("{value:.0} %")
    } else {
        format!("{value:.1} %")
    }
}

/// The ends of an interval, `1.23–1.31`; nothing where there is no interval.
#[must_use]
pub fn ends(interval: &Interval) -> String {
    match (interval.low, interval.high) {
        (Some(low), Some(high)) => format!("{}–{}", short(low), short(high)),
        (Some(low), None) => format!("≥{}", short(low)),
        (None, Some(high)) => format!("≤{}", short(high)),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.001_234, "0.00123"),
            (0.999_9, "1.000"),
            (1.0, "1.00"),
            (9.994, "9.99"),
            (45.678, "45.7"),
            (99.96, "100"),
            (1234.4, "1234"),
            (12_345.6, "12,346"),
            (-12_345_678.0, "-12,345,678"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn dollars() {
        for (value, text) in [
            (0.012_34, "$0.0123"),
            (2.5, "$2.50"),
            (19.6, "$19.60"),
            (99.996, "$100"),
            (1234.0, "$1234"),
        ] {
            assert_eq!(usd(value), text);
        }
    }

    #[test]
    fn intervals() {
        assert_eq!(ends(&Interval::new(1.0, 0.9, 1.1)), "0.900–1.10");
        assert_eq!(ends(&Interval::point(1.0)), "");
    }

    #[test]
    fn shares() {
        assert_eq!(percent(0.0123), "1.2 %");
        assert_eq!(percent(0.714), "71 %");
    }
}
