//! Tokens per second on a GGUF file in the terms of llama.cpp's own benchmarks, as one line
//! of JSON: a prompt of 512 tokens (`pp512`) and decode of 64 tokens by 1, 4, 8 and 16
//! sequences (`tg`), each once. `scripts/compare-llama-cpp` runs it in turn with those.
//!
//! `cargo run --release -p costmark-engine --example gguf_speed -- FILE.gguf`

use costmark_core::{Event, MonotonicClock, Request, Sampling, StepRecord};
use costmark_engine::error::Result;
use costmark_engine::{Checkpoint, Decoder, EngineCore, EngineError, EngineOptions, OpenOptions};

const PROMPT: u32 = 512;
const GENERATED: u32 = 64;
/// Prompt before decode is measured, as short as in llama-batched-bench's runs here.
const CONTEXT: u32 = 16;

/// Serves `sequences` requests together and returns the steps of their prompts and those
/// of their decode. A step that mixes them is in neither.
fn serve(
    engine: &mut EngineCore,
    sequences: u32,
    prompt: u32,
    output: u32,
) -> Result<(Vec<StepRecord>, Vec<StepRecord>)> {
    let vocab = engine.decoder().config().shape.vocab_size as u32;
    for id in 0..sequences {
        let request = Request {
            id: u64::from(id),
            prompt: (0..prompt).map(|i| (i * 7919 + id * 31) % vocab).collect(),
            max_tokens: output,
            ignore_eos: true,
            sampling: Sampling::Greedy,
        };
        engine
            .add_request(&request)
            .map_err(|error| EngineError::Run(error.to_string()))?;
    }
    let (mut prefill, mut decode, mut events) = (Vec::new(), Vec::new(), Vec::new());
    while !engine.is_idle() {
        engine.step(&mut events)?;
        for event in events.drain(..) {
            match event {
                Event::Step(step) if step.decode.tokens == 0 => prefill.push(step),
                Event::Step(step) if step.prefill.tokens == 0 => decode.push(step),
                _ => {}
            }
        }
    }
    Ok((prefill, decode))
}

/// Tokens run through the model per second of step time.
fn rate(steps: &[StepRecord]) -> f64 {
    let tokens: u32 = steps
        .iter()
        .map(|s| s.prefill.tokens + s.decode.tokens)
        .sum();
    let ns: u64 = steps.iter().map(StepRecord::duration_ns).sum();
    f64::from(tokens) / ns as f64 * 1e9
}

#[allow(clippy::print_stdout)]
fn main() -> Result<()> {
    let Some(path) = std::env::args().nth(1) else {
        return Err(EngineError::Option("usage: gguf_speed FILE.gguf".into()));
    };
    let mut checkpoint = Checkpoint::open(&OpenOptions::new(path))?;
    let decoder = Decoder::load(&checkpoint.config, checkpoint.weights.as_mut())?;
    let options = EngineOptions {
        prefix_cache: false,
        max_context: Some(PROMPT + GENERATED),
        ..EngineOptions::default()
    };
    let mut engine = EngineCore::new(decoder, &options, MonotonicClock::start())?;
    serve(&mut engine, 1, 64, 4)?;
    let prompt = rate(&serve(&mut engine, 1, PROMPT, 1)?.0);
    let mut decode = Vec::new();
    for sequences in [1, 4, 8, 16] {
        let steps = serve(&mut engine, sequences, CONTEXT, GENERATED)?.1;
        decode.push(format!("\"{sequences}\": {:.2}", rate(&steps)));
    }
    println!(
        "{{\"pp512\": {prompt:.2}, \"tg\": {{{}}}}}",
        decode.join(", ")
    );
    Ok(())
}
