//! A backend of fixed latencies, to prove drivers and metrics without a model.
//!
//! Request *r*, served from *s*, brings its first token at `s + ttft_ns` and each further
//! one `itl_ns` later. At most `max_sequences` are served at once; others wait in line.
//! On virtual time nothing sleeps: [`poll`](Backend::poll) moves the clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use crate::backend::{Backend, BackendError, BackendInfo, BackendKind, Event, TokenEvent, Usage};
use crate::clock::{Clock, MonotonicClock};
use crate::request::{ErrorClass, FinishReason, Request, RequestError, RequestId};

/// How the mock behaves.
#[derive(Debug, Clone)]
pub struct MockConfig {
    /// Time to the first token once a request is served.
    pub ttft_ns: u64,
    /// Gap between tokens.
    pub itl_ns: u64,
    /// Requests served at once.
    pub max_sequences: usize,
    /// Tokens brought by each event.
    pub tokens_per_event: u32,
    /// Requests whose id is a multiple of this fail at their first token; 0 for none.
    pub fail_every: u64,
    /// The whole backend fails when it is asked for this token event; `None` for never.
    pub die_after_events: Option<u64>,
}

impl Default for MockConfig {
    fn default() -> Self {
        Self {
            ttft_ns: 50_000_000,
            itl_ns: 10_000_000,
            max_sequences: usize::MAX,
            tokens_per_event: 1,
            fail_every: 0,
            die_after_events: None,
        }
    }
}

/// The time the mock lives in.
#[derive(Debug, Clone, Copy)]
pub enum MockTime {
    /// Starts at 0 and moves only in `poll`.
    Virtual,
    /// Sleeps on this clock.
    Real(MonotonicClock),
}

struct Served {
    produced: u32,
    request: Request,
}

/// See the [module](self).
pub struct MockBackend {
    config: MockConfig,
    info: BackendInfo,
    time: MockTime,
    virtual_now_ns: u64,
    waiting: VecDeque<Request>,
    served: BTreeMap<RequestId, Served>,
    due: BinaryHeap<Reverse<(u64, RequestId)>>,
    cancelled: Vec<RequestId>,
    emitted: u64,
}

impl MockBackend {
    /// A mock with nothing in flight.
    #[must_use]
    pub fn new(config: MockConfig, time: MockTime) -> Self {
        let info = BackendInfo {
            kind: BackendKind::Mock,
            model: "mock".into(),
            source: "none".into(),
            synthetic: true,
            weight_dtype: "none".into(),
            kv_dtype: "none".into(),
            device: "none".into(),
            software: concat!("costmark mock ", env!("CARGO_PKG_VERSION")).into(),
            shape: None,
            work: None,
            max_context: u32::MAX,
            max_sequences: u32::try_from(config.max_sequences).unwrap_or(u32::MAX),
            kv_capacity_tokens: u64::MAX,
            weight_bytes: 0,
            notes: vec!["simulated latencies".into()],
        };
        Self {
            config,
            info,
            time,
            virtual_now_ns: 0,
            waiting: VecDeque::new(),
            served: BTreeMap::new(),
            due: BinaryHeap::new(),
            cancelled: Vec::new(),
            emitted: 0,
        }
    }

    fn admit(&mut self) {
        while self.served.len() < self.config.max_sequences {
            let Some(request) = self.waiting.pop_front() else {
                return;
            };
            self.due
                .push(Reverse((self.now_ns() + self.config.ttft_ns, request.id)));
            self.served.insert(
                request.id,
                Served {
                    produced: 0,
                    request,
                },
            );
        }
    }

    fn advance_to(&mut self, at_ns: u64) {
        match self.time {
            MockTime::Virtual => self.virtual_now_ns = self.virtual_now_ns.max(at_ns),
            MockTime::Real(clock) => {
                std::thread::sleep(Duration::from_nanos(at_ns.saturating_sub(clock.now_ns())));
            }
        }
    }

    fn finish(&mut self, id: RequestId, at_ns: u64, reason: FinishReason) -> Option<Event> {
        let served = self.served.remove(&id)?;
        Some(Event::Finished {
            request: id,
            at_ns,
            reason,
            usage: Usage {
                input_tokens: u32::try_from(served.request.prompt.len()).unwrap_or(u32::MAX),
                cached_tokens: 0,
                output_tokens: served.produced,
            },
        })
    }

    fn fire(&mut self, at_ns: u64, id: RequestId, events: &mut Vec<Event>) {
        let Some(served) = self.served.get_mut(&id) else {
            return; // cancelled meanwhile
        };
        if self.config.fail_every > 0 && id.is_multiple_of(self.config.fail_every) {
            self.served.remove(&id);
            events.push(Event::Failed {
                request: id,
                at_ns,
                error: RequestError {
                    class: ErrorClass::Device,
                    message: "the mock was told to fail this request".into(),
                },
            });
            return;
        }
        let left = served.request.max_tokens - served.produced;
        let tokens = self.config.tokens_per_event.min(left);
        served.produced += tokens;
        self.emitted += 1;
        events.push(Event::Tokens(TokenEvent {
            request: id,
            at_ns,
            tokens,
            token_id: (tokens == 1).then_some(served.produced),
        }));
        if served.produced == served.request.max_tokens {
            events.extend(self.finish(id, at_ns, FinishReason::Length));
        } else {
            self.due.push(Reverse((at_ns + self.config.itl_ns, id)));
        }
    }
}

impl Backend for MockBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn now_ns(&self) -> u64 {
        match self.time {
            MockTime::Virtual => self.virtual_now_ns,
            MockTime::Real(clock) => clock.now_ns(),
        }
    }

    fn submit(&mut self, request: Request) -> Result<(), BackendError> {
        self.waiting.push_back(request);
        self.admit();
        Ok(())
    }

    fn cancel(&mut self, id: RequestId) {
        self.cancelled.push(id);
    }

    fn poll(&mut self, until_ns: Option<u64>, events: &mut Vec<Event>) -> Result<(), BackendError> {
        let before = events.len();
        let now_ns = self.now_ns();
        for id in std::mem::take(&mut self.cancelled) {
            if let Some(index) = self.waiting.iter().position(|r| r.id == id) {
                let request = self.waiting.remove(index);
                self.served.extend(request.map(|request| {
                    let produced = 0;
                    (id, Served { produced, request })
                }));
            }
            events.extend(self.finish(id, now_ns, FinishReason::Cancelled));
        }
        self.admit();
        while let Some(&Reverse((at_ns, id))) = self.due.peek() {
            let reached = events.len() > before && at_ns > self.now_ns();
            if reached || until_ns.is_some_and(|until| at_ns > until) {
                break;
            }
            if self
                .config
                .die_after_events
                .is_some_and(|n| self.emitted >= n)
            {
                return Err(BackendError::new("the mock was told to die"));
            }
            self.due.pop();
            self.advance_to(at_ns);
            self.fire(at_ns, id, events);
            self.admit();
        }
        if events.len() == before
            && let Some(until) = until_ns
        {
            self.advance_to(until);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Sampling;

    fn request(id: u64, max_tokens: u32) -> Request {
        Request {
            id,
            prompt: vec![1; 8],
            max_tokens,
            ignore_eos: true,
            sampling: Sampling::Greedy,
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
                    instants.push((t.request, t.at_ns / 1_000_000));
                }
            }
        }
        // The second request is served once the first is done, at 70 ms.
        assert_eq!(instants, [(0, 50), (0, 60), (0, 70), (1, 120)]);
    }

    #[test]
    fn a_deadline_moves_virtual_time() {
        let mut mock = MockBackend::new(MockConfig::default(), MockTime::Virtual);
        let mut events = Vec::new();
        mock.poll(Some(7), &mut events).unwrap();
        assert!(events.is_empty());
        assert_eq!(mock.now_ns(), 7);
    }
}
