//! A bound on requests in flight, for those who ask for one.

use crate::in_flight::InFlight;

/// Holds requests back while too many are in flight, and knows which were held back.
#[derive(Debug)]
pub(crate) struct Cap {
    max_in_flight: Option<usize>,
    /// When it was last left: room was made after it had been reached.
    left_ns: Option<u64>,
}

impl Cap {
    pub(crate) fn new(max_in_flight: Option<u32>) -> Self {
        Self {
            max_in_flight: max_in_flight.map(|n| n as usize),
            left_ns: None,
        }
    }

    /// Nothing may be sent now.
    pub(crate) fn is_full(&self, in_flight: &InFlight) -> bool {
        self.max_in_flight.is_some_and(|max| in_flight.len() >= max)
    }

    /// A request, still in `in_flight`, is about to end.
    pub(crate) fn on_end(&mut self, in_flight: &InFlight, at_ns: u64) {
        if self.is_full(in_flight) {
            self.left_ns = Some(at_ns);
        }
    }

    /// Whether a request due at `due_ns` and sent now was held back. Requests are sent in
    /// the order they are due, so it was if there has been no room since.
    pub(crate) fn delays(&self, due_ns: u64) -> bool {
        self.left_ns.is_some_and(|left_ns| due_ns < left_ns)
    }
}
