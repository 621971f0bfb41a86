//! The client: a [`Backend`](costmark_core::Backend) whose engine is a server elsewhere.
//!
//! ```text
//! driver thread ──commands──▶ worker thread(s): sockets, timestamps, parsing
//!       ▲                            │
//!       └────── outbox (events) ◀────┘
//! ```

mod arrival;
mod backend;
mod body;
mod connect;
mod detect;
mod endpoint;
mod error;
mod exchange;
mod metrics_page;
mod outbox;
mod recount;
mod request;
mod secrets;
mod tally;
mod watch;
mod worker;

pub use backend::HttpBackend;
pub use body::{ApiChoice, PromptText};
pub use endpoint::Endpoint;
pub use error::ConnectError;
pub use secrets::Secrets;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a server is driven.
#[derive(Clone)]
pub struct HttpOptions {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The model to ask for; `None` where the server has one only.
    pub model: Option<String>,
    /// Which of the two interfaces to use.
    pub api: ApiChoice,
    /// Let tokens be streamed. Without it only the end of a request is seen.
    pub stream: bool,
    /// Speak HTTP/2 without having negotiated it (over TLS it is negotiated anyway).
    pub http2: bool,
    /// Key and headers.
    pub secrets: Secrets,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// Makes prompts of a stated length as text and counts tokens of text, where the server
    /// does not take token ids or does not tell counts.
    pub text: Option<Arc<dyn PromptText>>,
    /// Threads that hold sockets.
    pub threads: usize,
}

impl HttpOptions {
    /// The usual way to drive `endpoint`.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            model: None,
            api: ApiChoice::Auto,
            stream: true,
            http2: false,
            secrets: Secrets::default(),
            ca_file: None,
            timeouts: Timeouts::default(),
            text: None,
            threads: 1,
        }
    }
}

/// How long to wait before a request has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// From sending the request to its first token.
    pub first_token: Duration,
    /// Between tokens.
    pub between_tokens: Duration,
}

impl Default for Timeouts {
    /// A loaded server may queue a request for minutes, but a stream that has begun does not
    /// pause for long.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_token: Duration::from_secs(600),
            between_tokens: Duration::from_secs(120),
        }
    }
}
