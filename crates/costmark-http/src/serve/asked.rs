//! What a client asks, checked.

use costmark_core::{Request, RequestId, Sampling};
use serde::Deserialize;
use serde_json::Value;

use super::TextModel;
use super::chat::{ChatTemplate, Turn};

/// Most likeliest tokens that can be asked for with each token.
const MAX_TOP_LOGPROBS: u32 = 20;
/// Tokens where none are named, as the interface has it.
const DEFAULT_MAX_TOKENS: u32 = 16;

#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    #[serde(default)]
    prompt: Option<Prompt>,
    #[serde(default)]
    messages: Option<Vec<Message>>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    min_tokens: Option<u32>,
    #[serde(default)]
    ignore_eos: Option<bool>,
    #[serde(default)]
    temperature: Option<f32>,
    #[serde(default)]
    top_p: Option<f32>,
    #[serde(default)]
    top_k: Option<i64>,
    #[serde(default)]
    seed: Option<i64>,
    #[serde(default)]
    pub(crate) stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    return_token_ids: Option<bool>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    n: Option<u32>,
    #[serde(default)]
    logprobs: Option<Value>,
    #[serde(default)]
    top_logprobs: Option<u32>,
    #[serde(default)]
    stop: Option<Value>,
    #[serde(default)]
    echo: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    IdLists(Vec<Vec<u32>>),
}

#[derive(Debug, Deserialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

/// What is needed to understand a request.
pub(crate) struct Terms<'a> {
    pub(crate) model: &'a str,
    pub(crate) max_context: u32,
    pub(crate) text: Option<&'a dyn TextModel>,
    pub(crate) chat: Option<&'a ChatTemplate>,
    /// Whether what serves has log-probabilities.
    pub(crate) logprobs: bool,
}

impl Asked {
    pub(crate) fn include_usage(&self) -> bool {
        let options = self.stream_options.as_ref();
        options.and_then(|o| o.include_usage).unwrap_or(false)
    }

    pub(crate) fn return_token_ids(&self) -> bool {
        self.return_token_ids.unwrap_or(false)
    }

    /// The request, or what is wrong with it.
    pub(crate) fn request(
        &self,
        id: RequestId,
        chat: bool,
        terms: &Terms<'_>,
    ) -> Result<Request, String> {
        if let Some(model) = self.model.as_deref().filter(|m| *m != terms.model) {
            return Err(format!(
                "model {model} is not served here; {} is",
                terms.model
            ));
        }
        self.refuse_what_is_not_done()?;
        let prompt = if chat {
            self.conversation(terms)?
        } else {
            self.prompt(terms)?
        };
        let length = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        if length == 0 {
            return Err("the prompt has no tokens".into());
        }
        let room = terms.max_context.saturating_sub(length);
        let default = if chat { room } else { DEFAULT_MAX_TOKENS };
        let max_tokens = self
            .max_completion_tokens
            .or(self.max_tokens)
            .unwrap_or(default);
        if max_tokens == 0 {
            return Err("max_tokens must be at least 1".into());
        }
        if max_tokens > room {
            return Err(format!(
                "the prompt has {length} tokens and max_tokens is {max_tokens}, but the context \
                 is {} tokens",
                terms.max_context
            ));
        }
        let exact = self.min_tokens.is_some_and(|min| min >= max_tokens);
        if !exact && self.min_tokens.is_some_and(|min| min > 1) {
            return Err("min_tokens is supported only as large as max_tokens".into());
        }
        Ok(Request {
            id,
            prompt,
            max_tokens,
            ignore_eos: exact || self.ignore_eos.unwrap_or(false),
            sampling: self.sampling(id)?,
            logprobs: self.logprobs(chat, terms)?,
        })
    }

    fn refuse_what_is_not_done(&self) -> Result<(), String> {
        let asks = |value: &Option<Value>| {
            let value = value.as_ref();
            value.is_some_and(|v| !v.is_null() && *v != Value::Bool(false))
        };
        let nothing = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        if self.n.is_some_and(|n| n != 1) {
            return Err("n: one choice per request is supported".into());
        }
        if asks(&self.stop) && !self.stop.as_ref().is_some_and(nothing) {
            return Err("stop: stop sequences are not supported".into());
        }
        if self.echo == Some(true) {
            return Err("echo is not supported".into());
        }
        Ok(())
    }

    /// How many likeliest tokens are wanted with each token, as each interface has it; `None`
    /// where no log-probabilities are.
    fn logprobs(&self, chat: bool, terms: &Terms<'_>) -> Result<Option<u32>, String> {
        let number = |value: &Value| value.as_u64().map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let top = match (&self.logprobs, chat) {
            (None | Some(Value::Null | Value::Bool(false)), _) => {
                return match self.top_logprobs {
                    None | Some(0) => Ok(None),
                    Some(_) => Err("top_logprobs needs logprobs: true".into()),
                };
            }
            (Some(Value::Bool(true)), true) => Some(self.top_logprobs.unwrap_or(0)),
            (Some(value), false) if self.top_logprobs.is_none() => number(value),
            _ => None,
        };
        let top = top.ok_or(if chat {
            "logprobs must be true or false here, and top_logprobs a number"
        } else {
            "logprobs must be the number of likeliest tokens wanted with each token; true and \
             top_logprobs are for /v1/chat/completions"
        })?;
        if top > MAX_TOP_LOGPROBS {
            return Err(format!(
                "logprobs: {top} likeliest tokens were asked for, at most {MAX_TOP_LOGPROBS} are \
                 told"
            ));
        }
        if !terms.logprobs {
            return Err("logprobs: what serves here is no model and has none".into());
        }
        Ok(Some(top))
    }

    fn prompt(&self, terms: &Terms<'_>) -> Result<Vec<u32>, String> {
        let one = "prompt: one prompt per request is supported";
        match &self.prompt {
            None => Err("prompt is missing".into()),
            Some(Prompt::Ids(ids)) => Ok(ids.clone()),
            Some(Prompt::IdLists(lists)) => match lists.as_slice() {
                [ids] => Ok(ids.clone()),
                _ => Err(one.into()),
            },
            Some(Prompt::Text(text)) => encode(terms, text, true),
            Some(Prompt::Texts(texts)) => match texts.as_slice() {
                [text] => encode(terms, text, true),
                _ => Err(one.into()),
            },
        }
    }

    fn conversation(&self, terms: &Terms<'_>) -> Result<Vec<u32>, String> {
        let messages = self.messages.as_ref().ok_or("messages is missing")?;
        let chat = terms
            .chat
            .ok_or("the model has no chat template (tokenizer_config.json); use /v1/completions")?;
        let turns: Vec<Turn> = messages
            .iter()
            .map(|message| Turn {
                role: message.role.clone(),
                content: match &message.content {
                    None => String::new(),
                    Some(Content::Text(text)) => text.clone(),
                    Some(Content::Parts(parts)) => parts
                        .iter()
                        .filter_map(|part| part.text.as_deref())
                        .collect(),
                },
            })
            .collect();
        let text = chat.write(&turns).map_err(|error| error.to_string())?;
        // The template has written what belongs before a text.
        encode(terms, &text, false)
    }

    fn sampling(&self, id: RequestId) -> Result<Sampling, String> {
        let temperature = self.temperature.unwrap_or(1.0);
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err("temperature must be 0 or more".into());
        }
        if temperature == 0.0 {
            return Ok(Sampling::Greedy);
        }
        let top_p = self.top_p.unwrap_or(1.0);
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err("top_p must be above 0 and at most 1".into());
        }
        Ok(Sampling::Random {
            temperature,
            top_p,
            // -1 is how some clients write "all".
            top_k: u32::try_from(self.top_k.unwrap_or(0).max(0)).unwrap_or(u32::MAX),
            seed: self.seed.map_or(id, i64::cast_unsigned),
        })
    }
}

fn encode(terms: &Terms<'_>, text: &str, special: bool) -> Result<Vec<u32>, String> {
    let model = terms
        .text
        .ok_or("the model has no tokenizer: give the prompt as token ids")?;
    model.encode(text, special)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(json: &str) -> Result<Request, String> {
        let asked: Asked = serde_json::from_str(json).unwrap();
        let terms = Terms {
            model: "m",
            max_context: 20,
            text: None,
            chat: None,
            logprobs: true,
        };
        asked.request(3, asked.messages.is_some(), &terms)
    }

    #[test]
    fn what_is_asked_is_what_is_done() {
        let request = ask(
            r#"{"model":"m","prompt":[[1,2,3]],"max_tokens":5,"min_tokens":5,"temperature":0,
                "n":1,"stop":[],"logprobs":null,"unknown":1}"#,
        )
        .unwrap();
        assert_eq!((request.prompt, request.max_tokens), (vec![1, 2, 3], 5));
        assert!(request.ignore_eos);
        assert_eq!(request.sampling, Sampling::Greedy);
        let request = ask(r#"{"prompt":[1],"top_k":-1,"seed":9,"temperature":0.5}"#).unwrap();
        assert_eq!(request.max_tokens, DEFAULT_MAX_TOKENS);
        assert!(matches!(
            request.sampling,
            Sampling::Random {
                top_k: 0,
                seed: 9,
                ..
            }
        ));
    }

    #[test]
    fn log_probabilities_are_asked_for_in_two_ways() {
        let asked = |json: &str, chat: bool, logprobs: bool| {
            let asked: Asked = serde_json::from_str(json).unwrap();
            let terms = Terms {
                model: "m",
                max_context: 20,
                text: None,
                chat: None,
                logprobs,
            };
            asked.logprobs(chat, &terms)
        };
        for nothing in ["{}", r#"{"logprobs":null}"#, r#"{"logprobs":false}"#] {
            for chat in [false, true] {
                assert_eq!(asked(nothing, chat, false), Ok(None));
            }
        }
        assert_eq!(asked(r#"{"logprobs":0}"#, false, true), Ok(Some(0)));
        assert_eq!(asked(r#"{"logprobs":20}"#, false, true), Ok(Some(20)));
        assert_eq!(asked(r#"{"logprobs":true}"#, true, true), Ok(Some(0)));
        let top = r#"{"logprobs":true,"top_logprobs":5}"#;
        assert_eq!(asked(top, true, true), Ok(Some(5)));
        assert!(asked(top, true, false).unwrap_err().contains("no model"));
        let number = asked(r#"{"logprobs":5}"#, true, true);
        assert!(number.unwrap_err().contains("true or false"));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        for (json, words) in [
            (r#"{"prompt":[1],"max_tokens":20}"#, "context is 20"),
            (r#"{"prompt":[1],"max_tokens":0}"#, "at least 1"),
            (r#"{"prompt":[]}"#, "no tokens"),
            (r#"{"prompt":"hi"}"#, "no tokenizer"),
            (r#"{"prompt":[[1],[2]]}"#, "one prompt"),
            (
                r#"{"messages":[{"role":"user","content":"x"}]}"#,
                "chat template",
            ),
            (r#"{"prompt":[1],"n":2}"#, "one choice"),
            (r#"{"prompt":[1],"logprobs":true}"#, "number of likeliest"),
            (r#"{"prompt":[1],"logprobs":-1}"#, "number of likeliest"),
            (r#"{"prompt":[1],"logprobs":21}"#, "at most 20"),
            (r#"{"prompt":[1],"logprobs":2,"top_logprobs":2}"#, "chat"),
            (r#"{"prompt":[1],"top_logprobs":2}"#, "logprobs: true"),
            (r#"{"prompt":[1],"stop":["x"]}"#, "stop sequences"),
            (
                r#"{"prompt":[1],"min_tokens":2,"max_tokens":5}"#,
                "min_tokens",
            ),
            (r#"{"prompt":[1],"model":"other"}"#, "not served"),
            (r#"{"prompt":[1],"temperature":-1}"#, "temperature"),
        ] {
            let error = ask(json).unwrap_err();
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
