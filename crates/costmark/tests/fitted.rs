//! Input and output told apart over several workloads, where steps are not seen.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use common::Place;
use serde_json::Value;

/// Three workloads of fixed lengths on the mock, one request at a time, at $3.6 an hour: a request
/// takes 50 ms and 10 ms for every token after the first, so `0.4 ms · 100 + 10 ms · output` where
/// its prompt has 100 tokens.
fn measured(workloads: &[&str], more: &[&str]) -> (Place, String) {
    let place = Place::new();
    for (name, input, output) in [("short", 100, 10), ("long", 100, 100), ("wide", 900, 10)] {
        let text = format!(
            "description = \"{name}\"\nsource = \"made up\"\ninput_len = \"{input}\"\noutput_len = \"{output}\"\n"
        );
        std::fs::write(place.path().join(format!("{name}.toml")), text).unwrap();
    }
    let files: Vec<String> = workloads.iter().map(|w| format!("{w}.toml")).collect();
    let output = place
        .costmark(&[
            "run",
            "--backend",
            "mock",
            "--mock",
            "ttft=50ms,itl=10ms,virtual",
        ])
        .args(["--price", "3.6", "--repeats", "3", "--requests", "20"])
        .args(["--warmup", "0", "-o", "out", "--workload", &files.join(",")])
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    (place, String::from_utf8(output.stdout).unwrap())
}

fn priced(place: &Place) -> Value {
    let output = place
        .costmark(&["price", "out", "--json"])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn planted_prices_come_out_of_a_run() {
    let (place, table) = measured(&["short", "long"], &["--concurrency", "1"]);
    assert!(
        table.contains("Fitted    at concurrency 1, over 6 windows of short, long"),
        "{table}"
    );
    let fitted = &priced(&place)["fitted"][0];
    let value = |key: &str| fitted[key]["value"].as_f64().unwrap();
    assert!((value("usd_per_mtok_input") - 0.4).abs() < 1e-6, "{fitted}");
    assert!(
        (value("usd_per_mtok_output") - 10.0).abs() < 1e-6,
        "{fitted}"
    );
    assert!(
        fitted["law"]
            .as_str()
            .unwrap()
            .contains("a third would tell")
    );

    // Margins then know what another mix costs.
    let margin = place
        .costmark(&[
            "margin",
            "out",
            "--list-price",
            "deepinfra/Qwen/Qwen3-32B",
            "--json",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(margin.stdout).unwrap();
    assert!(margin.status.success(), "{text}");
    assert!(!text.contains("not split"), "{text}");
}

/// The mock's prompts cost the same whatever their length: no price per prompt token can hold.
#[test]
fn a_law_that_fails_is_said_to() {
    let (place, table) = measured(&["short", "long", "wide"], &["--concurrency", "1"]);
    assert!(table.contains("more than repeats vary"), "{table}");
    let fitted = &priced(&place)["fitted"][0];
    assert!(
        fitted["usd_per_mtok_input"]["high"].as_f64().unwrap() > 0.4,
        "{fitted}"
    );
}

#[test]
fn without_a_second_workload_or_a_busy_machine_there_is_no_fit() {
    let (place, table) = measured(&["short"], &["--concurrency", "1,2"]);
    assert!(!table.contains("Fitted"), "{table}");
    let notes = priced(&place)["notes"].to_string();
    assert!(notes.contains("Several workloads of"), "{notes}");
    let (_, table) = measured(&["short", "long"], &["--rate", "2"]);
    assert!(!table.contains("Fitted"), "{table}");
}
