//! Open loops against a single server (M/D/1), whose behaviour is known.

mod common;

use common::{Run, drive, drive_open};
use costmark_core::mock::MockConfig;
use costmark_metrics::{
    AdviceCode, LevelSummary, OpenLoad, OpenLoopSummary, UnitInput, UnitSummary, WithinUnit,
    mean_by_blocks, summarise, summarise_open,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const MS: u64 = 1_000_000;
/// Every request takes 100 ms: capacity is 10 requests per second.
const SERVICE_S: f64 = 0.1;

fn single_server() -> MockConfig {
    MockConfig {
        ttft_ns: 100 * MS,
        max_sequences: 1,
        ..MockConfig::default()
    }
}

/// Instants of a Poisson process, after 1 s.
fn poisson(per_s: f64, n: usize, seed: u64) -> Vec<u64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut at_s = 1.0;
    (0..n)
        .map(|_| {
            at_s -= (1.0 - rng.random_range(0.0..1.0f64)).ln() / per_s;
            (at_s * 1e9) as u64
        })
        .collect()
}

fn input(run: &Run) -> UnitInput<'_> {
    UnitInput {
        concurrency: None,
        start_ns: run.start_ns,
        end_ns: run.end_ns,
        requests: &run.requests,
        background: &run.background,
        steps: &[],
        replicas: 1,
        roofline: None,
        slo: None,
    }
}

fn summary(run: &Run) -> UnitSummary {
    summarise_open(&input(run), OpenLoad::default())
}

fn open(unit: &UnitSummary) -> OpenLoopSummary {
    unit.open_loop.expect("an open loop")
}

/// Share of 40 runs of an M/D/1 queue that are called saturated.
fn saturated_share(utilisation: f64, n: usize) -> f64 {
    let verdicts: Vec<bool> = (0..40)
        .map(|seed| {
            // What came before has warmed the queue up.
            let warm = n / 2;
            let due_ns = poisson(utilisation / SERVICE_S, n + warm, seed);
            let mut run = drive_open(single_server(), &due_ns, 1);
            run.start_ns = due_ns[warm];
            let (requests, background) = std::mem::take(&mut run.requests)
                .into_iter()
                .partition(|r| r.scheduled_ns >= run.start_ns);
            (run.requests, run.background) = (requests, background);
            let saturation = open(&summary(&run)).saturation;
            saturation.expect("enough requests").is_saturated
        })
        .collect();
    verdicts.iter().filter(|&&saturated| saturated).count() as f64 / 40.0
}

#[test]
fn a_queue_below_capacity_is_not_called_saturated() {
    // Even where its waits are correlated over hundreds of requests.
    for utilisation in [0.3, 0.6, 0.8, 0.9, 0.95] {
        let share = saturated_share(utilisation, 400);
        assert!(share <= 0.05, "{utilisation}: {share}");
    }
}

#[test]
fn a_queue_above_capacity_is_called_saturated() {
    for (utilisation, n) in [(1.3, 400), (1.5, 200), (2.0, 100), (4.0, 50)] {
        let share = saturated_share(utilisation, n);
        assert!(share >= 0.95, "{utilisation}: {share}");
    }
}

#[test]
fn at_capacity_false_alarms_keep_to_their_level() {
    let share = saturated_share(1.0, 400);
    assert!(share <= 0.15, "{share}");
}

#[test]
fn slopes_are_those_of_the_queue() {
    // Every 80 ms one comes, every 100 ms one goes: 2.5 more each second, and each waits
    // 20 ms longer than the one before it, 250 ms for each second.
    let due_ns: Vec<u64> = (0..1_000).map(|i| i * 80 * MS).collect();
    let unit = summary(&drive_open(single_server(), &due_ns, 1));
    let saturation = open(&unit).saturation.expect("enough requests");
    assert!(saturation.is_saturated && saturation.blocks == 20);
    assert!((saturation.in_flight.slope_per_s - 2.5).abs() < 0.05);
    assert!((saturation.user_ttft_ms.slope_per_s - 250.0).abs() < 1.0);
    // The filling of an empty machine of 20 places is no growth.
    let config = MockConfig {
        ttft_ns: 1_000 * MS,
        ..MockConfig::default()
    };
    let due_ns: Vec<u64> = (0..400).map(|i| i * 50 * MS).collect();
    let filling = summary(&drive_open(config, &due_ns, 1));
    let saturation = open(&filling).saturation.expect("enough requests");
    assert!(!saturation.is_saturated, "{saturation:?}");
}

#[test]
fn offered_delivered_and_completed_are_told_apart() {
    let due_ns: Vec<u64> = (0..=1_000).map(|i| i * 10 * MS).collect();
    let mut run = drive_open(
        MockConfig {
            ttft_ns: MS,
            ..single_server()
        },
        &due_ns,
        1,
    );
    let unit = summary(&run);
    assert_eq!(open(&unit).offered_requests_per_s, 100.0);
    assert_eq!(open(&unit).delivered_requests_per_s, 100.0);
    assert_eq!(unit.throughput.requests_per_s, 100.0);
    assert!(!open(&unit).client_limited);
    let level = LevelSummary::from_units(&[unit]).expect("one unit");
    assert_eq!(level.saturated, Some(false));
    assert_eq!(level.offered_requests_per_s.map(|i| i.value), Some(100.0));

    // A client that falls behind by 2 % more and more: 20 of 1000 are sent after the end.
    for record in &mut run.requests {
        record.sent_ns += record.scheduled_ns / 49;
    }
    let late = summary(&run);
    assert!(open(&late).client_limited);
    assert!((open(&late).delivered_requests_per_s - 98.0).abs() < 0.2);
    let codes = |unit: UnitSummary| {
        let level = LevelSummary::from_units(&[unit]).expect("one unit");
        level.advice.iter().map(|a| a.code).collect::<Vec<_>>()
    };
    assert!(codes(late).contains(&AdviceCode::ClientLimited));

    // The same because a bound was asked for is not the client's fault.
    let load = OpenLoad {
        max_in_flight: Some(1),
        delayed_by_cap: 980,
    };
    let capped = summarise_open(&input(&run), load);
    assert!(!open(&capped).client_limited);
    let codes = codes(capped);
    assert!(codes.contains(&AdviceCode::DelayedByCap));
    assert!(!codes.contains(&AdviceCode::ClientLimited));
}

#[test]
fn saturation_is_advised_on() {
    let due_ns = poisson(20.0, 300, 1);
    let unit = summary(&drive_open(single_server(), &due_ns, 1));
    let level = LevelSummary::from_units(&[unit.clone(), unit]).expect("two units");
    let advice = level
        .advice
        .iter()
        .find(|a| a.code == AdviceCode::Saturated)
        .expect("advice");
    assert!(advice.message.contains("--rate"), "{}", advice.message);
    let json = serde_json::to_string(&level).expect("serialises");
    let read: LevelSummary = serde_json::from_str(&json).expect("reads back");
    assert_eq!(read.saturated, Some(true));
}

#[test]
fn few_requests_are_not_judged() {
    let due_ns = poisson(20.0, 49, 1);
    let unit = summary(&drive_open(single_server(), &due_ns, 1));
    assert_eq!(open(&unit).saturation, None);
    let level = LevelSummary::from_units(&[unit]).expect("one unit");
    assert_eq!(level.saturated, None);
}

/// A closed loop's summary says nothing of open loops, and stored ones still read.
#[test]
fn closed_loops_have_none_of_this() {
    let unit = summarise(&input(&drive(MockConfig::default(), 2, 10, 4)));
    let json = serde_json::to_value(&unit).expect("serialises");
    assert!(json.get("open_loop").is_none());
    let read: UnitSummary = serde_json::from_value(json).expect("reads back");
    assert_eq!(read.open_loop, None);
    let level = LevelSummary::from_units(&[unit]).expect("one unit");
    assert_eq!(
        (level.saturated, level.offered_requests_per_s),
        (None, None)
    );
}

/// The mean wait of M/D/1 at 60 %, ρ·D/(2·(1 − ρ)) = 75 ms, lies in the interval of a run in
/// nearly all runs, and in fewer if samples were taken for independent.
#[test]
fn within_one_run_the_interval_holds_the_true_mean() {
    let expected_ms = 75.0 + 100.0;
    let (mut held, mut held_if_independent) = (0, 0);
    let runs = 100;
    for seed in 0..runs {
        let due_ns = poisson(6.0, 3_000, 1_000 + seed);
        let run = drive_open(single_server(), &due_ns, 1);
        let window = summary(&run).window;
        let found = WithinUnit::of(&input(&run), &window).expect("a window");
        let ttft = found.user_ttft_mean_ms.expect("requests");
        let holds = |low: f64, high: f64| low <= expected_ms && expected_ms <= high;
        held += u32::from(holds(ttft.low.unwrap_or(0.0), ttft.high.unwrap_or(0.0)));
        let ttfts: Vec<f64> = run
            .requests
            .iter()
            .map(|r| (r.finished_ns - r.scheduled_ns) as f64 / 1e6)
            .collect();
        let n = ttfts.len() as f64;
        let variance = ttfts.iter().map(|t| (t - ttft.value).powi(2)).sum::<f64>() / n;
        let half = 1.96 * (variance / n).sqrt();
        held_if_independent += u32::from(holds(ttft.value - half, ttft.value + half));
    }
    assert!((88..=99).contains(&held), "{held} of {runs}");
    assert!(held_if_independent < held, "{held_if_independent}");
}

#[test]
fn within_unit_rates_are_the_windows() {
    let due_ns = poisson(6.0, 500, 4);
    let run = drive_open(single_server(), &due_ns, 3);
    assert_eq!(run.concurrency, 0, "an open loop has no target");
    let unit = summary(&run);
    let found = WithinUnit::of(&input(&run), &unit.window).expect("a window");
    let ratio = found.output_tok_per_s.value / unit.throughput.output_tok_per_s;
    assert!((ratio - 1.0).abs() < 1e-9);
    assert!(found.output_tok_per_s.low < Some(found.output_tok_per_s.value));
    // Deterministic.
    let again = WithinUnit::of(&input(&run), &unit.window).expect("a window");
    assert_eq!(found, again);
    assert!(mean_by_blocks(&[1.0; 5]).is_some_and(|i| i.low.is_none()));
}
