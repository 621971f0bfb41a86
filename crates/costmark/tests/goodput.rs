//! `--find-goodput` against queues whose answer can be computed, on virtual time.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use common::{Place, stderr, stdout};
use serde_json::Value;

/// One server: 100 ms to the first token and 10 gaps of 10 ms make a service time of 200 ms.
const ONE: &str = "ttft=100ms,itl=10ms,max-sequences=1,virtual";
const SERVICE_S: f64 = 0.2;

fn search(place: &Place, mock: &str, more: &[&str]) -> Value {
    let args = [
        "run",
        "--backend",
        "mock",
        "--mock",
        mock,
        "--price",
        "1",
        "-q",
        "-o",
        "out",
        "--output-len",
        "11",
        "--find-goodput",
    ];
    stdout(&mut place.costmark(&[&args[..], more].concat()));
    place.document("out")
}

#[allow(clippy::panic)] // A helper of tests.
fn number(value: &Value, pointer: &str) -> f64 {
    let found = value.pointer(pointer).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("{pointer}: {value}"))
}

/// P(wait ≤ t) of an M/D/1 queue (Erlang, 1909).
fn waits_at_most(t: f64, per_s: f64) -> f64 {
    let sum: f64 = (0..=(t / SERVICE_S) as u32)
        .map(|k| {
            let x = per_s * (t - f64::from(k) * SERVICE_S);
            let factorial: f64 = (1..=k).map(f64::from).product();
            (-x).powi(k as i32) / factorial * x.exp()
        })
        .sum();
    (1.0 - per_s * SERVICE_S) * sum
}

/// The highest rate at which this share waits no longer than `t`.
fn highest_rate(t: f64, share: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0 / SERVICE_S);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if waits_at_most(t, middle) >= share {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The ends of what was found lie around the truth, up to the error of so many requests.
#[track_caller]
fn brackets(found: &Value, truth: f64, tolerance: f64) {
    assert_eq!(found["status"], "found", "{found}");
    let held = number(found, "/held/requests_per_s");
    let missed = number(found, "/missed/requests_per_s");
    assert!(missed / held <= 1.05, "{held} {missed}");
    assert!(
        held <= truth * (1.0 + tolerance) && truth * (1.0 - tolerance) <= missed,
        "{held} to {missed}, the truth is {truth}"
    );
}

#[test]
fn the_limit_of_a_random_queue_is_where_theory_has_it() {
    // Half of the waits end within a service time at 3.06/s (a published table of M/D/1 has
    // P(W ≤ D) = 0.5 e^0.5 = 0.824 at half load).
    assert!((waits_at_most(0.2, 2.5) - 0.824_36).abs() < 1e-4);
    let many = ["--requests", "20000", "--warmup", "60s"];
    for (slo, wait_s, limit) in [("ttft=700ms@p95", 0.6, "ttft"), ("e2e=1s@p90", 0.8, "e2e")] {
        let share = if limit == "ttft" { 0.95 } else { 0.9 };
        let place = Place::new();
        let document = search(&place, ONE, &[&many[..], &["--slo", slo]].concat());
        let found = &document["searches"][0];
        brackets(found, highest_rate(wait_s, share), 0.03);
        assert_eq!(found["limit"], limit);
        assert!(number(found, "/held/attainment") >= share);
        assert!(number(found, "/missed/attainment") < share);
    }
}

#[test]
fn without_a_tight_limit_saturation_binds_at_capacity() {
    let place = Place::new();
    // Four servers of 0.2 s and even arrivals: nothing waits up to 20 requests/s.
    let mock = "ttft=100ms,itl=10ms,max-sequences=4,virtual";
    let more = [
        "--arrivals",
        "constant",
        "--slo",
        "e2e=60s",
        "--requests",
        "600",
    ];
    let document = search(&place, mock, &more);
    let found = &document["searches"][0];
    brackets(found, 20.0, 0.0);
    assert_eq!(found["limit"], "saturation");
    // A batch of 600 takes 30 s.
    assert!((number(found, "/batch_requests_per_s") - 20.0).abs() < 0.1);
    // Each probe is a level with its own records.
    let probes = found["probes"].as_array().unwrap();
    let levels = document["levels"].as_array().unwrap();
    assert_eq!(levels.len(), probes.len() + 1);
    let lines = common::lines(&place.path().join("out/requests.jsonl"));
    for probe in probes {
        let of_level = |l: &&Value| l["unit"]["level"] == probe["level"];
        let measured = lines
            .iter()
            .filter(of_level)
            .filter(|l| l["unit"]["phase"] == "measured");
        assert_eq!(measured.count(), 600, "{probe}");
    }
    let finding = document["finding"].as_str().unwrap();
    assert!(finding.contains("saturation keeps it under"), "{finding}");
    // What tokens cost is told at the rate that held, not in the burst, however cheap that was.
    let held = number(found, "/held/requests_per_s");
    let at = format!("At the highest rate within the SLO ({held} requests/s) a million tokens");
    assert!(finding.contains(&at), "{finding}");
}

/// A backend that serves thousands a second is not judged by the milliseconds that some hundred
/// requests take.
#[test]
fn a_rate_is_measured_for_a_least_time() {
    for (more, least_s) in [(&[][..], 10.0), (&["--duration", "3s"][..], 3.0)] {
        let place = Place::new();
        let mock = "ttft=1ms,itl=100us,max-sequences=4,virtual";
        let slo = ["--slo", "ttft=20ms", "--arrivals", "constant"];
        let document = search(&place, mock, &[&slo[..], more].concat());
        // Four servers of 2 ms each.
        let found = &document["searches"][0];
        brackets(found, 2000.0, 0.0);
        assert_eq!(
            number(&document, "/plan/goodput_search/min_duration_s"),
            least_s
        );
        for level in document["plan"]["levels"].as_array().unwrap() {
            let (requests, load) = (level["requests"].as_f64().unwrap(), &level["load"]);
            let Some(per_s) = load["requests_per_s"].as_f64() else {
                assert_eq!((&load["kind"], requests), (&"max_throughput".into(), 200.0));
                continue;
            };
            assert_eq!(requests, (per_s * least_s).ceil().max(200.0), "{level}");
        }
        for unit in document["units"].as_array().unwrap() {
            let span = number(unit, "/end_ns") - number(unit, "/start_ns");
            let is_batch = unit["level"] == document["units"][0]["level"];
            assert!(is_batch || span >= least_s * 0.99e9, "{}", unit["level"]);
        }
    }
}

/// The verdicts again from the raw lines, and a verdict that is not theirs.
#[test]
fn a_search_is_judged_again_from_its_lines() {
    let place = Place::new();
    let more = ["--slo", "ttft=700ms@p95", "--duration", "1s"];
    let document = search(&place, ONE, &more);
    let told = stdout(&mut place.costmark(&["recompute", "out"]));
    assert!(told.contains("Taken as stored: ") && told.contains("which rates a search tried"));
    assert!(told.contains("Every other figure"), "{told}");
    let mut spoilt = document.clone();
    spoilt["searches"][0]["probes"][1]["counts"]["ttft"] = 12345.into();
    let good = &document["units"][1]["summary"]["goodput"]["counts"]["ended"];
    spoilt["units"][1]["summary"]["goodput"]["counts"]["ended"] =
        (good.as_u64().unwrap() + 1).into();
    std::fs::write(place.path().join("out/run.json"), spoilt.to_string()).unwrap();
    let told = stderr(&mut place.costmark(&["recompute", "out"]), 1);
    for wrong in [
        "searches[0].probes[1].counts.ttft: 12345 in run.json",
        "units[1].summary.goodput.counts.ended",
    ] {
        assert!(told.contains(wrong), "{wrong}: {told}");
    }
}

#[test]
fn a_limit_that_nothing_keeps_is_said() {
    let place = Place::new();
    let document = search(&place, ONE, &["--slo", "itl=5ms", "--rate", "4"]);
    let found = &document["searches"][0];
    assert_eq!(
        (&found["status"], &found["limit"]),
        (&"none_held".into(), &"itl".into())
    );
    assert_eq!(found["held"], Value::Null);
}

/// The way each search went; without figures whose last bits reading a decimal number may lose.
fn ways(document: &Value) -> Vec<Value> {
    let of_probe = |p: &Value| serde_json::json!([p["level"], p["counts"], p["limit"]]);
    let of_search = |s: &Value| {
        let probes: Vec<Value> = s["probes"]
            .as_array()
            .unwrap()
            .iter()
            .map(of_probe)
            .collect();
        serde_json::json!([s["status"], s["held"]["level"], s["limit"], probes])
    };
    document["searches"]
        .as_array()
        .unwrap()
        .iter()
        .map(of_search)
        .collect()
}

#[test]
fn a_search_that_was_cut_goes_on_to_the_same_end() {
    let place = Place::new();
    let more = [
        "--slo",
        "ttft=700ms@p95",
        "--repeats",
        "2",
        "--workload",
        "chat,rag",
    ];
    let whole = search(&place, ONE, &more[..]);
    let units = whole["units"].as_array().unwrap().len();
    for keep in [0, 4, units - 3] {
        let mut cut = whole.clone();
        cut["units"].as_array_mut().unwrap().truncate(keep);
        cut["status"] = "incomplete".into();
        std::fs::write(place.path().join("out/run.json"), cut.to_string()).unwrap();
        stdout(&mut place.costmark(&["run", "--resume", "out", "-q"]));
        let resumed = place.document("out");
        assert_eq!(ways(&resumed), ways(&whole), "cut at {keep}");
        assert_eq!(resumed["plan"], whole["plan"]);
        assert_eq!(resumed["plan_hash"], whole["plan_hash"]);
    }
    let told = stderr(&mut place.costmark(&["run", "--resume", "out"]), 2);
    assert!(told.contains("complete"), "{told}");
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let place = Place::new();
    for (more, says) in [
        (&["--find-goodput"][..], "--slo"),
        (
            &["--find-goodput", "--slo", "ttft=1s", "--concurrency", "4"],
            "--concurrency",
        ),
        (
            &["--find-goodput", "--slo", "ttft=1s", "--rate", "1,2"],
            "one rate to begin with",
        ),
        (
            &[
                "--find-goodput",
                "--slo",
                "ttft=1s@p99",
                "--requests",
                "100",
            ],
            "662 per repeat",
        ),
        (&["--find-goodput", "--slo", "ttft=1s@p100"], "below @p100"),
    ] {
        let args = [&["run", "--backend", "mock"][..], more].concat();
        let told = stderr(&mut place.costmark(&args), 2);
        assert!(told.contains(says), "`{says}` is not in: {told}");
    }
}
