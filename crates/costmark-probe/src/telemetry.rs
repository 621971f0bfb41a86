//! What the machine does while a run is on, ten times a second.
//!
//! A [`Telemetry`] samples on a thread of its own. Samples hold counters since its begin and
//! not rates, so that any stretch of time can be looked at later: [`TelemetrySummary::of`]
//! does that for a window.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use costmark_core::{Clock, MonotonicClock};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::energy::{POWERCAP, PackageEnergy};
use crate::text::{self, CpuTicks};

/// Time between samples.
pub const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Frequencies are read every so many samples: the kernel may have to ask each core.
const MHZ_EVERY: u64 = 10;
/// Cores whose frequency is read, evenly spread over all.
const MHZ_CORES: usize = 8;

/// The machine at one moment. What the system does not tell is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// When, on the run's clock.
    pub at_ns: u64,
    /// CPU seconds of this process since the first sample.
    pub own_cpu_s: f64,
    /// CPU seconds of everything on this system since the first sample, this process
    /// included. Counted in clock ticks, usually 10 ms.
    pub busy_cpu_s: Option<f64>,
    /// CPU seconds wanted here that the hypervisor gave to others, since the first sample.
    pub steal_cpu_s: Option<f64>,
    /// Memory of this process that is resident.
    pub rss_bytes: Option<u64>,
    /// Memory that could be claimed on this system.
    pub available_bytes: Option<u64>,
    /// Mean frequency over up to eight cores; read once a second.
    pub mhz: Option<f64>,
    /// Energy of all processor packages since the first sample.
    pub package_joules: Option<f64>,
}

/// Reads samples. Files stay open: reading one again costs a system call.
#[derive(Debug)]
struct Sampler {
    stat: Option<File>,
    statm: Option<File>,
    meminfo: Option<File>,
    mhz: Vec<File>,
    energy: Option<PackageEnergy>,
    first: Option<(f64, Option<CpuTicks>)>,
    taken: u64,
    text: Vec<u8>,
}

impl Sampler {
    fn new(powercap: &Path) -> Self {
        let open = |path: &str| File::open(path).ok();
        let mut mhz: Vec<File> = (0..)
            .map_while(|n| {
                open(&format!(
                    "/sys/devices/system/cpu/cpu{n}/cpufreq/scaling_cur_freq"
                ))
            })
            .collect();
        let each = mhz.len().div_ceil(MHZ_CORES).max(1);
        let mut n = 0;
        mhz.retain(|_| {
            n += 1;
            (n - 1) % each == 0
        });
        Self {
            stat: open("/proc/stat"),
            statm: open("/proc/self/statm"),
            meminfo: open("/proc/meminfo"),
            mhz,
            energy: PackageEnergy::open(powercap),
            first: None,
            taken: 0,
            text: Vec::with_capacity(1 << 14),
        }
    }

    fn sample(&mut self, at_ns: u64) -> Sample {
        let own_s = seconds(ClockId::ProcessCPUTime);
        let ticks = read(self.stat.as_ref(), &mut self.text).and_then(text::cpu_ticks);
        let (first_s, first_ticks) = *self.first.get_or_insert((own_s, ticks));
        let since = |of: fn(&CpuTicks) -> u64| {
            let ticks = of(&ticks?).saturating_sub(of(&first_ticks?));
            Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
        };
        let rss_pages = read(self.statm.as_ref(), &mut self.text)
            .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
        let available_bytes = read(self.meminfo.as_ref(), &mut self.text)
            .and_then(|text| text::kb_field_bytes(text, "MemAvailable"));
        let with_mhz = self.taken.is_multiple_of(MHZ_EVERY);
        self.taken += 1;
        Sample {
            at_ns,
            own_cpu_s: own_s - first_s,
            busy_cpu_s: since(|t| t.busy),
            steal_cpu_s: since(|t| t.steal),
            rss_bytes: rss_pages.map(|pages| pages * rustix::param::page_size() as u64),
            available_bytes,
            mhz: if with_mhz { self.mean_mhz() } else { None },
            package_joules: self.energy.as_mut().and_then(PackageEnergy::joules),
        }
    }

    fn mean_mhz(&mut self) -> Option<f64> {
        if self.mhz.is_empty() {
            // A hypervisor's guest: one constant, if any.
            let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
            return text::cpuinfo_mhz(&text);
        }
        let mut sum_khz = 0.0;
        for file in &self.mhz {
            let khz = read(Some(file), &mut self.text)?.trim().parse::<f64>();
            sum_khz += khz.ok()?;
        }
        Some(sum_khz / self.mhz.len() as f64 / 1e3)
    }
}

/// The whole text of a file of the system, from its begin.
fn read<'a>(file: Option<&File>, text: &'a mut Vec<u8>) -> Option<&'a str> {
    let file = file?;
    text.clear();
    loop {
        let begin = text.len();
        text.resize(begin + (1 << 12), 0);
        let n = file.read_at(&mut text[begin..], begin as u64).ok()?;
        text.truncate(begin + n);
        if n == 0 {
            return std::str::from_utf8(text).ok();
        }
    }
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Samples on a thread of its own until it is dropped.
#[derive(Debug)]
pub struct Telemetry {
    shared: Arc<Shared>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    clock: MonotonicClock,
    begun_ns: u64,
    energy_source: Option<&'static str>,
}

/// What the sampling thread leaves for others to see.
#[derive(Debug, Default)]
struct Shared {
    samples: Mutex<Vec<Sample>>,
    /// CPU time of the thread.
    own_ns: AtomicU64,
}

impl Shared {
    fn samples(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What sampling itself cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryCost {
    /// CPU seconds of the sampling thread.
    pub cpu_s: f64,
    /// The same as a share of one core.
    pub core_share: f64,
    /// Samples taken.
    pub samples: u64,
}

impl Telemetry {
    /// Begins to sample. Each sample is handed to `sink` on the sampling thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        clock: MonotonicClock,
        mut sink: impl FnMut(&Sample) + Send + 'static,
    ) -> std::io::Result<Self> {
        let mut sampler = Sampler::new(Path::new(POWERCAP));
        let energy_source = sampler.energy.is_some().then_some("rapl");
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let (stop, stopped) = channel::<()>();
        let begun_ns = clock.now_ns();
        let thread = std::thread::Builder::new()
            .name("telemetry".into())
            .spawn(move || {
                let every_ns = every_ns();
                let mut next_ns = begun_ns;
                loop {
                    let sample = sampler.sample(clock.now_ns());
                    theirs.samples().push(sample);
                    sink(&sample);
                    let own_ns = (seconds(ClockId::ThreadCPUTime) * 1e9) as u64;
                    theirs.own_ns.store(own_ns, Ordering::Relaxed);
                    // On a fixed grid; a moment that was missed is not made up for.
                    let now_ns = clock.now_ns();
                    next_ns += every_ns * (1 + now_ns.saturating_sub(next_ns) / every_ns);
                    let wait = Duration::from_nanos(next_ns.saturating_sub(now_ns));
                    if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                        break;
                    }
                }
            })?;
        Ok(Self {
            shared,
            stop: Some(stop),
            thread: Some(thread),
            clock,
            begun_ns,
            energy_source,
        })
    }

    /// Where energy comes from: `rapl`; `None` if the system shows none.
    #[must_use]
    pub fn energy_source(&self) -> Option<&'static str> {
        self.energy_source
    }

    /// The machine in a window of the run's clock; `None` if it was not sampled then. Waits
    /// for the sample after a window that has only just ended.
    #[must_use]
    pub fn summary(&self, start_ns: u64, end_ns: u64) -> Option<TelemetrySummary> {
        let last_ns = || {
            self.shared
                .samples()
                .last()
                .map_or(0, |sample| sample.at_ns)
        };
        let has_ended = end_ns <= self.clock.now_ns();
        let late_ns = end_ns.saturating_add(3 * every_ns());
        while has_ended && self.clock.now_ns() < late_ns && last_ns() < end_ns {
            std::thread::sleep(SAMPLE_EVERY / 10);
        }
        TelemetrySummary::of(&self.shared.samples(), start_ns, end_ns)
    }

    /// What sampling has cost so far.
    #[must_use]
    pub fn cost(&self) -> TelemetryCost {
        let cpu_s = self.shared.own_ns.load(Ordering::Relaxed) as f64 / 1e9;
        let wall_s = self.clock.now_ns().saturating_sub(self.begun_ns) as f64 / 1e9;
        TelemetryCost {
            cpu_s,
            core_share: if wall_s > 0.0 { cpu_s / wall_s } else { 0.0 },
            samples: self.shared.samples().len() as u64,
        }
    }
}

fn every_ns() -> u64 {
    u64::try_from(SAMPLE_EVERY.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A sink that panicked has ended sampling; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// The machine over a window. CPU use is in cores: 1.5 is one and a half cores busy all the
/// time.
///
/// Counters at the window's ends are interpolated linearly between the samples around them;
/// extremes are of the samples inside.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySummary {
    /// Samples inside.
    pub samples: u64,
    /// Cores this process kept busy.
    pub own_cores: f64,
    /// Cores that other programs of this system kept busy.
    pub other_cores: Option<f64>,
    /// Cores that the hypervisor gave to others though they were wanted here.
    pub steal_cores: Option<f64>,
    /// The same as a share of all that was wanted: steal ÷ (busy + steal).
    pub steal_share: Option<f64>,
    /// Mean frequency.
    pub mhz: Option<f64>,
    /// Lowest frequency.
    pub min_mhz: Option<f64>,
    /// Most memory of this process that was resident.
    pub max_rss_bytes: Option<u64>,
    /// Least memory that could still be claimed.
    pub min_available_bytes: Option<u64>,
    /// Energy of all processor packages.
    pub package_joules: Option<f64>,
}

impl TelemetrySummary {
    /// Of samples in order of time; `None` unless they reach over the whole window.
    #[must_use]
    pub fn of(samples: &[Sample], start_ns: u64, end_ns: u64) -> Option<Self> {
        let reaches = samples.first()?.at_ns <= start_ns && end_ns <= samples.last()?.at_ns;
        if !reaches || end_ns <= start_ns {
            return None;
        }
        let window_s = (end_ns - start_ns) as f64 / 1e9;
        let risen = |of: &dyn Fn(&Sample) -> Option<f64>| {
            let at = |at_ns| value_at(samples, at_ns, &|s| s.at_ns, of);
            Some(at(end_ns)? - at(start_ns)?)
        };
        let inside = || {
            samples
                .iter()
                .filter(|s| start_ns <= s.at_ns && s.at_ns <= end_ns)
        };
        let own_s = risen(&|s| Some(s.own_cpu_s))?;
        let busy_s = risen(&|s| s.busy_cpu_s);
        let steal_s = risen(&|s| s.steal_cpu_s);
        let wanted_s = busy_s.zip(steal_s).map(|(busy, steal)| busy + steal);
        let mhz: Vec<f64> = inside().filter_map(|s| s.mhz).collect();
        Some(Self {
            samples: inside().count() as u64,
            own_cores: own_s / window_s,
            other_cores: busy_s.map(|busy_s| (busy_s - own_s).max(0.0) / window_s),
            steal_cores: steal_s.map(|steal_s| steal_s / window_s),
            steal_share: steal_s
                .zip(wanted_s.filter(|&s| s > 0.0))
                .map(|(steal, wanted)| steal / wanted),
            mhz: (!mhz.is_empty()).then(|| mhz.iter().sum::<f64>() / mhz.len() as f64),
            min_mhz: mhz.iter().copied().reduce(f64::min),
            max_rss_bytes: inside().filter_map(|s| s.rss_bytes).max(),
            min_available_bytes: inside().filter_map(|s| s.available_bytes).min(),
            package_joules: risen(&|s| s.package_joules),
        })
    }
}

/// A counter at an instant between the first and the last sample, which are in order of `time`.
pub(crate) fn value_at<S>(
    samples: &[S],
    at_ns: u64,
    time: &dyn Fn(&S) -> u64,
    of: &dyn Fn(&S) -> Option<f64>,
) -> Option<f64> {
    let after = samples.partition_point(|s| time(s) < at_ns);
    let b = samples.get(after)?;
    if time(b) == at_ns || after == 0 {
        return of(b);
    }
    let a = &samples[after - 1];
    let share = (at_ns - time(a)) as f64 / (time(b) - time(a)) as f64;
    let (low, high) = (of(a)?, of(b)?);
    Some(low + share * (high - low))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, own: f64, busy: f64, steal: f64) -> Sample {
        Sample {
            at_ns: at_ms * 1_000_000,
            own_cpu_s: own,
            busy_cpu_s: Some(busy),
            steal_cpu_s: Some(steal),
            rss_bytes: Some(at_ms),
            available_bytes: Some(1_000 - at_ms),
            mhz: (at_ms == 100).then_some(2_000.0),
            package_joules: Some(at_ms as f64 / 10.0),
        }
    }

    #[test]
    fn a_window_by_hand() {
        let samples = [
            sample(0, 0.0, 0.0, 0.0),
            sample(100, 0.10, 0.16, 0.00),
            sample(200, 0.30, 0.40, 0.04),
            sample(300, 0.40, 0.60, 0.04),
        ];
        // Own 0.05 → 0.35, busy 0.08 → 0.50, steal 0 → 0.04, 5 → 25 J in 0.2 s.
        let found = TelemetrySummary::of(&samples, 50_000_000, 250_000_000).unwrap();
        let near = |found: Option<f64>, expected: f64| {
            assert!(
                (found.unwrap() - expected).abs() < 1e-12,
                "{found:?} {expected}"
            );
        };
        near(Some(found.own_cores), 1.5);
        near(found.other_cores, (0.42 - 0.3) / 0.2);
        near(found.steal_cores, 0.2);
        near(found.steal_share, 0.04 / 0.46);
        near(found.package_joules, 20.0);
        near(found.mhz, 2_000.0);
        assert_eq!((found.samples, found.max_rss_bytes), (2, Some(200)));
        assert_eq!(found.min_available_bytes, Some(800));
        // Not sampled over the whole window.
        assert_eq!(
            TelemetrySummary::of(&samples, 50_000_000, 301_000_000),
            None
        );
        assert_eq!(TelemetrySummary::of(&samples[1..], 0, 200_000_000), None);
        assert_eq!(TelemetrySummary::of(&[], 0, 1), None);
    }

    #[test]
    fn sampling_sees_this_process_at_work() {
        let clock = MonotonicClock::start();
        let (send, told) = channel();
        let telemetry = Telemetry::start(clock, move |s| {
            let _ = send.send(*s);
        })
        .unwrap();
        let start_ns = told.recv().unwrap().at_ns;
        let begun_s = seconds(ClockId::ProcessCPUTime);
        let mut x = 1u64;
        while seconds(ClockId::ProcessCPUTime) - begun_s < 0.25 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let end_ns = clock.now_ns();
        let summary = telemetry.summary(start_ns, end_ns).unwrap();
        let cost = telemetry.cost();
        drop(telemetry);
        let samples: Vec<Sample> = told.iter().collect();
        assert!(cost.samples > 0 && cost.samples as usize <= samples.len() + 1);
        let last = samples.last().unwrap();
        assert!(
            summary.own_cores > 0.0 && last.at_ns >= end_ns,
            "{summary:?}"
        );
        assert!(last.at_ns > start_ns && last.own_cpu_s >= 0.25, "{last:?}");
        assert!(samples.is_sorted_by_key(|s| s.at_ns));
        assert!(cost.cpu_s > 0.0 && cost.cpu_s < last.own_cpu_s, "{cost:?}");
        if cfg!(target_os = "linux") {
            assert!(last.rss_bytes.is_some_and(|b| b > 1 << 20), "{last:?}");
            assert!(last.busy_cpu_s.is_some() && last.available_bytes.is_some());
        }
    }
}
