//! Open loops against backends of known behaviour, on virtual time.

use std::num::NonZeroU32;

use costmark_core::mock::{MockBackend, MockConfig, MockTime};
use costmark_core::{
    Backend, BackendError, BackendInfo, Event, Request, RequestId, RequestRecord, Sampling,
};
use costmark_load::{
    LengthDistribution, NullRecorder, OpenLoop, OpenLoopError, OpenWarmup, Schedule, Stop,
    StopSignal, UnitRun, Warmup, Workload,
};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

fn workload(output: LengthDistribution) -> Workload {
    Workload {
        input: LengthDistribution::Fixed(8),
        output,
        vocab_size: 500,
        seed: 42,
        ignore_eos: true,
        sampling: Sampling::Greedy,
    }
}

fn open_loop(process: &str, stop: Stop) -> OpenLoop {
    OpenLoop::new(
        Schedule::Process(process.parse().expect("a process")),
        stop,
        5,
    )
}

fn run_on(plan: &OpenLoop, backend: &mut dyn Backend, output: LengthDistribution) -> UnitRun {
    let run = plan
        .run(
            0,
            backend,
            &workload(output),
            &mut NullRecorder,
            &StopSignal::new(),
        )
        .expect("a plan that can be run");
    assert!(run.is_complete(), "{:?}", run.error);
    run
}

fn run(plan: &OpenLoop, config: MockConfig, output: u32) -> UnitRun {
    let mut mock = MockBackend::new(config, MockTime::Virtual);
    run_on(plan, &mut mock, LengthDistribution::Fixed(output))
}

fn single_server(ttft_ns: u64, itl_ns: u64) -> MockConfig {
    MockConfig {
        ttft_ns,
        itl_ns,
        max_sequences: 1,
        ..MockConfig::default()
    }
}

fn scheduled(run: &UnitRun) -> Vec<u64> {
    let mut instants: Vec<u64> = run.requests.iter().map(|r| r.scheduled_ns).collect();
    instants.sort_unstable();
    instants
}

fn user_ttft_s(record: &RequestRecord) -> f64 {
    (record.token_ns.first().expect("a token") - record.scheduled_ns) as f64 / 1e9
}

#[test]
fn by_hand_a_request_count() {
    // 80 ms a request, one each 100 ms; warm-up covers those at 0, 100 and 200 ms.
    let mut plan = open_loop("constant:10", Stop::Requests(3));
    plan.warmup = OpenWarmup::For(250 * MS);
    let run = run(&plan, MockConfig::default(), 4);
    assert_eq!(scheduled(&run), [300 * MS, 400 * MS, 500 * MS]);
    // The one at 600 ms is not measured any more.
    assert_eq!((run.start_ns, run.end_ns), (300 * MS, 600 * MS));
    assert_eq!((run.warmup.requests, run.warmup.duration_ns), (3, 300 * MS));
    assert!(run.background.is_empty() && run.concurrency.is_none());
    assert!(
        run.requests
            .iter()
            .all(|r| r.sent_ns == r.scheduled_ns && r.is_ok())
    );
}

#[test]
fn by_hand_a_duration() {
    let mut plan = open_loop("constant:10", Stop::Duration(300 * MS));
    plan.warmup = OpenWarmup::For(250 * MS);
    // 380 ms a request: some are in flight at either end.
    let run = run(&plan, MockConfig::default(), 34);
    assert_eq!((run.start_ns, run.end_ns), (250 * MS, 550 * MS));
    assert_eq!(scheduled(&run), [300 * MS, 400 * MS, 500 * MS]);
    // The last measured one ends at 880 ms; until then requests keep coming.
    let background: Vec<u64> = run.background.iter().map(|r| r.scheduled_ns).collect();
    assert_eq!(background, [0, 100 * MS, 200 * MS]);
    assert!(
        run.requests
            .iter()
            .all(|r| r.finished_ns == r.sent_ns + 380 * MS)
    );
}

#[test]
fn the_load_is_kept_up_until_the_last_measured_request_has_ended() {
    // One at a time, 120 ms each, one every 100 ms: the queue grows, and the last measured
    // one waits behind all others but not behind those that came later.
    let mut plan = open_loop("constant:10", Stop::Requests(50));
    plan.warmup = OpenWarmup::Off;
    let mut mock = MockBackend::new(single_server(120 * MS, 0), MockTime::Virtual);
    let run = run_on(&plan, &mut mock, LengthDistribution::Fixed(1));
    assert_eq!(run.requests.len(), 50);
    assert_eq!(run.requests[49].finished_ns, 50 * 120 * MS);
    assert_eq!((run.start_ns, run.end_ns), (0, 5 * S));
    let mut left = Vec::new();
    mock.poll(None, &mut left).unwrap();
    assert!(left.is_empty(), "something was left in flight: {left:?}");
}

#[test]
fn a_schedule_of_given_instants_ends() {
    let times = [5 * MS, 5 * MS, 30 * MS, 70 * MS];
    let schedule = Schedule::Times(times.into());
    let run_all = OpenLoop::new(schedule.clone(), Stop::Requests(u64::MAX), 0);
    let found = run(&run_all, MockConfig::default(), 4);
    assert_eq!(scheduled(&found), times);
    assert_eq!((found.start_ns, found.end_ns), (5 * MS, 70 * MS));

    let some = OpenLoop::new(schedule, Stop::Duration(50 * MS), 0);
    let found = run(&some, MockConfig::default(), 4);
    assert_eq!(scheduled(&found), times[..3]);
    assert_eq!((found.start_ns, found.end_ns), (0, 50 * MS));
}

#[test]
fn all_at_once_is_measured_to_its_end() {
    let plan = open_loop("max", Stop::Requests(10));
    let config = MockConfig {
        max_sequences: 4,
        ..MockConfig::default()
    };
    let run = run(&plan, config, 4);
    assert_eq!(scheduled(&run), [0; 10]);
    // Three rounds of 80 ms.
    assert_eq!((run.start_ns, run.end_ns), (0, 240 * MS));
}

#[test]
fn what_cannot_be_run_is_refused() {
    let mut mock = MockBackend::new(MockConfig::default(), MockTime::Virtual);
    let mut refused = |plan: OpenLoop| {
        let output = LengthDistribution::Fixed(4);
        plan.run(
            0,
            &mut mock,
            &workload(output),
            &mut NullRecorder,
            &StopSignal::new(),
        )
        .unwrap_err()
    };
    let endless = refused(open_loop("max", Stop::Duration(S)));
    assert!(endless.to_string().contains("--requests"), "{endless}");
    let unsorted = Schedule::Times([0, 9, 8].into());
    assert_eq!(
        refused(OpenLoop::new(unsorted, Stop::Requests(3), 0)),
        OpenLoopError::Unsorted { index: 2 }
    );
}

#[test]
fn a_ramp_is_over_before_the_measurement_begins() {
    let plan = open_loop("ramp:1..100,5s", Stop::Duration(5 * S));
    let run = run(&plan, MockConfig::default(), 20);
    assert!(
        run.start_ns >= 5 * S && run.start_ns < 6 * S,
        "{}",
        run.start_ns
    );
    assert_eq!(run.end_ns, run.start_ns + 5 * S);
    let n = run.requests.len() as f64;
    assert!((n - 500.0).abs() < 6.0 * 500f64.sqrt(), "{n}");
    assert!(run.warmup.settled);
}

#[test]
fn warm_up_is_bounded_when_requests_arrive_faster_than_they_are_served() {
    let mut plan = open_loop("poisson:50", Stop::Requests(20));
    plan.warmup = OpenWarmup::Settled(Warmup {
        max_ns: 3 * S,
        tolerance: -1.0,
        ..Warmup::default()
    });
    let run = run(&plan, single_server(100 * MS, 0), 1);
    assert!(!run.warmup.settled);
    assert!(run.warmup.duration_ns >= 3 * S && run.warmup.duration_ns < 4 * S);
}

#[test]
fn a_cap_delays_and_is_counted_but_drops_nothing() {
    // 80 ms a request, ten bursts of 4 a second apart, at most 3 in flight: of each burst one
    // waits 80 ms.
    let mut plan = open_loop("bursts:4,1s", Stop::Requests(40));
    plan.warmup = OpenWarmup::Off;
    plan.max_in_flight = NonZeroU32::new(3);
    let run = run(&plan, MockConfig::default(), 4);
    assert_eq!((run.requests.len(), run.delayed_by_cap), (40, 10));
    let waited: Vec<u64> = run
        .requests
        .iter()
        .map(|r| r.sent_ns - r.scheduled_ns)
        .filter(|&ns| ns > 0)
        .collect();
    assert_eq!(waited, [80 * MS; 10]);
    // The user waits for the place and for the answer.
    let longest = run.requests.iter().map(user_ttft_s).fold(0.0, f64::max);
    assert!((longest - 0.130).abs() < 1e-9);
}

/// A mock whose driver is held up once: what a stop of the world does to a client.
struct Stalling {
    mock: MockBackend,
    from_ns: u64,
    for_ns: u64,
}

impl Backend for Stalling {
    fn info(&self) -> &BackendInfo {
        self.mock.info()
    }
    fn now_ns(&self) -> u64 {
        self.mock.now_ns()
    }
    fn submit(&mut self, request: Request) -> Result<(), BackendError> {
        self.mock.submit(request)
    }
    fn cancel(&mut self, id: RequestId) {
        self.mock.cancel(id);
    }
    fn poll(&mut self, until_ns: Option<u64>, events: &mut Vec<Event>) -> Result<(), BackendError> {
        if self.for_ns > 0 && self.now_ns() >= self.from_ns {
            let until_ns = self.now_ns() + std::mem::take(&mut self.for_ns);
            while self.now_ns() < until_ns {
                self.mock.poll(Some(until_ns), events)?;
            }
            return Ok(());
        }
        self.mock.poll(until_ns, events)
    }
}

#[test]
fn a_stall_of_one_second_shows_on_the_user_clock_and_not_on_the_service_clock() {
    let mut plan = open_loop("constant:100", Stop::Requests(1_000));
    plan.warmup = OpenWarmup::Off;
    let mut backend = Stalling {
        mock: MockBackend::new(MockConfig::default(), MockTime::Virtual),
        from_ns: 3 * S,
        for_ns: S,
    };
    let run = run_on(&plan, &mut backend, LengthDistribution::Fixed(2));
    assert_eq!(run.requests.len(), 1_000);
    // All hundred requests that were due meanwhile were sent afterwards, none was dropped.
    let late = run
        .requests
        .iter()
        .filter(|r| r.sent_ns > r.scheduled_ns)
        .count();
    assert!((98..=100).contains(&late), "{late}");
    let user_max_s = run.requests.iter().map(user_ttft_s).fold(0.0, f64::max);
    assert!((user_max_s - 1.05).abs() < 0.011, "{user_max_s}");
    for record in &run.requests {
        assert_eq!(record.token_ns.first().unwrap() - record.sent_ns, 50 * MS);
    }
}

/// Mean wait of an M/G/1 queue (Pollaczek–Khinchine): λ·E[S²] / (2·(1 − λ·E[S])), the
/// median of 9 units within 15 % of it.
fn assert_queue_theory(rate: f64, output: LengthDistribution, mean_s: f64, square_s2: f64) {
    let expected_s = rate * square_s2 / (2.0 * (1.0 - rate * mean_s));
    let mut plan = open_loop(&format!("poisson:{rate}"), Stop::Requests(4_000));
    plan.warmup = OpenWarmup::For(500 * S);
    let mut waits: Vec<f64> = (0..9)
        .map(|unit| {
            // First token after 10 ms of service, one each 10 ms after it.
            let mut mock = MockBackend::new(single_server(10 * MS, 10 * MS), MockTime::Virtual);
            let source = Workload {
                seed: unit.into(),
                ..workload(output.clone())
            };
            let run = plan
                .run(
                    unit,
                    &mut mock,
                    &source,
                    &mut NullRecorder,
                    &StopSignal::new(),
                )
                .expect("a plan that can be run");
            let sum_s: f64 = run.requests.iter().map(|r| user_ttft_s(r) - 0.010).sum();
            sum_s / run.requests.len() as f64
        })
        .collect();
    waits.sort_unstable_by(f64::total_cmp);
    let found_s = waits[4];
    assert!(
        (found_s / expected_s - 1.0).abs() < 0.15,
        "{found_s} {expected_s}"
    );
}

#[test]
fn a_single_server_waits_as_queueing_theory_says() {
    // M/D/1 at 60 %: every request takes 50 ms.
    assert_queue_theory(12.0, LengthDistribution::Fixed(5), 0.050, 0.0025);
    // M/G/1 at 75 %: 10 to 190 ms, uniform; E[S²] = 10⁻⁴·(19·20·39/6)/19 s².
    let spread = LengthDistribution::Uniform { low: 1, high: 19 };
    assert_queue_theory(7.5, spread, 0.100, 1e-4 * 130.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever the load and the backend: every measured request comes back exactly once,
    /// none is sent early, they are sent in order, and the cap is kept.
    #[test]
    fn nothing_is_dropped(
        rate in 1.0..200.0f64,
        kind in 0..4usize,
        requests in 0..150u64,
        cap in prop_oneof![Just(None), (1..6u32).prop_map(Some)],
        max_sequences in 1..12usize,
        warm_ms in prop_oneof![Just(0u64), 1..2_000u64],
        seed: u64,
    ) {
        let process = [
            format!("poisson:{rate}"),
            format!("gamma:{rate},0.2"),
            format!("bursts:7,{}s", 7.0 / rate),
            "max".to_owned(),
        ][kind].clone();
        let mut plan = open_loop(&process, Stop::Requests(requests));
        plan.seed = seed;
        plan.max_in_flight = cap.and_then(NonZeroU32::new);
        plan.warmup = OpenWarmup::For(warm_ms * MS);
        let config = MockConfig { max_sequences, fail_every: 5, ..MockConfig::default() };
        let run = run(&plan, config, 6);

        let mut ids: Vec<u64> = run.requests.iter().map(|r| r.id).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..requests).collect::<Vec<_>>());
        let mut in_order: Vec<&RequestRecord> = run.requests.iter().collect();
        in_order.sort_unstable_by_key(|r| r.id);
        prop_assert!(in_order.is_sorted_by_key(|r| r.scheduled_ns));
        prop_assert!(in_order.is_sorted_by_key(|r| r.sent_ns));
        prop_assert!(in_order.iter().all(|r| r.sent_ns >= r.scheduled_ns));

        let all = || run.requests.iter().chain(&run.background);
        let in_flight_at = |at_ns: u64| {
            all().filter(|r| r.sent_ns <= at_ns && at_ns < r.finished_ns).count()
        };
        if let Some(cap) = cap {
            prop_assert!(all().all(|r| in_flight_at(r.sent_ns) <= cap as usize));
        }
        // Virtual time has no other reason to be late.
        let late = run.requests.iter().filter(|r| r.sent_ns > r.scheduled_ns).count() as u64;
        prop_assert_eq!(late, run.delayed_by_cap);
        prop_assert!(run.start_ns <= run.end_ns);
    }
}
