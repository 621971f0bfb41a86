//! Answers: whole, or as an event stream while tokens come.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use costmark_core::{FinishReason, RequestError, RequestId, TokenLogprobs, Usage};
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::log::Entry;
use super::logprobs::{self, Told};
use super::pump::{Command, Orders, Piece};
use super::text::Detokenizer;

/// Tells the backend when whoever waited has gone.
pub(crate) struct Guard {
    pub(crate) id: RequestId,
    pub(crate) commands: Orders,
    pub(crate) ended: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.ended {
            // A backend that is gone works on nothing.
            _ = self.commands.send(Command::Cancel(self.id));
        }
    }
}

/// How answers to one request look.
pub(crate) struct Style {
    pub(crate) chat: bool,
    pub(crate) model: Arc<str>,
    pub(crate) created: u64,
    pub(crate) include_usage: bool,
    pub(crate) token_ids: bool,
    pub(crate) logprobs: bool,
}

/// One answer in the making.
pub(crate) struct Answering {
    pub(crate) style: Style,
    pub(crate) guard: Guard,
    entry: Entry,
    pub(crate) pieces: UnboundedReceiver<Piece>,
    pub(crate) detokenizer: Detokenizer,
    /// Log-probabilities of tokens that have not been written yet.
    told: Vec<Told>,
    /// Characters written so far.
    text_chars: usize,
}

fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::Stop => "stop",
        FinishReason::Cancelled => "abort",
    }
}

fn usage_json(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": u64::from(usage.input_tokens) + u64::from(usage.output_tokens),
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}

impl Answering {
    pub(crate) fn new(
        style: Style,
        guard: Guard,
        entry: Entry,
        pieces: UnboundedReceiver<Piece>,
        detokenizer: Detokenizer,
    ) -> Self {
        Self {
            style,
            guard,
            entry,
            pieces,
            detokenizer,
            told: Vec::new(),
            text_chars: 0,
        }
    }

    /// The text that a token completes.
    fn text_of(&mut self, id: u32) -> String {
        let text = self.detokenizer.push(id);
        self.text_chars += text.chars().count();
        text
    }

    fn remember(&mut self, logprobs: TokenLogprobs) {
        self.told.push(Told {
            logprobs,
            text_offset: self.text_chars,
        });
    }

    /// `logprobs` of a choice, of the tokens since it was last asked for.
    fn logprobs(&mut self) -> Value {
        let told = std::mem::take(&mut self.told);
        if !self.style.logprobs || told.is_empty() {
            return Value::Null;
        }
        if self.style.chat {
            logprobs::chat(&told, &self.detokenizer)
        } else {
            logprobs::completions(&told, &self.detokenizer)
        }
    }

    fn envelope(&self, object: &str, choices: Value) -> Value {
        let style = &self.style;
        let prefix = if style.chat { "chatcmpl" } else { "cmpl" };
        json!({
            "id": format!("{prefix}-{}", self.guard.id),
            "object": object,
            "created": style.created,
            "model": &*style.model,
            "choices": choices,
        })
    }

    /// Everything at once.
    pub(crate) async fn whole(mut self) -> Result<Value, RequestError> {
        let (mut text, mut ids) = (String::new(), Vec::new());
        loop {
            match self.pieces.recv().await {
                Some(Piece::Logprobs(logprobs)) => self.remember(*logprobs),
                Some(Piece::Token(id)) => {
                    self.entry.token();
                    if let Some(id) = id {
                        text += &self.text_of(id);
                        ids.push(id);
                    }
                }
                Some(Piece::End(reason, usage)) => {
                    self.guard.ended = true;
                    self.entry.finished(reason, &usage);
                    text += &self.detokenizer.rest();
                    let mut choice = if self.style.chat {
                        json!({"index": 0, "message": {"role": "assistant", "content": text}})
                    } else {
                        json!({"index": 0, "text": text})
                    };
                    choice["logprobs"] = self.logprobs();
                    choice["finish_reason"] = finish_word(reason).into();
                    if self.style.token_ids {
                        choice["token_ids"] = ids.into();
                    }
                    let object = if self.style.chat {
                        "chat.completion"
                    } else {
                        "text_completion"
                    };
                    let mut answer = self.envelope(object, json!([choice]));
                    answer["usage"] = usage_json(&usage);
                    return Ok(answer);
                }
                Some(Piece::Failed(error)) => {
                    self.guard.ended = true;
                    self.entry.failed();
                    return Err(error);
                }
                None => {
                    self.entry.failed();
                    return Err(stopped());
                }
            }
        }
    }

    fn event(&mut self, text: &str, ids: &[u32], reason: Option<FinishReason>) -> Value {
        let mut choice = if self.style.chat {
            json!({"index": 0, "delta": {"content": text}})
        } else {
            json!({"index": 0, "text": text})
        };
        choice["logprobs"] = self.logprobs();
        choice["finish_reason"] = reason.map_or(Value::Null, |r| finish_word(r).into());
        if self.style.token_ids {
            choice["token_ids"] = ids.into();
        }
        self.envelope(self.object(), json!([choice]))
    }

    fn object(&self) -> &'static str {
        if self.style.chat {
            "chat.completion.chunk"
        } else {
            "text_completion"
        }
    }
}

/// What a request fails with when the server ends.
pub(crate) fn stopped() -> RequestError {
    RequestError {
        class: costmark_core::ErrorClass::Device,
        message: "the server is stopping".into(),
    }
}

/// The body of a streamed answer. Dropping it, as happens when the client goes away, cancels
/// the request.
pub(crate) struct EventStream {
    answering: Answering,
    /// Came before the head of the answer was sent.
    first: Option<Piece>,
    greeted: bool,
    over: bool,
}

impl EventStream {
    pub(crate) fn new(answering: Answering, first: Piece) -> Self {
        Self {
            answering,
            first: Some(first),
            greeted: false,
            over: false,
        }
    }

    fn write(&mut self, piece: Option<Piece>) -> Bytes {
        let mut out = String::new();
        let mut add = |value: &Value| {
            out += "data: ";
            out += &value.to_string();
            out += "\n\n";
        };
        let answering = &mut self.answering;
        if answering.style.chat && !std::mem::replace(&mut self.greeted, true) {
            let delta = json!([{"index": 0, "delta": {"role": "assistant", "content": ""},
                "logprobs": null, "finish_reason": null}]);
            add(&answering.envelope(answering.object(), delta));
        }
        match piece {
            Some(Piece::Token(id)) => {
                answering.entry.token();
                let ids: Vec<u32> = id.into_iter().collect();
                let text: String = ids.iter().map(|&id| answering.text_of(id)).collect();
                add(&answering.event(&text, &ids, None));
            }
            // Told with its token.
            Some(Piece::Logprobs(logprobs)) => answering.remember(*logprobs),
            Some(Piece::End(reason, usage)) => {
                answering.guard.ended = true;
                answering.entry.finished(reason, &usage);
                self.over = true;
                let rest = answering.detokenizer.rest();
                add(&answering.event(&rest, &[], Some(reason)));
                if answering.style.include_usage {
                    let mut counts = answering.envelope(answering.object(), json!([]));
                    counts["usage"] = usage_json(&usage);
                    add(&counts);
                }
                out += "data: [DONE]\n\n";
            }
            Some(Piece::Failed(error)) => {
                answering.guard.ended = true;
                answering.entry.failed();
                self.over = true;
                add(&json!({"error": {"message": error.message, "type": "server_error"}}));
            }
            None => {
                answering.entry.failed();
                self.over = true;
                add(&json!({"error": {"message": stopped().message, "type": "server_error"}}));
            }
        }
        out.into()
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.over {
            return Poll::Ready(None);
        }
        loop {
            let piece = match self.first.take() {
                Some(piece) => Some(piece),
                None => match self.answering.pieces.poll_recv(cx) {
                    Poll::Ready(piece) => piece,
                    Poll::Pending => return Poll::Pending,
                },
            };
            let bytes = self.write(piece);
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
    }
}
