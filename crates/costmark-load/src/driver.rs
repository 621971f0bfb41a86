//! The loop that sends requests when they are due and takes in what comes back.

use costmark_core::{
    Backend, ErrorClass, Event, Outcome, Request, RequestError, RequestId, RequestRecord,
    StepRecord,
};

use crate::arrivals::{Arrival, Arrivals};
use crate::in_flight::{Ending, InFlight};
use crate::recorder::{Progress, Recorder};
use crate::stop::{Stop, StopSignal};
use crate::unit::{Phase, UnitError, UnitRun, WarmupFacts};
use crate::warmup::{Warmup, WarmupWatch};
use crate::workload::{RequestKey, Workload};

/// How often the driver looks up from waiting: for the stop signal and the live view.
const TICK_NS: u64 = 100_000_000;

/// How a unit is run, apart from when requests are due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) unit: u32,
    pub(crate) stop: Stop,
    pub(crate) warmup: Warmup,
    pub(crate) stall_timeout_ns: Option<u64>,
    pub(crate) max_consecutive_failures: u32,
}

/// Where the unit is. Phases are of requests, stages of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Send(Phase),
    /// Nothing more is sent; what is in flight ends.
    Drain,
}

pub(crate) struct Driver<'a> {
    plan: Plan,
    backend: &'a mut dyn Backend,
    arrivals: &'a mut dyn Arrivals,
    workload: &'a Workload,
    recorder: &'a mut dyn Recorder,
    signal: &'a StopSignal,

    stage: Stage,
    watch: WarmupWatch,
    in_flight: InFlight,
    /// Requests sent in each phase: the next index.
    sent: [u64; 3],
    /// The request expected next, made while waiting so that sending is quick.
    prepared: Option<Request>,
    cancelled_all: bool,
    begun_ns: u64,
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
        backend: &'a mut dyn Backend,
        arrivals: &'a mut dyn Arrivals,
        workload: &'a Workload,
        recorder: &'a mut dyn Recorder,
        signal: &'a StopSignal,
    ) -> Self {
        let now_ns = backend.now_ns();
        let concurrency = arrivals.concurrency();
        let stage = if plan.warmup.enabled {
            Phase::Warmup
        } else {
            Phase::Measured
        };
        Self {
            stage: Stage::Send(stage),
            watch: WarmupWatch::new(plan.warmup, concurrency.unwrap_or(1), now_ns),
            in_flight: InFlight::default(),
            sent: [0; 3],
            prepared: None,
            cancelled_all: false,
            begun_ns: now_ns,
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
                interrupted: false,
                error: None,
            },
            plan,
            backend,
            arrivals,
            workload,
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
            Some(arrival) if self.stage != Stage::Drain => arrival.scheduled_ns.min(tick_ns),
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
        self.cancelled_all = with_measured;
        for id in self.in_flight.ids(with_measured) {
            self.backend.cancel(id);
        }
    }

    fn send_due(&mut self) -> Result<(), UnitError> {
        while let Stage::Send(_) = self.stage {
            let now_ns = self.backend.now_ns();
            let Some(arrival) = self.arrivals.peek().filter(|a| a.scheduled_ns <= now_ns) else {
                return Ok(());
            };
            let phase = self.phase_of(arrival);
            self.stage = Stage::Send(phase);
            if phase == Phase::Cooldown && self.in_flight.measured() == 0 {
                self.drain(false);
                return Ok(());
            }
            self.send(phase, arrival)?;
            self.arrivals.advance();
        }
        Ok(())
    }

    /// The phase a request due now belongs to; begins the measurement when it is time.
    fn phase_of(&mut self, arrival: Arrival) -> Phase {
        let Stage::Send(mut phase) = self.stage else {
            return Phase::Cooldown;
        };
        if phase == Phase::Warmup && self.watch.is_over(arrival.scheduled_ns) {
            self.run.start_ns = arrival.scheduled_ns;
            self.run.warmup.settled = self.watch.is_settled();
            phase = Phase::Measured;
        }
        let measured_ns = arrival.scheduled_ns.saturating_sub(self.run.start_ns);
        let enough = match self.plan.stop {
            Stop::Requests(n) => self.sent_in(Phase::Measured) >= n,
            Stop::Duration(ns) => measured_ns >= ns,
        };
        if phase == Phase::Measured && enough {
            phase = Phase::Cooldown;
        }
        phase
    }

    fn send(&mut self, phase: Phase, arrival: Arrival) -> Result<(), UnitError> {
        let key = self.next_key(phase);
        let request = match self.prepared.take() {
            Some(request) if request.id == key.id() && arrival.elapsed == 0.0 => request,
            _ if phase == Phase::Warmup => self.workload.request_under_way(key, arrival.elapsed),
            _ => self.workload.request(key),
        };
        self.sent[index_of(phase)] += 1;
        let sent_ns = self.backend.now_ns();
        self.in_flight
            .insert(phase, arrival.scheduled_ns, sent_ns, &request);
        Ok(self.backend.submit(request)?)
    }

    /// Makes the next request ahead of time. A wrong guess costs only the making.
    fn prepare(&mut self) {
        let Stage::Send(mut phase) = self.stage else {
            return;
        };
        if phase == Phase::Warmup && self.watch.is_over(self.backend.now_ns()) {
            phase = Phase::Measured;
        }
        if matches!(self.plan.stop, Stop::Requests(n) if self.sent_in(Phase::Measured) >= n) {
            phase = Phase::Cooldown;
        }
        let key = self.next_key(phase);
        if self.prepared.as_ref().is_none_or(|r| r.id != key.id()) {
            self.prepared = Some(self.workload.request(key));
        }
    }

    fn next_key(&self, phase: Phase) -> RequestKey {
        RequestKey {
            unit: self.plan.unit,
            phase,
            index: self.sent_in(phase),
        }
    }

    fn sent_in(&self, phase: Phase) -> u64 {
        self.sent[index_of(phase)]
    }

    fn on_event(&mut self, event: Event) -> Result<(), UnitError> {
        match event {
            Event::Tokens(tokens) => {
                let gap_ns = self.in_flight.on_tokens(tokens)?;
                self.output_tokens += u64::from(tokens.tokens);
                if self.stage == Stage::Send(Phase::Warmup) {
                    self.watch.on_tokens(tokens.at_ns, gap_ns);
                }
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
        if self.stage == Stage::Send(Phase::Warmup) {
            self.watch.on_step(&step);
        }
        self.run.steps.push(step);
        let phase = match self.stage {
            Stage::Send(phase) => phase,
            Stage::Drain => Phase::Cooldown,
        };
        Ok(self.recorder.on_step(phase, &step)?)
    }

    fn on_end(&mut self, id: RequestId, at_ns: u64, ending: Ending) -> Result<(), UnitError> {
        let (phase, record) = self.in_flight.end(id, at_ns, ending)?;
        self.arrivals.on_end(at_ns);
        if self.stage == Stage::Send(Phase::Warmup) {
            self.watch.on_end(!record.token_ns.is_empty());
        }
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
            Event::Tokens(tokens) => _ = self.in_flight.on_tokens(tokens),
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
        let phase = match self.stage {
            Stage::Send(phase) => phase,
            Stage::Drain => Phase::Cooldown,
        };
        let measured_ns = match phase {
            Phase::Warmup => 0,
            _ => now_ns.saturating_sub(self.run.start_ns),
        };
        self.recorder.on_progress(&Progress {
            phase,
            elapsed_ns: now_ns.saturating_sub(self.begun_ns),
            measured_ns,
            in_flight: self.in_flight.len() as u64,
            sent: self.sent_in(Phase::Measured),
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
        if self.sent[index_of(Phase::Measured)] == 0 {
            // Cut short during warm-up: an empty measurement.
            run.start_ns = self.backend.now_ns();
        }
        run.warmup.requests = self.sent[index_of(Phase::Warmup)];
        run.warmup.duration_ns = run.start_ns.saturating_sub(self.begun_ns);
        run.end_ns = run
            .requests
            .iter()
            .map(|r| r.finished_ns)
            .fold(run.start_ns, u64::max);
        let (start_ns, end_ns) = (run.start_ns, run.end_ns);
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

fn index_of(phase: Phase) -> usize {
    match phase {
        Phase::Measured => 0,
        Phase::Warmup => 1,
        Phase::Cooldown => 2,
    }
}
