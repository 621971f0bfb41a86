//! How far a mean over one run can be trusted, though its samples depend on each other.

use costmark_core::{Interval, RequestRecord};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::unit::UnitInput;
use crate::window::Window;

/// Two-sided confidence of intervals.
const CONFIDENCE: f64 = 0.95;
/// Resamples per interval.
const RESAMPLES: usize = 1_000;
/// Fewest values that are resampled.
const MIN_VALUES: usize = 20;
/// Longer series are first averaged over neighbours, to this many values or some more: the
/// mean's error is made of what lies far apart, and resampling costs the same for any length.
const MAX_VALUES: usize = 10_000;
/// Parts the window is cut into for rates.
const RATE_BINS: usize = 200;

/// Variability within one unit: 95 % intervals of the moving-block bootstrap.
///
/// They say how sharp this unit's own figures are. What differs from repeat to repeat (clock
/// frequencies, neighbours, memory layout) they cannot see:
/// [`interval_over_repeats`](crate::interval_over_repeats) does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WithinUnit {
    /// Output tokens per second, from 200 equal parts of the window.
    pub output_tok_per_s: Interval,
    /// Mean time to first token, user clock, of requests in the order they were due, ms.
    pub user_ttft_mean_ms: Option<Interval>,
}

impl WithinUnit {
    /// Of the records of a unit and its window. `None` for a window of no length. The same
    /// records give the same intervals: the seed is fixed.
    #[must_use]
    pub fn of(input: &UnitInput<'_>, window: &Window) -> Option<Self> {
        let rates = rates(input.requests.iter().chain(input.background), window)?;
        let mut measured: Vec<&RequestRecord> = input.requests.iter().collect();
        measured.sort_unstable_by_key(|r| (r.scheduled_ns, r.id));
        let ttfts: Vec<f64> = measured
            .iter()
            .filter_map(|r| Some(r.token_ns.first()?.saturating_sub(r.scheduled_ns) as f64 / 1e6))
            .collect();
        Some(Self {
            output_tok_per_s: mean_by_blocks(&rates)?,
            user_ttft_mean_ms: mean_by_blocks(&ttfts),
        })
    }
}

/// Output tokens per second in each part of the window.
fn rates<'a>(
    records: impl Iterator<Item = &'a RequestRecord>,
    window: &Window,
) -> Option<Vec<f64>> {
    let length_ns = window
        .end_ns
        .checked_sub(window.start_ns)
        .filter(|&n| n > 0)?;
    let mut bins = vec![0u64; RATE_BINS];
    let bin_of = |at_ns: u64| {
        let share = u128::from(at_ns - window.start_ns - 1) * RATE_BINS as u128;
        (share / u128::from(length_ns)) as usize
    };
    // The last instant of a bin; exact, as `bin_of` is.
    let end_of = |bin: usize| {
        let share = (u128::from(length_ns) * (bin as u128 + 1)).div_ceil(RATE_BINS as u128);
        window.start_ns + share as u64
    };
    for record in records {
        if !record.event_tokens.is_empty() {
            for (at_ns, tokens) in record.token_events().filter(|e| window.contains(e.0)) {
                bins[bin_of(at_ns)] += u64::from(tokens);
            }
            continue;
        }
        for span in record.token_ns.spans() {
            // From bin to bin, not from token to token.
            let mut done = span.until(window.start_ns);
            let inside = span.until(window.end_ns);
            while done < inside {
                let bin = bin_of(span.first_ns + u64::from(done) * span.gap_ns);
                let until = span.until(end_of(bin)).min(inside);
                bins[bin] += u64::from(until - done);
                done = until;
            }
        }
    }
    let bin_s = window.seconds / RATE_BINS as f64;
    Some(
        bins.into_iter()
            .map(|tokens| tokens as f64 / bin_s)
            .collect(),
    )
}

/// The mean of a series with a 95 % interval by the moving-block bootstrap (Künsch, 1989):
/// series of the same length are put together from blocks of successive values, drawn with
/// replacement; the interval is the mean plus the central 95 % of the deviations of their
/// means from the average of these. Blocks are as long as [`block_length`] says, so that
/// dependence between neighbours survives in them.
///
/// Series of 20,000 values and more are first averaged over equal batches of neighbours.
/// Fewer than 20 values have no interval; `None` without any.
#[must_use]
pub fn mean_by_blocks(series: &[f64]) -> Option<Interval> {
    let n = series.len();
    if n == 0 {
        return None;
    }
    let mean = series.iter().sum::<f64>() / n as f64;
    if n < MIN_VALUES {
        return Some(Interval::point(mean));
    }
    if n >= 2 * MAX_VALUES {
        // What is left over at the end, under one part in 10,000, counts in the mean alone.
        let batches: Vec<f64> = series
            .chunks_exact(n / MAX_VALUES)
            .map(|batch| batch.iter().sum::<f64>() / batch.len() as f64)
            .collect();
        let around = mean_by_blocks(&batches)?;
        let end = |end: Option<f64>| end.map(|end| mean + end - around.value);
        return Some(Interval {
            value: mean,
            low: end(around.low),
            high: end(around.high),
        });
    }
    let length = block_length(series);
    // Sums of blocks from sums up to each value: a resample costs n / length additions.
    let mut up_to = Vec::with_capacity(n + 1);
    up_to.push(0.0);
    for value in series {
        up_to.push(up_to[up_to.len() - 1] + value - mean);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut draw = |length: usize| {
        let begin = rng.random_range(0..=n - length);
        up_to[begin + length] - up_to[begin]
    };
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let whole: f64 = (0..n / length).map(|_| draw(length)).sum();
            let rest = n % length;
            let rest = if rest > 0 { draw(rest) } else { 0.0 };
            (whole + rest) / n as f64
        })
        .collect();
    // Values near the ends are in fewer blocks than others: centre.
    let centre = means.iter().sum::<f64>() / RESAMPLES as f64;
    means.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| means[(share * (RESAMPLES - 1) as f64).round() as usize] - centre;
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Some(Interval::new(mean, mean + at(tail), mean + at(1.0 - tail)))
}

/// The block length that makes the bootstrap's variance of a mean most accurate, estimated
/// from the series' autocovariances by the rule of Politis and White (2004), with the
/// constant for overlapping blocks (4/3) and the bounds of Patton, Politis and White (2009).
/// At least 1, at most a third of the series.
#[must_use]
pub fn block_length(series: &[f64]) -> usize {
    let n = series.len();
    let longest = (n / 3)
        .min((3.0 * (n as f64).sqrt()).ceil() as usize)
        .max(1);
    let mean = series.iter().sum::<f64>() / (n as f64).max(1.0);
    let autocovariance = |lag: usize| {
        let products = series.iter().zip(series.get(lag..).unwrap_or_default());
        products.map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / n as f64
    };
    let variance = autocovariance(0);
    if n < MIN_VALUES || variance <= 0.0 {
        return 1;
    }
    // The lag after which a run of autocorrelations is within noise.
    let log_n = (n as f64).log10();
    let run = (log_n.sqrt().ceil() as usize).max(5);
    let noise = 2.0 * (log_n / n as f64).sqrt();
    let last = ((n as f64).sqrt().ceil() as usize + run).min(n - 1);
    let covariances: Vec<f64> = (1..=last).map(autocovariance).collect();
    let is_quiet = |c: &f64| c.abs() / variance < noise;
    let m = covariances
        .windows(run)
        .position(|lags| lags.iter().all(is_quiet))
        .unwrap_or_else(|| {
            covariances
                .iter()
                .rposition(|c| !is_quiet(c))
                .map_or(0, |i| i + 1)
        });
    let bandwidth = (2 * m.max(1)).min(last);
    // Flat-top weights: 1 up to half the bandwidth, then down to 0 in a straight line.
    let weight = |lag: usize| (2.0 * (1.0 - lag as f64 / bandwidth as f64)).clamp(0.0, 1.0);
    let (mut spectrum, mut curvature) = (variance, 0.0);
    for lag in 1..=bandwidth {
        let weighted = 2.0 * weight(lag) * covariances[lag - 1];
        spectrum += weighted;
        curvature += lag as f64 * weighted;
    }
    let spread = 4.0 / 3.0 * spectrum * spectrum;
    let best = (2.0 * curvature * curvature / spread).cbrt() * (n as f64).cbrt();
    // Not a number when the spectrum vanishes: then there is nothing to keep together.
    (best.ceil() as usize).clamp(1, longest)
}

#[cfg(test)]
mod tests {
    use costmark_core::{FinishReason, Outcome, Span, TokenTimes};
    use proptest::prelude::*;

    use super::*;

    /// `x ← memory · x + noise`, uniform noise of variance 1/3, after it has settled.
    fn series(memory: f64, n: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
        let mut value = 0.0;
        let mut next = || {
            value = memory * value + rng.random_range(-1.0..1.0);
            value
        };
        for _ in 0..500 {
            next();
        }
        (0..n).map(|_| next() + 10.0).collect()
    }

    /// Share of intervals that hold the true mean.
    fn coverage(memory: f64, n: usize) -> f64 {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let runs = 600;
        let held = (0..runs)
            .filter(|_| {
                let found = mean_by_blocks(&series(memory, n, &mut rng)).expect("a mean");
                found.low.is_some_and(|low| low <= 10.0) && found.high.is_some_and(|h| h >= 10.0)
            })
            .count();
        held as f64 / f64::from(runs)
    }

    #[test]
    fn intervals_hold_the_true_mean_as_often_as_stated() {
        let independent = coverage(0.0, 400);
        assert!((0.92..0.98).contains(&independent), "{independent}");
        for (memory, n) in [(0.3, 1_000), (0.6, 2_000)] {
            let dependent = coverage(memory, n);
            assert!((0.92..0.98).contains(&dependent), "{memory}: {dependent}");
        }
    }

    #[test]
    fn width_grows_with_dependence_as_theory_says() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for memory in [0.0f64, 0.5, 0.8] {
            let n = 4_000;
            let widths: Vec<f64> = (0..20)
                .map(|_| {
                    let found = mean_by_blocks(&series(memory, n, &mut rng)).expect("a mean");
                    found.high.unwrap_or(0.0) - found.low.unwrap_or(0.0)
                })
                .collect();
            let width = widths.iter().sum::<f64>() / 20.0;
            // Deviation of a mean: that of the noise over 1 − memory, over √n.
            let deviation = (1.0f64 / 3.0).sqrt() / (1.0 - memory) / (n as f64).sqrt();
            let ratio = width / (2.0 * 1.96 * deviation);
            assert!((0.85..1.1).contains(&ratio), "{memory}: {ratio}");
        }
    }

    #[test]
    fn batches_of_neighbours_change_little() {
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        let long = series(0.7, 40_000, &mut rng);
        let found = mean_by_blocks(&long).expect("a mean");
        assert!((found.value - long.iter().sum::<f64>() / 40_000.0).abs() < 1e-9);
        let width = found.high.zip(found.low).map(|(high, low)| high - low);
        // Deviation of the mean: √(1/3) / 0.3 / 200.
        let expected = 2.0 * 1.96 * (1.0f64 / 3.0).sqrt() / 0.3 / 200.0;
        let ratio = width.expect("an interval") / expected;
        assert!((0.85..1.15).contains(&ratio), "{ratio}");
    }

    #[test]
    fn blocks_lengthen_with_dependence() {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let lengths = [0.0, 0.5, 0.9].map(|memory| block_length(&series(memory, 2_000, &mut rng)));
        assert!(lengths[0] <= 5, "{lengths:?}");
        assert!(lengths.is_sorted() && lengths[2] > 15, "{lengths:?}");
        assert_eq!(block_length(&[1.0; 50]), 1);
        assert_eq!(block_length(&[]), 1);
    }

    proptest! {
        /// Against placing every token for itself.
        #[test]
        fn rates_count_every_token_in_its_part(
            streams in prop::collection::vec((0..900u64, 0..30u64, 1..40u32), 1..20),
            (start_ns, length_ns) in (0..300u64, 1..1_500u64),
        ) {
            let record = |&(first_ns, gap_ns, events): &(u64, u64, u32)| {
                let mut token_ns = TokenTimes::new();
                token_ns.extend(Span { first_ns, gap_ns, events });
                RequestRecord {
                    id: 0,
                    turn: None,
                    scheduled_ns: 0,
                    sent_ns: 0,
                    token_ns,
                    event_tokens: Vec::new(),
                    finished_ns: 0,
                    input_tokens: 1,
                    cached_tokens: 0,
                    output_tokens: events,
                    output_hash: None,
                    outcome: Outcome::Finished(FinishReason::Length),
                }
            };
            let records: Vec<_> = streams.iter().map(record).collect();
            let window = Window::find(&records, None, start_ns, start_ns + length_ns);
            let found = rates(records.iter(), &window).expect("a window");
            let mut expected = vec![0u32; RATE_BINS];
            for at_ns in records.iter().flat_map(|r| r.token_ns.iter()) {
                if window.contains(at_ns) {
                    let share = (at_ns - start_ns - 1) as f64 / length_ns as f64;
                    expected[(share * RATE_BINS as f64 + 1e-9) as usize] += 1;
                }
            }
            let bin_s = window.seconds / RATE_BINS as f64;
            let found: Vec<u32> = found.iter().map(|r| (r * bin_s).round() as u32).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn few_values_have_no_interval() {
        assert_eq!(mean_by_blocks(&[]), None);
        assert_eq!(mean_by_blocks(&[1.0, 3.0]), Some(Interval::point(2.0)));
        let same = mean_by_blocks(&[4.0; 30]);
        assert_eq!(same, Some(Interval::new(4.0, 4.0, 4.0)));
    }
}
