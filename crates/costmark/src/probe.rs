//! `costmark probe`: what machine this is and how fast.

mod gpus;

use std::fmt::Write;

use costmark_probe::gpu::Gpu;
use costmark_probe::{Machine, PeakOptions, Peaks, Rate, measure_peaks};
use costmark_report::numbers::short;
use serde::Serialize;

use self::gpus::GpuPeaks;
use crate::args::ProbeArgs;
use crate::environment;
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::units::human_bytes;
use crate::{output, stop, threads};

#[derive(Serialize)]
struct Probe {
    label: String,
    machine: Machine,
    peaks: Peaks,
    /// Of each GPU; empty where there is none.
    gpu_peaks: Vec<GpuPeaks>,
}

/// Runs the command.
pub(crate) fn run(args: &ProbeArgs) -> Result<()> {
    let machine = Machine::detect();
    let compute = args.threads.unwrap_or(machine.cpu_limits.usable_threads);
    threads::limit_compute(compute);
    stop::install()?;
    let stage = Progress::new(false).stage("Measuring memory bandwidth and arithmetic");
    let options = PeakOptions {
        threads: compute as usize,
        ..PeakOptions::for_machine(&machine)
    };
    let peaks = measure_peaks(&options).map_err(Failure::run)?;
    let gpu_peaks = gpus::measure(&machine.gpus)?;
    drop(stage);
    let probe = Probe {
        label: environment::label(&machine),
        machine,
        peaks,
        gpu_peaks,
    };
    if args.json {
        output::json(&probe)
    } else {
        output::text(&text(&probe))
    }
}

fn text(probe: &Probe) -> String {
    let (machine, peaks) = (&probe.machine, &probe.peaks);
    let (cpu, limits, memory) = (&machine.cpu, &machine.cpu_limits, &machine.memory);
    let mut lines = Lines::default();
    lines.add("System", &machine.os);
    lines.some("Kernel", machine.kernel.as_ref());
    lines.add("CPU", &cpu.model);
    lines.some("Hypervisor", cpu.hypervisor.as_ref());
    lines.add("Threads", &{
        let mut text = format!("{} usable of {}", limits.usable_threads, cpu.threads);
        if let Some(quota) = limits.quota_cpus {
            let _ = write!(text, ", quota of {quota} CPUs");
        }
        text
    });
    lines.add("Caches", &{
        let caches = machine.caches.iter().map(|cache| {
            let size = human_bytes(cache.bytes);
            format!(
                "L{} {} {} × {size}",
                cache.level, cache.kind, cache.instances
            )
        });
        caches.collect::<Vec<_>>().join(", ")
    });
    lines.some("Memory", memory.total_bytes.map(human_bytes).as_ref());
    lines.some("  limit", memory.limit_bytes.map(human_bytes).as_ref());
    lines.some(
        "  available",
        memory.available_bytes.map(human_bytes).as_ref(),
    );
    lines.add("Instructions", &cpu.isa.join(" "));
    for gpu in &machine.gpus {
        lines.add(&format!("GPU {}", gpu.index), &gpu_text(gpu));
    }
    lines.add(
        "Read",
        &format!("{} GB/s", rate(&peaks.read_bytes_per_s, 1e9)),
    );
    lines.add(
        "Triad",
        &format!(
            "{} GB/s, two reads and a write counted",
            rate(&peaks.triad_bytes_per_s, 1e9)
        ),
    );
    lines.add(
        "Products",
        &format!("{} GFLOP/s in f32", rate(&peaks.f32_flops_per_s, 1e9)),
    );
    lines.add(
        "",
        &format!(
            "best of several passes (median), {} threads, buffer {}, matrices of {n} × {n}, {:.1} s",
            peaks.threads,
            human_bytes(peaks.buffer_bytes),
            peaks.elapsed_s,
            n = peaks.matrix_side
        ),
    );
    for peaks in &probe.gpu_peaks {
        peaks.add_to(&mut lines);
    }
    lines.0
}

/// `NVIDIA H200, 140.4 GiB, compute capability 9.0, driver 580.65.06 with CUDA 13.0, …`.
fn gpu_text(gpu: &Gpu) -> String {
    let on = |on: bool| if on { "on" } else { "off" };
    let parts = [
        Some(gpu.name.clone()),
        gpu.memory_bytes.map(human_bytes),
        gpu.used_bytes
            .filter(|&used| used > 0)
            .map(|used| format!("{} in use", human_bytes(used))),
        gpu.compute_capability
            .as_ref()
            .map(|c| format!("compute capability {c}")),
        gpu.driver_version.as_ref().map(|driver| {
            let cuda = gpu.cuda_version.as_deref().unwrap_or("unknown");
            format!("driver {driver} with CUDA {cuda}")
        }),
        gpu.ecc.map(|ecc| format!("ECC {}", on(ecc))),
        gpu.mig.map(|mig| format!("MIG {}", on(mig))),
        gpu.nvlinks.map(|links| format!("{links} NVLinks")),
        gpu.pcie.map(|p| {
            format!(
                "PCIe {} × {} (at most {} × {})",
                p.generation, p.lanes, p.max_generation, p.max_lanes
            )
        }),
        gpu.power_limit_w.map(|w| format!("{w} W at most")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// `42.1 (40.3)`, in units of `one`.
fn rate(rate: &Rate, one: f64) -> String {
    format!("{} ({})", short(rate.best / one), short(rate.median / one))
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name:<13}{value}");
    }

    fn some(&mut self, name: &str, value: Option<&String>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use costmark_probe::gpu::Pcie;

    #[test]
    fn a_gpu_is_told_as_far_as_it_is_known() {
        let mut gpu = Gpu {
            index: 0,
            name: "NVIDIA H200".into(),
            uuid: None,
            memory_bytes: Some(141 << 30),
            used_bytes: Some(0),
            driver_version: Some("580.65.06".into()),
            cuda_version: Some("13.0".into()),
            compute_capability: Some("9.0".into()),
            ecc: Some(true),
            mig: Some(false),
            nvlinks: Some(18),
            pcie: Some(Pcie {
                generation: 1,
                lanes: 16,
                max_generation: 5,
                max_lanes: 16,
            }),
            power_limit_w: Some(700.0),
        };
        assert_eq!(
            gpu_text(&gpu),
            "NVIDIA H200, 141.0 GiB, compute capability 9.0, driver 580.65.06 with CUDA 13.0, ECC \
             on, MIG off, 18 NVLinks, PCIe 1 × 16 (at most 5 × 16), 700 W at most"
        );
        gpu = Gpu {
            used_bytes: Some(1 << 30),
            memory_bytes: None,
            driver_version: None,
            compute_capability: None,
            ecc: None,
            mig: None,
            nvlinks: None,
            pcie: None,
            power_limit_w: None,
            ..gpu
        };
        assert_eq!(gpu_text(&gpu), "NVIDIA H200, 1.0 GiB in use");
    }
}
