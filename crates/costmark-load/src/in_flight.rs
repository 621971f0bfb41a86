//! Requests that are on their way: collects their events, checks them when they end.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use costmark_core::request::{OUTPUT_HASH_START, extend_output_hash};
use costmark_core::{
    BackendKind, ErrorClass, FinishReason, Outcome, Request, RequestError, RequestId,
    RequestRecord, Span, TokenEvent, TokenRun, TokenTimes, Usage,
};

use crate::arrivals::Arrival;
use crate::unit::{Phase, UnitError};

/// Everything in flight.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    requests: HashMap<RequestId, Entry, BuildHasherDefault<IdHasher>>,
    measured: usize,
    /// The backend's own count of prompt tokens is the record's.
    backend_counts_prompts: bool,
    /// Prompts and outputs are kept until a request ends.
    keeps_text: bool,
}

/// Hashes request ids, which the driver itself hands out: nobody can choose them to collide.
/// One multiplication (Fibonacci hashing) that moves the low bits, in which ids differ, up.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        let product = (self.0 ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ product >> 32;
    }
}

#[derive(Debug)]
struct Entry {
    phase: Phase,
    record: RequestRecord,
    max_tokens: u32,
    exact: bool,
    /// `None` once a token without an id arrived.
    hash: Option<u64>,
    /// Its prompt and its output so far, where that is kept.
    said: Vec<u32>,
}

impl Entry {
    /// Notes output tokens of what was said. Where the backend does not tell an id, one of the
    /// prompt's stands in for it: the length is right, the text is not.
    fn say(&mut self, tokens: u32, id: Option<u32>) {
        if self.said.is_empty() {
            return;
        }
        for i in 0..tokens as usize {
            self.said.push(id.unwrap_or(self.said[i]));
        }
    }
}

/// How the backend said that a request ended.
pub(crate) enum Ending {
    Finished(FinishReason, Usage),
    Failed(RequestError),
}

impl InFlight {
    /// For a backend that takes prompts as they are, or one that wraps them and counts
    /// what came of it.
    pub(crate) fn for_backend(kind: BackendKind, keeps_text: bool) -> Self {
        Self {
            backend_counts_prompts: !kind.takes_prompts_as_they_are(),
            keeps_text,
            ..Self::default()
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(crate) fn measured(&self) -> usize {
        self.measured
    }

    /// Ids in flight, background requests only or all, in a fixed order.
    pub(crate) fn ids(&self, with_measured: bool) -> Vec<RequestId> {
        let mut ids: Vec<_> = self
            .requests
            .iter()
            .filter(|(_, entry)| with_measured || entry.phase != Phase::Measured)
            .map(|(&id, _)| id)
            .collect();
        ids.sort_unstable();
        ids
    }

    pub(crate) fn insert(
        &mut self,
        phase: Phase,
        arrival: &Arrival,
        sent_ns: u64,
        request: &Request,
    ) {
        let record = RequestRecord {
            id: request.id,
            turn: arrival.turn,
            scheduled_ns: arrival.scheduled_ns,
            sent_ns,
            token_ns: TokenTimes::new(),
            event_tokens: Vec::new(),
            finished_ns: sent_ns,
            input_tokens: u32::try_from(request.prompt.len()).unwrap_or(u32::MAX),
            cached_tokens: 0,
            output_tokens: 0,
            output_hash: None,
            outcome: Outcome::Finished(FinishReason::Cancelled),
        };
        let entry = Entry {
            phase,
            record,
            max_tokens: request.max_tokens,
            exact: request.ignore_eos,
            hash: Some(OUTPUT_HASH_START),
            said: match self.keeps_text {
                true => request.prompt.clone(),
                false => Vec::new(),
            },
        };
        self.requests.insert(request.id, entry);
        self.measured += usize::from(phase == Phase::Measured);
    }

    /// The backend sent a request later than it was handed it.
    pub(crate) fn on_sent(&mut self, id: RequestId, at_ns: u64) -> Result<(), UnitError> {
        let entry = self
            .requests
            .get_mut(&id)
            .ok_or(UnitError::UnknownRequest(id))?;
        entry.record.sent_ns = entry.record.sent_ns.max(at_ns);
        Ok(())
    }

    /// Notes tokens; returns the gap to the request's last ones, `None` for its first. What
    /// is reported at the same instant arrived together.
    pub(crate) fn on_tokens(&mut self, event: TokenEvent) -> Result<Option<u64>, UnitError> {
        let entry = self
            .requests
            .get_mut(&event.request)
            .ok_or(UnitError::UnknownRequest(event.request))?;
        let record = &mut entry.record;
        let gap_ns = gap_to(record, event.at_ns);
        let together = gap_ns == Some(0);
        if (event.tokens != 1 || together) && record.event_tokens.is_empty() {
            record.event_tokens = vec![1; record.token_ns.len()];
        }
        if let Some(last) = record.event_tokens.last_mut().filter(|_| together) {
            *last += event.tokens;
        } else {
            record.token_ns.push(event.at_ns);
        }
        if !together && (event.tokens != 1 || !record.event_tokens.is_empty()) {
            record.event_tokens.push(event.tokens);
        }
        record.output_tokens += event.tokens;
        entry.hash = entry
            .hash
            .zip(event.token_id)
            .map(|(hash, token)| extend_output_hash(hash, token));
        entry.say(event.tokens, event.token_id);
        Ok(gap_ns)
    }

    /// Notes single tokens told together; returns the gap from the request's last ones to
    /// the first of these. Those of one instant arrived together.
    pub(crate) fn on_run(&mut self, run: TokenRun) -> Result<Option<u64>, UnitError> {
        let Span {
            first_ns,
            gap_ns,
            events,
        } = run.span;
        let at_once = if gap_ns == 0 { events } else { 1 };
        let gap_before_ns = self.on_tokens(TokenEvent {
            request: run.request,
            at_ns: first_ns,
            tokens: at_once,
            token_id: None,
        })?;
        let events = events - at_once;
        if let Some(entry) = self.requests.get_mut(&run.request).filter(|_| events > 0) {
            entry.say(events, None);
            let record = &mut entry.record;
            record.token_ns.extend(Span {
                first_ns: first_ns + gap_ns,
                gap_ns,
                events,
            });
            record.output_tokens += events;
            if !record.event_tokens.is_empty() {
                record.event_tokens.resize(record.token_ns.len(), 1);
            }
        }
        Ok(gap_before_ns)
    }

    /// The prompt and the output so far of a request that is about to end, where they are kept.
    pub(crate) fn take_said(&mut self, id: RequestId) -> Option<Vec<u32>> {
        if !self.keeps_text {
            return None;
        }
        let entry = self.requests.get_mut(&id)?;
        Some(std::mem::take(&mut entry.said))
    }

    /// Takes an ended request out and checks that it brought what was asked for.
    pub(crate) fn end(
        &mut self,
        id: RequestId,
        at_ns: u64,
        ending: Ending,
    ) -> Result<(Phase, RequestRecord), UnitError> {
        let entry = self
            .requests
            .remove(&id)
            .ok_or(UnitError::UnknownRequest(id))?;
        self.measured -= usize::from(entry.phase == Phase::Measured);
        let mut record = entry.record;
        record.finished_ns = at_ns;
        // It is kept for the rest of the unit.
        record.token_ns.shrink();
        record.event_tokens.shrink_to_fit();
        record.output_hash = entry.hash.filter(|_| !record.token_ns.is_empty());
        record.outcome = match ending {
            Ending::Failed(error) => Outcome::Failed(error),
            Ending::Finished(reason, usage) => {
                record.cached_tokens = usage.cached_tokens;
                if self.backend_counts_prompts && usage.input_tokens > 0 {
                    record.input_tokens = usage.input_tokens;
                }
                let asked = (entry.max_tokens, entry.exact);
                match complaint(&record, asked, reason, usage) {
                    Some(message) => Outcome::Failed(RequestError {
                        class: ErrorClass::WrongOutput,
                        message,
                    }),
                    None => Outcome::Finished(reason),
                }
            }
        };
        Ok((entry.phase, record))
    }
}

/// From the last tokens of a request to `at_ns`.
fn gap_to(record: &RequestRecord, at_ns: u64) -> Option<u64> {
    let last_ns = record.token_ns.last()?;
    Some(at_ns.saturating_sub(last_ns))
}

/// What is wrong with the token counts of a request that ended without an error.
/// A cancelled one is asked only to agree with itself.
fn complaint(
    record: &RequestRecord,
    (max_tokens, exact): (u32, bool),
    reason: FinishReason,
    usage: Usage,
) -> Option<String> {
    let arrived = record.output_tokens;
    if usage.output_tokens != arrived {
        return Some(format!(
            "{arrived} output tokens arrived but the backend counted {}",
            usage.output_tokens
        ));
    }
    if reason == FinishReason::Cancelled {
        return None;
    }
    if usage.input_tokens != record.input_tokens {
        return Some(format!(
            "{} prompt tokens were sent but the backend counted {}",
            record.input_tokens, usage.input_tokens
        ));
    }
    let expected = if exact || reason == FinishReason::Length {
        arrived == max_tokens && reason == FinishReason::Length
    } else {
        (1..=max_tokens).contains(&arrived)
    };
    (!expected).then(|| {
        let bound = if exact { "exactly" } else { "up to" };
        format!("{bound} {max_tokens} output tokens were asked for, {arrived} arrived ({reason:?})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use costmark_core::Sampling;

    fn in_flight(ignore_eos: bool) -> InFlight {
        let mut in_flight = InFlight::default();
        let request = Request {
            id: 7,
            prompt: vec![1; 5],
            max_tokens: 3,
            ignore_eos,
            sampling: Sampling::Greedy,
            logprobs: None,
        };
        let arrival = Arrival {
            scheduled_ns: 90,
            elapsed: 0.0,
            turn: Some(2),
        };
        in_flight.insert(Phase::Measured, &arrival, 100, &request);
        in_flight
    }

    fn tokens(at_ns: u64, tokens: u32, token_id: Option<u32>) -> TokenEvent {
        TokenEvent {
            request: 7,
            at_ns,
            tokens,
            token_id,
        }
    }

    fn usage(input_tokens: u32, output_tokens: u32) -> Usage {
        Usage {
            input_tokens,
            cached_tokens: 4,
            output_tokens,
        }
    }

    #[test]
    fn single_tokens_need_no_counts_and_are_hashed() {
        let mut in_flight = in_flight(true);
        for i in 0..3u32 {
            let gap = in_flight.on_tokens(tokens(200 + 10 * u64::from(i), 1, Some(i)));
            assert_eq!(gap.unwrap(), (i > 0).then_some(10));
        }
        let ending = Ending::Finished(FinishReason::Length, usage(5, 3));
        let (phase, record) = in_flight.end(7, 225, ending).unwrap();
        assert_eq!(phase, Phase::Measured);
        assert!(record.event_tokens.is_empty() && record.is_ok());
        assert_eq!((record.output_tokens, record.cached_tokens), (3, 4));
        assert_eq!(record.token_ns, [200, 210, 220]);
        assert_eq!(record.finished_ns, 225);
        let expected = (0..3).fold(OUTPUT_HASH_START, extend_output_hash);
        assert_eq!(record.output_hash, Some(expected));
        assert!(in_flight.is_empty() && in_flight.measured() == 0);
    }

    #[test]
    fn runs_are_their_tokens() {
        let span = Span {
            first_ns: 210,
            gap_ns: 10,
            events: 2,
        };
        let run = TokenRun { request: 7, span };
        for first in [1, 2] {
            let mut in_flight = in_flight(false);
            in_flight.on_tokens(tokens(200, first, Some(1))).unwrap();
            assert_eq!(in_flight.on_run(run).unwrap(), Some(10));
            let ending = Ending::Finished(FinishReason::Cancelled, usage(5, first + 2));
            let (_, record) = in_flight.end(7, 230, ending).unwrap();
            assert_eq!(record.token_ns, [200, 210, 220]);
            let counts: &[u32] = if first == 1 { &[] } else { &[2, 1, 1] };
            assert_eq!(record.event_tokens, counts);
            assert!(record.is_ok() && record.output_hash.is_none());
        }
    }

    #[test]
    fn chunks_are_counted_from_the_first_event_on() {
        let mut in_flight = in_flight(true);
        in_flight.on_tokens(tokens(200, 1, Some(1))).unwrap();
        in_flight.on_tokens(tokens(210, 2, None)).unwrap();
        let ending = Ending::Finished(FinishReason::Length, usage(5, 3));
        let (_, record) = in_flight.end(7, 210, ending).unwrap();
        assert_eq!(record.event_tokens, [1, 2]);
        assert_eq!(record.output_hash, None, "not all ids are known");
        assert!(record.is_ok());
    }

    #[test]
    fn what_came_at_one_instant_came_together() {
        let mut in_flight = in_flight(true);
        for (at_ns, gap) in [(200, None), (210, Some(10)), (210, Some(0))] {
            let found = in_flight.on_tokens(tokens(at_ns, 1, Some(1)));
            assert_eq!(found.unwrap(), gap);
        }
        let ending = Ending::Finished(FinishReason::Length, usage(5, 3));
        let (_, record) = in_flight.end(7, 210, ending).unwrap();
        assert_eq!(record.token_ns, [200, 210], "no gap of zero");
        assert_eq!((record.event_tokens, record.output_tokens), (vec![1, 2], 3));
    }

    #[test]
    fn a_server_counts_its_prompts_itself_and_sends_when_it_can() {
        for (kind, ok, input) in [(BackendKind::Http, true, 9), (BackendKind::Mock, false, 5)] {
            let mut in_flight = InFlight {
                requests: in_flight(true).requests,
                ..InFlight::for_backend(kind, false)
            };
            in_flight.measured = 1;
            in_flight.on_sent(7, 120).unwrap();
            for at_ns in [200, 210, 220] {
                in_flight.on_tokens(tokens(at_ns, 1, None)).unwrap();
            }
            let ending = Ending::Finished(FinishReason::Length, usage(9, 3));
            let (_, record) = in_flight.end(7, 225, ending).unwrap();
            assert_eq!((record.is_ok(), record.input_tokens), (ok, input));
            assert_eq!((record.scheduled_ns, record.sent_ns), (90, 120));
        }
    }

    #[test]
    fn wrong_counts_fail_the_request() {
        use FinishReason::{Cancelled, Length, Stop};
        for (exact, arrived, reason, counted, problem) in [
            (true, 2, Length, usage(5, 2), Some("exactly 3")),
            (true, 2, Stop, usage(5, 2), Some("exactly 3")),
            (true, 3, Stop, usage(5, 3), Some("Stop")),
            (true, 3, Length, usage(5, 4), Some("counted 4")),
            (true, 3, Length, usage(6, 3), Some("5 prompt tokens")),
            (false, 4, Stop, usage(5, 4), Some("up to 3")),
            (false, 2, Length, usage(5, 2), Some("up to 3")),
            (false, 2, Stop, usage(5, 2), None),
            (true, 1, Cancelled, usage(0, 1), None),
        ] {
            let mut in_flight = in_flight(exact);
            for i in 0..arrived {
                in_flight.on_tokens(tokens(200 + i, 1, Some(1))).unwrap();
            }
            let ending = Ending::Finished(reason, counted);
            let (_, record) = in_flight.end(7, 300, ending).unwrap();
            match (problem, record.outcome) {
                (None, Outcome::Finished(r)) => assert_eq!(r, reason),
                (Some(text), Outcome::Failed(error)) => {
                    assert_eq!(error.class, ErrorClass::WrongOutput);
                    assert!(error.message.contains(text), "{}", error.message);
                }
                (expected, outcome) => panic!("{expected:?} {outcome:?}"),
            }
        }
    }

    #[test]
    fn strangers_are_reported() {
        let mut in_flight = InFlight::default();
        let stranger = in_flight.on_tokens(tokens(1, 1, None));
        assert!(matches!(stranger, Err(UnitError::UnknownRequest(7))));
    }
}
