//! What the step log tells of the window: occupancy, MBU, MFU, overhead.

use costmark_core::{Roofline, StepRecord};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::window::Window;

/// Steps of one kind.
///
/// `mbu` = bytes that had to move ÷ (step time × measured peak read bandwidth);
/// `mfu` = FLOPs that had to be done ÷ (step time × measured peak FLOP/s). Both are
/// *modelled*, as fractions, and absent without measured peaks or without such steps. A step runs
/// on one replica, and the peaks are one replica's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PhaseSummary {
    /// Steps.
    pub steps: u64,
    /// Time spent in them, summed over replicas.
    pub seconds: f64,
    /// Tokens run through the model.
    pub tokens: u64,
    /// Memory bandwidth use over their time.
    pub mbu: Option<f64>,
    /// Arithmetic use over their time.
    pub mfu: Option<f64>,
}

/// The steps of the window. Steps across its edge count in proportion in times, bytes,
/// FLOPs and means, and as whole steps if they end in it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepSummary {
    /// Steps that ended in the window.
    pub steps: u64,
    /// Replicas that ran them side by side; left out where there was one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub replicas: u32,
    /// Memory bandwidth use over the window, time between steps included, of all replicas
    /// together. Modelled.
    pub mbu: Option<f64>,
    /// Arithmetic use over the window, time between steps included, of all replicas together.
    /// Modelled.
    pub mfu: Option<f64>,
    /// Steps with prompt work only.
    pub prefill: PhaseSummary,
    /// Steps with generation work only.
    pub decode: PhaseSummary,
    /// Steps with both.
    pub mixed: PhaseSummary,
    /// Time-weighted sequences per step.
    pub batch_occupancy: f64,
    /// Share of steps that mixed prefill and decode.
    pub mixed_step_share: f64,
    /// Share of step time spent in those.
    pub mixed_time_share: f64,
    /// Sequences preempted.
    pub preemptions: u64,
    /// Share of step time outside the forward pass: scheduling, sampling, bookkeeping.
    pub outside_forward_share: f64,
    /// Share of the window, of each replica, outside any step.
    pub idle_share: f64,
}

fn one() -> u32 {
    1
}

fn is_one(n: &u32) -> bool {
    *n == 1
}

/// Sums over steps, each by the share of it that lies in the window.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    steps: u64,
    tokens: u64,
    seconds: f64,
    bytes: f64,
    flops: f64,
}

impl Sums {
    fn add(&mut self, step: &StepRecord, share: f64, whole: bool) {
        if whole {
            self.steps += 1;
            self.tokens += u64::from(step.prefill.tokens) + u64::from(step.decode.tokens);
        }
        self.seconds += share * step.duration_ns() as f64 / 1e9;
        self.bytes += share * step.bytes as f64;
        self.flops += share * step.flops as f64;
    }

    /// MBU and MFU over `seconds`.
    fn use_over(&self, seconds: f64, roofline: Option<Roofline>) -> (Option<f64>, Option<f64>) {
        let share = |amount: f64, peak: f64| {
            (seconds > 0.0 && peak > 0.0).then(|| amount / (seconds * peak))
        };
        (
            roofline.and_then(|r| share(self.bytes, r.read_bytes_per_s)),
            roofline.and_then(|r| share(self.flops, r.flops_per_s)),
        )
    }

    fn summary(&self, roofline: Option<Roofline>) -> PhaseSummary {
        let (mbu, mfu) = self.use_over(self.seconds, roofline);
        PhaseSummary {
            steps: self.steps,
            seconds: self.seconds,
            tokens: self.tokens,
            mbu,
            mfu,
        }
    }
}

impl StepSummary {
    /// Summarises the steps of so many replicas in `window`; `None` if there are none.
    pub(crate) fn in_window(
        window: &Window,
        steps: &[StepRecord],
        replicas: u32,
        roofline: Option<Roofline>,
    ) -> Option<Self> {
        let (mut all, mut prefill, mut decode, mut mixed) = <(Sums, Sums, Sums, Sums)>::default();
        let (mut sequence_s, mut forward_s, mut preemptions) = (0.0, 0.0, 0);
        for step in steps {
            let inside_ns = window.overlap_ns(step.start_ns, step.end_ns);
            if inside_ns == 0 {
                continue;
            }
            let share = inside_ns as f64 / step.duration_ns() as f64;
            let whole = window.contains(step.end_ns);
            all.add(step, share, whole);
            match (step.prefill.tokens > 0, step.decode.tokens > 0) {
                (true, true) => mixed.add(step, share, whole),
                (true, false) => prefill.add(step, share, whole),
                (false, true) => decode.add(step, share, whole),
                (false, false) => {}
            }
            sequence_s += f64::from(step.sequences()) * inside_ns as f64 / 1e9;
            forward_s += share * step.forward_ns as f64 / 1e9;
            preemptions += u64::from(whole) * u64::from(step.preempted);
        }
        if all.seconds <= 0.0 {
            return None;
        }
        // Steps of different replicas overlap: each replica has the whole window.
        let replica_seconds = f64::from(replicas) * window.seconds;
        let (mbu, mfu) = all.use_over(replica_seconds, roofline);
        Some(Self {
            steps: all.steps,
            replicas,
            mbu,
            mfu,
            prefill: prefill.summary(roofline),
            decode: decode.summary(roofline),
            mixed: mixed.summary(roofline),
            batch_occupancy: sequence_s / all.seconds,
            mixed_step_share: mixed.steps as f64 / all.steps.max(1) as f64,
            mixed_time_share: mixed.seconds / all.seconds,
            preemptions,
            outside_forward_share: (1.0 - forward_s / all.seconds).max(0.0),
            idle_share: (1.0 - all.seconds / replica_seconds).max(0.0),
        })
    }
}
