//! Where a step's time goes: products with weights, attention, the operations around
//! them, sampling, scheduling. Synthetic weights of the Qwen3-0.6B shape.
//!
//! `cargo run --release --example profile -- [q4_k_m|bf16|…] [block=32] [step=512]
//! [512 16x256 …]`: a number is a prompt alone, `16x256` decode of 16 sequences after 256.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use candle_core::Tensor;
use costmark_core::{Event, MonotonicClock, Request, Sampling, StepRecord};
use costmark_engine::error::Result;
use costmark_engine::ops::cpu::CpuOps;
use costmark_engine::ops::{AttentionInput, Norm, Ops};
use costmark_engine::{
    Checkpoint, Decoder, EngineCore, EngineOptions, FormatChoice, OpenOptions, TensorFormat,
    WeightChoice,
};

/// Nanoseconds spent in each operation.
#[derive(Default)]
struct Times {
    attend: AtomicU64,
    add_norm: AtomicU64,
    silu_mul: AtomicU64,
}

struct Timed {
    inner: CpuOps,
    times: Arc<Times>,
}

fn timed<T>(total: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    total.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    result
}

impl Ops for Timed {
    fn add_norm(&self, x: Tensor, delta: Option<&Tensor>, norm: &Norm) -> Result<(Tensor, Tensor)> {
        timed(&self.times.add_norm, || self.inner.add_norm(x, delta, norm))
    }

    fn silu_mul(&self, gate: Tensor, up: &Tensor) -> Result<Tensor> {
        timed(&self.times.silu_mul, || self.inner.silu_mul(gate, up))
    }

    fn attend(&mut self, layer: usize, input: &AttentionInput<'_>) -> Result<Tensor> {
        timed(&self.times.attend, || self.inner.attend(layer, input))
    }
}

/// Percentages of the time of `steps`, and tokens per second.
#[allow(clippy::print_stdout)]
fn report(what: &str, steps: &[StepRecord], times: &Times) {
    let sum = |f: fn(&StepRecord) -> u64| steps.iter().map(f).sum::<u64>() as f64;
    let total = sum(StepRecord::duration_ns);
    let tokens = sum(|s| u64::from(s.prefill.tokens + s.decode.tokens));
    let part = |t: &AtomicU64| t.swap(0, Ordering::Relaxed) as f64;
    let (attend, norm, silu) = (
        part(&times.attend),
        part(&times.add_norm),
        part(&times.silu_mul),
    );
    let forward = sum(|s| s.forward_ns);
    let share = |ns: f64| 100.0 * ns / total;
    println!(
        "{what:<24} {:8.1} tok/s {:8.2} ms/step | products {:5.1} % attend {:5.1} % norm {:4.2} % \
         gate {:4.2} % sample {:4.2} % schedule {:5.3} %",
        tokens / total * 1e9,
        total / steps.len() as f64 / 1e6,
        share(forward - attend - norm - silu),
        share(attend),
        share(norm),
        share(silu),
        share(sum(|s| s.sample_ns)),
        share(sum(|s| s.schedule_ns)),
    );
}

fn drain(engine: &mut EngineCore, until: impl Fn(&StepRecord) -> bool) -> Result<Vec<StepRecord>> {
    let (mut steps, mut events) = (Vec::new(), Vec::new());
    while !engine.is_idle() {
        engine.step(&mut events)?;
        for event in events.drain(..) {
            if let Event::Step(step) = event
                && until(&step)
            {
                steps.push(step);
            }
        }
    }
    Ok(steps)
}

/// What to measure: a prompt alone, or decode steps of sequences after a prompt.
enum Case {
    Prefill { prompt: u32 },
    Decode { sequences: u32, prompt: u32 },
}

impl Case {
    /// `512` or `16x256`.
    fn parse(text: &str) -> Option<Self> {
        Some(match text.split_once('x') {
            Some((sequences, prompt)) => Self::Decode {
                sequences: sequences.parse().ok()?,
                prompt: prompt.parse().ok()?,
            },
            None => Self::Prefill {
                prompt: text.parse().ok()?,
            },
        })
    }
}

const DEFAULT_CASES: [&str; 8] = ["128", "512", "1024", "1x8", "4x8", "8x8", "16x8", "16x256"];

/// Decode steps measured in each case.
const STEPS: u32 = 12;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u32| {
        let value = arguments.iter().find_map(|a| a.strip_prefix(name));
        value.and_then(|v| v.parse().ok()).unwrap_or(default)
    };
    let format = TensorFormat::ALL
        .into_iter()
        .find(|format| arguments.iter().any(|a| a == format.name()));
    let mut checkpoint = Checkpoint::open(&OpenOptions {
        weights: WeightChoice::Synthetic { seed: 1 },
        format: match arguments.iter().any(|a| a == "q4_k_m") {
            true => FormatChoice::Q4KM,
            false => FormatChoice::All(format.unwrap_or(TensorFormat::Q8_0)),
        },
        ..OpenOptions::new("qwen3-0.6b")
    })?;
    let decoder = Decoder::load(&checkpoint.config, checkpoint.weights.as_mut())?;
    let defaults = EngineOptions::default();
    let options = EngineOptions {
        prefix_cache: false,
        block_size: number("block=", defaults.block_size),
        max_batched_tokens: number("step=", defaults.max_batched_tokens),
        ..defaults
    };
    let times = Arc::new(Times::default());
    let mut engine =
        EngineCore::with_ops(decoder, &options, MonotonicClock::start(), |shape, kv| {
            Ok(Box::new(Timed {
                inner: CpuOps::new(shape, kv, options.kv_dtype)?,
                times: Arc::clone(&times),
            }))
        })?;
    let mut cases: Vec<Case> = arguments.iter().filter_map(|a| Case::parse(a)).collect();
    if cases.is_empty() {
        cases = DEFAULT_CASES
            .iter()
            .filter_map(|a| Case::parse(a))
            .collect();
    }
    for case in cases {
        let (sequences, prompt, output) = match case {
            Case::Prefill { prompt } => (1, prompt, 1),
            Case::Decode { sequences, prompt } => (sequences, prompt, STEPS + 1),
        };
        for id in 0..u64::from(sequences) {
            let request = Request {
                id,
                prompt: (0..prompt)
                    .map(|i| (i * 7919 + id as u32) % 150_000)
                    .collect(),
                max_tokens: output,
                ignore_eos: true,
                sampling: Sampling::Greedy,
                logprobs: None,
            };
            // A request that does not fit shows as a case without steps.
            let _ = engine.add_request(&request);
        }
        if matches!(case, Case::Prefill { .. }) {
            let steps = drain(&mut engine, |_| true)?;
            report(&format!("prefill {prompt}"), &steps, &times);
            continue;
        }
        // Prefill steps are run but left out; so is their part of the operations' time.
        let (mut events, mut prompt_tokens) = (Vec::new(), sequences * prompt);
        while prompt_tokens > 0 && !engine.is_idle() {
            engine.step(&mut events)?;
            for event in events.drain(..) {
                if let Event::Step(step) = event {
                    prompt_tokens -= step.prefill.tokens;
                }
            }
        }
        for total in [&times.attend, &times.add_norm, &times.silu_mul] {
            total.store(0, Ordering::Relaxed);
        }
        let steps = drain(&mut engine, |s| s.prefill.tokens == 0)?;
        report(
            &format!("decode {sequences} after {prompt}"),
            &steps,
            &times,
        );
    }
    Ok(())
}
