//! Conversations from the command line: on the engine, whose prefix cache finds them again.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use common::{Place, lines, stderr, stdout};

/// Tokens of a KV block, and so of what the prefix cache finds.
const BLOCK: u64 = 16;

#[test]
fn the_engine_finds_all_but_the_new_part_of_a_prompt() {
    let place = Place::new();
    let table = stdout(&mut place.costmark(&[
        "run",
        "--model",
        "tiny",
        "--weights",
        "synthetic:7",
        "--dtype",
        "f32",
        "--threads",
        "1",
        "--price",
        "1",
        "--input-len",
        "20",
        "--output-len",
        "12",
        "--turns",
        "5",
        "--concurrency",
        "2",
        "--requests",
        "20",
        "--repeats",
        "1",
        "--warmup",
        "0",
        "-o",
        "out",
        "-q",
    ]));
    assert!(table.contains("in conversations of 5 turns"), "{table}");
    let document = place.document("out");
    assert_eq!(document["plan"]["workloads"][0]["turns"], "5");
    let (mut later, mut longest) = (0, 0);
    for request in lines(&place.path().join("out/requests.jsonl")) {
        let (input, cached) = (
            request["input_tokens"].as_u64().unwrap(),
            request["cached_tokens"].as_u64().unwrap(),
        );
        // Each turn adds 20 tokens to the 32 of the one before.
        let turn = input.div_ceil(32);
        assert_eq!(request["turn"], turn, "{request}");
        if request["unit"]["phase"] != "measured" || input == 20 {
            continue;
        }
        later += 1;
        longest = longest.max(turn);
        // Of what was said before, prompt and output, all whole blocks; the last output token was
        // never computed with.
        let said = input - 20;
        assert!(cached >= (said - 1) / BLOCK * BLOCK, "{input}: {cached}");
        assert!(cached < input);
    }
    assert!(later >= 12, "{later}");
    assert_eq!(longest, 5);
    assert!(
        document["levels"][0]["usd_per_mtok_cached"]["value"]
            .as_f64()
            .unwrap()
            > 0.0
    );
}

/// Eight users of `talk.toml` on a mock that serves each in 120 ms.
fn talk<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let args = [
        "run",
        "--backend",
        "mock",
        "--mock",
        "ttft=50ms,itl=10ms,virtual",
        "--price",
        "1",
        "--workload",
        "talk.toml",
        "--concurrency",
        "8",
        "--requests",
        "400",
        "--repeats",
        "1",
        "-q",
    ];
    [&args[..], more].concat()
}

#[test]
fn users_who_think_and_workload_files() {
    let place = Place::new();
    let workload = "description = \"talk\"\nsource = \"made up\"\ninput_len = \"20..40\"\n\
                    output_len = \"8\"\nshared_prefix = 10\nturns = \"2..4\"\nthink_time = \"exp:2s\"\n";
    std::fs::write(place.path().join("talk.toml"), workload).unwrap();
    stdout(&mut place.costmark(&talk(&["-o", "thinking"])));
    let document = place.document("thinking");
    assert_eq!(document["plan"]["workloads"][0]["think_time"], "exp:2s");
    let unit = &document["units"][0]["summary"];
    // Of 2.12 s of each round a user is served for 0.12 s: by Little's law 8 × 0.12 / 2.12.
    let in_flight = unit["throughput"]["concurrency"].as_f64().unwrap();
    assert!(
        (in_flight / (8.0 * 0.12 / 2.12) - 1.0).abs() < 0.15,
        "{in_flight}"
    );
    let rate = unit["throughput"]["requests_per_s"].as_f64().unwrap();
    assert!((rate / (8.0 / 2.12) - 1.0).abs() < 0.15, "{rate}");
    // Flags count before what the file says.
    stdout(&mut place.costmark(&talk(&["--think-time", "0", "-o", "without"])));
    let document = place.document("without");
    let in_flight = &document["units"][0]["summary"]["throughput"]["concurrency"];
    assert!(
        (in_flight.as_f64().unwrap() - 8.0).abs() < 0.01,
        "{in_flight}"
    );
}

#[test]
fn what_makes_no_conversation_is_refused() {
    let place = Place::new();
    let refused = |more: &[&str], says: &str| {
        let args = [&["run", "--model", "tiny", "--weights", "synthetic"], more].concat();
        let told = stderr(&mut place.costmark(&args), 2);
        assert!(told.contains(says), "`{says}` is not in: {told}");
    };
    refused(&["--turns", "3", "--rate", "2"], "--concurrency");
    refused(
        &["--turns", "3", "--slo", "ttft=1s", "--find-goodput"],
        "--concurrency",
    );
    refused(&["--turns", "0"], "a number of turns");
    refused(&["--turns", "90000"], "at most 10000");
    refused(&["--think-time", "2"], "has no unit");
    refused(
        &["--turns", "9", "--input-len", "30"],
        "may reach 414 tokens, but the context holds 256",
    );
}
