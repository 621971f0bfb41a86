//! `costmark serve`: the engine behind the OpenAI protocol, as a target to measure.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use costmark_core::{BackendKind, MonotonicClock};
use costmark_http::serve::{ChatTemplate, RequestLog, ServeOptions, TextModel, serve};
use costmark_probe::Machine;

use crate::args::{EngineArgs, ModelArgs};
use crate::backend::{self, Demand};
use crate::failure::{Failure, Result};
use crate::plan::{EnginePlan, ModelPlan};
use crate::progress::Progress;
use crate::text::EngineText;
use crate::units::{self, Bytes};
use crate::{stop, threads};

/// Context that the memory for keys and values is sized for where none is named.
const DEFAULT_CONTEXT: u32 = 4096;
/// Sequences it is sized for.
const DEFAULT_SEQUENCES: u32 = 16;

/// How requests are taken.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Address to listen on. Others than this machine can reach it only if you say so, and
    /// anyone who can reach it can use it: there are no users and no keys
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    #[arg(help_heading = "Server")]
    listen: SocketAddr,
    /// Largest request, e.g. 8MiB
    #[arg(long, value_name = "BYTES", default_value = "8MiB", value_parser = units::bytes)]
    #[arg(help_heading = "Server")]
    max_body: Bytes,
    /// Most requests running or waiting; further ones are answered with 429
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1024,
        help_heading = "Server"
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    max_requests: u32,
    /// How long requests in flight may go on after Ctrl-C
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration)]
    #[arg(help_heading = "Server")]
    grace: Duration,
    /// File that gets a line of JSON for each request: when it came, when its first and last token
    /// were ready to be sent, its tokens, how it ended. Lines are added to what is there
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    log: Option<PathBuf>,
    /// No progress on stderr
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    let machine = Machine::detect();
    let engine = EnginePlan::resolve(&args.engine, None, machine.cpu_limits.usable_threads)?;
    if !matches!(engine.backend, BackendKind::Engine | BackendKind::Lockstep) {
        return Err(Failure::input(
            "--backend: serve runs a model; use engine or lockstep",
        ));
    }
    threads::limit_compute(engine.threads);
    stop::install()?;
    // Told before minutes are spent on loading: an address that is taken.
    let listener = TcpListener::bind(args.listen)
        .map_err(|e| Failure::input(format!("--listen {}: {e}", args.listen)))?;
    let address = listener.local_addr().map_err(Failure::run)?;
    let log = args.log.as_deref().map(|path| {
        RequestLog::append(path).map_err(|e| {
            let path = path.display();
            Failure::input(format!(
                "--log {path}: {e}; name a file that can be written"
            ))
        })
    });
    let log = log.transpose()?;

    let progress = Progress::new(args.quiet);
    let model = ModelPlan::resolve(&args.model, engine.backend);
    let opened = backend::open(&model, &engine, progress)?;
    let text = match opened.tokenizer() {
        Some(source) => {
            let chat = source.chat_template()?;
            let chat = chat
                .map(|t| ChatTemplate::new(&t.template, &t.bos_token, &t.eos_token))
                .transpose()
                .map_err(Failure::input)?;
            Some((source.load()?, chat))
        }
        None => None,
    };
    let context = opened.shape().map_or(u64::from(DEFAULT_CONTEXT), |shape| {
        shape.max_context.min(u64::from(DEFAULT_CONTEXT))
    });
    let engine = EnginePlan {
        max_context: engine.max_context.or(u32::try_from(context).ok()),
        ..engine
    };
    let demand = Demand {
        sequences: Some(engine.max_sequences.unwrap_or(DEFAULT_SEQUENCES)),
        tokens_per_sequence: u64::from(engine.max_context.unwrap_or(DEFAULT_CONTEXT)),
    };
    let mut backend = backend::start(opened, &engine, demand, MonotonicClock::start())?;
    let (text, chat) = match text {
        Some((tokenizer, chat)) => {
            let text: Arc<dyn TextModel> = Arc::new(EngineText::new(tokenizer));
            (Some(text), chat.map(Arc::new))
        }
        None => (None, None),
    };
    let options = ServeOptions {
        max_body_bytes: usize::try_from(args.max_body.0).unwrap_or(usize::MAX),
        max_requests: args.max_requests as usize,
        grace: args.grace,
        text,
        chat,
        log,
    };
    let info = backend.info();
    progress.say(&format!(
        "Serving {} ({}) on http://{address}, a target to measure and a demonstration, not a \
         product; context {} tokens{}{}. Ctrl-C stops",
        info.model,
        info.source,
        info.max_context,
        if options.text.is_none() {
            ", prompts as token ids only"
        } else {
            ""
        },
        if options.chat.is_none() {
            ", no chat template"
        } else {
            ""
        },
    ));
    let serving = stop::Measuring::begin();
    let served = serve(listener, backend.as_mut(), &options, &|| {
        stop::SIGNAL.is_requested()
    });
    drop(serving);
    served.map_err(Failure::run)
}
