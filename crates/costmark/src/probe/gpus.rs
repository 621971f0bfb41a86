//! What each GPU was measured to do, beside what its vendor states.

use costmark_engine::device::{self, Device};
use costmark_engine::{DeviceChoice, EngineError, gpu_peaks};
use costmark_probe::gpu::Gpu;
use costmark_probe::{Datasheet, Datasheets, Rate};
use costmark_report::numbers::{percent, short};
use serde::Serialize;

use super::{Lines, rate};
use crate::failure::{Failure, Result};

/// A GPU's peaks.
#[derive(Debug, Serialize)]
pub(super) struct GpuPeaks {
    /// Its number as CUDA counts, which may be another than the driver's.
    cuda: usize,
    /// What it is called.
    name: String,
    /// As NVIDIA's tools print it.
    uuid: Option<String>,
    /// What was measured; absent where nothing could be.
    measured: Option<Measured>,
    /// What its vendor states, where that is known.
    datasheet: Option<Stated>,
    /// What was not measured, and why.
    notes: Vec<String>,
}

/// Peaks of one GPU, measured as `costmark run` does; 8-bit products on top.
#[derive(Debug, Serialize)]
struct Measured {
    read_bytes_per_s: Rate,
    /// Bytes read plus bytes written.
    copy_bytes_per_s: Rate,
    bf16_flops_per_s: Rate,
    /// Of e4m3 numbers, with sums in f32; absent on GPUs that do not multiply them.
    fp8_flops_per_s: Option<Rate>,
    buffer_bytes: u64,
    matrix_side: u32,
}

/// What a datasheet states of the same.
#[derive(Debug, Serialize)]
struct Stated {
    name: String,
    read_bytes_per_s: f64,
    bf16_flops_per_s: Option<f64>,
    fp8_flops_per_s: Option<f64>,
    source: String,
    unconfirmed: Option<String>,
}

impl From<&Datasheet> for Stated {
    fn from(sheet: &Datasheet) -> Self {
        Self {
            name: sheet.name.clone(),
            read_bytes_per_s: sheet.bandwidth_bytes_per_s,
            bf16_flops_per_s: sheet.peaks.bf16_per_s,
            fp8_flops_per_s: sheet.peaks.fp8_per_s,
            source: sheet.source.clone(),
            unconfirmed: sheet.unconfirmed.clone(),
        }
    }
}

/// Measures every GPU that CUDA shows, one after the other. Where it shows none, those of the driver
/// are listed with what keeps them from being measured: a GPU that cannot be used is no error of
/// whoever asks what machine this is.
pub(super) fn measure(gpus: &[Gpu]) -> Result<Vec<GpuPeaks>> {
    let sheets = Datasheets::embedded().map_err(Failure::run)?;
    let count = match device::gpu_count() {
        0 => gpus.len(),
        count => count,
    };
    Ok((0..count).map(|n| one(n, gpus, &sheets)).collect())
}

fn one(cuda: usize, gpus: &[Gpu], sheets: &Datasheets) -> GpuPeaks {
    let mut notes = Vec::new();
    let opened = match device::obstacle(cuda) {
        Some(obstacle) => Err(obstacle),
        None => device::open(DeviceChoice::Cuda(cuda)).map_err(|error| error.to_string()),
    };
    let measured = match &opened {
        Ok(device) => peaks(device, &mut notes),
        Err(why) => {
            notes.push(format!("peaks not measured: {why}"));
            None
        }
    };
    let device = opened.ok();
    let name = device.as_ref().and_then(device::gpu_name);
    let name = name.or_else(|| Some(gpus.get(cuda)?.name.clone()));
    let name = name.unwrap_or_else(|| "unknown GPU".into());
    GpuPeaks {
        cuda,
        measured,
        datasheet: sheets.of_gpu(&name).map(Into::into),
        uuid: device.as_ref().and_then(device::gpu_uuid),
        name,
        notes,
    }
}

fn peaks(device: &Device, notes: &mut Vec<String>) -> Option<Measured> {
    let mut noted = |what: &str, error: EngineError| notes.push(format!("{what}: {error}"));
    let peaks = gpu_peaks::measure(device)
        .map_err(|error| noted("peaks not measured", error))
        .ok()?;
    let fp8 = gpu_peaks::fp8_flops(device)
        .map_err(|error| noted("fp8 peak not measured", error))
        .ok();
    let rate = |passes| Rate::of(passes, "the GPU's peaks").ok();
    Some(Measured {
        read_bytes_per_s: rate(peaks.read_bytes_per_s)?,
        copy_bytes_per_s: rate(peaks.copy_bytes_per_s)?,
        bf16_flops_per_s: rate(peaks.bf16_flops_per_s)?,
        fp8_flops_per_s: fp8.and_then(rate),
        buffer_bytes: peaks.buffer_bytes,
        matrix_side: peaks.matrix_side,
    })
}

impl GpuPeaks {
    pub(super) fn add_to(&self, lines: &mut Lines) {
        lines.add(&format!("cuda:{}", self.cuda), &self.name);
        let stated = self.datasheet.as_ref();
        if let Some(m) = &self.measured {
            let read = stated.map(|s| s.read_bytes_per_s);
            lines.add("  read", &beside(&m.read_bytes_per_s, read, BYTES));
            lines.add("  copy", &beside(&m.copy_bytes_per_s, None, BYTES));
            let bf16 = stated.and_then(|s| s.bf16_flops_per_s);
            lines.add("  bf16", &beside(&m.bf16_flops_per_s, bf16, FLOPS));
            if let Some(fp8) = &m.fp8_flops_per_s {
                let stated = stated.and_then(|s| s.fp8_flops_per_s);
                lines.add("  fp8", &beside(fp8, stated, FLOPS));
            }
        }
        for note in &self.notes {
            lines.add("  note", note);
        }
        let doubt = stated.and_then(|s| Some((&s.name, s.unconfirmed.as_ref()?)));
        if let Some((name, doubt)) = doubt.filter(|_| self.measured.is_some()) {
            lines.add("  note", &format!("datasheet of {name}: {doubt}"));
        }
    }
}

/// A unit, and how much it is.
type Unit = (&'static str, f64);
const BYTES: Unit = ("GB/s", 1e9);
const FLOPS: Unit = ("TFLOP/s", 1e12);

/// `4012 (3990) GB/s, 83.6 % of 4800 by datasheet`.
fn beside(measured: &Rate, stated: Option<f64>, (unit, one): Unit) -> String {
    let mut text = format!("{} {unit}", rate(measured, one));
    if let Some(stated) = stated {
        text.push_str(&format!(
            ", {} of {} by datasheet",
            percent(measured.best / stated),
            short(stated / one)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate_of(best: f64) -> Rate {
        Rate {
            best,
            median: best / 2.0,
            worst: best / 4.0,
            passes: 7,
        }
    }

    fn measured(fp8: Option<f64>) -> GpuPeaks {
        let sheets = Datasheets::embedded().unwrap();
        GpuPeaks {
            cuda: 1,
            name: "NVIDIA H100 80GB HBM3".into(),
            uuid: None,
            measured: Some(Measured {
                read_bytes_per_s: rate_of(3e12),
                copy_bytes_per_s: rate_of(2e12),
                bf16_flops_per_s: rate_of(8e14),
                fp8_flops_per_s: fp8.map(rate_of),
                buffer_bytes: 1 << 30,
                matrix_side: 8192,
            }),
            datasheet: sheets.of_gpu("NVIDIA H100 80GB HBM3").map(Into::into),
            notes: vec!["a note".into()],
        }
    }

    fn text(peaks: &GpuPeaks) -> String {
        let mut lines = Lines::default();
        peaks.add_to(&mut lines);
        lines.0
    }

    #[test]
    fn the_sheet_stands_beside_what_was_measured() {
        let told = text(&measured(Some(1.6e15)));
        for line in [
            "cuda:1       NVIDIA H100 80GB HBM3",
            "  read       3000 (1500) GB/s, 90 % of 3350 by datasheet",
            "  copy       2000 (1000) GB/s\n",
            "  bf16       800 (400) TFLOP/s, 81 % of 990 by datasheet",
            "  fp8        1600 (800) TFLOP/s, 81 % of 1979 by datasheet",
            "  note       a note",
            "  note       datasheet of H100 SXM: checked against",
        ] {
            assert!(told.contains(line), "`{line}` is not in:\n{told}");
        }
        assert!(!text(&measured(None)).contains("fp8 "), "{told}");
    }

    /// What keeps GPUs from being measured is a note of each, and no error.
    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_for_cpus_says_why_it_measured_nothing() {
        let gpu = Gpu {
            index: 0,
            name: "NVIDIA H200".into(),
            uuid: None,
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
        assert!(measure(&[]).unwrap().is_empty());
        let all = measure(&[gpu.clone(), gpu]).unwrap();
        assert_eq!(all.len(), 2);
        let told = text(&all[1]);
        assert!(
            told.contains("peaks not measured") && told.contains("--features cuda"),
            "{told}"
        );
        let stated = all[1].datasheet.as_ref().unwrap();
        assert_eq!(stated.fp8_flops_per_s, Some(1979e12));
    }
}
