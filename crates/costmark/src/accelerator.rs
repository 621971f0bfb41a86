//! A GPU that a model runs on: its peaks, and what it does during the run.

use costmark_core::{Clock, MonotonicClock};
use costmark_engine::device::{self, Device};
use costmark_engine::gpu_peaks;
use costmark_probe::gpu::{
    Gpu, GpuRecord, GpuSample, GpuSampler, GpuSource, GpuSummary, Nvml, watch,
};
use costmark_probe::{Datasheets, Rate};
use costmark_report::document::{
    DatasheetDocument, GpuDocument, GpuLine, PeakReading, RateDocument,
};

use crate::args::DeviceArg;
use crate::failure::{Failure, Result};

/// A GPU that computes.
pub(crate) struct Accelerator {
    device: Device,
    /// As CUDA counts.
    number: u32,
    name: String,
    record: Option<GpuRecord>,
}

impl Accelerator {
    /// The GPU of `--device`; none for the CPU.
    pub(crate) fn open(device: DeviceArg) -> Result<Option<Self>> {
        let DeviceArg::Cuda(number) = device else {
            return Ok(None);
        };
        let device = device::open(device.into())?;
        Ok(Some(Self {
            number: u32::try_from(number).unwrap_or(u32::MAX),
            name: device::gpu_name(&device).unwrap_or_else(|| "GPU".into()),
            device,
            record: None,
        }))
    }

    /// Its number as CUDA counts.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// What it is called, e.g. `NVIDIA H200`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What its vendor states, where that is known.
    pub(crate) fn datasheet(&self) -> Result<Option<DatasheetDocument>> {
        let sheets = Datasheets::embedded().map_err(Failure::run)?;
        Ok(sheets.of_gpu(&self.name).map(|sheet| DatasheetDocument {
            name: sheet.name.clone(),
            devices: 1,
            read_bytes_per_s: sheet.bandwidth_bytes_per_s,
            flops_per_s: sheet.peaks.bf16_per_s,
            source: sheet.source.clone(),
            unconfirmed: sheet.unconfirmed.clone(),
        }))
    }

    /// Its peaks now, and the FLOP/s that MFU is a share of.
    pub(crate) fn peaks(&self, clock: &MonotonicClock) -> Result<(PeakReading, f64)> {
        let peaks = gpu_peaks::measure(&self.device)?;
        let [read, copy, flops] = [
            peaks.read_bytes_per_s,
            peaks.copy_bytes_per_s,
            peaks.bf16_flops_per_s,
        ]
        .map(rate);
        let (read, copy, flops) = (read?, copy?, flops?);
        let reading = PeakReading {
            copy_bytes_per_s: Some(copy),
            bf16_flops_per_s: Some(flops),
            ..read_alone(read, clock)
        };
        Ok((reading, flops.best))
    }

    /// Its read bandwidth now.
    pub(crate) fn quick_read(&self, clock: &MonotonicClock) -> Result<PeakReading> {
        let read = rate(gpu_peaks::quick_read(&self.device)?)?;
        Ok(read_alone(read, clock))
    }

    /// What is asked of it ten times a second; none where the driver's library is missing.
    pub(crate) fn sampler(&mut self) -> Option<GpuSampler> {
        let source = Nvml::open().ok()?;
        let index = find(
            &source.gpus().ok()?,
            device::gpu_uuid(&self.device).as_deref(),
        )?;
        let (sampler, record) = watch(Box::new(source), index);
        self.record = Some(record);
        Some(sampler)
    }

    /// What it did in a window; none if it was not sampled over all of it.
    pub(crate) fn seen(&self, start_ns: u64, end_ns: u64) -> Option<GpuSummary> {
        self.record.as_ref()?.summary(start_ns, end_ns)
    }
}

/// What the GPU of `--device` is called, before it is opened; none for the CPU.
pub(crate) fn called(device: DeviceArg, gpus: &[Gpu]) -> Option<String> {
    let DeviceArg::Cuda(n) = device else {
        return None;
    };
    // CUDA may count otherwise than the driver, which matters only where GPUs differ.
    let gpu = gpus.get(n).or(gpus.first());
    Some(gpu.map_or_else(|| "unknown GPU".into(), |gpu| gpu.name.clone()))
}

/// Which of the driver's GPUs it is: CUDA may count them otherwise.
fn find(gpus: &[Gpu], uuid: Option<&str>) -> Option<u32> {
    let same = |gpu: &&Gpu| uuid.is_some() && gpu.uuid.as_deref() == uuid;
    match (gpus.iter().find(same), gpus) {
        (Some(gpu), _) => Some(gpu.index),
        (None, [only]) => Some(only.index),
        _ => None,
    }
}

fn read_alone(read: RateDocument, clock: &MonotonicClock) -> PeakReading {
    PeakReading {
        at_ns: clock.now_ns(),
        read_bytes_per_s: read,
        triad_bytes_per_s: None,
        f32_flops_per_s: None,
        copy_bytes_per_s: None,
        bf16_flops_per_s: None,
    }
}

fn rate(passes: Vec<f64>) -> Result<RateDocument> {
    let rate = Rate::of(passes, "the GPU's peaks").map_err(Failure::run)?;
    Ok(crate::environment::rate(&rate))
}

/// What it did as it goes into the result.
pub(crate) fn document(seen: &GpuSummary) -> GpuDocument {
    GpuDocument {
        cuda: None,
        samples: seen.samples,
        power_w: seen.power_w,
        sm_mhz: seen.sm_mhz,
        min_sm_mhz: seen.min_sm_mhz,
        max_temperature_c: seen.max_temperature_c,
        max_used_bytes: seen.max_used_bytes,
        power_throttled_share: seen.power_throttled_share,
        heat_throttled_share: seen.heat_throttled_share,
        hardware_throttled_share: seen.hardware_throttled_share,
        max_other_processes: seen.max_others,
    }
}

/// A sample as it goes into its file.
pub(crate) fn line(sample: &GpuSample) -> GpuLine {
    let throttled = sample.throttled;
    GpuLine {
        cuda: None,
        joules: sample.joules,
        power_w: sample.power_w,
        sm_mhz: sample.sm_mhz,
        memory_mhz: sample.memory_mhz,
        temperature_c: sample.temperature_c,
        used_bytes: sample.used_bytes,
        power_throttled: throttled.map(|t| t.power),
        heat_throttled: throttled.map(|t| t.heat),
        hardware_throttled: throttled.map(|t| t.hardware),
        other_processes: sample.others,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_found_by_what_it_is_and_never_guessed_among_several() {
        let gpu = |index: u32, uuid: &str| Gpu {
            index,
            name: "NVIDIA H200".into(),
            uuid: Some(uuid.into()),
            memory_bytes: None,
            used_bytes: None,
            driver_version: None,
            cuda_version: None,
            compute_capability: None,
            ecc: None,
            mig: None,
            nvlinks: None,
            pcie: None,
            power_limit_w: None,
        };
        let two = [gpu(0, "GPU-a"), gpu(1, "GPU-b")];
        assert_eq!(find(&two, Some("GPU-b")), Some(1));
        assert_eq!(find(&two, Some("GPU-c")), None);
        assert_eq!(find(&two, None), None);
        assert_eq!(find(&two[..1], None), Some(0));
        assert_eq!(find(&[], Some("GPU-a")), None);
        assert_eq!(called(DeviceArg::Cpu, &two), None);
        let name = called(DeviceArg::Cuda(1), &two);
        assert_eq!(name.as_deref(), Some("NVIDIA H200"));
        assert_eq!(
            called(DeviceArg::Cuda(0), &[]).as_deref(),
            Some("unknown GPU")
        );
    }
}
