//! The machine during a run: who it is, how fast its memory is from time to time, and who
//! else used it.

use costmark_core::{Clock, MonotonicClock, Roofline};
use costmark_probe::{
    HostCpuTimes, Machine, PeakOptions, ProcessUsage, Rate, measure_peaks, quick_read_bandwidth,
};
use costmark_report::document::{Environment, PeakReading, RateDocument};

use crate::failure::{Failure, Result};
use crate::units::human_bytes;

/// Watches the machine.
pub(crate) struct Watch {
    machine: Machine,
    options: PeakOptions,
    clock: MonotonicClock,
    readings: Vec<PeakReading>,
    /// `None` where the model is not computed on this machine, so that its peaks say nothing.
    f32_flops_per_s: Option<f64>,
    host: Option<HostCpuTimes>,
    usage: ProcessUsage,
}

impl Watch {
    /// Measures bandwidth and arithmetic once, which takes some seconds, unless the model is
    /// not computed on this machine.
    pub(crate) fn begin(
        machine: Machine,
        threads: u32,
        clock: MonotonicClock,
        with_peaks: bool,
    ) -> Result<Self> {
        let options = PeakOptions {
            threads: threads as usize,
            ..PeakOptions::for_machine(&machine)
        };
        let mut watch = Self {
            machine,
            options,
            clock,
            readings: Vec::new(),
            f32_flops_per_s: None,
            host: None,
            usage: ProcessUsage::now(),
        };
        if with_peaks {
            let peaks = measure_peaks(&watch.options).map_err(Failure::run)?;
            watch.f32_flops_per_s = Some(peaks.f32_flops_per_s.best);
            watch.readings.push(PeakReading {
                at_ns: clock.now_ns(),
                read_bytes_per_s: rate(&peaks.read_bytes_per_s),
                triad_bytes_per_s: Some(rate(&peaks.triad_bytes_per_s)),
                f32_flops_per_s: Some(rate(&peaks.f32_flops_per_s)),
            });
        }
        watch.host = HostCpuTimes::now();
        watch.usage = ProcessUsage::now();
        Ok(watch)
    }

    /// Measures the bandwidth again, and gives the peaks for what ran since the last
    /// reading: the mean of the readings before and after it.
    pub(crate) fn between(&mut self) -> Result<Option<Roofline>> {
        let Some(flops_per_s) = self.f32_flops_per_s else {
            return Ok(None);
        };
        let before = self.last_read();
        let read = quick_read_bandwidth(&self.options).map_err(Failure::run)?;
        self.readings.push(PeakReading {
            at_ns: self.clock.now_ns(),
            read_bytes_per_s: rate(&read),
            triad_bytes_per_s: None,
            f32_flops_per_s: None,
        });
        Ok(Some(Roofline {
            read_bytes_per_s: f64::midpoint(before, read.best),
            flops_per_s,
        }))
    }

    /// The latest peaks.
    pub(crate) fn roofline(&self) -> Option<Roofline> {
        Some(Roofline {
            read_bytes_per_s: self.last_read(),
            flops_per_s: self.f32_flops_per_s?,
        })
    }

    fn last_read(&self) -> f64 {
        self.readings
            .last()
            .map_or(0.0, |reading| reading.read_bytes_per_s.best)
    }

    /// All that was seen so far.
    pub(crate) fn document(&self) -> Environment {
        let reads = || self.readings.iter().map(|r| r.read_bytes_per_s.best);
        let drift = match (reads().reduce(f64::max), reads().reduce(f64::min)) {
            (Some(high), Some(low)) if self.readings.len() > 1 && low > 0.0 => {
                Some(high / low - 1.0)
            }
            _ => None,
        };
        let (host, usage) = (HostCpuTimes::now(), ProcessUsage::now());
        let since = self.host.as_ref().zip(host.as_ref());
        Environment {
            label: label(&self.machine),
            // Its fields are all plain values, which serialise.
            machine: serde_json::to_value(&self.machine).unwrap_or_default(),
            peaks: self.readings.clone(),
            read_bandwidth_drift: drift,
            steal_share: since.and_then(|(begin, now)| now.steal_share_since(begin)),
            other_cpu_s: since.map(|(begin, now)| {
                let own = usage.cpu_s - self.usage.cpu_s;
                (now.busy_s_since(begin) - own).max(0.0)
            }),
            peak_rss_bytes: usage.peak_rss_bytes,
        }
    }
}

fn rate(rate: &Rate) -> RateDocument {
    RateDocument {
        best: rate.best,
        median: rate.median,
        worst: rate.worst,
        passes: rate.passes,
    }
}

/// The machine in a few words.
pub(crate) fn label(machine: &Machine) -> String {
    let (cpu, usable) = (&machine.cpu, machine.cpu_limits.usable_threads);
    let threads = if usable == cpu.threads {
        format!("{usable} threads")
    } else {
        format!("{usable} of {} threads", cpu.threads)
    };
    let memory = machine.memory.limit_bytes.or(machine.memory.total_bytes);
    match memory {
        Some(bytes) => format!("{}, {threads}, {}", cpu.model, human_bytes(bytes)),
        None => format!("{}, {threads}", cpu.model),
    }
}
