//! `costmark run --endpoint`: a server elsewhere instead of a model in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use costmark_core::MonotonicClock;
use costmark_engine::TokenizerSource;
use costmark_http::{
    ApiChoice, ConnectError, Endpoint, HttpBackend, HttpOptions, PromptText, Secrets, Timeouts,
};

use crate::args::{ApiArg, RunArgs};
use crate::failure::{Failure, Result};
use crate::text::EngineText;

/// Further headers, one `Name: value` a line.
const HEADERS: &str = "COSTMARK_HEADERS";

/// Which server, asked how. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointPlan {
    endpoint: Endpoint,
    model: Option<String>,
    api: ApiChoice,
    stream: bool,
    http2: bool,
    tokenizer: Option<PathBuf>,
    api_key_env: String,
    ca_file: Option<PathBuf>,
    timeouts: Timeouts,
}

impl EndpointPlan {
    /// `None` where no server was named.
    pub(crate) fn resolve(args: &RunArgs) -> Result<Option<Self>> {
        let at = &args.endpoint;
        let Some(url) = &at.endpoint else {
            return Ok(None);
        };
        let endpoint: Endpoint = url
            .parse()
            .map_err(|e: ConnectError| Failure::input(format!("--endpoint: {e}")))?;
        let (model, engine) = (&args.model, &args.engine);
        let given = [
            ("--weights", model.weights.is_some()),
            ("--dtype", model.dtype.is_some()),
            ("--quantize", model.quantize.is_some()),
            ("--mock", args.mock.is_some()),
            ("--devices", args.devices.is_some()),
            ("--threads", engine.threads.is_some()),
            ("--kv-budget", engine.kv_budget.is_some()),
            ("--kv-dtype", engine.kv_dtype.is_some()),
            ("--block-size", engine.block_size.is_some()),
            ("--max-batched-tokens", engine.max_batched_tokens.is_some()),
            ("--max-sequences", engine.max_sequences.is_some()),
            ("--max-context", engine.max_context.is_some()),
            ("--no-prefix-cache", engine.no_prefix_cache),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Failure::input(format!(
                "{flag} is for a model in this process; with --endpoint the server decides, so \
                 leave it out"
            )));
        }
        let priced = args.price.price.is_some() || args.price.instance.is_some();
        if !endpoint.is_loopback() && !priced {
            return Err(Failure::input(format!(
                "{endpoint} is not this machine: say what an hour of the machine that serves \
                 costs, with --price or --instance"
            )));
        }
        Ok(Some(Self {
            endpoint,
            model: model.model.clone(),
            api: match at.api {
                ApiArg::Auto => ApiChoice::Auto,
                ApiArg::Completions => ApiChoice::Completions,
                ApiArg::Chat => ApiChoice::Chat,
            },
            stream: !at.no_stream,
            http2: at.http2,
            tokenizer: at.tokenizer.clone(),
            api_key_env: at.api_key_env.clone(),
            ca_file: at.ca_file.clone(),
            timeouts: Timeouts {
                connect: at.connect_timeout,
                first_token: at.first_token_timeout,
                between_tokens: at.token_timeout,
            },
        }))
    }

    /// What the model is called before the server was asked.
    pub(crate) fn model_name(&self) -> String {
        let model = self.model.clone();
        model.unwrap_or_else(|| "served".into())
    }

    /// Finds out who the server is and gets ready to drive it. Also gives the bound of prompt
    /// ids.
    pub(crate) fn connect(&self, clock: MonotonicClock) -> Result<(HttpBackend, u32)> {
        let backend = HttpBackend::connect(self.options()?, clock)?;
        let vocab_size = backend.vocab_size();
        Ok((backend, vocab_size))
    }

    fn options(&self) -> Result<HttpOptions> {
        let key = variable(&self.api_key_env)?;
        let headers = variable(HEADERS)?;
        let text: Option<Arc<dyn PromptText>> = match &self.tokenizer {
            Some(path) => Some(Arc::new(EngineText::new(tokenizer(path)?.load()?))),
            None => None,
        };
        Ok(HttpOptions {
            model: self.model.clone(),
            api: self.api,
            stream: self.stream,
            http2: self.http2,
            secrets: Secrets::new(key.as_deref(), headers.as_deref())?,
            ca_file: self.ca_file.clone(),
            timeouts: self.timeouts,
            text,
            ..HttpOptions::new(self.endpoint.clone())
        })
    }
}

impl std::fmt::Display for EndpointPlan {
    /// As it goes into the plan of a result.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let api = match self.api {
            ApiChoice::Auto => "auto",
            ApiChoice::Completions => "completions",
            ApiChoice::Chat => "chat",
        };
        let stream = if self.stream { "" } else { ", not streamed" };
        let http2 = if self.http2 { ", HTTP/2" } else { "" };
        write!(f, "{} ({api}{stream}{http2})", self.endpoint)
    }
}

fn variable(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        // Its value is not repeated: it may be a secret.
        Err(std::env::VarError::NotUnicode(_)) => Err(Failure::input(format!(
            "the variable {name} of the environment is not text"
        ))),
    }
}

fn tokenizer(path: &Path) -> Result<TokenizerSource> {
    let file = if path.is_dir() {
        path.join("tokenizer.json")
    } else {
        path.to_owned()
    };
    if !file.is_file() {
        return Err(Failure::input(format!(
            "--tokenizer: {} is no file",
            file.display()
        )));
    }
    let is_gguf = file
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    Ok(if is_gguf {
        TokenizerSource::Gguf(file)
    } else {
        TokenizerSource::Json(file)
    })
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        if error.is_input() {
            Self::Input(error.into())
        } else {
            Self::Run(error.into())
        }
    }
}
