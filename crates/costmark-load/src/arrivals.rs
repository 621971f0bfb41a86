//! When requests are due, apart from what they ask and from how a run is staged.

use std::collections::VecDeque;

use costmark_core::RequestId;

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// The instant the arrival process wanted it sent.
    pub scheduled_ns: u64,
    /// Share of its output, 0 ≤ share < 1, that it should start with as already produced.
    /// Only heeded during warm-up.
    pub elapsed: f64,
    /// Which turn of its conversation it is, from 1; `None` of a request that stands alone.
    pub turn: Option<u32>,
}

/// A request that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// Which.
    pub id: RequestId,
    /// When.
    pub at_ns: u64,
    /// Its prompt and then its output, where that is kept ([`Arrivals::follows_up`]) and it
    /// finished.
    pub said: Option<Vec<u32>>,
}

/// An arrival process: decides when requests are due.
///
/// The driver takes arrivals whose time has come, and reports the end of every request.
/// A closed loop answers to those reports; an open one ignores them.
pub trait Arrivals {
    /// The next request due, or `None` as long as that depends on requests in flight and
    /// once there are no more.
    fn peek(&self) -> Option<Arrival>;

    /// The next request was sent.
    fn advance(&mut self);

    /// A request ended.
    fn on_end(&mut self, at_ns: u64);

    /// The next request was sent, under this id.
    fn on_sent(&mut self, _: RequestId) {
        self.advance();
    }

    /// A request ended: [`on_end`](Self::on_end) for processes to which it matters which.
    fn on_end_of(&mut self, ended: Ended) {
        self.on_end(ended.at_ns);
    }

    /// Whether requests continue earlier ones, so that what was said must be kept.
    fn follows_up(&self) -> bool {
        false
    }

    /// What the next request continues: an earlier prompt and its output. Empty for one that
    /// continues nothing.
    fn history(&self) -> &[u32] {
        &[]
    }

    /// Requests this process keeps in flight, if it does.
    fn concurrency(&self) -> Option<u32>;

    /// No request will ever be due again, whatever ends.
    fn is_exhausted(&self) -> bool {
        false
    }
}

/// A closed loop: a fixed number of slots, each due again the instant its request ended.
///
/// If all slots started whole requests of equal length at once, they would prefill
/// together, decode together and end together for ever. So during warm-up slot *k* of *n*
/// starts (*k* + ½)/*n* of its way through, the phases a loop would have after a long time:
/// slots end one by one, evenly spread, and steps mix prefill with decode as they do in
/// production.
#[derive(Debug, Clone)]
pub struct Slots {
    free: VecDeque<Arrival>,
    concurrency: u32,
}

impl Slots {
    /// `concurrency` free slots at `now_ns`.
    #[must_use]
    pub fn new(concurrency: u32, now_ns: u64) -> Self {
        let free = (0..concurrency)
            .map(|k| Arrival {
                scheduled_ns: now_ns,
                elapsed: (f64::from(k) + 0.5) / f64::from(concurrency),
                turn: None,
            })
            .collect();
        Self { free, concurrency }
    }
}

impl Arrivals for Slots {
    fn peek(&self) -> Option<Arrival> {
        self.free.front().copied()
    }

    fn advance(&mut self) {
        self.free.pop_front();
    }

    fn on_end(&mut self, at_ns: u64) {
        self.free.push_back(Arrival {
            scheduled_ns: at_ns,
            elapsed: 0.0,
            turn: None,
        });
    }

    fn concurrency(&self) -> Option<u32> {
        Some(self.concurrency)
    }
}
