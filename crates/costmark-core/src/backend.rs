//! The contract between what drives load and what serves it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::replicas::Replica;
use crate::request::{FinishReason, Request, RequestError, RequestId};
use crate::server::ServerMetrics;
use crate::shape::ModelShape;
use crate::step::StepRecord;
use crate::token_times::Span;
use crate::work::ModelWork;

/// What serves requests: an engine in this process, a server elsewhere, or a mock.
///
/// The driver owns the backend and pulls from it, so one thread decides when requests
/// are sent and sees every event in order. A backend that works on its own thread
/// stamps events there and hands them over in [`poll`](Backend::poll).
pub trait Backend {
    /// What this backend is and can do.
    fn info(&self) -> &BackendInfo;

    /// The clock that stamps this backend's events.
    fn now_ns(&self) -> u64;

    /// Hands a request over. Returns at once; the request may wait in a queue.
    ///
    /// # Errors
    /// Only when the backend as a whole cannot go on. A request it cannot serve is
    /// reported as [`Event::Failed`].
    fn submit(&mut self, request: Request) -> Result<(), BackendError>;

    /// Asks to stop a request. It ends with [`FinishReason::Cancelled`] unless it ends
    /// otherwise first; an unknown id is ignored.
    fn cancel(&mut self, id: RequestId);

    /// Waits until there are events or the clock reaches `until_ns`, and appends all
    /// events there are. Without a deadline it waits for the next event, and returns at
    /// once when no request is in flight.
    ///
    /// # Errors
    /// When the backend cannot go on; events appended before the error are valid.
    fn poll(&mut self, until_ns: Option<u64>, events: &mut Vec<Event>) -> Result<(), BackendError>;

    /// Whether it looks at the ids in a prompt. One that only counts them need not be sent
    /// any in particular, which spares the making of millions.
    fn reads_prompts(&self) -> bool {
        true
    }

    /// This backend as one that rings when there is something to poll, if it does.
    fn ringing(&mut self) -> Option<&mut dyn Replica> {
        None
    }

    /// What a server told of its own work since the last call, if it is one that tells. Called
    /// between units, when nothing is in flight: the server is asked anew for it, which may take
    /// a second or two.
    fn server_metrics(&mut self) -> Option<ServerMetrics> {
        None
    }

    /// Whether its clock is simulated: its seconds are not the machine's, and what the machine
    /// did in them means nothing.
    fn simulates_time(&self) -> bool {
        false
    }
}

/// The kind of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// costmark's own engine: continuous batching over a paged KV cache.
    Engine,
    /// candle-transformers models, one static batch at a time.
    Lockstep,
    /// Fixed latencies, no model.
    Mock,
    /// A server that speaks the OpenAI protocol.
    Http,
}

impl BackendKind {
    /// Whether what it reports as the length of a prompt is exactly what it was given. A
    /// server may wrap prompts in a template, so its own count is the one to go by.
    #[must_use]
    pub fn takes_prompts_as_they_are(self) -> bool {
        self != Self::Http
    }
}

/// What a backend says of itself. Goes into every result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendInfo {
    /// What serves.
    pub kind: BackendKind,
    /// The model's name, as the user will recognise it.
    pub model: String,
    /// Where the weights came from: a path, a hub id with revision, or `synthetic, seed n`.
    pub source: String,
    /// The weights are random numbers of the right shape.
    pub synthetic: bool,
    /// How the weights are stored for the products, e.g. `q8_0` or `q4_k+q6_k`.
    pub weight_dtype: String,
    /// How keys and values are stored.
    pub kv_dtype: String,
    /// Where it runs, e.g. `cpu (2 threads)`.
    pub device: String,
    /// Engines that serve side by side, each with the whole model; 1 as a rule.
    pub replicas: u32,
    /// The software that computes, with version.
    pub software: String,
    /// Dimensions of the model, where known.
    pub shape: Option<ModelShape>,
    /// What a step must move and compute, where known.
    pub work: Option<ModelWork>,
    /// Longest prompt plus output one request may have, in tokens.
    pub max_context: u32,
    /// Most sequences in one step, summed over replicas.
    pub max_sequences: u32,
    /// Tokens that fit into the KV cache over all sequences, summed over replicas.
    pub kv_capacity_tokens: u64,
    /// Bytes held by weights, summed over replicas.
    pub weight_bytes: u64,
    /// Conversions and other facts a reader of the result must know.
    pub notes: Vec<String>,
}

/// Something a backend observed.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A request left this process later than it was submitted. Comes before anything else
    /// of it, at most once; without it the instant of submission stands.
    Sent {
        /// Which request.
        request: RequestId,
        /// When.
        at_ns: u64,
    },
    /// How likely the one token was that the next [`Tokens`](Self::Tokens) of its request
    /// brings. Only where the request asked for it.
    Logprobs(Box<TokenLogprobs>),
    /// Output tokens arrived.
    Tokens(TokenEvent),
    /// Single output tokens arrived one after another, equally spaced, and are told together
    /// once the last of them has. Only simulations can know that.
    TokenRun(TokenRun),
    /// A request ended well. Nothing follows for it.
    Finished {
        /// Which request.
        request: RequestId,
        /// When.
        at_ns: u64,
        /// Why.
        reason: FinishReason,
        /// What it consumed and produced.
        usage: Usage,
    },
    /// A request failed. Nothing follows for it.
    Failed {
        /// Which request.
        request: RequestId,
        /// When.
        at_ns: u64,
        /// Why.
        error: RequestError,
    },
    /// A forward pass ended (backends that can see their steps).
    Step(StepRecord),
}

/// Tokens of one request, observed at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenEvent {
    /// Which request.
    pub request: RequestId,
    /// The instant of observation, as close to the event as the backend can take it.
    pub at_ns: u64,
    /// How many tokens arrived together, at least one.
    pub tokens: u32,
    /// The id of the token, where known and only one arrived.
    pub token_id: Option<u32>,
}

/// Natural logarithms of the probabilities the model gave before one token was chosen: of the
/// softmax of the logits as they are, before temperature, top-k and top-p.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Which request.
    pub request: RequestId,
    /// The token that was chosen.
    pub token_id: u32,
    /// How likely it was.
    pub logprob: f32,
    /// As many of the likeliest `(token id, log-probability)` as were asked for and exist, the
    /// likeliest first, of equal ones the lower id.
    pub top: Vec<(u32, f32)>,
}

/// Equally spaced single tokens of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRun {
    /// Which request.
    pub request: RequestId,
    /// When they were observed.
    pub span: Span,
}

/// Token counts of a finished request, as the backend counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Prompt tokens.
    pub input_tokens: u32,
    /// Prompt tokens whose KV came from the prefix cache.
    pub cached_tokens: u32,
    /// Tokens produced.
    pub output_tokens: u32,
}

/// The backend cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct BackendError {
    /// What failed and what to do about it.
    pub message: String,
}

impl BackendError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}
