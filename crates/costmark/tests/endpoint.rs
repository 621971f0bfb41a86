//! A server that is measured, and faults that are counted, as a user meets them.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use std::time::Duration;

use common::{Place, lines, stderr};
use costmark_http::scripted::{Act, Received, Script, Scripted, models_page, sse_token};

const KEY: &str = "sk-hush-hush-hush";

/// Every `fault_every`-th answer is the fault; trials ask for four tokens and are spared.
fn server(fault_every: u64, fault: Script) -> Scripted {
    let count = std::sync::atomic::AtomicU64::new(0);
    Scripted::start(None, move |r: &Received| {
        if r.method == "GET" {
            return models_page();
        }
        let n = r.field("max_tokens").unwrap().as_u64().unwrap();
        let i = count.fetch_add(u64::from(n != 4), std::sync::atomic::Ordering::Relaxed);
        if n != 4 && i % fault_every == fault_every - 1 {
            return fault.clone();
        }
        let length = r.field("prompt").unwrap().as_array().unwrap().len();
        Script::tokens(
            u32::try_from(length).unwrap(),
            u32::try_from(n).unwrap(),
            Duration::from_millis(5),
            Duration::from_millis(1),
        )
    })
    .unwrap()
}

fn run(place: &Place, url: &str, more: &[&str]) -> std::process::Output {
    place
        .costmark(&["run", "--endpoint", url, "--price", "1", "-o", "out"])
        .env("COSTMARK_API_KEY", KEY)
        .env("COSTMARK_HEADERS", "X-Team: blue-whale")
        .args(["--concurrency", "4", "--repeats", "1", "--requests", "40"])
        .args(["--input-len", "8", "--output-len", "6", "--warmup", "0"])
        .args(more)
        .output()
        .unwrap()
}

/// All that was said and written.
fn everything(place: &Place, output: &std::process::Output) -> String {
    let mut all = String::from_utf8_lossy(&output.stdout).into_owned();
    all += &String::from_utf8_lossy(&output.stderr);
    for file in std::fs::read_dir(place.path().join("out")).unwrap() {
        all += &std::fs::read_to_string(file.unwrap().path()).unwrap();
    }
    all
}

#[test]
fn a_server_is_measured_like_the_engine() {
    let place = Place::new();
    let server = server(u64::MAX, Script::default());
    let output = run(&place, &server.url(), &[]);
    assert!(output.status.success(), "{output:?}");
    let document = place.document("out");
    assert_eq!(document["status"], "complete");
    assert_eq!(document["backends"][0]["kind"], "http");
    let unit = &document["units"][0];
    assert_eq!(unit["summary"]["requests"]["finished"], 40);
    assert!(unit["cost"]["usd_per_mtok_blended"].as_f64().unwrap() > 0.0);
    assert!(
        unit["cost"]["usd_per_mtok_output"].is_null(),
        "phases are not seen"
    );
    let ttft = unit["summary"]["latency"]["ttft_ms"]["p50"]
        .as_f64()
        .unwrap();
    assert!(ttft >= 5.0, "{ttft}");
    assert!(!everything(&place, &output).contains("hush"));
}

#[test]
fn faults_are_counted_and_the_run_goes_on_to_its_end() {
    let cut = Script::stream()
        .then(Act::Token(sse_token(" a", None)))
        .then(Act::Cut);
    let echo = format!(r#"{{"error":{{"message":"wrong key {KEY} of blue-whale"}}}}"#);
    for (fault, class) in [
        (cut, "disconnected"),
        (Script::json("401 Unauthorized", &echo), "rejected"),
    ] {
        for (allowed, code) in [("0.5", 0), ("0.01", 1)] {
            let place = Place::new();
            let server = server(4, fault.clone());
            let output = run(&place, &server.url(), &["--max-errors", allowed]);
            assert_eq!(output.status.code(), Some(code), "{output:?}");
            let document = place.document("out");
            let requests = &document["units"][0]["summary"]["requests"];
            assert_eq!(requests["errors"][class], requests["failed"]);
            let failed = requests["failed"].as_u64().unwrap();
            assert!((8..=12).contains(&failed), "{failed} of 40");
            let ended = lines(&place.path().join("out/requests.jsonl"));
            assert!(ended.len() >= 40);
            let all = everything(&place, &output);
            assert!(
                !all.contains("hush") && !all.contains("blue-whale"),
                "{all}"
            );
        }
    }
}

/// A prompt token takes a quarter of a millisecond and an output token four, at $3.6 an hour: the
/// split that no step shows comes out of two workloads.
#[test]
fn input_and_output_are_told_apart_over_two_workloads() {
    let server = Scripted::start(None, |r: &Received| {
        if r.method == "GET" {
            return models_page();
        }
        let n = u32::try_from(r.field("max_tokens").unwrap().as_u64().unwrap()).unwrap();
        let input = r.field("prompt").unwrap().as_array().unwrap().len();
        let input = u32::try_from(input).unwrap();
        let (prefill, decode) = (Duration::from_micros(250), Duration::from_millis(4));
        Script::tokens(input, n, prefill * input + decode, decode)
    })
    .unwrap();
    let place = Place::new();
    for (name, input, output) in [("long", 400, 4), ("wordy", 40, 25)] {
        let text = format!(
            "description = \"{name}\"\nsource = \"made up\"\ninput_len = \"{input}\"\noutput_len = \"{output}\"\n"
        );
        std::fs::write(place.path().join(format!("{name}.toml")), text).unwrap();
    }
    let output = place
        .costmark(&["run", "--endpoint", &server.url(), "--price", "3.6"])
        .args(["--workload", "long.toml,wordy.toml", "--concurrency", "1"])
        .args(["--requests", "8", "--warmup", "0", "-o", "out"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let priced = place
        .costmark(&["price", "out", "--json"])
        .output()
        .unwrap();
    let priced: serde_json::Value = serde_json::from_slice(&priced.stdout).unwrap();
    let fitted = &priced["fitted"][0];
    for (key, planted) in [("input", 0.25), ("output", 4.0)] {
        let cost = &fitted[format!("usd_per_mtok_{key}")];
        let value = cost["value"].as_f64().unwrap();
        assert!((0.7..1.6).contains(&(value / planted)), "{key}: {fitted}");
        assert!(cost["low"].as_f64().unwrap() < value, "{fitted}");
        assert!(cost["high"].as_f64().unwrap() > value, "{fitted}");
    }
}

#[test]
fn who_cannot_be_measured_is_told() {
    let place = Place::new();
    for (args, code, words) in [
        (
            &["--endpoint", "http://localhost:1"][..],
            1,
            "no connection",
        ),
        (&["--endpoint", "localhost:1"], 2, "--endpoint"),
        (
            &["--endpoint", "http://u:hush@localhost:1"],
            2,
            "COSTMARK_API_KEY",
        ),
        (&["--endpoint", "http://192.0.2.1:1"], 2, "--price"),
        (
            &["--endpoint", "http://localhost:1", "--threads", "2"],
            2,
            "--threads",
        ),
        (
            &["--endpoint", "http://localhost:1", "--tokenizer", "none"],
            2,
            "--tokenizer",
        ),
        (&["--no-stream"], 2, "--endpoint"),
    ] {
        let mut command = place.costmark(&["run", "-o", "out"]);
        let said = stderr(command.args(args), code);
        assert!(said.contains(words), "{args:?}: {said}");
    }
}
