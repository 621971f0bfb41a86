//! Plan files from the command line: one folder for a sweep, whatever it is over.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use std::path::Path;

use common::{Place, stderr, stdout};

fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/plans");
    folder.join(name).to_str().unwrap().to_string()
}

#[test]
fn the_example_of_rates_runs_in_seconds() {
    let place = Place::new();
    let plan = example("rates.toml");
    let args = ["run", "--plan", &plan, "-q", "-o", "out"];
    let table = stdout(&mut place.costmark(&args));
    let document = place.document("out");
    let ids: Vec<&str> = document["levels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|level| level["id"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids,
        [
            "chat/r1", "chat/r2", "chat/r4", "chat/r8", "rag/r1", "rag/r2", "rag/r4", "rag/r8"
        ]
    );
    assert_eq!(document["units"].as_array().unwrap().len(), 24);
    assert_eq!(document["status"], "complete");
    assert!(table.contains("chat") && table.contains("8/s"), "{table}");
}

/// The other example as it stands but for its size, which would take minutes here.
#[test]
fn the_example_of_formats_runs_on_a_small_shape() {
    let place = Place::new();
    let tiny = std::fs::read_to_string(place.path().join("tiny/config.json")).unwrap();
    // Weights in q4_k come in blocks of 256.
    let wide = tiny
        .replace("\"hidden_size\": 64", "\"hidden_size\": 256")
        .replace("\"intermediate_size\": 128", "\"intermediate_size\": 256")
        .replace("\"head_dim\": 32", "\"head_dim\": 64");
    assert_eq!(wide.matches("256").count(), 4);
    std::fs::create_dir(place.path().join("wide")).unwrap();
    std::fs::write(place.path().join("wide/config.json"), wide).unwrap();
    let mut plan = std::fs::read_to_string(example("formats.toml")).unwrap();
    for (of_the_example, small) in [
        ("model = \"qwen3-0.6b\"", "model = \"wide\""),
        ("input_len = 128", "input_len = 12"),
        ("output_len = 64", "output_len = 4"),
        ("shared_prefix = 32", "shared_prefix = 4"),
        ("concurrency = [1, 4, 16]", "concurrency = [1, 2]"),
        ("repeats = 3", "repeats = 1"),
    ] {
        assert!(plan.contains(of_the_example), "{of_the_example}");
        plan = plan.replace(of_the_example, small);
    }
    plan.push_str("threads = 1\nprice = 1\n");
    std::fs::write(place.path().join("small.toml"), plan).unwrap();
    stdout(&mut place.costmark(&["run", "--plan", "small.toml", "-q", "-o", "out"]));
    let document = place.document("out");
    let dtypes: Vec<&str> = document["backends"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["weight_dtype"].as_str().unwrap())
        .collect();
    assert_eq!(dtypes, ["bf16", "q8_0", "q4_k"]);
    assert_eq!(document["units"].as_array().unwrap().len(), 3 * 2);
    let levels = document["levels"].as_array().unwrap();
    let cost = |level: &serde_json::Value| level["usd_per_mtok_output"]["value"].as_f64();
    assert!(levels.iter().all(|l| cost(l).unwrap() > 0.0));
}

/// Axes of real weights, which are loaded only where units of theirs are left to measure.
#[test]
fn several_models_one_after_the_other_and_taken_up_again() {
    let place = Place::new();
    place.write_checkpoint("other", 0.1);
    let plan = "model = [\"tiny\", \"other\"]\nweights = \"synthetic:7\"\n\
                dtype = \"f32\"\nconcurrency = [1, 2]\nthreads = 1\n\
                input_len = \"8..24\"\noutput_len = 8\nrequests = 4\nrepeats = 2\nprice = 1\n";
    std::fs::write(place.path().join("sweep.toml"), plan).unwrap();
    let args = ["run", "--plan", "sweep.toml", "-o", "out"];
    let told = stderr(&mut place.costmark(&args), 0);
    let document = place.document("out");
    let backends = document["backends"].as_array().unwrap();
    let models: Vec<&str> = backends
        .iter()
        .map(|b| b["model_id"].as_str().unwrap())
        .collect();
    assert_eq!(models, ["tiny-f32", "other-f32"]);
    assert_eq!(told.matches("Loaded ").count(), 2, "{told}");
    assert_eq!(document["units"].as_array().unwrap().len(), 2 * 2 * 2);

    // As if it had ended within the second model.
    let run = place.path().join("out/run.json");
    let mut cut = document.clone();
    cut["units"].as_array_mut().unwrap().truncate(5);
    cut["status"] = "incomplete".into();
    cut["finished_at"] = serde_json::Value::Null;
    std::fs::write(&run, cut.to_string()).unwrap();
    let told = stderr(&mut place.costmark(&["run", "--resume", "out"]), 0);
    assert_eq!(
        told.matches("Loaded ").count(),
        1,
        "only what is needed: {told}"
    );
    let resumed = place.document("out");
    assert_eq!(resumed["units"].as_array().unwrap().len(), 8);
    assert_eq!(resumed["plan_hash"], document["plan_hash"]);
    assert_eq!(resumed["status"], "complete");

    // A plan that has changed since is another one.
    std::fs::write(&run, cut.to_string()).unwrap();
    let changed = plan.replace("concurrency = [1, 2]", "concurrency = [1, 3]");
    std::fs::write(place.path().join("sweep.toml"), changed).unwrap();
    let told = stderr(&mut place.costmark(&["run", "--resume", "out"]), 2);
    assert!(told.contains("another plan"), "{told}");
}

#[test]
fn wrong_files_are_told_with_their_lines() {
    let place = Place::new();
    let path = place.path().join("sweep.toml");
    let refused = |text: &str, more: &[&str], says: &str| {
        std::fs::write(&path, text).unwrap();
        let args = [&["run", "--plan", "sweep.toml"], more].concat();
        let told = stderr(&mut place.costmark(&args), 2);
        assert!(told.contains(says), "`{says}` is not in: {told}");
        assert!(!place.path().join("runs").exists());
    };
    refused(
        "ratee = 3",
        &[],
        "sweep.toml:1: there is no key `ratee`, did you mean `rate`?",
    );
    refused(
        "seed = 1\nduration = \"3 parsecs\"",
        &[],
        "sweep.toml:2: duration:",
    );
    refused(
        "\ntrace = \"missing.csv\"",
        &[],
        "sweep.toml:2: --trace missing.csv",
    );
    refused("rate = 3", &["--rate", "4"], "sweep.toml:1 says it already");
    let told = stderr(&mut place.costmark(&["run", "--plan", "none.toml"]), 2);
    assert!(told.contains("--plan none.toml"), "{told}");
}
