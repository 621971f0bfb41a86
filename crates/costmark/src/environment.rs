//! The machine during a run: who it is, how fast its memory is from time to time, and who
//! else used it.

use costmark_core::{Clock, MonotonicClock, Roofline};
use costmark_metrics::Throughput;
use costmark_probe::{
    Cpu, Datasheets, HostCpuTimes, Machine, PeakOptions, ProcessUsage, Processes, Rate, Sample,
    Telemetry, measure_peaks, quick_read_bandwidth,
};
use costmark_report::document::{
    DatasheetDocument, DatasheetUse, EnergyDocument, Environment, MachineDocument,
    NeighbourDocument, PeakReading, RateDocument, UnitDocument,
};
use costmark_report::{RunFolder, TelemetryLine};

use crate::accelerators::Accelerators;
use crate::failure::{Failure, Result};
use crate::units::human_bytes;

/// Other programs that are named, the busiest.
const NEIGHBOURS: usize = 3;
/// Share of one core from which on a program is named: less disturbs nothing, and what else runs
/// on a machine is nobody's business in a result that is passed on.
const NEIGHBOUR_CORE_SHARE: f64 = 0.01;

/// Watches the machine.
pub(crate) struct Watch {
    machine: Machine,
    options: PeakOptions,
    clock: MonotonicClock,
    /// Compute in the processor's place, where there are any.
    accelerators: Option<Accelerators>,
    readings: Vec<PeakReading>,
    /// `None` where the model is not computed on this machine, so that its peaks say nothing.
    flops_per_s: Option<f64>,
    datasheet: Option<DatasheetDocument>,
    host: Option<HostCpuTimes>,
    usage: ProcessUsage,
    processes: Processes,
    /// When `processes` was taken.
    began_ns: u64,
    telemetry: Option<Telemetry>,
    /// CPU seconds others took before the run was resumed.
    earlier_other_cpu_s: f64,
}

impl Watch {
    /// Measures bandwidth and arithmetic once, which takes some seconds, unless the model is
    /// not computed on this machine.
    pub(crate) fn begin(
        machine: Machine,
        threads: u32,
        clock: MonotonicClock,
        with_peaks: bool,
        accelerators: Option<Accelerators>,
    ) -> Result<Self> {
        let options = PeakOptions {
            threads: threads as usize,
            ..PeakOptions::for_machine(&machine)
        };
        let mut watch = Self {
            machine,
            options,
            clock,
            accelerators,
            readings: Vec::new(),
            flops_per_s: None,
            datasheet: None,
            host: None,
            usage: ProcessUsage::now(),
            processes: Processes::default(),
            began_ns: 0,
            telemetry: None,
            earlier_other_cpu_s: 0.0,
        };
        if let Some(accelerators) = &watch.accelerators {
            let (reading, flops_per_s) = accelerators.peaks(&clock)?;
            watch.flops_per_s = Some(flops_per_s);
            watch.datasheet = accelerators.datasheet()?;
            watch.readings.push(reading);
        } else if with_peaks {
            watch.datasheet = datasheet(&watch.machine.cpu)?;
            let peaks = measure_peaks(&watch.options).map_err(Failure::run)?;
            watch.flops_per_s = Some(peaks.f32_flops_per_s.best);
            watch.readings.push(PeakReading {
                at_ns: clock.now_ns(),
                read_bytes_per_s: rate(&peaks.read_bytes_per_s),
                triad_bytes_per_s: Some(rate(&peaks.triad_bytes_per_s)),
                f32_flops_per_s: Some(rate(&peaks.f32_flops_per_s)),
                copy_bytes_per_s: None,
                bf16_flops_per_s: None,
            });
        }
        watch.host = HostCpuTimes::now();
        watch.usage = ProcessUsage::now();
        watch.processes = Processes::now();
        watch.began_ns = clock.now_ns();
        Ok(watch)
    }

    /// Goes on with what was seen before the run was resumed.
    pub(crate) fn continue_from(&mut self, earlier: &Environment) {
        self.readings.splice(..0, earlier.peaks.iter().cloned());
        self.earlier_other_cpu_s = earlier.other_cpu_s.unwrap_or(0.0);
    }

    /// Begins to sample the machine into the folder, ten times a second.
    pub(crate) fn sample_into(&mut self, folder: &RunFolder) -> Result<()> {
        let mut file = Some(folder.telemetry());
        let mut samplers = self.accelerators.as_mut().map(Accelerators::samplers);
        let sink = move |sample: &Sample| {
            let samplers = samplers.as_mut();
            let lines = samplers.map(|samplers| samplers.lines(sample.at_ns));
            let (gpu, gpus) = lines.unwrap_or_default();
            let line = TelemetryLine {
                gpu,
                gpus,
                ..line(sample)
            };
            // A disk that takes no more shows in the next request; sampling goes on in memory.
            if file.as_mut().is_some_and(|f| f.append(&line).is_err()) {
                file = None;
            }
        };
        let telemetry = Telemetry::start(self.clock, sink)
            .map_err(|e| Failure::run(format!("cannot sample the machine: {e}")))?;
        self.telemetry = Some(telemetry);
        Ok(())
    }

    /// Enters what the machine did in a unit's window, and what energy that took, unless time
    /// was simulated; and how much of what the vendor states was used.
    pub(crate) fn enter(&self, unit: &mut UnitDocument, simulated: bool) {
        unit.of_datasheet = DatasheetUse::of(
            &unit.summary,
            unit.roofline.as_ref(),
            self.datasheet.as_ref(),
        );
        let telemetry = self.telemetry.as_ref().filter(|_| !simulated);
        let window = unit.summary.window;
        let found = telemetry.and_then(|t| t.summary(window.start_ns, window.end_ns));
        unit.machine = found.map(|m| MachineDocument {
            samples: m.samples,
            own_cores: m.own_cores,
            other_cores: m.other_cores,
            steal_cores: m.steal_cores,
            steal_share: m.steal_share,
            mhz: m.mhz,
            min_mhz: m.min_mhz,
            max_rss_bytes: m.max_rss_bytes,
            min_available_bytes: m.min_available_bytes,
            gpu: None,
            gpus: Vec::new(),
        });
        let joules = found.and_then(|m| m.package_joules);
        let source = telemetry.and_then(Telemetry::energy_source);
        unit.energy = energy(
            source.unwrap_or(NO_ENERGY),
            joules,
            &unit.summary.throughput,
        );
        if let Some(accelerators) = self.accelerators.as_ref().filter(|_| !simulated) {
            accelerators.enter(unit);
        }
    }

    /// Share of a core that sampling has taken.
    pub(crate) fn telemetry_core_share(&self) -> Option<f64> {
        self.telemetry.as_ref().map(|t| t.cost().core_share)
    }

    /// Measures the bandwidth again, and gives the peaks for what ran since the last
    /// reading: the mean of the readings before and after it.
    pub(crate) fn between(&mut self) -> Result<Option<Roofline>> {
        let Some(flops_per_s) = self.flops_per_s else {
            return Ok(None);
        };
        let before = self.last_read();
        let reading = match &self.accelerators {
            Some(accelerators) => accelerators.quick_read(&self.clock)?,
            None => {
                let read = quick_read_bandwidth(&self.options).map_err(Failure::run)?;
                PeakReading {
                    at_ns: self.clock.now_ns(),
                    read_bytes_per_s: rate(&read),
                    triad_bytes_per_s: None,
                    f32_flops_per_s: None,
                    copy_bytes_per_s: None,
                    bf16_flops_per_s: None,
                }
            }
        };
        let now = reading.read_bytes_per_s.best;
        self.readings.push(reading);
        Ok(Some(Roofline {
            read_bytes_per_s: f64::midpoint(before, now),
            flops_per_s,
        }))
    }

    /// The latest peaks.
    pub(crate) fn roofline(&self) -> Option<Roofline> {
        Some(Roofline {
            read_bytes_per_s: self.last_read(),
            flops_per_s: self.flops_per_s?,
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
        let neighbours = Processes::now().busiest_since(&self.processes);
        let passed_s = self.clock.now_ns().saturating_sub(self.began_ns) as f64 / 1e9;
        let least_s = NEIGHBOUR_CORE_SHARE * passed_s;
        Environment {
            label: match &self.accelerators {
                Some(gpus) => format!("{}; {}", gpus.name(), label(&self.machine)),
                None => label(&self.machine),
            },
            // Its fields are all plain values, which serialise.
            machine: serde_json::to_value(&self.machine).unwrap_or_default(),
            peaks: self.readings.clone(),
            datasheet: self.datasheet.clone(),
            read_bandwidth_drift: drift,
            steal_share: since.and_then(|(begin, now)| now.steal_share_since(begin)),
            other_cpu_s: since.map(|(begin, now)| {
                let own = usage.cpu_s - self.usage.cpu_s;
                self.earlier_other_cpu_s + (now.busy_s_since(begin) - own).max(0.0)
            }),
            neighbours: neighbours
                .into_iter()
                .filter(|n| n.cpu_s >= least_s)
                .take(NEIGHBOURS)
                .map(|n| NeighbourDocument {
                    name: n.name,
                    cpu_s: n.cpu_s,
                })
                .collect(),
            peak_rss_bytes: usage.peak_rss_bytes,
        }
    }
}

/// What stands where a source of energy would.
pub(crate) const NO_ENERGY: &str = "none";

/// Before anything is known of a unit's energy.
pub(crate) fn no_energy() -> EnergyDocument {
    energy(NO_ENERGY, None, &Throughput::default())
}

/// What a window took, by the counter that `source` names.
pub(crate) fn energy(source: &str, joules: Option<f64>, throughput: &Throughput) -> EnergyDocument {
    let per = |tokens: u64| joules.filter(|_| tokens > 0).map(|j| j / tokens as f64);
    EnergyDocument {
        source: match joules {
            Some(_) => source.into(),
            None => NO_ENERGY.into(),
        },
        joules,
        joules_per_output_token: per(throughput.output_tokens),
        joules_per_token: per(throughput.input_tokens + throughput.output_tokens),
    }
}

fn line(sample: &Sample) -> TelemetryLine {
    TelemetryLine {
        at_ns: sample.at_ns,
        own_cpu_s: sample.own_cpu_s,
        busy_cpu_s: sample.busy_cpu_s,
        steal_cpu_s: sample.steal_cpu_s,
        rss_bytes: sample.rss_bytes,
        available_bytes: sample.available_bytes,
        mhz: sample.mhz,
        package_joules: sample.package_joules,
        gpu: None,
        gpus: Vec::new(),
    }
}

pub(crate) fn rate(rate: &Rate) -> RateDocument {
    RateDocument {
        best: rate.best,
        median: rate.median,
        worst: rate.worst,
        passes: rate.passes,
    }
}

/// What the vendor states of the processors. Their arithmetic is left to measurement: no sheet
/// promises clock frequencies under vector load.
fn datasheet(cpu: &Cpu) -> Result<Option<DatasheetDocument>> {
    let sheets = Datasheets::embedded().map_err(Failure::run)?;
    let sockets = cpu.sockets.unwrap_or(1).max(1);
    Ok(sheets.of_cpu(cpu).map(|sheet| DatasheetDocument {
        name: sheet.name.clone(),
        devices: sockets,
        read_bytes_per_s: sheet.bandwidth_bytes_per_s * f64::from(sockets),
        flops_per_s: None,
        source: sheet.source.clone(),
        unconfirmed: sheet.unconfirmed.clone(),
    }))
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
