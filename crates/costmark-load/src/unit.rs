//! What one unit (one repeat at one load level) brought.

use costmark_core::{BackendError, RequestId, RequestRecord, StepRecord};
use serde::{Deserialize, Serialize};

/// The part of a unit a request was sent in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Sent to bring the backend into its steady state. Latencies are not used.
    Warmup,
    /// Measured.
    Measured,
    /// Sent to keep the load up until the last measured request has ended, then
    /// cancelled. Latencies are not used.
    Cooldown,
}

impl Phase {
    pub(crate) fn ordinal(self) -> u64 {
        match self {
            Self::Measured => 0,
            Self::Warmup => 1,
            Self::Cooldown => 2,
        }
    }
}

/// How the warm-up went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct WarmupFacts {
    /// Warm-up requests sent.
    pub requests: u64,
    /// Warm-up requests that failed.
    pub failed: u64,
    /// From the start of the unit to the start of the measurement.
    pub duration_ns: u64,
    /// Two successive windows of step times (or token gaps) agreed before it ended.
    /// `false` when it was switched off or ran into its bound.
    pub settled: bool,
}

/// One unit's raw observations. Complete, or cut short: then [`interrupted`](Self::interrupted)
/// or [`error`](Self::error) says so and everything observed until then is still here.
#[derive(Debug)]
pub struct UnitRun {
    /// Which unit of the run.
    pub unit: u32,
    /// Requests to be in flight, if the load was given so.
    pub concurrency: Option<u32>,
    /// Begin of the measurement. Closed loop: the instant the first measured request was
    /// due; warm-up requests are in flight in all other slots then. Open loop: see
    /// [`OpenLoop`](crate::OpenLoop).
    pub start_ns: u64,
    /// End of the measurement. Closed loop: the last measured request ended; until then
    /// the load was kept up, unless the unit was cut short. Open loop: measured requests
    /// stopped coming; those in flight then were waited for.
    pub end_ns: u64,
    /// How the warm-up went.
    pub warmup: WarmupFacts,
    /// Measured requests in the order they ended. Latencies are taken from these alone.
    pub requests: Vec<RequestRecord>,
    /// Warm-up and cool-down requests that were in flight at some time between start and
    /// end. Their tokens are part of the machine's throughput in that time.
    pub background: Vec<RequestRecord>,
    /// Steps that overlap the time between start and end.
    pub steps: Vec<StepRecord>,
    /// Measured requests that were due but had to wait because as many were in flight as
    /// were allowed. Always 0 without such a cap.
    pub delayed_by_cap: u64,
    /// A user ended it early.
    pub interrupted: bool,
    /// What ended it early.
    pub error: Option<UnitError>,
}

impl UnitRun {
    /// Measured requests that failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.requests.iter().filter(|r| !r.is_ok()).count()
    }

    /// Whether it ran to its planned end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.interrupted && self.error.is_none()
    }
}

/// What ended a unit early.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// The backend cannot go on.
    #[error("the backend stopped: {0}")]
    Backend(#[from] BackendError),
    /// A record could not be written.
    #[error("a record could not be written: {0}")]
    Record(#[from] std::io::Error),
    /// The backend fell silent.
    #[error(
        "nothing arrived for {silent_s} s with {in_flight} requests in flight; \
         check that the backend is alive"
    )]
    Stalled {
        /// Seconds without an event.
        silent_s: u64,
        /// Requests that were waiting.
        in_flight: usize,
    },
    /// Every request fails.
    #[error("{failures} requests in a row failed, the last one with: {last}")]
    GaveUp {
        /// Failures without a success between them.
        failures: u32,
        /// Message of the last failure.
        last: String,
    },
    /// The backend reported on a request that is not in flight.
    #[error("the backend reported on request {0}, which is not in flight; this is a bug in it")]
    UnknownRequest(RequestId),
}
