//! A line of JSON for each request: when it came and when its tokens were ready to be sent, by
//! this side's clock. What a client measured can be checked against it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use costmark_core::{FinishReason, RequestId, Usage};
use serde::Serialize;

use crate::nanos;

/// Where lines go. Clones write to the same file.
#[derive(Clone)]
pub struct RequestLog(Arc<Mutex<Sink>>);

struct Sink {
    path: PathBuf,
    file: File,
    /// After the first error nothing more is written.
    failed: Option<io::Error>,
}

impl RequestLog {
    /// Lines are added to what the file holds.
    ///
    /// # Errors
    /// The file cannot be made or written to.
    pub fn append(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let sink = Sink {
            path: path.into(),
            file,
            failed: None,
        };
        Ok(Self(Arc::new(Mutex::new(sink))))
    }

    /// Whether every line was written; told once.
    pub(crate) fn check(&self) -> io::Result<()> {
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(error) = sink.failed.take() else {
            return Ok(());
        };
        Err(io::Error::other(format!(
            "the log of requests is not complete, {} could not be written: {error}; make room there or \
             name another file, and serve again",
            sink.path.display()
        )))
    }

    fn write(&self, line: &Line) {
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sink.failed.is_some() {
            return;
        }
        // Numbers and strings in a struct serialise.
        let mut bytes = serde_json::to_vec(line).unwrap_or_default();
        bytes.push(b'\n');
        // One call, so that a line is there whole or not at all.
        if let Err(error) = sink.file.write_all(&bytes) {
            sink.failed = Some(error);
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// It never reached the backend.
    Refused,
    /// Its client went away.
    Cancelled,
    /// The backend gave it up, or the server ended first.
    Failed,
    Length,
    Stop,
}

#[derive(Debug, Clone, Serialize)]
struct Line {
    /// The number in the answer's `id`.
    id: Option<RequestId>,
    /// What the client called it in its header `x-request-id`.
    request_id: Option<String>,
    /// When its head had been read, since 1970.
    received_unix_ns: u64,
    /// From there until its first token was ready to be sent.
    first_token_ns: Option<u64>,
    /// The same for the latest token.
    last_token_ns: Option<u64>,
    /// The same for its end.
    ended_ns: u64,
    prompt_tokens: u32,
    cached_tokens: u32,
    output_tokens: u32,
    outcome: Outcome,
}

/// The line of a request in the making, written when this is dropped.
pub(crate) struct Entry {
    log: Option<RequestLog>,
    received: Instant,
    line: Line,
}

impl Entry {
    /// Of a request whose head has just been read.
    pub(crate) fn begin(log: Option<RequestLog>, request_id: Option<String>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            log,
            received: Instant::now(),
            line: Line {
                id: None,
                request_id,
                received_unix_ns: since.map_or(0, nanos),
                first_token_ns: None,
                last_token_ns: None,
                ended_ns: 0,
                prompt_tokens: 0,
                cached_tokens: 0,
                output_tokens: 0,
                outcome: Outcome::Refused,
            },
        }
    }

    /// The backend has it.
    pub(crate) fn submitted(&mut self, id: RequestId, prompt_tokens: usize) {
        self.line.id = Some(id);
        self.line.prompt_tokens = u32::try_from(prompt_tokens).unwrap_or(u32::MAX);
        self.line.outcome = Outcome::Cancelled;
    }

    pub(crate) fn token(&mut self) {
        if self.log.is_some() {
            let now_ns = nanos(self.received.elapsed());
            self.line.first_token_ns.get_or_insert(now_ns);
            self.line.last_token_ns = Some(now_ns);
        }
        self.line.output_tokens += 1;
    }

    pub(crate) fn finished(&mut self, reason: FinishReason, usage: &Usage) {
        self.line.cached_tokens = usage.cached_tokens;
        self.line.outcome = match reason {
            FinishReason::Length => Outcome::Length,
            FinishReason::Stop => Outcome::Stop,
            FinishReason::Cancelled => Outcome::Cancelled,
        };
    }

    pub(crate) fn failed(&mut self) {
        self.line.outcome = Outcome::Failed;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            self.line.ended_ns = nanos(self.received.elapsed());
            log.write(&self.line);
        }
    }
}
