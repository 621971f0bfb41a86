//! What is asked of a backend and what became of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::token_times::TokenTimes;

/// Identifies a request within one run. The driver hands ids out; they are never reused.
pub type RequestId = u64;

/// How the next token is chosen from the logits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Sampling {
    /// The most likely token; ties go to the lower id.
    Greedy,
    /// Softmax sampling.
    Random {
        /// Divides the logits; greater is flatter. Must be positive.
        temperature: f32,
        /// Keeps the smallest set of tokens whose probabilities sum to this; 1 keeps all.
        top_p: f32,
        /// Keeps at most this many tokens; 0 keeps all.
        top_k: u32,
        /// Seed of this request's own random stream.
        seed: u64,
    },
}

/// One generation request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Unique within the run.
    pub id: RequestId,
    /// Prompt token ids, at least one.
    pub prompt: Vec<u32>,
    /// Output tokens to produce, at least one.
    pub max_tokens: u32,
    /// Go on past end-of-sequence tokens, so that exactly `max_tokens` come out.
    pub ignore_eos: bool,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tell the log-probability of each token and of this many likeliest ones
    /// ([`TokenLogprobs`](crate::TokenLogprobs)). `None` tells none and costs nothing; a backend
    /// without a distribution tells none whatever is asked.
    pub logprobs: Option<u32>,
}

/// Why a request stopped producing tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// `max_tokens` were produced.
    Length,
    /// The model produced an end-of-sequence token.
    Stop,
    /// The driver cancelled it.
    Cancelled,
}

/// The kind of a failure, for counting.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The backend refused the request (prompt too long, empty, ids outside the vocabulary).
    Rejected,
    /// Logits were NaN or infinite.
    NonFiniteLogits,
    /// The device or the model code failed.
    Device,
    /// Nothing arrived within the time allowed.
    Timeout,
    /// It ended, but not with the token counts that were asked for.
    WrongOutput,
    /// The server's name could not be resolved.
    Dns,
    /// No connection: refused, unreachable, or not a server of this protocol.
    Connect,
    /// No secure connection: a bad certificate, or no TLS at the other end.
    Tls,
    /// No connection within the time allowed.
    ConnectTimeout,
    /// Connected, but no first token within the time allowed.
    FirstTokenTimeout,
    /// Tokens came, and then none within the time allowed.
    TokenTimeout,
    /// The server asked to send less (429).
    RateLimited,
    /// The server failed (5xx, or an error within the stream).
    ServerError,
    /// The connection ended before the answer did.
    Disconnected,
    /// The answer is not what the protocol says it is.
    Malformed,
}

/// A request that failed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// The kind of failure.
    pub class: ErrorClass,
    /// What was wrong and what to do about it.
    pub message: String,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It produced its tokens.
    Finished(FinishReason),
    /// It failed; the tokens recorded so far did arrive.
    Failed(RequestError),
}

/// Everything observed about one request. Raw: no statistic has been taken.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestRecord {
    /// Unique within the run.
    pub id: RequestId,
    /// Which turn of its conversation it is, from 1; `None` of a request that stands alone.
    pub turn: Option<u32>,
    /// When the arrival process wanted it sent.
    pub scheduled_ns: u64,
    /// When it was handed to the backend.
    pub sent_ns: u64,
    /// Instant of each token event, ascending.
    pub token_ns: TokenTimes,
    /// Tokens brought by each event; empty when every event brought exactly one.
    pub event_tokens: Vec<u32>,
    /// When the backend reported the end.
    pub finished_ns: u64,
    /// Prompt length in tokens.
    pub input_tokens: u32,
    /// Prompt tokens whose KV was found in the prefix cache.
    pub cached_tokens: u32,
    /// Tokens produced.
    pub output_tokens: u32,
    /// Hash over the output token ids in order, where the backend tells them.
    /// Equal greedy runs give equal hashes.
    pub output_hash: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

impl RequestRecord {
    /// Whether the request ended without an error.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        matches!(self.outcome, Outcome::Finished(_))
    }

    /// Whether some event brought more than one token, so that gaps between
    /// events are not gaps between tokens.
    #[must_use]
    pub fn has_chunks(&self) -> bool {
        self.event_tokens.iter().any(|&n| n != 1)
    }

    /// Tokens that arrived after `after_ns` and not after `until_ns`.
    #[must_use]
    pub fn tokens_between(&self, after_ns: u64, until_ns: u64) -> u64 {
        if self.event_tokens.is_empty() {
            return self
                .token_ns
                .spans()
                .map(|span| u64::from(span.between(after_ns, until_ns)))
                .sum();
        }
        self.token_events()
            .filter(|&(at_ns, _)| after_ns < at_ns && at_ns <= until_ns)
            .map(|(_, tokens)| u64::from(tokens))
            .sum()
    }

    /// `(instant, tokens)` of every token event.
    pub fn token_events(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.token_ns
            .iter()
            .enumerate()
            .map(|(i, at)| (at, self.event_tokens.get(i).copied().unwrap_or(1)))
    }
}

/// The start value of an [output hash](RequestRecord::output_hash) (FNV-1a, 64 bit).
pub const OUTPUT_HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Extends an output hash by one token id (FNV-1a over its little-endian bytes).
#[must_use]
pub fn extend_output_hash(hash: u64, token_id: u32) -> u64 {
    token_id.to_le_bytes().iter().fold(hash, |h, &byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
