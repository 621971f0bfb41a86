//! Wrong input: exit code 2, and a message that names the flag and the way out.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use common::{Place, stderr};

#[track_caller]
fn refused(args: &[&str], says: &[&str]) {
    let place = Place::new();
    let text = stderr(&mut place.costmark(args), 2);
    for part in says {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(
        !place.path().join("runs").exists(),
        "nothing was measured, so no folder may stay behind"
    );
}

const TINY: [&str; 7] = [
    "run",
    "--model",
    "tiny",
    "--weights",
    "synthetic",
    "--price",
    "1",
];

#[track_caller]
fn run_refused(more: &[&str], says: &[&str]) {
    refused(&[&TINY[..], more].concat(), says);
}

#[test]
fn values_without_meaning() {
    run_refused(&["--concurrency", "0"], &["--concurrency"]);
    run_refused(&["--concurrency", "4,4"], &["--concurrency", "--repeats"]);
    run_refused(&["--requests", "0"], &["--requests"]);
    run_refused(&["--duration", "5"], &["--duration", "30s"]);
    run_refused(&["--kv-budget", "much"], &["--kv-budget", "2GiB"]);
    run_refused(&["--input-len", "9..3"], &["--input-len", "64..256"]);
    run_refused(&["--max-errors", "2"], &["--max-errors"]);
    for nothing_to_divide_by in ["0", "1e-40"] {
        let flags = ["--temperature", nothing_to_divide_by];
        run_refused(&flags, &["--temperature", "greedy"]);
    }
    run_refused(&["--quantize", "q9"], &["q9", "q8_0"]);
    refused(
        &["run", "--model", "tiny", "--weights", "fake"],
        &["--weights", "synthetic"],
    );
}

#[test]
fn flags_that_exclude_each_other() {
    run_refused(
        &["--requests", "3", "--duration", "3s"],
        &["--requests", "--duration"],
    );
    run_refused(
        &["--instance", "aws/p5.4xlarge"],
        &["--instance", "--price"],
    );
}

#[test]
fn options_of_the_engine_are_not_ignored_by_another_backend() {
    for more in [
        &["--kv-budget", "1GiB"][..],
        &["--kv-dtype", "f32"],
        &["--no-prefix-cache"],
        &["--quantize", "q8_0"],
    ] {
        run_refused(
            &[&["--backend", "lockstep"], more].concat(),
            &[more[0], "--backend engine"],
        );
    }
}

#[test]
fn devices_that_are_not_there() {
    run_refused(&["--device", "cuda"], &["--device", "CUDA", "cpu"]);
    run_refused(&["--device", "tpu"], &["--device", "cuda:N"]);
    // That nothing can run there is told before what it would cost.
    let unfit = ["--device", "cuda", "--instance", "aws/c7a.16xlarge"];
    refused(&[&TINY[..5], &unfit].concat(), &["--device cuda:0", "cpu"]);
}

#[test]
fn models_that_are_not_there() {
    refused(
        &["run", "--model", "no-such-model", "--weights", "synthetic"],
        &["no-such-model", "qwen3-0.6b"],
    );
    refused(&["model", "info", "qwen3-0.6"], &["qwen3-0.6b"]);
}

#[test]
fn models_that_cannot_fit() {
    refused(
        &[
            "run",
            "--model",
            "llama-3.1-70b",
            "--weights",
            "synthetic",
            "--dtype",
            "f32",
        ],
        &["llama-3.1-70b", "--quantize", "--kv-budget"],
    );
}

#[test]
fn shapes_have_no_weights_of_their_own() {
    refused(&["run", "--model", "qwen3-0.6b"], &["--weights synthetic"]);
}

#[test]
fn the_hub_is_not_reached_offline() {
    refused(
        &["run", "--model", "some-owner/some-model"],
        &["some-owner/some-model"],
    );
}

#[test]
fn requests_that_do_not_fit() {
    run_refused(
        &["--input-len", "250", "--output-len", "20"],
        &["270", "256", "--input-len"],
    );
    run_refused(&["--kv-budget", "1KiB"], &["--kv-budget"]);
}

#[test]
fn prices_that_are_none() {
    let tiny = &TINY[..5];
    for (more, says) in [
        (&["--price", "0"][..], &["--price"][..]),
        (&["--price", "-3"], &["--price"]),
        (&["--price", "free"], &["--price"]),
        (
            &["--instance", "aws/p5.5xlarge"],
            &["--instance", "aws/p5.4xlarge"],
        ),
        (&["--instance", "p5"], &["--instance", "provider"]),
        (
            &["--price", "1", "--utilization", "1.5"],
            &["--utilization"],
        ),
        (&["--price-book", "none.toml"], &["none.toml"]),
    ] {
        refused(&[tiny, more].concat(), says);
    }
}

#[test]
fn a_price_book_that_is_none() {
    let place = Place::new();
    std::fs::write(place.path().join("book.toml"), "usd = 3\n").unwrap();
    let text = stderr(
        &mut place.costmark(&["run", "--price-book", "book.toml"]),
        2,
    );
    assert!(text.contains("book.toml"), "{text}");
}

#[test]
fn results_are_never_overwritten() {
    let place = Place::new();
    let folder = place.path().join("mine");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("notes.txt"), "precious").unwrap();
    let text = stderr(&mut place.run(&["-o", "mine"]), 2);
    assert!(text.contains("mine") && text.contains("--output"), "{text}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn results_that_cannot_be_written() {
    let place = Place::new();
    std::fs::write(place.path().join("file"), "").unwrap();
    let text = stderr(&mut place.run(&["-o", "file/below"]), 2);
    assert!(
        text.contains("file/below") && text.contains("--output"),
        "{text}"
    );
}

#[test]
fn prompts_that_are_none() {
    let generate = ["generate", "--model", "tiny", "--weights", "synthetic"];
    let with = |more: &[&'static str]| [&generate[..], more].concat();
    refused(&with(&[]), &["--prompt"]);
    refused(
        &with(&["--prompt", "hello"]),
        &["tokenizer", "--prompt-ids"],
    );
    refused(&with(&["--prompt-ids", "1,two"]), &["--prompt-ids"]);
    refused(&with(&["--prompt-ids", "1,256"]), &["256", "vocabulary"]);
    refused(
        &with(&["--prompt-ids", "1", "--top-p", "0.5"]),
        &["--temperature"],
    );
}
