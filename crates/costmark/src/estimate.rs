//! How long a run will take: told as an estimate and used for nothing else.
//!
//! Before the first unit one request is served; what it took against the roofline is taken
//! for the efficiency of all levels. From then on every unit that ends corrects those to
//! come: those of its own level by what it took, those of levels not yet seen by how far the
//! seen ones were off.

use costmark_core::{Backend, Event, ModelWork, Request, Roofline, Sampling, StepPart};
use costmark_load::Stop;

use crate::plan::{Level, Load, Plan, WorkloadPlan};

/// Share of the roofline that is assumed to be reached where it could not be tried.
const ASSUMED_EFFICIENCY: f64 = 0.5;
/// Sequences assumed to run where nothing bounds them.
const ASSUMED_SEQUENCES: u32 = 16;
/// Requests per slot spent before and after the measurement, about.
const AROUND: f64 = 1.5;
/// Output tokens of the request that is tried.
const TRIED_OUTPUT: u32 = 8;

/// How long the backend is given to say all it has to say of a request that ended.
const SETTLED_NS: u64 = 20_000_000;

/// Seconds by the roofline over seconds taken.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Efficiency {
    prefill: f64,
    decode: f64,
}

impl Default for Efficiency {
    fn default() -> Self {
        Self {
            prefill: ASSUMED_EFFICIENCY,
            decode: ASSUMED_EFFICIENCY,
        }
    }
}

impl Efficiency {
    /// Serves one request of middling length and compares. What goes wrong is left for the
    /// measurement to tell.
    fn tried(
        workload: &WorkloadPlan,
        backend: &mut dyn Backend,
        work: &ModelWork,
        roofline: &Roofline,
    ) -> Self {
        let (input, output) = middling(workload);
        let vocab = backend.info().shape.map_or(1, |shape| shape.vocab_size);
        let request = Request {
            // The driver counts from zero.
            id: u64::MAX,
            prompt: (0..u64::from(input))
                .map(|i| (i * 7919 % vocab) as u32)
                .collect(),
            max_tokens: output.min(TRIED_OUTPUT),
            ignore_eos: true,
            sampling: Sampling::Greedy,
            logprobs: None,
        };
        let sent_ns = backend.now_ns();
        let Some(instants_ns) = serve(backend, request) else {
            return Self::default();
        };
        let mut efficiency = Self::default();
        let share = |roofline_s: f64, taken_ns: u64| {
            Some(roofline_s / (taken_ns as f64 / 1e9)).filter(|share| share.is_finite())
        };
        if let Some(first) = instants_ns.first() {
            let taken_ns = first.saturating_sub(sent_ns);
            if let Some(share) = share(prefill_s(input, work, roofline), taken_ns) {
                efficiency.prefill = share;
                efficiency.decode = share;
            }
        }
        if let [first, .., last] = instants_ns.as_slice() {
            let steps = instants_ns.len() as u64 - 1;
            let step_s = decode_s(1, input, work, roofline);
            if let Some(share) = share(step_s, last.saturating_sub(*first) / steps) {
                efficiency.decode = share;
            }
        }
        efficiency
    }
}

/// The instants at which the tokens of a request came; `None` when it failed.
fn serve(backend: &mut dyn Backend, request: Request) -> Option<Vec<u64>> {
    backend.submit(request).ok()?;
    let (mut events, mut instants_ns, mut done) = (Vec::new(), Vec::new(), false);
    loop {
        backend.poll(None, &mut events).ok()?;
        if events.is_empty() {
            return None;
        }
        for event in events.drain(..) {
            match event {
                Event::Tokens(tokens) => instants_ns.push(tokens.at_ns),
                Event::Finished { .. } => done = true,
                Event::Failed { .. } => return None,
                Event::Sent { .. } | Event::Logprobs(_) | Event::TokenRun(_) | Event::Step(_) => {}
            }
        }
        if done {
            // The record of the last step comes behind, and is none of the measurement's.
            let soon_ns = backend.now_ns() + SETTLED_NS;
            backend.poll(Some(soon_ns), &mut events).ok()?;
            return Some(instants_ns);
        }
    }
}

fn prefill_s(input: u32, work: &ModelWork, roofline: &Roofline) -> f64 {
    let mut part = StepPart::default();
    part.add_sequence(input, 0, 0, true);
    roofline.seconds(work.part_alone(&part))
}

fn decode_s(sequences: u32, context: u32, work: &ModelWork, roofline: &Roofline) -> f64 {
    let mut part = StepPart::default();
    for _ in 0..sequences {
        part.add_sequence(1, context, 0, true);
    }
    roofline.seconds(work.part_alone(&part))
}

/// Seconds a unit of this level will take.
fn unit_seconds(
    plan: &Plan,
    level: &Level,
    efficiency: Efficiency,
    replicas: u32,
    work: &ModelWork,
    roofline: &Roofline,
) -> f64 {
    let workload = &plan.workloads[level.workload];
    let (input, output) = middling(workload);
    let per_s = match level.load {
        Load::Closed(_) => None,
        Load::Trace { speed, .. } => {
            let last_ns = workload
                .trace()
                .and_then(|t| t.requests.last())
                .map_or(0, |r| r.at_ns);
            let trace_s = last_ns as f64 / 1e9 / speed;
            return match level.stop {
                Stop::Duration(ns) => trace_s.min(ns as f64 / 1e9),
                Stop::Requests(_) => trace_s,
            };
        }
        Load::Open { process, .. } => process.rate_per_s(),
    };
    if let Some(per_s) = per_s {
        // As long as the arrivals take, if it keeps up.
        return match level.stop {
            Stop::Requests(n) => (n as f64 + AROUND) / per_s,
            Stop::Duration(ns) => ns as f64 / 1e9,
        };
    }
    let all = level.load.max_in_flight().unwrap_or(ASSUMED_SEQUENCES);
    // Replicas share them evenly.
    let sequences = all.div_ceil(replicas.max(1));
    let slots = f64::from(sequences);
    let prefill_s = prefill_s(input, work, roofline) / efficiency.prefill;
    let context = input + output / 2;
    let decode_s = decode_s(sequences, context, work, roofline) / efficiency.decode;
    // All slots go once through a request in this time.
    let round_s = slots * prefill_s + f64::from(output) * decode_s;
    match level.stop {
        Stop::Requests(n) => (n as f64 / f64::from(all) + AROUND) * round_s,
        Stop::Duration(ns) => ns as f64 / 1e9 + AROUND * round_s,
    }
}

/// Input and output tokens of a middling request.
fn middling(workload: &WorkloadPlan) -> (u32, u32) {
    let (input, output) = workload.mean_tokens();
    let whole = |tokens: f64| tokens.round().max(1.0) as u32;
    (whole(input), whole(output))
}

/// What is left of the levels of one model, each measured several times in turn.
#[derive(Debug, Clone)]
pub(crate) struct Left {
    /// The levels, by their places in the plan.
    levels: Vec<usize>,
    /// Per level, seconds of a unit as they were estimated.
    estimated_s: Vec<f64>,
    /// Per level, seconds its units have taken.
    taken_s: Vec<Vec<f64>>,
    repeats: u32,
}

impl Left {
    /// Tries one request and estimates the levels of a model by it.
    pub(crate) fn estimate(
        plan: &Plan,
        model: usize,
        backend: &mut dyn Backend,
        work: &ModelWork,
        roofline: &Roofline,
    ) -> Self {
        let replicas = backend.info().replicas;
        let of_model = || {
            (0..)
                .zip(&plan.levels)
                .filter(|(_, level)| level.model == model)
        };
        let efficiency = match of_model().next() {
            Some((_, level)) => {
                Efficiency::tried(&plan.workloads[level.workload], backend, work, roofline)
            }
            None => Efficiency::default(),
        };
        let seconds = |(place, level)| {
            let seconds: f64 = unit_seconds(plan, level, efficiency, replicas, work, roofline);
            (place, seconds)
        };
        Self::new(of_model().map(seconds).collect(), plan.repeats)
    }

    /// Levels by their places in the plan, with the seconds of a unit; nothing has run yet.
    fn new(levels: Vec<(usize, f64)>, repeats: u32) -> Self {
        let (levels, estimated_s): (Vec<_>, Vec<_>) = levels.into_iter().unzip();
        Self {
            taken_s: vec![Vec::new(); levels.len()],
            levels,
            estimated_s,
            repeats,
        }
    }

    /// A unit of the level at this place in the plan has ended.
    pub(crate) fn unit_ended(&mut self, level: usize, seconds: f64) {
        let of_level = self.levels.iter().zip(&mut self.taken_s);
        for (_, taken_s) in of_level.filter(|(place, _)| **place == level) {
            taken_s.push(seconds);
        }
    }

    /// Seconds of all units to come, the one that runs included.
    pub(crate) fn seconds(&self) -> f64 {
        let levels = || self.estimated_s.iter().zip(&self.taken_s);
        let (estimated, taken) = levels()
            .flat_map(|(estimated, taken)| taken.iter().map(move |taken| (*estimated, *taken)))
            .fold((0.0, 0.0), |sum, (e, t)| (sum.0 + e, sum.1 + t));
        let off = if estimated > 0.0 {
            taken / estimated
        } else {
            1.0
        };
        levels()
            .map(|(estimated, taken)| {
                let each = match taken.len() {
                    0 => estimated * off,
                    n => taken.iter().sum::<f64>() / n as f64,
                };
                each * f64::from(self.repeats.saturating_sub(taken.len() as u32))
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_ended_correct_those_to_come() {
        let mut left = Left::new(vec![(4, 10.0), (7, 20.0)], 3);
        assert_eq!(left.seconds(), 90.0);
        // Twice as long as thought: so will all others be.
        left.unit_ended(4, 20.0);
        assert_eq!(left.seconds(), 2.0 * 20.0 + 3.0 * 40.0);
        // The second level is known now.
        left.unit_ended(7, 25.0);
        assert_eq!(left.seconds(), 2.0 * 20.0 + 2.0 * 25.0);
        left.unit_ended(4, 10.0);
        assert_eq!(left.seconds(), 15.0 + 2.0 * 25.0);
        for _ in 0..2 {
            left.unit_ended(7, 25.0);
        }
        left.unit_ended(4, 15.0);
        assert_eq!(left.seconds(), 0.0);
    }
}
