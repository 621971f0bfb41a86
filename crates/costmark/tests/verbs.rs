//! The verbs beside `run`.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use common::{Place, stdout};
use serde_json::Value;

fn json(place: &Place, args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&mut place.costmark(args))).unwrap()
}

#[test]
fn probe() {
    let place = Place::new();
    let probe = json(&place, &["probe", "--json", "--threads", "1"]);
    assert!(probe["peaks"]["read_bytes_per_s"]["best"].as_f64().unwrap() > 0.0);
    assert!(probe["peaks"]["f32_flops_per_s"]["best"].as_f64().unwrap() > 0.0);
    assert_eq!(probe["peaks"]["threads"], 1);
    assert!(probe["machine"]["cpu"]["model"].is_string());
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_error() {
    let program = assert_cmd::cargo::cargo_bin("costmark");
    let script = format!("'{}' probe --threads 1 | head -n 1", program.display());
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("System"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        !errors.contains("rror") && !errors.contains("panicked"),
        "{errors}"
    );
}

#[test]
fn facts_about_a_built_in_shape() {
    let place = Place::new();
    let args = [
        "model",
        "info",
        "llama-3.1-8b",
        "--quantize",
        "q8_0",
        "--memory",
        "80GB",
    ];
    insta::assert_snapshot!(stdout(&mut place.costmark(&args)));
    let info = json(&place, &[&args[..], &["--json"]].concat());
    assert_eq!(info["params"], 8_030_261_248u64);
    // 32 layers × 8 heads × 128 × 2 × 2 bytes.
    assert_eq!(info["kv_bytes_per_token"], 131_072);
    let fit = (80_000_000_000 - info["weight_bytes"].as_u64().unwrap()) / (131_072 * 4096);
    assert_eq!(info["sequences_that_fit"], fit);
}

#[test]
fn facts_about_a_checkpoint() {
    let place = Place::new();
    place.write_checkpoint("sound", 0.5);
    let info = json(&place, &["model", "info", "sound", "--json"]);
    assert_eq!(info["formats"][0]["format"], "f32");
    assert_eq!(info["synthetic"], false);
}

#[test]
fn generate_continues_token_ids() {
    let place = Place::new();
    let args = [
        "generate",
        "--model",
        "tiny",
        "--weights",
        "synthetic:3",
        "--prompt-ids",
        "1,2,3",
        "--max-tokens",
        "5",
        "--threads",
        "1",
        "--ignore-eos",
        "--json",
    ];
    let greedy = json(&place, &args);
    assert_eq!(greedy["prompt_ids"], serde_json::json!([1, 2, 3]));
    assert_eq!(greedy["output_ids"].as_array().unwrap().len(), 5);
    assert_eq!(greedy["text"], Value::Null);
    assert_eq!(greedy["finish_reason"], "length");
    assert!(greedy["timings"]["ttft_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(json(&place, &args)["output_ids"], greedy["output_ids"]);

    let plain = stdout(&mut place.costmark(&args[..args.len() - 1]));
    let ids: Vec<u64> = plain
        .trim()
        .split(',')
        .map(|id| id.parse().unwrap())
        .collect();
    assert_eq!(serde_json::json!(ids), greedy["output_ids"]);

    let drawn = |seed: &str| {
        let more = ["--temperature", "2", "--seed", seed];
        json(&place, &[&args[..], &more].concat())["output_ids"].clone()
    };
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
}
