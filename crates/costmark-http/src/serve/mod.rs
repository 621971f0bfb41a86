//! A server of the OpenAI protocol in front of any [`Backend`]: a target to measure and a
//! demonstration, not a product. It knows one model and no users.
//!
//! The caller's thread runs the backend (`pump`); sockets live on a thread of their own.
//! They meet in two channels: commands one way, pieces of answers the other.

mod answer;
mod asked;
mod chat;
mod log;
mod logprobs;
mod metrics;
mod pump;
mod routes;
mod text;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use costmark_core::{Backend, Bell};

pub use chat::{ChatTemplate, TemplateError};
pub use log::RequestLog;

use metrics::Metrics;
use pump::{Orders, Pump};
use routes::Desk;

/// Turns text into tokens and back. Made by whoever has a tokenizer.
pub trait TextModel: Send + Sync {
    /// Token ids of a text, with what the model wants before one if `special`.
    ///
    /// # Errors
    /// The text cannot be represented.
    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, String>;

    /// The text of token ids.
    ///
    /// # Errors
    /// There is none.
    fn decode(&self, ids: &[u32]) -> Result<String, String>;
}

/// How requests are taken.
#[derive(Clone)]
pub struct ServeOptions {
    /// Largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// Most requests running or waiting; further ones are told to come back.
    pub max_requests: usize,
    /// How long requests in flight may go on after the end was asked for.
    pub grace: Duration,
    /// The model's tokenizer. Without it prompts must be token ids, and the text of an answer
    /// is the numbers of its tokens.
    pub text: Option<Arc<dyn TextModel>>,
    /// How the model wants a conversation written down; without it there is no chat.
    pub chat: Option<Arc<ChatTemplate>>,
    /// Where a line about each request goes.
    pub log: Option<RequestLog>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            max_body_bytes: 8 << 20,
            max_requests: 1024,
            grace: Duration::from_secs(30),
            text: None,
            chat: None,
            log: None,
        }
    }
}

/// Serves on `listener` until `stop` says so, and then ends what is in flight. `stop` is asked
/// every 100 ms or more often.
///
/// # Errors
/// The system refuses a thread, the backend cannot go on, or, told at the end, the log could not be
/// written.
pub fn serve(
    listener: TcpListener,
    backend: &mut dyn Backend,
    options: &ServeOptions,
    stop: &dyn Fn() -> bool,
) -> io::Result<()> {
    crate::listen::prepare(&listener)?;
    let metrics = Arc::new(Metrics::default());
    let (bell, rung) = Bell::new();
    let (commands, inbox) = Orders::new(bell.clone());
    let desk = Desk::new(backend.info(), options, commands, Arc::clone(&metrics));
    let (halt, halted) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let doors = Arc::clone(&desk);
    let thread = std::thread::Builder::new()
        .name("costmark-serve".into())
        .spawn(move || {
            runtime.block_on(routes::accept(listener, doors, halted));
            runtime.shutdown_background();
        })?;
    let ended = Pump::new(backend, (bell, rung), inbox, metrics).run(&desk, options.grace, stop);
    // A thread that has gone already needs no word.
    _ = halt.send(());
    _ = thread.join();
    ended?;
    options.log.as_ref().map_or(Ok(()), RequestLog::check)
}
