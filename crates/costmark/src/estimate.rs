//! How long a run will take, before it is started: the roofline with a guess on top. It is
//! told as an estimate and used for nothing else.

use costmark_core::{ModelWork, Roofline, StepPart};
use costmark_load::{LengthDistribution, Stop};

use crate::plan::{Level, Load, Plan};

/// Share of the roofline that is assumed to be reached.
const ASSUMED_EFFICIENCY: f64 = 0.5;
/// Sequences assumed to run where nothing bounds them.
const ASSUMED_SEQUENCES: u32 = 16;
/// Requests per slot spent before and after the measurement, about.
const AROUND: f64 = 1.5;

/// Seconds for all repeats of all levels of a model.
pub(crate) fn seconds(plan: &Plan, model: usize, work: &ModelWork, roofline: &Roofline) -> f64 {
    let per_repeat: f64 = plan
        .levels_of(model)
        .map(|level| unit_seconds(plan, level, work, roofline))
        .sum();
    per_repeat * f64::from(plan.repeats)
}

fn unit_seconds(plan: &Plan, level: &Level, work: &ModelWork, roofline: &Roofline) -> f64 {
    let workload = &plan.workloads[level.workload];
    let (input, output) = (middle(&workload.input), middle(&workload.output));
    let per_s = match level.load {
        Load::Closed(_) => None,
        Load::Open { process, .. } => process.rate_per_s(),
    };
    if let Some(per_s) = per_s {
        // As long as the arrivals take, if it keeps up.
        return match level.stop {
            Stop::Requests(n) => (n as f64 + AROUND) / per_s,
            Stop::Duration(ns) => ns as f64 / 1e9,
        };
    }
    let concurrency = level.load.max_in_flight().unwrap_or(ASSUMED_SEQUENCES);
    let mut prefill = StepPart::default();
    prefill.add_sequence(input, 0, 0, true);
    let mut decode = StepPart::default();
    for _ in 0..concurrency {
        decode.add_sequence(1, input + output / 2, 0, true);
    }
    let prefill_s = roofline.seconds(work.part_alone(&prefill)) / ASSUMED_EFFICIENCY;
    let decode_s = roofline.seconds(work.part_alone(&decode)) / ASSUMED_EFFICIENCY;
    // All slots go once through a request in this time.
    let round_s = f64::from(concurrency) * prefill_s + f64::from(output) * decode_s;
    match level.stop {
        Stop::Requests(n) => (n as f64 / f64::from(concurrency) + AROUND) * round_s,
        Stop::Duration(ns) => ns as f64 / 1e9 + AROUND * round_s,
    }
}

fn middle(length: &LengthDistribution) -> u32 {
    u32::midpoint(length.shortest(), length.longest())
}
