//! One request from its sending to its end.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use costmark_core::{
    Clock, ErrorClass, Event, FinishReason, RequestError, RequestId, TokenEvent, Usage,
};
use http_body_util::Full;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, StatusCode, Version};

use super::arrival::{Arrival, Punctuality};
use super::connect::Line;
use super::error::failure;
use super::exchange::{Deadline, Exchange};
use super::recount::Answered;
use super::worker::Shared;
use crate::nanos;
use crate::wire::{Answer, Arrived, Finish, REQUEST_ID, error_text};

/// What a worker needs to know of a request.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: RequestId,
    pub(crate) body: Bytes,
    pub(crate) input_tokens: u32,
    pub(crate) max_tokens: u32,
    /// All of these are wanted, whatever the model would end with.
    pub(crate) exact: bool,
}

/// Longest message kept of what a server says of a failure.
const MAX_MESSAGE_CHARS: usize = 400;
/// Most bytes read of an error's page.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// How long to wait for the last bytes of an answer that has told its end.
const TAIL_NS: u64 = 1_000_000_000;

/// Sends it, reports its tokens and its end, and keeps the connection for the next one.
pub(crate) async fn serve(shared: Rc<Shared>, job: Job, arrived: Rc<Cell<u32>>) {
    let id = job.id;
    let ended = Running::new(&shared, &job, &arrived).run().await;
    shared.live.borrow_mut().remove(&id);
    match ended {
        Ok((ending, exchange)) => {
            shared.outbox.push(ending);
            keep(&shared, exchange).await;
        }
        Err(error) => shared.outbox.push(Event::Failed {
            request: id,
            at_ns: shared.clock.now_ns(),
            error: shared.presentable(error),
        }),
    }
}

/// Reads the rest of the answer, so that the connection can carry another request.
async fn keep(shared: &Shared, exchange: Option<Exchange>) {
    let Some(mut exchange) = exchange else {
        return;
    };
    let until_ns = shared.clock.now_ns() + TAIL_NS;
    let mut deadline = Deadline::new(
        shared.clock,
        until_ns,
        (ErrorClass::TokenTimeout, String::new()),
    );
    loop {
        match exchange.bytes(&mut deadline).await {
            Ok(Some(_)) => {}
            Ok(None) => return shared.keep(exchange.into_line()),
            Err(_) => return,
        }
    }
}

struct Running<'a> {
    shared: &'a Shared,
    job: &'a Job,
    /// Tokens that were reported.
    arrived: &'a Cell<u32>,
    reasoning: u32,
    sent_ns: u64,
    first_reasoning_ns: Option<u64>,
    first_content_ns: Option<u64>,
    last_token_ns: u64,
    punctuality: Punctuality,
}

impl<'a> Running<'a> {
    fn new(shared: &'a Shared, job: &'a Job, arrived: &'a Cell<u32>) -> Self {
        Self {
            shared,
            job,
            arrived,
            reasoning: 0,
            sent_ns: 0,
            first_reasoning_ns: None,
            first_content_ns: None,
            last_token_ns: 0,
            punctuality: Punctuality::default(),
        }
    }

    /// The end to report, and the exchange if its connection may be used again.
    async fn run(mut self) -> Result<(Event, Option<Exchange>), RequestError> {
        let (mut exchange, mut deadline) = self.begin().await?;
        check_status(&mut exchange, &mut deadline).await?;
        let json = is_json(&exchange);
        if self.shared.dialect.stream && json {
            return Err(failure(
                ErrorClass::Malformed,
                "the server answered with one JSON document where a stream was asked for",
            ));
        }
        let keep_text = self.shared.text.is_some();
        let mut answer = if self.shared.dialect.stream {
            Answer::streamed(keep_text)
        } else {
            Answer::whole(keep_text)
        };
        let whole = loop {
            let Some((bytes, arrival)) = exchange.bytes(&mut deadline).await? else {
                let arrived = answer.end()?;
                self.on_arrived(arrived, exchange.arrival(), &mut deadline)?;
                break true;
            };
            let arrived = answer.feed(&bytes)?;
            self.on_arrived(arrived, arrival, &mut deadline)?;
            if answer.seen.done {
                break false;
            }
        };
        let seen = &answer.seen;
        if whole && !seen.done && seen.finish.is_none() {
            return Err(failure(
                ErrorClass::Disconnected,
                format!(
                    "the stream ended after {} tokens, without saying why",
                    self.arrived.get()
                ),
            ));
        }
        if seen.finish == Some(Finish::Abort) {
            return Err(failure(
                ErrorClass::ServerError,
                "the server aborted the request",
            ));
        }
        let ending = self.finish(&mut answer, exchange.arrival()).await;
        Ok((ending, Some(exchange)))
    }

    /// Sends the request: on an idle connection, or on a new one if that has gone stale.
    async fn begin(&mut self) -> Result<(Exchange, Deadline), RequestError> {
        let shared = self.shared;
        let line = shared.idle_line().await;
        let sent_ns = shared.clock.now_ns();
        self.sent_ns = sent_ns;
        shared.outbox.push(Event::Sent {
            request: self.job.id,
            at_ns: sent_ns,
        });
        let timeout = shared.timeouts.first_token;
        let mut deadline = Deadline::new(
            shared.clock,
            sent_ns.saturating_add(nanos(timeout)),
            (
                ErrorClass::FirstTokenTimeout,
                format!("no token within {} s", timeout.as_secs_f64()),
            ),
        );
        if let Some(line) = line {
            let request = self.request(&line)?;
            match Exchange::begin(line, request, &mut deadline).await {
                Ok(exchange) => return Ok((exchange, deadline)),
                Err(no_answer) if no_answer.stale => {
                    shared.tally.add(|counts| counts.resent += 1);
                }
                Err(no_answer) => return Err(no_answer.error),
            }
        }
        let begun_ns = shared.clock.now_ns();
        let line = shared.connect().await?;
        let took_ns = shared.clock.now_ns().saturating_sub(begun_ns);
        shared.tally.add(|counts| {
            counts.connected += 1;
            counts.connecting_ns += took_ns;
        });
        let request = self.request(&line)?;
        match Exchange::begin(line, request, &mut deadline).await {
            Ok(exchange) => Ok((exchange, deadline)),
            Err(no_answer) => Err(no_answer.error),
        }
    }

    fn request(&self, line: &Line) -> Result<hyper::Request<Full<Bytes>>, RequestError> {
        let path = self.shared.dialect.api.path();
        let body = self.job.body.clone();
        let mut request = request(self.shared, line, Method::POST, path, body)?;
        // A header of the user's of that name stands.
        let headers = request.headers_mut();
        headers.entry(REQUEST_ID).or_insert(self.job.id.into());
        Ok(request)
    }

    fn on_arrived(
        &mut self,
        new: Arrived,
        arrival: Arrival,
        deadline: &mut Deadline,
    ) -> Result<(), RequestError> {
        if new.tokens == 0 {
            return Ok(());
        }
        // An answer does not come before its question, whatever was read of another one.
        let at_ns = arrival.at_ns.max(self.sent_ns);
        self.punctuality.add(arrival);
        let timeout = self.shared.timeouts.between_tokens;
        let until_ns = at_ns.saturating_add(nanos(timeout));
        if self.arrived.get() == 0 {
            let words = format!("no further token within {} s", timeout.as_secs_f64());
            deadline.become_(until_ns, (ErrorClass::TokenTimeout, words));
        } else {
            deadline.move_to(until_ns);
        }
        self.report(new.tokens, at_ns, new.token_id);
        self.reasoning += new.reasoning;
        if new.reasoning > 0 {
            self.first_reasoning_ns.get_or_insert(at_ns);
        }
        if new.tokens > new.reasoning {
            self.first_content_ns.get_or_insert(at_ns);
        }
        self.last_token_ns = at_ns;
        // A server may cut a token's text in two, so some more are let through.
        let bound = self.job.max_tokens.saturating_mul(2).saturating_add(64);
        if self.arrived.get() > bound {
            return Err(failure(
                ErrorClass::WrongOutput,
                format!(
                    "{} tokens were asked for and {} arrived: the server ignores the limit",
                    self.job.max_tokens,
                    self.arrived.get()
                ),
            ));
        }
        Ok(())
    }

    fn report(&self, tokens: u32, at_ns: u64, token_id: Option<u32>) {
        self.arrived.set(self.arrived.get().saturating_add(tokens));
        self.shared.outbox.push(Event::Tokens(TokenEvent {
            request: self.job.id,
            at_ns,
            tokens,
            token_id,
        }));
    }

    /// Settles the counts: the server's where it tells them, else a tokenizer's, else the
    /// number of events.
    async fn finish(&mut self, answer: &mut Answer, last: Arrival) -> Event {
        let text = answer.seen.text.take();
        let seen = &answer.seen;
        let events = self.arrived.get();
        let told = seen.usage.map(|usage| usage.completion_tokens);
        let counted = match (told, text) {
            (None, Some(text)) => self.count(text).await,
            (Some(told_tokens), Some(text)) => {
                if let Some(recounter) = &self.shared.recounter {
                    recounter.offer(Answered { text, told_tokens });
                }
                told
            }
            (told, None) => told,
        };
        let counted = counted.filter(|&n| n > 0);
        if let Some(more) = counted
            .and_then(|n| n.checked_sub(events))
            .filter(|&n| n > 0)
        {
            // When they came is not known, only that they had by the last event.
            let last_ns = if events == 0 {
                last.at_ns.max(self.sent_ns)
            } else {
                self.last_token_ns
            };
            self.report(more, last_ns, None);
        }
        let output = self.arrived.get();
        let input = seen.usage.map_or(0, |usage| usage.prompt_tokens);
        let reasoning = seen.usage.map_or(0, |usage| usage.reasoning_tokens());
        self.shared.tally.add(|counts| {
            counts.finished += 1;
            counts.punctuality.merge(self.punctuality);
            counts.output_tokens += u64::from(output);
            counts.reasoning_tokens += u64::from(reasoning.max(self.reasoning));
            counts.uncounted += u64::from(told.is_none());
            if let Some(reasoning_ns) = self.first_reasoning_ns {
                counts.reasoned += 1;
                counts.first_reasoning_ns += reasoning_ns.saturating_sub(self.sent_ns);
                if let Some(content_ns) = self.first_content_ns {
                    counts.reasoned_to_content += 1;
                    counts.first_content_ns += content_ns.saturating_sub(self.sent_ns);
                }
            }
            if events > 0 && output > events {
                counts.with_more += 1;
                counts.more_tokens += u64::from(output - events);
            }
            if let Some(fewer) = counted
                .and_then(|n| output.checked_sub(n))
                .filter(|&n| n > 0)
            {
                counts.with_fewer += 1;
                counts.fewer_tokens += u64::from(fewer);
            }
            let early = seen.finish == Some(Finish::Stop) && output < self.job.max_tokens;
            counts.stopped_early += u64::from(self.job.exact && early);
            if input > 0 && input != self.job.input_tokens {
                counts.prompts_differ += 1;
                counts.prompt_surplus += i64::from(input) - i64::from(self.job.input_tokens);
            }
        });
        let full = output >= self.job.max_tokens;
        Event::Finished {
            request: self.job.id,
            // Whoever waits for it hears of it now.
            at_ns: last.read_ns,
            reason: match seen.finish {
                Some(Finish::Length) => FinishReason::Length,
                None if full => FinishReason::Length,
                _ => FinishReason::Stop,
            },
            usage: Usage {
                input_tokens: if input > 0 {
                    input
                } else {
                    self.job.input_tokens
                },
                cached_tokens: seen.usage.map_or(0, |usage| usage.cached_tokens()),
                output_tokens: output,
            },
        }
    }

    /// Tokens of `text` by the tokenizer. On another thread, since for a long answer that takes
    /// longer than bytes may wait at a socket.
    async fn count(&self, text: String) -> Option<u32> {
        let counter = Arc::clone(self.shared.text.as_ref()?);
        let counting = tokio::task::spawn_blocking(move || counter.count(&text));
        counting.await.ok()
    }
}

/// A request in the words of the protocol of `line`.
pub(crate) fn request(
    shared: &Shared,
    line: &Line,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<hyper::Request<Full<Bytes>>, RequestError> {
    let endpoint = &shared.endpoint;
    let wrong = |error: hyper::http::Error| {
        let words = format!("the request cannot be written: {error}");
        failure(ErrorClass::Rejected, words)
    };
    let mut request = hyper::Request::builder().method(method);
    request = match line {
        Line::H1(_) => request
            .uri(format!("{}{path}", endpoint.base))
            .header(HOST, endpoint.authority()),
        Line::H2(_) => request
            .uri(format!("{endpoint}{path}"))
            .version(Version::HTTP_2),
    };
    let mut request = request.body(Full::new(body)).map_err(wrong)?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        ACCEPT,
        HeaderValue::from_static("text/event-stream, application/json"),
    );
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("costmark/", env!("CARGO_PKG_VERSION"))),
    );
    headers.extend(shared.secrets.headers().clone());
    Ok(request)
}

/// An error unless the server agreed to answer.
pub(crate) async fn check_status(
    exchange: &mut Exchange,
    deadline: &mut Deadline,
) -> Result<(), RequestError> {
    let status = exchange.response.status();
    if status.is_success() {
        return Ok(());
    }
    let retry_after = exchange.response.headers().get(RETRY_AFTER);
    let retry_after = retry_after
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let mut page = Vec::new();
    while page.len() < MAX_ERROR_BYTES {
        match exchange.bytes(deadline).await {
            Ok(Some((bytes, _))) => page.extend_from_slice(&bytes),
            Ok(None) | Err(_) => break,
        }
    }
    let said = match serde_json::from_slice::<serde_json::Value>(&page) {
        Ok(value) => error_text(&value),
        Err(_) => String::from_utf8_lossy(&page).trim().to_owned(),
    };
    let class = match status {
        StatusCode::TOO_MANY_REQUESTS => ErrorClass::RateLimited,
        s if s.is_server_error() => ErrorClass::ServerError,
        s if s.is_client_error() => ErrorClass::Rejected,
        // Redirections are not followed: keys must not go where they were not meant to.
        _ => ErrorClass::Malformed,
    };
    let wait = retry_after.map_or_else(String::new, |s| format!(" (retry after {s})"));
    Err(failure(
        class,
        format!("the server answered {status}{wait}: {said}"),
    ))
}

fn is_json(exchange: &Exchange) -> bool {
    let kind = exchange.response.headers().get(CONTENT_TYPE);
    kind.and_then(|value| value.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/json"))
}

impl Shared {
    /// An error without secrets and of bounded length.
    pub(crate) fn presentable(&self, error: RequestError) -> RequestError {
        let scrubbed = self.secrets.scrub(&error.message);
        let mut message: String = scrubbed.chars().take(MAX_MESSAGE_CHARS).collect();
        if message.len() < scrubbed.len() {
            message.push('…');
        }
        RequestError {
            class: error.class,
            message,
        }
    }
}
