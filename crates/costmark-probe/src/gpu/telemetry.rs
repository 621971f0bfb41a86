//! What a GPU does over a stretch of time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{GpuReading, GpuSource, Throttled};
use crate::telemetry::value_at;

/// A GPU at one moment. What the driver does not tell is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuSample {
    /// When, on the run's clock.
    pub at_ns: u64,
    /// Energy since the first sample, J.
    pub joules: Option<f64>,
    /// Power, W.
    pub power_w: Option<f64>,
    /// Clock of the multiprocessors, MHz.
    pub sm_mhz: Option<f64>,
    /// Clock of the memory, MHz.
    pub memory_mhz: Option<f64>,
    /// Temperature, °C.
    pub temperature_c: Option<f64>,
    /// Memory in use by whomever, bytes.
    pub used_bytes: Option<u64>,
    /// Why clocks are lower than they could be.
    pub throttled: Option<Throttled>,
    /// Other processes that hold memory of it.
    pub others: Option<u32>,
}

/// Takes samples; goes to the thread that samples.
pub struct GpuSampler {
    source: Box<dyn GpuSource>,
    index: u32,
    first_joules: Option<f64>,
    samples: Arc<Mutex<Vec<GpuSample>>>,
}

/// What was sampled.
#[derive(Debug, Clone)]
pub struct GpuRecord(Arc<Mutex<Vec<GpuSample>>>);

/// For the GPU of this index of a source.
#[must_use]
pub fn watch(source: Box<dyn GpuSource>, index: u32) -> (GpuSampler, GpuRecord) {
    let samples = Arc::new(Mutex::new(Vec::new()));
    let sampler = GpuSampler {
        source,
        index,
        first_joules: None,
        samples: Arc::clone(&samples),
    };
    (sampler, GpuRecord(samples))
}

fn lock(samples: &Mutex<Vec<GpuSample>>) -> MutexGuard<'_, Vec<GpuSample>> {
    samples.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GpuSampler {
    /// Takes a sample and keeps it.
    pub fn sample(&mut self, at_ns: u64) -> GpuSample {
        let GpuReading {
            joules,
            power_w,
            sm_mhz,
            memory_mhz,
            temperature_c,
            used_bytes,
            throttled,
            others,
        } = self.source.read(self.index);
        self.first_joules = self.first_joules.or(joules);
        let sample = GpuSample {
            at_ns,
            joules: joules
                .zip(self.first_joules)
                .map(|(now, first)| now - first),
            power_w,
            sm_mhz,
            memory_mhz,
            temperature_c,
            used_bytes,
            throttled,
            others,
        };
        lock(&self.samples).push(sample);
        sample
    }
}

impl GpuRecord {
    /// The GPU in a window of the run's clock; `None` if it was not sampled over all of it.
    #[must_use]
    pub fn summary(&self, start_ns: u64, end_ns: u64) -> Option<GpuSummary> {
        GpuSummary::of(&lock(&self.0), start_ns, end_ns)
    }
}

/// A GPU over a window. Energy at the window's ends is interpolated between the samples around
/// them; means and extremes are of the samples inside.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuSummary {
    /// Samples inside.
    pub samples: u64,
    /// Energy by the GPU's own counter, J.
    pub joules: Option<f64>,
    /// Mean power: energy over time where there is a counter, else the samples' mean; W.
    pub power_w: Option<f64>,
    /// Mean clock of the multiprocessors, MHz.
    pub sm_mhz: Option<f64>,
    /// Lowest such clock, MHz.
    pub min_sm_mhz: Option<f64>,
    /// Highest temperature, °C.
    pub max_temperature_c: Option<f64>,
    /// Most memory in use by whomever, bytes.
    pub max_used_bytes: Option<u64>,
    /// Share of samples in which the power limit held clocks down.
    pub power_throttled_share: Option<f64>,
    /// Share of samples in which heat did.
    pub heat_throttled_share: Option<f64>,
    /// Share of samples in which hardware did.
    pub hardware_throttled_share: Option<f64>,
    /// Most other processes that held memory of it.
    pub max_others: Option<u32>,
}

impl GpuSummary {
    /// Of samples in order of time; `None` unless they reach over the whole window.
    #[must_use]
    pub fn of(samples: &[GpuSample], start_ns: u64, end_ns: u64) -> Option<Self> {
        let reaches = samples.first()?.at_ns <= start_ns && end_ns <= samples.last()?.at_ns;
        if !reaches || end_ns <= start_ns {
            return None;
        }
        let inside: Vec<&GpuSample> = samples
            .iter()
            .filter(|s| start_ns <= s.at_ns && s.at_ns <= end_ns)
            .collect();
        let all = |of: fn(&GpuSample) -> Option<f64>| -> Vec<f64> {
            inside.iter().filter_map(|s| of(s)).collect()
        };
        let share = |of: fn(Throttled) -> bool| {
            let known: Vec<Throttled> = inside.iter().filter_map(|s| s.throttled).collect();
            let held = known.iter().filter(|t| of(**t)).count();
            (!known.is_empty()).then(|| held as f64 / known.len() as f64)
        };
        let joules_at = |at_ns| value_at(samples, at_ns, &|s| s.at_ns, &|s| s.joules);
        let joules = joules_at(end_ns)
            .zip(joules_at(start_ns))
            .map(|(end, start)| end - start);
        let window_s = (end_ns - start_ns) as f64 / 1e9;
        Some(Self {
            samples: inside.len() as u64,
            joules,
            power_w: joules
                .map(|joules| joules / window_s)
                .or_else(|| mean(&all(|s| s.power_w))),
            sm_mhz: mean(&all(|s| s.sm_mhz)),
            min_sm_mhz: all(|s| s.sm_mhz).into_iter().reduce(f64::min),
            max_temperature_c: all(|s| s.temperature_c).into_iter().reduce(f64::max),
            max_used_bytes: inside.iter().filter_map(|s| s.used_bytes).max(),
            power_throttled_share: share(|t| t.power),
            heat_throttled_share: share(|t| t.heat),
            hardware_throttled_share: share(|t| t.hardware),
            max_others: inside.iter().filter_map(|s| s.others).max(),
        })
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Gpu, GpuError};

    /// A GPU that draws 300 W, and from its third reading on is held down by its power limit.
    struct Fake {
        counts: bool,
        reading: std::cell::Cell<u32>,
    }

    impl GpuSource for Fake {
        fn gpus(&self) -> Result<Vec<Gpu>, GpuError> {
            Err(GpuError::NoDriver("a fake".into()))
        }

        fn read(&self, index: u32) -> GpuReading {
            let n = self.reading.get();
            self.reading.set(n + 1);
            let held = n >= 2;
            GpuReading {
                joules: self.counts.then(|| 5e6 + 30.0 * f64::from(n)),
                power_w: Some(300.0),
                sm_mhz: Some(if held { 1500.0 } else { 1980.0 }),
                temperature_c: Some(60.0 + f64::from(n)),
                used_bytes: Some(1 << 30),
                throttled: Some(Throttled {
                    power: held,
                    ..Throttled::default()
                }),
                others: Some(u32::from(n == 3) * index),
                ..GpuReading::default()
            }
        }
    }

    fn sampled(counts: bool) -> GpuRecord {
        let fake = Fake {
            counts,
            reading: std::cell::Cell::new(0),
        };
        let (mut sampler, record) = watch(Box::new(fake), 7);
        for n in 0..5 {
            sampler.sample(n * 100_000_000);
        }
        record
    }

    #[test]
    fn energy_is_the_counters_and_what_disturbs_is_told() {
        let record = sampled(true);
        // 300 W for 0.25 s, from between samples to between samples.
        let seen = record.summary(50_000_000, 300_000_000).unwrap();
        assert!((seen.joules.unwrap() - 75.0).abs() < 1e-6);
        assert!((seen.power_w.unwrap() - 300.0).abs() < 1e-6);
        assert_eq!(seen.samples, 3);
        assert_eq!(seen.power_throttled_share, Some(2.0 / 3.0));
        assert_eq!(seen.heat_throttled_share, Some(0.0));
        assert_eq!(seen.min_sm_mhz, Some(1500.0));
        assert_eq!(seen.max_temperature_c, Some(63.0));
        assert_eq!(seen.max_others, Some(7));
    }

    #[test]
    fn without_a_counter_power_is_told_and_energy_is_not_made_up() {
        let seen = sampled(false).summary(0, 400_000_000).unwrap();
        assert_eq!(seen.joules, None);
        assert_eq!(seen.power_w, Some(300.0));
    }

    #[test]
    fn a_window_that_was_not_sampled_has_no_summary() {
        let record = sampled(true);
        assert!(record.summary(0, 500_000_000).is_none());
        assert!(record.summary(100, 100).is_none());
    }
}
