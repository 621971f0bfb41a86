use costmark_core::{FinishReason, Sampling};

use super::*;
use crate::config::Family;
use crate::ops::{AttentionInput, Norm, Ops};
use crate::test_model::{self, RandomWeights};

fn request(id: u64, max_tokens: u32) -> Request {
    Request {
        id,
        prompt: vec![1, 2, 3],
        max_tokens,
        ignore_eos: true,
        sampling: Sampling::Greedy,
        logprobs: None,
    }
}

fn backend() -> EngineBackend {
    EngineBackend::start(
        &test_model::config(Family::Qwen3),
        &mut RandomWeights { poisoned: None },
        ModelDescription::default(),
        &EngineOptions::default(),
        MonotonicClock::start(),
    )
    .unwrap()
}

#[test]
fn events_come_in_order_with_the_instants_of_their_step() {
    let mut backend = backend();
    backend.submit(request(0, 5)).unwrap();
    backend.submit(request(1, 3)).unwrap();
    let mut events = Vec::new();
    while backend.in_flight > 0 {
        let before = events.len();
        backend.poll(None, &mut events).unwrap();
        assert!(
            events.len() > before,
            "without a deadline poll waits for events"
        );
    }
    let mut pending: Vec<u64> = Vec::new();
    let (mut finished, mut tokens) = (Vec::new(), [0; 2]);
    for event in &events {
        match event {
            Event::Tokens(t) => {
                tokens[t.request as usize] += 1;
                pending.push(t.at_ns);
            }
            Event::Finished {
                request, reason, ..
            } => {
                assert_eq!(*reason, FinishReason::Length);
                finished.push(*request);
            }
            Event::Step(step) => {
                assert!(pending.drain(..).all(|at_ns| at_ns == step.end_ns));
            }
            Event::Failed { error, .. } => panic!("{error}"),
            Event::Sent { .. } => panic!("sent when submitted"),
            Event::TokenRun(_) => unreachable!("the engine tells every token"),
            Event::Logprobs(_) => panic!("they were not asked for"),
        }
    }
    assert_eq!(tokens, [5, 3]);
    finished.sort_unstable();
    assert_eq!(finished, [0, 1]);
    // Nothing in flight: returns at once without, and waits with a deadline.
    events.clear();
    backend.poll(None, &mut events).unwrap();
    let until_ns = backend.now_ns() + 5_000_000;
    backend.poll(Some(until_ns), &mut events).unwrap();
    assert!(backend.now_ns() >= until_ns && events.is_empty());
}

#[test]
fn a_request_it_cannot_serve_is_an_event() {
    let mut backend = backend();
    backend.submit(request(7, 100_000)).unwrap();
    let mut events = Vec::new();
    backend.poll(None, &mut events).unwrap();
    let [
        Event::Failed {
            request: 7, error, ..
        },
    ] = events.as_slice()
    else {
        panic!("{events:?}");
    };
    assert_eq!(error.class, ErrorClass::Rejected);
    assert_eq!(backend.in_flight, 0);
}

#[test]
fn cancel_reaches_a_running_request() {
    let mut backend = backend();
    backend.submit(request(0, 400)).unwrap();
    backend.cancel(0);
    backend.cancel(99);
    let mut events = Vec::new();
    while backend.in_flight > 0 {
        backend.poll(None, &mut events).unwrap();
    }
    let last = events.iter().rev().find(|e| !matches!(e, Event::Step(_)));
    let Some(Event::Finished { reason, .. }) = last else {
        panic!("{last:?}");
    };
    assert_eq!(*reason, FinishReason::Cancelled);
}

#[test]
fn it_says_what_it_is() {
    let backend = backend();
    let info = backend.info();
    assert_eq!(info.kind, BackendKind::Engine);
    assert_eq!(
        (info.weight_dtype.as_str(), info.kv_dtype.as_str()),
        ("f32", "f16")
    );
    assert_eq!(info.max_context, 512);
    assert_eq!(info.kv_capacity_tokens, 16 * 512);
    assert_eq!(info.weight_bytes, info.shape.unwrap().params() * 4);
}

/// Operations that fail, or panic.
struct Broken {
    panics: bool,
}

impl Ops for Broken {
    fn add_norm(
        &self,
        _: candle_core::Tensor,
        _: Option<&candle_core::Tensor>,
        _: &Norm,
    ) -> Result<(candle_core::Tensor, candle_core::Tensor)> {
        assert!(!self.panics, "out of luck");
        Err(EngineError::Run("the device is on fire".into()))
    }

    fn silu_mul(
        &self,
        gate: candle_core::Tensor,
        _: &candle_core::Tensor,
    ) -> Result<candle_core::Tensor> {
        Ok(gate)
    }

    fn attend(&mut self, _: usize, input: &AttentionInput<'_>) -> Result<candle_core::Tensor> {
        Ok(input.q.clone())
    }
}

pub(super) fn broken(panics: bool) -> EngineBackend {
    let (options, clock) = (EngineOptions::default(), MonotonicClock::start());
    let decoder = test_model::decoder(Family::Llama);
    let ops = Box::new(Broken { panics });
    let core = EngineCore::with_ops(decoder, &options, clock, |_, _| Ok(ops)).unwrap();
    EngineBackend::run(core, ModelDescription::default(), &options, clock).unwrap()
}

#[test]
fn a_failing_device_fails_every_request_and_then_the_backend() {
    let mut backend = broken(false);
    // Submitting may already meet a dead engine; both requests are told in any case.
    backend.submit(request(0, 5)).unwrap();
    let mut events = Vec::new();
    let error = backend.poll(None, &mut events).unwrap_err();
    assert!(error.message.contains("on fire"), "{error}");
    let [
        Event::Failed {
            request: 0, error, ..
        },
    ] = events.as_slice()
    else {
        panic!("{events:?}");
    };
    assert_eq!(error.class, ErrorClass::Device);
    assert!(backend.submit(request(2, 5)).is_err());
    assert!(backend.poll(None, &mut events).is_err());
}

#[test]
fn a_panic_is_an_error_and_no_hang() {
    let mut backend = broken(true);
    backend.submit(request(0, 5)).unwrap();
    let mut events = Vec::new();
    let error = backend.poll(None, &mut events).unwrap_err();
    assert!(error.message.contains("out of luck"), "{error}");
    assert!(backend.poll(None, &mut events).is_err());
    assert!(backend.submit(request(1, 5)).is_err());
}
