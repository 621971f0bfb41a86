//! Figures against theory: a queue with exponential times (M/M/1), and a server that stands
//! still for a second.

mod common;

use common::{Run, drive_open};
use costmark_core::RequestRecord;
use costmark_core::mock::{Draw, MockConfig, Stall};
use costmark_metrics::{
    LevelSummary, OpenLoad, UnitInput, UnitSummary, interval_over_repeats, summarise_open,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const MS: u64 = 1_000_000;

fn summary(run: &Run) -> UnitSummary {
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

/// A Poisson process of this rate feeds one server with exponential times of 100 ms on
/// average; the first `n / 5` requests fill the queue and are not measured.
fn mm1(per_s: f64, n: usize, seed: u64) -> UnitSummary {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut at_s = 0.0;
    let due_ns: Vec<u64> = (0..n)
        .map(|_| {
            at_s -= (1.0 - rng.random_range(0.0..1.0f64)).ln() / per_s;
            (at_s * 1e9) as u64
        })
        .collect();
    let config = MockConfig {
        ttft_ns: 100 * MS,
        ttft_draw: Draw::Exponential,
        seed: seed + 1_000,
        max_sequences: 1,
        ..MockConfig::default()
    };
    let mut run = drive_open(config, &due_ns, 1);
    run.start_ns = due_ns[n / 5];
    let is_measured = |r: &RequestRecord| r.scheduled_ns >= run.start_ns;
    let (requests, background) = std::mem::take(&mut run.requests)
        .into_iter()
        .partition(is_measured);
    (run.requests, run.background) = (requests, background);
    summary(&run)
}

/// Of an M/M/1 queue of arrival rate λ and service rate μ the time in the system is
/// exponential with rate μ − λ, and λ ÷ (μ − λ) requests are in it on average.
#[test]
fn a_queue_of_exponential_times_is_what_theory_says() {
    let (lambda, mu) = (6.0, 10.0);
    let units: Vec<UnitSummary> = (0..5).map(|seed| mm1(lambda, 20_000, seed)).collect();
    let level = LevelSummary::from_units(&units).expect("five units");
    let holds = |name: &str, figure: &dyn Fn(&UnitSummary) -> f64, truth: f64| {
        let values: Vec<f64> = units.iter().map(figure).collect();
        let found = interval_over_repeats(&values).expect("five values");
        let (low, high) = (found.low.unwrap(), found.high.unwrap());
        assert!(low <= truth && truth <= high, "{name}: {found:?} {truth}");
        // An interval of any width would hold it.
        assert!(high - low < 0.25 * truth, "{name}: {found:?}");
    };
    let sojourn_ms = 1e3 / (mu - lambda);
    let ttft = |u: &UnitSummary| u.latency.user_ttft_ms.expect("requests ended");
    holds("mean", &|u| ttft(u).mean, sojourn_ms);
    holds("median", &|u| ttft(u).p50, sojourn_ms * 2f64.ln());
    holds(
        "p99",
        &|u| ttft(u).p99.expect("enough"),
        sojourn_ms * 100f64.ln(),
    );
    holds(
        "in the system",
        &|u| u.throughput.concurrency,
        lambda / (mu - lambda),
    );
    holds("completed", &|u| u.throughput.requests_per_s, lambda);
    assert_eq!(level.saturated, Some(false));
}

/// The interval from within a unit holds the true mean about as often as it says, though
/// waits in a queue are strongly correlated.
#[test]
fn within_one_unit_the_interval_holds_the_truth() {
    let (lambda, mu) = (5.0, 10.0);
    let truth_ms = 1e3 / (mu - lambda);
    let runs = 120;
    let held = (0..runs)
        .filter(|&seed| {
            let within = mm1(lambda, 4_000, 7_000 + seed).within.expect("a window");
            let found = within.user_ttft_mean_ms.expect("requests ended");
            found.low.unwrap() <= truth_ms && truth_ms <= found.high.unwrap()
        })
        .count();
    let share = held as f64 / runs as f64;
    assert!((0.90..=0.98).contains(&share), "{share}");
}

/// A request every 10 ms, 50 ms each, no queue: nothing is ever slow but the second in which
/// the server takes nothing in. Those who wanted to be served then waited; those who were
/// handed over were served as quickly as ever.
#[test]
fn a_second_of_standstill_shows_on_the_users_clock_alone() {
    let due_ns: Vec<u64> = (0..2_000).map(|i| i * 10 * MS).collect();
    let drive = |stall| {
        let config = MockConfig {
            stall,
            ..MockConfig::default()
        };
        summary(&drive_open(config, &due_ns, 1))
    };
    let at = |unit: &UnitSummary| {
        let p99 = |l: Option<costmark_metrics::LatencySummary>| l.expect("ended").p99.expect("n");
        (p99(unit.latency.ttft_ms), p99(unit.latency.user_ttft_ms))
    };
    let (service, user) = at(&drive(None));
    assert!((service - 50.0).abs() < 0.1 && (user - 50.0).abs() < 0.1);
    let stalled = drive(Some(Stall {
        at_ns: 5_000 * MS,
        for_ns: 1_000 * MS,
    }));
    let (service, user) = at(&stalled);
    assert!((service - 50.0).abs() < 0.1, "{service}");
    // 100 of 2,000 requests were due in that second: those beyond the 95th percentile waited
    // up to all of it, evenly spread. The 99th is 4/5 of the way up.
    assert!((user - 850.0).abs() < 12.0, "{user}");
    let max_ms = stalled.latency.user_ttft_ms.expect("ended").max;
    assert!((max_ms - 1_050.0).abs() < 1e-6, "{max_ms}");
    let delay = stalled.latency.dispatch_delay_ms.expect("ended");
    assert!(delay.p99.expect("n") > 700.0, "{delay:?}");
    let level = LevelSummary::from_units(&[stalled]).expect("one unit");
    let limited = |a: &costmark_metrics::Advice| a.message.contains("client-limited");
    assert!(level.advice.iter().any(limited), "{:?}", level.advice);
}
