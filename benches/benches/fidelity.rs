//! How true the load generator keeps time on a real clock: what it records against what a
//! server of stated latencies does.
//!
//! - 1,000 streams at once, 50 ms to the first token, 10 ms between tokens: error of TTFT and
//!   of each gap.
//! - Poisson arrivals at 5,000 per second: how late requests are sent.
//!
//! `cargo bench --bench fidelity`, on a machine that has nothing else to do.

#![allow(clippy::print_stdout)] // It is what a bench is for.

use std::num::NonZeroU32;

use costmark_core::mock::{MockBackend, MockConfig, MockTime};
use costmark_core::{MonotonicClock, Sampling};
use costmark_load::{
    ClosedLoop, LengthDistribution, NullRecorder, OpenLoop, OpenWarmup, Schedule, Stop, StopSignal,
    UnitRun, Warmup, Workload,
};

const MS: f64 = 1e6;
const STREAMS: NonZeroU32 = NonZeroU32::MIN.saturating_add(999);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = MockConfig::default();
    let (ttft_ns, itl_ns) = (config.ttft_ns as f64, config.itl_ns as f64);

    let plan = ClosedLoop {
        warmup: Warmup::off(),
        ..ClosedLoop::new(STREAMS, Stop::Requests(4 * u64::from(STREAMS.get())))
    };
    let mut mock = MockBackend::new(config, MockTime::Real(MonotonicClock::start()));
    let run = plan.run(
        0,
        &mut mock,
        &workload(200),
        &mut NullRecorder,
        &StopSignal::new(),
    );
    let ttft: Vec<f64> = finished(&run)
        .filter_map(|r| Some((r.token_ns.first()? - r.sent_ns) as f64 - ttft_ns))
        .collect();
    let gaps: Vec<f64> = finished(&run)
        .flat_map(|r| r.token_ns.gaps())
        .flat_map(|(gap_ns, n)| std::iter::repeat_n(gap_ns as f64 - itl_ns, n as usize))
        .collect();
    println!("{STREAMS} streams of 200 tokens, 10 ms between tokens:");
    report("TTFT error", ttft);
    report("ITL error", gaps);

    let plan = OpenLoop {
        warmup: OpenWarmup::Off,
        ..OpenLoop::new(
            Schedule::Process("poisson:5000".parse()?),
            Stop::Duration(10_000_000_000),
            0,
        )
    };
    let mut mock = MockBackend::new(
        MockConfig::default(),
        MockTime::Real(MonotonicClock::start()),
    );
    let run = plan.run(
        0,
        &mut mock,
        &workload(4),
        &mut NullRecorder,
        &StopSignal::new(),
    )?;
    let late = finished(&run).map(|r| (r.sent_ns - r.scheduled_ns) as f64);
    println!("Poisson arrivals at 5,000/s, 4 tokens each:");
    report("dispatch delay", late.collect());
    Ok(())
}

fn finished(run: &UnitRun) -> impl Iterator<Item = &costmark_core::RequestRecord> {
    run.requests.iter().filter(|r| r.is_ok())
}

fn workload(output_tokens: u32) -> Workload {
    Workload {
        input: LengthDistribution::Fixed(128),
        output: LengthDistribution::Fixed(output_tokens),
        vocab_size: 32_000,
        seed: 0,
        ignore_eos: true,
        sampling: Sampling::Greedy,
    }
}

fn report(name: &str, mut errors_ns: Vec<f64>) {
    errors_ns.sort_unstable_by(f64::total_cmp);
    let n = errors_ns.len();
    let at = |share: f64| errors_ns[((n - 1) as f64 * share).round() as usize] / MS;
    let mean = errors_ns.iter().sum::<f64>() / n as f64;
    let variance = errors_ns.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / n as f64;
    println!(
        "{name:>15}: n {n}, mean {:.3} ms, σ {:.3} ms, p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms",
        mean / MS,
        variance.sqrt() / MS,
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
