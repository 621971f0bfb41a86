//! A latency distribution that can be stored, merged and summarised.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{
    Deserializer as HdrReader, Serializer as _, V2DeflateSerializer,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// Fewest samples for a p90 (one-sided 99 % confidence that it is bracketed).
pub const P90_MIN_N: u64 = 64;
/// Fewest samples for a p99 (likewise).
pub const P99_MIN_N: u64 = 662;

/// Smallest duration told apart from 0: 1 µs.
const LOW_NS: u64 = 1_000;
/// Longest duration held by the buckets: 1 h. Longer ones count as this in quantiles;
/// mean and maximum stay exact.
const HIGH_NS: u64 = 3_600_000_000_000;
/// Significant decimal digits.
const DIGITS: u8 = 3;

/// Durations in an HDR histogram (3 significant digits, 1 µs to 1 h), with exact count,
/// mean, deviation and extremes beside it.
///
/// Serialised as those figures and the histogram in its V2 deflate form as base64, which
/// other HDR tools read. Merging two gives what recording all samples into one would.
#[derive(Debug, Clone)]
pub struct LatencyHistogram {
    buckets: Histogram<u64>,
    mean_ns: f64,
    /// Sum of squared deviations from the mean, ns².
    squares: f64,
    min_ns: u64,
    max_ns: u64,
}

/// A latency distribution in figures, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencySummary {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation; absent for a single sample.
    pub sd: Option<f64>,
    /// Median.
    pub p50: f64,
    /// 90th percentile; absent below [`P90_MIN_N`] samples.
    pub p90: Option<f64>,
    /// 99th percentile; absent below [`P99_MIN_N`] samples.
    pub p99: Option<f64>,
    /// Longest.
    pub max: f64,
    /// Samples.
    pub n: u64,
}

/// A stored histogram that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stored latency histogram: {0}; the file was changed or cut")]
pub struct HistogramError(String);

/// Equal figures and equal counts in every bucket. (The buckets' own comparison also
/// looks at their extremes, which storing rounds.)
impl PartialEq for LatencyHistogram {
    fn eq(&self, other: &Self) -> bool {
        let counts = |h: &Self| -> Vec<(u64, u64)> {
            let recorded = h.buckets.iter_recorded();
            recorded
                .map(|b| (b.value_iterated_to(), b.count_at_value()))
                .collect()
        };
        let figures = |h: &Self| (h.mean_ns, h.squares, h.min_ns, h.max_ns);
        figures(self) == figures(other) && counts(self) == counts(other)
    }
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self {
            buckets: buckets(),
            mean_ns: 0.0,
            squares: 0.0,
            min_ns: u64::MAX,
            max_ns: 0,
        }
    }
}

fn buckets() -> Histogram<u64> {
    #[expect(
        clippy::expect_used,
        reason = "the bounds are constants that satisfy low ≥ 1, high ≥ 2·low, digits ≤ 5"
    )]
    Histogram::new_with_bounds(LOW_NS, HIGH_NS, DIGITS).expect("constant bounds are valid")
}

impl LatencyHistogram {
    /// Adds a sample.
    pub fn record(&mut self, duration_ns: u64) {
        self.record_n(duration_ns, 1);
    }

    /// Adds a sample `times` times.
    pub fn record_n(&mut self, duration_ns: u64, times: u64) {
        if times == 0 {
            return;
        }
        let before = self.n() as f64;
        self.buckets.saturating_record_n(duration_ns, times);
        // Welford (1962): stable where a sum of squares cancels.
        let delta = duration_ns as f64 - self.mean_ns;
        let share = times as f64 / self.n() as f64;
        self.mean_ns += delta * share;
        self.squares += delta * delta * before * share;
        self.min_ns = self.min_ns.min(duration_ns);
        self.max_ns = self.max_ns.max(duration_ns);
    }

    /// Adds all samples of another.
    pub fn merge(&mut self, other: &Self) {
        if other.n() == 0 {
            return;
        }
        // Chan, Golub and LeVeque (1983): combining means and squares of two samples.
        let (a, b) = (self.n() as f64, other.n() as f64);
        let delta = other.mean_ns - self.mean_ns;
        self.squares += other.squares + delta * delta * a * b / (a + b);
        self.mean_ns += delta * b / (a + b);
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        // Same bounds on both sides, so every bucket has its place.
        self.buckets += &other.buckets;
    }

    /// Samples.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.buckets.len()
    }

    /// The smallest recorded duration that at least the share `q` of all samples do not
    /// exceed, to three significant digits; `None` without samples.
    #[must_use]
    pub fn quantile_ns(&self, q: f64) -> Option<u64> {
        (self.n() > 0).then(|| {
            let bucket_end_ns = self.buckets.value_at_quantile(q);
            let longest_held_ns = self.max_ns.min(HIGH_NS);
            bucket_end_ns.clamp(self.min_ns.min(longest_held_ns), longest_held_ns)
        })
    }

    /// The same with `failed` further samples that took for ever, as goodput counts
    /// failures; `None` when the quantile falls among those, or nothing was recorded.
    #[must_use]
    pub fn quantile_ns_with_failures(&self, q: f64, failed: u64) -> Option<u64> {
        let all = (self.n() + failed) as f64;
        let rank = (q * all).ceil().max(1.0);
        let within = rank / self.n() as f64;
        (within <= 1.0).then(|| self.quantile_ns(within)).flatten()
    }

    /// The distribution in milliseconds; `None` without samples.
    #[must_use]
    pub fn summary(&self) -> Option<LatencySummary> {
        const NS_PER_MS: f64 = 1e6;
        let n = self.n();
        let quantile = |q, min_n| {
            (n >= min_n)
                .then(|| self.quantile_ns(q))
                .flatten()
                .map(|ns| ns as f64 / NS_PER_MS)
        };
        Some(LatencySummary {
            mean: self.mean_ns / NS_PER_MS,
            sd: (n > 1).then(|| (self.squares / (n - 1) as f64).sqrt() / NS_PER_MS),
            p50: quantile(0.5, 1)?,
            p90: quantile(0.9, P90_MIN_N),
            p99: quantile(0.99, P99_MIN_N),
            max: self.max_ns as f64 / NS_PER_MS,
            n,
        })
    }

    fn encode(&self) -> Result<Stored, String> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&self.buckets, &mut bytes)
            .map_err(|error| error.to_string())?;
        Ok(Stored {
            n: self.n(),
            mean_ns: self.mean_ns,
            squares_ns2: self.squares,
            min_ns: self.min_ns,
            max_ns: self.max_ns,
            hdr_v2_deflate_base64: STANDARD.encode(bytes),
        })
    }

    fn decode(stored: &Stored) -> Result<Self, HistogramError> {
        let bytes = STANDARD
            .decode(&stored.hdr_v2_deflate_base64)
            .map_err(|error| HistogramError(format!("not base64: {error}")))?;
        let read: Histogram<u64> = HdrReader::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| HistogramError(format!("not a V2 histogram: {error}")))?;
        if (read.low(), read.high(), read.sigfig()) != (LOW_NS, HIGH_NS, DIGITS) {
            return Err(HistogramError(format!(
                "bounds are {} to {} ns with {} digits",
                read.low(),
                read.high(),
                read.sigfig()
            )));
        }
        if read.len() != stored.n {
            return Err(HistogramError(format!(
                "{} samples are stated, {} are there",
                stored.n,
                read.len()
            )));
        }
        Ok(Self {
            buckets: read,
            mean_ns: stored.mean_ns,
            squares: stored.squares_ns2,
            min_ns: stored.min_ns,
            max_ns: stored.max_ns,
        })
    }
}

/// A distribution of times: an HDR histogram and exact moments beside it.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LatencyHistogram")]
struct Stored {
    /// Samples.
    n: u64,
    /// Their mean.
    mean_ns: f64,
    /// Sum of the squares of their deviations from it.
    squares_ns2: f64,
    /// The shortest.
    min_ns: u64,
    /// The longest.
    max_ns: u64,
    /// HDR histogram of nanoseconds, V2 with deflate, base64.
    hdr_v2_deflate_base64: String,
}

impl JsonSchema for LatencyHistogram {
    fn schema_name() -> Cow<'static, str> {
        Stored::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Stored::json_schema(generator)
    }
}

impl Serialize for LatencyHistogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.encode()
            .map_err(ser::Error::custom)?
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LatencyHistogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::decode(&Stored::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(samples: &[u64]) -> LatencyHistogram {
        let mut histogram = LatencyHistogram::default();
        samples.iter().for_each(|&ns| histogram.record(ns));
        histogram
    }

    /// Durations from 1 µs to a minute, spread over all magnitudes.
    fn durations() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec((3.0..10.78f64).prop_map(|e| 10f64.powf(e) as u64), 1..1500)
    }

    proptest! {
        /// Against exact figures from the sorted samples.
        #[test]
        fn figures_are_exact_to_three_digits(samples in durations(), q in 0.0..=1.0f64) {
            let histogram = of(&samples);
            let mut sorted = samples.clone();
            sorted.sort_unstable();
            let rank = ((q * sorted.len() as f64).ceil() as usize).max(1);
            let exact = sorted[rank - 1] as f64;
            let found = histogram.quantile_ns(q).unwrap() as f64;
            // A bucket is 512 ns wide at the bottom, where three digits end.
            prop_assert!((found - exact).abs() <= 1e-3 * exact + 512.0, "{found} {exact}");

            let n = samples.len() as f64;
            let mean = samples.iter().map(|&s| s as f64).sum::<f64>() / n;
            let squares = samples.iter().map(|&s| (s as f64 - mean).powi(2)).sum::<f64>();
            let summary = histogram.summary().unwrap();
            prop_assert!((summary.mean * 1e6 / mean - 1.0).abs() < 1e-9);
            prop_assert_eq!(summary.max, sorted[sorted.len() - 1] as f64 / 1e6);
            match summary.sd {
                Some(sd) => {
                    let exact = (squares / (n - 1.0)).sqrt();
                    prop_assert!((sd * 1e6 - exact).abs() <= 1e-6 * exact + 1e-3);
                }
                None => prop_assert_eq!(samples.len(), 1),
            }
        }

        #[test]
        fn recording_many_is_recording_one_by_one(
            samples in prop::collection::vec((1_000..1u64 << 36, 0..50u64), 1..30),
        ) {
            let mut many = LatencyHistogram::default();
            samples.iter().for_each(|&(ns, times)| many.record_n(ns, times));
            let singly: Vec<u64> = samples
                .iter()
                .flat_map(|&(ns, times)| vec![ns; times as usize])
                .collect();
            let singly = of(&singly);
            prop_assert_eq!(&many.buckets, &singly.buckets);
            prop_assert_eq!((many.min_ns, many.max_ns), (singly.min_ns, singly.max_ns));
            if let Some((m, s)) = many.summary().zip(singly.summary()) {
                prop_assert!((m.mean / s.mean - 1.0).abs() < 1e-12);
                let (m, s) = (m.sd.unwrap_or(0.0), s.sd.unwrap_or(0.0));
                prop_assert!((m - s).abs() <= 1e-9 * s + 1e-6, "{} {}", m, s);
            }
        }

        #[test]
        fn merging_is_recording_together(a in durations(), b in durations()) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            let together = of(&[a, b].concat());
            prop_assert_eq!(&merged.buckets, &together.buckets);
            let (m, t) = (merged.summary().unwrap(), together.summary().unwrap());
            prop_assert!((m.mean / t.mean - 1.0).abs() < 1e-9);
            prop_assert!((m.sd.unwrap() - t.sd.unwrap()).abs() <= 1e-6 * t.sd.unwrap());
            prop_assert_eq!((m.p50, m.max, m.n), (t.p50, t.max, t.n));
        }

        #[test]
        fn storing_loses_nothing(samples in durations()) {
            let histogram = of(&samples);
            let text = serde_json::to_string(&histogram).unwrap();
            let mut read: LatencyHistogram = serde_json::from_str(&text).unwrap();
            // JSON readers may be off in the last bit of a float.
            prop_assert!((read.mean_ns / histogram.mean_ns - 1.0).abs() < 1e-15);
            prop_assert!((read.squares - histogram.squares).abs() <= 1e-15 * histogram.squares);
            (read.mean_ns, read.squares) = (histogram.mean_ns, histogram.squares);
            prop_assert_eq!(&read, &histogram);
            read.merge(&histogram);
            prop_assert_eq!(read.n(), 2 * histogram.n());
        }
    }

    #[test]
    fn percentiles_need_samples() {
        let p = |n: u64| {
            let summary = of(&vec![5_000_000; n as usize]).summary().unwrap();
            (summary.p90.is_some(), summary.p99.is_some())
        };
        assert_eq!(LatencyHistogram::default().summary(), None);
        assert_eq!(p(63), (false, false));
        assert_eq!(p(64), (true, false));
        assert_eq!(p(661), (true, false));
        assert_eq!(p(662), (true, true));
    }

    #[test]
    fn failures_push_quantiles_to_infinity() {
        let histogram = of(&[10_000_000; 90]);
        assert_eq!(
            histogram.quantile_ns_with_failures(0.9, 10),
            Some(10_000_000)
        );
        assert_eq!(histogram.quantile_ns_with_failures(0.91, 10), None);
        assert_eq!(
            LatencyHistogram::default().quantile_ns_with_failures(0.5, 3),
            None
        );
    }

    #[test]
    fn beyond_an_hour_only_quantiles_saturate() {
        let histogram = of(&[2 * HIGH_NS]);
        assert_eq!(histogram.quantile_ns(0.5), Some(HIGH_NS));
        assert_eq!(histogram.summary().unwrap().max, 7_200_000.0);
    }

    #[test]
    fn damaged_text_is_refused() {
        let mut stored = of(&[5_000, 7_000]).encode().unwrap();
        stored.n = 3;
        let error = LatencyHistogram::decode(&stored).unwrap_err().to_string();
        assert!(
            error.contains("3 samples are stated, 2 are there"),
            "{error}"
        );
        stored.hdr_v2_deflate_base64.truncate(20);
        assert!(LatencyHistogram::decode(&stored).is_err());
        stored.hdr_v2_deflate_base64 = "???".into();
        assert!(LatencyHistogram::decode(&stored).is_err());
    }
}
