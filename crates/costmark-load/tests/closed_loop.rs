//! The closed loop against a backend of known latencies, on virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use costmark_core::mock::{MockBackend, MockConfig, MockTime};
use costmark_core::{Backend, FinishReason, MonotonicClock, Outcome, RequestRecord, Sampling};
use costmark_load::{
    ClosedLoop, LengthDistribution, NullRecorder, RequestKey, Stop, StopSignal, UnitRun, Warmup,
    Workload,
};
use proptest::prelude::*;

const MS: u64 = 1_000_000;

fn workload(input: LengthDistribution, output: LengthDistribution) -> Workload {
    Workload {
        input,
        output,
        vocab_size: 500,
        seed: 42,
        ignore_eos: true,
        sampling: Sampling::Greedy,
    }
}

fn fixed(input: u32, output: u32) -> Workload {
    workload(
        LengthDistribution::Fixed(input),
        LengthDistribution::Fixed(output),
    )
}

fn closed_loop(concurrency: u32, stop: Stop) -> ClosedLoop {
    ClosedLoop::new(
        NonZeroU32::new(concurrency).expect("at least one slot"),
        stop,
    )
}

fn run(plan: ClosedLoop, config: MockConfig, workload: &Workload) -> UnitRun {
    let mut mock = MockBackend::new(config, MockTime::Virtual);
    plan.run(
        0,
        &mut mock,
        workload,
        &mut NullRecorder,
        &StopSignal::new(),
    )
}

fn all(run: &UnitRun) -> impl Iterator<Item = &RequestRecord> {
    run.requests.iter().chain(&run.background)
}

/// Requests wanted in flight just after each instant at which that number changes.
fn in_flight(run: &UnitRun) -> BTreeMap<u64, i64> {
    let mut changes = BTreeMap::<u64, i64>::new();
    for record in all(run) {
        *changes.entry(record.scheduled_ns).or_default() += 1;
        *changes.entry(record.finished_ns).or_default() -= 1;
    }
    let mut count = 0;
    for change in changes.values_mut() {
        count += *change;
        *change = count;
    }
    changes
}

fn indices(run: &UnitRun) -> Vec<u64> {
    let mut ids: Vec<u64> = run.requests.iter().map(|r| r.id).collect();
    ids.sort_unstable();
    ids
}

/// 50 ms to the first token, 10 ms between tokens: a request of 4 tokens takes 80 ms.
#[test]
fn one_slot_by_hand() {
    let plan = ClosedLoop {
        warmup: Warmup::off(),
        ..closed_loop(1, Stop::Requests(3))
    };
    let run = run(plan, MockConfig::default(), &fixed(8, 4));
    assert!(run.is_complete());
    assert_eq!((run.start_ns, run.end_ns), (0, 240 * MS));
    assert!(run.background.is_empty(), "one slot needs no cool-down");
    for (i, record) in run.requests.iter().enumerate() {
        let start_ns = i as u64 * 80 * MS;
        assert_eq!(record.id, i as u64);
        assert_eq!((record.scheduled_ns, record.sent_ns), (start_ns, start_ns));
        let expected = [50, 60, 70, 80].map(|ms| start_ns + ms * MS);
        assert_eq!(record.token_ns, expected);
        assert_eq!(record.finished_ns, start_ns + 80 * MS);
        assert_eq!((record.input_tokens, record.output_tokens), (8, 4));
        assert!(record.output_hash.is_some() && record.is_ok());
    }
}

/// Equal requests must not march in step: their ends are spread evenly over a request's time.
#[test]
fn slots_are_out_of_step() {
    let run = run(
        closed_loop(4, Stop::Requests(40)),
        MockConfig {
            ttft_ns: 10 * MS,
            ..MockConfig::default()
        },
        &fixed(8, 64),
    );
    assert!(run.warmup.settled);
    let mut ends: Vec<u64> = all(&run)
        .filter(|r| r.outcome == Outcome::Finished(FinishReason::Length))
        .map(|r| r.finished_ns)
        .filter(|&at| run.start_ns < at && at <= run.end_ns)
        .collect();
    ends.sort_unstable();
    // 640 ms a request, 4 slots: one ends every 160 ms, the first 160 ms after the start.
    let expected: Vec<u64> = (1..=ends.len() as u64)
        .map(|i| run.start_ns + i * 160 * MS)
        .collect();
    assert_eq!(ends, expected);
    // Over 40 requests and the three slots around them.
    assert_eq!(ends.len(), 43);
}

#[test]
fn warm_up_ends_when_gaps_agree_and_is_recorded() {
    let run = run(
        closed_loop(2, Stop::Requests(4)),
        MockConfig::default(),
        &fixed(8, 100),
    );
    assert!(run.warmup.settled);
    // Two windows of at least 100 ms fit into the first requests' rest; the measurement
    // begins when the slot that started three quarters through is done.
    assert_eq!(run.warmup.requests, 2);
    assert_eq!(run.warmup.duration_ns, (50 + 24 * 10) * MS);
    assert_eq!(run.start_ns, run.warmup.duration_ns);
    assert_eq!(run.requests[0].scheduled_ns, run.start_ns);
}

#[test]
fn lengths_and_outputs_do_not_depend_on_concurrency() {
    let workload = workload(
        LengthDistribution::Uniform { low: 4, high: 60 },
        LengthDistribution::Normal { mean: 20, sd: 6 },
    );
    let observed = |concurrency| {
        let plan = closed_loop(concurrency, Stop::Requests(30));
        let run = run(plan, MockConfig::default(), &workload);
        run.requests
            .iter()
            .map(|r| (r.id, (r.input_tokens, r.output_tokens, r.output_hash)))
            .collect::<BTreeMap<_, _>>()
    };
    let alone = observed(1);
    assert_eq!(alone.len(), 30);
    assert_eq!(alone, observed(7));
    for (&id, &(input, output, _)) in &alone {
        let key = RequestKey {
            unit: 0,
            phase: costmark_load::Phase::Measured,
            index: id,
        };
        let request = workload.request(key);
        assert_eq!(
            (input, output),
            (request.prompt.len() as u32, request.max_tokens)
        );
    }
}

#[test]
fn a_duration_bounds_what_is_sent() {
    let duration_ns = 2_000 * MS;
    let run = run(
        closed_loop(3, Stop::Duration(duration_ns)),
        MockConfig::default(),
        &fixed(8, 20),
    );
    assert!(run.is_complete());
    let sent_after = |r: &&RequestRecord| r.scheduled_ns >= run.start_ns + duration_ns;
    assert_eq!(run.requests.iter().filter(sent_after).count(), 0);
    assert!(run.requests.iter().all(RequestRecord::is_ok));
    // 240 ms a request in 3 slots.
    assert!(
        (24..=26).contains(&run.requests.len()),
        "{}",
        run.requests.len()
    );
    assert!(run.end_ns > run.start_ns + duration_ns);
}

#[test]
fn units_follow_each_other_on_one_backend() {
    let mut mock = MockBackend::new(MockConfig::default(), MockTime::Virtual);
    let plan = closed_loop(4, Stop::Requests(10));
    let (workload, signal) = (fixed(8, 20), StopSignal::new());
    let first = plan.run(0, &mut mock, &workload, &mut NullRecorder, &signal);
    let mut left = Vec::new();
    mock.poll(None, &mut left).unwrap();
    assert!(left.is_empty(), "something was left in flight: {left:?}");
    let second = plan.run(1, &mut mock, &workload, &mut NullRecorder, &signal);
    assert!(second.is_complete() && second.start_ns > first.end_ns);
    assert!(
        indices(&second)
            .iter()
            .all(|id| !indices(&first).contains(id))
    );
    let spans = |run: &UnitRun| (run.end_ns - run.start_ns, run.warmup);
    assert_eq!(spans(&first), spans(&second));
}

/// On real time instants keep their order; how long they take is the machine's affair.
#[test]
fn real_time_keeps_the_order_of_instants() {
    let config = MockConfig {
        ttft_ns: 2 * MS,
        itl_ns: MS,
        ..MockConfig::default()
    };
    let mut mock = MockBackend::new(config, MockTime::Real(MonotonicClock::start()));
    let plan = ClosedLoop {
        warmup: Warmup::off(),
        ..closed_loop(3, Stop::Requests(12))
    };
    let run = plan.run(
        0,
        &mut mock,
        &fixed(8, 5),
        &mut NullRecorder,
        &StopSignal::new(),
    );
    assert!(run.is_complete() && run.requests.len() == 12);
    for record in &run.requests {
        assert!(record.scheduled_ns <= record.sent_ns);
        assert!(record.token_ns.first().unwrap() >= record.sent_ns + 2 * MS);
        assert!(record.token_ns.iter().is_sorted());
        assert!(record.finished_ns >= record.token_ns.last().unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the backend does, exactly `concurrency` requests are in flight from start
    /// to end, exactly the measured requests asked for come back, each slot is handed on
    /// the instant it is free, and every finished request brought what was asked for.
    #[test]
    fn the_loop_is_exact(
        concurrency in 1..10u32,
        requests in 0..60u64,
        (low, more) in (1..40u32, 0..40u32),
        max_sequences in 1..12usize,
        tokens_per_event in 1..4u32,
        fail_every in prop_oneof![Just(0u64), 2..9u64],
        warm in any::<bool>(),
    ) {
        let config = MockConfig { max_sequences, tokens_per_event, fail_every, ..MockConfig::default() };
        let workload = workload(
            LengthDistribution::Uniform { low: 1, high: 30 },
            LengthDistribution::Uniform { low, high: low + more },
        );
        let mut plan = closed_loop(concurrency, Stop::Requests(requests));
        plan.warmup.enabled = warm;
        let run = run(plan, config, &workload);
        prop_assert!(run.is_complete(), "{:?}", run.error);

        prop_assert_eq!(indices(&run), (0..requests).collect::<Vec<_>>());
        for (&at_ns, &count) in in_flight(&run).range(run.start_ns..run.end_ns) {
            prop_assert_eq!(count, i64::from(concurrency), "at {}", at_ns);
        }
        // A request due later than the start is due the instant another one ended.
        let ends: BTreeSet<u64> = all(&run).map(|r| r.finished_ns).collect();
        for record in all(&run).filter(|r| r.scheduled_ns > run.start_ns) {
            prop_assert!(ends.contains(&record.scheduled_ns));
        }
        for record in run.requests.iter().filter(|r| r.is_ok()) {
            let request = workload.request(RequestKey {
                unit: 0,
                phase: costmark_load::Phase::Measured,
                index: record.id,
            });
            prop_assert_eq!(record.output_tokens, request.max_tokens);
            prop_assert_eq!(record.token_events().map(|(_, n)| n).sum::<u32>(), request.max_tokens);
        }
        if fail_every > 0 {
            let expected = (0..requests).filter(|id| id % fail_every == 0).count();
            prop_assert_eq!(run.failed(), expected);
        }
        if requests > 0 {
            prop_assert_eq!(run.start_ns, run.requests.iter().map(|r| r.scheduled_ns).min().unwrap());
            prop_assert_eq!(run.end_ns, run.requests.iter().map(|r| r.finished_ns).max().unwrap());
        }
    }
}
