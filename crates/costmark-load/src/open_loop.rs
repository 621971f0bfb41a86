//! Requests that arrive whether or not earlier ones were answered.

use std::num::NonZeroU32;

use costmark_core::Backend;

use crate::closed_loop::{DEFAULT_MAX_CONSECUTIVE_FAILURES, DEFAULT_STALL_TIMEOUT_NS};
use crate::driver::{Driver, Plan};
use crate::phases::{Phases, Span, WarmupEnd};
use crate::process::{ArrivalProcess, ArrivalsError};
use crate::recorder::Recorder;
use crate::schedule::{Schedule, ScheduledArrivals};
use crate::source::RequestSource;
use crate::stop::{Stop, StopSignal};
use crate::unit::UnitRun;
use crate::warmup::{Warmup, WarmupWatch};

/// Sends each request when it is due by a [`Schedule`], however many are in flight.
///
/// No request that is due is ever dropped. One that could not be sent in time, because the
/// load generator was late or because of [`max_in_flight`](Self::max_in_flight), is sent as
/// soon as possible and keeps the instant it was due (`scheduled_ns`), from which user
/// latencies count.
///
/// A unit runs in three phases without a pause between them, told apart by when requests
/// are due:
///
/// 1. *Warm-up*: until [`warmup`](Self::warmup) says so, and not before the end of a ramp.
/// 2. *Measured*: until [`stop`](Self::stop), or the last request of a schedule that ends.
/// 3. *Cool-down*: requests go on arriving until the last measured one has ended, so that
///    none ends on a machine that has less to do; then they are cancelled. A schedule that
///    ends has no cool-down; its last requests do end on an emptying machine.
///
/// The measured time, [`start_ns`](UnitRun::start_ns) to [`end_ns`](UnitRun::end_ns), is the
/// time in which measured requests are due: after the ramp-up and before arrivals stop.
/// It begins with the first of them (given a duration and a warm-up of fixed length:
/// exactly at the end of the warm-up) and ends where the first one is due that is not
/// measured any more (given a duration: exactly then). Requests in flight at its end are
/// waited for: their latencies count, their tokens after the end do not.
///
/// With [`ArrivalProcess::AtOnce`] there is neither warm-up nor cool-down, and the measured
/// time lasts from the begin to the end of the last request.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenLoop {
    /// When requests are due.
    pub schedule: Schedule,
    /// When no further measured requests are sent.
    pub stop: Stop,
    /// When the measurement begins.
    pub warmup: OpenWarmup,
    /// Seed of the instants at which requests are due.
    pub seed: u64,
    /// Requests that may be in flight at once. Those due beyond it wait, and are counted in
    /// [`delayed_by_cap`](UnitRun::delayed_by_cap). `None` for any number.
    pub max_in_flight: Option<NonZeroU32>,
    /// Silence after which the backend is given up; `None` waits for ever.
    pub stall_timeout_ns: Option<u64>,
    /// The unit is given up after this many failures without a success between them.
    pub max_consecutive_failures: u32,
}

/// When the measurement of an open loop begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OpenWarmup {
    /// With the first request.
    Off,
    /// This many nanoseconds after the begin, ramp or not.
    For(u64),
    /// When the backend has settled (see [`Warmup`]) and a ramp has ended. Close to a
    /// backend's capacity queues settle slower than step times do: give a duration there.
    Settled(Warmup),
}

/// An open loop that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenLoopError {
    /// The arrival process makes no sense.
    #[error(transparent)]
    Arrivals(#[from] ArrivalsError),
    /// All at once, but how many?
    #[error("arrivals `max` send all requests at once; say how many with --requests")]
    EndlessBatch,
    /// Given instants do not ascend.
    #[error("request {index} is due before the one in front of it; sort the schedule by time")]
    Unsorted {
        /// Position of the request that is due too early, from 0.
        index: usize,
    },
}

impl OpenLoop {
    /// An open loop with default warm-up and bounds: a schedule of given instants is
    /// measured from its first request, anything else from when the backend has settled.
    #[must_use]
    pub fn new(schedule: Schedule, stop: Stop, seed: u64) -> Self {
        let warmup = match schedule {
            Schedule::Times(_) => OpenWarmup::Off,
            Schedule::Process(_) => OpenWarmup::Settled(Warmup::default()),
        };
        Self {
            schedule,
            stop,
            warmup,
            seed,
            max_in_flight: None,
            stall_timeout_ns: Some(DEFAULT_STALL_TIMEOUT_NS),
            max_consecutive_failures: DEFAULT_MAX_CONSECUTIVE_FAILURES,
        }
    }

    /// Checks that it can be run.
    ///
    /// # Errors
    /// The process has an impossible parameter, sends a batch of unknown size, or given
    /// instants do not ascend.
    pub fn check(&self) -> Result<(), OpenLoopError> {
        match &self.schedule {
            Schedule::Process(process) => {
                process.check()?;
                if self.is_batch() && !matches!(self.stop, Stop::Requests(_)) {
                    return Err(OpenLoopError::EndlessBatch);
                }
            }
            Schedule::Times(times) => {
                if let Some(before) = times.windows(2).position(|pair| pair[1] < pair[0]) {
                    return Err(OpenLoopError::Unsorted { index: before + 1 });
                }
            }
        }
        Ok(())
    }

    /// Runs one unit. `unit` numbers the units of a run: it keeps request ids unique,
    /// prompts fresh and the instants of each unit independent of the others'. Nothing is
    /// in flight on return, unless the backend failed.
    ///
    /// Check the source against the backend's context first ([`RequestSource::check`]);
    /// requests that do not fit fail one by one otherwise.
    ///
    /// # Errors
    /// It cannot be run; see [`check`](Self::check). Nothing was sent.
    pub fn run(
        &self,
        unit: u32,
        backend: &mut dyn Backend,
        source: &dyn RequestSource,
        recorder: &mut dyn Recorder,
        signal: &StopSignal,
    ) -> Result<UnitRun, OpenLoopError> {
        self.check()?;
        let now_ns = backend.now_ns();
        let batch = match self.stop {
            Stop::Requests(n) => n,
            Stop::Duration(_) => 0,
        };
        let mut arrivals = ScheduledArrivals::new(&self.schedule, self.seed, unit, batch, now_ns);
        let span = if self.is_batch() {
            Span::Requests
        } else {
            Span::Arrivals
        };
        let phases = Phases::new(self.stop, self.warmup_end(now_ns), span, now_ns);
        let plan = Plan {
            unit,
            stop: self.stop,
            max_in_flight: self.max_in_flight.map(NonZeroU32::get),
            stall_timeout_ns: self.stall_timeout_ns,
            max_consecutive_failures: self.max_consecutive_failures,
        };
        let driver = Driver::new(
            plan,
            phases,
            backend,
            &mut arrivals,
            source,
            recorder,
            signal,
        );
        Ok(driver.run())
    }

    fn is_batch(&self) -> bool {
        self.schedule == Schedule::Process(ArrivalProcess::AtOnce)
    }

    fn warmup_end(&self, now_ns: u64) -> WarmupEnd {
        let ramp_up_s = match &self.schedule {
            Schedule::Process(process) => process.ramp_up_s(),
            Schedule::Times(_) => 0.0,
        };
        match self.warmup {
            _ if self.is_batch() => WarmupEnd::Off,
            OpenWarmup::Settled(limits) if limits.enabled => WarmupEnd::Settled(
                Box::new(WarmupWatch::new(limits, None, now_ns)),
                now_ns.saturating_add((ramp_up_s * 1e9) as u64),
            ),
            OpenWarmup::Off | OpenWarmup::Settled(_) => WarmupEnd::Off,
            OpenWarmup::For(ns) => WarmupEnd::At(now_ns.saturating_add(ns)),
        }
    }
}
