//! The measured window: the longest stretch at the load that was asked for.

use costmark_core::RequestRecord;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Steady means at least this much of the target concurrency, in percent.
const STEADY_PERCENT: u64 = 95;
/// A window should last this long, or [`MIN_SHARE_OF_RUN`] if that is longer.
const MIN_SECONDS: f64 = 10.0;
const MIN_SHARE_OF_RUN: f64 = 0.1;

/// The stretch of time figures per second are taken from: after `start_ns`, up to and
/// including `end_ns`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Begin. Tokens at this very instant belong to the time before.
    pub start_ns: u64,
    /// End. Tokens at this very instant are counted.
    pub end_ns: u64,
    /// Length.
    pub seconds: f64,
    /// Its share of the measured time.
    pub share_of_run: f64,
    /// Concurrency stayed at 95 % of its target or more. `false`: it never got there, and
    /// the window is the whole measured time. `true` where no target was given.
    pub steady: bool,
    /// Shorter than 10 s or a tenth of the run.
    pub short: bool,
}

impl Window {
    /// The longest part of `start_ns..=end_ns` in which at least 95 % of
    /// `target_concurrency` requests were wanted in flight: from the instant they were
    /// scheduled (in a closed loop: their predecessor ended) to their end.
    #[must_use]
    pub fn find<'a>(
        records: impl IntoIterator<Item = &'a RequestRecord>,
        target_concurrency: Option<u32>,
        start_ns: u64,
        end_ns: u64,
    ) -> Self {
        let end_ns = end_ns.max(start_ns);
        let longest = match target_concurrency {
            None => Some((start_ns, end_ns)),
            Some(target) => longest_at(records, target, start_ns, end_ns),
        };
        let (from_ns, to_ns) = longest.unwrap_or((start_ns, end_ns));
        let seconds = (to_ns - from_ns) as f64 / 1e9;
        let run_s = (end_ns - start_ns) as f64 / 1e9;
        Self {
            start_ns: from_ns,
            end_ns: to_ns,
            seconds,
            share_of_run: if run_s > 0.0 { seconds / run_s } else { 0.0 },
            steady: longest.is_some(),
            short: seconds < MIN_SECONDS.max(MIN_SHARE_OF_RUN * run_s),
        }
    }

    /// Whether an event at `at_ns` falls into the window.
    #[must_use]
    pub fn contains(&self, at_ns: u64) -> bool {
        self.start_ns < at_ns && at_ns <= self.end_ns
    }

    /// How much of `from_ns..to_ns` lies in the window.
    #[must_use]
    pub fn overlap_ns(&self, from_ns: u64, to_ns: u64) -> u64 {
        to_ns
            .min(self.end_ns)
            .saturating_sub(from_ns.max(self.start_ns))
    }
}

/// The longest span with enough requests in flight; `None` if there never were.
fn longest_at<'a>(
    records: impl IntoIterator<Item = &'a RequestRecord>,
    target: u32,
    start_ns: u64,
    end_ns: u64,
) -> Option<(u64, u64)> {
    let needed = (STEADY_PERCENT * u64::from(target)).div_ceil(100) as i64;
    let mut changes: Vec<(u64, i64)> = records
        .into_iter()
        .flat_map(|r| [(r.scheduled_ns, 1), (r.finished_ns, -1)])
        .map(|(at_ns, change)| (at_ns.clamp(start_ns, end_ns), change))
        .collect();
    changes.push((end_ns, 0));
    changes.sort_unstable_by_key(|&(at_ns, _)| at_ns);

    let mut longest: Option<(u64, u64)> = None;
    let mut in_flight = 0;
    let mut since_ns = None;
    // All changes of one instant together: a slot that is handed on does not count as a dip.
    for instant in changes.chunk_by(|a, b| a.0 == b.0) {
        let at_ns = instant[0].0;
        if let Some(from_ns) = since_ns
            && longest.is_none_or(|(a, b)| at_ns - from_ns > b - a)
        {
            longest = Some((from_ns, at_ns));
        }
        in_flight += instant.iter().map(|&(_, change)| change).sum::<i64>();
        since_ns = match since_ns {
            _ if in_flight < needed => None,
            None => Some(at_ns),
            kept => kept,
        };
    }
    longest.filter(|(from_ns, to_ns)| to_ns > from_ns)
}
