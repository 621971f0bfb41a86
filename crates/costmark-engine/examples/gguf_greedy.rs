//! The greedy continuation of token ids on a GGUF file, as a JSON list.
//! `scripts/compare-llama-cpp --check` compares it with llama.cpp's.
//!
//! `cargo run --release --example gguf_greedy -- FILE.gguf 1,2,3 TOKENS`

use costmark_core::{Event, MonotonicClock, Request, Sampling};
use costmark_engine::error::Result;
use costmark_engine::{Checkpoint, Decoder, EngineCore, EngineError, EngineOptions, OpenOptions};

#[allow(clippy::print_stdout)]
fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = || EngineError::Option("usage: gguf_greedy FILE.gguf 1,2,3 TOKENS".into());
    let [path, ids, tokens] = args.as_slice() else {
        return Err(usage());
    };
    let ids: Option<Vec<u32>> = ids.split(',').map(|id| id.trim().parse().ok()).collect();
    let request = Request {
        id: 0,
        prompt: ids.ok_or_else(usage)?,
        max_tokens: tokens.parse().map_err(|_| usage())?,
        ignore_eos: true,
        sampling: Sampling::Greedy,
        logprobs: None,
    };
    let mut checkpoint = Checkpoint::open(&OpenOptions::new(path.as_str()))?;
    let decoder = Decoder::load(&checkpoint.config, checkpoint.weights.as_mut())?;
    let options = EngineOptions::default();
    let mut engine = EngineCore::new(decoder, &options, MonotonicClock::start())?;
    engine
        .add_request(&request)
        .map_err(|error| EngineError::Run(error.to_string()))?;
    let (mut events, mut output) = (Vec::new(), Vec::new());
    while !engine.is_idle() {
        engine.step(&mut events)?;
        for event in events.drain(..) {
            match event {
                Event::Tokens(token) => output.extend(token.token_id),
                Event::Failed { error, .. } => return Err(EngineError::Run(error.to_string())),
                _ => {}
            }
        }
    }
    println!("{output:?}");
    Ok(())
}
