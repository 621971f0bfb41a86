//! Monotonic time as nanoseconds from a stated origin.

use std::time::Instant;

/// A source of monotonic time. One run uses one clock everywhere, so instants
/// from the driver and from the backend can be subtracted.
pub trait Clock: Send + Sync {
    /// Nanoseconds since the clock's origin; never decreases.
    fn now_ns(&self) -> u64;
}

/// The operating system's monotonic clock, counted from its creation.
///
/// Copies share the origin: hand a copy to every part that takes timestamps.
#[derive(Debug, Clone, Copy)]
pub struct MonotonicClock {
    origin: Instant,
}

impl MonotonicClock {
    /// A clock whose origin is now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// Nanoseconds from the origin to `instant`, 0 for instants before it.
    #[must_use]
    pub fn at_ns(&self, instant: Instant) -> u64 {
        // 2^64 ns are 584 years.
        u64::try_from(instant.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Clock for MonotonicClock {
    fn now_ns(&self) -> u64 {
        self.at_ns(Instant::now())
    }
}
