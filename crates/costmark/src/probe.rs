//! `costmark probe`: what machine this is and how fast.

use std::fmt::Write;

use costmark_probe::{Machine, PeakOptions, Peaks, Rate, measure_peaks};
use costmark_report::numbers::short;
use serde::Serialize;

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
    drop(stage);
    let probe = Probe {
        label: environment::label(&machine),
        machine,
        peaks,
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
    lines.add("Read", &format!("{} GB/s", rate(&peaks.read_bytes_per_s)));
    lines.add(
        "Triad",
        &format!(
            "{} GB/s, two reads and a write counted",
            rate(&peaks.triad_bytes_per_s)
        ),
    );
    lines.add(
        "Products",
        &format!("{} GFLOP/s in f32", rate(&peaks.f32_flops_per_s)),
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
    lines.0
}

fn rate(rate: &Rate) -> String {
    format!("{} ({})", short(rate.best / 1e9), short(rate.median / 1e9))
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
