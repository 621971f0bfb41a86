//! Runs that end before their end, and are taken up again.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.
#![cfg(unix)]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Place, lines, stderr, stdout};
use costmark_report::{Status, StoredRun};
use serde_json::Value;

/// Four units on the mock; `time` is `virtual` or nothing, for real time.
fn mock_args(time: &str) -> Vec<String> {
    let mock = format!("ttft=20ms,itl=2ms,max-sequences=6{time}");
    let text = format!(
        "run --backend mock --mock {mock} --price 1 --input-len 8..24 --output-len 10 \
         --concurrency 2,8 --requests 30 --repeats 2 --seed 3 --quiet"
    );
    text.split_whitespace().map(Into::into).collect()
}

fn mock_run(place: &Place, time: &str, output: &str) -> assert_cmd::Command {
    let args = mock_args(time);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = place.costmark(&args);
    command.args(["-o", output]);
    command
}

fn spawn(place: &Place, args: &[&str]) -> Child {
    Command::new(assert_cmd::cargo::cargo_bin("costmark"))
        .current_dir(place.path())
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Figures of a result that may not depend on when it was measured: everything but instants,
/// the machine, and what was said of them.
fn figures(document: &Value) -> Vec<Value> {
    let units = document["units"].as_array().unwrap();
    let of_unit = |unit: &Value| {
        let summary = &unit["summary"];
        serde_json::json!([
            unit["level"],
            unit["repeat"],
            unit["complete"],
            unit["warmup"],
            summary["requests"],
            summary["throughput"],
            summary["latency"],
            summary["histograms"],
            summary["within"],
            summary["window"]["seconds"],
            unit["cost"],
        ])
    };
    let mut all: Vec<Value> = units.iter().map(of_unit).collect();
    for level in document["levels"].as_array().unwrap() {
        let mut summary = level["summary"].clone();
        summary["advice"] = Value::Null;
        all.push(summary);
    }
    all
}

/// Equal; numbers up to the last bits that reading a decimal number may lose.
#[track_caller]
fn assert_same(a: &Value, b: &Value) {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len());
            a.iter().zip(b).for_each(|(a, b)| assert_same(a, b));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()));
            a.iter().for_each(|(key, a)| assert_same(a, &b[key]));
        }
        (Value::Number(x), Value::Number(y)) => {
            let (x, y) = (x.as_f64().unwrap(), y.as_f64().unwrap());
            assert!((x - y).abs() <= 1e-13 * x.abs().max(1.0), "{x} {y}");
        }
        _ => assert_eq!(a, b),
    }
}

/// On simulated time a run that was cut in the middle of a unit and resumed gives the figures
/// of one that was not.
#[test]
fn resumed_is_uninterrupted() {
    let place = Place::new();
    stdout(&mut mock_run(&place, ",virtual", "whole"));
    let whole = place.document("whole");
    assert_eq!(whole["status"], "complete");

    // As a crash in the middle of the third unit leaves it: two units in `run.json`, lines of
    // a third, and half a line.
    stdout(&mut mock_run(&place, ",virtual", "cut"));
    let mut cut = place.document("cut");
    cut["status"] = "incomplete".into();
    cut["finished_at"] = Value::Null;
    cut["units"].as_array_mut().unwrap().truncate(2);
    std::fs::write(place.path().join("cut/run.json"), cut.to_string()).unwrap();
    let path = place.path().join("cut/requests.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let third = &whole["units"][2];
    let is_third = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["unit"]["level"] == third["level"] && line["unit"]["repeat"] == third["repeat"]
    };
    let begin = text.lines().position(is_third).unwrap();
    let mut kept: Vec<&str> = text.lines().take(begin + 20).collect();
    let half = kept.pop().unwrap();
    let torn = format!("{}\n{}", kept.join("\n"), &half[..half.len() / 2]);
    std::fs::write(&path, torn).unwrap();

    stdout(&mut place.costmark(&["run", "--resume", "cut", "--quiet"]));
    let resumed = place.document("cut");
    assert_eq!(resumed["status"], "complete");
    assert_eq!(resumed["resumed"][0]["unit"], 2);
    assert_same(&figures(&resumed).into(), &figures(&whole).into());

    // The raw lines say the same: as many of each unit, and the aborted ones are set aside.
    let stored = StoredRun::load(&place.path().join("cut")).unwrap();
    let uninterrupted = StoredRun::load(&place.path().join("whole")).unwrap();
    assert!(stored.remarks.is_empty(), "{:?}", stored.remarks);
    assert_eq!(stored.units.len(), uninterrupted.units.len());
    for (tag, unit) in &uninterrupted.units {
        let ids = |unit: &costmark_report::UnitRecords| -> Vec<u64> {
            unit.requests.iter().map(|r| r.id).collect()
        };
        assert_eq!(ids(unit), ids(&stored.units[tag]), "{tag:?}");
    }
    let aside = place.path().join("cut/requests.jsonl.abandoned");
    let aside = std::fs::read_to_string(aside).unwrap();
    assert_eq!(aside.lines().count(), 20);

    // Time goes on: no instant of a later unit lies before one of an earlier unit.
    let units = resumed["units"].as_array().unwrap();
    let instants: Vec<u64> = units
        .iter()
        .flat_map(|u| {
            [
                u["start_ns"].as_u64().unwrap(),
                u["end_ns"].as_u64().unwrap(),
            ]
        })
        .collect();
    assert!(instants.is_sorted(), "{instants:?}");
}

#[test]
fn what_cannot_be_gone_on_with_is_refused() {
    let place = Place::new();
    stdout(&mut mock_run(&place, ",virtual", "out"));
    let refused = |more: &[&str]| {
        let args = [&["run", "--resume", "out"], more].concat();
        stderr(&mut place.costmark(&args), 2)
    };
    assert!(refused(&[]).contains("complete"));
    let path = place.path().join("out/run.json");
    let document = place.document("out");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = document.clone();
        changed["status"] = "incomplete".into();
        changed["units"].as_array_mut().unwrap().truncate(2);
        change(&mut changed);
        std::fs::write(&path, changed.to_string()).unwrap();
        let text = refused(&[]);
        assert!(
            text.contains("--resume out") && text.contains("new run"),
            "{text}"
        );
        text
    };
    let text = with(&|d| d["plan_hash"] = "0123456789abcdef".into());
    assert!(
        text.contains("another plan") && text.contains("0123456789ab"),
        "{text}"
    );
    let text = with(&|d| d["environment"]["machine"]["cpu"]["model"] = "Another".into());
    assert!(text.contains("cpu model was \"Another\""), "{text}");
    let text = with(&|d| d["tool"]["version"] = "0.0.1".into());
    assert!(text.contains("costmark 0.0.1"), "{text}");
    let text = with(&|d| d["command"] = serde_json::json!(["costmark", "run", "--nonsense"]));
    assert!(text.contains("--nonsense"), "{text}");
    assert!(refused(&["-o", "other"]).contains("--output"));
    let missing = stderr(&mut place.costmark(&["run", "--resume", "none"]), 2);
    assert!(missing.contains("none/run.json"), "{missing}");
}

/// What a folder holds after the process was killed.
fn after_kill(folder: &Path) -> Option<StoredRun> {
    let begun = folder.join("run.json").exists();
    // Killed before it measured anything: a folder that a new run may use.
    if !begun {
        return None;
    }
    let stored = StoredRun::load(folder).unwrap();
    let status = stored.document.status;
    // It may have ended in the instant before.
    assert!(
        matches!(status, Status::Incomplete | Status::Complete),
        "{status:?}"
    );
    (status == Status::Incomplete).then_some(stored)
}

/// `kill -9` at instants spread over the run: whatever there is can be read, no finished
/// request that is older than a second is lost, and the run can be gone on with.
#[test]
fn a_kill_at_any_instant_loses_a_second_at_most() {
    let place = Place::new();
    let args = mock_args("");
    let mut begun_runs = 0;
    // Multiples of the golden ratio: spread evenly, in no step with anything.
    for round in 0..8u32 {
        let output = format!("out{round}");
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.extend(["-o", &output]);
        let mut child = spawn(&place, &args);
        let share = f64::from(round + 1) * 0.618_034 % 1.0;
        std::thread::sleep(Duration::from_secs_f64(0.05 + 1.8 * share));
        let ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        if ended {
            continue;
        }
        let Some(stored) = after_kill(&place.path().join(&output)) else {
            continue;
        };
        begun_runs += 1;
        // The machine is sampled on the same clock: its last sample is not older than half a
        // second, and it is that much that may be missing of the requests too.
        let samples = place.path().join(&output).join("telemetry.jsonl");
        if samples.exists() {
            let last_sample = lines(&samples)
                .last()
                .map_or(0, |s| s["at_ns"].as_u64().unwrap());
            let requests = stored.units.values().flat_map(|u| &u.requests);
            let last_request = requests.map(|r| r.finished_ns).max().unwrap_or(0);
            assert!(
                last_request + 1_600_000_000 > last_sample,
                "{last_request} {last_sample}"
            );
        }
        if round % 4 == 0 {
            stdout(&mut place.costmark(&["run", "--resume", &output, "--quiet"]));
            let document = place.document(&output);
            assert_eq!(document["status"], "complete");
            assert_eq!(document["units"].as_array().unwrap().len(), 4);
        }
    }
    assert!(
        begun_runs >= 3,
        "only {begun_runs} runs had begun to measure"
    );
}

/// Ctrl-C in the middle of a unit, then on from there.
#[test]
fn an_interrupted_run_goes_on() {
    let place = Place::new();
    let args = mock_args("");
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.extend(["-o", "out"]);
    let mut child = spawn(&place, &args);
    let path = place.path().join("out/requests.jsonl");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !path.exists() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let document = place.document("out");
    assert_eq!(document["status"], "interrupted");
    let before = document["units"].as_array().unwrap().len();
    assert!((1..=4).contains(&before), "{before}");
    stdout(&mut place.costmark(&["run", "--resume", "out", "--quiet"]));
    let document = place.document("out");
    assert_eq!(document["status"], "complete");
    let units = document["units"].as_array().unwrap();
    assert!(units.iter().all(|u| u["complete"] == true) && units.len() == 4);
}
