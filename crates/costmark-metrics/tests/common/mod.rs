//! A closed loop in its simplest form over the mock, on virtual time: records whose every
//! instant is known. Slots start at evenly spread phases and the load is kept up until
//! the last measured request has ended. An open loop sends requests at given instants.

use std::collections::BTreeMap;

use costmark_core::mock::{MockBackend, MockConfig, MockTime};
use costmark_core::{
    Backend, Event, FinishReason, Outcome, Request, RequestRecord, Sampling, TokenTimes, Usage,
};

pub(crate) const INPUT_TOKENS: u32 = 8;

/// What a run left behind.
pub(crate) struct Run {
    #[allow(dead_code, reason = "not every test file has a closed loop")]
    pub(crate) concurrency: u32,
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) requests: Vec<RequestRecord>,
    pub(crate) background: Vec<RequestRecord>,
}

struct Loop {
    mock: MockBackend,
    in_flight: BTreeMap<u64, RequestRecord>,
    next_id: u64,
}

impl Loop {
    fn send(&mut self, scheduled_ns: u64, max_tokens: u32) {
        let id = self.next_id;
        self.next_id += 1;
        let record = RequestRecord {
            id,
            turn: None,
            scheduled_ns,
            sent_ns: self.mock.now_ns().max(scheduled_ns),
            token_ns: TokenTimes::new(),
            event_tokens: Vec::new(),
            finished_ns: 0,
            input_tokens: INPUT_TOKENS,
            cached_tokens: 0,
            output_tokens: 0,
            output_hash: None,
            outcome: Outcome::Finished(FinishReason::Cancelled),
        };
        self.in_flight.insert(id, record);
        let request = Request {
            id,
            prompt: vec![1; INPUT_TOKENS as usize],
            max_tokens,
            ignore_eos: true,
            sampling: Sampling::Greedy,
            logprobs: None,
        };
        self.mock.submit(request).expect("the mock takes requests");
    }

    /// Takes in what happens next, until `until_ns`; returns the requests that ended.
    fn poll(&mut self, until_ns: Option<u64>) -> Vec<RequestRecord> {
        let mut events = Vec::new();
        self.mock
            .poll(until_ns, &mut events)
            .expect("the mock lives");
        let mut ended = Vec::new();
        for event in events {
            let (id, at_ns, outcome) = match event {
                Event::Tokens(t) => {
                    let record = self.in_flight.get_mut(&t.request).expect("in flight");
                    record.token_ns.push(t.at_ns);
                    record.event_tokens.push(t.tokens);
                    record.output_tokens += t.tokens;
                    continue;
                }
                Event::Finished {
                    request,
                    at_ns,
                    reason,
                    usage: Usage { .. },
                } => (request, at_ns, Outcome::Finished(reason)),
                Event::Failed {
                    request,
                    at_ns,
                    error,
                } => (request, at_ns, Outcome::Failed(error)),
                Event::Sent { .. } | Event::Logprobs(_) | Event::Step(_) | Event::TokenRun(_) => {
                    continue;
                }
            };
            let mut record = self.in_flight.remove(&id).expect("in flight");
            record.finished_ns = at_ns;
            record.outcome = outcome;
            ended.push(record);
        }
        ended
    }
}

/// Sends a request of `output` tokens at each of `due_ns`, ascending; the measured time lasts
/// from the first to the last of these.
#[allow(dead_code, reason = "not every test file has an open loop")]
pub(crate) fn drive_open(config: MockConfig, due_ns: &[u64], output: u32) -> Run {
    let mut looped = Loop {
        mock: MockBackend::new(config, MockTime::Virtual),
        in_flight: BTreeMap::new(),
        next_id: 0,
    };
    let mut requests = Vec::new();
    for &at_ns in due_ns {
        while looped.mock.now_ns() < at_ns {
            requests.extend(looped.poll(Some(at_ns)));
        }
        looped.send(at_ns, output);
    }
    while !looped.in_flight.is_empty() {
        requests.extend(looped.poll(None));
    }
    Run {
        concurrency: 0,
        start_ns: due_ns.first().copied().unwrap_or(0),
        end_ns: due_ns.last().copied().unwrap_or(0),
        requests,
        background: Vec::new(),
    }
}

/// Keeps `concurrency` requests of `output` tokens in flight until `measured` of them have
/// ended. Two further requests per slot come before the measured ones.
#[allow(dead_code, reason = "not every test file has a closed loop")]
pub(crate) fn drive(config: MockConfig, concurrency: u32, measured: u64, output: u32) -> Run {
    let mut looped = Loop {
        mock: MockBackend::new(config, MockTime::Virtual),
        in_flight: BTreeMap::new(),
        next_id: 0,
    };
    for slot in 0..concurrency {
        let left = f64::from(output) * (f64::from(slot) + 0.5) / f64::from(concurrency);
        looped.send(0, (left as u32).max(1));
    }
    let first = 3 * u64::from(concurrency);
    let (mut requests, mut background, mut start_ns) = (Vec::new(), Vec::new(), 0);
    while (requests.len() as u64) < measured || looped.next_id <= first {
        for record in looped.poll(None) {
            if looped.next_id == first {
                start_ns = record.finished_ns;
            }
            looped.send(record.finished_ns, output);
            if (first..first + measured).contains(&record.id) {
                requests.push(record);
            } else {
                background.push(record);
            }
        }
    }
    let end_ns = requests
        .iter()
        .map(|r: &RequestRecord| r.finished_ns)
        .fold(start_ns, u64::max);
    // What is still in flight is cut off there.
    background.extend(looped.in_flight.into_values().map(|mut record| {
        record.finished_ns = end_ns.max(record.scheduled_ns);
        record
    }));
    Run {
        concurrency,
        start_ns,
        end_ns,
        requests,
        background,
    }
}
