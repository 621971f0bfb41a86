use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::backend::BackendKind;
use crate::clock::{Clock, MonotonicClock};
use crate::mock::{Draw, MockBackend, MockConfig, MockTime};
use crate::request::{ErrorClass, RequestError, Sampling};
use crate::step::{StepPart, StepRecord};
use crate::token_times::TokenTimes;

const MS: u64 = 1_000_000;

fn request(id: u64, max_tokens: u32) -> Request {
    asking(id, vec![1; 8], max_tokens)
}

fn asking(id: u64, prompt: Vec<u32>, max_tokens: u32) -> Request {
    Request {
        id,
        prompt,
        max_tokens,
        ignore_eos: true,
        sampling: Sampling::Greedy,
        logprobs: None,
    }
}

fn mocks(n: usize, config: &MockConfig, time: MockTime) -> Replicas {
    let one = || -> Box<dyn Replica> { Box::new(MockBackend::new(config.clone(), time)) };
    Replicas::new((0..n).map(|_| one()).collect(), format!("{n} mocks")).unwrap()
}

/// Instants, end, reason and usage of every request; of a failed one no reason.
type Ended = BTreeMap<u64, (Vec<u64>, u64, Option<FinishReason>, Usage)>;

#[derive(Default)]
struct Seen {
    open: BTreeMap<u64, TokenTimes>,
    ended: Ended,
}

impl Seen {
    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            let (request, at_ns, reason, usage) = match event {
                Event::Tokens(t) => {
                    self.open.entry(t.request).or_default().push(t.at_ns);
                    continue;
                }
                Event::TokenRun(run) => {
                    self.open.entry(run.request).or_default().extend(run.span);
                    continue;
                }
                Event::Finished {
                    request,
                    at_ns,
                    reason,
                    usage,
                } => (request, at_ns, Some(reason), usage),
                Event::Failed { request, at_ns, .. } => (request, at_ns, None, Usage::default()),
                Event::Sent { .. } | Event::Step(_) | Event::Logprobs(_) => continue,
            };
            let times = self.open.remove(&request).unwrap_or_default();
            let end = (times.iter().collect(), at_ns, reason, usage);
            let before = self.ended.insert(request, end);
            assert!(before.is_none(), "request {request} ended twice");
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Deed {
    Submit(u32),
    /// The request submitted so many before the last one, wherever it is by now.
    Cancel(u64),
    WaitMs(u64),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        3 => (1..40u32).prop_map(Deed::Submit),
        1 => (0..12u64).prop_map(Deed::Cancel),
        2 => (0..90u64).prop_map(Deed::WaitMs),
    ];
    prop::collection::vec(deed, 1..80)
}

/// Does all that, waits for the end, and gives what became of every request.
fn play(backend: &mut dyn Backend, deeds: &[Deed]) -> Ended {
    let mut seen = Seen::default();
    let mut sent = 0;
    for deed in deeds {
        match *deed {
            Deed::Submit(tokens) => {
                backend.submit(request(sent, tokens)).unwrap();
                sent += 1;
            }
            Deed::Cancel(before) => {
                if let Some(id) = u64::checked_sub(sent, before + 1) {
                    backend.cancel(id);
                }
            }
            Deed::WaitMs(ms) => {
                let until_ns = backend.now_ns() + ms * MS;
                while backend.now_ns() < until_ns {
                    let mut events = Vec::new();
                    backend.poll(Some(until_ns), &mut events).unwrap();
                    seen.take(events);
                }
            }
        }
    }
    loop {
        let mut events = Vec::new();
        backend.poll(None, &mut events).unwrap();
        if events.is_empty() {
            break;
        }
        seen.take(events);
    }
    assert_eq!(seen.ended.len() as u64, sent, "none lost, none starved");
    seen.ended
}

proptest! {
    /// n replicas of c places are one backend of n · c, to the instant: nothing is lost, nothing
    /// comes twice, nothing waits while there is a place.
    #[test]
    fn they_serve_as_one_of_all_their_places(
        deeds in deeds(),
        (replicas, places) in (1..5usize, 1..4usize),
        (itl_ms, fail_every) in (0..20u64, 0..6u64),
        exponential: bool,
        runs: bool,
    ) {
        let config = |max_sequences| MockConfig {
            itl_ns: itl_ms * MS,
            ttft_draw: if exponential { Draw::Exponential } else { Draw::Fixed },
            max_sequences,
            fail_every,
            runs,
            ..MockConfig::default()
        };
        let mut one = MockBackend::new(config(replicas * places), MockTime::Virtual);
        let mut several = mocks(replicas, &config(places), MockTime::Virtual);
        prop_assert_eq!(play(&mut one, &deeds), play(&mut several, &deeds));
        prop_assert!(several.located.is_empty() && several.waiting.is_empty());
        prop_assert!(several.places.iter().all(|p| p.in_flight == 0 && p.tokens == 0));
    }
}

#[test]
fn on_real_time_nothing_is_lost_either() {
    let config = MockConfig {
        ttft_ns: 2 * MS,
        itl_ns: MS,
        max_sequences: 2,
        ..MockConfig::default()
    };
    let clock = MonotonicClock::start();
    let mut several = mocks(3, &config, MockTime::Real(clock));
    let deeds: Vec<Deed> = (0..20)
        .flat_map(|i| [Deed::Submit(1 + i % 4), Deed::WaitMs(u64::from(i % 3))])
        .chain([Deed::Cancel(0)])
        .collect();
    let ended = play(&mut several, &deeds);
    let least_ns = |tokens: u32| (2 + u64::from(tokens) - 1) * MS;
    for (id, (instants, end_ns, reason, usage)) in ended {
        if reason == Some(FinishReason::Cancelled) {
            continue;
        }
        assert_eq!(instants.len() as u32, usage.output_tokens, "request {id}");
        assert!(end_ns >= least_ns(usage.output_tokens));
    }
}

#[test]
fn what_they_are_together() {
    let config = MockConfig {
        max_sequences: 3,
        ..MockConfig::default()
    };
    let several = mocks(4, &config, MockTime::Virtual);
    let info = several.info();
    assert_eq!((info.replicas, info.max_sequences), (4, 12));
    assert_eq!(info.kv_capacity_tokens, u64::MAX, "summed without overflow");
    assert_eq!(info.device, "4 mocks");
    assert!(info.notes.iter().any(|note| note.starts_with("4 replicas")));
    assert!(several.simulates_time() && !several.reads_prompts());
    assert!(Replicas::new(Vec::new(), String::new()).is_err());
    let time = MockTime::Real(MonotonicClock::start());
    let mixed: Vec<Box<dyn Replica>> = vec![
        Box::new(MockBackend::new(config.clone(), MockTime::Virtual)),
        Box::new(MockBackend::new(config, time)),
    ];
    let error = Replicas::new(mixed, String::new()).err().unwrap();
    assert!(error.message.contains("alike"), "{error}");
}

#[test]
fn one_that_dies_ends_the_run_and_is_named() {
    let config = |die_after_events| MockConfig {
        die_after_events,
        ..MockConfig::default()
    };
    let one =
        |dies| -> Box<dyn Replica> { Box::new(MockBackend::new(config(dies), MockTime::Virtual)) };
    let all = vec![one(None), one(Some(2)), one(None)];
    let mut several = Replicas::new(all, "3 mocks".into()).unwrap();
    for id in 0..3 {
        several.submit(request(id, 9)).unwrap();
    }
    let mut events = Vec::new();
    let error = loop {
        if let Err(error) = several.poll(None, &mut events) {
            break error;
        }
    };
    assert!(error.message.starts_with("replica 1 on none: "), "{error}");
    assert!(error.message.contains("told to die"), "{error}");
    // What the others told at that instant is kept.
    let told = |id| {
        let of = |e: &&Event| matches!(e, Event::Tokens(t) if t.request == id);
        events.iter().filter(of).count()
    };
    assert_eq!([told(0), told(1), told(2)], [3, 2, 3]);
    assert!(several.poll(None, &mut events).is_err());
    assert!(several.submit(request(9, 1)).is_err());
}

/// A replica on real time that says nothing of itself until it is told to.
struct Silent {
    info: BackendInfo,
    clock: MonotonicClock,
    shared: Arc<Shared>,
    reads_prompts: bool,
}

#[derive(Default)]
struct Shared {
    submitted: Mutex<Vec<u64>>,
    cancelled: Mutex<Vec<u64>>,
    events: Mutex<Vec<Event>>,
    bell: Mutex<Option<Bell>>,
    polls: AtomicUsize,
}

impl Shared {
    fn tell(&self, events: impl IntoIterator<Item = Event>) {
        self.events.lock().unwrap().extend(events);
        self.bell.lock().unwrap().as_ref().unwrap().ring();
    }

    fn submitted(&self) -> Vec<u64> {
        self.submitted.lock().unwrap().clone()
    }
}

impl Backend for Silent {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn submit(&mut self, request: Request) -> Result<(), BackendError> {
        self.shared.submitted.lock().unwrap().push(request.id);
        Ok(())
    }

    fn cancel(&mut self, id: RequestId) {
        self.shared.cancelled.lock().unwrap().push(id);
    }

    fn poll(&mut self, until_ns: Option<u64>, events: &mut Vec<Event>) -> Result<(), BackendError> {
        assert!(
            until_ns.is_some_and(|until| until <= self.now_ns()),
            "it may not wait"
        );
        self.shared.polls.fetch_add(1, Atomic::Relaxed);
        events.append(&mut self.shared.events.lock().unwrap());
        Ok(())
    }

    fn reads_prompts(&self) -> bool {
        self.reads_prompts
    }
}

impl Replica for Silent {
    fn ring(&mut self, bell: Bell) {
        *self.shared.bell.lock().unwrap() = Some(bell);
    }

    fn due_ns(&self) -> Option<u64> {
        None
    }
}

fn silent(limits: &[u32]) -> (Replicas, Vec<Arc<Shared>>) {
    let clock = MonotonicClock::start();
    let shared: Vec<Arc<Shared>> = limits.iter().map(|_| Arc::default()).collect();
    let one = |(&limit, shared): (&u32, &Arc<Shared>)| -> Box<dyn Replica> {
        let mock = MockBackend::new(MockConfig::default(), MockTime::Virtual);
        Box::new(Silent {
            info: BackendInfo {
                kind: BackendKind::Engine,
                max_sequences: limit,
                ..mock.info().clone()
            },
            clock,
            shared: Arc::clone(shared),
            reads_prompts: true,
        })
    };
    let all = limits.iter().zip(&shared).map(one).collect();
    (Replicas::new(all, "silent".into()).unwrap(), shared)
}

fn end(request: u64, at_ns: u64) -> Event {
    Event::Finished {
        request,
        at_ns,
        reason: FinishReason::Length,
        usage: Usage::default(),
    }
}

#[test]
fn the_least_loaded_for_its_places_is_next() {
    let (mut several, shared) = silent(&[2, 4]);
    for id in 0..7 {
        several.submit(asking(id, vec![id as u32; 4], 1)).unwrap();
    }
    // 0 of 2 and 0 of 4; then 1 of 2 against 0 of 4; 1 of 2 against 1 of 4 …
    assert_eq!(shared[0].submitted(), [0, 3]);
    assert_eq!(shared[1].submitted(), [1, 2, 4, 5]);
    // The seventh waits, and goes to whoever is free first.
    shared[0].tell([end(3, 5)]);
    several.poll(None, &mut Vec::new()).unwrap();
    assert_eq!(shared[0].submitted(), [0, 3, 6]);
}

#[test]
fn of_equally_loaded_ones_the_one_with_less_to_do_is_next() {
    let (mut several, shared) = silent(&[4, 4]);
    several.submit(request(0, 1_000)).unwrap();
    several.submit(request(1, 1)).unwrap();
    several.submit(request(2, 1)).unwrap();
    several.submit(request(3, 1)).unwrap();
    assert_eq!(shared[0].submitted(), [0, 3]);
    assert_eq!(shared[1].submitted(), [1, 2]);
}

#[test]
fn a_conversation_goes_on_where_it_is_unless_there_is_no_place() {
    let (mut several, shared) = silent(&[2, 2]);
    several.submit(asking(0, vec![1, 2, 3], 1)).unwrap();
    several.submit(asking(1, vec![4, 5, 6], 1)).unwrap();
    shared[1].tell([end(1, 5)]);
    several.poll(None, &mut Vec::new()).unwrap();
    // Home has none in flight, the other one has: load alone would choose the same.
    several.submit(asking(2, vec![4, 5, 6, 7, 8], 1)).unwrap();
    // Here load would choose the other way: both have one, the first has fewer tokens.
    shared[1].tell([end(2, 6)]);
    shared[0].tell([end(0, 6)]);
    several.poll(None, &mut Vec::new()).unwrap();
    several
        .submit(asking(3, vec![4, 5, 6, 7, 8, 9, 9], 1))
        .unwrap();
    several.submit(asking(4, vec![1, 2, 3, 4], 1)).unwrap();
    assert_eq!(shared[1].submitted(), [1, 2, 3]);
    assert_eq!(shared[0].submitted(), [0, 4]);
    // No place at home: rather anew elsewhere than to wait beside an idle replica.
    several.submit(asking(5, vec![9; 50], 1)).unwrap();
    several.submit(asking(6, vec![8; 50], 1)).unwrap();
    shared[0].tell([end(4, 7), end(5, 7)]);
    several.poll(None, &mut Vec::new()).unwrap();
    assert_eq!(several.places[1].in_flight, 2);
    several
        .submit(asking(7, vec![4, 5, 6, 7, 8, 9, 9, 1], 1))
        .unwrap();
    assert_eq!(shared[0].submitted().last(), Some(&7));
}

#[test]
fn a_request_is_cancelled_wherever_it_is() {
    let (mut several, shared) = silent(&[1, 1]);
    for id in 0..5 {
        several.submit(request(id, 3)).unwrap();
    }
    several.cancel(1);
    assert_eq!(*shared[1].cancelled.lock().unwrap(), [1]);
    several.cancel(3);
    several.cancel(77);
    let mut events = Vec::new();
    several.poll(None, &mut events).unwrap();
    let [
        Event::Finished {
            request: 3,
            reason: FinishReason::Cancelled,
            usage,
            ..
        },
    ] = events.as_slice()
    else {
        panic!("{events:?}");
    };
    assert_eq!((usage.input_tokens, usage.output_tokens), (8, 0));
    // The place of the one that was running is not free before it says so.
    assert_eq!(shared[1].submitted(), [1]);
    shared[1].tell([end(1, 9)]);
    several.poll(None, &mut events).unwrap();
    assert_eq!(shared[1].submitted(), [1, 2]);
}

#[test]
fn the_next_in_line_is_cancelled_even_if_its_place_comes_free_first() {
    let (mut several, shared) = silent(&[1]);
    several.submit(request(0, 3)).unwrap();
    several.submit(request(1, 3)).unwrap();
    several.cancel(1);
    // The queue is only looked through by the next poll; this hands it out before.
    several.places[0].in_flight = 0;
    several.submit(request(2, 3)).unwrap();
    assert_eq!(shared[0].submitted(), [0, 1]);
    assert_eq!(*shared[0].cancelled.lock().unwrap(), [1]);
}

#[test]
fn waiting_is_sleeping_until_a_bell_rings() {
    let (mut several, shared) = silent(&[1, 1, 1]);
    several.submit(request(0, 1)).unwrap();
    let until_ns = several.now_ns() + 60 * MS;
    several.poll(Some(until_ns), &mut Vec::new()).unwrap();
    assert!(several.now_ns() >= until_ns);
    let polls = shared[0].polls.load(Atomic::Relaxed);
    assert!(
        polls <= 4,
        "{polls} polls of a replica that had nothing to tell"
    );

    let (teller, begun_ns) = (Arc::clone(&shared[2]), several.now_ns());
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(5));
        teller.tell([end(0, 1)]);
    });
    let mut events = Vec::new();
    let far_ns = begun_ns + 3_600_000 * MS;
    several.poll(Some(far_ns), &mut events).unwrap();
    assert_eq!(events, [end(0, 1)]);
    assert!(
        several.now_ns() < far_ns,
        "it did not wait for the deadline"
    );
    thread.join().unwrap();
}

fn step(index: u64, end_ns: u64) -> Event {
    Event::Step(StepRecord {
        index,
        replica: 0,
        start_ns: end_ns - 1,
        end_ns,
        schedule_ns: 0,
        forward_ns: 1,
        sample_ns: 0,
        prefill: StepPart::default(),
        decode: StepPart::default(),
        bytes: 0,
        flops: 0,
        waiting: 0,
        preempted: 0,
        kv_blocks_used: 0,
        kv_blocks_total: 0,
    })
}

#[test]
fn events_are_in_order_of_time_and_steps_say_whose_they_are() {
    let (mut several, shared) = silent(&[4, 4]);
    let failed = |request, at_ns| Event::Failed {
        request,
        at_ns,
        error: RequestError {
            class: ErrorClass::Device,
            message: String::new(),
        },
    };
    for id in 0..4 {
        several.submit(request(id, 1)).unwrap();
    }
    shared[0].tell([end(0, 20), step(0, 20), end(2, 40), step(1, 40)]);
    shared[1].tell([failed(1, 10), step(0, 10), end(3, 30), step(1, 30)]);
    let mut events = Vec::new();
    several.poll(None, &mut events).unwrap();
    let told: Vec<(u64, Option<u32>)> = events
        .iter()
        .map(|event| match event {
            Event::Step(step) => (step.end_ns, Some(step.replica)),
            other => (at_ns(other), None),
        })
        .collect();
    let expected = [(10, 1), (20, 0), (30, 1), (40, 0)];
    let expected = expected.map(|(at, replica)| [(at, None), (at, Some(replica))]);
    assert_eq!(told, expected.concat());
    assert!(several.places.iter().all(|p| p.in_flight == 0));
}

#[test]
fn what_bears_no_instant_stays_before_what_it_belongs_to() {
    let logprobs = |request| {
        Event::Logprobs(Box::new(crate::backend::TokenLogprobs {
            request,
            token_id: 1,
            logprob: 0.0,
            top: Vec::new(),
        }))
    };
    let mut events = Vec::new();
    let first = vec![logprobs(0), end(0, 20)];
    let second = vec![logprobs(1), end(1, 10), logprobs(2)];
    merge(vec![first.clone(), second.clone()], &mut events);
    let expected = [&second[..2], &first[..], &second[2..]].concat();
    assert_eq!(events, expected);
}
