//! Damaged, incomplete and foreign checkpoints are errors that say where and what next,
//! never panics.

// clippy lets tests unwrap, but not the helpers they share.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use costmark_engine::weights::layout::{matrices, vectors};
use costmark_engine::{Checkpoint, EngineError, OpenOptions, WeightChoice};
use proptest::prelude::*;
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// A copy of a golden folder to spoil.
fn copy_of(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        let is_ours = entry.file_name() != "golden.safetensors";
        if is_ours {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    folder
}

fn open_and_load(path: &Path) -> Result<(), EngineError> {
    let mut checkpoint = Checkpoint::open(&OpenOptions::new(path.to_str().unwrap()))?;
    let shape = checkpoint.config.shape;
    for m in matrices(&shape) {
        checkpoint
            .weights
            .linear(&m.name, m.out_features, m.in_features, m.bias)?;
    }
    for (name, len) in vectors(&shape) {
        checkpoint.weights.vector(&name, len)?;
    }
    Ok(())
}

/// The message, after making sure it counts as the user's input.
fn message(path: &Path) -> String {
    let error = open_and_load(path).unwrap_err();
    assert!(error.is_input(), "{error}");
    error.to_string()
}

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// Replaces `from` by `to` in a text file.
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Rewrites the JSON header of a safetensors file; the data stays.
fn edit_header(path: &Path, edit: impl Fn(String) -> String) {
    let bytes = fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = edit(String::from_utf8(bytes[8..8 + len].to_vec()).unwrap());
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(&bytes[8 + len..]);
    fs::write(path, out).unwrap();
}

#[test]
fn safetensors_cut_off() {
    let folder = copy_of("llama");
    let file = folder.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    for len in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&file, &bytes[..len]).unwrap();
        assert_says(
            &message(folder.path()),
            &["model.safetensors", "fetch it again"],
        );
    }
    fs::write(&file, "not a checkpoint at all").unwrap();
    assert_says(&message(folder.path()), &["model.safetensors"]);
}

#[test]
fn safetensors_tensor_missing_or_foreign() {
    let folder = copy_of("llama");
    let file = folder.path().join("model.safetensors");
    let name = "model.layers.1.mlp.up_proj.weight";
    edit_header(&file, |h| {
        h.replace(name, "model.layers.1.mlp.up_proj.extra")
    });
    assert_says(&message(folder.path()), &[name, "missing"]);

    let folder = copy_of("qwen2");
    let config = folder.path().join("config.json");
    edit(&config, "Qwen2ForCausalLM", "LlamaForCausalLM");
    assert_says(
        &message(folder.path()),
        &["_proj.bias", "model.safetensors", "no such weight"],
    );
}

#[test]
fn safetensors_wrong_shape_or_type() {
    let folder = copy_of("llama");
    edit(
        &folder.path().join("config.json"),
        "\"intermediate_size\": 96",
        "\"intermediate_size\": 100",
    );
    assert_says(
        &message(folder.path()),
        &["mlp.gate_proj.weight", "[96, 64]", "[100, 64]"],
    );

    let folder = copy_of("llama");
    edit_header(&folder.path().join("model.safetensors"), |h| {
        h.replacen("\"F32\"", "\"I32\"", 1)
    });
    assert_says(&message(folder.path()), &["I32", "f32, f16 and bf16"]);
}

#[test]
fn index_must_stay_in_its_folder() {
    for outside in [
        "../other.safetensors",
        "/etc/passwd",
        "a/../../b.safetensors",
    ] {
        let folder = copy_of("mistral");
        let index = folder.path().join("model.safetensors.index.json");
        edit(&index, "model-00001-of-00002.safetensors", outside);
        assert_says(
            &message(folder.path()),
            &[
                "model.safetensors.index.json",
                outside,
                "outside the folder",
            ],
        );
    }
    let folder = copy_of("mistral");
    let index = folder.path().join("model.safetensors.index.json");
    edit(&index, "model-00001-of-00002.safetensors", "weights.pickle");
    assert_says(&message(folder.path()), &["weights.pickle"]);
    fs::write(&index, "{}").unwrap();
    assert_says(&message(folder.path()), &["index.json"]);

    let folder = copy_of("mistral");
    fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert_says(
        &message(folder.path()),
        &["model-00002-of-00002.safetensors", "fetch it again"],
    );
}

/// The hub's cache links from a snapshot to its blobs; any other way out is refused.
#[cfg(unix)]
#[test]
fn links_lead_to_the_blobs_of_the_cache_only() {
    let root = tempfile::tempdir().unwrap();
    let snapshot = root.path().join("models--a--b/snapshots/123");
    let blobs = root.path().join("models--a--b/blobs");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    fs::copy(golden("llama/config.json"), snapshot.join("config.json")).unwrap();
    let link = snapshot.join("model.safetensors");

    fs::copy(golden("llama/model.safetensors"), blobs.join("abc")).unwrap();
    std::os::unix::fs::symlink("../../blobs/abc", &link).unwrap();
    open_and_load(&snapshot).unwrap();

    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(golden("llama/model.safetensors"), &link).unwrap();
    assert_says(&message(&snapshot), &["model.safetensors", "outside"]);
}

#[test]
fn pickles_are_not_loaded() {
    let folder = copy_of("llama");
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert_says(&message(folder.path()), &["--weights synthetic"]);
    fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
    assert_says(&message(folder.path()), &["pickles", "save_pretrained"]);
    assert_says(
        &message(&folder.path().join("pytorch_model.bin")),
        &["pickles"],
    );
}

#[test]
fn configurations_the_engine_does_not_run() {
    let cases: [(&str, &str, &[&str]); 7] = [
        (
            "LlamaForCausalLM",
            "GptOssForCausalLM",
            &["GptOssForCausalLM", "Qwen3ForCausalLM", "lockstep"],
        ),
        (
            "\"rope_type\": \"default\"",
            "\"rope_type\": \"yarn\"",
            &["yarn", "llama3"],
        ),
        (
            "\"attention_bias\": false",
            "\"attention_bias\": true",
            &["attention_bias"],
        ),
        (
            "\"hidden_act\": \"silu\"",
            "\"hidden_act\": \"gelu\"",
            &["gelu"],
        ),
        (
            "\"num_key_value_heads\": 2",
            "\"num_key_value_heads\": 3",
            &["4", "3", "evenly"],
        ),
        ("\"hidden_size\": 64,", "", &["hidden_size"]),
        ("\"vocab_size\": 128", "\"vocab_size\": 0", &["vocabulary"]),
    ];
    for (from, to, parts) in cases {
        let folder = copy_of("llama");
        edit(&folder.path().join("config.json"), from, to);
        let text = message(folder.path());
        assert_says(&text, &["config.json"]);
        assert_says(&text, parts);
    }
    let folder = copy_of("llama");
    fs::write(folder.path().join("config.json"), "{\"vocab_size\": ").unwrap();
    assert_says(&message(folder.path()), &["config.json", "line 1"]);
    fs::remove_file(folder.path().join("config.json")).unwrap();
    assert_says(&message(folder.path()), &["no config.json"]);
}

#[test]
fn models_that_are_not_there() {
    let says = |model: &str, synthetic: bool, parts: &[&str]| {
        let mut options = OpenOptions::new(model);
        if synthetic {
            options.weights = WeightChoice::Synthetic { seed: 0 };
        }
        let Err(error) = Checkpoint::open(&options) else {
            panic!("{model} was opened");
        };
        assert!(error.is_input(), "{error}");
        assert_says(&error.to_string(), parts);
    };
    says(
        "qwen3-06b",
        true,
        &["did you mean `qwen3-0.6b`", "llama-3.1-8b"],
    );
    says("qwen3-0.6b", false, &["--weights synthetic"]);
    says("./nowhere", true, &["./nowhere", "no such file"]);
    says("nowhere.gguf", false, &["no such file"]);
    says(
        golden("llama/model.safetensors").to_str().unwrap(),
        false,
        &["folder"],
    );
}

/// The parts of a GGUF header.
struct Gguf {
    bytes: Vec<u8>,
}

impl Gguf {
    fn new(tensors: u64, metadata: u64) -> Self {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(metadata.to_le_bytes());
        Self { bytes }
    }

    fn text(mut self, text: &str) -> Self {
        self.bytes.extend((text.len() as u64).to_le_bytes());
        self.bytes.extend(text.as_bytes());
        self
    }

    fn u32(mut self, n: u32) -> Self {
        self.bytes.extend(n.to_le_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Self {
        self.bytes.extend(n.to_le_bytes());
        self
    }

    fn message(&self) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        fs::write(&path, &self.bytes).unwrap();
        let text = message(&path);
        assert_says(&text, &["x.gguf"]);
        text
    }
}

#[test]
fn gguf_headers_that_lie() {
    let mut magic = Gguf::new(0, 0);
    magic.bytes[0] = b'X';
    assert_says(&magic.message(), &["not a GGUF file"]);
    let mut version = Gguf::new(0, 0);
    version.bytes[4] = 1;
    assert_says(&version.message(), &["version 1"]);
    assert_says(&Gguf::new(0, 0).message(), &["general.architecture"]);
    assert_says(&Gguf::new(u64::MAX, 0).message(), &["cut off"]);
    assert_says(&Gguf::new(0, u64::MAX).message(), &["cut off"]);
    // An array that claims to be huge, a text that claims to be huge, nesting without end.
    let huge = Gguf::new(0, 1).text("k").u32(9).u32(0).u64(u64::MAX);
    assert_says(&huge.message(), &["cut off"]);
    let huge = Gguf::new(0, 1).u64(u64::MAX);
    assert_says(&huge.message(), &["cut off"]);
    let mut nested = Gguf::new(0, 1).text("k").u32(9);
    for _ in 0..10_000 {
        nested = nested.u32(9).u64(1);
    }
    assert_says(&nested.message(), &["nested"]);
    let alignment = Gguf::new(0, 1).text("general.alignment").u32(4).u32(0);
    assert_says(&alignment.message(), &["general.alignment"]);

    let tensor = |name: &str| Gguf::new(1, 0).text(name);
    let unknown = tensor("t.weight").u32(1).u64(32).u32(23).u64(0);
    assert_says(&unknown.message(), &["t.weight", "iq4_xs", "q4_k"]);
    let outside = tensor("t.weight").u32(1).u64(32).u32(0).u64(1 << 40);
    assert_says(&outside.message(), &["t.weight", "cut off"]);
    let large = tensor("t.weight")
        .u32(2)
        .u64(1 << 62)
        .u64(1 << 62)
        .u32(0)
        .u64(0);
    assert_says(&large.message(), &["t.weight", "large"]);
    let many = tensor("t.weight").u32(5);
    assert_says(&many.message(), &["t.weight", "5 dimensions"]);
    let odd = tensor("t.weight").u32(1).u64(33).u32(8).u64(0);
    assert_says(&odd.message(), &["t.weight", "33"]);
    let foreign = Gguf::new(0, 1)
        .text("general.architecture")
        .u32(8)
        .text("mamba");
    assert_says(&foreign.message(), &["mamba", "llama", "lockstep"]);
}

#[test]
fn gguf_cut_off() {
    let bytes = fs::read(golden("gguf/llama-q8_0.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    for part in 1..20 {
        fs::write(&path, &bytes[..bytes.len() * part / 20]).unwrap();
        assert_says(&message(&path), &["cut.gguf", "fetch it again"]);
    }
}

#[test]
fn gguf_is_not_quantised_twice() {
    let mut options = OpenOptions::new(golden("gguf/llama-q8_0.gguf").to_str().unwrap());
    options.format = "q4_0".parse().unwrap();
    let Err(error) = Checkpoint::open(&options) else {
        panic!("opened");
    };
    assert_says(&error.to_string(), &["already quantised", "q8_0"]);
}

/// Whatever the damage, the answer is a model or an error, within the bounds of the file.
fn survives(original: &[u8], path: &Path, damage: &[(usize, u8)], keep: usize) {
    let mut bytes = original[..keep.min(original.len())].to_vec();
    for &(at, value) in damage {
        let len = bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at % len) {
            *byte = value;
        }
    }
    fs::write(path, &bytes).unwrap();
    let target = if path.ends_with("model.safetensors") {
        path.parent().unwrap()
    } else {
        path
    };
    let _ = open_and_load(target);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn no_damage_to_a_gguf_panics(
        damage in prop::collection::vec((0usize..6000, any::<u8>()), 0..6),
        keep in prop_oneof![Just(usize::MAX), 0usize..200_000],
    ) {
        let original = fs::read(golden("gguf/llama3-f16.gguf")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        survives(&original, &folder.path().join("x.gguf"), &damage, keep);
    }

    #[test]
    fn no_damage_to_safetensors_panics(
        damage in prop::collection::vec((0usize..3000, any::<u8>()), 1..6),
        keep in prop_oneof![Just(usize::MAX), 0usize..200_000],
    ) {
        let original = fs::read(golden("llama/model.safetensors")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::copy(golden("llama/config.json"), folder.path().join("config.json")).unwrap();
        survives(&original, &folder.path().join("model.safetensors"), &damage, keep);
    }

    #[test]
    fn no_damage_to_a_configuration_panics(
        damage in prop::collection::vec((0usize..800, any::<u8>()), 1..4),
    ) {
        let original = fs::read(golden("llama3/config.json")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::copy(golden("llama3/model.safetensors"), folder.path().join("model.safetensors")).unwrap();
        let path = folder.path().join("config.json");
        let mut bytes = original;
        for (at, value) in damage {
            let len = bytes.len();
            bytes[at % len] = value;
        }
        fs::write(&path, &bytes).unwrap();
        let _ = open_and_load(folder.path());
    }
}
