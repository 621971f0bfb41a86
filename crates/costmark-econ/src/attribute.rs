//! Where the time of a window went: prefill, attention to cached context, decode, idle.
//!
//! Times are *engine step times*, which never overlap, not sums over requests, which do
//! under batching. Several replicas are one machine: each step counts with its share of it.

use costmark_core::{ModelWork, Roofline, StepPart, StepRecord};
use serde::{Deserialize, Serialize};

use crate::error::Undefined;

/// How the time of a window was spent, in seconds.
///
/// `prefill_s + decode_s + idle_s = window_s`; `cached_s` is part of `prefill_s`,
/// `mixed_s` of prefill and decode together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PhaseTimes {
    /// Length of the window.
    pub window_s: f64,
    /// Step time spent on prompts, attention to cached context included.
    pub prefill_s: f64,
    /// Of `prefill_s`, the time spent on context that came from the prefix cache.
    pub cached_s: f64,
    /// Step time spent on generation.
    pub decode_s: f64,
    /// Time outside any step that did work.
    pub idle_s: f64,
    /// Time in steps that held both phases and had to be split.
    pub mixed_s: f64,
}

impl PhaseTimes {
    /// From phase times known otherwise, such as published machine hours per phase.
    ///
    /// # Errors
    /// [`Undefined::EmptyWindow`] or [`Undefined::OverlappingSteps`] when the parts do not
    /// fit into the window.
    pub fn new(
        window_s: f64,
        prefill_s: f64,
        cached_s: f64,
        decode_s: f64,
    ) -> Result<Self, Undefined> {
        let times = Self {
            window_s,
            prefill_s,
            cached_s,
            decode_s,
            idle_s: 0.0,
            mixed_s: 0.0,
        };
        times.with_idle()
    }

    /// Step time: the time that can be charged to tokens directly.
    #[must_use]
    pub fn busy_s(&self) -> f64 {
        self.prefill_s + self.decode_s
    }

    /// Prefill's share of step time; none without step time.
    #[must_use]
    pub fn prefill_share(&self) -> Option<f64> {
        ratio(self.prefill_s, self.busy_s())
    }

    /// Share of step time in steps that mix the phases, hence split by the roofline.
    #[must_use]
    pub fn mixed_share(&self) -> Option<f64> {
        ratio(self.mixed_s, self.busy_s())
    }

    /// Share of the window in which no step did work.
    #[must_use]
    pub fn idle_share(&self) -> Option<f64> {
        ratio(self.idle_s, self.window_s)
    }

    /// Adds up the windows of several repeats. None for no windows.
    #[must_use]
    pub fn sum(windows: &[Self]) -> Option<Self> {
        let (first, rest) = windows.split_first()?;
        Some(rest.iter().fold(*first, |a, b| Self {
            window_s: a.window_s + b.window_s,
            prefill_s: a.prefill_s + b.prefill_s,
            cached_s: a.cached_s + b.cached_s,
            decode_s: a.decode_s + b.decode_s,
            idle_s: a.idle_s + b.idle_s,
            mixed_s: a.mixed_s + b.mixed_s,
        }))
    }

    fn with_idle(mut self) -> Result<Self, Undefined> {
        if !(self.window_s.is_finite() && self.window_s > 0.0) {
            return Err(Undefined::EmptyWindow);
        }
        let idle_s = self.window_s - self.busy_s();
        // Sums of many steps round; more than a billionth of the window is not rounding.
        if idle_s.is_nan() || idle_s < -1e-9 * self.window_s {
            return Err(Undefined::OverlappingSteps);
        }
        self.idle_s = idle_s.max(0.0);
        Ok(self)
    }
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// Splits the time of the window `[start_ns, end_ns)` by phase. The roofline is one replica's.
///
/// - A step counts with the part of it that lies inside the window, and of `replicas` that ran
///   side by side with 1 ÷ `replicas` of that: it kept so much of the machine.
/// - A step that mixes phases is split in proportion to what each part would take alone:
///   the larger of its bytes over bandwidth and its FLOPs over arithmetic rate
///   ([`ModelWork::part_alone`], [`Roofline::seconds`]).
/// - Of a prefill part, the cached share is the roofline time of attending to context that
///   came from the prefix cache ([`ModelWork::cached_context`]) over that of the part.
/// - A step without tokens is idle time, as is all time outside steps.
///
/// # Errors
/// [`Undefined::EmptyWindow`], [`Undefined::NoRoofline`], [`Undefined::OverlappingSteps`],
/// or [`Undefined::NoSteps`] when no step did work inside the window.
pub fn phase_times(
    steps: &[StepRecord],
    start_ns: u64,
    end_ns: u64,
    replicas: u32,
    work: &ModelWork,
    roofline: &Roofline,
) -> Result<PhaseTimes, Undefined> {
    if end_ns <= start_ns {
        return Err(Undefined::EmptyWindow);
    }
    if !(is_rate(roofline.read_bytes_per_s) && is_rate(roofline.flops_per_s)) {
        return Err(Undefined::NoRoofline);
    }
    let mut times = PhaseTimes {
        window_s: seconds(end_ns - start_ns),
        prefill_s: 0.0,
        cached_s: 0.0,
        decode_s: 0.0,
        idle_s: 0.0,
        mixed_s: 0.0,
    };
    for step in steps {
        let inside_ns = step
            .end_ns
            .min(end_ns)
            .saturating_sub(step.start_ns.max(start_ns));
        let inside_s = seconds(inside_ns) / f64::from(replicas.max(1));
        let prefill_share = match (step.prefill.tokens > 0, step.decode.tokens > 0) {
            (false, false) => continue,
            (true, false) => 1.0,
            (false, true) => 0.0,
            (true, true) => {
                times.mixed_s += inside_s;
                prefill_share(step, work, roofline)
            }
        };
        let prefill_s = inside_s * prefill_share;
        times.prefill_s += prefill_s;
        times.cached_s += prefill_s * cached_share(&step.prefill, work, roofline);
        times.decode_s += inside_s - prefill_s;
    }
    if times.busy_s() <= 0.0 {
        return Err(Undefined::NoSteps);
    }
    times.with_idle()
}

/// Prefill's share of a mixed step.
fn prefill_share(step: &StepRecord, work: &ModelWork, roofline: &Roofline) -> f64 {
    let prefill = roofline.seconds(work.part_alone(&step.prefill));
    let decode = roofline.seconds(work.part_alone(&step.decode));
    ratio(prefill, prefill + decode).unwrap_or_else(|| {
        // A model that moves and computes nothing: tokens are all there is to go by.
        let (p, d) = (
            f64::from(step.prefill.tokens),
            f64::from(step.decode.tokens),
        );
        p / (p + d)
    })
}

/// The share of a prefill part that cached context takes; at most 1, because neither its
/// bytes nor its FLOPs exceed the part's.
fn cached_share(prefill: &StepPart, work: &ModelWork, roofline: &Roofline) -> f64 {
    ratio(
        roofline.seconds(work.cached_context(prefill)),
        roofline.seconds(work.part_alone(prefill)),
    )
    .unwrap_or(0.0)
}

fn is_rate(x: f64) -> bool {
    x.is_finite() && x > 0.0
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
