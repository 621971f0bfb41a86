//! Replays a trace of a million requests of 200 output tokens each on virtual time, in a
//! process of its own: requests per second, bytes per request, and that two replays agree to
//! the bit.
//!
//! `cargo bench --bench replay [-- REQUESTS]`

#![allow(clippy::print_stdout)] // It is what a bench is for.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufReader;
use std::time::Instant;

use costmark_core::mock::{MockBackend, MockConfig, MockTime};
use costmark_load::{
    NullRecorder, OpenLoop, Stop, StopSignal, Trace, TraceOptions, TraceSource, UnitRun,
};
use costmark_metrics::{OpenLoad, UnitInput, summarise_open};

const OUTPUT_TOKENS: u32 = 200;
const PER_S: f64 = 5_000.0;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let named = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let requests: u64 = named.unwrap_or(1_000_000);
    println!("{requests} requests of {OUTPUT_TOKENS} output tokens, {PER_S} per second of trace");

    let begun = Instant::now();
    let trace = trace(requests)?;
    println!("read the trace in {:.2} s", begun.elapsed().as_secs_f64());
    let source = trace.source(32_000, 0);
    let plan = OpenLoop::new(trace.schedule(), Stop::Requests(u64::MAX), 0);

    // Tokens one by one first: it holds no more memory and makes no new peak.
    let mut hashes = Vec::new();
    for (name, runs, share) in [
        ("events", false, 20),
        ("runs of events", true, 1),
        ("runs again", true, 1),
    ] {
        let begun = Instant::now();
        let stop = Stop::Requests(requests / share);
        let run = replay(
            &OpenLoop {
                stop,
                ..plan.clone()
            },
            &source,
            runs,
        )?;
        let wall_s = begun.elapsed().as_secs_f64();
        let n = run.requests.len();
        let tokens = n as f64 * f64::from(OUTPUT_TOKENS);
        println!(
            "{name:>15}: {n} requests in {wall_s:.2} s: {:.0} requests/s, {:.1} M tokens/s, \
             resident at most {:.0} MB",
            n as f64 / wall_s,
            tokens / wall_s / 1e6,
            peak_rss_mb()
        );
        if share == 1 {
            hashes.push(fingerprint(&run));
            let begun = Instant::now();
            let summary = summarise(&run);
            println!(
                "{:>15}  summarised in {:.2} s: {:.1} output tok/s, resident at most {:.0} MB",
                "",
                begun.elapsed().as_secs_f64(),
                summary.throughput.output_tok_per_s,
                peak_rss_mb()
            );
        }
    }
    println!(
        "two replays agree: {}",
        hashes.windows(2).all(|h| h[0] == h[1])
    );
    Ok(())
}

/// Evenly spread arrivals of mixed input lengths, through the reader of traces.
fn trace(requests: u64) -> Result<Trace, Box<dyn std::error::Error>> {
    let mut text = String::from("at_s,input_tokens,output_tokens\n");
    for i in 0..requests {
        let input = 16 + i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 2_000;
        let at_s = i as f64 / PER_S;
        text.push_str(&format!("{at_s:.6},{input},{OUTPUT_TOKENS}\n"));
    }
    let reader = BufReader::new(text.as_bytes());
    Ok(Trace::read(reader, "generated", &TraceOptions::default())?)
}

fn replay(
    plan: &OpenLoop,
    source: &TraceSource,
    runs: bool,
) -> Result<UnitRun, Box<dyn std::error::Error>> {
    let config = MockConfig {
        runs,
        ..MockConfig::default()
    };
    let mut mock = MockBackend::new(config, MockTime::Virtual);
    let signal = StopSignal::new();
    Ok(plan.run(0, &mut mock, source, &mut NullRecorder, &signal)?)
}

fn summarise(run: &UnitRun) -> costmark_metrics::UnitSummary {
    let input = UnitInput {
        concurrency: None,
        start_ns: run.start_ns,
        end_ns: run.end_ns,
        requests: &run.requests,
        background: &run.background,
        steps: &[],
        replicas: 1,
        roofline: None,
        slo: None,
    };
    summarise_open(&input, OpenLoad::default())
}

/// Of every instant of every request.
fn fingerprint(run: &UnitRun) -> u64 {
    let mut hasher = DefaultHasher::new();
    for record in &run.requests {
        (
            record.id,
            record.scheduled_ns,
            record.sent_ns,
            record.finished_ns,
        )
            .hash(&mut hasher);
        for (gap_ns, times) in record.token_ns.gaps() {
            (gap_ns, times).hash(&mut hasher);
        }
        record.token_ns.first().hash(&mut hasher);
    }
    hasher.finish()
}

/// Most memory resident so far; not a number where the system does not tell.
fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kb = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    kb.map_or(f64::NAN, |kb: f64| kb * 1024.0 / 1e6)
}
