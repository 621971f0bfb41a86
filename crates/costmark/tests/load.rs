//! Loads, workloads and traces from the command line, on the mock: no model, virtual time.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use common::{Place, lines, stderr, stdout};
use serde_json::Value;

/// 4 sequences of 50 + 15 × 10 ms: a capacity of 20 requests of 16 tokens per second.
const MOCK: &str = "ttft=50ms,itl=10ms,max-sequences=4,virtual";

fn mock(place: &Place, more: &[&str]) -> String {
    let args = [
        "run",
        "--backend",
        "mock",
        "--mock",
        MOCK,
        "--price",
        "1",
        "-q",
        "-o",
        "out",
    ];
    stdout(&mut place.costmark(&[&args[..], more].concat()))
}

#[track_caller]
fn refused(place: &Place, more: &[&str], says: &[&str]) {
    let args = ["run", "--backend", "mock", "--price", "1"];
    let text = stderr(&mut place.costmark(&[&args[..], more].concat()), 2);
    for part in says {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(
        !place.path().join("runs").exists(),
        "no folder may stay behind"
    );
}

#[allow(clippy::panic)] // A helper of tests.
fn number(value: &Value, pointer: &str) -> f64 {
    value
        .pointer(pointer)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("{pointer}: {value}"))
}

#[test]
fn rates_below_and_above_capacity() {
    let place = Place::new();
    let table = mock(
        &place,
        &["--rate", "5,40", "--repeats", "1", "--requests", "300"],
    );
    let document = place.document("out");
    let levels = document["levels"].as_array().unwrap();
    assert_eq!(levels[0]["id"], "r5");
    assert_eq!(levels[0]["load"]["arrivals"], "poisson:5");
    assert_eq!(levels[0]["summary"]["saturated"], false);
    assert_eq!(levels[1]["summary"]["saturated"], true);
    // Four at a time, 0.2 s each.
    assert!((number(&levels[1], "/summary/requests_per_s/value") - 20.0).abs() < 1.0);
    assert!(
        table.contains("saturated") && table.contains("5/s"),
        "{table}"
    );
    for line in table.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn a_seed_gives_the_same_run_to_the_bit() {
    let run = |seed: &str| {
        let place = Place::new();
        let more = [
            "--rate",
            "12",
            "--arrivals",
            "gamma:0.5",
            "--repeats",
            "1",
            "--seed",
            seed,
        ];
        mock(&place, &more);
        let path = place.path().join("out/requests.jsonl");
        std::fs::read_to_string(path).unwrap()
    };
    assert_eq!(run("7"), run("7"));
    assert_ne!(run("7"), run("8"));
}

#[test]
fn a_cap_delays_and_counts_but_drops_nothing() {
    let place = Place::new();
    let more = [
        "--rate",
        "10",
        "--arrivals",
        "bursts:5",
        "--max-concurrency",
        "2",
    ];
    mock(
        &place,
        &[&more[..], &["--requests", "50", "--repeats", "1"]].concat(),
    );
    let document = place.document("out");
    let unit = &document["units"][0]["summary"];
    assert_eq!(unit["requests"]["finished"], 50);
    // Of each five the last three wait.
    assert!(number(unit, "/open_loop/delayed_by_cap") >= 25.0);
    let p50 = |clock: &str| number(unit, &format!("/latency/{clock}/p50"));
    assert!(p50("user_ttft_ms") > p50("ttft_ms") + 100.0, "{unit}");
}

#[test]
fn all_at_once() {
    let place = Place::new();
    mock(
        &place,
        &["--max-throughput", "--requests", "40", "--repeats", "1"],
    );
    let document = place.document("out");
    assert_eq!(document["levels"][0]["id"], "max");
    // Ten rounds of four requests, 0.2 s each.
    let unit = &document["units"][0];
    let seconds = (number(unit, "/end_ns") - number(unit, "/start_ns")) / 1e9;
    assert!((seconds - 2.0).abs() < 0.01, "{seconds}");
}

#[test]
fn several_workloads_make_a_level_each() {
    let place = Place::new();
    let table = mock(
        &place,
        &[
            "--workload",
            "chat,batch",
            "--concurrency",
            "4",
            "--repeats",
            "1",
        ],
    );
    let document = place.document("out");
    let ids: Vec<_> = document["levels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| &l["id"])
        .collect();
    assert_eq!(ids, ["chat/c4", "batch/c4"]);
    assert!(
        document["plan"]["workloads"][0]["source"]
            .as_str()
            .unwrap()
            .contains("Azure")
    );
    assert_eq!(
        document["plan"]["workloads"][1]["shared_prefix_tokens"],
        400
    );
    assert!(table.contains("chat") && table.contains("batch"), "{table}");
}

#[test]
fn lengths_from_a_file_stay_in_pairs() {
    let place = Place::new();
    std::fs::write(place.path().join("pairs.csv"), "100,1\n200,2\n300,3\n").unwrap();
    let file = "file:pairs.csv";
    mock(
        &place,
        &["--input-len", file, "--output-len", file, "--repeats", "1"],
    );
    let requests = lines(&place.path().join("out/requests.jsonl"));
    let measured = requests.iter().filter(|r| r["unit"]["phase"] == "measured");
    for request in measured {
        let output = request["output_tokens"].as_u64().unwrap();
        assert_eq!(request["input_tokens"], 100 * output);
    }
}

#[test]
fn goodput_is_what_met_the_limits() {
    let place = Place::new();
    // Three quarters of capacity: some find all four places taken.
    let run = ["--rate", "15", "--repeats", "1", "--requests", "200"];
    let text = mock(
        &place,
        &[&run[..], &["--slo", "ttft=100ms,itl=20ms"]].concat(),
    );
    assert!(text.contains("Goodput"), "{text}");
    let document = place.document("out");
    assert_eq!(document["plan"]["slo"]["ttft_ms"], 100.0);
    let goodput = number(&document, "/levels/0/summary/goodput_requests_per_s/value");
    let all = number(&document, "/levels/0/summary/requests_per_s/value");
    assert!(0.0 < goodput && goodput < all, "{goodput} of {all}");
}

/// The same requests in three forms of trace, at 0, 1 and 3 s.
const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
    2023-11-16 18:00:00.0000000,300,4\n\
    2023-11-16 18:00:01.0000000,40,5\n\
    2023-11-16 18:00:03.0000000,900,2\n";
const BURSTGPT: &str = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
    5,ChatGPT,300,4,304,API\n6,ChatGPT,40,5,45,API\n7,GPT-4,9,0,9,API\n8,GPT-4,900,2,902,API\n";
const MOONCAKE: &str = concat!(
    r#"{"timestamp": 0, "input_length": 600, "output_length": 4, "hash_ids": [1, 2]}"#,
    "\n",
    r#"{"timestamp": 1000, "input_length": 700, "output_length": 5, "hash_ids": [1, 3]}"#,
    "\n",
    r#"{"timestamp": 3000, "input_length": 512, "output_length": 2, "hash_ids": [1]}"#,
    "\n"
);

#[test]
fn traces_are_replayed_at_their_times() {
    for (name, text, inputs) in [
        ("azure.csv", AZURE, [300, 40, 900]),
        ("burst.csv", BURSTGPT, [300, 40, 900]),
        ("mooncake.jsonl", MOONCAKE, [600, 700, 512]),
    ] {
        let place = Place::new();
        std::fs::write(place.path().join(name), text).unwrap();
        mock(
            &place,
            &["--trace", name, "--time-scale", "2", "--repeats", "1"],
        );
        let mut requests = lines(&place.path().join("out/requests.jsonl"));
        requests.sort_by_key(|r| r["scheduled_ns"].as_u64());
        let due = |i: usize| requests[i]["scheduled_ns"].as_u64().unwrap();
        assert_eq!(requests.len(), 3, "{name}");
        let ms = [due(1) - due(0), due(2) - due(0)].map(|ns| (ns + 500_000) / 1_000_000);
        assert_eq!(ms, [500, 1500], "{name}");
        for (request, input) in requests.iter().zip(inputs) {
            assert_eq!(request["input_tokens"], input, "{name}");
        }
        let document = place.document("out");
        assert_eq!(document["levels"][0]["load"]["kind"], "trace");
        assert_eq!(document["plan"]["workloads"][0]["trace"]["requests"], 3);
    }
}

/// Equal block ids are equal tokens: the engine's prefix cache finds them.
#[test]
fn block_ids_of_a_trace_are_found_in_the_prefix_cache() {
    let place = Place::new();
    let config = std::fs::read_to_string(place.path().join("tiny/config.json")).unwrap();
    let longer = config.replace(
        "\"max_position_embeddings\": 256",
        "\"max_position_embeddings\": 2048",
    );
    std::fs::write(place.path().join("tiny/config.json"), longer).unwrap();
    std::fs::write(place.path().join("m.jsonl"), MOONCAKE).unwrap();
    let args = [
        "run",
        "--model",
        "tiny",
        "--weights",
        "synthetic",
        "--price",
        "1",
        "-q",
    ];
    let more = ["--trace", "m.jsonl", "--repeats", "1", "-o", "out"];
    stdout(&mut place.costmark(&[&args[..], &more].concat()));
    let mut requests = lines(&place.path().join("out/requests.jsonl"));
    requests.sort_by_key(|r| r["scheduled_ns"].as_u64());
    let cached: Vec<u64> = requests
        .iter()
        .map(|r| r["cached_tokens"].as_u64().unwrap())
        .collect();
    assert_eq!(cached[0], 0);
    assert_eq!(cached[1], 512, "the first block of 512 tokens");
    assert!(cached[2] >= 496, "all but the last block of KV: {cached:?}");
}

#[test]
fn a_trace_is_described() {
    let place = Place::new();
    std::fs::write(place.path().join("m.jsonl"), MOONCAKE).unwrap();
    let text = stdout(&mut place.costmark(&["trace", "info", "m.jsonl"]));
    assert!(
        text.contains("3 requests") && text.contains("Arrivals"),
        "{text}"
    );
    let json = stdout(&mut place.costmark(&["trace", "info", "m.jsonl", "--json"]));
    let info: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(info["input_tokens"]["max"], 700);
    // 512 of the second and 512 of the third, of 1812 in all.
    assert!((number(&info, "/reusable_share") - 1024.0 / 1812.0).abs() < 1e-9);
}

/// Traces as published, where they are at hand.
#[test]
fn published_traces_are_read() {
    let Some(folder) = std::env::var_os("COSTMARK_TRACES") else {
        println!("COSTMARK_TRACES names no folder of published traces: nothing was read");
        return;
    };
    let place = Place::new();
    for (name, requests) in [
        ("AzureLLMInferenceTrace_conv.csv", 19_366),
        ("AzureLLMInferenceTrace_code.csv", 8_819),
    ] {
        let path = std::path::Path::new(&folder).join(name);
        if !path.exists() {
            println!("{}: not there, not read", path.display());
            continue;
        }
        let path = path.to_str().unwrap();
        let json = stdout(&mut place.costmark(&["trace", "info", path, "--json"]));
        let info: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(info["requests"], requests, "{name}");
    }
}

/// Few requests at random times: repeats differ by more than a fifth.
#[test]
fn strictness_fails_what_varies() {
    let place = Place::new();
    let args = [
        "run",
        "--backend",
        "mock",
        "--mock",
        MOCK,
        "--price",
        "1",
        "-q",
        "--rate",
        "3",
        "--requests",
        "6",
        "--warmup",
        "0",
    ];
    let told = stdout(&mut place.costmark(&[&args[..], &["-o", "lenient"]].concat()));
    let cv = number(&place.document("lenient"), "/levels/0/summary/cv");
    assert!(cv > 0.2 && told.contains("between repeats"), "{cv}: {told}");
    let strict = [&args[..], &["--strict", "-o", "strict"]].concat();
    let told = stderr(&mut place.costmark(&strict), 1);
    assert!(
        told.contains("--strict: throughput of level r3 varies"),
        "{told}"
    );
    let document = place.document("strict");
    assert_eq!(
        (&document["status"], &document["levels"][0]["repeats"]),
        (&"failed".into(), &3.into())
    );
    // Steady repeats pass.
    let steady = [
        "run",
        "--backend",
        "mock",
        "--mock",
        MOCK,
        "--price",
        "1",
        "-q",
        "--concurrency",
        "2",
        "--strict",
        "-o",
        "steady",
    ];
    stdout(&mut place.costmark(&steady));
}

#[test]
fn workloads_are_listed_with_their_sources() {
    let place = Place::new();
    let text = stdout(&mut place.costmark(&["workloads"]));
    for name in [
        "chat",
        "conversation",
        "code-completion",
        "summarisation",
        "rag",
        "agent-loop",
        "batch",
    ] {
        assert!(text.contains(name), "{name}: {text}");
    }
    let json = stdout(&mut place.costmark(&["workloads", "--json"]));
    let all: Value = serde_json::from_str(&json).unwrap();
    // The trace's own mean is 1155 and 211: straight lines between its quantiles are close.
    assert!((number(&all, "/0/mean_input_tokens") / 1155.0 - 1.0).abs() < 0.1);
    assert!((number(&all, "/0/mean_output_tokens") / 211.0 - 1.0).abs() < 0.1);
    // A prompt of a conversation holds what was said before it; five turns at most, each of at most
    // 4571 and 777 tokens.
    assert_eq!(all[1]["name"], "conversation");
    assert!(all[1]["turns"].is_string() && all[0].get("turns").is_none());
    assert_eq!(
        number(&all, "/1/longest_request_tokens"),
        5.0 * (4571.0 + 777.0)
    );
}

#[test]
fn wrong_loads() {
    let place = Place::new();
    refused(&place, &["--rate", "0"], &["--rate", "above 0"]);
    refused(&place, &["--rate", "-2"], &["--rate", "above 0"]);
    refused(&place, &["--rate", "2,2"], &["--rate", "--repeats"]);
    refused(
        &place,
        &["--rate", "2", "--concurrency", "4"],
        &["--rate", "--concurrency"],
    );
    refused(
        &place,
        &["--arrivals", "poisson"],
        &["--arrivals", "--rate"],
    );
    refused(
        &place,
        &["--rate", "2", "--arrivals", "poison"],
        &["poison", "gamma:BURSTINESS"],
    );
    refused(
        &place,
        &["--max-concurrency", "3"],
        &["--max-concurrency", "--concurrency"],
    );
    refused(
        &place,
        &["--max-throughput", "--duration", "3s"],
        &["--duration", "--requests"],
    );
    refused(&place, &["--warmup", "soon"], &["--warmup", "30s"]);
    refused(&place, &["--mock", "tfft=3ms"], &["--mock", "ttft=TIME"]);
    refused(&place, &["--model", "tiny"], &["--model", "mock"]);
    refused(
        &place,
        &["--slo", "tfft=2s"],
        &["--slo", "tfft", "e2e=TIME"],
    );
    refused(
        &place,
        &["--slo", "ttft=9s,e2e=2s"],
        &["--slo", "lower ttft"],
    );
}

#[test]
fn wrong_workloads() {
    let place = Place::new();
    refused(
        &place,
        &["--workload", "chatt"],
        &["chatt", "did you mean `chat`"],
    );
    refused(
        &place,
        &["--workload", "chat,chat"],
        &["--workload", "twice"],
    );
    refused(&place, &["--workload", "none.toml"], &["none.toml"]);
    refused(
        &place,
        &["--length-correlation", "2"],
        &["--length-correlation"],
    );
    refused(&place, &["--input-len", "file:none.txt"], &["none.txt"]);
    let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).unwrap();
    write(
        "bad.toml",
        "description = \"x\"\nsource = \"y\"\ninptu_len = \"3\"\noutput_len = \"3\"\n",
    );
    refused(
        &place,
        &["--workload", "bad.toml"],
        &["bad.toml:3", "did you mean `input_len`"],
    );
    write("zero.txt", "10\n0\n");
    refused(
        &place,
        &["--input-len", "file:zero.txt"],
        &["zero.txt:2", "the length is 0"],
    );
}

#[test]
fn wrong_traces() {
    let place = Place::new();
    let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).unwrap();
    write("empty.csv", "");
    refused(&place, &["--trace", "empty.csv"], &["empty.csv:1", "empty"]);
    write(
        "back.csv",
        "at_s,input_tokens,output_tokens\n5,9,9\n3,9,9\n",
    );
    refused(&place, &["--trace", "back.csv"], &["back.csv:3", "sort"]);
    write("less.csv", "at_s,input_tokens,output_tokens\n5,-9,9\n");
    refused(&place, &["--trace", "less.csv"], &["less.csv:2", "-9"]);
    write(
        "more.csv",
        "at_s,input_tokens,output_tokens\n5,9,999999999999\n",
    );
    refused(
        &place,
        &["--trace", "more.csv"],
        &["more.csv:2", "999999999999"],
    );
    write("other.csv", "a,b,c\n1,2,3\n");
    refused(
        &place,
        &["--trace", "other.csv"],
        &["other.csv:1", "BurstGPT"],
    );
    write("ok.csv", AZURE);
    refused(
        &place,
        &["--trace", "ok.csv", "--trace-window", "9m..10m"],
        &["ok.csv", "window"],
    );
    refused(
        &place,
        &["--trace", "ok.csv", "--trace-window", "10..20"],
        &["10m..20m"],
    );
    refused(
        &place,
        &["--trace", "ok.csv", "--time-scale", "0"],
        &["--time-scale"],
    );
    refused(
        &place,
        &["--trace", "ok.csv", "--trace-format", "mooncake"],
        &["--trace-format"],
    );
    refused(
        &place,
        &["--trace", "ok.csv", "--rate", "2", "--time-scale", "2"],
        &["--time-scale"],
    );
    refused(
        &place,
        &["--trace", "ok.csv", "--workload", "chat"],
        &["--trace", "--workload"],
    );
    refused(&place, &["--trace", "none.csv"], &["none.csv"]);
}
