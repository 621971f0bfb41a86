//! What the driver itself costs per token event, on a mock without latencies of its own.

use std::num::NonZeroU32;

use costmark_core::Sampling;
use costmark_core::mock::{MockBackend, MockConfig, MockTime};
use costmark_load::{
    ClosedLoop, LengthDistribution, NullRecorder, Stop, StopSignal, Warmup, Workload,
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const REQUESTS: u64 = 256;
const TOKENS: u32 = 256;

fn recording(c: &mut Criterion) {
    let workload = Workload {
        input: LengthDistribution::Fixed(128),
        output: LengthDistribution::Fixed(TOKENS),
        vocab_size: 32_000,
        seed: 0,
        ignore_eos: true,
        sampling: Sampling::Greedy,
    };
    let mut group = c.benchmark_group("recording");
    group.throughput(Throughput::Elements(REQUESTS * u64::from(TOKENS)));
    for concurrency in [1u32, 16, 256] {
        let slots = NonZeroU32::MIN.saturating_add(concurrency - 1);
        let plan = ClosedLoop {
            warmup: Warmup::off(),
            ..ClosedLoop::new(slots, Stop::Requests(REQUESTS))
        };
        group.bench_function(format!("{concurrency} in flight"), |b| {
            b.iter_batched(
                || MockBackend::new(MockConfig::default(), MockTime::Virtual),
                |mut mock| {
                    let signal = StopSignal::new();
                    plan.run(0, &mut mock, &workload, &mut NullRecorder, &signal)
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, recording);
criterion_main!(benches);
