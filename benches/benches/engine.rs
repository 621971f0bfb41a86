//! Engine steps on synthetic weights of the Qwen3-0.6B shape: a prompt of 512 tokens, and
//! one decode step at several batch sizes. Times are the step log's, so what stands
//! outside the engine does not count.

use std::time::Duration;

use costmark_core::{Event, MonotonicClock, Request, Sampling, StepRecord};
use costmark_engine::{
    Checkpoint, Decoder, EngineCore, EngineError, EngineOptions, FormatChoice, OpenOptions,
    TensorFormat, WeightChoice,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const PROMPT: u32 = 512;

/// Context at which decode is measured; short, as in other tools' decode benchmarks.
const CONTEXT: u32 = 16;

fn engine(format: FormatChoice) -> Result<EngineCore, EngineError> {
    let mut checkpoint = Checkpoint::open(&OpenOptions {
        weights: WeightChoice::Synthetic { seed: 1 },
        format,
        ..OpenOptions::new("qwen3-0.6b")
    })?;
    let decoder = Decoder::load(&checkpoint.config, checkpoint.weights.as_mut())?;
    let options = EngineOptions {
        prefix_cache: false,
        ..EngineOptions::default()
    };
    EngineCore::new(decoder, &options, MonotonicClock::start())
}

/// One step; its record.
fn step(engine: &mut EngineCore) -> Option<StepRecord> {
    let mut events = Vec::new();
    engine.step(&mut events).expect("synthetic weights run");
    events.into_iter().find_map(|event| match event {
        Event::Step(record) => Some(record),
        _ => None,
    })
}

fn add(engine: &mut EngineCore, id: u64, prompt: u32, max_tokens: u32) {
    let request = Request {
        id,
        prompt: (0..prompt)
            .map(|i| (i * 7919 + id as u32) % 150_000)
            .collect(),
        max_tokens,
        ignore_eos: true,
        sampling: Sampling::Greedy,
        logprobs: None,
    };
    engine.add_request(&request).expect("within the limits");
}

/// Time of `iterations` decode steps of `sequences` sequences.
fn decode(engine: &mut EngineCore, sequences: u64, iterations: u64) -> Duration {
    let mut total_ns = 0;
    let mut left = iterations;
    while left > 0 {
        for id in 0..sequences {
            add(engine, id, CONTEXT, 64);
        }
        while let Some(record) = step(engine) {
            if record.prefill.tokens == 0 && left > 0 {
                total_ns += record.duration_ns();
                left -= 1;
            }
            if left == 0 {
                (0..sequences).for_each(|id| drop(engine.cancel(id)));
            }
        }
    }
    Duration::from_nanos(total_ns)
}

fn steps(c: &mut Criterion) {
    let formats = [
        ("q8_0", FormatChoice::All(TensorFormat::Q8_0)),
        ("q4_k_m", FormatChoice::Q4KM),
    ];
    for (name, format) in formats {
        let mut engine = engine(format).expect("the shape is built in");
        let mut group = c.benchmark_group(format!("engine/{name}"));
        group.sample_size(10);
        group.throughput(Throughput::Elements(u64::from(PROMPT)));
        group.bench_function("prefill", |b| {
            b.iter_custom(|iterations| {
                let mut total_ns = 0;
                for _ in 0..iterations {
                    add(&mut engine, 0, PROMPT, 1);
                    while let Some(record) = step(&mut engine) {
                        total_ns += record.duration_ns();
                    }
                }
                Duration::from_nanos(total_ns)
            });
        });
        for sequences in [1, 4, 8, 16] {
            group.throughput(Throughput::Elements(sequences));
            group.bench_function(BenchmarkId::new("decode", sequences), |b| {
                b.iter_custom(|iterations| decode(&mut engine, sequences, iterations));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
