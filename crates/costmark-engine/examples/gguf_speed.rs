//! Tokens per second on a GGUF file in the terms of llama.cpp's own benchmarks, as one line
//! of JSON: a prompt of 512 tokens (`pp512`) and decode of 64 tokens by 1, 4, 8 and 16
//! sequences (`tg`), each once. `scripts/compare-llama-cpp` runs it in turn with those.
//!
//! Beside them what loading took (`load_s`) and what reading the file through once takes, out
//! of the system's cache into a small buffer (`read_s`); the most memory held while loading
//! (`load_peak_bytes`) and in the end (`held_bytes`), pages of the mapped file apart; and what
//! they are made of (`weight_bytes`, `kv_bytes`).
//!
//! `cargo run --release --example gguf_speed -- FILE.gguf`

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
            logprobs: None,
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

/// Seconds to read a file through, which is in the system's cache afterwards.
fn read_through(path: &str) -> Result<f64> {
    let fail = |error: std::io::Error| EngineError::file(path, error.to_string());
    let mut file = File::open(path).map_err(fail)?;
    let mut buffer = vec![0u8; 1 << 20];
    let begun = Instant::now();
    while file.read(&mut buffer).map_err(fail)? > 0 {}
    Ok(begun.elapsed().as_secs_f64())
}

/// Bytes of memory the process holds, file pages apart; `None` where the system does not tell.
fn held_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Calls `work` and says how much memory was held at the most, looking every millisecond.
fn watched<T>(work: impl FnOnce() -> T) -> (T, Option<u64>) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = held_bytes();
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                most = most.max(held_bytes());
            }
            most
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, watcher.join().ok().flatten())
    })
}

#[allow(clippy::print_stdout)]
fn main() -> Result<()> {
    let Some(path) = std::env::args().nth(1) else {
        return Err(EngineError::Option("usage: gguf_speed FILE.gguf".into()));
    };
    read_through(&path)?;
    let read_s = read_through(&path)?;
    let (loaded, load_peak_bytes) = watched(|| {
        let begun = Instant::now();
        let mut checkpoint = Checkpoint::open(&OpenOptions::new(path))?;
        let decoder = Decoder::load(&checkpoint.config, checkpoint.weights.as_mut())?;
        Ok::<_, EngineError>((decoder, begun.elapsed().as_secs_f64()))
    });
    let (decoder, load_s) = loaded?;
    let weight_bytes = decoder.weight_bytes();
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
    let limits = engine.limits();
    let kv_tokens = u64::from(limits.kv_blocks) * u64::from(limits.block_size);
    let kv_bytes = kv_tokens * engine.work().kv_bytes_per_token;
    let load_peak_bytes = load_peak_bytes.unwrap_or_default();
    let held_bytes = held_bytes().unwrap_or_default();
    println!(
        "{{\"pp512\": {prompt:.2}, \"tg\": {{{}}}, \"load_s\": {load_s:.3}, \"read_s\": {read_s:.3}, \
         \"load_peak_bytes\": {load_peak_bytes}, \"held_bytes\": {held_bytes}, \
         \"weight_bytes\": {weight_bytes}, \"kv_bytes\": {kv_bytes}}}",
        decode.join(", ")
    );
    Ok(())
}
