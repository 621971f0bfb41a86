//! Units that do not run to their end keep everything observed until then.

use std::io;
use std::num::NonZeroU32;

use costmark_core::mock::{MockBackend, MockConfig, MockTime};
use costmark_core::{
    Backend, BackendError, BackendInfo, ErrorClass, Event, FinishReason, Outcome, Request,
    RequestId, RequestRecord, Sampling, StepRecord,
};
use costmark_load::{
    ClosedLoop, LengthDistribution, Phase, Progress, Recorder, Stop, StopSignal, UnitError,
    UnitRun, Workload,
};

fn workload() -> Workload {
    Workload {
        input: LengthDistribution::Fixed(8),
        output: LengthDistribution::Fixed(30),
        vocab_size: 500,
        seed: 1,
        ignore_eos: true,
        sampling: Sampling::Greedy,
    }
}

fn closed_loop(requests: u64) -> ClosedLoop {
    ClosedLoop::new(NonZeroU32::MIN.saturating_add(3), Stop::Requests(requests))
}

/// Acts after a number of measured requests.
struct Acting<'a> {
    after: usize,
    act: &'a mut dyn FnMut() -> io::Result<()>,
    records: Vec<RequestRecord>,
    progress: Vec<Progress>,
}

impl<'a> Acting<'a> {
    fn after(after: usize, act: &'a mut dyn FnMut() -> io::Result<()>) -> Self {
        Self {
            after,
            act,
            records: Vec::new(),
            progress: Vec::new(),
        }
    }
}

impl Recorder for Acting<'_> {
    fn on_step(&mut self, _: Phase, _: &StepRecord) -> io::Result<()> {
        Ok(())
    }

    fn on_request(&mut self, phase: Phase, record: &RequestRecord) -> io::Result<()> {
        if phase == Phase::Measured {
            self.records.push(record.clone());
            if self.records.len() == self.after {
                return (self.act)();
            }
        }
        Ok(())
    }

    fn on_progress(&mut self, progress: &Progress) {
        self.progress.push(*progress);
    }
}

fn run(backend: &mut dyn Backend, recorder: &mut Acting<'_>, signal: &StopSignal) -> UnitRun {
    closed_loop(40).run(0, backend, &workload(), recorder, signal)
}

fn mock(config: MockConfig) -> MockBackend {
    MockBackend::new(config, MockTime::Virtual)
}

fn outcomes(run: &UnitRun, wanted: FinishReason) -> usize {
    run.requests
        .iter()
        .filter(|r| r.outcome == Outcome::Finished(wanted))
        .count()
}

#[test]
fn one_stop_request_lets_measured_requests_finish() {
    let signal = StopSignal::new();
    let mut act = || {
        signal.request();
        Ok(())
    };
    let mut recorder = Acting::after(10, &mut act);
    let run = run(&mut mock(MockConfig::default()), &mut recorder, &signal);
    assert!(run.interrupted && run.error.is_none());
    // The tenth leaves its slot free; three were in flight and finish.
    assert_eq!(run.requests.len(), 13);
    assert_eq!(outcomes(&run, FinishReason::Length), 13);
    assert_eq!(recorder.records, run.requests);
    let last = recorder.progress.last().unwrap();
    assert_eq!((last.sent, last.finished, last.failed), (13, 13, 0));
    assert_eq!((last.in_flight, last.total), (0, Some(40)));
}

#[test]
fn two_stop_requests_cancel() {
    let signal = StopSignal::new();
    let mut act = || {
        signal.request();
        signal.request();
        Ok(())
    };
    let mut recorder = Acting::after(10, &mut act);
    let run = run(&mut mock(MockConfig::default()), &mut recorder, &signal);
    assert!(run.interrupted && run.error.is_none());
    assert_eq!(outcomes(&run, FinishReason::Length), 10);
    assert_eq!(outcomes(&run, FinishReason::Cancelled), 3);
}

#[test]
fn a_stop_before_the_measurement_leaves_it_empty() {
    let signal = StopSignal::new();
    signal.request();
    let mut nothing = || Ok(());
    let mut recorder = Acting::after(1, &mut nothing);
    let run = run(&mut mock(MockConfig::default()), &mut recorder, &signal);
    assert!(run.interrupted && run.requests.is_empty());
    assert_eq!(run.start_ns, run.end_ns);
}

#[test]
fn a_backend_that_dies_leaves_what_it_did() {
    let config = MockConfig {
        die_after_events: Some(700),
        ..MockConfig::default()
    };
    let mut nothing = || Ok(());
    let mut recorder = Acting::after(usize::MAX, &mut nothing);
    let run = run(&mut mock(config), &mut recorder, &StopSignal::new());
    assert!(matches!(run.error, Some(UnitError::Backend(_))));
    assert!(!run.is_complete() && !run.interrupted);
    let finished = outcomes(&run, FinishReason::Length);
    assert!(finished > 10, "{finished}");
    // Those in flight failed, with the tokens that had arrived.
    let failed: Vec<_> = run.requests.iter().filter(|r| !r.is_ok()).collect();
    assert_eq!(failed.len(), 4);
    for record in failed {
        let Outcome::Failed(error) = &record.outcome else {
            panic!("{record:?}");
        };
        assert_eq!(error.class, ErrorClass::Device);
        assert!(error.message.contains("told to die"), "{}", error.message);
        assert_eq!(record.output_tokens as usize, record.token_ns.len());
    }
    assert_eq!(recorder.records, run.requests);
}

#[test]
fn a_full_disk_ends_the_unit_and_loses_nothing() {
    let mut act = || Err(io::Error::from(io::ErrorKind::StorageFull));
    let mut recorder = Acting::after(10, &mut act);
    let mut backend = mock(MockConfig::default());
    let run = run(&mut backend, &mut recorder, &StopSignal::new());
    assert!(
        matches!(&run.error, Some(UnitError::Record(e)) if e.kind() == io::ErrorKind::StorageFull)
    );
    assert_eq!(outcomes(&run, FinishReason::Length), 10);
    assert_eq!(outcomes(&run, FinishReason::Cancelled), 3);
    assert_eq!(
        recorder.records.len(),
        10,
        "a recorder that failed is left alone"
    );
    let mut left = Vec::new();
    backend.poll(None, &mut left).unwrap();
    assert!(left.is_empty());
}

#[test]
fn failures_without_end_are_given_up() {
    let config = MockConfig {
        fail_every: 1,
        ..MockConfig::default()
    };
    let plan = ClosedLoop {
        max_consecutive_failures: 20,
        ..closed_loop(1000)
    };
    let mut nothing = || Ok(());
    let mut recorder = Acting::after(usize::MAX, &mut nothing);
    let signal = StopSignal::new();
    let run = plan.run(0, &mut mock(config), &workload(), &mut recorder, &signal);
    let Some(UnitError::GaveUp { failures, last }) = &run.error else {
        panic!("{:?}", run.error);
    };
    assert_eq!(*failures, 20);
    assert!(last.contains("told to fail"), "{last}");
    assert!(run.requests.len() < 30);
}

/// Takes requests and says nothing.
struct Silent {
    inner: MockBackend,
    now_ns: u64,
}

impl Backend for Silent {
    fn info(&self) -> &BackendInfo {
        self.inner.info()
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn submit(&mut self, _: Request) -> Result<(), BackendError> {
        Ok(())
    }

    fn cancel(&mut self, _: RequestId) {}

    fn poll(&mut self, until_ns: Option<u64>, _: &mut Vec<Event>) -> Result<(), BackendError> {
        self.now_ns = until_ns.unwrap_or(self.now_ns);
        Ok(())
    }
}

#[test]
fn silence_is_not_waited_out_for_ever() {
    let mut silent = Silent {
        inner: mock(MockConfig::default()),
        now_ns: 0,
    };
    let mut nothing = || Ok(());
    let mut recorder = Acting::after(usize::MAX, &mut nothing);
    let run = run(&mut silent, &mut recorder, &StopSignal::new());
    let Some(UnitError::Stalled {
        silent_s,
        in_flight,
    }) = run.error
    else {
        panic!("{:?}", run.error);
    };
    assert_eq!((silent_s, in_flight), (1800, 4));
    assert!(run.requests.is_empty(), "it never left warm-up");
    assert_eq!(run.warmup.failed, 4);
}
