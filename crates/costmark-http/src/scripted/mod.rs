//! A server that answers as it is told, at stated instants, and records when it really did.
//!
//! It writes bytes, not answers: whatever a server can do to a client, a [`Script`] can. One
//! thread, any number of connections, HTTP/1.1 with keep-alive.

mod script;
mod server;

pub use script::{Act, Script, chunk, models_page, sse_token};
pub use server::{Received, Scripted, Truth};
