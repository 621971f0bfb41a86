use proptest::prelude::*;

use super::*;
use crate::request::Sampling;
use crate::token_times::TokenTimes;

const MS: u64 = 1_000_000;

fn request(id: u64, max_tokens: u32) -> Request {
    Request {
        id,
        prompt: vec![1; 8],
        max_tokens,
        ignore_eos: true,
        sampling: Sampling::Greedy,
        logprobs: None,
    }
}

#[test]
fn tokens_arrive_at_the_stated_instants() {
    let config = MockConfig {
        max_sequences: 1,
        ..MockConfig::default()
    };
    let mut mock = MockBackend::new(config, MockTime::Virtual);
    mock.submit(request(0, 3)).unwrap();
    mock.submit(request(1, 1)).unwrap();
    let mut events = Vec::new();
    let mut instants = Vec::new();
    loop {
        events.clear();
        mock.poll(None, &mut events).unwrap();
        if events.is_empty() {
            break;
        }
        for event in &events {
            if let Event::Tokens(t) = event {
                instants.push((t.request, t.at_ns / MS));
            }
        }
    }
    // The second request is served once the first is done, at 70 ms.
    assert_eq!(instants, [(0, 50), (0, 60), (0, 70), (1, 120)]);
}

#[test]
fn a_deadline_moves_virtual_time() {
    let mut mock = MockBackend::new(MockConfig::default(), MockTime::Virtual).starting_at(5);
    let mut events = Vec::new();
    mock.poll(Some(7), &mut events).unwrap();
    assert!(events.is_empty());
    assert_eq!(mock.now_ns(), 7);
}

#[test]
fn a_stalled_intake_does_not_stop_what_is_served() {
    let config = MockConfig {
        stall: Some(Stall {
            at_ns: 20 * MS,
            for_ns: 1_000 * MS,
        }),
        ..MockConfig::default()
    };
    let mut mock = MockBackend::new(config, MockTime::Virtual);
    mock.submit(request(0, 2)).unwrap();
    let mut events = Vec::new();
    mock.poll(Some(20 * MS), &mut events).unwrap();
    assert!(events.is_empty());
    mock.submit(request(1, 1)).unwrap();
    assert_eq!(mock.now_ns(), 1_020 * MS);
    let ended = ends(&mut mock);
    assert_eq!(
        ended.iter().map(|e| (e.0, e.2 / MS)).collect::<Vec<_>>(),
        [(0, 60), (1, 1_070)]
    );
}

/// Id, instants, end and reason of every request that ends, in the order they do.
type Ended = (u64, Vec<u64>, u64, Option<FinishReason>);

fn collect(
    events: Vec<Event>,
    open: &mut std::collections::BTreeMap<u64, TokenTimes>,
    ended: &mut Vec<Ended>,
) {
    for event in events {
        let (request, at_ns, reason) = match event {
            Event::Tokens(t) => {
                open.entry(t.request).or_default().push(t.at_ns);
                continue;
            }
            Event::TokenRun(run) => {
                open.entry(run.request).or_default().extend(run.span);
                continue;
            }
            Event::Sent { .. } | Event::Step(_) => continue,
            Event::Finished {
                request,
                at_ns,
                reason,
                ..
            } => (request, at_ns, Some(reason)),
            Event::Failed { request, at_ns, .. } => (request, at_ns, None),
        };
        let times = open.remove(&request).unwrap_or_default();
        ended.push((request, times.iter().collect(), at_ns, reason));
    }
}

fn ends(mock: &mut MockBackend) -> Vec<Ended> {
    let (mut open, mut ended) = (std::collections::BTreeMap::new(), Vec::new());
    loop {
        let mut events = Vec::new();
        mock.poll(None, &mut events).unwrap();
        if events.is_empty() {
            return ended;
        }
        collect(events, &mut open, &mut ended);
    }
}

proptest! {
    /// Told one by one or in runs, tokens have the same instants: also of requests that wait,
    /// fail or are cancelled.
    #[test]
    fn runs_hold_the_instants_of_their_tokens(
        requests in prop::collection::vec((0..400u64, 1..60u32, any::<bool>()), 1..40),
        (max_sequences, itl_ms, fail_every) in (1..6usize, 0..20u64, 0..5u64),
        exponential: bool,
        (deadline, cancel_at) in (1..60u64, 0..2_000u64),
    ) {
        let drive = |runs: bool| {
            let config = MockConfig {
                itl_ns: itl_ms * MS,
                ttft_draw: if exponential { Draw::Exponential } else { Draw::Fixed },
                max_sequences,
                fail_every,
                runs,
                ..MockConfig::default()
            };
            let mut mock = MockBackend::new(config, MockTime::Virtual);
            let (mut open, mut ended) = (std::collections::BTreeMap::new(), Vec::new());
            let mut wait = |mock: &mut MockBackend, until_ns: u64, step_ns: u64| {
                while mock.now_ns() < until_ns {
                    let mut events = Vec::new();
                    let next_ns = until_ns.min(mock.now_ns() + step_ns);
                    mock.poll(Some(next_ns), &mut events).unwrap();
                    collect(events, &mut open, &mut ended);
                }
            };
            let mut sorted: Vec<_> = requests.clone();
            sorted.sort_unstable_by_key(|r| r.0);
            for (id, &(at_ms, tokens, _)) in sorted.iter().enumerate() {
                wait(&mut mock, at_ms * MS, deadline * MS);
                mock.submit(request(id as u64, tokens)).unwrap();
            }
            let cancel_ns = mock.now_ns() + cancel_at * MS;
            wait(&mut mock, cancel_ns, deadline * MS);
            for (id, &(_, _, cancel)) in sorted.iter().enumerate() {
                if cancel {
                    mock.cancel(id as u64);
                }
            }
            wait(&mut mock, cancel_ns + 3_600_000 * MS, 100_000 * MS);
            prop_assert_eq!(mock.serving(), 0);
            prop_assert!(mock.due.is_empty() && mock.waiting.is_empty());
            Ok(ended)
        };
        prop_assert_eq!(drive(false)?, drive(true)?);
    }
}
