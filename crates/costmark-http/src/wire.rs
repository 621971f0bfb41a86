//! The JSON of `/v1/completions` and `/v1/chat/completions`, as far as a measurement needs it.

use std::borrow::Cow;

use costmark_core::{ErrorClass, RequestError};
use hyper::header::HeaderName;
use serde::{Deserialize, Serialize};

use crate::sse::{SseError, SseParser};

/// What a client calls its request: finds a line of a server's log in the raw lines.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is asked. Fields a server refused are left out.
#[derive(Debug, Serialize)]
pub(crate) struct Body<'a> {
    pub(crate) model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt: Option<Prompt<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) messages: Option<[Message<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) min_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ignore_eos: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) return_token_ids: Option<bool>,
    pub(crate) stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stream_options: Option<StreamOptions>,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub(crate) enum Prompt<'a> {
    Ids(&'a [u32]),
    Text(&'a str),
}

#[derive(Debug, Serialize)]
pub(crate) struct Message<'a> {
    pub(crate) role: &'static str,
    pub(crate) content: &'a str,
}

#[derive(Debug, Serialize)]
pub(crate) struct StreamOptions {
    pub(crate) include_usage: bool,
}

/// Token counts, as the server tells them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct UsageWire {
    pub(crate) prompt_tokens: u32,
    pub(crate) completion_tokens: u32,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

impl UsageWire {
    pub(crate) fn cached_tokens(&self) -> u32 {
        self.prompt_tokens_details
            .and_then(|details| details.cached_tokens)
            .unwrap_or(0)
    }

    pub(crate) fn reasoning_tokens(&self) -> u32 {
        self.completion_tokens_details
            .and_then(|details| details.reasoning_tokens)
            .unwrap_or(0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    #[serde(default)]
    usage: Option<UsageWire>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "message")]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    token_ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning: Option<Cow<'a, str>>,
    /// The older name; some servers send both.
    #[serde(borrow, default)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(default)]
    tool_calls: Option<serde::de::IgnoredAny>,
}

/// Why the server stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    Length,
    Stop,
    /// The server gave up on it.
    Abort,
}

/// What some bytes of an answer brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) tokens: u32,
    /// Of these, tokens of a chain of thought.
    pub(crate) reasoning: u32,
    /// The token, where exactly one came and the server tells.
    pub(crate) token_id: Option<u32>,
}

/// Reads an answer, streamed or whole, and keeps what matters of it.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    sse: SseParser,
    /// A whole answer that is not streamed.
    whole: Option<Vec<u8>>,
    pub(crate) seen: Seen,
}

/// The kept part of an answer.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) finish: Option<Finish>,
    pub(crate) usage: Option<UsageWire>,
    /// The stream's end mark came.
    pub(crate) done: bool,
    /// The text, where it is wanted.
    pub(crate) text: Option<String>,
    /// Token ids that the server told.
    pub(crate) ids_told: bool,
}

impl Answer {
    pub(crate) fn streamed(keep_text: bool) -> Self {
        Self {
            seen: Seen {
                text: keep_text.then(String::new),
                ..Seen::default()
            },
            ..Self::default()
        }
    }

    pub(crate) fn whole(keep_text: bool) -> Self {
        Self {
            whole: Some(Vec::new()),
            ..Self::streamed(keep_text)
        }
    }

    /// Takes in bytes of the body.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Arrived, RequestError> {
        if let Some(whole) = &mut self.whole {
            if whole.len() + bytes.len() > MAX_WHOLE_BYTES {
                return Err(malformed("the answer is larger than 256 MiB"));
            }
            whole.extend_from_slice(bytes);
            return Ok(Arrived::default());
        }
        let (mut arrived, seen) = (Arrived::default(), &mut self.seen);
        let fed = self.sse.feed(bytes, |data| {
            if seen.done {
                return Ok(());
            }
            if data == "[DONE]" {
                seen.done = true;
                return Ok(());
            }
            seen.take(data, &mut arrived)
        });
        fed.map_err(|Fault(error)| error)?;
        if arrived.tokens != 1 {
            arrived.token_id = None;
        }
        Ok(arrived)
    }

    /// The body has ended: what it brings if it was not streamed.
    pub(crate) fn end(&mut self) -> Result<Arrived, RequestError> {
        let mut arrived = Arrived::default();
        if let Some(whole) = self.whole.take() {
            let text = std::str::from_utf8(&whole)
                .map_err(|_| malformed("the answer is not UTF-8 text"))?;
            self.seen
                .take(text, &mut arrived)
                .map_err(|Fault(error)| error)?;
            self.seen.done = true;
            if let Some(usage) = self.seen.usage {
                arrived.tokens = usage.completion_tokens;
            }
            arrived.token_id = None;
        }
        Ok(arrived)
    }
}

const MAX_WHOLE_BYTES: usize = 256 << 20;

/// Lets the event parser's errors and ours share a road.
struct Fault(RequestError);

impl From<SseError> for Fault {
    fn from(error: SseError) -> Self {
        Self(malformed(&format!("malformed event stream: {error}")))
    }
}

fn malformed(message: &str) -> RequestError {
    RequestError {
        class: ErrorClass::Malformed,
        message: message.into(),
    }
}

impl Seen {
    fn take(&mut self, json: &str, arrived: &mut Arrived) -> Result<(), Fault> {
        let chunk: Chunk<'_> = serde_json::from_str(json).map_err(|error| {
            let shown: String = json.chars().take(80).collect();
            Fault(malformed(&format!(
                "not the JSON of an answer ({error}): {shown}"
            )))
        })?;
        if let Some(error) = chunk.error.filter(|e| !e.is_null()) {
            return Err(Fault(RequestError {
                class: ErrorClass::ServerError,
                message: format!("the server reports an error: {}", error_text(&error)),
            }));
        }
        if let Some(usage) = chunk.usage {
            self.usage = Some(usage);
        }
        // One choice is asked for.
        if let Some(choice) = chunk.choices.into_iter().next() {
            self.take_choice(&choice, arrived);
        }
        Ok(())
    }

    fn take_choice(&mut self, choice: &Choice<'_>, arrived: &mut Arrived) {
        let delta = choice.delta.as_ref();
        let content = choice
            .text
            .as_deref()
            .or_else(|| delta.and_then(|d| d.content.as_deref()))
            .unwrap_or("");
        let reasoning = delta
            .and_then(|d| d.reasoning.as_deref().or(d.reasoning_content.as_deref()))
            .unwrap_or("");
        let tools = delta.is_some_and(|d| d.tool_calls.is_some());
        let told = choice.token_ids.as_deref().filter(|ids| !ids.is_empty());
        let tokens = match told {
            Some(ids) => u32::try_from(ids.len()).unwrap_or(u32::MAX),
            None => u32::from(!content.is_empty() || !reasoning.is_empty() || tools),
        };
        if let Some(ids) = told {
            self.ids_told = true;
            arrived.token_id = ids.first().copied();
        }
        arrived.tokens += tokens;
        if content.is_empty() && !reasoning.is_empty() {
            arrived.reasoning += tokens;
        }
        if let Some(text) = &mut self.text {
            text.push_str(reasoning);
            text.push_str(content);
        }
        match choice.finish_reason.as_deref() {
            None | Some("") => {}
            Some("length") => self.finish = Some(Finish::Length),
            Some("abort" | "error") => self.finish = Some(Finish::Abort),
            Some(_) => self.finish = Some(Finish::Stop),
        }
    }
}

/// The words of an error object, in whichever of the usual shapes it comes.
pub(crate) fn error_text(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::String(text) => text.clone(),
        Value::Object(object) => ["message", "error", "detail"]
            .iter()
            .find_map(|key| object.get(*key))
            .map_or_else(|| value.to_string(), error_text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str) -> String {
        format!("data: {json}\n\n")
    }

    #[test]
    fn completions_and_chat_in_one() {
        let mut answer = Answer::streamed(true);
        let stream = [
            event(r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#),
            event(r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#),
            event(r#"{"choices":[{"index":0,"delta":{"content":"a\u00e9"}}],"usage":null}"#),
            event(r#"{"choices":[{"index":0,"text":" b","finish_reason":"length"}]}"#),
            event(
                r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,
                    "prompt_tokens_details":{"cached_tokens":4},
                    "completion_tokens_details":{"reasoning_tokens":1}}}"#,
            )
            .replace("\n     ", " "),
            "data: [DONE]\n\n".to_string(),
        ];
        let arrived: Vec<Arrived> = stream
            .iter()
            .map(|event| answer.feed(event.as_bytes()).unwrap())
            .collect();
        let tokens: Vec<u32> = arrived.iter().map(|a| a.tokens).collect();
        assert_eq!(tokens, [0, 1, 1, 1, 0, 0]);
        assert_eq!(arrived[1].reasoning, 1);
        let seen = answer.seen;
        assert_eq!(seen.text.as_deref(), Some("hmaé b"));
        assert_eq!((seen.finish, seen.done), (Some(Finish::Length), true));
        let usage = seen.usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.cached_tokens()), (7, 4));
        assert_eq!(usage.reasoning_tokens(), 1);
    }

    #[test]
    fn token_ids_are_counts_too() {
        let mut answer = Answer::streamed(false);
        let two = event(r#"{"choices":[{"text":"","token_ids":[5,6]}]}"#);
        let one = event(r#"{"choices":[{"text":"","token_ids":[9]}]}"#);
        let arrived = answer.feed(two.as_bytes()).unwrap();
        assert_eq!((arrived.tokens, arrived.token_id), (2, None));
        let arrived = answer.feed(one.as_bytes()).unwrap();
        assert_eq!((arrived.tokens, arrived.token_id), (1, Some(9)));
    }

    #[test]
    fn faults_have_their_class() {
        for (json, class, words) in [
            ("{\"choices\": [", ErrorClass::Malformed, "not the JSON"),
            (
                r#"{"error":{"message":"out of memory"}}"#,
                ErrorClass::ServerError,
                "out of memory",
            ),
        ] {
            let error = Answer::streamed(false)
                .feed(event(json).as_bytes())
                .unwrap_err();
            assert_eq!(error.class, class);
            assert!(error.message.contains(words), "{}", error.message);
        }
    }

    #[test]
    fn a_whole_answer_counts_by_its_usage() {
        let mut answer = Answer::whole(false);
        let json = r#"{"choices":[{"message":{"content":"a b c"},"finish_reason":"stop"}],
            "usage":{"prompt_tokens":2,"completion_tokens":3}}"#;
        for byte in json.bytes() {
            assert_eq!(answer.feed(&[byte]).unwrap(), Arrived::default());
        }
        assert_eq!(answer.end().unwrap().tokens, 3);
        assert_eq!(answer.seen.finish, Some(Finish::Stop));
    }
}
