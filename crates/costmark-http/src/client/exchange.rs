//! One request and its answer on one connection, with the deadlines that keep it from hanging.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use costmark_core::{Clock, ErrorClass, MonotonicClock, RequestError};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use tokio::time::{Instant, Sleep, sleep};

use super::arrival::Arrival;
use super::connect::Line;
use super::error::failure;

/// When waiting has been too long, and what that is then called.
///
/// Moving it to a later instant costs nothing: the timer finds out when it fires.
pub(crate) struct Deadline {
    clock: MonotonicClock,
    at_ns: u64,
    armed_ns: u64,
    error: (ErrorClass, String),
    sleep: Pin<Box<Sleep>>,
}

impl Deadline {
    pub(crate) fn new(clock: MonotonicClock, at_ns: u64, error: (ErrorClass, String)) -> Self {
        let left = Duration::from_nanos(at_ns.saturating_sub(clock.now_ns()));
        Self {
            clock,
            at_ns,
            armed_ns: at_ns,
            error,
            sleep: Box::pin(sleep(left)),
        }
    }

    /// Another instant and another name.
    pub(crate) fn become_(&mut self, at_ns: u64, error: (ErrorClass, String)) {
        self.error = error;
        self.move_to(at_ns);
    }

    pub(crate) fn move_to(&mut self, at_ns: u64) {
        self.at_ns = at_ns;
        if at_ns < self.armed_ns {
            self.arm();
        }
    }

    fn arm(&mut self) {
        let left = Duration::from_nanos(self.at_ns.saturating_sub(self.clock.now_ns()));
        self.armed_ns = self.at_ns;
        self.sleep.as_mut().reset(Instant::now() + left);
    }

    fn check(&mut self, cx: &mut Context<'_>) -> Result<(), RequestError> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            if self.clock.now_ns() >= self.at_ns {
                return Err(failure(self.error.0, self.error.1.clone()));
            }
            self.arm();
        }
        Ok(())
    }
}

/// An answer that is coming in.
pub(crate) struct Exchange {
    line: Line,
    pub(crate) response: Response<Incoming>,
}

/// Why there is no answer, and whether the server can have seen the request.
pub(crate) struct NoAnswer {
    pub(crate) error: RequestError,
    /// The connection had ended before: another one may do better.
    pub(crate) stale: bool,
}

impl Exchange {
    /// Sends `request` and waits for the head of the answer.
    pub(crate) async fn begin(
        mut line: Line,
        request: Request<Full<Bytes>>,
        deadline: &mut Deadline,
    ) -> Result<Self, NoAnswer> {
        let sending = match &mut line {
            Line::H1(line) => Sending::H1(line.sender.send_request(request)),
            Line::H2(line) => Sending::H2(line.sender.send_request(request)),
        };
        let mut sending = pin!(sending.response());
        let response = poll_fn(|cx| {
            if let Poll::Ready(response) = sending.as_mut().poll(cx) {
                return Poll::Ready(response.map_err(no_answer));
            }
            // An error here also ends `sending`, with more to say.
            _ = line.drive(cx);
            if let Poll::Ready(response) = sending.as_mut().poll(cx) {
                return Poll::Ready(response.map_err(no_answer));
            }
            match deadline.check(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(NoAnswer {
                    error,
                    stale: false,
                })),
            }
        })
        .await?;
        Ok(Self { line, response })
    }

    /// The next bytes of the body and when they came; `None` at its end.
    pub(crate) async fn bytes(
        &mut self,
        deadline: &mut Deadline,
    ) -> Result<Option<(Bytes, Arrival)>, RequestError> {
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(found) = self.poll_body(cx) {
                    match found {
                        Ok(Some(bytes)) if bytes.is_empty() => continue,
                        Ok(Some(bytes)) => {
                            return Poll::Ready(Ok(Some((bytes, self.line.arrival()))));
                        }
                        Ok(None) => return Poll::Ready(Ok(None)),
                        Err(error) => return Poll::Ready(Err(cut(&error))),
                    }
                }
                let driven = self.line.drive(cx);
                match self.poll_body(cx) {
                    Poll::Ready(Ok(Some(bytes))) if bytes.is_empty() => {}
                    Poll::Ready(Ok(Some(bytes))) => {
                        return Poll::Ready(Ok(Some((bytes, self.line.arrival()))));
                    }
                    Poll::Ready(Ok(None)) => return Poll::Ready(Ok(None)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(cut(&error))),
                    Poll::Pending => {
                        if let Err(error) = driven {
                            return Poll::Ready(Err(cut(&error)));
                        }
                        return match deadline.check(cx) {
                            Ok(()) => Poll::Pending,
                            Err(error) => Poll::Ready(Err(error)),
                        };
                    }
                }
            }
        })
        .await
    }

    /// When what was read last came.
    pub(crate) fn arrival(&self) -> Arrival {
        self.line.arrival()
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, hyper::Error>> {
        let body = Pin::new(self.response.body_mut());
        body.poll_frame(cx).map(|frame| match frame {
            None => Ok(None),
            // Trailers hold nothing for us.
            Some(frame) => frame.map(|frame| Some(frame.into_data().unwrap_or_default())),
        })
    }

    /// The connection, for the next request. The body must have ended.
    pub(crate) fn into_line(self) -> Line {
        self.line
    }
}

enum Sending<A, B> {
    H1(A),
    H2(B),
}

impl<A, B> Sending<A, B>
where
    A: Future<Output = hyper::Result<Response<Incoming>>>,
    B: Future<Output = hyper::Result<Response<Incoming>>>,
{
    async fn response(self) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::H1(sending) => sending.await,
            Self::H2(sending) => sending.await,
        }
    }
}

fn no_answer(error: hyper::Error) -> NoAnswer {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    let gone = [BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected];
    let stale = error.is_canceled()
        || error.is_closed()
        || error.is_incomplete_message()
        || io_kind(&error).is_some_and(|kind| gone.contains(&kind));
    let error = if error.is_parse() {
        failure(
            ErrorClass::Malformed,
            format!("the answer is not HTTP: {}", chain(&error)),
        )
    } else {
        failure(
            ErrorClass::Disconnected,
            format!("the connection ended before an answer: {}", chain(&error)),
        )
    };
    NoAnswer { error, stale }
}

fn cut(error: &hyper::Error) -> RequestError {
    if error.is_parse() || is_nonsense(error) {
        let words = format!("the answer is not HTTP: {}", chain(error));
        return failure(ErrorClass::Malformed, words);
    }
    let words = format!("the answer was cut short: {}", chain(error));
    failure(ErrorClass::Disconnected, words)
}

/// Whether bytes came that the protocol does not allow, rather than none.
fn is_nonsense(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput};
    matches!(io_kind(error), Some(InvalidData | InvalidInput))
}

/// What the system said, if that is at the root of it.
fn io_kind(error: &hyper::Error) -> Option<std::io::ErrorKind> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        source = cause.source();
    }
    None
}

/// An error with its causes, which hyper leaves out of its own words.
fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
