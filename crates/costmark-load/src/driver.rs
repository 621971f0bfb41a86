//! The loop that sends requests when they are due and takes in what comes back.

use costmark_core::{
    Backend, ErrorClass, Event, FinishReason, Outcome, Request, RequestError, RequestId,
    RequestRecord, StepRecord,
};

use crate::arrivals::{Arrival, Arrivals, Ended};
use crate::cap::Cap;
use crate::in_flight::{Ending, InFlight};
use crate::phases::Phases;
use crate::recorder::{Progress, Recorder};
use crate::source::RequestSource;
use crate::stop::{Stop, StopSignal};
use crate::unit::{Phase, UnitError, UnitRun, WarmupFacts};
use crate::workload::RequestKey;

/// How often the driver looks up from waiting: for the stop signal and the live view.
const TICK_NS: u64 = 100_000_000;

/// How a unit is run, apart from when requests are due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) unit: u32,
    pub(crate) stop: Stop,
    pub(crate) max_in_flight: Option<u32>,
    pub(crate) stall_timeout_ns: Option<u64>,
    pub(crate) max_consecutive_failures: u32,
}

/// Where the unit is. [Phases](Phase) are of requests, stages of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Send,
    /// Nothing more is sent; what is in flight ends.
    Drain,
}

pub(crate) struct Driver<'a> {
    plan: Plan,
    backend: &'a mut dyn Backend,
    arrivals: &'a mut dyn Arrivals,
    source: &'a dyn RequestSource,
    recorder: &'a mut dyn Recorder,
    signal: &'a StopSignal,

    reads_prompts: bool,
    stage: Stage,
    phases: Phases,
    cap: Cap,
    in_flight: InFlight,
    /// The request expected next, made while waiting so that sending is quick.
    prepared: Option<Request>,
    cancelled_all: bool,
    last_event_ns: u64,
    last_progress_ns: u64,
    consecutive_failures: u32,
    output_tokens: u64,
    measured_failed: u64,
    run: UnitRun,
}

impl<'a> Driver<'a> {
    pub(crate) fn new(
        plan: Plan,
        phases: Phases,
        backend: &'a mut dyn Backend,
        arrivals: &'a mut dyn Arrivals,
        source: &'a dyn RequestSource,
        recorder: &'a mut dyn Recorder,
        signal: &'a StopSignal,
    ) -> Self {
        let now_ns = backend.now_ns();
        let concurrency = arrivals.concurrency();
        Self {
            reads_prompts: backend.reads_prompts(),
            stage: Stage::Send,
            phases,
            cap: Cap::new(plan.max_in_flight),
            in_flight: InFlight::for_backend(backend.info().kind, arrivals.follows_up()),
            prepared: None,
            cancelled_all: false,
            last_event_ns: now_ns,
            last_progress_ns: now_ns,
            consecutive_failures: 0,
            output_tokens: 0,
            measured_failed: 0,
            run: UnitRun {
                unit: plan.unit,
                concurrency,
                start_ns: now_ns,
                end_ns: now_ns,
                warmup: WarmupFacts::default(),
                requests: Vec::new(),
                background: Vec::new(),
                steps: Vec::new(),
                delayed_by_cap: 0,
                interrupted: false,
                error: None,
            },
            plan,
            backend,
            arrivals,
            source,
            recorder,
            signal,
        }
    }

    pub(crate) fn run(mut self) -> UnitRun {
        if let Err(error) = self.drive() {
            self.wind_up(error);
        }
        self.finish()
    }

    fn drive(&mut self) -> Result<(), UnitError> {
        let mut events = Vec::new();
        loop {
            self.heed_signal();
            self.send_due()?;
            if self.stage == Stage::Drain && self.in_flight.is_empty() {
                return Ok(());
            }
            self.prepare();
            self.take_in(&mut events)?;
            self.show_progress(false);
        }
    }

    /// Waits for events and takes them in; those that came before an error count.
    fn take_in(&mut self, events: &mut Vec<Event>) -> Result<(), UnitError> {
        let tick_ns = self.backend.now_ns() + TICK_NS;
        let until_ns = match self.arrivals.peek() {
            // A request held back by the cap waits for an event, not for an instant.
            Some(arrival) if self.stage == Stage::Send && !self.cap.is_full(&self.in_flight) => {
                arrival.scheduled_ns.min(tick_ns)
            }
            _ => tick_ns,
        };
        let polled = self.backend.poll(Some(until_ns), events);
        if !events.is_empty() || self.in_flight.is_empty() {
            self.last_event_ns = self.backend.now_ns();
        }
        let mut first_error = None;
        for event in events.drain(..) {
            match &first_error {
                None => first_error = self.on_event(event).err(),
                // What came in the same batch is observed all the same.
                Some(error) => self.on_late_event(event, recorder_works(error)),
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        polled?;
        let silent_ns = self.backend.now_ns().saturating_sub(self.last_event_ns);
        if self.plan.stall_timeout_ns.is_some_and(|t| silent_ns >= t) {
            return Err(UnitError::Stalled {
                silent_s: silent_ns / 1_000_000_000,
                in_flight: self.in_flight.len(),
            });
        }
        Ok(())
    }

    fn heed_signal(&mut self) {
        if !self.signal.is_requested() || self.cancelled_all {
            return;
        }
        if self.stage != Stage::Drain {
            self.run.interrupted = true;
            self.drain(false);
        }
        if self.signal.is_immediate() && self.in_flight.measured() > 0 {
            self.run.interrupted = true;
            self.drain(true);
        }
    }

    /// Sends nothing more; cancels what need not be waited for.
    fn drain(&mut self, with_measured: bool) {
        self.stage = Stage::Drain;
        // Only if they had not stopped coming before.
        self.phases.stop_at(self.backend.now_ns());
        self.cancelled_all = with_measured;
        for id in self.in_flight.ids(with_measured) {
            self.backend.cancel(id);
        }
    }

    fn send_due(&mut self) -> Result<(), UnitError> {
        while self.stage == Stage::Send {
            let Some(arrival) = self.arrivals.peek() else {
                if self.arrivals.is_exhausted() {
                    self.phases.exhaust();
                    self.drain_unless_measuring();
                }
                return Ok(());
            };
            if arrival.scheduled_ns > self.backend.now_ns() {
                // The next one will not be measured, and there is nothing to wait for.
                if self.in_flight.is_empty()
                    && self.phases.of(arrival.scheduled_ns) == Phase::Cooldown
                {
                    self.phases.advance(arrival.scheduled_ns);
                    self.drain_unless_measuring();
                }
                return Ok(());
            }
            let phase = self.phases.advance(arrival.scheduled_ns);
            if phase == Phase::Cooldown && self.in_flight.measured() == 0 {
                self.drain(false);
                return Ok(());
            }
            if self.cap.is_full(&self.in_flight) {
                return Ok(());
            }
            self.send(phase, arrival)?;
        }
        Ok(())
    }

    fn drain_unless_measuring(&mut self) {
        if self.in_flight.measured() == 0 {
            self.drain(false);
        }
    }

    fn send(&mut self, phase: Phase, arrival: Arrival) -> Result<(), UnitError> {
        let key = self.next_key(phase);
        let request = match self.prepared.take() {
            Some(request) if request.id == key.id() && arrival.elapsed == 0.0 => request,
            _ => {
                let under_way = phase == Phase::Warmup;
                let elapsed = if under_way { arrival.elapsed } else { 0.0 };
                self.make(key, elapsed)
            }
        };
        if phase == Phase::Measured && self.cap.delays(arrival.scheduled_ns) {
            self.run.delayed_by_cap += 1;
        }
        self.phases.on_sent(arrival.scheduled_ns);
        self.arrivals.on_sent(request.id);
        let sent_ns = self.backend.now_ns();
        self.in_flight.insert(phase, &arrival, sent_ns, &request);
        Ok(self.backend.submit(request)?)
    }

    /// Makes the next request ahead of time. A wrong guess costs only the making.
    fn prepare(&mut self) {
        // What follows up is not known before it is due.
        if self.stage != Stage::Send || self.arrivals.follows_up() {
            return;
        }
        let due_ns = self.arrivals.peek().map(|arrival| arrival.scheduled_ns);
        let due_ns = due_ns.unwrap_or_else(|| self.backend.now_ns());
        let key = self.next_key(self.phases.of(due_ns));
        if self.prepared.as_ref().is_none_or(|r| r.id != key.id()) {
            self.prepared = Some(self.make(key, 0.0));
        }
    }

    fn make(&self, key: RequestKey, elapsed: f64) -> Request {
        let position = self.phases.sent();
        let mut request = if self.reads_prompts {
            self.source.make(key, position, elapsed)
        } else {
            self.source.make_blank(key, position, elapsed)
        };
        let history = self.arrivals.history();
        if !history.is_empty() {
            let shared = self.source.shared_prefix_tokens() as usize;
            let shared = shared.min(request.prompt.len().saturating_sub(1));
            request.prompt.splice(..shared, history.iter().copied());
        }
        request
    }

    fn next_key(&self, phase: Phase) -> RequestKey {
        RequestKey {
            unit: self.plan.unit,
            phase,
            index: self.phases.sent_in(phase),
        }
    }

    /// The phase of what is recorded now.
    fn phase(&self) -> Phase {
        match self.stage {
            Stage::Send => self.phases.current(),
            Stage::Drain => Phase::Cooldown,
        }
    }

    fn on_event(&mut self, event: Event) -> Result<(), UnitError> {
        match event {
            Event::Sent { request, at_ns } => self.in_flight.on_sent(request, at_ns),
            // Nothing that is measured.
            Event::Logprobs(_) => Ok(()),
            Event::Tokens(tokens) => {
                let gap_ns = self.in_flight.on_tokens(tokens)?;
                self.output_tokens += u64::from(tokens.tokens);
                self.phases.on_tokens(tokens.at_ns, gap_ns);
                Ok(())
            }
            Event::TokenRun(run) => {
                let gap_ns = self.in_flight.on_run(run)?;
                self.output_tokens += u64::from(run.span.events);
                self.phases.on_run(run.span, gap_ns);
                Ok(())
            }
            Event::Finished {
                request,
                at_ns,
                reason,
                usage,
            } => self.on_end(request, at_ns, Ending::Finished(reason, usage)),
            Event::Failed {
                request,
                at_ns,
                error,
            } => self.on_end(request, at_ns, Ending::Failed(error)),
            Event::Step(step) => self.on_step(step),
        }
    }

    fn on_step(&mut self, step: StepRecord) -> Result<(), UnitError> {
        self.phases.on_step(&step);
        self.run.steps.push(step);
        Ok(self.recorder.on_step(self.phase(), &step)?)
    }

    fn on_end(&mut self, id: RequestId, at_ns: u64, ending: Ending) -> Result<(), UnitError> {
        self.cap.on_end(&self.in_flight, at_ns);
        let said = self.in_flight.take_said(id);
        let (phase, record) = self.in_flight.end(id, at_ns, ending)?;
        let has_ended = matches!(
            record.outcome,
            Outcome::Finished(FinishReason::Length | FinishReason::Stop)
        );
        self.arrivals.on_end_of(Ended {
            id,
            at_ns,
            said: said.filter(|_| has_ended),
        });
        self.phases.on_end(!record.token_ns.is_empty());
        let failure = match &record.outcome {
            Outcome::Finished(_) => None,
            Outcome::Failed(error) => Some(error.message.clone()),
        };
        let recorded = self.recorder.on_request(phase, &record);
        self.keep(phase, record);
        recorded?;
        match failure {
            None => self.consecutive_failures = 0,
            Some(last) => {
                self.consecutive_failures += 1;
                if self.consecutive_failures >= self.plan.max_consecutive_failures {
                    return Err(UnitError::GaveUp {
                        failures: self.consecutive_failures,
                        last,
                    });
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, phase: Phase, record: RequestRecord) {
        let failed = u64::from(!record.is_ok());
        match phase {
            Phase::Measured => {
                self.measured_failed += failed;
                self.run.requests.push(record);
            }
            Phase::Warmup => {
                self.run.warmup.failed += failed;
                self.run.background.push(record);
            }
            Phase::Cooldown => self.run.background.push(record),
        }
    }

    /// After an error: ends what is in flight, keeping all records in memory. The recorder
    /// is left out if it was the one that failed.
    fn wind_up(&mut self, error: UnitError) {
        let recorder_works = recorder_works(&error);
        let backend_works = !matches!(error, UnitError::Backend(_) | UnitError::Stalled { .. });
        let reason = error.to_string();
        self.run.error = Some(error);
        self.drain(true);
        let mut events = Vec::new();
        while backend_works && !self.in_flight.is_empty() {
            // Errors on the way out would only hide the first one; a backend that fails
            // now leaves its requests to be failed below.
            let tick_ns = self.backend.now_ns() + TICK_NS;
            let polled = self.backend.poll(Some(tick_ns), &mut events);
            if !events.is_empty() {
                self.last_event_ns = self.backend.now_ns();
            }
            for event in events.drain(..) {
                self.on_late_event(event, recorder_works);
            }
            let silent_ns = self.backend.now_ns().saturating_sub(self.last_event_ns);
            if polled.is_err() || self.plan.stall_timeout_ns.is_some_and(|t| silent_ns >= t) {
                break;
            }
        }
        let at_ns = self.backend.now_ns();
        let error = RequestError {
            class: ErrorClass::Device,
            message: format!("in flight when the run ended: {reason}"),
        };
        for id in self.in_flight.ids(true) {
            self.end_late(id, at_ns, Ending::Failed(error.clone()), recorder_works);
        }
    }

    fn on_late_event(&mut self, event: Event, record: bool) {
        match event {
            // A stranger cannot make an ended run worse.
            Event::Sent { request, at_ns } => _ = self.in_flight.on_sent(request, at_ns),
            Event::Logprobs(_) => {}
            Event::Tokens(tokens) => _ = self.in_flight.on_tokens(tokens),
            Event::TokenRun(run) => _ = self.in_flight.on_run(run),
            Event::Finished {
                request,
                at_ns,
                reason,
                usage,
            } => self.end_late(request, at_ns, Ending::Finished(reason, usage), record),
            Event::Failed {
                request,
                at_ns,
                error,
            } => self.end_late(request, at_ns, Ending::Failed(error), record),
            Event::Step(step) => self.run.steps.push(step),
        }
    }

    fn end_late(&mut self, id: RequestId, at_ns: u64, ending: Ending, record: bool) {
        if let Ok((phase, ended)) = self.in_flight.end(id, at_ns, ending) {
            if record {
                // The unit has failed already; its first error is the one to tell.
                _ = self.recorder.on_request(phase, &ended);
            }
            self.keep(phase, ended);
        }
    }

    fn show_progress(&mut self, last: bool) {
        let now_ns = self.backend.now_ns();
        if !last && now_ns.saturating_sub(self.last_progress_ns) < TICK_NS {
            return;
        }
        self.last_progress_ns = now_ns;
        let start_ns = self.phases.start_ns().unwrap_or(now_ns);
        self.recorder.on_progress(&Progress {
            phase: self.phase(),
            elapsed_ns: now_ns.saturating_sub(self.phases.begun_ns()),
            measured_ns: now_ns.saturating_sub(start_ns),
            in_flight: self.in_flight.len() as u64,
            sent: self.phases.sent_in(Phase::Measured),
            finished: self.run.requests.len() as u64 - self.measured_failed,
            failed: self.measured_failed,
            total: match self.plan.stop {
                Stop::Requests(n) => Some(n),
                Stop::Duration(_) => None,
            },
            output_tokens: self.output_tokens,
        });
    }

    fn finish(mut self) -> UnitRun {
        self.show_progress(true);
        let mut run = self.run;
        let (start_ns, end_ns) = self.phases.bounds(&run.requests, self.backend.now_ns());
        (run.start_ns, run.end_ns) = (start_ns, end_ns);
        run.warmup.settled = self.phases.settled();
        run.warmup.requests = self.phases.sent_in(Phase::Warmup);
        run.warmup.duration_ns = start_ns.saturating_sub(self.phases.begun_ns());
        run.background
            .retain(|r| r.finished_ns > start_ns && r.scheduled_ns < end_ns);
        run.steps
            .retain(|s| s.end_ns > start_ns && s.start_ns < end_ns);
        run
    }
}

fn recorder_works(error: &UnitError) -> bool {
    !matches!(error, UnitError::Record(_))
}
