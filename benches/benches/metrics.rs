//! Summarising a large unit: 100,000 requests of 32 tokens.

use std::hint::black_box;

use costmark_core::{FinishReason, Outcome, RequestRecord, TokenTimes};
use costmark_metrics::{LevelSummary, UnitInput, summarise};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const REQUESTS: u64 = 100_000;
const TOKENS: u64 = 32;
const CONCURRENCY: u64 = 64;
const MS: u64 = 1_000_000;

/// A closed loop with gaps of 10 to 13 ms, spread by a hash of the position.
fn records() -> Vec<RequestRecord> {
    let gap_ns = |i: u64| 10 * MS + i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (3 * MS);
    let mut slot_free_ns = vec![0; CONCURRENCY as usize];
    (0..REQUESTS)
        .map(|id| {
            let slot = &mut slot_free_ns[(id % CONCURRENCY) as usize];
            let scheduled_ns = *slot;
            let mut at_ns = scheduled_ns + 50 * MS;
            let token_ns: TokenTimes = (0..TOKENS)
                .map(|i| {
                    at_ns += gap_ns(id * TOKENS + i);
                    at_ns
                })
                .collect();
            *slot = at_ns;
            RequestRecord {
                id,
                turn: None,
                scheduled_ns,
                sent_ns: scheduled_ns + 20_000,
                token_ns,
                event_tokens: Vec::new(),
                finished_ns: at_ns,
                input_tokens: 128,
                cached_tokens: 0,
                output_tokens: TOKENS as u32,
                output_hash: None,
                outcome: Outcome::Finished(FinishReason::Length),
            }
        })
        .collect()
}

fn metrics(c: &mut Criterion) {
    let requests = records();
    let input = UnitInput {
        concurrency: Some(CONCURRENCY as u32),
        start_ns: 0,
        end_ns: requests.iter().map(|r| r.finished_ns).max().unwrap_or(0),
        requests: &requests,
        background: &[],
        steps: &[],
        replicas: 1,
        roofline: None,
        slo: None,
    };
    let mut group = c.benchmark_group("metrics");
    group.sample_size(10);
    group.throughput(Throughput::Elements(REQUESTS * TOKENS));
    group.bench_function("summarise 100k requests", |b| {
        b.iter(|| summarise(black_box(&input)));
    });
    let unit = summarise(&input);
    let units = vec![unit.clone(), unit.clone(), unit];
    group.throughput(Throughput::Elements(3));
    group.bench_function("pool 3 repeats", |b| {
        b.iter_batched(
            || units.clone(),
            |units| LevelSummary::from_units(black_box(&units)),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, metrics);
criterion_main!(benches);
