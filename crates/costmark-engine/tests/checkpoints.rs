//! Checkpoints that other tools wrote are read as they were written.

// clippy lets tests unwrap, but not the helpers they share.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use costmark_engine::weights::layout::{matrices, vectors};
use costmark_engine::{Checkpoint, Family, OpenOptions, RopeScaling, WeightChoice, config};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn open(name: &str) -> Checkpoint {
    let path = golden(name);
    Checkpoint::open(&OpenOptions::new(path.to_str().unwrap())).unwrap()
}

/// All rows of a matrix, f32.
fn matrix(checkpoint: &mut Checkpoint, name: &str) -> Vec<f32> {
    let m = matrices(&checkpoint.config.shape)
        .into_iter()
        .find(|m| m.name == name)
        .unwrap();
    let linear = checkpoint
        .weights
        .linear(name, m.out_features, m.in_features, m.bias)
        .unwrap();
    let ids = Tensor::arange(0, u32::try_from(m.out_features).unwrap(), &Device::Cpu).unwrap();
    let rows = linear.rows(&ids).unwrap();
    rows.flatten_all().unwrap().to_vec1().unwrap()
}

/// Asks for everything a decoder asks for.
fn load_all(checkpoint: &mut Checkpoint) {
    let shape = checkpoint.config.shape;
    for m in matrices(&shape) {
        checkpoint
            .weights
            .linear(&m.name, m.out_features, m.in_features, m.bias)
            .unwrap();
    }
    for (name, len) in vectors(&shape) {
        let vector = checkpoint.weights.vector(&name, len).unwrap();
        assert_eq!(vector.dims(), [len as usize]);
    }
}

const FOLDERS: [(&str, Family); 7] = [
    ("llama", Family::Llama),
    ("llama-bf16", Family::Llama),
    ("llama3", Family::Llama),
    ("mistral", Family::Mistral),
    ("qwen2", Family::Qwen2),
    ("qwen2-f16", Family::Qwen2),
    ("qwen3", Family::Qwen3),
];

#[test]
fn folders_load_and_say_what_they_are() {
    for (name, family) in FOLDERS {
        let mut checkpoint = open(name);
        assert_eq!(checkpoint.config.family, family, "{name}");
        assert_eq!(checkpoint.config.name, name);
        assert!(!checkpoint.synthetic);
        load_all(&mut checkpoint);
    }
}

/// transformers 4 and 5 write the same model in different words.
#[test]
fn both_generations_of_config_mean_the_same() {
    for (name, _) in FOLDERS {
        let read = |file: &str| {
            let path = golden(name).join(file);
            let json = std::fs::read_to_string(&path).unwrap();
            config::from_json(name, &path, &json, None).unwrap()
        };
        assert_eq!(
            read("config.json"),
            read("config.transformers4.json"),
            "{name}"
        );
    }
    assert!(matches!(
        open("llama3").config.rope.scaling,
        RopeScaling::Llama3 { .. }
    ));
    assert!(open("mistral").config.sliding_window.is_some());
}

/// The GGUF file holds the same model: same configuration, and the same values at the
/// same place, query and key rows included, but for the rounding to its format.
#[test]
fn gguf_agrees_with_the_folder_it_was_made_from() {
    for (gguf, folder, tolerance) in [
        ("gguf/llama-q8_0.gguf", "llama", 0.006),
        ("gguf/llama3-f16.gguf", "llama3", 0.0005),
        ("gguf/qwen3-f16.gguf", "qwen3", 0.0005),
    ] {
        let (mut ours, mut theirs) = (open(gguf), open(folder));
        let (a, b) = (&ours.config, &theirs.config);
        assert_eq!(a.shape, b.shape, "{gguf}");
        assert_eq!(a.family, b.family, "{gguf}");
        assert_eq!(a.rope.theta, b.rope.theta, "{gguf}");
        assert_eq!(a.eos_token_ids, b.eos_token_ids, "{gguf}");
        assert!((a.rms_norm_eps - b.rms_norm_eps).abs() < 1e-12, "{gguf}");
        for m in matrices(&a.shape.clone()) {
            let (x, y) = (matrix(&mut ours, &m.name), matrix(&mut theirs, &m.name));
            assert_eq!(x.len(), y.len());
            let largest = y.iter().fold(0f32, |most, v| most.max(v.abs()));
            let worst = x
                .iter()
                .zip(&y)
                .fold(0f32, |most, (x, y)| most.max((x - y).abs()));
            assert!(
                worst <= tolerance * largest,
                "{gguf} {}: {worst} of {largest}",
                m.name
            );
        }
    }
}

/// The factors a GGUF of Llama 3 carries are those of the piecewise rule in config.json
/// (the definition: transformers' `_compute_llama3_parameters`).
#[test]
fn llama3_factors_follow_the_rule() {
    let RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position,
    } = open("llama3").config.rope.scaling
    else {
        panic!("llama3 scaling expected");
    };
    let gguf = open("gguf/llama3-f16.gguf").config;
    let RopeScaling::Factors(factors) = &gguf.rope.scaling else {
        panic!("factors expected");
    };
    let head_dim = gguf.shape.head_dim as f64;
    for (i, found) in factors.iter().enumerate() {
        let frequency = gguf.rope.theta.powf(-2.0 * i as f64 / head_dim);
        let turns = original_max_position * frequency / std::f64::consts::TAU;
        let expected = if turns < low_freq_factor {
            factor
        } else if turns > high_freq_factor {
            1.0
        } else {
            let s = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            1.0 / ((1.0 - s) / factor + s)
        };
        assert!((found / expected - 1.0).abs() < 1e-5, "{i}: {found}");
    }
}

#[test]
fn text_becomes_ids_and_text_again() {
    let tokenizer = open("qwen3").tokenizer.unwrap().load().unwrap();
    let ids = tokenizer.encode("the cost of a token").unwrap();
    assert!(!ids.is_empty());
    assert_eq!(tokenizer.decode(&ids).unwrap(), "the cost of a token");
    assert_eq!(open("llama").tokenizer, None);
}

#[test]
fn synthetic_weights_of_a_folder_need_its_config_only() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        golden("qwen3/config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    let mut options = OpenOptions::new(folder.path().to_str().unwrap());
    options.weights = WeightChoice::Synthetic { seed: 1 };
    let mut checkpoint = Checkpoint::open(&options).unwrap();
    assert!(checkpoint.synthetic);
    assert_eq!(checkpoint.source, "synthetic, seed 1");
    load_all(&mut checkpoint);
}
