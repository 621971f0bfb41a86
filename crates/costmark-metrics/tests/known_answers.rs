//! Figures of runs whose every instant is known, on virtual time.

mod common;

use common::{Run, drive};
use costmark_core::ErrorClass;
use costmark_core::mock::{Draw, MockConfig};
use costmark_metrics::{
    AdviceCode, LatencySummary, LevelSummary, Slo, UnitInput, UnitSummary, summarise,
};

const MS: u64 = 1_000_000;

/// 10 ms to each token; 64 of them make 640 ms.
const EVEN: MockConfig = MockConfig {
    ttft_ns: 10 * MS,
    itl_ns: 10 * MS,
    max_sequences: usize::MAX,
    tokens_per_event: 1,
    runs: false,
    ttft_draw: Draw::Fixed,
    itl_draw: Draw::Fixed,
    seed: 0,
    stall: None,
    fail_every: 0,
    die_after_events: None,
};

fn summary(run: &Run, slo: Option<Slo>) -> UnitSummary {
    summarise(&UnitInput {
        concurrency: Some(run.concurrency),
        start_ns: run.start_ns,
        end_ns: run.end_ns,
        requests: &run.requests,
        background: &run.background,
        steps: &[],
        replicas: 1,
        roofline: None,
        slo,
    })
}

fn assert_near(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
}

/// All samples equal `ms`, within the three digits of a histogram.
fn assert_all(found: Option<LatencySummary>, ms: f64, n: u64) {
    let found = found.expect("there are samples");
    assert_eq!(found.n, n);
    assert_near(found.mean, ms);
    assert_eq!(found.max, ms);
    assert!(found.sd.is_some_and(|sd| sd < 1e-9 * ms));
    assert!((found.p50 / ms - 1.0).abs() < 1e-3, "{}", found.p50);
}

#[test]
fn a_steady_closed_loop() {
    let run = drive(EVEN, 4, 40, 64);
    let found = summary(&run, None);

    assert!(found.window.steady);
    assert_eq!(
        (found.window.start_ns, found.window.end_ns),
        (run.start_ns, run.end_ns)
    );
    assert_eq!(found.window.share_of_run, 1.0);
    // 43 ends of requests, 160 ms apart: 6.88 s.
    assert_near(found.window.seconds, 6.88);
    assert!(found.window.short);

    let rates = found.throughput;
    assert_near(rates.output_tok_per_s, 4.0 * 64.0 / 0.64);
    assert_near(rates.input_tok_per_s, 4.0 * 8.0 / 0.64);
    assert_near(rates.total_tok_per_s, 4.0 * 72.0 / 0.64);
    assert_near(rates.requests_per_s, 4.0 / 0.64);
    assert_near(rates.concurrency, 4.0);
    assert_eq!((rates.input_tokens, rates.output_tokens), (43 * 8, 43 * 64));

    assert_all(found.latency.ttft_ms, 10.0, 40);
    assert_all(found.latency.user_ttft_ms, 10.0, 40);
    assert_all(found.latency.itl_ms, 10.0, 40 * 63);
    assert_all(found.latency.tpot_ms, 10.0, 40);
    assert_all(found.latency.e2e_ms, 640.0, 40);
    assert_all(found.latency.ntpot_ms, 10.0, 40);
    let delay = found.latency.dispatch_delay_ms.expect("there are samples");
    assert_eq!((delay.max, delay.n), (0.0, 40));
    // Enough gaps for every percentile, too few requests for most.
    let p = |s: Option<LatencySummary>| s.map(|s| (s.p90.is_some(), s.p99.is_some()));
    assert_eq!(p(found.latency.itl_ms), Some((true, true)));
    assert_eq!(p(found.latency.ttft_ms), Some((false, false)));

    assert!(!found.latency.itl_is_inter_chunk);
    assert_eq!(found.steps, None);
    assert_eq!((found.requests.finished, found.requests.failed), (40, 0));
}

#[test]
fn one_token_has_no_gaps() {
    let found = summary(&drive(EVEN, 2, 10, 1), None);
    assert_all(found.latency.ttft_ms, 10.0, 10);
    assert_all(found.latency.e2e_ms, 10.0, 10);
    assert_eq!((found.latency.itl_ms, found.latency.tpot_ms), (None, None));
    assert_near(found.throughput.output_tok_per_s, 200.0);
}

#[test]
fn chunks_are_said_and_not_divided() {
    let config = MockConfig {
        tokens_per_event: 4,
        ..EVEN
    };
    let found = summary(&drive(config, 1, 5, 16), None);
    assert!(found.latency.itl_is_inter_chunk);
    assert_all(found.latency.itl_ms, 10.0, 5 * 3);
    // 30 ms over 15 further tokens.
    assert_all(found.latency.tpot_ms, 2.0, 5);
}

#[test]
fn queueing_shows_in_latency() {
    // Two of four requests are served at once: the others wait their turn.
    let config = MockConfig {
        max_sequences: 2,
        ..EVEN
    };
    let found = summary(&drive(config, 4, 40, 64), None);
    assert_near(found.throughput.output_tok_per_s, 200.0);
    assert_near(found.throughput.concurrency, 4.0);
    assert_all(found.latency.e2e_ms, 1280.0, 40);
    assert_all(found.latency.ttft_ms, 650.0, 40);
}

#[test]
fn failures_are_counted_by_class_and_have_no_latency() {
    let config = MockConfig {
        fail_every: 4,
        ..EVEN
    };
    let slo = Slo {
        ttft_ms: Some(10.0),
        tpot_ms: Some(10.0),
        e2e_ms: Some(640.0),
        ..Slo::default()
    };
    let run = drive(config, 4, 40, 64);
    let found = summary(&run, Some(slo));
    assert_eq!((found.requests.finished, found.requests.failed), (30, 10));
    assert_eq!(found.requests.errors[&ErrorClass::Device], 10);
    assert_near(found.requests.failed_share(), 0.25);
    assert_all(found.latency.e2e_ms, 640.0, 30);
    assert!(found.window.steady && found.window.share_of_run == 1.0);
    // Everything that finished met the limits.
    let goodput = found.goodput.expect("limits were given");
    assert_near(goodput.attainment, 0.75);
    assert_near(goodput.requests_per_s, found.throughput.requests_per_s);
    assert_near(goodput.output_tok_per_s, found.throughput.output_tok_per_s);

    let tight = Slo {
        e2e_ms: Some(639.9),
        ..slo
    };
    let goodput = summary(&run, Some(tight))
        .goodput
        .expect("limits were given");
    assert_eq!((goodput.attainment, goodput.output_tok_per_s), (0.0, 0.0));

    let level = LevelSummary::from_units(&[found]).expect("one unit");
    assert!(
        level
            .advice
            .iter()
            .any(|a| a.code == AdviceCode::FailedRequests)
    );
}

#[test]
fn nothing_measured_gives_zeros_and_no_latencies() {
    let found = summary(&drive(EVEN, 4, 0, 64), None);
    assert_eq!(found.throughput.total_tok_per_s, 0.0);
    assert_eq!(found.throughput.requests_per_s, 0.0);
    assert_eq!(found.latency.ttft_ms, None);
    let json = serde_json::to_string(&found).expect("serialises");
    assert!(!json.contains("NaN"), "{json}");
}

#[test]
fn repeats_are_pooled_and_spread() {
    let faster = MockConfig {
        ttft_ns: 8 * MS,
        itl_ns: 8 * MS,
        ..EVEN
    };
    let units: Vec<UnitSummary> = [EVEN, faster, EVEN]
        .map(|config| summary(&drive(config, 4, 40, 64), None))
        .into();
    let level = LevelSummary::from_units(&units).expect("three units");
    assert_eq!((level.repeats, level.concurrency_target), (3, Some(4)));
    assert_eq!(level.requests.finished, 120);
    assert_near(level.output_tok_per_s.value, 400.0);
    let (low, high) = (level.output_tok_per_s.low, level.output_tok_per_s.high);
    assert!(low.is_some_and(|low| low < 400.0) && high.is_some_and(|high| high > 500.0));
    // 450, 562.5, 450 tok/s: deviation 64.95 over mean 487.5.
    assert!((level.cv.expect("three repeats") - 0.133_235).abs() < 1e-5);
    let ttft = level.latency.ttft_ms.expect("there are samples");
    assert_eq!(ttft.n, 120);
    assert_near(ttft.mean, (80.0 * 10.0 + 40.0 * 8.0) / 120.0);
    assert!(ttft.p90.is_some() && ttft.p99.is_none());

    let codes: Vec<AdviceCode> = level.advice.iter().map(|a| a.code).collect();
    assert_eq!(
        codes,
        [
            AdviceCode::HighVariation,
            AdviceCode::ShortWindow,
            AdviceCode::TooFewSamples
        ]
    );
    for advice in &level.advice {
        assert!(advice.message.contains("--requests"), "{}", advice.message);
    }

    let json = serde_json::to_string(&level).expect("serialises");
    let read: LevelSummary = serde_json::from_str(&json).expect("reads back");
    assert_eq!(read.advice, level.advice);
    assert_eq!(read.requests, level.requests);
    assert_near(read.output_tok_per_s.value, level.output_tok_per_s.value);
}

/// Codes of the advice on one repeat.
fn advice(unit: UnitSummary) -> Vec<AdviceCode> {
    let level = LevelSummary::from_units(&[unit]).expect("one unit");
    level.advice.iter().map(|a| a.code).collect()
}

#[test]
fn a_slow_client_is_found_out() {
    let mut run = drive(EVEN, 4, 700, 200);
    let quiet = advice(summary(&run, None));
    assert_eq!(quiet, [AdviceCode::NoInterval]);
    // Sent 0.2 ms late, over 1 % of a TTFT of 10 ms.
    for record in &mut run.requests {
        record.scheduled_ns -= MS / 5;
    }
    let found = advice(summary(&run, None));
    assert_eq!(found, [AdviceCode::ClientLimited, AdviceCode::NoInterval]);
}

#[test]
fn a_load_that_was_never_there_is_said() {
    let mut run = drive(EVEN, 4, 700, 200);
    run.concurrency = 8;
    let unit = summary(&run, None);
    assert!(!unit.window.steady);
    assert_eq!(
        advice(unit),
        [AdviceCode::NotSteady, AdviceCode::NoInterval]
    );
}

#[test]
fn keys_carry_their_units() {
    let unit = summary(&drive(EVEN, 4, 40, 64), None);
    let json = serde_json::to_value(&unit).expect("serialises");
    for key in ["mean", "sd", "p50", "p90", "p99", "max", "n"] {
        for quantity in ["ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"] {
            assert!(
                json["latency"][quantity].get(key).is_some(),
                "{quantity} {key}"
            );
        }
    }
    for key in ["input_tok_per_s", "output_tok_per_s", "total_tok_per_s"] {
        assert!(json["throughput"][key].is_f64(), "{key}");
    }
    let read: UnitSummary = serde_json::from_value(json).expect("reads back");
    assert_eq!(read.histograms.itl.n(), unit.histograms.itl.n());
    assert_eq!(read.latency, unit.latency);
}
