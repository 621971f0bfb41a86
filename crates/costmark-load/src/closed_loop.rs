//! A fixed number of requests in flight.

use std::num::NonZeroU32;

use costmark_core::Backend;

use crate::arrivals::{Arrivals, Slots};
use crate::driver::{Driver, Plan};
use crate::phases::{Phases, Span, WarmupEnd};
use crate::recorder::Recorder;
use crate::source::RequestSource;
use crate::stop::{Stop, StopSignal};
use crate::unit::UnitRun;
use crate::users::{Turns, Users};
use crate::warmup::{Warmup, WarmupWatch};

/// Silence after which a backend with requests in flight is given up: half an hour,
/// since one step of a large model on a small machine may take minutes.
pub const DEFAULT_STALL_TIMEOUT_NS: u64 = 1_800_000_000_000;

/// Failures in a row after which a unit is given up.
pub const DEFAULT_MAX_CONSECUTIVE_FAILURES: u32 = 100;

/// Keeps exactly [`concurrency`](Self::concurrency) requests in flight: the instant one
/// ends, the next is due (its `scheduled_ns`).
///
/// A unit runs in three phases without a pause between them:
///
/// 1. *Warm-up*: slots start at evenly spread phases of their requests (see [`Slots`]) and
///    go on until the backend has settled (see [`Warmup`]).
/// 2. *Measured*: begins with the next request due, while all other slots are busy.
/// 3. *Cool-down*: once the last measured request is sent, further ones keep the load up
///    until the last measured request has ended; then they are cancelled. No measured
///    request ever runs on an emptying machine.
///
/// So all the time from [`start_ns`](UnitRun::start_ns) to [`end_ns`](UnitRun::end_ns) is
/// steady state, and both ends fall on the end of a request: with equal lengths the span
/// holds as many prefills as completions, and the ratio of input to output tokens is the
/// workload's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClosedLoop {
    /// Requests in flight.
    pub concurrency: NonZeroU32,
    /// When no further measured requests are sent.
    pub stop: Stop,
    /// When the measurement begins.
    pub warmup: Warmup,
    /// Silence after which the backend is given up; `None` waits for ever.
    pub stall_timeout_ns: Option<u64>,
    /// The unit is given up after this many failures without a success between them.
    pub max_consecutive_failures: u32,
}

impl ClosedLoop {
    /// A closed loop with default warm-up and bounds.
    #[must_use]
    pub fn new(concurrency: NonZeroU32, stop: Stop) -> Self {
        Self {
            concurrency,
            stop,
            warmup: Warmup::default(),
            stall_timeout_ns: Some(DEFAULT_STALL_TIMEOUT_NS),
            max_consecutive_failures: DEFAULT_MAX_CONSECUTIVE_FAILURES,
        }
    }

    /// Runs one unit. `unit` numbers the units of a run: it keeps request ids unique and
    /// prompts fresh. Nothing is in flight on return, unless the backend failed.
    ///
    /// Check the source against the backend's context first ([`RequestSource::check`]);
    /// requests that do not fit fail one by one otherwise.
    pub fn run(
        &self,
        unit: u32,
        backend: &mut dyn Backend,
        source: &dyn RequestSource,
        recorder: &mut dyn Recorder,
        signal: &StopSignal,
    ) -> UnitRun {
        let mut slots = Slots::new(self.concurrency.get(), backend.now_ns());
        self.drive(unit, backend, &mut slots, source, recorder, signal)
    }

    /// The same with [`concurrency`](Self::concurrency) users who hold conversations.
    /// [`UnitRun::concurrency`] is only given if they never think.
    pub fn run_users(
        &self,
        turns: &Turns,
        unit: u32,
        backend: &mut dyn Backend,
        source: &dyn RequestSource,
        recorder: &mut dyn Recorder,
        signal: &StopSignal,
    ) -> UnitRun {
        let now_ns = backend.now_ns();
        let mut users = Users::new(turns, self.concurrency.get(), unit, now_ns);
        self.drive(unit, backend, &mut users, source, recorder, signal)
    }

    fn drive(
        &self,
        unit: u32,
        backend: &mut dyn Backend,
        arrivals: &mut dyn Arrivals,
        source: &dyn RequestSource,
        recorder: &mut dyn Recorder,
        signal: &StopSignal,
    ) -> UnitRun {
        let now_ns = backend.now_ns();
        let warmup = if self.warmup.enabled {
            let slots = Some(self.concurrency.get());
            let watch = WarmupWatch::new(self.warmup, slots, now_ns);
            WarmupEnd::Settled(Box::new(watch), now_ns)
        } else {
            WarmupEnd::Off
        };
        let plan = Plan {
            unit,
            stop: self.stop,
            max_in_flight: None,
            stall_timeout_ns: self.stall_timeout_ns,
            max_consecutive_failures: self.max_consecutive_failures,
        };
        let phases = Phases::new(self.stop, warmup, Span::Requests, now_ns);
        Driver::new(plan, phases, backend, arrivals, source, recorder, signal).run()
    }
}
