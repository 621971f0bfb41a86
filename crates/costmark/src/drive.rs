//! One unit of load on a backend, as the plan wants it.

use std::num::NonZeroU32;

use costmark_core::Backend;
use costmark_load::{
    ArrivalProcess, ClosedLoop, OpenLoop, OpenLoopError, OpenWarmup, Recorder, RequestSource,
    Schedule, UnitRun, Warmup,
};

use crate::plan::{Level, Load, Plan, WarmupPlan};
use crate::stop;

/// Puts a level's load on `backend` once. What happens is recorded as it happens.
///
/// # Errors
/// The load cannot be made, e.g. a trace without requests.
pub(crate) fn drive(
    plan: &Plan,
    level: &Level,
    number: u32,
    backend: &mut dyn Backend,
    source: &dyn RequestSource,
    recorder: &mut dyn Recorder,
) -> Result<UnitRun, OpenLoopError> {
    let signal = &stop::SIGNAL;
    match level.load {
        Load::Closed(concurrency) => {
            let concurrency = NonZeroU32::new(concurrency).unwrap_or(NonZeroU32::MIN);
            let mut closed_loop = ClosedLoop::new(concurrency, level.stop);
            closed_loop.warmup = match plan.warmup {
                WarmupPlan::Off => Warmup::off(),
                WarmupPlan::PerSlot(n) => per_slot(n),
                WarmupPlan::For(ns) => Warmup::for_ns(ns),
            };
            let asking = plan.asking;
            Ok(match plan.workloads[level.workload].turns(asking.seed) {
                None => closed_loop.run(number, backend, source, recorder, signal),
                Some(turns) => {
                    closed_loop.run_users(&turns, number, backend, source, recorder, signal)
                }
            })
        }
        Load::Open {
            process,
            max_in_flight,
        } => {
            let schedule = Schedule::Process(process);
            let mut open_loop = OpenLoop::new(schedule, level.stop, plan.asking.seed);
            open_loop.max_in_flight = max_in_flight;
            open_loop.warmup = match plan.warmup {
                WarmupPlan::Off => OpenWarmup::Off,
                WarmupPlan::PerSlot(n) => OpenWarmup::Settled(Warmup {
                    max_ns: longest_warmup_ns(plan, process),
                    ..per_slot(n)
                }),
                WarmupPlan::For(ns) => OpenWarmup::For(ns),
            };
            open_loop.run(number, backend, source, recorder, signal)
        }
        Load::Trace {
            speed,
            max_in_flight,
        } => {
            let trace = plan.workloads[level.workload].trace();
            let none = || Schedule::Times([].into());
            let schedule = trace.map_or_else(none, |trace| trace.schedule_at(speed));
            let mut open_loop = OpenLoop::new(schedule, level.stop, plan.asking.seed);
            open_loop.max_in_flight = max_in_flight;
            // A trace has no requests to spare for settling; a time can be asked for.
            if let WarmupPlan::For(ns) = plan.warmup {
                open_loop.warmup = OpenWarmup::For(ns);
            }
            open_loop.run(number, backend, source, recorder, signal)
        }
    }
}

/// A search tries rates beyond what is served, where nothing ever settles and the queue of the
/// warm-up must be worked off: it lasts for as many requests as are measured at most.
fn longest_warmup_ns(plan: &Plan, process: ArrivalProcess) -> u64 {
    let longest_ns = Warmup::default().max_ns;
    match plan.search.zip(process.rate_per_s()) {
        Some((search, per_s)) => {
            let longest_s = search.requests_at(per_s) as f64 / per_s;
            longest_ns.min((longest_s * 1e9) as u64)
        }
        None => longest_ns,
    }
}

/// Warm-up until step times settle.
fn per_slot(max_requests: NonZeroU32) -> Warmup {
    Warmup {
        max_requests_per_slot: max_requests.get(),
        ..Warmup::default()
    }
}
