//! Run folders: what is written can be read and gives the same figures again.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use std::fs;
use std::io::Write;

use costmark_metrics::{UnitInput, summarise};
use costmark_report::{REQUESTS_FILE, RUN_FILE, ReportError, RunFolder, STEPS_FILE, StoredRun};
use serde_json::Value;

/// A folder with the whole hand-made run in it.
fn written(dir: &std::path::Path) {
    let mut folder = RunFolder::create(dir).unwrap();
    for raw in common::raws() {
        for step in &raw.steps {
            folder.append_step(&raw.tag, step).unwrap();
        }
        for request in &raw.requests {
            folder.append_request(&raw.tag, request).unwrap();
        }
    }
    folder.save(&common::run()).unwrap();
}

#[test]
fn figures_can_be_recomputed_from_raw_lines() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let stored = StoredRun::load(dir.path()).unwrap();
    assert_close(&stored.document, &common::run());
    assert_eq!(stored.units.len(), 6);
    assert!(stored.remarks.is_empty());
    for unit in &stored.document.units {
        let (_, records) = stored
            .units
            .iter()
            .find(|(tag, _)| (&tag.level, tag.repeat) == (&unit.level, unit.repeat))
            .unwrap();
        let again = summarise(&UnitInput {
            concurrency: unit.summary.concurrency_target,
            start_ns: unit.start_ns,
            end_ns: unit.end_ns,
            requests: &records.requests,
            background: &[],
            steps: &records.steps,
            replicas: 1,
            roofline: unit.roofline,
            slo: None,
        });
        assert_close(&again, &unit.summary);
    }
}

/// Equal as JSON; numbers up to the last bits that reading a decimal number may lose.
#[track_caller]
fn assert_close(a: &impl serde::Serialize, b: &impl serde::Serialize) {
    let (a, b) = (
        serde_json::to_value(a).unwrap(),
        serde_json::to_value(b).unwrap(),
    );
    let (mut left, mut right) = (Vec::new(), Vec::new());
    leaves("", &a, &mut left);
    leaves("", &b, &mut right);
    assert_eq!(left.len(), right.len());
    for ((path, x), (other, y)) in left.iter().zip(&right) {
        assert_eq!(path, other);
        let close = match (x.as_f64(), y.as_f64()) {
            (Some(x), Some(y)) => (x - y).abs() <= 1e-14 * x.abs(),
            _ => x == y,
        };
        assert!(close, "{path}: {x} is not {y}");
    }
}

/// By hand: 16 slots × 46 tokens a second, 3.6 $/h; prefill takes a tenth of the time.
#[test]
fn figures_of_the_hand_made_run() {
    let run = common::run();
    let unit = &run.units[1];
    assert_eq!((unit.level.as_str(), unit.repeat), ("c16", 0));
    assert!((unit.summary.throughput.output_tok_per_s - 16.0 * 46.0).abs() < 1e-9);
    let cost = unit.cost.as_ref().unwrap();
    assert!((cost.usd - 0.020).abs() < 1e-12, "{cost:?}");
    assert!((cost.usd_input.unwrap() - 0.002).abs() < 1e-12);
    assert!((cost.usd_output.unwrap() - 0.018).abs() < 1e-12);
    // 0.018 $ for 16 × 46 × 20 tokens.
    let usd_per_mtok = cost.usd_per_mtok_output.unwrap();
    assert!((usd_per_mtok - 0.018 / 14_720.0 * 1e6).abs() < 1e-9);
    let level = &run.levels[1];
    let shares = level.attribution.unwrap();
    let sum = shares.input_share + shares.cached_share + shares.output_share;
    assert!((sum - 1.0).abs() < 1e-12);
    // The median repeat is the second.
    let median = run.units[3].cost.as_ref().unwrap();
    let price = level.usd_per_mtok_output.unwrap();
    assert!((price.value - median.usd_per_mtok_output.unwrap()).abs() < 1e-9);
    assert!(price.low.unwrap() < price.value && price.value < price.high.unwrap());
}

#[test]
fn a_cut_last_line_is_tolerated_and_told() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let path = dir.path().join(REQUESTS_FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 40]).unwrap();
    let stored = StoredRun::load(dir.path()).unwrap();
    let count = |run: &StoredRun| run.units.values().map(|u| u.requests.len()).sum::<usize>();
    assert_eq!(count(&stored), text.lines().count() - 1);
    assert_eq!(stored.remarks.len(), 1);
    assert!(stored.remarks[0].contains("cut off"));
}

#[test]
fn damage_elsewhere_is_an_error_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let path = dir.path().join(STEPS_FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"index\":1,", "\"index\":-1,", 1)).unwrap();
    let error = StoredRun::load(dir.path()).unwrap_err();
    assert!(error.is_input());
    assert!(error.to_string().contains("steps.jsonl:2"), "{error}");
}

#[test]
fn another_schema_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let path = dir.path().join(RUN_FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replacen(
            "\"schema_version\": 2",
            "\"schema_version\": 99, \"new\": 1",
            1,
        ),
    )
    .unwrap();
    let error = StoredRun::load(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("99") && error.contains("run.json"),
        "{error}"
    );
}

#[test]
fn a_folder_from_before_the_first_release_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let path = dir.path().join(RUN_FILE);
    let text = fs::read_to_string(&path).unwrap();
    let old = text.replacen("\"schema_version\": 2", "\"schema_version\": 1", 1);
    fs::write(&path, old).unwrap();
    let error = StoredRun::load(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("version 1") && error.contains("again"),
        "{error}"
    );
}

#[test]
fn unknown_keys_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let path = dir.path().join(RUN_FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replacen("\"repeats\": 3", "\"repeats\": 3, \"extra\": 1", 1),
    )
    .unwrap();
    let error = StoredRun::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("extra"), "{error}");
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    assert!(matches!(
        RunFolder::create(dir.path()),
        Err(ReportError::NotEmpty { .. })
    ));
    let first = RunFolder::create_fresh(dir.path(), "run").unwrap();
    let second = RunFolder::create_fresh(dir.path(), "run").unwrap();
    assert_ne!(first.path(), second.path());
}

#[test]
fn a_discarded_folder_is_gone_but_never_what_others_put_there() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    RunFolder::create(&gone).unwrap().discard();
    assert!(!gone.exists());
    let kept = dir.path().join("kept");
    let folder = RunFolder::create(&kept).unwrap();
    fs::File::create(kept.join("mine"))
        .unwrap()
        .write_all(b"x")
        .unwrap();
    folder.discard();
    assert!(kept.join("mine").exists());
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("below");
    for error in [
        RunFolder::create(&below).unwrap_err(),
        RunFolder::create_fresh(&below, "run").unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(
            text.contains("below") && text.contains("--output"),
            "{text}"
        );
    }
    let missing = StoredRun::load(&dir.path().join("none")).unwrap_err();
    assert!(missing.to_string().contains("run.json"), "{missing}");
}

/// A change of a key changes what files of this version hold: raise the version.
#[test]
fn the_keys_of_schema_version_2() {
    let document = serde_json::to_value(common::run()).unwrap();
    let mut all = Vec::new();
    leaves("", &document, &mut all);
    let mut keys: Vec<String> = all.into_iter().map(|(path, _)| path).collect();
    keys.sort();
    keys.dedup();
    insta::assert_snapshot!(keys.join("\n"));
}

/// Every value that holds no other, with its path.
fn leaves(path: &str, value: &Value, all: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                leaves(&format!("{path}.{key}"), value, all);
            }
        }
        Value::Array(items) => {
            for item in items {
                leaves(&format!("{path}[]"), item, all);
            }
        }
        _ => all.push((path.to_string(), value.clone())),
    }
}
