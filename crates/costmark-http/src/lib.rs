//! Servers that speak the OpenAI protocol: driving them, and being one.
//!
//! - [`HttpBackend`] drives one as a [`Backend`](costmark_core::Backend). Sockets live on
//!   threads of their own; an instant is taken when bytes leave the socket, before anything
//!   is parsed.
//! - [`serve`](mod@serve) puts the protocol in front of any backend.
//! - [`scripted`] is a server that answers as it is told, faults included, and keeps its own
//!   record of when: the truth a client is measured against.
//!
//! No engine and no tokenizer is known here: what needs one is handed in ([`PromptText`]).

mod client;
mod listen;
pub mod scripted;
pub mod serve;
mod sse;
mod wire;

pub use client::{
    ApiChoice, ConnectError, Endpoint, HttpBackend, HttpOptions, PromptText, Secrets, Timeouts,
};

/// A time in nanoseconds, the most there are where it is longer.
fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
