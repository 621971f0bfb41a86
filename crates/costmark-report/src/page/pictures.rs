//! A run as pictures show it: a few hundred buckets of time and a grid of step speeds.
//!
//! Nothing that stands out is lost: a bucket keeps its least and greatest value beside the
//! mean, and a cell of the grid is drawn however few steps fell into it.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::document::RunDocument;
use crate::lines::{Phase, TelemetryLine};

/// Buckets of a timeline: about two pixels each on a wide screen.
const BUCKETS: usize = 500;
/// Cells per decade of a step's arithmetic intensity and speed.
const CELLS_PER_DECADE: f64 = 40.0;

/// A request, as far as a picture needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) sent_ns: u64,
    pub(super) first_ns: Option<u64>,
    pub(super) finished_ns: u64,
    pub(super) is_measured: bool,
}

/// A step, as far as a picture needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    pub(super) prefill_tokens: u32,
    pub(super) decode_tokens: u32,
    pub(super) sequences: u32,
    pub(super) bytes: u64,
    pub(super) flops: u64,
    pub(super) waiting: u32,
    pub(super) kv_blocks_used: u32,
    pub(super) kv_blocks_total: u32,
}

/// What the values of a stretch of time were.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    low: f64,
    high: f64,
    sum: f64,
    weight: f64,
}

const EMPTY: Bucket = Bucket {
    low: f64::INFINITY,
    high: f64::NEG_INFINITY,
    sum: 0.0,
    weight: 0.0,
};

impl Bucket {
    fn add(&mut self, value: f64, weight: f64) {
        self.merge(&Self {
            low: value,
            high: value,
            sum: value * weight,
            weight,
        });
    }

    fn merge(&mut self, other: &Self) {
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
        self.sum += other.sum;
        self.weight += other.weight;
    }
}

/// A quantity over time.
#[derive(Debug, Clone)]
struct Track {
    buckets: Vec<Bucket>,
}

/// A quantity over time as the page gets it: one entry per bucket that has a value.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Series {
    /// Middle of the bucket, seconds from the start of the run.
    pub(super) at_s: Vec<f64>,
    pub(super) mean: Vec<f64>,
    pub(super) low: Vec<f64>,
    pub(super) high: Vec<f64>,
}

/// Steps of about one speed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Cell {
    /// FLOPs per byte that had to move.
    intensity: f64,
    /// Of the fastest of them.
    flops_per_s: f64,
    /// Of the same.
    mbu: Option<f64>,
    mfu: Option<f64>,
    /// How many.
    steps: u64,
}

impl Cell {
    #[cfg(test)]
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    #[cfg(test)]
    pub(super) fn flops_per_s(&self) -> f64 {
        self.flops_per_s
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Prefill,
    Decode,
    Mixed,
}

/// All pictures of raw lines, in the making. Those of parts of a file can be merged.
#[derive(Debug, Clone)]
pub(super) struct Pictures {
    begin_ns: u64,
    bucket_ns: u64,
    sequences: Track,
    kv_share: Track,
    waiting: Track,
    mbu: Track,
    ttft_ms: Track,
    own_cores: Track,
    other_cores: Track,
    rss_gib: Track,
    ghz: Track,
    watts: Track,
    /// Requests begun minus ended, per bucket.
    changes: Vec<i64>,
    cells: HashMap<(Kind, i32, i32), Cell>,
    /// Peak bytes and FLOPs per second, by level and repeat.
    peaks: BTreeMap<String, BTreeMap<u32, (f64, f64)>>,
    pub(super) steps: u64,
    pub(super) requests: u64,
}

impl Pictures {
    /// Room for the lines of `run`.
    pub(super) fn new(run: &RunDocument) -> Self {
        let before =
            |u: &crate::document::UnitDocument| u.start_ns.saturating_sub(u.warmup.duration_ns);
        let begin_ns = run.units.iter().map(before).min().unwrap_or(0);
        let end_ns = run.units.iter().map(|u| u.end_ns).max().unwrap_or(0);
        let mut peaks: BTreeMap<String, BTreeMap<u32, (f64, f64)>> = BTreeMap::new();
        for unit in &run.units {
            if let Some(roofline) = super::roofline(unit) {
                peaks.entry(unit.level.to_string()).or_default().insert(
                    unit.repeat,
                    (roofline.read_bytes_per_s, roofline.flops_per_s),
                );
            }
        }
        Self {
            peaks,
            ..Self::spanning(begin_ns, end_ns)
        }
    }

    /// Room for what happened between two instants.
    pub(super) fn spanning(begin_ns: u64, end_ns: u64) -> Self {
        let track = Track {
            buckets: vec![EMPTY; BUCKETS],
        };
        Self {
            begin_ns,
            bucket_ns: (end_ns.saturating_sub(begin_ns) / BUCKETS as u64).max(1),
            sequences: track.clone(),
            kv_share: track.clone(),
            waiting: track.clone(),
            mbu: track.clone(),
            ttft_ms: track.clone(),
            own_cores: track.clone(),
            other_cores: track.clone(),
            rss_gib: track.clone(),
            ghz: track.clone(),
            watts: track,
            changes: vec![0; BUCKETS],
            cells: HashMap::new(),
            peaks: BTreeMap::new(),
            steps: 0,
            requests: 0,
        }
    }

    /// The same room, empty.
    pub(super) fn like(&self) -> Self {
        let mut other = self.clone();
        other.cells.clear();
        other.changes.fill(0);
        (other.steps, other.requests) = (0, 0);
        for track in other.tracks() {
            track.buckets.fill(EMPTY);
        }
        other
    }

    fn tracks(&mut self) -> [&mut Track; 10] {
        [
            &mut self.sequences,
            &mut self.kv_share,
            &mut self.waiting,
            &mut self.mbu,
            &mut self.ttft_ms,
            &mut self.own_cores,
            &mut self.other_cores,
            &mut self.rss_gib,
            &mut self.ghz,
            &mut self.watts,
        ]
    }

    fn bucket(&self, at_ns: u64) -> usize {
        let index = at_ns.saturating_sub(self.begin_ns) / self.bucket_ns;
        usize::try_from(index)
            .unwrap_or(usize::MAX)
            .min(BUCKETS - 1)
    }

    /// How much of a stretch of time lies in a bucket; the last one is open at its end.
    fn seconds_within(&self, bucket: usize, start_ns: u64, end_ns: u64) -> f64 {
        let begin_ns = self.begin_ns + bucket as u64 * self.bucket_ns;
        let until_ns = match bucket + 1 {
            BUCKETS => u64::MAX,
            _ => begin_ns + self.bucket_ns,
        };
        end_ns.min(until_ns).saturating_sub(start_ns.max(begin_ns)) as f64 / 1e9
    }

    pub(super) fn add_request(&mut self, request: &Request) {
        self.requests += 1;
        let (from, to) = (
            self.bucket(request.sent_ns),
            self.bucket(request.finished_ns),
        );
        self.changes[from] += 1;
        self.changes[to] -= 1;
        if let Some(first_ns) = request.first_ns.filter(|_| request.is_measured) {
            let ttft_ms = first_ns.saturating_sub(request.sent_ns) as f64 / 1e6;
            self.ttft_ms.buckets[from].add(ttft_ms, 1.0);
        }
    }

    /// What the machine did between two samples: counters become rates.
    pub(super) fn add_samples(&mut self, before: &TelemetryLine, now: &TelemetryLine) {
        let seconds = now.at_ns.saturating_sub(before.at_ns) as f64 / 1e9;
        // Counters begin anew where a run was taken up again.
        if seconds <= 0.0 || now.own_cpu_s < before.own_cpu_s {
            return;
        }
        let rate = |of: fn(&TelemetryLine) -> Option<f64>| Some((of(now)? - of(before)?) / seconds);
        let others = |s: &TelemetryLine| {
            let busy = s.busy_cpu_s?;
            Some(busy - s.own_cpu_s + s.steal_cpu_s.unwrap_or(0.0))
        };
        let bucket = self.bucket(now.at_ns);
        for (track, value) in [
            (&mut self.own_cores, rate(|s| Some(s.own_cpu_s))),
            (&mut self.other_cores, rate(others).map(|x| x.max(0.0))),
            (
                &mut self.rss_gib,
                now.rss_bytes.map(|b| b as f64 / (1u64 << 30) as f64),
            ),
            (&mut self.ghz, now.mhz.map(|mhz| mhz / 1e3)),
            (&mut self.watts, rate(|s| s.package_joules)),
        ] {
            if let Some(value) = value {
                track.buckets[bucket].add(value, seconds);
            }
        }
    }

    pub(super) fn add_step(&mut self, level: &str, repeat: u32, phase: Phase, step: &Step) {
        self.steps += 1;
        let seconds = step.end_ns.saturating_sub(step.start_ns) as f64 / 1e9;
        if seconds <= 0.0 {
            return;
        }
        let peaks = self.peaks.get(level).and_then(|l| l.get(&repeat)).copied();
        let mbu = peaks.map(|(bytes_per_s, _)| step.bytes as f64 / seconds / bytes_per_s);
        let kv_share = (step.kv_blocks_total > 0)
            .then(|| f64::from(step.kv_blocks_used) / f64::from(step.kv_blocks_total));
        // A long step fills more than one bucket.
        for bucket in self.bucket(step.start_ns)..=self.bucket(step.end_ns) {
            let weight = self.seconds_within(bucket, step.start_ns, step.end_ns);
            for (track, value) in [
                (&mut self.sequences, Some(f64::from(step.sequences))),
                (&mut self.waiting, Some(f64::from(step.waiting))),
                (&mut self.kv_share, kv_share),
                (&mut self.mbu, mbu),
            ] {
                if let Some(value) = value {
                    track.buckets[bucket].add(value, weight);
                }
            }
        }
        let kind = match (step.prefill_tokens > 0, step.decode_tokens > 0) {
            (true, false) => Kind::Prefill,
            (false, true) => Kind::Decode,
            (true, true) => Kind::Mixed,
            (false, false) => return,
        };
        if phase != Phase::Measured || step.bytes == 0 || step.flops == 0 {
            return;
        }
        let intensity = step.flops as f64 / step.bytes as f64;
        let flops_per_s = step.flops as f64 / seconds;
        let index = |x: f64| (x.log10() * CELLS_PER_DECADE).floor() as i32;
        let cell = Cell {
            intensity,
            flops_per_s,
            mbu,
            mfu: peaks.map(|(_, peak)| flops_per_s / peak),
            steps: 1,
        };
        let key = (kind, index(intensity), index(flops_per_s));
        merge_cell(&mut self.cells, key, cell);
    }

    pub(super) fn merge(&mut self, mut other: Self) {
        for (own, more) in self.tracks().into_iter().zip(other.tracks()) {
            for (a, b) in own.buckets.iter_mut().zip(&more.buckets) {
                a.merge(b);
            }
        }
        for (a, b) in self.changes.iter_mut().zip(&other.changes) {
            *a += b;
        }
        for (key, cell) in other.cells {
            merge_cell(&mut self.cells, key, cell);
        }
        self.steps += other.steps;
        self.requests += other.requests;
    }

    fn at_s(&self, bucket: usize) -> f64 {
        (self.begin_ns as f64 + (bucket as f64 + 0.5) * self.bucket_ns as f64) / 1e9
    }

    fn series(&self, track: &Track) -> Series {
        let mut series = Series::default();
        for (index, bucket) in track.buckets.iter().enumerate() {
            if bucket.weight > 0.0 {
                series.at_s.push(rounded(self.at_s(index)));
                series.mean.push(rounded(bucket.sum / bucket.weight));
                series.low.push(rounded(bucket.low));
                series.high.push(rounded(bucket.high));
            }
        }
        series
    }

    /// Requests in flight at the end of each bucket.
    fn in_flight(&self) -> Series {
        let mut series = Series::default();
        let mut now = 0i64;
        for (index, change) in self.changes.iter().enumerate() {
            now += change;
            let value = now.max(0) as f64;
            series.at_s.push(rounded(self.at_s(index)));
            series.mean.push(value);
            series.low.push(value);
            series.high.push(value);
        }
        if self.requests == 0 {
            Series::default()
        } else {
            series
        }
    }

    pub(super) fn finish(&self) -> Finished {
        let mut steps: BTreeMap<Kind, Vec<Cell>> = BTreeMap::new();
        for ((kind, ..), cell) in &self.cells {
            steps.entry(*kind).or_default().push(Cell {
                intensity: rounded(cell.intensity),
                flops_per_s: rounded(cell.flops_per_s),
                mbu: cell.mbu.map(rounded),
                mfu: cell.mfu.map(rounded),
                steps: cell.steps,
            });
        }
        for cells in steps.values_mut() {
            cells.sort_by(|a, b| {
                (a.intensity, a.flops_per_s)
                    .partial_cmp(&(b.intensity, b.flops_per_s))
                    .unwrap_or(std::cmp::Ordering::Equal)
            });
        }
        Finished {
            in_flight: self.in_flight(),
            sequences: self.series(&self.sequences),
            kv_share: self.series(&self.kv_share),
            waiting: self.series(&self.waiting),
            mbu: self.series(&self.mbu),
            ttft_ms: self.series(&self.ttft_ms),
            own_cores: self.series(&self.own_cores),
            other_cores: self.series(&self.other_cores),
            rss_gib: self.series(&self.rss_gib),
            ghz: self.series(&self.ghz),
            watts: self.series(&self.watts),
            cells: steps,
            requests: self.requests,
            steps: self.steps,
        }
    }
}

fn merge_cell(cells: &mut HashMap<(Kind, i32, i32), Cell>, key: (Kind, i32, i32), cell: Cell) {
    cells
        .entry(key)
        .and_modify(|own| {
            let steps = own.steps + cell.steps;
            if cell.flops_per_s > own.flops_per_s {
                *own = cell;
            }
            own.steps = steps;
        })
        .or_insert(cell);
}

/// Five significant digits: more than a screen shows, in a fraction of the bytes.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(4 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// The pictures as the page gets them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Finished {
    pub(super) in_flight: Series,
    pub(super) sequences: Series,
    pub(super) kv_share: Series,
    pub(super) waiting: Series,
    pub(super) mbu: Series,
    pub(super) ttft_ms: Series,
    pub(super) own_cores: Series,
    /// Of other programs, and stolen by the hypervisor.
    pub(super) other_cores: Series,
    pub(super) rss_gib: Series,
    pub(super) ghz: Series,
    pub(super) watts: Series,
    pub(super) cells: BTreeMap<Kind, Vec<Cell>>,
    pub(super) requests: u64,
    pub(super) steps: u64,
}
