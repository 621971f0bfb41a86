//! When a backend has reached its steady state.

use serde::{Deserialize, Serialize};

use costmark_core::StepRecord;

/// Fewest samples in a window whose median is compared.
const WINDOW_SAMPLES: usize = 8;
/// Fewest gaps in a window of an open loop, whose requests in flight are not known ahead.
const OPEN_WINDOW_GAPS: usize = 64;
/// Shortest time a window spans, so that very fast steps are not judged on an instant.
const WINDOW_NS: u64 = 100_000_000;

/// How long to warm up: until every slot has brought a first token and the median step
/// time (for a backend without a step log: the median gap between token events) of two
/// successive windows agrees within [`tolerance`](Self::tolerance), or a bound is reached.
/// The measurement then begins with the next request that is due.
///
/// An open loop has no slots. In its place stands the number of requests in flight: the
/// load has turned over once when as many have ended as are in flight now, and
/// [`max_ns`](Self::max_ns) ends the warm-up even if that never comes (requests arriving
/// faster than they are served).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Warmup {
    /// Off: measure from the first request. A closed loop then starts all its requests
    /// whole and at once.
    pub enabled: bool,
    /// Relative difference of medians that counts as agreement.
    pub tolerance: f64,
    /// Warm-up ends, settled or not, after this many requests per slot have ended.
    pub max_requests_per_slot: u32,
    /// Warm-up ends, settled or not, after this long.
    pub max_ns: u64,
    /// Warm-up lasts this long even if all else says that it is over.
    pub min_ns: u64,
}

impl Default for Warmup {
    fn default() -> Self {
        Self {
            enabled: true,
            tolerance: 0.05,
            max_requests_per_slot: 3,
            max_ns: 120_000_000_000,
            min_ns: 0,
        }
    }
}

impl Warmup {
    /// No warm-up.
    #[must_use]
    pub fn off() -> Self {
        Self {
            enabled: false,
            ..Self::default()
        }
    }
}

impl Warmup {
    /// This long, settled or not; and until every slot has brought a token.
    #[must_use]
    pub fn for_ns(ns: u64) -> Self {
        Self {
            max_requests_per_slot: u32::MAX,
            max_ns: ns,
            min_ns: ns,
            ..Self::default()
        }
    }
}

/// Watches a warm-up.
#[derive(Debug)]
pub(crate) struct WarmupWatch {
    limits: Warmup,
    /// Requests kept in flight; `None` for an open loop.
    slots: Option<u64>,
    begun_ns: u64,
    sent: u64,
    /// Requests that brought a first token, or ended without one.
    started: u64,
    ended: u64,
    steps: Settling,
    gaps: Settling,
}

impl WarmupWatch {
    pub(crate) fn new(limits: Warmup, slots: Option<u32>, now_ns: u64) -> Self {
        let window_gaps = slots.map_or(OPEN_WINDOW_GAPS, |n| WINDOW_SAMPLES * n as usize);
        Self {
            limits,
            slots: slots.map(u64::from),
            begun_ns: now_ns,
            sent: 0,
            started: 0,
            ended: 0,
            steps: Settling::new(limits.tolerance, WINDOW_SAMPLES),
            gaps: Settling::new(limits.tolerance, window_gaps),
        }
    }

    pub(crate) fn on_sent(&mut self) {
        self.sent += 1;
    }

    /// Tokens arrived: the first of their request, or `gap_ns` after its last ones.
    pub(crate) fn on_tokens(&mut self, at_ns: u64, gap_ns: Option<u64>) {
        match gap_ns {
            None => self.started += 1,
            Some(gap_ns) if self.all_started() => self.gaps.push(at_ns, gap_ns),
            Some(_) => {}
        }
    }

    pub(crate) fn on_step(&mut self, step: &StepRecord) {
        if self.all_started() {
            self.steps.push(step.end_ns, step.duration_ns());
        }
    }

    pub(crate) fn on_end(&mut self, brought_tokens: bool) {
        self.started += u64::from(!brought_tokens);
        self.ended += 1;
    }

    pub(crate) fn is_settled(&self) -> bool {
        // Steps are the finer signal wherever there are any.
        let signal = if self.steps.is_empty() {
            &self.gaps
        } else {
            &self.steps
        };
        signal.settled
    }

    pub(crate) fn is_over(&self, now_ns: u64) -> bool {
        let elapsed_ns = now_ns.saturating_sub(self.begun_ns);
        if self.limits.enabled && elapsed_ns < self.limits.min_ns {
            return false;
        }
        let late = elapsed_ns >= self.limits.max_ns;
        let turned_over = self.turning_over() * u64::from(self.limits.max_requests_per_slot);
        let enough = self.is_settled() || late || self.ended >= turned_over;
        !self.limits.enabled || self.all_started() && enough || self.slots.is_none() && late
    }

    /// Requests that must have ended for the load to have turned over once.
    fn turning_over(&self) -> u64 {
        self.slots
            .unwrap_or_else(|| self.sent.saturating_sub(self.ended).max(1))
    }

    /// Before every slot has a first token the backend is busy with prompts alone. In an
    /// open loop the load is still building up before it has turned over once.
    fn all_started(&self) -> bool {
        match self.slots {
            Some(slots) => self.started >= slots,
            None => self.ended >= self.turning_over(),
        }
    }
}

/// Compares medians of successive windows of durations.
#[derive(Debug)]
struct Settling {
    tolerance: f64,
    min_samples: usize,
    window: Vec<u64>,
    window_begun_ns: Option<u64>,
    last_median_ns: Option<u64>,
    settled: bool,
}

impl Settling {
    fn new(tolerance: f64, min_samples: usize) -> Self {
        Self {
            tolerance,
            min_samples,
            window: Vec::new(),
            window_begun_ns: None,
            last_median_ns: None,
            settled: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.window_begun_ns.is_none()
    }

    fn push(&mut self, end_ns: u64, duration_ns: u64) {
        let begun_ns = *self
            .window_begun_ns
            .get_or_insert(end_ns.saturating_sub(duration_ns));
        self.window.push(duration_ns);
        if self.window.len() < self.min_samples || end_ns.saturating_sub(begun_ns) < WINDOW_NS {
            return;
        }
        let middle = self.window.len() / 2;
        let median_ns = *self.window.select_nth_unstable(middle).1;
        if let Some(last_ns) = self.last_median_ns {
            let difference = median_ns.abs_diff(last_ns) as f64;
            // Not sticky: a machine that starts to throttle is no longer settled.
            self.settled = difference <= self.tolerance * last_ns as f64;
        }
        self.last_median_ns = Some(median_ns);
        self.window.clear();
        self.window_begun_ns = Some(end_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn settles_after(durations_ms: impl IntoIterator<Item = u64>) -> Option<usize> {
        let mut settling = Settling::new(0.05, 8);
        let mut now_ns = 0;
        for (i, ms) in durations_ms.into_iter().enumerate() {
            now_ns += ms * MS;
            settling.push(now_ns, ms * MS);
            if settling.settled {
                return Some(i + 1);
            }
        }
        None
    }

    #[test]
    fn two_windows_that_agree_settle() {
        assert_eq!(settles_after([20; 40]), Some(16));
        // Fast steps fill 100 ms first.
        assert_eq!(settles_after([1; 400]), Some(200));
        // One slow step in a window does not move its median.
        assert_eq!(
            settles_after((0..40).map(|i| if i % 8 == 3 { 90 } else { 20 })),
            Some(16)
        );
    }

    #[test]
    fn a_drift_does_not_settle() {
        let drifting = (0..80).map(|i| 1000 / (i / 8 + 1));
        assert_eq!(settles_after(drifting), None);
        let slow_start = (0..40).map(|i| if i < 10 { 50 } else { 20 });
        // Windows end at 8 (50 ms), 16 (20 ms), 24 (20 ms).
        assert_eq!(settles_after(slow_start), Some(24));
    }

    #[test]
    fn warmup_waits_for_every_slot_and_is_bounded() {
        let limits = Warmup {
            max_requests_per_slot: 1,
            ..Warmup::default()
        };
        let mut watch = WarmupWatch::new(limits, Some(2), 0);
        watch.on_tokens(MS, None);
        for i in 0..100 {
            watch.on_tokens((i + 2) * 100 * MS, Some(100 * MS));
        }
        assert!(!watch.is_over(u64::MAX), "one slot has not started");
        watch.on_end(true);
        watch.on_end(false);
        assert!(watch.is_over(0), "both slots have started and ended");
        assert!(!watch.is_settled());
    }

    #[test]
    fn a_stated_time_is_kept() {
        let mut watch = WarmupWatch::new(Warmup::for_ns(500 * MS), Some(1), 0);
        watch.on_sent();
        watch.on_tokens(MS, None);
        for i in 0..400 {
            watch.on_tokens((i + 2) * MS, Some(MS));
            watch.on_end(true);
        }
        assert!(watch.is_settled() && !watch.is_over(499 * MS));
        assert!(watch.is_over(500 * MS));
    }

    #[test]
    fn an_open_loop_turns_over_once_or_runs_out_of_time() {
        let mut watch = WarmupWatch::new(Warmup::default(), None, 0);
        for _ in 0..4 {
            watch.on_sent();
        }
        watch.on_tokens(MS, None);
        watch.on_end(true);
        // Equal gaps, but three are in flight and one has ended.
        for i in 0..1_000 {
            watch.on_tokens((i + 2) * MS, Some(MS));
        }
        assert!(!watch.is_over(2_000 * MS));
        assert!(watch.is_over(Warmup::default().max_ns));
        watch.on_end(true);
        for i in 1_000..2_000 {
            watch.on_tokens((i + 2) * MS, Some(MS));
        }
        assert!(watch.is_settled() && watch.is_over(2_000 * MS));
    }
}
