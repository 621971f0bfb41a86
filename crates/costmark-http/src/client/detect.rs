//! Finding out, before anything is measured, who the server is and how it wants to be asked.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use costmark_core::{Clock, ErrorClass, Request, RequestError, Sampling};
use hyper::Method;
use serde_json::Value;
use tokio::task::LocalSet;

use super::body::{Api, ApiChoice, Dialect, Field, words};
use super::error::{ConnectError, failure};
use super::exchange::{Deadline, Exchange};
use super::request::{check_status, request};
use super::worker::{Settings, Shared, runtime};
use crate::wire::{Answer, Finish};

/// How long a server may take to say who it is.
const FACT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_FACT_BYTES: usize = 4 << 20;
/// Prompt and output of the trial requests.
const TRIAL_IDS: [u32; 8] = [1000, 1201, 1033, 1500, 1742, 1101, 1321, 1999];
const TRIAL_TOKENS: u32 = 4;

/// What is known of a server.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) dialect: Dialect,
    /// The server tells token counts.
    pub(crate) tells_usage: bool,
    pub(crate) software: String,
    pub(crate) max_context: Option<u32>,
    pub(crate) max_sequences: Option<u32>,
    pub(crate) vocab_size: Option<u32>,
    pub(crate) weight_bytes: Option<u64>,
    pub(crate) notes: Vec<String>,
}

/// Asks the server, on this thread.
pub(crate) fn detect(settings: &Settings) -> Result<Facts, ConnectError> {
    let runtime =
        runtime().map_err(|e| ConnectError::Run(format!("the system refuses a poller: {e}")))?;
    let shared = Rc::new(Shared::new(settings.clone())?);
    let local = LocalSet::new();
    let facts = local.block_on(&runtime, async {
        Detection {
            shared: Rc::clone(&shared),
        }
        .run(settings)
        .await
    });
    drop(local);
    runtime.shutdown_background();
    facts.map_err(|error| match error {
        ConnectError::Run(words) => ConnectError::Run(settings.options.secrets.scrub(&words)),
        input @ ConnectError::Input(_) => input,
    })
}

struct Detection {
    shared: Rc<Shared>,
}

impl Detection {
    async fn run(&self, settings: &Settings) -> Result<Facts, ConnectError> {
        let options = &settings.options;
        let listed = match self.get("/v1/models").await {
            Ok(listed) => Some(listed),
            // Some gateways do not list what they serve.
            Err(error) if error.class == ErrorClass::Rejected && options.model.is_some() => None,
            Err(error) => return Err(self.shared.presentable(error).into()),
        };
        let entry = choose_model(listed.as_ref(), options.model.as_deref())?;
        let model = options
            .model
            .clone()
            .or_else(|| entry.and_then(|e| text(e, "/id")))
            .unwrap_or_default();
        let mut facts = Facts {
            dialect: Dialect {
                api: Api::Completions,
                model,
                stream: options.stream,
                ids: true,
                tells_ids: false,
                refused: Vec::new(),
            },
            tells_usage: false,
            software: "unknown server".into(),
            max_context: None,
            max_sequences: None,
            vocab_size: None,
            weight_bytes: None,
            notes: Vec::new(),
        };
        if let Some(entry) = entry {
            self.identify(entry, &mut facts).await;
        }
        self.agree(options.api, options.text.is_some(), &mut facts)
            .await?;
        Ok(facts)
    }

    /// Facts that each kind of server tells in its own way. What it does not tell stays open.
    async fn identify(&self, entry: &Value, facts: &mut Facts) {
        facts.max_context = number(entry, "/max_model_len").map(clamp);
        facts.vocab_size = number(entry, "/meta/n_vocab").map(clamp);
        facts.weight_bytes = number(entry, "/meta/size");
        let owner = text(entry, "/owned_by").unwrap_or_default();
        facts.dialect.tells_ids = matches!(owner.as_str(), "vllm" | "costmark");
        facts.software = match owner.as_str() {
            "vllm" => {
                let version = self.get("/version").await.ok();
                named("vLLM", version.and_then(|v| text(&v, "/version")))
            }
            "sglang" => {
                let info = match self.get("/server_info").await {
                    Ok(info) => Some(info),
                    Err(_) => self.get("/get_server_info").await.ok(),
                };
                if let Some(info) = &info {
                    facts.max_sequences = number(info, "/max_running_requests").map(clamp);
                }
                named("SGLang", info.and_then(|v| text(&v, "/version")))
            }
            "llamacpp" => {
                let props = self.get("/props").await.ok();
                if let Some(props) = &props {
                    facts.max_context =
                        number(props, "/default_generation_settings/n_ctx").map(clamp);
                    facts.max_sequences = number(props, "/total_slots").map(clamp);
                }
                named(
                    "llama.cpp server",
                    props.and_then(|v| text(&v, "/build_info")),
                )
            }
            "costmark" => {
                facts.max_sequences = number(entry, "/meta/max_sequences").map(clamp);
                named("costmark serve", text(entry, "/meta/version"))
            }
            "" => "unknown server".into(),
            other => format!("server of {other}"),
        };
    }

    /// Finds the interface and the fields it takes, by asking for a few tokens.
    async fn agree(
        &self,
        api: ApiChoice,
        has_text: bool,
        facts: &mut Facts,
    ) -> Result<(), ConnectError> {
        let mut apis = match api {
            ApiChoice::Auto => vec![Api::Chat, Api::Completions],
            ApiChoice::Completions => vec![Api::Completions],
            ApiChoice::Chat => vec![Api::Chat],
        };
        facts.dialect.api = apis.pop().unwrap_or(Api::Completions);
        facts.dialect.ids = facts.dialect.api == Api::Completions;
        let mut refusals: Vec<String> = Vec::new();
        loop {
            let mut error = match self.trial(&facts.dialect).await {
                Ok(trial) => return self.settle(&trial, has_text, facts),
                Err(error) => self.shared.presentable(error),
            };
            let lacks_path = ["404", "405", "501"].iter().any(|status| {
                error
                    .message
                    .starts_with(&format!("the server answered {status}"))
            });
            if !matches!(error.class, ErrorClass::Rejected) && !lacks_path {
                return Err(error.into());
            }
            let named = Field::ALL.into_iter().find(|&field| {
                let sent = facts.dialect.takes(field);
                // `max_tokens` also stands in the middle of other names.
                sent && mentions(&error.message, field.name())
            });
            if let Some(field) = named.filter(|_| !lacks_path) {
                facts.dialect.refused.push(field);
                continue;
            }
            refusals.push(refusal(&facts.dialect, &error.message));
            if facts.dialect.ids && !lacks_path {
                facts.dialect.ids = false;
            } else if let Some(api) = apis.pop() {
                facts.dialect.api = api;
                facts.dialect.ids = false;
                facts.dialect.refused.clear();
            } else {
                if refusals.len() > 1 {
                    error.message = format!(
                        "the server takes no way to ask it (look at --model, --api and \
                         --tokenizer): {}",
                        refusals.join("; ")
                    );
                }
                return Err(error.into());
            }
        }
    }

    fn settle(&self, trial: &Trial, has_text: bool, facts: &mut Facts) -> Result<(), ConnectError> {
        facts.tells_usage = trial.counted.is_some();
        let dialect = &facts.dialect;
        let path = dialect.api.path();
        let prompts = match (dialect.ids, has_text) {
            (true, _) => "prompts as token ids",
            (false, true) => "prompts as text of exact length",
            (false, false) => {
                "prompts as common words of about the length asked for, since there is no \
                 tokenizer to make them exact"
            }
        };
        let lengths = [Field::IgnoreEos, Field::MinTokens]
            .into_iter()
            .filter(|&field| dialect.takes(field))
            .fold(dialect.length_field().to_owned(), |all, field| {
                format!("{all}, {}", field.name())
            });
        facts.notes.push(format!(
            "Driven through {path}, {prompts}; exact lengths by {lengths}."
        ));
        if !dialect.refused.is_empty() {
            let names: Vec<&str> = dialect.refused.iter().map(|f| f.name()).collect();
            facts
                .notes
                .push(format!("The server refuses {}.", names.join(", ")));
        }
        if !facts.tells_usage {
            facts.notes.push(if has_text {
                "The server tells no token counts; a tokenizer counts its text.".into()
            } else {
                "The server tells no token counts and there is no tokenizer: each event is \
                 counted as one token."
                    .into()
            });
        }
        if trial.tokens > TRIAL_TOKENS {
            return Err(ConnectError::Run(format!(
                "asked for {TRIAL_TOKENS} tokens, the server sent {}: it ignores max_tokens, so \
                 no length can be measured",
                trial.tokens
            )));
        }
        Ok(())
    }

    async fn trial(&self, dialect: &Dialect) -> Result<Trial, RequestError> {
        let asked = Request {
            id: 0,
            prompt: TRIAL_IDS.to_vec(),
            max_tokens: TRIAL_TOKENS,
            ignore_eos: true,
            sampling: Sampling::Greedy,
            logprobs: None,
        };
        let body = dialect.body(&asked, &words(&TRIAL_IDS));
        let path = dialect.api.path();
        let limit = self.shared.timeouts.first_token;
        let (mut exchange, mut deadline) =
            ask(&self.shared, Method::POST, path, body, limit).await?;
        check_status(&mut exchange, &mut deadline).await?;
        let mut answer = if dialect.stream {
            Answer::streamed(false)
        } else {
            Answer::whole(false)
        };
        let mut tokens = 0u32;
        while let Some((bytes, _)) = exchange.bytes(&mut deadline).await? {
            tokens = tokens.saturating_add(answer.feed(&bytes)?.tokens);
            if answer.seen.done || tokens > 64 * TRIAL_TOKENS {
                break;
            }
        }
        tokens = tokens.saturating_add(answer.end()?.tokens);
        if answer.seen.finish == Some(Finish::Abort) {
            let words = "the server aborted a trial request";
            return Err(failure(ErrorClass::ServerError, words));
        }
        let counted = answer.seen.usage.map(|usage| usage.completion_tokens);
        Ok(Trial {
            tokens: counted.unwrap_or(tokens).max(tokens),
            counted,
        })
    }

    async fn get(&self, path: &str) -> Result<Value, RequestError> {
        let page = page(&self.shared, path).await?;
        serde_json::from_slice(&page).map_err(|error| {
            let words = format!("{path} of {} is not JSON: {error}", self.shared.endpoint);
            failure(ErrorClass::Malformed, words)
        })
    }
}

/// What was asked in vain, and the answer.
fn refusal(dialect: &Dialect, answer: &str) -> String {
    let prompts = if dialect.ids { "token ids" } else { "text" };
    format!("{} with prompts as {prompts}: {answer}", dialect.api.path())
}

/// A page of the server, of bounded size and within a bounded time.
pub(crate) async fn page(shared: &Shared, path: &str) -> Result<Vec<u8>, RequestError> {
    let asked = ask(shared, Method::GET, path, Bytes::new(), FACT_TIMEOUT);
    let (mut exchange, mut deadline) = asked.await?;
    check_status(&mut exchange, &mut deadline).await?;
    let mut page = Vec::new();
    while let Some((bytes, _)) = exchange.bytes(&mut deadline).await? {
        page.extend_from_slice(&bytes);
        if page.len() > MAX_FACT_BYTES {
            let words = format!("{path} is larger than {MAX_FACT_BYTES} bytes");
            return Err(failure(ErrorClass::Malformed, words));
        }
    }
    Ok(page)
}

async fn ask(
    shared: &Shared,
    method: Method,
    path: &str,
    body: Bytes,
    limit: Duration,
) -> Result<(Exchange, Deadline), RequestError> {
    let line = match shared.idle_line().await {
        Some(line) => line,
        None => shared.connect().await?,
    };
    let request = request(shared, &line, method, path, body)?;
    let clock = shared.clock;
    let until_ns = clock.now_ns() + u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX / 2);
    let words = format!(
        "{path} of {} did not answer within {} s",
        shared.endpoint,
        limit.as_secs_f64()
    );
    let mut deadline = Deadline::new(clock, until_ns, (ErrorClass::FirstTokenTimeout, words));
    match Exchange::begin(line, request, &mut deadline).await {
        Ok(exchange) => Ok((exchange, deadline)),
        Err(no_answer) => Err(no_answer.error),
    }
}

struct Trial {
    tokens: u32,
    counted: Option<u32>,
}

/// The entry of the model that is asked for, or of the only one there is.
fn choose_model<'a>(
    listed: Option<&'a Value>,
    wanted: Option<&str>,
) -> Result<Option<&'a Value>, ConnectError> {
    let entries = listed
        .and_then(|l| l.pointer("/data"))
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let ids = || {
        let all: Vec<String> = entries.iter().filter_map(|e| text(e, "/id")).collect();
        let shown = all.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        let more = if all.len() > 8 { ", …" } else { "" };
        format!("{shown}{more}")
    };
    match (wanted, entries) {
        (Some(wanted), entries) => {
            let is_it = |e: &&Value| text(e, "/id").as_deref() == Some(wanted);
            let found = entries.iter().find(is_it);
            if found.is_none() && !entries.is_empty() {
                return Err(ConnectError::Input(format!(
                    "--model {wanted}: the server does not serve it; it serves {}",
                    ids()
                )));
            }
            Ok(found)
        }
        (None, [only]) => Ok(Some(only)),
        (None, []) => Err(ConnectError::Input(
            "--model: the server lists no model; name the one to ask for".into(),
        )),
        (None, _) => Err(ConnectError::Input(format!(
            "--model: the server serves several models, name one of {}",
            ids()
        ))),
    }
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer)?.as_str().map(str::to_owned)
}

fn number(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer)?.as_u64()
}

fn clamp(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn named(name: &str, version: Option<String>) -> String {
    version.map_or_else(|| name.to_owned(), |version| format!("{name} {version}"))
}

/// Whether `name` stands in `text` as a word of its own.
fn mentions(text: &str, name: &str) -> bool {
    let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !part_of_name(before) && !part_of_name(after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_words() {
        assert!(mentions(
            "Unsupported parameter: 'max_tokens'.",
            "max_tokens"
        ));
        assert!(!mentions("max_tokens_per_minute", "max_tokens"));
        assert!(!mentions("topmax_tokens", "max_tokens"));
    }

    #[test]
    fn the_model_is_the_one_named_or_the_only_one() {
        let two = serde_json::json!({"data": [{"id": "a"}, {"id": "b"}]});
        let one = serde_json::json!({"data": [{"id": "a"}]});
        let id = |found: Option<&Value>| found.and_then(|e| text(e, "/id"));
        assert_eq!(
            id(choose_model(Some(&two), Some("b")).unwrap()).unwrap(),
            "b"
        );
        assert_eq!(id(choose_model(Some(&one), None).unwrap()).unwrap(), "a");
        assert_eq!(id(choose_model(None, Some("x")).unwrap()), None);
        for (listed, wanted, words) in [
            (Some(&two), None, "a, b"),
            (Some(&two), Some("c"), "serves a, b"),
            (None, None, "no model"),
        ] {
            let error = choose_model(listed, wanted).unwrap_err();
            assert!(
                error.is_input() && error.to_string().contains(words),
                "{error}"
            );
        }
    }
}
