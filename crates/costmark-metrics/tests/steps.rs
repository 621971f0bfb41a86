//! Utilisation from step logs computed by hand.

use costmark_core::{Roofline, StepPart, StepRecord};
use costmark_metrics::{AdviceCode, LevelSummary, StepSummary, UnitInput, UnitSummary, summarise};

const MS: u64 = 1_000_000;
const PEAKS: Roofline = Roofline {
    read_bytes_per_s: 10e9,
    flops_per_s: 100e9,
};

/// A step of `ms` with 90 % of it in the forward pass.
fn step(start_ms: u64, ms: u64, prefill: u32, decode: u32, bytes: u64, flops: u64) -> StepRecord {
    let part = |tokens: u32, sequences: u32| StepPart {
        tokens,
        sequences,
        ..StepPart::default()
    };
    StepRecord {
        index: 0,
        replica: 0,
        start_ns: start_ms * MS,
        end_ns: (start_ms + ms) * MS,
        schedule_ns: 0,
        forward_ns: ms * MS * 9 / 10,
        sample_ns: 0,
        prefill: part(prefill, u32::from(prefill > 0)),
        decode: part(decode, decode),
        bytes,
        flops,
        waiting: 0,
        preempted: 1,
        kv_blocks_used: 0,
        kv_blocks_total: 0,
    }
}

fn summary(steps: &[StepRecord], end_ms: u64, roofline: Option<Roofline>) -> UnitSummary {
    summary_of(1, steps, end_ms, roofline)
}

fn summary_of(
    replicas: u32,
    steps: &[StepRecord],
    end_ms: u64,
    roofline: Option<Roofline>,
) -> UnitSummary {
    summarise(&UnitInput {
        concurrency: None,
        start_ns: 0,
        end_ns: end_ms * MS,
        requests: &[],
        background: &[],
        steps,
        replicas,
        roofline,
        slo: None,
    })
}

fn assert_near(found: Option<f64>, expected: f64) {
    let found = found.expect("a figure");
    assert!((found - expected).abs() < 1e-12, "{found} {expected}");
}

fn three_kinds() -> [StepRecord; 3] {
    [
        step(0, 40, 100, 0, 100_000_000, 2_000_000_000),
        step(50, 20, 0, 4, 120_000_000, 100_000_000),
        step(70, 20, 50, 3, 140_000_000, 1_000_000_000),
    ]
}

#[test]
fn each_kind_of_step_has_its_own_use() {
    let found = summary(&three_kinds(), 100, Some(PEAKS));
    let found: StepSummary = found.steps.expect("there are steps");
    // 0.1 s at 10 GB/s is 1 GB; 360 MB moved. 3.1 of 10 GFLOP done.
    assert_near(found.mbu, 0.36);
    assert_near(found.mfu, 0.31);
    assert_near(found.prefill.mbu, 0.1 / 0.4);
    assert_near(found.prefill.mfu, 2.0 / 4.0);
    assert_near(found.decode.mbu, 0.12 / 0.2);
    assert_near(found.mixed.mbu, 0.14 / 0.2);
    let tokens = [found.prefill, found.decode, found.mixed].map(|p| (p.steps, p.tokens));
    assert_eq!(tokens, [(1, 100), (1, 4), (1, 53)]);
    // (1·40 + 4·20 + 4·20) / 80 sequences, 80 of 100 ms in steps.
    assert_near(Some(found.batch_occupancy), 2.5);
    assert_near(Some(found.idle_share), 0.2);
    assert_near(Some(found.outside_forward_share), 0.1);
    assert_near(Some(found.mixed_step_share), 1.0 / 3.0);
    assert_near(Some(found.mixed_time_share), 0.25);
    assert_eq!((found.steps, found.preemptions), (3, 3));
}

#[test]
fn steps_across_the_edge_count_in_proportion() {
    // The window ends in the middle of the third step.
    let found = summary(&three_kinds(), 80, Some(PEAKS))
        .steps
        .expect("there are steps");
    assert_near(found.mbu, (0.1 + 0.12 + 0.07) / 0.8);
    assert_near(found.mixed.mbu, 0.7);
    assert_near(Some(found.mixed.seconds), 0.01);
    assert_eq!(
        (found.steps, found.mixed.steps, found.preemptions),
        (2, 0, 2)
    );
}

#[test]
fn without_peaks_or_steps_there_is_no_use() {
    let found = summary(&three_kinds(), 100, None)
        .steps
        .expect("there are steps");
    assert_eq!((found.mbu, found.mfu, found.decode.mbu), (None, None, None));
    assert_near(Some(found.batch_occupancy), 2.5);
    assert_eq!(summary(&[], 100, Some(PEAKS)).steps, None);
    let only_decode = &three_kinds()[1..2];
    let found = summary(only_decode, 100, Some(PEAKS))
        .steps
        .expect("one step");
    assert_eq!((found.prefill.mbu, found.prefill.steps), (None, 0));
}

#[test]
fn preemptions_become_advice() {
    let unit = summary(&three_kinds(), 100, Some(PEAKS));
    let level = LevelSummary::from_units(&[unit.clone(), unit]).expect("two units");
    let advice: Vec<_> = level
        .advice
        .iter()
        .filter(|a| a.code == AdviceCode::Preemptions)
        .collect();
    assert_eq!(advice.len(), 1);
    assert!(advice[0].message.contains("6 sequences") && advice[0].message.contains("--kv-budget"));
    assert_near(level.mbu.map(|i| i.value), 0.36);
    assert_near(level.decode_mbu.and_then(|i| i.high), 0.6);
}

/// Two of three replicas work at the same time; the third stands still.
#[test]
fn steps_of_replicas_overlap() {
    let mut steps = three_kinds().to_vec();
    steps.extend(three_kinds().map(|step| StepRecord { replica: 2, ..step }));
    let found = summary_of(3, &steps, 100, Some(PEAKS));
    let found = found.steps.expect("there are steps");
    assert_eq!(found.replicas, 3);
    // Of 3 × 0.1 s at 10 GB/s, 2 × 360 MB moved; of 30 GFLOP, 2 × 3.1 done.
    assert_near(found.mbu, 0.24);
    assert_near(found.mfu, 6.2 / 30.0);
    // A step has one replica, and uses of it what it used before.
    assert_near(found.decode.mbu, 0.12 / 0.2);
    assert_near(found.prefill.mfu, 2.0 / 4.0);
    assert_near(Some(found.decode.seconds), 0.04);
    assert_near(Some(found.batch_occupancy), 2.5);
    assert_near(Some(found.outside_forward_share), 0.1);
    // 160 of 300 ms in steps.
    assert_near(Some(found.idle_share), 1.0 - 160.0 / 300.0);
}
