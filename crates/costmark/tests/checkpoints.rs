//! Checkpoints that other tools made, from the command line: sound ones are measured and
//! continued, damaged ones are refused with a message that names file, tensor and way out.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Place, stderr, stdout};
use serde_json::Value;

/// A checkpoint transformers or the gguf package wrote.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../costmark-engine/tests/golden")
        .join(name)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_string()
}

const SHORT_RUN: [&str; 15] = [
    "--price",
    "1",
    "--requests",
    "3",
    "--repeats",
    "1",
    "--concurrency",
    "2",
    "--input-len",
    "8",
    "--output-len",
    "4",
    "--threads",
    "1",
    "-q",
];

#[test]
fn folders_and_files_of_other_tools_are_measured() {
    for name in [
        "llama",
        "mistral",
        "qwen2-f16",
        "qwen3",
        "gguf/llama-q8_0.gguf",
        "gguf/llama3-f16.gguf",
        "gguf/sentencepiece.gguf",
    ] {
        let place = Place::new();
        let model = text(&golden(name));
        let args = [&["run", "--model", &model, "-o", "out"][..], &SHORT_RUN].concat();
        let table = stdout(&mut place.costmark(&args));
        assert!(table.contains("$/M"), "{name}: {table}");
        assert!(!table.contains("SYNTHETIC"), "{name}: {table}");
        assert_eq!(place.document("out")["status"], "complete", "{name}");
    }
}

fn generate(place: &Place, model: &Path, more: &[&str]) -> Value {
    let model = text(model);
    let args = [
        &[
            "generate",
            "--model",
            &model,
            "--json",
            "-q",
            "--threads",
            "1",
            "--ignore-eos",
        ][..],
        more,
    ]
    .concat();
    serde_json::from_str(&stdout(&mut place.costmark(&args))).unwrap()
}

/// The first golden prompt that is longer than a block, continued as transformers did.
#[test]
fn prompts_go_on_as_transformers_continues_them() {
    for (model, cases) in [
        ("qwen3", "qwen3/golden.json"),
        // Of the files by other tools one that is held exactly: 8-bit products round activations too.
        ("gguf/llama3-f16.gguf", "gguf/llama3-f16.json"),
    ] {
        let json = fs::read_to_string(golden(cases)).unwrap();
        let cases: Vec<Value> = serde_json::from_str(&json).unwrap();
        let case = cases
            .iter()
            .find(|c| c["prompt"].as_array().unwrap().len() > 32)
            .unwrap();
        let prompt: Vec<String> = case["prompt"]
            .as_array()
            .unwrap()
            .iter()
            .map(Value::to_string)
            .collect();
        let count = case["greedy"].as_array().unwrap().len().to_string();
        let place = Place::new();
        let more = ["--prompt-ids", &prompt.join(","), "--max-tokens", &count];
        let found = generate(
            &place,
            &golden(model),
            &[&more[..], &["--kv-dtype", "f32"]].concat(),
        );
        assert_eq!(found["output_ids"], case["greedy"], "{model}");
    }
}

#[test]
fn text_is_continued_with_the_vocabulary_of_the_checkpoint() {
    let place = Place::new();
    for (model, ids) in [
        ("gguf/sentencepiece.gguf", vec![1, 262, 281]),
        ("gguf/qwen3-f16.gguf", vec![86, 261, 280]),
        ("qwen3", vec![86, 261, 280]),
    ] {
        let more = ["--prompt", "the price", "--max-tokens", "3"];
        let found = generate(&place, &golden(model), &more);
        assert_eq!(found["prompt_ids"], serde_json::json!(ids), "{model}");
        assert!(found["text"].is_string(), "{model}");
    }
    let model = text(&golden("gguf/llama-q8_0.gguf"));
    let args = ["generate", "--model", &model, "--prompt", "the price"];
    let says = stderr(&mut place.costmark(&args), 2);
    // Its placeholder vocabulary has no such text, nor bytes to spell it with.
    assert!(
        says.contains("the price") || says.contains("vocabulary"),
        "{says}"
    );
}

/// A copy of a golden folder or file in the place, to be spoilt.
fn copy(place: &Place, name: &str) -> PathBuf {
    let (from, to) = (golden(name), place.path().join("model"));
    if from.is_file() {
        fs::create_dir_all(&to).unwrap();
        let file = to.join("model.gguf");
        fs::copy(from, &file).unwrap();
        return file;
    }
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

/// Spoils a copy of `name` and wants the run refused with these words and no folder left.
#[track_caller]
fn refused(name: &str, spoil: impl Fn(&Path), says: &[&str]) {
    let place = Place::new();
    let model = copy(&place, name);
    spoil(&model);
    let model = text(&model);
    let args = [&["run", "--model", &model, "-o", "out"][..], &SHORT_RUN].concat();
    let message = stderr(&mut place.costmark(&args), 2);
    for part in says {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert!(!place.path().join("out").exists(), "nothing was measured");
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Replaces bytes of equal length.
fn replace(path: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(path).unwrap();
    let at = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .unwrap();
    bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    fs::write(path, bytes).unwrap();
}

fn edit(path: &Path, from: &str, to: &str) {
    let json = fs::read_to_string(path).unwrap();
    assert!(json.contains(from), "{from}");
    fs::write(path, json.replacen(from, to, 1)).unwrap();
}

#[test]
fn damaged_folders_are_refused() {
    let weights = |folder: &Path| folder.join("model.safetensors");
    refused(
        "llama",
        |f| cut(&weights(f)),
        &["model.safetensors", "fetch it again"],
    );
    let garbage = |f: &Path| fs::write(weights(f), "no weights at all").unwrap();
    refused("llama", garbage, &["model.safetensors", "fetch it again"]);
    refused(
        "llama",
        |f| {
            replace(
                &weights(f),
                "layers.1.mlp.up_proj.weight",
                "layers.1.mlp.up_proj.weighs",
            );
        },
        &["model.layers.1.mlp.up_proj.weight", "missing"],
    );
    refused(
        "llama",
        |f| {
            edit(
                &f.join("config.json"),
                "\"intermediate_size\": 96",
                "\"intermediate_size\": 97",
            );
        },
        &["mlp.gate_proj.weight", "[96, 64]", "[97, 64]"],
    );
    refused(
        "llama",
        |f| {
            edit(
                &f.join("config.json"),
                "LlamaForCausalLM",
                "GptOssForCausalLM",
            );
        },
        &["config.json", "GptOssForCausalLM", "--backend lockstep"],
    );
    refused(
        "mistral",
        |f| {
            let index = f.join("model.safetensors.index.json");
            edit(
                &index,
                "model-00001-of-00002.safetensors",
                "../../elsewhere.safetensors",
            );
        },
        &["model.safetensors.index.json", "outside the folder"],
    );
}

#[test]
fn damaged_files_are_refused() {
    let file = "gguf/llama-q8_0.gguf";
    refused(file, cut, &["model.gguf", "fetch it again"]);
    refused(
        file,
        |f| replace(f, "GGUF", "GGML"),
        &["model.gguf", "not a GGUF file"],
    );
    refused(
        file,
        |f| replace(f, "blk.1.ffn_up.weight", "blk.1.ffn_up.weighs"),
        &["model.gguf", "blk.1.ffn_up.weight", "missing"],
    );
    refused(
        file,
        |f| replace(f, "llama.embedding_length", "llama.embedding_lengtX"),
        &["model.gguf", "llama.embedding_length"],
    );
}
