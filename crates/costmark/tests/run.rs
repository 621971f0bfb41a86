//! Whole measurements of a tiny model, as a user runs them.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use std::collections::BTreeMap;

use common::{Place, lines, stderr, stdout};
use serde_json::Value;

/// Relative difference that adding in another order may make.
const ROUNDING: f64 = 1e-9;

#[track_caller]
fn assert_close(a: f64, b: f64) {
    assert!((a - b).abs() <= ROUNDING * b.abs(), "{a} is not {b}");
}

/// Instants of a request's token events: the first, then gap after gap.
fn token_instants(request: &Value) -> Vec<u64> {
    let mut instants: Vec<u64> = request["first_token_ns"].as_u64().into_iter().collect();
    for gap in request["gaps_ns"].as_array().into_iter().flatten() {
        let (gap_ns, times) = match gap.as_u64() {
            Some(gap_ns) => (gap_ns, 1),
            None => (gap[0].as_u64().unwrap(), gap[1].as_u64().unwrap()),
        };
        for _ in 0..times {
            instants.push(instants[instants.len() - 1] + gap_ns);
        }
    }
    instants
}

/// Tokens per second of a unit's window, from nothing but the lines of `requests.jsonl`.
fn output_tok_per_s(requests: &[Value], unit: &Value) -> f64 {
    let window = &unit["summary"]["window"];
    let (start, end) = (&window["start_ns"], &window["end_ns"]);
    let (start, end) = (start.as_u64().unwrap(), end.as_u64().unwrap());
    let tokens = requests
        .iter()
        .filter(|r| ["level", "repeat"].iter().all(|k| r["unit"][k] == unit[k]))
        .flat_map(token_instants)
        .filter(|at| (start + 1..=end).contains(at))
        .count();
    tokens as f64 / ((end - start) as f64 / 1e9)
}

#[test]
fn processors_at_the_price_of_accelerators_are_told() {
    let place = Place::new();
    let args = "run --model tiny --weights synthetic:7 --dtype f32 --threads 1 --input-len 8 \
                --output-len 8 --requests 6 --concurrency 1 --repeats 1 -o out --instance";
    let args: Vec<&str> = args.split_whitespace().collect();
    for (instance, with_accelerators) in [("aws/p5.4xlarge", true), ("aws/c7a.16xlarge", false)] {
        let args = [&args[..], &[instance]].concat();
        let output = place.costmark(&args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let warning = format!("warning: {instance}");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(errors.contains(&warning), with_accelerators, "{errors}");
        let notes = place.document("out")["notes"].to_string();
        let is_noted = notes.contains("do not belong together");
        assert_eq!(is_noted, with_accelerators, "{notes}");
        std::fs::remove_dir_all(place.path().join("out")).unwrap();
    }
}

#[test]
fn the_table_is_what_the_lines_say() {
    let place = Place::new();
    let table = stdout(&mut place.run(&["--concurrency", "1,4", "--repeats", "3", "-o", "out"]));
    let document = place.document("out");
    let requests = lines(&place.path().join("out/requests.jsonl"));
    assert_eq!(document["status"], "complete");
    assert_eq!(document["units"].as_array().unwrap().len(), 6);

    let mut rates: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for unit in document["units"].as_array().unwrap() {
        let rate = output_tok_per_s(&requests, unit);
        assert_close(
            rate,
            unit["summary"]["throughput"]["output_tok_per_s"]
                .as_f64()
                .unwrap(),
        );
        rates
            .entry(unit["level"].as_str().unwrap().to_string())
            .or_default()
            .push(rate);
    }
    for level in document["levels"].as_array().unwrap() {
        let concurrency = level["load"]["concurrency"].as_u64().unwrap();
        assert_eq!(level["id"], format!("c{concurrency}"));
        let mut of_level = rates[level["id"].as_str().unwrap()].clone();
        of_level.sort_by(f64::total_cmp);
        let median = of_level[1];
        assert_close(
            level["summary"]["output_tok_per_s"]["value"]
                .as_f64()
                .unwrap(),
            median,
        );
        let shown = costmark_report::numbers::short(median);
        let row = table
            .lines()
            .find(|line| line.trim_start().starts_with(&format!("{concurrency} ")))
            .unwrap();
        assert!(row.contains(&shown), "{shown} is not in {row}");
    }
    for phase in ["warmup", "measured"] {
        assert!(
            requests.iter().any(|r| r["unit"]["phase"] == phase),
            "{phase}"
        );
    }
    let measured = requests.iter().filter(|r| r["unit"]["phase"] == "measured");
    assert_eq!(measured.count(), 6 * 6);
}

#[test]
fn the_parts_of_the_cost_add_up() {
    let place = Place::new();
    stdout(&mut place.run(&["--concurrency", "3", "--repeats", "2", "-o", "out", "-q"]));
    let document = place.document("out");
    for unit in document["units"].as_array().unwrap() {
        let cost = &unit["cost"];
        let usd = |key: &str| cost[key].as_f64().unwrap();
        assert_close(
            usd("usd_input") + usd("usd_cached") + usd("usd_output"),
            usd("usd"),
        );
        // A dollar an hour.
        assert_close(usd("usd"), usd("window_s") / 3600.0);
        assert_close(
            usd("usd_per_mtok_output") * cost["output_tokens"].as_f64().unwrap() / 1e6,
            usd("usd_output"),
        );
        let tokens =
            cost["input_tokens"].as_f64().unwrap() + cost["output_tokens"].as_f64().unwrap();
        assert_close(usd("usd_per_mtok_blended") * tokens / 1e6, usd("usd"));
    }
    let shares = &document["levels"][0]["attribution"];
    let sum: f64 = ["input_share", "cached_share", "output_share"]
        .iter()
        .map(|key| shares[key].as_f64().unwrap())
        .sum();
    assert_close(sum, 1.0);
}

#[test]
fn equal_seeds_give_equal_outputs_whatever_the_engine_does() {
    let place = Place::new();
    let hashes = |folder: &str, more: &[&str]| -> BTreeMap<u64, String> {
        let mut args = vec!["--concurrency", "4", "--repeats", "1", "-q", "-o", folder];
        args.extend(more);
        stdout(&mut place.run(&args));
        lines(&place.path().join(folder).join("requests.jsonl"))
            .iter()
            .filter(|r| r["unit"]["phase"] == "measured")
            .map(|r| {
                let hash = r["output_hash"].as_str().unwrap();
                (r["id"].as_u64().unwrap(), hash.to_string())
            })
            .collect()
    };
    let first = hashes("first", &[]);
    assert_eq!(first.len(), 6);
    assert_eq!(first, hashes("again", &[]));
    assert_eq!(
        first,
        hashes(
            "chunked",
            &["--max-batched-tokens", "5", "--no-prefix-cache"]
        )
    );
    assert_ne!(first, hashes("other", &["--seed", "1"]));
}

#[test]
fn json_is_the_document_in_the_folder() {
    let place = Place::new();
    let text = stdout(&mut place.run(&["--concurrency", "2", "--repeats", "1", "--json"]));
    let printed: Value = serde_json::from_str(&text).unwrap();
    let folder = place.only_run();
    let name = folder.file_name().unwrap().to_str().unwrap();
    assert!(name.ends_with("-tiny-cpu"), "{name}");
    assert_eq!(printed, place.document(folder.to_str().unwrap()));
    // Other programs read these.
    for pointer in [
        "/schema_version",
        "/levels/0/load/concurrency",
        "/levels/0/summary/output_tok_per_s/value",
        "/levels/0/summary/latency/ttft_ms/p50",
        "/levels/0/summary/latency/itl_ms/p50",
        "/levels/0/summary/mbu/value",
        "/levels/0/usd_per_mtok_output/value",
        "/environment/machine/cpu/model",
        "/environment/peaks/1/read_bytes_per_s/best",
        "/price/usd_per_hour",
        "/finding",
    ] {
        let value = printed.pointer(pointer).unwrap_or(&Value::Null);
        assert!(!value.is_null(), "{pointer}");
    }
}

#[test]
fn a_run_by_time_with_a_price_book() {
    let place = Place::new();
    let text = stdout(&mut place.costmark(&[
        "run",
        "--model",
        "tiny",
        "--weights",
        "synthetic",
        "--threads",
        "1",
        "--input-len",
        "8",
        "--output-len",
        "4",
        "--duration",
        "300ms",
        "--repeats",
        "1",
        "--concurrency",
        "2",
        "--instance",
        "aws/p5.4xlarge",
        "--utilization",
        "0.5",
    ]));
    assert!(text.contains("aws/p5.4xlarge"), "{text}");
    let flat: Vec<&str> = text.split_whitespace().collect();
    assert!(flat.join(" ").contains("utilization 50 %"), "{text}");
    assert!(text.contains("SYNTHETIC"), "{text}");
    let document = place.document(place.only_run().to_str().unwrap());
    let took_ns = document["units"][0]["end_ns"].as_u64().unwrap()
        - document["units"][0]["start_ns"].as_u64().unwrap();
    assert!(took_ns >= 300_000_000, "{took_ns}");
}

#[test]
fn without_a_price_the_machine_is_priced_per_vcpu_and_says_so() {
    let place = Place::new();
    let text = stdout(&mut place.costmark(&[
        "run",
        "--model",
        "tiny",
        "--weights",
        "synthetic",
        "--threads",
        "1",
        "--input-len",
        "8",
        "--output-len",
        "4",
        "--requests",
        "2",
        "--repeats",
        "1",
        "--concurrency",
        "1",
    ]));
    assert!(
        text.contains("by default") && text.contains("vCPU"),
        "{text}"
    );
}

#[test]
fn logits_that_are_not_numbers_fail_the_run_and_are_told() {
    let place = Place::new();
    place.write_checkpoint("broken", f32::NAN);
    let mut command = place.costmark(&[
        "run",
        "--model",
        "broken",
        "--requests",
        "3",
        "--repeats",
        "1",
        "--concurrency",
        "1",
        "--input-len",
        "4",
        "--output-len",
        "4",
        "--warmup",
        "0",
        "--price",
        "1",
        "-o",
        "out",
    ]);
    let text = stderr(&mut command, 1);
    assert!(text.contains("--max-errors"), "{text}");
    let document = place.document("out");
    assert_eq!(document["status"], "failed");
    assert_eq!(document["levels"], serde_json::json!([]));
    assert_eq!(
        document["units"][0]["summary"]["requests"]["errors"]["non_finite_logits"],
        3
    );
}

#[test]
fn a_checkpoint_of_safetensors_runs() {
    let place = Place::new();
    place.write_checkpoint("sound", 0.5);
    let text = stdout(&mut place.costmark(&[
        "run",
        "--model",
        "sound",
        "--requests",
        "3",
        "--repeats",
        "1",
        "--concurrency",
        "2",
        "--input-len",
        "4",
        "--output-len",
        "4",
        "--price",
        "1",
    ]));
    assert!(
        text.contains("f32 weights") && !text.contains("SYNTHETIC"),
        "{text}"
    );
}

#[test]
fn lockstep_serves_the_same_tokens_in_static_batches() {
    let place = Place::new();
    place.write_checkpoint("sound", 0.5);
    let hashes = |backend: &str, more: &[&str]| -> BTreeMap<u64, String> {
        stdout(
            place
                .costmark(&[
                    "run",
                    "--model",
                    "sound",
                    "--backend",
                    backend,
                    "--requests",
                    "6",
                    "--repeats",
                    "1",
                    "--concurrency",
                    "2",
                    "--input-len",
                    "6",
                    "--output-len",
                    "4",
                    "--price",
                    "1",
                    "-o",
                    backend,
                ])
                .args(more),
        );
        lines(&place.path().join(backend).join("requests.jsonl"))
            .iter()
            .filter(|r| r["unit"]["phase"] == "measured")
            .map(|r| {
                let hash = r["output_hash"].as_str().unwrap();
                (r["id"].as_u64().unwrap(), hash.to_string())
            })
            .collect()
    };
    let engine = hashes("engine", &["--kv-dtype", "f32"]);
    assert_eq!(engine, hashes("lockstep", &[]));
    let document = place.document("lockstep");
    assert_eq!(document["backends"][0]["kind"], "lockstep");
    assert!(document["levels"][0]["usd_per_mtok_output"]["value"].is_number());
}

#[cfg(unix)]
mod signals {
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::{Place, lines};

    fn long_run(place: &Place) -> Child {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("costmark"));
        command
            .current_dir(place.path())
            .args([
                "run",
                "--model",
                "tiny",
                "--weights",
                "synthetic",
                "--price",
                "1",
            ])
            .args(["--input-len", "8", "--output-len", "8", "--duration", "60s"])
            .args([
                "--concurrency",
                "2",
                "--repeats",
                "1",
                "--threads",
                "1",
                "-o",
                "out",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn wait_for_requests(place: &Place, child: &mut Child) {
        let path = place.path().join("out/requests.jsonl");
        let deadline = Instant::now() + Duration::from_secs(60);
        // Lines are handed to the system at least every second.
        let measured = || {
            path.exists()
                && lines(&path)
                    .iter()
                    .any(|line| line["unit"]["phase"] == "measured")
        };
        while !measured() {
            assert!(Instant::now() < deadline, "no request was written");
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn signal(child: &Child, name: &str) {
        let status = Command::new("kill")
            .args([name, &child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    #[test]
    fn ctrl_c_ends_a_run_well() {
        let place = Place::new();
        let mut child = long_run(&place);
        wait_for_requests(&place, &mut child);
        signal(&child, "-INT");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let (table, errors) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(errors.contains("stopped by the user"), "{errors}");
        assert!(
            table.contains("NOT COMPLETE") && table.contains("tok/s"),
            "{table}"
        );
        let document = place.document("out");
        assert_eq!(document["status"], "interrupted");
        assert_eq!(document["levels"][0]["load"]["concurrency"], 2);
    }

    #[test]
    fn a_second_ctrl_c_ends_it_at_once() {
        let place = Place::new();
        let mut child = long_run(&place);
        wait_for_requests(&place, &mut child);
        signal(&child, "-INT");
        signal(&child, "-INT");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(place.document("out")["status"], "interrupted");
    }

    #[test]
    fn what_was_measured_survives_a_kill() {
        let place = Place::new();
        let mut child = long_run(&place);
        wait_for_requests(&place, &mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        let stored = costmark_report::StoredRun::load(&place.path().join("out")).unwrap();
        assert_eq!(stored.document.status, costmark_report::Status::Incomplete);
        assert!(stored.units.values().any(|unit| !unit.requests.is_empty()));
    }

    /// A limit on file sizes stands for a full disk.
    #[test]
    fn a_full_disk_is_told_and_the_table_still_printed() {
        let place = Place::new();
        let program = assert_cmd::cargo::cargo_bin("costmark");
        let script = format!(
            "trap '' XFSZ; ulimit -f 256; exec '{}' run --model tiny --weights synthetic --price 1 \
             --input-len 8 --output-len 8 --requests 2 --concurrency 1 --repeats 500 --threads 1 \
             -o out",
            program.display()
        );
        let output = Command::new("sh")
            .current_dir(place.path())
            .args(["-c", &script])
            .output()
            .unwrap();
        let (table, errors) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        assert!(
            errors.contains("error: out/") && errors.contains("--output"),
            "{errors}"
        );
        assert!(table.contains("NOT COMPLETE"), "{table}");
        assert!(table.contains("tok/s"), "{table}");
    }
}
