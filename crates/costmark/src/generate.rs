//! `costmark generate`: continues one prompt.

use costmark_core::{
    Backend, BackendKind, Clock, Event, FinishReason, ModelShape, MonotonicClock, Request,
};
use costmark_engine::Tokenizer;
use costmark_probe::Machine;
use serde::Serialize;

use crate::args::GenerateArgs;
use crate::backend::{self, Demand};
use crate::failure::{Failure, Result};
use crate::plan::{EnginePlan, ModelPlan, sampling};
use crate::progress::Progress;
use crate::{output, stop, threads};

#[derive(Serialize)]
struct Generated {
    model: String,
    source: String,
    synthetic: bool,
    weight_dtype: String,
    prompt_ids: Vec<u32>,
    output_ids: Vec<u32>,
    /// Absent without a tokenizer.
    text: Option<String>,
    finish_reason: FinishReason,
    timings: Timings,
}

#[derive(Serialize)]
struct Timings {
    load_s: f64,
    ttft_ms: f64,
    /// Mean gap between tokens; absent for a single one.
    tpot_ms: Option<f64>,
    e2e_ms: f64,
}

/// Runs the command.
pub(crate) fn run(args: &GenerateArgs) -> Result<()> {
    let machine = Machine::detect();
    let engine = EnginePlan::resolve(&args.engine, None, machine.cpu_limits.usable_threads)?;
    if engine.backend == BackendKind::Mock {
        return Err(Failure::input(
            "--backend mock: it has no model to continue a prompt with; use engine or lockstep",
        ));
    }
    let sampling = sampling(&args.sampling, args.seed)?;
    threads::limit_compute(engine.threads);
    stop::install()?;

    let progress = Progress::new(args.quiet);
    let clock = MonotonicClock::start();
    let model = ModelPlan::resolve(&args.model, engine.backend);
    let opened = backend::open(&model, &engine, progress)?;
    let tokenizer = match opened.tokenizer() {
        Some(source) if args.prompt.is_some() => Some(source.load()?),
        // Ids are enough to go on; a vocabulary that cannot be read only costs the text.
        Some(source) => source.load().ok(),
        None => None,
    };
    let prompt = prompt_ids(args, tokenizer.as_ref())?;
    if let Some(shape) = opened.shape() {
        check(args, &prompt, shape)?;
    }
    let demand = Demand {
        sequences: Some(1),
        tokens_per_sequence: prompt.len() as u64 + u64::from(args.max_tokens),
    };
    let mut backend = backend::start(opened, &engine, demand, clock)?;
    if let Some(shape) = &backend.info().shape {
        check(args, &prompt, shape)?;
    }
    let load_s = clock.now_ns() as f64 / 1e9;

    let request = Request {
        id: 0,
        prompt: prompt.clone(),
        max_tokens: args.max_tokens,
        ignore_eos: args.ignore_eos,
        sampling,
        logprobs: None,
    };
    let output = serve(backend.as_mut(), request)?;
    let text = match &tokenizer {
        Some(tokenizer) => Some(tokenizer.decode(&output.ids)?),
        None => None,
    };
    if args.json {
        let info = backend.info();
        return output::json(&Generated {
            model: info.model.clone(),
            source: info.source.clone(),
            synthetic: info.synthetic,
            weight_dtype: info.weight_dtype.clone(),
            prompt_ids: prompt,
            text,
            finish_reason: output.reason,
            timings: output.timings(load_s),
            output_ids: output.ids,
        });
    }
    let plain = text.unwrap_or_else(|| {
        let ids: Vec<String> = output.ids.iter().map(u32::to_string).collect();
        ids.join(",")
    });
    output::text(&format!("{plain}\n"))
}

fn prompt_ids(args: &GenerateArgs, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    let ids = match (&args.prompt_ids, &args.prompt, tokenizer) {
        (Some(ids), _, _) => ids.clone(),
        (None, Some(text), Some(tokenizer)) => tokenizer.encode(text)?,
        (None, _, _) => {
            return Err(Failure::input(
                "--prompt: the model has no tokenizer (no tokenizer.json, and no vocabulary in a \
                 GGUF file); give token ids with --prompt-ids",
            ));
        }
    };
    if ids.is_empty() {
        return Err(Failure::input(
            "--prompt: it has no tokens; give at least one",
        ));
    }
    Ok(ids)
}

/// Whether the prompt and its continuation fit the model.
fn check(args: &GenerateArgs, prompt: &[u32], shape: &ModelShape) -> Result<()> {
    let vocab_size = shape.vocab_size;
    if let Some(id) = prompt.iter().find(|&&id| u64::from(id) >= vocab_size) {
        return Err(Failure::input(format!(
            "--prompt-ids: {id} is outside the vocabulary of {vocab_size} tokens (0 to {})",
            vocab_size - 1
        )));
    }
    let tokens = prompt.len() as u64 + u64::from(args.max_tokens);
    if tokens > shape.max_context {
        return Err(Failure::input(format!(
            "the prompt has {} tokens and --max-tokens {} are asked for, {tokens} together, but \
             the model's context is {}; shorten the prompt or lower --max-tokens",
            prompt.len(),
            args.max_tokens,
            shape.max_context
        )));
    }
    Ok(())
}

struct Output {
    ids: Vec<u32>,
    reason: FinishReason,
    sent_ns: u64,
    first_ns: u64,
    last_ns: u64,
}

impl Output {
    fn timings(&self, load_s: f64) -> Timings {
        let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
        let gaps = self.ids.len().saturating_sub(1);
        Timings {
            load_s,
            ttft_ms: ms(self.sent_ns, self.first_ns),
            tpot_ms: (gaps > 0).then(|| ms(self.first_ns, self.last_ns) / gaps as f64),
            e2e_ms: ms(self.sent_ns, self.last_ns),
        }
    }
}

fn serve(backend: &mut dyn Backend, request: Request) -> Result<Output> {
    let mut output = Output {
        ids: Vec::new(),
        reason: FinishReason::Length,
        sent_ns: backend.now_ns(),
        first_ns: 0,
        last_ns: 0,
    };
    backend.submit(request).map_err(Failure::run)?;
    let mut events = Vec::new();
    loop {
        backend.poll(None, &mut events).map_err(Failure::run)?;
        if events.is_empty() {
            return Err(Failure::run("the backend ended without an answer"));
        }
        for event in events.drain(..) {
            match event {
                Event::Tokens(tokens) => {
                    if output.ids.is_empty() {
                        output.first_ns = tokens.at_ns;
                    }
                    output.last_ns = tokens.at_ns;
                    output.ids.extend(tokens.token_id);
                }
                Event::Finished { reason, .. } => {
                    output.reason = reason;
                    return Ok(output);
                }
                Event::Failed { error, .. } => return Err(Failure::run(error)),
                Event::Sent { .. } | Event::Logprobs(_) | Event::TokenRun(_) | Event::Step(_) => {}
            }
        }
    }
}
