//! Conversations against the mock: what each turn asks, and when.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

use std::num::NonZeroU32;

use costmark_core::mock::{MockBackend, MockConfig, MockTime};
use costmark_core::{Backend, BackendError, BackendInfo, Event, Request, RequestRecord, Sampling};
use costmark_load::{
    ClosedLoop, LengthDistribution, LengthPairs, MixedWorkload, NullRecorder, Stop, StopSignal,
    ThinkTime, Turns, UnitRun, Warmup, Workload,
};

const MS: u64 = 1_000_000;
/// Prompts begin with so many tokens of all users.
const SHARED: usize = 6;

/// A mock that tells what it was asked and reads prompts.
struct Listening {
    mock: MockBackend,
    asked: Vec<Request>,
}

impl Backend for Listening {
    fn info(&self) -> &BackendInfo {
        self.mock.info()
    }
    fn now_ns(&self) -> u64 {
        self.mock.now_ns()
    }
    fn submit(&mut self, request: Request) -> Result<(), BackendError> {
        self.asked.push(request.clone());
        self.mock.submit(request)
    }
    fn cancel(&mut self, id: u64) {
        self.mock.cancel(id);
    }
    fn poll(&mut self, until: Option<u64>, events: &mut Vec<Event>) -> Result<(), BackendError> {
        self.mock.poll(until, events)
    }
}

fn talk(turns: &Turns, users: u32, requests: u64, config: MockConfig) -> (UnitRun, Vec<Request>) {
    let source = MixedWorkload {
        base: Workload {
            input: LengthDistribution::Uniform { low: 10, high: 20 },
            output: LengthDistribution::Uniform { low: 3, high: 8 },
            vocab_size: 1_000_000,
            seed: 5,
            ignore_eos: true,
            sampling: Sampling::Greedy,
        },
        pairs: LengthPairs::Correlated(0.0),
        shared_prefix_tokens: SHARED as u32,
    };
    let mut backend = Listening {
        mock: MockBackend::new(config, MockTime::Virtual),
        asked: Vec::new(),
    };
    let mut closed = ClosedLoop::new(NonZeroU32::new(users).unwrap(), Stop::Requests(requests));
    closed.warmup = Warmup::off();
    let signal = StopSignal::new();
    let run = closed.run_users(turns, 0, &mut backend, &source, &mut NullRecorder, &signal);
    (run, backend.asked)
}

fn turns(n: u32, think: ThinkTime) -> Turns {
    Turns {
        turns: LengthDistribution::Fixed(n),
        think,
        seed: 9,
    }
}

/// What the mock answers: token ids 1, 2, 3 …
fn said(request: &Request) -> Vec<u32> {
    let answer = 1..=request.max_tokens;
    request.prompt.iter().copied().chain(answer).collect()
}

#[test]
fn each_turn_is_the_one_before_it_with_its_answer_and_more() {
    let (run, asked) = talk(&turns(4, ThinkTime::None), 1, 41, MockConfig::default());
    assert!(run.is_complete() && run.requests.len() == 41);
    assert!(run.requests.iter().all(RequestRecord::is_ok));
    let mut lengths = vec![1];
    for pair in asked.windows(2) {
        let said = said(&pair[0]);
        if pair[1].prompt.starts_with(&said) {
            let added = pair[1].prompt.len() - said.len();
            // What a prompt has beyond what all share, which is not said again.
            assert!((10 - SHARED..=20 - SHARED).contains(&added), "{added}");
            *lengths.last_mut().unwrap() += 1;
        } else {
            assert!(
                (10..=20).contains(&pair[1].prompt.len()),
                "a new conversation"
            );
            assert_eq!(pair[1].prompt[..SHARED], asked[0].prompt[..SHARED]);
            lengths.push(1);
        }
    }
    // The first one is cut, and so may be the last.
    let whole = &lengths[1..lengths.len() - 1];
    assert!(
        whole.len() >= 8 && whole.iter().all(|&n| n == 4),
        "{lengths:?}"
    );
    assert!((1..=4).contains(&lengths[0]));
}

#[test]
fn users_think_before_they_go_on() {
    let think = ThinkTime::Uniform(0.5, 1.5);
    let (run, asked) = talk(&turns(3, think), 6, 60, MockConfig::default());
    assert!(run.is_complete());
    assert_eq!(run.concurrency, None, "who thinks is not in flight");
    let all = || run.requests.iter().chain(&run.background);
    // Whom a request continues is seen in its prompt.
    let mut seen = 0;
    for next in &asked {
        let record = all().find(|r| r.id == next.id);
        // Every earlier turn is in the prompt: the last of them is the longest.
        let before = asked
            .iter()
            .filter(|r| r.id != next.id && next.prompt.starts_with(&said(r)))
            .max_by_key(|r| r.prompt.len())
            .and_then(|r| all().find(|record| record.id == r.id));
        let (Some(record), Some(before)) = (record, before) else {
            continue;
        };
        let thought_ms = (record.scheduled_ns - before.finished_ns) / MS;
        assert!((500..=1500).contains(&thought_ms), "{thought_ms}");
        seen += 1;
        assert_eq!(record.sent_ns, record.scheduled_ns);
    }
    assert!(seen >= 20, "{seen}");
    // Without thinking all are always in flight.
    let (run, _) = talk(&turns(3, ThinkTime::None), 6, 60, MockConfig::default());
    assert_eq!(run.concurrency, Some(6));
}

#[test]
fn a_conversation_whose_answer_fails_is_over() {
    let config = MockConfig {
        fail_every: 2,
        ..MockConfig::default()
    };
    let (run, asked) = talk(&turns(50, ThinkTime::None), 1, 20, config);
    assert_eq!(run.failed(), 10);
    for pair in asked.windows(2).filter(|pair| pair[0].id % 2 == 0) {
        assert!(pair[1].prompt.len() <= 20, "begins anew");
    }
}

#[test]
fn the_same_seed_gives_the_same_conversations() {
    let turns = turns(3, ThinkTime::Exponential(1.0));
    let (a, asked_a) = talk(&turns, 4, 40, MockConfig::default());
    let (b, asked_b) = talk(&turns, 4, 40, MockConfig::default());
    assert_eq!((a.requests, asked_a), (b.requests, asked_b));
}
