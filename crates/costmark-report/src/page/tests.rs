//! What pictures must keep of the raw lines they are made from.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;

use proptest::prelude::*;

use super::pictures::{Pictures, Step};
use super::raw;
use crate::lines::{Phase, TelemetryLine};
use crate::store::{REQUESTS_FILE, STEPS_FILE};

const MS: u64 = 1_000_000;

/// Steps of 1 ms; the one in the middle is 40 times as slow, and one has 900 sequences.
fn step(i: u64, of: u64) -> Step {
    let slow = if i == of / 2 { 40 } else { 1 };
    Step {
        start_ns: i * 50 * MS,
        end_ns: i * 50 * MS + slow * MS,
        prefill_tokens: 0,
        decode_tokens: 4,
        sequences: if i == of / 3 { 900 } else { 4 },
        bytes: 1_000_000,
        flops: 3_000_000,
        waiting: 0,
        kv_blocks_used: 3,
        kv_blocks_total: 12,
    }
}

fn room(end_ns: u64) -> Pictures {
    Pictures::spanning(0, end_ns)
}

fn line(i: u64, of: u64) -> String {
    let s = step(i, of);
    format!(
        "{{\"unit\":{{\"level\":\"c4\",\"repeat\":0,\"phase\":\"measured\"}},\"index\":{i},\"start_ns\":{},\
         \"end_ns\":{},\"schedule_ns\":1,\"forward_ns\":2,\"sample_ns\":3,\"prefill\":{{\"tokens\":0,\
         \"sequences\":0,\"logits_rows\":0,\"kv_tokens_read\":0,\"attended_pairs\":0,\
         \"cached_kv_tokens_read\":0,\"cached_attended_pairs\":0}},\"decode\":{{\"tokens\":4,\
         \"sequences\":{},\"logits_rows\":4,\"kv_tokens_read\":9,\"attended_pairs\":9,\
         \"cached_kv_tokens_read\":0,\"cached_attended_pairs\":0}},\"bytes\":{},\"flops\":{},\"waiting\":0,\
         \"preempted\":0,\"kv_blocks_used\":3,\"kv_blocks_total\":12}}\n",
        s.start_ns, s.end_ns, s.sequences, s.bytes, s.flops
    )
}

#[test]
fn what_stands_out_is_kept_and_parts_make_the_whole() {
    const STEPS: u64 = 20_000;
    let mut whole = room(STEPS * 50 * MS);
    let mut parts = [whole.like(), whole.like(), whole.like()];
    for i in 0..STEPS {
        whole.add_step("c4", 0, Phase::Measured, &step(i, STEPS));
        parts[(i % 3) as usize].add_step("c4", 0, Phase::Measured, &step(i, STEPS));
    }
    let finished = whole.finish();
    assert_eq!(finished.steps, STEPS);
    let most = finished.sequences.high.iter().copied().fold(0.0, f64::max);
    assert_eq!(most, 900.0);
    assert_eq!(finished.kv_share.mean[0], 0.25);
    // Two speeds, two cells: the slow step is drawn though it is one in twenty thousand.
    let cells: Vec<u64> = finished
        .cells
        .values()
        .flatten()
        .map(super::pictures::Cell::steps)
        .collect();
    assert_eq!(cells, [1, STEPS - 1]);
    assert!(finished.sequences.at_s.len() <= 500);

    let mut merged = whole.like();
    parts.into_iter().for_each(|part| merged.merge(part));
    let merged = merged.finish();
    assert_eq!(merged.cells, finished.cells);
    assert_eq!(merged.sequences.high, finished.sequences.high);
    assert_eq!(merged.sequences.low, finished.sequences.low);
}

#[test]
fn samples_become_rates() {
    let sample = |at_s: u64, own: f64, busy: f64| TelemetryLine {
        at_ns: at_s * 1_000 * MS,
        own_cpu_s: own,
        busy_cpu_s: Some(busy),
        steal_cpu_s: Some(0.0),
        rss_bytes: Some(1 << 30),
        available_bytes: None,
        mhz: None,
        package_joules: None,
        gpu: None,
        gpus: Vec::new(),
    };
    let mut pictures = room(1_000_000 * MS);
    pictures.add_samples(&sample(0, 0.0, 0.0), &sample(2, 3.0, 4.0));
    // Taken up again: counters begin anew, and say nothing across the gap.
    pictures.add_samples(&sample(2, 3.0, 4.0), &sample(500, 0.1, 0.1));
    let finished = pictures.finish();
    assert_eq!(finished.own_cores.mean, [1.5]);
    assert_eq!(finished.other_cores.mean, [0.5]);
    assert_eq!(finished.rss_gib.mean, [1.0]);
    assert_eq!(finished.ghz.at_s.len() + finished.watts.at_s.len(), 0);
}

#[test]
fn lines_are_read_in_parts_and_damage_keeps_its_number() {
    const STEPS: u64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(REQUESTS_FILE), "").unwrap();
    let mut text = String::new();
    (0..STEPS).for_each(|i| text.push_str(&line(i, STEPS)));
    assert!(text.len() > 8 << 20, "several parts");
    let path = dir.path().join(STEPS_FILE);
    std::fs::write(&path, &text).unwrap();
    let mut pictures = room(STEPS * 50 * MS);
    assert_eq!(raw::read(dir.path(), &mut pictures).unwrap(), [""; 0]);
    let finished = pictures.finish();
    assert_eq!(finished.steps, STEPS);
    let most = finished.sequences.high.iter().copied().fold(0.0, f64::max);
    assert_eq!(most, 900.0);

    // Cut off in the last line.
    std::fs::write(&path, &text[..text.len() - 9]).unwrap();
    let mut pictures = room(STEPS * 50 * MS);
    let remarks = raw::read(dir.path(), &mut pictures).unwrap();
    assert_eq!(pictures.finish().steps, STEPS - 1);
    assert!(
        remarks[0].contains(":20000: the last line is cut off"),
        "{remarks:?}"
    );

    // Changed by hand, late in the file.
    let mut damaged = String::new();
    for i in 0..STEPS {
        match i {
            17_000 => writeln!(damaged, "{{\"unit\":7}}").unwrap(),
            _ => damaged.push_str(&line(i, STEPS)),
        }
    }
    std::fs::write(&path, &damaged).unwrap();
    let error = raw::read(dir.path(), &mut room(STEPS * 50 * MS)).unwrap_err();
    assert!(error.is_input());
    assert!(error.to_string().contains("steps.jsonl:17001: "), "{error}");
}

/// Times, sequences and megabytes of steps, in any order.
fn any_steps() -> impl Strategy<Value = Vec<(u64, u64, u32, u64)>> {
    let one = (0..1_000_000u64, 1..5_000u64, 1..2_000u32, 1..500u64);
    prop::collection::vec(one, 1..400)
}

proptest! {
    /// Whatever the steps were: the least and the greatest value, the fastest step and the
    /// number of steps are in the picture.
    #[test]
    fn extremes_survive(steps in any_steps()) {
        let mut pictures = room(1_000_000 * MS);
        let mut fastest = 0.0f64;
        for &(at, ms, sequences, megabytes) in &steps {
            let step = Step {
                start_ns: at * MS,
                end_ns: (at + ms) * MS,
                sequences,
                bytes: megabytes * 1_000_000,
                flops: megabytes * 3_000_000,
                ..step(0, 9)
            };
            fastest = fastest.max(step.flops as f64 / (ms as f64 / 1e3));
            pictures.add_step("c4", 0, Phase::Measured, &step);
        }
        let finished = pictures.finish();
        let all = || steps.iter().map(|s| f64::from(s.2));
        let high = finished.sequences.high.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let low = finished.sequences.low.iter().copied().fold(f64::INFINITY, f64::min);
        prop_assert_eq!(high, all().fold(f64::NEG_INFINITY, f64::max));
        prop_assert_eq!(low, all().fold(f64::INFINITY, f64::min));
        let cells = || finished.cells.values().flatten();
        let drawn = cells().map(super::pictures::Cell::flops_per_s).fold(0.0, f64::max);
        prop_assert!((drawn / fastest - 1.0).abs() < 1e-4, "{drawn} {fastest}");
        prop_assert_eq!(cells().map(super::pictures::Cell::steps).sum::<u64>(), steps.len() as u64);
        prop_assert!(finished.sequences.at_s.len() <= 500);
    }
}
