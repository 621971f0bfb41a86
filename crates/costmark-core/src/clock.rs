//! Monotonic time as nanoseconds from a stated origin.

use std::time::Instant;

/// A source of monotonic time. One run uses one clock everywhere, so instants
/// from the driver and from the backend can be subtracted.
pub trait Clock: Send + Sync {
    /// Nanoseconds since the clock's origin; never decreases.
    fn now_ns(&self) -> u64;
}

/// The operating system's monotonic clock, counted from its creation or from a stated reading
/// then.
///
/// Copies share the origin: hand a copy to every part that takes timestamps.
#[derive(Debug, Clone, Copy)]
pub struct MonotonicClock {
    begun: Instant,
    begun_ns: u64,
}

impl MonotonicClock {
    /// A clock whose origin is now.
    #[must_use]
    pub fn start() -> Self {
        Self::start_at(0)
    }

    /// A clock that reads `now_ns` now: it goes on where another one ended.
    #[must_use]
    pub fn start_at(now_ns: u64) -> Self {
        Self {
            begun: Instant::now(),
            begun_ns: now_ns,
        }
    }

    /// What it read when it was started.
    #[must_use]
    pub fn begun_ns(&self) -> u64 {
        self.begun_ns
    }

    /// Its reading at `instant`, that of its start for instants before it.
    #[must_use]
    pub fn at_ns(&self, instant: Instant) -> u64 {
        // 2^64 ns are 584 years.
        let since = instant.saturating_duration_since(self.begun).as_nanos();
        self.begun_ns
            .saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }
}

impl Clock for MonotonicClock {
    fn now_ns(&self) -> u64 {
        self.at_ns(Instant::now())
    }
}
