//! When a unit ends by itself, and how a user ends it earlier.

use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

/// When no further measured requests are sent. Those in flight then finish and are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// After this many measured requests.
    Requests(u64),
    /// This many nanoseconds after the measurement began.
    Duration(u64),
}

/// Lets another thread, or a signal handler, end a run early.
///
/// The first request lets measured requests in flight finish and sends no more; the
/// second cancels those too.
#[derive(Debug, Default)]
pub struct StopSignal(AtomicU8);

impl StopSignal {
    /// A signal nobody has given yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    /// Asks to stop; the second time to stop now. Returns how often it was asked, up to 2.
    pub fn request(&self) -> u8 {
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                Some((n + 1).min(2))
            })
            .unwrap_or_else(|n| n);
        (before + 1).min(2)
    }

    /// No further requests are to be sent.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= 1
    }

    /// Requests in flight are to be cancelled.
    #[must_use]
    pub fn is_immediate(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_request_is_immediate() {
        let signal = StopSignal::new();
        assert!(!signal.is_requested());
        assert_eq!(signal.request(), 1);
        assert!(signal.is_requested() && !signal.is_immediate());
        assert_eq!((signal.request(), signal.request()), (2, 2));
        assert!(signal.is_immediate());
    }
}
