//! Engines side by side, on the CPU: what replicas on several devices do.

use std::collections::{BTreeMap, BTreeSet};

use costmark_core::{FinishReason, Replicas, Sampling, StepRecord};

use super::tests::broken;
use super::*;
use crate::config::Family;
use crate::test_model::{self, RandomWeights};

const REQUESTS: u64 = 18;

fn engine(max_sequences: u32, clock: MonotonicClock) -> EngineBackend {
    let options = EngineOptions {
        max_sequences,
        ..EngineOptions::default()
    };
    EngineBackend::start(
        &test_model::config(Family::Qwen3),
        &mut RandomWeights { poisoned: None },
        ModelDescription::default(),
        &options,
        clock,
    )
    .unwrap()
}

fn engines(n: usize, max_sequences: u32) -> Replicas {
    let clock = MonotonicClock::start();
    let one = || -> Box<dyn Replica> { Box::new(engine(max_sequences, clock)) };
    Replicas::new((0..n).map(|_| one()).collect(), format!("{n} × cpu")).unwrap()
}

/// Prompts that differ, and lengths that do.
fn request(id: u64) -> Request {
    let length = 3 + id % 7;
    Request {
        id,
        prompt: (0..length)
            .map(|i| ((id * 31 + i * 7) % 97) as u32)
            .collect(),
        max_tokens: 4 + (id % 5) as u32 * 3,
        ignore_eos: true,
        sampling: Sampling::Greedy,
        logprobs: None,
    }
}

/// What was said to each request, and the steps.
fn served(backend: &mut dyn Backend) -> (BTreeMap<u64, Vec<u32>>, Vec<StepRecord>) {
    for id in 0..REQUESTS {
        backend.submit(request(id)).unwrap();
    }
    let (mut said, mut ended, mut steps) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
    let mut events = Vec::new();
    while ended.len() < REQUESTS as usize {
        backend.poll(None, &mut events).unwrap();
        assert!(
            !events.is_empty(),
            "without a deadline poll waits for events"
        );
        for event in events.drain(..) {
            match event {
                Event::Tokens(t) => {
                    let ids: &mut Vec<u32> = said.entry(t.request).or_default();
                    ids.push(t.token_id.unwrap());
                }
                Event::Finished {
                    request, reason, ..
                } => {
                    assert_eq!(reason, FinishReason::Length);
                    assert!(ended.insert(request), "{request} ended twice");
                }
                Event::Step(step) => steps.push(step),
                other => panic!("{other:?}"),
            }
        }
    }
    (said, steps)
}

#[test]
fn they_say_what_one_engine_says() {
    let mut one = engine(16, MonotonicClock::start());
    let (expected, _) = served(&mut one);
    // Fewer places than requests: some wait in the shared queue.
    let mut three = engines(3, 2);
    assert_eq!((three.info().replicas, three.info().max_sequences), (3, 6));
    let (said, steps) = served(&mut three);
    assert_eq!(said, expected);

    // Each step says whose it was, counts there, and does not overlap with its like.
    for replica in 0..3 {
        let own: Vec<&StepRecord> = steps.iter().filter(|s| s.replica == replica).collect();
        assert!(!own.is_empty(), "replica {replica} was given nothing");
        assert!(own.iter().all(|s| s.sequences() <= 2));
        for (i, step) in own.iter().enumerate() {
            assert_eq!(step.index, i as u64);
        }
        for pair in own.windows(2) {
            assert!(pair[0].end_ns <= pair[1].start_ns);
        }
    }
    assert!(steps.iter().all(|s| s.replica < 3));
}

#[test]
fn cancel_reaches_running_and_waiting_requests() {
    let mut two = engines(2, 1);
    for id in 0..4 {
        let long = Request {
            max_tokens: 400,
            ..request(id)
        };
        two.submit(long).unwrap();
    }
    for id in 0..4 {
        two.cancel(id);
    }
    let (mut events, mut ended) = (Vec::new(), BTreeSet::new());
    while ended.len() < 4 {
        two.poll(None, &mut events).unwrap();
        for event in events.drain(..) {
            if let Event::Finished {
                request, reason, ..
            } = event
            {
                assert_eq!(reason, FinishReason::Cancelled);
                assert!(ended.insert(request));
            }
        }
    }
    // All places are free again.
    let (said, _) = served(&mut two);
    assert_eq!(said.len() as u64, REQUESTS);
}

/// The others would go on for long; its end is heard at once, and says who it was.
#[test]
fn an_engine_that_dies_wakes_whoever_waits() {
    for (panics, reason) in [(false, "on fire"), (true, "out of luck")] {
        let llama = || -> Box<dyn Replica> {
            let (options, clock) = (EngineOptions::default(), MonotonicClock::start());
            let core =
                EngineCore::new(test_model::decoder(Family::Llama), &options, clock).unwrap();
            let description = ModelDescription::default();
            Box::new(EngineBackend::run(core, description, &options, clock).unwrap())
        };
        let all: Vec<Box<dyn Replica>> = vec![llama(), Box::new(broken(panics))];
        let mut two = Replicas::new(all, "2 × cpu".into()).unwrap();
        two.submit(request(0)).unwrap();
        two.submit(request(1)).unwrap();
        let mut events = Vec::new();
        let error = loop {
            if let Err(error) = two.poll(None, &mut events) {
                break error;
            }
        };
        assert!(error.message.starts_with("replica 1 on cpu"), "{error}");
        assert!(error.message.contains(reason), "{error}");
        assert!(two.poll(None, &mut events).is_err());
    }
}
