//! Tokens per second of candle-transformers' own quantised Qwen3 on a GGUF file, in the terms
//! of `gguf_speed`: a prompt of 512 tokens, and decode of 64 tokens by one sequence (it runs
//! no more than one at a time on a CPU). `scripts/compare-llama-cpp` runs it in turn.
//!
//! `cargo run --release --example gguf_candle -- FILE.gguf`

use std::io::BufReader;
use std::time::Instant;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_qwen3::ModelWeights;
use costmark_engine::EngineError;
use costmark_engine::error::Result;

const PROMPT: u32 = 512;
const GENERATED: u32 = 64;
const CONTEXT: u32 = 16;

/// Runs tokens after `offset` earlier ones and says which comes next.
fn step(model: &mut ModelWeights, ids: &[u32], offset: u32) -> Result<u32> {
    let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
    let logits = model.forward(&input, offset as usize)?;
    Ok(logits.flatten_all()?.argmax(0)?.to_scalar()?)
}

fn prompt(len: u32) -> Vec<u32> {
    (0..len).map(|i| i * 7919 % 150_000).collect()
}

#[allow(clippy::print_stdout)]
fn main() -> Result<()> {
    let Some(path) = std::env::args().nth(1) else {
        return Err(EngineError::Option("usage: gguf_candle FILE.gguf".into()));
    };
    let fail = |error: std::io::Error| EngineError::file(&path, error.to_string());
    let mut file = BufReader::new(std::fs::File::open(&path).map_err(fail)?);
    let content = Content::read(&mut file)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;

    step(&mut model, &prompt(64), 0)?;
    model.clear_kv_cache();
    let begun = Instant::now();
    step(&mut model, &prompt(PROMPT), 0)?;
    let prefill = f64::from(PROMPT) / begun.elapsed().as_secs_f64();
    model.clear_kv_cache();
    let mut next = step(&mut model, &prompt(CONTEXT), 0)?;
    let begun = Instant::now();
    for at in CONTEXT..CONTEXT + GENERATED {
        next = step(&mut model, &[next], at)?;
    }
    let decode = f64::from(GENERATED) / begun.elapsed().as_secs_f64();
    println!("{{\"pp512\": {prefill:.2}, \"tg\": {{\"1\": {decode:.2}}}}}");
    Ok(())
}
