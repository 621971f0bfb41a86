//! Which phase a request belongs to, and from when to when a unit is measured.
//!
//! Phases follow from the instants at which requests are *due*, never from when they could
//! be sent: a slow backend must not be able to move the measurement.

use costmark_core::{RequestRecord, Span as TokenSpan, StepRecord};

use crate::stop::Stop;
use crate::unit::Phase;
use crate::warmup::WarmupWatch;

/// What ends the warm-up.
#[derive(Debug)]
pub(crate) enum WarmupEnd {
    /// There is none.
    Off,
    /// This instant.
    At(u64),
    /// The backend has settled, but not before this instant.
    Settled(Box<WarmupWatch>, u64),
}

impl WarmupEnd {
    fn is_over(&self, now_ns: u64) -> bool {
        match self {
            Self::Off => true,
            Self::At(at_ns) => now_ns >= *at_ns,
            Self::Settled(watch, earliest_ns) => now_ns >= *earliest_ns && watch.is_over(now_ns),
        }
    }
}

/// What bounds the measured time of a unit that was not cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    /// From the first measured request due to the last one ended.
    Requests,
    /// While measured requests kept coming: to the first one due that is not measured any
    /// more, the end of the stated duration, or the last request there is.
    Arrivals,
}

#[derive(Debug)]
pub(crate) struct Phases {
    stop: Stop,
    warmup: WarmupEnd,
    span: Span,
    phase: Phase,
    begun_ns: u64,
    start_ns: Option<u64>,
    /// Measured requests stopped coming.
    stopped_ns: Option<u64>,
    last_due_ns: u64,
    settled: bool,
    /// Requests sent in each phase: the next index.
    sent: [u64; 3],
}

impl Phases {
    pub(crate) fn new(stop: Stop, warmup: WarmupEnd, span: Span, now_ns: u64) -> Self {
        let phase = match warmup {
            WarmupEnd::Off => Phase::Measured,
            _ => Phase::Warmup,
        };
        Self {
            stop,
            warmup,
            span,
            phase,
            begun_ns: now_ns,
            start_ns: None,
            stopped_ns: None,
            last_due_ns: now_ns,
            settled: false,
            sent: [0; 3],
        }
    }

    pub(crate) fn current(&self) -> Phase {
        self.phase
    }

    /// The phase of the next request if it is due at `due_ns`.
    pub(crate) fn of(&self, due_ns: u64) -> Phase {
        let mut phase = self.phase;
        let mut start_ns = self.start_ns.unwrap_or(due_ns);
        if phase == Phase::Warmup && self.warmup.is_over(due_ns) {
            phase = Phase::Measured;
            start_ns = self.start_for(due_ns);
        }
        let enough = match self.stop {
            Stop::Requests(n) => self.sent_in(Phase::Measured) >= n,
            Stop::Duration(ns) => due_ns.saturating_sub(start_ns) >= ns,
        };
        if phase == Phase::Measured && enough {
            phase = Phase::Cooldown;
        }
        phase
    }

    /// The next request is due: begins and ends the measurement when it is time.
    pub(crate) fn advance(&mut self, due_ns: u64) -> Phase {
        let phase = self.of(due_ns);
        if self.phase == Phase::Warmup && phase != Phase::Warmup {
            self.settled = self.is_settled();
        }
        if phase != Phase::Warmup && self.start_ns.is_none() {
            self.start_ns = Some(self.start_for(due_ns));
        }
        if phase == Phase::Cooldown {
            self.stop_at(match self.stop {
                Stop::Requests(_) => due_ns,
                Stop::Duration(ns) => self.start_ns.unwrap_or(due_ns).saturating_add(ns),
            });
        }
        self.phase = phase;
        phase
    }

    /// Requests counted on a clock of their own would be counted from an instant at which
    /// one is sure to be due; so a duration begins where the warm-up was to end.
    fn start_for(&self, due_ns: u64) -> u64 {
        match (self.span, self.stop, &self.warmup) {
            (Span::Arrivals, Stop::Duration(_), WarmupEnd::At(at_ns)) => *at_ns,
            (Span::Arrivals, Stop::Duration(_), WarmupEnd::Off) => self.begun_ns,
            _ => due_ns,
        }
    }

    /// No measured request comes after `at_ns`.
    pub(crate) fn stop_at(&mut self, at_ns: u64) {
        self.stopped_ns.get_or_insert(at_ns);
    }

    /// There are no further requests.
    pub(crate) fn exhaust(&mut self) {
        self.stop_at(self.last_due_ns);
    }

    /// The next request was sent, in the current phase.
    pub(crate) fn on_sent(&mut self, due_ns: u64) {
        self.sent[index_of(self.phase)] += 1;
        self.last_due_ns = due_ns;
        if let Some(watch) = self.watch() {
            watch.on_sent();
        }
    }

    pub(crate) fn on_tokens(&mut self, at_ns: u64, gap_ns: Option<u64>) {
        if let Some(watch) = self.watch() {
            watch.on_tokens(at_ns, gap_ns);
        }
    }

    pub(crate) fn on_run(&mut self, span: TokenSpan, gap_ns: Option<u64>) {
        if let Some(watch) = self.watch() {
            watch.on_tokens(span.first_ns, gap_ns);
            for i in 1..u64::from(span.events) {
                watch.on_tokens(span.first_ns + i * span.gap_ns, Some(span.gap_ns));
            }
        }
    }

    pub(crate) fn on_step(&mut self, step: &StepRecord) {
        if let Some(watch) = self.watch() {
            watch.on_step(step);
        }
    }

    pub(crate) fn on_end(&mut self, brought_tokens: bool) {
        if let Some(watch) = self.watch() {
            watch.on_end(brought_tokens);
        }
    }

    fn watch(&mut self) -> Option<&mut WarmupWatch> {
        match &mut self.warmup {
            WarmupEnd::Settled(watch, _) if self.phase == Phase::Warmup => Some(watch),
            _ => None,
        }
    }

    fn is_settled(&self) -> bool {
        matches!(&self.warmup, WarmupEnd::Settled(watch, _) if watch.is_settled())
    }

    /// Whether the backend had settled when the measurement began.
    pub(crate) fn settled(&self) -> bool {
        self.settled
    }

    pub(crate) fn sent_in(&self, phase: Phase) -> u64 {
        self.sent[index_of(phase)]
    }

    /// Requests sent in all phases.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.iter().sum()
    }

    pub(crate) fn begun_ns(&self) -> u64 {
        self.begun_ns
    }

    /// Begin of the measurement, if it has begun.
    pub(crate) fn start_ns(&self) -> Option<u64> {
        self.start_ns
    }

    /// Begin and end of the measured time, given the measured requests. Empty if the unit
    /// was cut short during warm-up.
    pub(crate) fn bounds(&self, measured: &[RequestRecord], now_ns: u64) -> (u64, u64) {
        let Some(start_ns) = self.start_ns.filter(|_| !measured.is_empty()) else {
            return (now_ns, now_ns);
        };
        let last_end_ns = measured
            .iter()
            .map(|r| r.finished_ns)
            .fold(start_ns, u64::max);
        let end_ns = match self.span {
            Span::Requests => last_end_ns,
            Span::Arrivals => self.stopped_ns.unwrap_or(last_end_ns).max(start_ns),
        };
        (start_ns, end_ns)
    }
}

fn index_of(phase: Phase) -> usize {
    match phase {
        Phase::Measured => 0,
        Phase::Warmup => 1,
        Phase::Cooldown => 2,
    }
}
