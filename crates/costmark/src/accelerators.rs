//! All GPUs that a model runs on, each with a replica of it.

use costmark_core::MonotonicClock;
use costmark_probe::gpu::{Gpu, GpuSampler, GpuSummary};
use costmark_report::document::{
    DatasheetDocument, GpuDocument, GpuLine, PeakReading, RateDocument, UnitDocument,
};

use crate::accelerator::{self, Accelerator};
use crate::args::DeviceArg;
use crate::environment::energy;
use crate::failure::Result;

/// GPUs of one kind that compute.
pub(crate) struct Accelerators {
    /// At least one.
    all: Vec<Accelerator>,
}

impl Accelerators {
    /// The GPUs among these devices; none for the CPU.
    pub(crate) fn open(devices: &[DeviceArg]) -> Result<Option<Self>> {
        let mut all = Vec::new();
        for &device in devices {
            all.extend(Accelerator::open(device)?);
        }
        Ok((!all.is_empty()).then_some(Self { all }))
    }

    fn are_several(&self) -> bool {
        self.all.len() > 1
    }

    /// What they are called, e.g. `8 × NVIDIA H200`.
    pub(crate) fn name(&self) -> String {
        let one = self.all.first().map_or("GPU", Accelerator::name);
        match self.all.len() {
            1 => one.into(),
            n => format!("{n} × {one}"),
        }
    }

    /// What their vendor states of all of them, where that is known.
    pub(crate) fn datasheet(&self) -> Result<Option<DatasheetDocument>> {
        let Some(first) = self.all.first() else {
            return Ok(None);
        };
        let sheet = first.datasheet()?;
        let devices = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        Ok(sheet.map(|sheet| of_several(sheet, devices)))
    }

    /// The mean of their peaks now, and the FLOP/s of one that MFU is a share of. One is measured
    /// after the other.
    pub(crate) fn peaks(&self, clock: &MonotonicClock) -> Result<(PeakReading, f64)> {
        let mut readings = Vec::new();
        let mut flops_per_s = 0.0;
        for one in &self.all {
            let (reading, flops) = one.peaks(clock)?;
            readings.push(reading);
            flops_per_s += flops / self.all.len() as f64;
        }
        Ok((mean(&readings), flops_per_s))
    }

    /// The mean of their read bandwidths now.
    pub(crate) fn quick_read(&self, clock: &MonotonicClock) -> Result<PeakReading> {
        let readings: Result<Vec<PeakReading>> =
            self.all.iter().map(|one| one.quick_read(clock)).collect();
        Ok(mean(&readings?))
    }

    /// What is asked of them ten times a second.
    pub(crate) fn samplers(&mut self) -> Samplers {
        let are_several = self.are_several();
        let sampled = self.all.iter_mut().filter_map(|one| {
            let cuda = are_several.then(|| one.number());
            Some((cuda, one.sampler()?))
        });
        Samplers(sampled.collect())
    }

    /// Enters what they did in a unit's window, and their energy in place of the processor's.
    pub(crate) fn enter(&self, unit: &mut UnitDocument) {
        let window = unit.summary.window;
        let seen: Vec<(u32, Option<GpuSummary>)> = self
            .all
            .iter()
            .map(|one| (one.number(), one.seen(window.start_ns, window.end_ns)))
            .collect();
        let (mut gpus, joules) = together(&seen);
        if gpus.is_empty() {
            return;
        }
        if let Some(machine) = &mut unit.machine {
            if self.are_several() {
                machine.gpus = gpus;
            } else {
                machine.gpu = gpus.pop();
            }
        }
        unit.energy = energy("nvml", joules, &unit.summary.throughput);
    }
}

/// Takes samples of each GPU.
pub(crate) struct Samplers(Vec<(Option<u32>, GpuSampler)>);

impl Samplers {
    /// A line of each GPU that is sampled: the only one, or all of several.
    pub(crate) fn lines(&mut self, at_ns: u64) -> (Option<GpuLine>, Vec<GpuLine>) {
        let mut only = None;
        let mut several = Vec::new();
        for (cuda, sampler) in &mut self.0 {
            let line = GpuLine {
                cuda: *cuda,
                ..accelerator::line(&sampler.sample(at_ns))
            };
            match cuda {
                None => only = Some(line),
                Some(_) => several.push(line),
            }
        }
        (only, several)
    }
}

/// GPUs before they are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Called {
    /// What the first of them is called.
    pub(crate) name: String,
    /// How many.
    pub(crate) count: u32,
}

/// What GPUs are called; none for the CPU.
pub(crate) fn called(devices: &[DeviceArg], gpus: &[Gpu]) -> Option<Called> {
    Some(Called {
        name: accelerator::called(*devices.first()?, gpus)?,
        count: u32::try_from(devices.len()).unwrap_or(u32::MAX),
    })
}

/// What each did, and the joules of all of them: none unless the counter of each is known, since
/// a part would pass for the whole.
fn together(seen: &[(u32, Option<GpuSummary>)]) -> (Vec<GpuDocument>, Option<f64>) {
    let are_several = seen.len() > 1;
    let documents = seen.iter().filter_map(|(number, summary)| {
        Some(GpuDocument {
            cuda: are_several.then_some(*number),
            ..accelerator::document(summary.as_ref()?)
        })
    });
    let joules = seen.iter().map(|(_, summary)| summary.as_ref()?.joules);
    (documents.collect(), joules.sum())
}

/// The sheet of so many devices.
fn of_several(one: DatasheetDocument, devices: u32) -> DatasheetDocument {
    let n = f64::from(devices);
    DatasheetDocument {
        devices,
        read_bytes_per_s: n * one.read_bytes_per_s,
        flops_per_s: one.flops_per_s.map(|flops| n * flops),
        ..one
    }
}

/// One reading for those of several GPUs, which bears the instant of the last one.
fn mean(readings: &[PeakReading]) -> PeakReading {
    let over = |of: fn(&PeakReading) -> Option<RateDocument>| -> Option<RateDocument> {
        let rates: Option<Vec<RateDocument>> = readings.iter().map(of).collect();
        rates.map(|rates| mean_rate(&rates))
    };
    let reads: Vec<RateDocument> = readings.iter().map(|r| r.read_bytes_per_s).collect();
    PeakReading {
        at_ns: readings.iter().map(|r| r.at_ns).max().unwrap_or(0),
        read_bytes_per_s: mean_rate(&reads),
        triad_bytes_per_s: over(|r| r.triad_bytes_per_s),
        f32_flops_per_s: over(|r| r.f32_flops_per_s),
        copy_bytes_per_s: over(|r| r.copy_bytes_per_s),
        bf16_flops_per_s: over(|r| r.bf16_flops_per_s),
    }
}

/// Of at least one.
fn mean_rate(rates: &[RateDocument]) -> RateDocument {
    let n = rates.len().max(1) as f64;
    let over = |of: fn(&RateDocument) -> f64| rates.iter().map(of).sum::<f64>() / n;
    RateDocument {
        best: over(|r| r.best),
        median: over(|r| r.median),
        worst: over(|r| r.worst),
        passes: rates.iter().map(|r| r.passes).min().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use costmark_probe::gpu::{GpuError, GpuReading, GpuSample, GpuSource, watch};

    fn rate(best: f64) -> RateDocument {
        RateDocument {
            best,
            median: best - 1.0,
            worst: best - 2.0,
            passes: 7,
        }
    }

    fn reading(at_ns: u64, read: f64, flops: Option<f64>) -> PeakReading {
        PeakReading {
            at_ns,
            read_bytes_per_s: rate(read),
            triad_bytes_per_s: None,
            f32_flops_per_s: None,
            copy_bytes_per_s: None,
            bf16_flops_per_s: flops.map(rate),
        }
    }

    #[test]
    fn the_peaks_of_several_are_their_mean() {
        let all = [reading(5, 10.0, Some(100.0)), reading(9, 20.0, Some(300.0))];
        assert_eq!(mean(&all), reading(9, 15.0, Some(200.0)));
        assert_eq!(mean(&all[..1]), all[0]);
        // A figure that one of them lacks is none of all.
        let some = [reading(5, 10.0, Some(100.0)), reading(9, 20.0, None)];
        assert_eq!(mean(&some), reading(9, 15.0, None));
    }

    #[test]
    fn the_sheet_of_several_is_that_of_all() {
        let one = DatasheetDocument {
            name: "H200".into(),
            devices: 1,
            read_bytes_per_s: 4.8e12,
            flops_per_s: Some(989e12),
            source: "sheet".into(),
            unconfirmed: None,
        };
        let eight = of_several(one, 8);
        assert_eq!(eight.devices, 8);
        assert_eq!(eight.read_bytes_per_s, 8.0 * 4.8e12);
        assert_eq!(eight.flops_per_s, Some(8.0 * 989e12));
    }

    /// 0.1 s at so many watts, by the counter.
    fn summary(watts: f64, counts: bool) -> Option<GpuSummary> {
        let sample = |at_ns: u64| GpuSample {
            at_ns,
            joules: counts.then_some(watts * at_ns as f64 / 1e9),
            power_w: Some(watts),
            others: Some(1),
            ..GpuSample::default()
        };
        GpuSummary::of(&[sample(0), sample(100_000_000)], 0, 100_000_000)
    }

    #[test]
    fn energy_is_that_of_all_or_none() {
        let (gpus, joules) = together(&[(2, summary(300.0, true)), (5, summary(500.0, true))]);
        assert!((joules.unwrap() - 80.0).abs() < 1e-9);
        let told: Vec<_> = gpus
            .iter()
            .map(|g| (g.cuda, g.max_other_processes))
            .collect();
        assert_eq!(told, [(Some(2), Some(1)), (Some(5), Some(1))]);

        let (gpus, joules) = together(&[(2, summary(300.0, true)), (5, summary(500.0, false))]);
        assert_eq!((gpus.len(), joules), (2, None));
        let (gpus, joules) = together(&[(2, summary(300.0, true)), (5, None)]);
        assert_eq!((gpus.len(), joules), (1, None));
        assert_eq!(gpus[0].cuda, Some(2), "it is told which one");
        // The only one needs no number.
        let (gpus, joules) = together(&[(2, summary(300.0, true))]);
        assert!((joules.unwrap() - 30.0).abs() < 1e-9);
        assert_eq!(gpus[0].cuda, None);
    }

    /// A GPU that draws as many watts as its index says.
    struct Fake;

    impl GpuSource for Fake {
        fn gpus(&self) -> Result<Vec<Gpu>, GpuError> {
            Ok(Vec::new())
        }

        fn read(&self, index: u32) -> GpuReading {
            GpuReading {
                power_w: Some(f64::from(index)),
                ..GpuReading::default()
            }
        }
    }

    #[test]
    fn lines_of_several_say_whose_they_are() {
        let sampler = |index| watch(Box::new(Fake), index).0;
        let mut one = Samplers(vec![(None, sampler(100))]);
        let (only, several) = one.lines(7);
        assert_eq!(only.unwrap().power_w, Some(100.0));
        assert_eq!((only.unwrap().cuda, several), (None, Vec::new()));
        let mut two = Samplers(vec![(Some(3), sampler(100)), (Some(6), sampler(200))]);
        let (only, several) = two.lines(7);
        assert_eq!(only, None);
        let told: Vec<_> = several.iter().map(|l| (l.cuda, l.power_w)).collect();
        assert_eq!(told, [(Some(3), Some(100.0)), (Some(6), Some(200.0))]);
    }

    #[test]
    fn the_cpu_is_no_accelerator() {
        assert!(Accelerators::open(&[DeviceArg::Cpu]).unwrap().is_none());
        assert_eq!(called(&[DeviceArg::Cpu], &[]), None);
        let two = [DeviceArg::Cuda(0), DeviceArg::Cuda(1)];
        let unknown = called(&two, &[]).unwrap();
        assert_eq!((unknown.name.as_str(), unknown.count), ("unknown GPU", 2));
    }
}
