//! Drives a backend over HTTP by hand.

#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // Each test file uses its own part.

use std::time::{Duration, Instant};

use costmark_core::{
    Backend, ErrorClass, Event, FinishReason, MonotonicClock, Request, Sampling, Usage,
};
use costmark_http::scripted::{Received, Script, Scripted, models_page};
use costmark_http::{HttpBackend, HttpOptions, Timeouts};

/// Longest any test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the trial requests before a measurement ask for; tests ask for something else.
pub(crate) const TRIAL_TOKENS: u64 = 4;

pub(crate) const MS: Duration = Duration::from_millis(1);

/// A server that says who it is, answers trials well, and everything else by `play`.
pub(crate) fn server(play: impl Fn(&Received) -> Script + Send + Sync + 'static) -> Scripted {
    Scripted::start(None, behaved(play)).unwrap()
}

pub(crate) fn behaved(
    play: impl Fn(&Received) -> Script + Send + Sync + 'static,
) -> impl Fn(&Received) -> Script + Send + Sync + 'static {
    move |received| {
        if received.method == "GET" {
            return models_page();
        }
        if received.field("max_tokens") == Some(TRIAL_TOKENS.into()) {
            return Script::tokens(8, 4, Duration::ZERO, Duration::ZERO);
        }
        play(received)
    }
}

pub(crate) fn options(url: &str) -> HttpOptions {
    HttpOptions {
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            first_token: Duration::from_millis(400),
            between_tokens: Duration::from_millis(300),
        },
        ..HttpOptions::new(url.parse().unwrap())
    }
}

pub(crate) fn request(id: u64, max_tokens: u32) -> Request {
    Request {
        id,
        prompt: vec![5; 8],
        max_tokens,
        ignore_eos: true,
        sampling: Sampling::Greedy,
        logprobs: None,
    }
}

/// What became of a request.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    pub(crate) sent_ns: u64,
    pub(crate) tokens: Vec<(u64, u32)>,
    pub(crate) finished: Option<(FinishReason, Usage, u64)>,
    pub(crate) failed: Option<(ErrorClass, String)>,
}

/// Sends one request and waits for its end.
pub(crate) fn drive(backend: &mut HttpBackend, request: Request) -> Fate {
    backend.submit(request).unwrap();
    wait(backend)
}

pub(crate) fn wait(backend: &mut HttpBackend) -> Fate {
    let begin = Instant::now();
    let (mut fate, mut events) = (Fate::default(), Vec::new());
    loop {
        assert!(begin.elapsed() < PATIENCE, "hangs: {fate:?}");
        let until = backend.now_ns() + 20_000_000;
        backend.poll(Some(until), &mut events).unwrap();
        for event in events.drain(..) {
            match event {
                Event::Sent { at_ns, .. } => fate.sent_ns = at_ns,
                Event::Tokens(t) => fate.tokens.push((t.at_ns, t.tokens)),
                Event::Finished {
                    reason,
                    usage,
                    at_ns,
                    ..
                } => fate.finished = Some((reason, usage, at_ns)),
                Event::Failed { error, .. } => fate.failed = Some((error.class, error.message)),
                Event::Step(_) => panic!("steps cannot be seen"),
                Event::TokenRun(_) => panic!("every token is told"),
                Event::Logprobs(_) => panic!("they are not asked for"),
            }
        }
        if fate.finished.is_some() || fate.failed.is_some() {
            return fate;
        }
    }
}

pub(crate) fn connect(server: &Scripted) -> HttpBackend {
    HttpBackend::connect(options(&server.url()), MonotonicClock::start()).unwrap()
}
