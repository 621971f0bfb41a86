//! From a request to the bytes that ask for it.

use bytes::Bytes;
use costmark_core::{Request, Sampling};

use crate::wire::{Body, Message, Prompt, StreamOptions};

/// Which interface of the server is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiChoice {
    /// `/v1/completions` where the server has it, since it takes prompts as they are.
    Auto,
    /// `/v1/completions`.
    Completions,
    /// `/v1/chat/completions`. The server wraps prompts in its template.
    Chat,
}

/// Text for those who need it, made by a tokenizer that is not known here.
pub trait PromptText: Send + Sync {
    /// A text of exactly `ids.len()` tokens, made from `ids` and different for different
    /// ones; `None` where none was found.
    fn text(&self, ids: &[u32]) -> Option<String>;

    /// Tokens of a text.
    fn count(&self, text: &str) -> u32;

    /// Ids are below this.
    fn vocab_size(&self) -> u32;
}

/// One of the two interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Completions,
    Chat,
}

impl Api {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
        }
    }
}

/// A field of a request that not every server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Field {
    IgnoreEos,
    MinTokens,
    MaxTokens,
    TopK,
    Seed,
    Temperature,
    StreamOptions,
}

impl Field {
    pub(crate) const ALL: [Self; 7] = [
        Self::IgnoreEos,
        Self::MinTokens,
        Self::MaxTokens,
        Self::TopK,
        Self::Seed,
        Self::Temperature,
        Self::StreamOptions,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::IgnoreEos => "ignore_eos",
            Self::MinTokens => "min_tokens",
            Self::MaxTokens => "max_tokens",
            Self::TopK => "top_k",
            Self::Seed => "seed",
            Self::Temperature => "temperature",
            Self::StreamOptions => "stream_options",
        }
    }
}

/// How the server wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) api: Api,
    pub(crate) model: String,
    pub(crate) stream: bool,
    /// Prompts go as token ids.
    pub(crate) ids: bool,
    /// Tells the ids of the tokens it sends, which also counts them where they make no text.
    pub(crate) tells_ids: bool,
    /// Fields it refuses. Without `max_tokens`, `max_completion_tokens` is sent.
    pub(crate) refused: Vec<Field>,
}

impl Dialect {
    pub(crate) fn takes(&self, field: Field) -> bool {
        !self.refused.contains(&field)
    }

    /// What bounds the length of an answer.
    pub(crate) fn length_field(&self) -> &'static str {
        if self.takes(Field::MaxTokens) {
            "max_tokens"
        } else {
            "max_completion_tokens"
        }
    }

    /// The body; `text` is the prompt where ids are not taken.
    pub(crate) fn body(&self, request: &Request, text: &str) -> Bytes {
        let prompt = if self.ids {
            Prompt::Ids(&request.prompt)
        } else {
            Prompt::Text(text)
        };
        let chat = self.api == Api::Chat;
        let n = request.max_tokens;
        let (temperature, top_p, top_k, seed) = match request.sampling {
            Sampling::Greedy => (0.0, None, None, None),
            Sampling::Random {
                temperature,
                top_p,
                top_k,
                seed,
            } => (
                temperature,
                (top_p < 1.0).then_some(top_p),
                (top_k > 0 && self.takes(Field::TopK)).then_some(top_k),
                // Some servers hold seeds as signed 32-bit numbers.
                self.takes(Field::Seed).then_some(seed & 0x7fff_ffff),
            ),
        };
        let body = Body {
            model: &self.model,
            prompt: (!chat).then_some(prompt),
            messages: chat.then_some([Message {
                role: "user",
                content: text,
            }]),
            max_tokens: self.takes(Field::MaxTokens).then_some(n),
            max_completion_tokens: (!self.takes(Field::MaxTokens)).then_some(n),
            min_tokens: (request.ignore_eos && self.takes(Field::MinTokens)).then_some(n),
            ignore_eos: (request.ignore_eos && self.takes(Field::IgnoreEos)).then_some(true),
            temperature: self.takes(Field::Temperature).then_some(temperature),
            top_p,
            top_k,
            seed,
            return_token_ids: self.tells_ids.then_some(true),
            stream: self.stream,
            stream_options: (self.stream && self.takes(Field::StreamOptions)).then_some(
                StreamOptions {
                    include_usage: true,
                },
            ),
        };
        // Numbers and strings in a struct serialise.
        serde_json::to_vec(&body).unwrap_or_default().into()
    }
}

/// Words that nearly every vocabulary holds as one token each, a space before them included.
const WORDS: [&str; 32] = [
    "time", "year", "people", "way", "day", "man", "thing", "world", "life", "hand", "part",
    "place", "case", "week", "work", "night", "point", "home", "water", "room", "area", "money",
    "story", "fact", "month", "book", "eye", "job", "word", "side", "head", "house",
];

/// A text of about `ids.len()` tokens for who has no tokenizer.
pub(crate) fn words(ids: &[u32]) -> String {
    let mut text = String::with_capacity(ids.len() * 6);
    for &id in ids {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(WORDS[id as usize % WORDS.len()]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            id: 1,
            prompt: vec![3, 4],
            max_tokens: 9,
            ignore_eos: true,
            sampling: Sampling::Greedy,
            logprobs: None,
        }
    }

    fn json(dialect: &Dialect, request: &Request, text: &str) -> serde_json::Value {
        serde_json::from_slice(&dialect.body(request, text)).unwrap()
    }

    #[test]
    fn each_dialect_is_asked_in_its_words() {
        let mut dialect = Dialect {
            api: Api::Completions,
            model: "m".into(),
            stream: true,
            ids: true,
            tells_ids: false,
            refused: vec![],
        };
        let body = json(&dialect, &request(), "");
        assert_eq!(
            body,
            serde_json::json!({"model": "m", "prompt": [3, 4], "max_tokens": 9, "min_tokens": 9,
                "ignore_eos": true, "temperature": 0.0, "stream": true,
                "stream_options": {"include_usage": true}})
        );
        dialect.api = Api::Chat;
        dialect.ids = false;
        dialect.refused = vec![Field::MaxTokens, Field::IgnoreEos, Field::MinTokens];
        dialect.stream = false;
        let body = json(&dialect, &request(), "hi");
        assert_eq!(
            body,
            serde_json::json!({"model": "m", "messages": [{"role": "user", "content": "hi"}],
                "max_completion_tokens": 9, "temperature": 0.0, "stream": false})
        );
        let stops = Request {
            ignore_eos: false,
            ..request()
        };
        dialect.refused.clear();
        let body = json(&dialect, &stops, "hi");
        assert!(body.get("ignore_eos").is_none() && body.get("min_tokens").is_none());
    }
}
