//! Requests as they were recorded in production: when they came, how long they were, and
//! which blocks of their prompts had been seen before.
//!
//! [`Trace::read`] reads a file line by line and keeps only the stretch asked for. A
//! [`Trace`] gives the [`Schedule`] of an open loop, and is the
//! [`RequestSource`](crate::RequestSource) that belongs to it through
//! [`Trace::source`]. [`TraceInfo`] describes it.

mod format;
mod info;
mod source;

use std::io::{BufRead, Read as _};
use std::sync::Arc;

use format::Lines;
pub(crate) use format::length as token_count;
pub use format::{TRACE_BLOCK_TOKENS, TraceFormat};
pub use info::{LengthQuantiles, MOST_BLOCKS, SPARKLINE_BINS, TraceInfo};
pub use source::TraceSource;

use crate::schedule::Schedule;

/// Longest line that is read, bytes: a prompt of 30 million tokens in block hashes.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// One recorded request.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceRequest {
    /// When it came after the begin of the trace (of a stretch: of that stretch), after
    /// scaling. Nanoseconds.
    pub at_ns: u64,
    /// Prompt tokens, at least 1.
    pub input_tokens: u32,
    /// Output tokens, at least 1.
    pub output_tokens: u32,
    /// Ids of its prompt's blocks of [`TRACE_BLOCK_TOKENS`] tokens, the last one perhaps
    /// shorter. Requests that begin with the same ids share that much of their prompts.
    /// Empty where the trace does not tell.
    pub blocks: Box<[u64]>,
}

/// Which part of a trace is wanted, and how fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TraceOptions {
    /// Plays so many times faster than it was recorded. More than 0.
    pub speed: f64,
    /// Leaves out what came before, seconds after the first request as recorded.
    pub from_s: f64,
    /// Leaves out what came at this time or later, likewise.
    pub to_s: Option<f64>,
    /// Keeps at most so many requests.
    pub max_requests: Option<usize>,
}

impl Default for TraceOptions {
    fn default() -> Self {
        Self {
            speed: 1.0,
            from_s: 0.0,
            to_s: None,
            max_requests: None,
        }
    }
}

/// A recorded load, ready to be replayed.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// How it was written.
    pub format: TraceFormat,
    /// Its requests in the order they came.
    pub requests: Arc<[TraceRequest]>,
    /// Requests in the stretch that failed when they were recorded (no output); left out.
    pub failed: u64,
}

/// A trace that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be read.
    #[error("{name}: {source}")]
    Io {
        /// The file.
        name: String,
        /// What happened.
        source: std::io::Error,
    },
    /// A line is not what the format says.
    #[error("{name}:{line}: {reason}")]
    Line {
        /// The file.
        name: String,
        /// Counted from 1.
        line: u64,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Nothing is left.
    #[error(
        "{name}: no request in the stretch asked for; check the file and the window it is cut to"
    )]
    Empty {
        /// The file.
        name: String,
    },
    /// Options that cannot be meant.
    #[error("{0}")]
    Options(&'static str),
}

impl Trace {
    /// Reads a trace; the format shows in its first line. `name` is what errors call it.
    ///
    /// Line by line: of a file of any size only the stretch asked for is held, 32 bytes a request
    /// and 8 a block id, and nothing after that stretch is read.
    ///
    /// # Errors
    /// The first line that is malformed, out of order or of impossible length, with its
    /// number; an empty stretch; impossible options.
    pub fn read(
        reader: impl BufRead,
        name: &str,
        options: &TraceOptions,
    ) -> Result<Self, TraceError> {
        let mut requests = Vec::new();
        let read = each_request(reader, name, options, |request| requests.push(request))?;
        Ok(Self {
            format: read.format,
            requests: requests.into(),
            failed: read.failed,
        })
    }

    /// When its requests are due.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        self.schedule_at(1.0)
    }

    /// When its requests are due, played so many times faster. `speed` is more than 0.
    #[must_use]
    pub fn schedule_at(&self, speed: f64) -> Schedule {
        let at_ns = |r: &TraceRequest| (r.at_ns as f64 / speed).round() as u64;
        Schedule::Times(self.requests.iter().map(at_ns).collect())
    }
}

/// What is known of a trace beside its requests.
struct Read {
    format: TraceFormat,
    /// Requests in the stretch that failed when they were recorded.
    failed: u64,
}

/// Hands over the requests of the stretch one by one, and holds none.
fn each_request(
    reader: impl BufRead,
    name: &str,
    options: &TraceOptions,
    mut take: impl FnMut(TraceRequest),
) -> Result<Read, TraceError> {
    check(options)?;
    let at_line = |line: u64, reason: String| TraceError::Line {
        name: name.to_owned(),
        line,
        reason,
    };
    let mut source = LineReader::new(reader);
    let io = |source| TraceError::Io {
        name: name.to_owned(),
        source,
    };
    if !source.next().map_err(io)? {
        return Err(at_line(1, "the file is empty".into()));
    }
    let (lines, mut pending) = Lines::detect(&source.line).map_err(|reason| at_line(1, reason))?;
    let (mut taken, mut failed) = (0usize, 0);
    let (mut first_s, mut last_s) = (None, f64::NEG_INFINITY);
    // The first line is a request itself where there is no header.
    while pending || source.next().map_err(io)? {
        pending = false;
        if source.line.trim().is_empty() {
            continue;
        }
        let entry = lines
            .parse(&source.line)
            .map_err(|reason| at_line(source.number, reason))?;
        if entry.at_s < last_s {
            let reason = "the request came before the one in front of it; sort the trace by time";
            return Err(at_line(source.number, reason.into()));
        }
        last_s = entry.at_s;
        let at_s = entry.at_s - *first_s.get_or_insert(entry.at_s);
        if options.to_s.is_some_and(|to_s| at_s >= to_s)
            || options.max_requests.is_some_and(|n| taken >= n)
        {
            break;
        }
        if at_s < options.from_s {
            continue;
        }
        if entry.output_tokens == 0 {
            failed += 1;
            continue;
        }
        taken += 1;
        take(TraceRequest {
            at_ns: ((at_s - options.from_s) / options.speed * 1e9).round() as u64,
            input_tokens: entry.input_tokens,
            output_tokens: entry.output_tokens,
            blocks: entry.blocks,
        });
    }
    if taken == 0 {
        return Err(TraceError::Empty {
            name: name.to_owned(),
        });
    }
    Ok(Read {
        format: lines.format(),
        failed,
    })
}

fn check(options: &TraceOptions) -> Result<(), TraceError> {
    let is_time = |s: f64| s.is_finite() && s >= 0.0;
    if !(options.speed.is_finite() && options.speed > 0.0) {
        return Err(TraceError::Options(
            "the speed of a trace must be more than 0",
        ));
    }
    if !is_time(options.from_s) || !options.to_s.is_none_or(|to_s| to_s > options.from_s) {
        return Err(TraceError::Options(
            "the window of a trace must begin at 0 s or later and end after its begin",
        ));
    }
    Ok(())
}

/// Reads lines of bounded length.
pub(crate) struct LineReader<R> {
    reader: R,
    line: String,
    number: u64,
}

impl<R: BufRead> LineReader<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            line: String::new(),
            number: 0,
        }
    }

    /// The line read last.
    pub(crate) fn line(&self) -> &str {
        &self.line
    }

    /// Its number, from 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether there was a further line.
    pub(crate) fn next(&mut self) -> std::io::Result<bool> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.reader)
            .take(MAX_LINE_BYTES)
            .read_line(&mut self.line)
            .map_err(|e| std::io::Error::new(e.kind(), format!("line {}: {e}", self.number)))?;
        if read as u64 == MAX_LINE_BYTES {
            let message = format!(
                "line {} is longer than 1 MiB; is this a trace?",
                self.number
            );
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                message,
            ));
        }
        Ok(read > 0)
    }
}
