#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::Value;

use super::schema::schema;
use super::{PlanFile, resolve};
use crate::args::{Cli, Command, RunArgs};
use crate::failure::Result;
use crate::plan::Plan;
use crate::price::Pricing;
use clap::Parser;

/// What comes with costmark, for editors.
const PUBLISHED: &str = include_str!("../../../../configs/plans/plan.schema.json");

fn parse(text: &str) -> Result<PlanFile> {
    PlanFile::parse(Path::new("sweep.toml"), text)
}

/// The plan of a file with what is typed beside it.
fn plan(text: &str, typed: &[&str]) -> Result<Plan> {
    let typed = [&["costmark", "run"], typed].concat();
    let typed: Vec<String> = typed.iter().map(ToString::to_string).collect();
    let file = parse(text)?;
    let args = file.merge(&typed)?;
    Plan::resolve(&args, 2)
        .and_then(|plan| Pricing::resolve(&args.price, 2, None).map(|_| plan))
        .map_err(|failure| file.locate(failure))
}

#[track_caller]
fn refused(text: &str, typed: &[&str], says: &[&str]) {
    let message = plan(text, typed).unwrap_err().message();
    for part in says {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn a_file_means_what_its_flags_mean() {
    let written = "concurrency = [2, 8]\ninput_len = \"8..24\"\noutput_len = 16\nseed = 3\n\
                   warmup = \"2s\"\nslo = \"ttft=2s\"\nprice = 0.5\nno_prefix_cache = true\n";
    let typed = [
        "--concurrency",
        "2,8",
        "--input-len",
        "8..24",
        "--output-len",
        "16",
        "--seed",
        "3",
        "--warmup",
        "2s",
        "--slo",
        "ttft=2s",
        "--price",
        "0.5",
        "--no-prefix-cache",
    ];
    let by_file = plan(written, &[]).unwrap().document();
    let by_flags = plan("", &typed).unwrap().document();
    assert_eq!(by_file.hash(), by_flags.hash());
    // Half written, half typed.
    let both = plan("concurrency = [2, 8]", &typed[2..])
        .unwrap()
        .document();
    assert_eq!(both.hash(), by_flags.hash());
    assert_ne!(by_flags.hash(), plan("", &[]).unwrap().document().hash());
}

#[test]
fn lists_are_axes_models_outermost() {
    let plan = plan(
        "model = [\"qwen3-0.6b\", \"llama-3.2-1b\"]\nweights = \"synthetic\"\n\
         dtype = \"bf16\"\nquantize = [\"q8_0\", \"q4_0\"]\nworkload = [\"chat\", \"rag\"]\n\
         rate = [1, 2.5]\nrepeats = 2\n",
        &[],
    )
    .unwrap();
    let document = plan.document();
    let models: Vec<&str> = document.models.iter().map(|m| m.id.as_str()).collect();
    assert_eq!(
        models,
        [
            "qwen3-0.6b-bf16",
            "qwen3-0.6b-q8_0",
            "qwen3-0.6b-q4_0",
            "llama-3.2-1b-bf16",
            "llama-3.2-1b-q8_0",
            "llama-3.2-1b-q4_0"
        ]
    );
    assert_eq!(document.levels.len(), 6 * 2 * 2);
    assert_eq!(document.levels[0].id.as_str(), "qwen3-0.6b-bf16/chat/r1");
    // A model is loaded once: all its units come before those of the next.
    let order: Vec<String> = document
        .units
        .iter()
        .map(|u| document.level(&u.level).unwrap().model.clone())
        .collect();
    assert_eq!(order.len(), 6 * 2 * 2 * 2);
    let mut seen: Vec<&String> = order.iter().collect();
    seen.dedup();
    assert_eq!(seen, models);
    // A list of one is no axis.
    let one = super::tests::plan("model = [\"qwen3-0.6b\"]\nquantize = [\"q8_0\"]", &[]).unwrap();
    assert_eq!(one.document().levels[0].id.as_str(), "c1");
}

#[test]
fn errors_name_file_and_line() {
    for (text, says) in [
        (
            "concurency = 4",
            &[
                "sweep.toml:1:",
                "`concurency`",
                "did you mean `concurrency`?",
            ][..],
        ),
        (
            "seed = 1\n\n[load]\nrate = 2",
            &["sweep.toml:3:", "no table `load`"],
        ),
        (
            "seed = 1\nduration = \"30sec.\"",
            &["sweep.toml:2: duration:", "30s, 2m or 500ms"],
        ),
        (
            "rate = [\n  1,\n  -2,\n]",
            &["sweep.toml:3: rate: `-2`", "above 0"],
        ),
        (
            "slo = \"tfft=2s\"",
            &["sweep.toml:1: slo:", "no limit `tfft`"],
        ),
        (
            "kv_budget = \"2 gigs\"",
            &["sweep.toml:1: kv_budget:", "2GiB"],
        ),
        (
            "quantize = [\"q8_0\", \"q9\"]",
            &["sweep.toml:1: quantize:", "q9", "q8_0"],
        ),
        ("dtype = \"q8_0\"", &["sweep.toml:1: dtype:", "--quantize"]),
        (
            "backend = \"engin\"",
            &["sweep.toml:1: backend: `engin`", "lockstep", "`engine`"],
        ),
        ("input_len = -3", &["sweep.toml:1: input_len:", "64..256"]),
        ("input_len = \"9..3\"", &["sweep.toml:1: input_len:"]),
        ("threads = 0", &["sweep.toml:1: threads: 0 is not in"]),
        (
            "stop_at_eos = 1",
            &["sweep.toml:1: stop_at_eos: takes true or false"],
        ),
        ("seed = [1, 2]", &["sweep.toml:1: seed: takes one value"]),
        ("rate = []", &["sweep.toml:1: rate: the list is empty"]),
        (
            "seed = true",
            &["sweep.toml:1: seed: takes a number or text"],
        ),
        ("seed = 1\nseed = 2", &["sweep.toml:2:", "duplicate key"]),
        ("seed = ", &["sweep.toml:1:"]),
        ("output = \"here\"", &["sweep.toml:1:", "no key `output`"]),
        (
            "rate = 2\nmax_errors = 3",
            &["sweep.toml:2:", "--max-errors"],
        ),
        (
            "seed = 1\nworkload = \"chta\"",
            &["sweep.toml:2:", "did you mean `chat`?"],
        ),
        ("arrivals = \"poisson\"", &["sweep.toml:1:", "--rate"]),
        ("rate = 2\nconcurrency = 2", &["--rate", "--concurrency"]),
        (
            "requests = 2\nduration = \"2s\"",
            &["--requests", "--duration"],
        ),
        (
            "model = [\"a/tiny\", \"b/tiny\"]",
            &["sweep.toml:1:", "a/tiny", "both be called tiny"],
        ),
        (
            "endpoint = \"http://localhost:1\"\nmodel = [\"a\", \"b\"]",
            &["one of its models"],
        ),
    ] {
        refused(text, &[], says);
    }
}

#[test]
fn what_is_written_cannot_be_typed_again() {
    let at = ["sweep.toml:2 says it already"];
    refused("seed = 1\nrate = 2", &["--rate", "2"], &at);
    refused("seed = 1\nconcurrency = 2", &["--concurrency", "4"], &at);
    refused("seed = 1\nmodel = \"x\"", &["--model", "y"], &at);
    refused("seed = 1\nstop_at_eos = true", &["--stop-at-eos"], &at);
    let excludes = ["--rate", "--concurrency"];
    refused("rate = 2", &["--concurrency", "4"], &excludes);
    // What has a default and was not typed is no contradiction.
    assert!(plan("backend = \"mock\"\nutilization = 0.5", &[]).is_ok());
}

#[test]
fn without_a_file_nothing_is_merged() {
    let typed = ["costmark", "run", "--rate", "2"];
    let Some(Command::Run(args)) = Cli::parse_from(typed).command else {
        panic!("not a run");
    };
    let args: &RunArgs = &args;
    let typed: Vec<String> = typed.iter().map(ToString::to_string).collect();
    assert!(resolve(&typed, args).unwrap().is_none());
}

/// A TOML text as the JSON an editor checks.
fn as_json(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap()
}

#[test]
fn the_published_schema_is_that_of_the_flags() {
    let made = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if made != PUBLISHED {
        let path = std::env::temp_dir().join("plan.schema.json");
        std::fs::write(&path, made).unwrap();
        panic!(
            "the flags of `costmark run` have changed: copy {} to configs/plans",
            path.display()
        );
    }
}

#[test]
fn what_the_schema_lets_through_parses_and_what_is_refused_is_refused_by_both() {
    let published: Value = serde_json::from_str(PUBLISHED).unwrap();
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource("plan.json", published).unwrap();
    let index = compiler.compile("plan.json", &mut schemas).unwrap();
    let accepts = |text: &str| schemas.validate(&as_json(text), index).is_ok();
    for text in [
        "",
        "description = \"a sweep\"\nconcurrency = [1, 4, 16]\nrepeats = 3",
        "rate = [0.5, 2]\narrivals = \"gamma:0.5\"\nduration = \"30s\"\nwarmup = \"1.5s\"",
        "rate = 2\narrivals = \"ramp:60s\"\nmax_concurrency = 8\nwarmup = 0",
        "max_throughput = true\nrequests = 64\nworkload = \"chat\"",
        "model = [\"qwen3-0.6b\"]\nweights = \"synthetic:7\"\ndtype = [\"f16\"]\nquantize = \"q4_0\"",
        "input_len = \"lognormal:128,96\"\noutput_len = 16\nlength_correlation = -0.5\nseed = 0",
        "input_len = \"quantiles:0=2,50=10,100=90\"\noutput_len = \"8..24\"\nshared_prefix = 64",
        "backend = \"mock\"\nmock = \"ttft=50ms,virtual\"\nslo = \"ttft=2s, itl=100ms,e2e=30s\"",
        "kv_budget = \"2GiB\"\nkv_dtype = \"f16\"\nthreads = 2\nblock_size = 16\nno_prefix_cache = true",
        "temperature = 0.7\ntop_p = 0.9\ntop_k = 40\nstop_at_eos = true",
        "price = 1.25\nutilization = 0.5\nmax_errors = 0.01\nstrict = true",
        "find_goodput = true\nslo = \"ttft=2s@p95\"\narrivals = \"constant\"\nrequests = 700",
        "turns = 4\nthink_time = \"exp:2s\"\nconcurrency = 8",
        "turns = \"2..8\"\nthink_time = \"1s..5s\"",
        "device = \"cpu\"\nkv_budget = 1073741824",
    ] {
        assert!(accepts(text), "refused by the schema: {text}");
        plan(text, &[]).unwrap_or_else(|e| panic!("{text}: {}", e.message()));
    }
    for text in [
        "concurency = 4",
        "concurrency = 0",
        "concurrency = []",
        "rate = -1",
        "rate = 2\nconcurrency = 2",
        "requests = 2\nduration = \"2s\"",
        "duration = \"30\"",
        "duration = \"0s\"",
        "duration = \"30 parsecs\"",
        "warmup = -1",
        "input_len = 0",
        "input_len = \"about 9\"",
        "kv_budget = \"much\"",
        "dtype = \"q8_0\"",
        "backend = \"engin\"",
        "device = \"tpu\"",
        "devices = \"all\"",
        "devices = \"0,\"",
        "devices = [0, 1]",
        "devices = 256",
        "devices = \"0-256\"",
        "devices = \"0-1\"\ndevice = \"cpu\"",
        "weights = \"fake\"",
        "slo = \"tfft=2s\"",
        "slo = \"ttft=2\"",
        "max_errors = 2",
        "utilization = 0",
        "length_correlation = 1.5",
        "seed = -1",
        "seed = [1]",
        "stop_at_eos = \"yes\"",
        "arrivals = \"poisson\"",
        "rate = 2\narrivals = \"sometimes\"",
        "time_scale = 2",
        "temperature = 0",
        "top_p = 0.5",
        "output = \"here\"",
        "[load]\nrate = 2",
        "find_goodput = true",
        "find_goodput = true\nslo = \"ttft=2s\"\nconcurrency = 4",
        "slo = \"ttft=2s@95\"",
        "turns = 0",
        "think_time = \"2\"",
        "threads = 0",
        "repeats = 0",
    ] {
        assert!(!accepts(text), "let through by the schema: {text}");
        assert!(
            plan(text, &[]).is_err(),
            "let through by the parser: {text}"
        );
    }
}
