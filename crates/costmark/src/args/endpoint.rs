//! Flags that say which server is measured, and how it is asked.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::units;

/// Which of the two interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ApiArg {
    /// /v1/completions where the server has it
    Auto,
    /// /v1/completions: prompts as they are, as token ids where the server takes them
    Completions,
    /// /v1/chat/completions: the server wraps prompts in its template
    Chat,
}

/// A server to measure instead of a model in this process.
///
/// Secrets come from the environment only: the key from COSTMARK_API_KEY (or the variable
/// named by `--api-key-env`), further headers from COSTMARK_HEADERS, one `Name: value` a line.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server to measure")]
pub(crate) struct EndpointArgs {
    /// Measure the server at this address, which speaks the OpenAI protocol (vLLM, SGLang,
    /// llama-server, a rented one …), e.g. http://localhost:8000. --model names one of its models
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Which interface of it
    #[arg(long, value_enum, default_value = "auto", requires = "endpoint")]
    pub(crate) api: ApiArg,
    /// Ask for whole answers: only their end is seen, so TTFT is E2E
    #[arg(long, requires = "endpoint")]
    pub(crate) no_stream: bool,
    /// Speak HTTP/2 without TLS (with TLS it is negotiated)
    #[arg(long, requires = "endpoint")]
    pub(crate) http2: bool,
    /// The model's tokenizer: a tokenizer.json, a folder with one, or a .gguf file. Makes prompts
    /// of exact length where the server does not take token ids, counts what it does not, and
    /// checks what it counts
    #[arg(long, value_name = "PATH", requires = "endpoint")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Variable of the environment that holds the API key. Never a key itself
    #[arg(long, value_name = "NAME", default_value = "COSTMARK_API_KEY")]
    #[arg(requires = "endpoint")]
    pub(crate) api_key_env: String,
    /// Trust these certificates (PEM) instead of the system's
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Longest wait for a connection
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    #[arg(requires = "endpoint")]
    pub(crate) connect_timeout: Duration,
    /// Longest wait for the first token of a request
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = units::duration)]
    #[arg(requires = "endpoint")]
    pub(crate) first_token_timeout: Duration,
    /// Longest wait for the next token
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = units::duration)]
    #[arg(requires = "endpoint")]
    pub(crate) token_timeout: Duration,
}
