//! A backend of stated latencies, to prove drivers and metrics without a model.
//!
//! Request *r*, served from *s*, brings its first token at `s + ttft_ns` and each further
//! one `itl_ns` later; either time may be drawn at random around its mean. At most
//! `max_sequences` are served at once; others wait in line.
//!
//! On virtual time nothing sleeps: [`poll`](Backend::poll) moves the clock, and every instant
//! follows from configuration, seed and requests. On real time the schedule is the same, and
//! events bear the instant at which they were really told.

mod draw;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::time::Duration;

pub use draw::Draw;

use crate::backend::{
    Backend, BackendError, BackendInfo, BackendKind, Event, TokenEvent, TokenRun, Usage,
};
use crate::clock::{Clock, MonotonicClock};
use crate::replicas::{Bell, Replica};
use crate::request::{ErrorClass, FinishReason, Request, RequestError, RequestId};
use crate::token_times::Span;

/// Tokens told together never span more than this, so that a long request is not silence.
const LONGEST_RUN_NS: u64 = 60_000_000_000;

/// How the mock behaves.
#[derive(Debug, Clone)]
pub struct MockConfig {
    /// Time to the first token once a request is served; its mean if drawn.
    pub ttft_ns: u64,
    /// How it varies from request to request.
    pub ttft_draw: Draw,
    /// Gap between tokens; its mean if drawn.
    pub itl_ns: u64,
    /// How it varies from gap to gap.
    pub itl_draw: Draw,
    /// Seed of what is drawn.
    pub seed: u64,
    /// Requests served at once.
    pub max_sequences: usize,
    /// Tokens brought by each event.
    pub tokens_per_event: u32,
    /// On virtual time, tell equally spaced single tokens together ([`Event::TokenRun`]) when
    /// the last of them has come: the same instants at a fraction of the work. Token ids are
    /// not told then.
    pub runs: bool,
    /// The intake stands still once.
    pub stall: Option<Stall>,
    /// Requests whose id is a multiple of this fail at their first token; 0 for none.
    pub fail_every: u64,
    /// The whole backend fails when it is asked for this token event; `None` for never.
    pub die_after_events: Option<u64>,
}

/// A time in which the backend takes no requests, though it goes on serving those it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// The first [`submit`](Backend::submit) at this instant or later is kept waiting,
    pub at_ns: u64,
    /// for this long.
    pub for_ns: u64,
}

impl Default for MockConfig {
    fn default() -> Self {
        Self {
            ttft_ns: 50_000_000,
            ttft_draw: Draw::Fixed,
            itl_ns: 10_000_000,
            itl_draw: Draw::Fixed,
            seed: 0,
            max_sequences: usize::MAX,
            tokens_per_event: 1,
            runs: false,
            stall: None,
            fail_every: 0,
            die_after_events: None,
        }
    }
}

/// The time the mock lives in.
#[derive(Debug, Clone, Copy)]
pub enum MockTime {
    /// Starts at 0 and moves only in `poll`, and in a stalled `submit`.
    Virtual,
    /// Sleeps on this clock.
    Real(MonotonicClock),
}

/// What the mock remembers of a request: its prompt is not kept.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    id: RequestId,
    input_tokens: u32,
    max_tokens: u32,
    produced: u32,
    /// When the next token is due.
    next_ns: u64,
}

/// The next thing to happen to a sequence: when, to whom, in which slot. Ordered by instant,
/// then by id.
type Due = Reverse<(u64, RequestId, u32)>;

/// See the [module](self).
pub struct MockBackend {
    config: MockConfig,
    info: BackendInfo,
    time: MockTime,
    virtual_now_ns: u64,
    waiting: VecDeque<Sequence>,
    slots: Vec<Option<Sequence>>,
    free: Vec<u32>,
    due: BinaryHeap<Due>,
    cancelled: HashSet<RequestId>,
    emitted: u64,
}

impl MockBackend {
    /// A mock with nothing in flight.
    #[must_use]
    pub fn new(config: MockConfig, time: MockTime) -> Self {
        let info = BackendInfo {
            kind: BackendKind::Mock,
            model: "mock".into(),
            source: "none".into(),
            synthetic: true,
            weight_dtype: "none".into(),
            kv_dtype: "none".into(),
            device: "none".into(),
            replicas: 1,
            software: concat!("costmark mock ", env!("CARGO_PKG_VERSION")).into(),
            shape: None,
            work: None,
            max_context: u32::MAX,
            max_sequences: u32::try_from(config.max_sequences).unwrap_or(u32::MAX),
            kv_capacity_tokens: u64::MAX,
            weight_bytes: 0,
            notes: vec!["simulated latencies".into()],
        };
        Self {
            config,
            info,
            time,
            virtual_now_ns: 0,
            waiting: VecDeque::new(),
            slots: Vec::new(),
            free: Vec::new(),
            due: BinaryHeap::new(),
            cancelled: HashSet::new(),
            emitted: 0,
        }
    }

    /// The same, on virtual time that begins at `at_ns`: for a run that goes on where another
    /// one ended.
    #[must_use]
    pub fn starting_at(mut self, at_ns: u64) -> Self {
        self.virtual_now_ns = at_ns;
        self
    }

    fn serving(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn admit(&mut self) {
        while self.serving() < self.config.max_sequences {
            let Some(mut sequence) = self.waiting.pop_front() else {
                return;
            };
            let config = &self.config;
            let ttft_ns = config
                .ttft_draw
                .time_ns(config.ttft_ns, config.seed, sequence.id, 0);
            sequence.next_ns = self.now_ns() + ttft_ns;
            let slot = self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            });
            self.slots[slot as usize] = Some(sequence);
            self.schedule(slot);
        }
    }

    /// Enters the instant at which there is next something to tell of a slot.
    fn schedule(&mut self, slot: u32) {
        let Some(sequence) = &self.slots[slot as usize] else {
            return;
        };
        let at_ns = if self.tells_runs() && !self.fails(sequence.id) {
            self.run_of(sequence).last_ns()
        } else {
            sequence.next_ns
        };
        self.due.push(Reverse((at_ns, sequence.id, slot)));
    }

    fn tells_runs(&self) -> bool {
        self.config.runs
            && self.config.itl_draw == Draw::Fixed
            && self.config.tokens_per_event == 1
            && matches!(self.time, MockTime::Virtual)
    }

    fn fails(&self, id: RequestId) -> bool {
        self.config.fail_every > 0 && id.is_multiple_of(self.config.fail_every)
    }

    /// The tokens of a sequence that are told together next.
    fn run_of(&self, sequence: &Sequence) -> Span {
        let itl_ns = self.config.itl_ns;
        let longest = LONGEST_RUN_NS
            .checked_div(itl_ns)
            .map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX).max(1));
        Span {
            first_ns: sequence.next_ns,
            gap_ns: itl_ns,
            events: longest.min(sequence.max_tokens - sequence.produced),
        }
    }

    fn advance_to(&mut self, at_ns: u64) {
        match self.time {
            MockTime::Virtual => self.virtual_now_ns = self.virtual_now_ns.max(at_ns),
            MockTime::Real(clock) => {
                std::thread::sleep(Duration::from_nanos(at_ns.saturating_sub(clock.now_ns())));
            }
        }
    }

    /// Something due at `due_ns` is told now: the instant it bears.
    fn stamp_ns(&self, due_ns: u64) -> u64 {
        match self.time {
            MockTime::Virtual => due_ns,
            MockTime::Real(clock) => clock.now_ns(),
        }
    }

    fn leave(&mut self, slot: u32) {
        self.slots[slot as usize] = None;
        self.free.push(slot);
    }

    /// Something is due in a slot.
    fn fire(&mut self, due_ns: u64, slot: u32, events: &mut Vec<Event>) {
        let Some(mut sequence) = self.slots[slot as usize] else {
            return;
        };
        let at_ns = self.stamp_ns(due_ns);
        let id = sequence.id;
        if self.fails(id) {
            self.leave(slot);
            events.push(Event::Failed {
                request: id,
                at_ns,
                error: RequestError {
                    class: ErrorClass::Device,
                    message: "the mock was told to fail this request".into(),
                },
            });
            return;
        }
        self.emitted += 1;
        if self.tells_runs() {
            let span = self.run_of(&sequence);
            sequence.produced += span.events;
            sequence.next_ns = due_ns + self.config.itl_ns;
            events.push(run_event(id, span));
        } else {
            let left = sequence.max_tokens - sequence.produced;
            let tokens = self.config.tokens_per_event.min(left);
            sequence.produced += tokens;
            let config = &self.config;
            sequence.next_ns = due_ns
                + config
                    .itl_draw
                    .time_ns(config.itl_ns, config.seed, id, sequence.produced);
            events.push(Event::Tokens(TokenEvent {
                request: id,
                at_ns,
                tokens,
                token_id: (tokens == 1).then_some(sequence.produced),
            }));
        }
        if sequence.produced == sequence.max_tokens {
            self.leave(slot);
            events.push(finished(&sequence, at_ns, FinishReason::Length));
        } else {
            self.slots[slot as usize] = Some(sequence);
            self.schedule(slot);
        }
    }

    /// Ends what was cancelled, in the order of ids. Tokens that have come by now are told.
    fn end_cancelled(&mut self, events: &mut Vec<Event>) {
        if self.cancelled.is_empty() {
            return;
        }
        let cancelled = std::mem::take(&mut self.cancelled);
        let now_ns = self.now_ns();
        // With whether it was being served.
        let mut ended = Vec::new();
        self.waiting.retain(|sequence| {
            let goes = cancelled.contains(&sequence.id);
            if goes {
                ended.push((*sequence, false));
            }
            !goes
        });
        for slot in 0..self.slots.len() {
            let goes = |s: &Sequence| cancelled.contains(&s.id);
            if let Some(sequence) = self.slots[slot].filter(goes) {
                self.leave(u32::try_from(slot).unwrap_or(u32::MAX));
                ended.push((sequence, true));
            }
        }
        ended.sort_unstable_by_key(|(sequence, _)| sequence.id);
        for (mut sequence, served) in ended {
            if served && self.tells_runs() && !self.fails(sequence.id) {
                let span = self.run_of(&sequence);
                let events_so_far = span.until(now_ns);
                if events_so_far > 0 {
                    sequence.produced += events_so_far;
                    let span = Span {
                        events: events_so_far,
                        ..span
                    };
                    events.push(run_event(sequence.id, span));
                }
            }
            events.push(finished(&sequence, now_ns, FinishReason::Cancelled));
        }
    }
}

fn run_event(request: RequestId, span: Span) -> Event {
    if span.events == 1 {
        return Event::Tokens(TokenEvent {
            request,
            at_ns: span.first_ns,
            tokens: 1,
            token_id: None,
        });
    }
    Event::TokenRun(TokenRun { request, span })
}

fn finished(sequence: &Sequence, at_ns: u64, reason: FinishReason) -> Event {
    Event::Finished {
        request: sequence.id,
        at_ns,
        reason,
        usage: Usage {
            input_tokens: sequence.input_tokens,
            cached_tokens: 0,
            output_tokens: sequence.produced,
        },
    }
}

impl Backend for MockBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn now_ns(&self) -> u64 {
        match self.time {
            MockTime::Virtual => self.virtual_now_ns,
            MockTime::Real(clock) => clock.now_ns(),
        }
    }

    fn submit(&mut self, request: Request) -> Result<(), BackendError> {
        let now_ns = self.now_ns();
        if let Some(stall) = self.config.stall.take_if(|stall| stall.at_ns <= now_ns) {
            self.advance_to(now_ns + stall.for_ns);
        }
        self.waiting.push_back(Sequence {
            id: request.id,
            input_tokens: u32::try_from(request.prompt.len()).unwrap_or(u32::MAX),
            max_tokens: request.max_tokens,
            produced: 0,
            next_ns: 0,
        });
        self.admit();
        Ok(())
    }

    fn cancel(&mut self, id: RequestId) {
        self.cancelled.insert(id);
    }

    fn poll(&mut self, until_ns: Option<u64>, events: &mut Vec<Event>) -> Result<(), BackendError> {
        let before = events.len();
        self.end_cancelled(events);
        self.admit();
        while let Some(&Reverse((due_ns, id, slot))) = self.due.peek() {
            let reached = events.len() > before && due_ns > self.now_ns();
            if reached || until_ns.is_some_and(|until| due_ns > until) {
                break;
            }
            if self.slots[slot as usize].is_none_or(|s| s.id != id) {
                self.due.pop(); // it was cancelled
                continue;
            }
            if self
                .config
                .die_after_events
                .is_some_and(|n| self.emitted >= n)
            {
                return Err(BackendError::new("the mock was told to die"));
            }
            self.due.pop();
            self.advance_to(due_ns);
            self.fire(due_ns, slot, events);
            self.admit();
        }
        if events.len() == before
            && let Some(until) = until_ns
        {
            self.advance_to(until);
        }
        Ok(())
    }

    fn reads_prompts(&self) -> bool {
        false
    }

    fn simulates_time(&self) -> bool {
        matches!(self.time, MockTime::Virtual)
    }

    fn ringing(&mut self) -> Option<&mut dyn Replica> {
        Some(self)
    }
}

impl Replica for MockBackend {
    /// It has no thread of its own, and announces all it will tell.
    fn ring(&mut self, _: Bell) {}

    fn due_ns(&self) -> Option<u64> {
        if !self.cancelled.is_empty() {
            return Some(self.now_ns());
        }
        self.due.peek().map(|Reverse((due_ns, ..))| *due_ns)
    }
}
