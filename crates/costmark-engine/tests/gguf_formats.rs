//! GGUF files in every supported block format: the engine against candle-transformers'
//! quantised models on the same file, and a file made by another tool against the values
//! Hugging Face transformers computes with its dequantised weights.

// clippy lets tests unwrap, but not the helpers they share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::Path;

use candle_core::quantized::GgmlDType;
use costmark_engine::EngineOptions;
use costmark_engine::lockstep::{LockstepModel, LockstepOptions, Reference};
use support::engine::{distance, engine, exact, run};
use support::gguf::{Mix, VOCAB, write};
use support::{cases, golden_path};

// Tolerances are of the differences' root mean square over that of the logits. Unrelated logits
// would be 1.4 apart.
/// Float weights: only the order of summation differs (measured: up to 1.3e-6).
const FLOAT: f32 = 2e-5;
/// Blocks: both sides quantise activations to 8 bits per 32 or 256 values. Most rows agree to
/// rounding; an activation that is rounded the other way, as candle's products for processors with
/// VNNI do more often, moves logits a little (measured: 2.2 %).
const BLOCKS: f32 = 0.08;
/// Activations exact on one side, of 8 bits on the other.
const EXACT_AGAINST_BLOCKS: f32 = 0.25;

const FORMATS: [(&str, Mix, f32); 9] = [
    ("f32", |_| GgmlDType::F32, FLOAT),
    ("f16", |_| GgmlDType::F16, FLOAT),
    ("bf16", |_| GgmlDType::BF16, FLOAT),
    ("q8_0", |_| GgmlDType::Q8_0, BLOCKS),
    ("q4_0", |_| GgmlDType::Q4_0, BLOCKS),
    ("q4_k", |_| GgmlDType::Q4K, BLOCKS),
    ("q5_k", |_| GgmlDType::Q5K, BLOCKS),
    ("q6_k", |_| GgmlDType::Q6K, BLOCKS),
    ("q4_k_m", q4_k_m, BLOCKS),
];

/// More bits where they matter, as llama.cpp's mix of that name.
fn q4_k_m(name: &str) -> GgmlDType {
    match name {
        "output.weight" => GgmlDType::Q6K,
        n if n.contains("attn_v") || n.contains("ffn_down") => GgmlDType::Q6K,
        _ => GgmlDType::Q4K,
    }
}

fn reference(path: &Path) -> Reference {
    let model = LockstepModel::Gguf(path.to_path_buf());
    Reference::load(&LockstepOptions::new(model, "reference", "test")).unwrap()
}

fn prompt(len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * 37 + 11) % VOCAB) as u32).collect()
}

/// The engine's logits along its own greedy path against the reference on the same tokens,
/// for prompts of several lengths in one batch, in chunks.
fn compare(arch: &str, tied: bool) {
    let folder = tempfile::tempdir().unwrap();
    for (format, mix, tolerance) in FORMATS {
        let path = folder.path().join(format!("{arch}-{format}.gguf"));
        write(&path, arch, mix, tied);
        let mut reference = reference(&path);
        let options = EngineOptions {
            prefill_chunk: Some(10),
            ..exact()
        };
        let mut core = engine(&path, &options);
        let prompts = [prompt(1), prompt(9), prompt(33)];
        let prompts: Vec<_> = prompts.iter().map(Vec::as_slice).collect();
        let outputs = run(&mut core, &prompts, 4);
        for (output, prompt) in outputs.outputs.iter().zip(prompts) {
            let mut tokens = prompt.to_vec();
            for (own, token) in output.logits.iter().zip(&output.tokens) {
                let theirs = reference.logits(&tokens).unwrap();
                let off = relative_rms(own, &theirs);
                assert!(
                    off <= tolerance,
                    "{arch} {format}, after {} tokens: off by {off}",
                    tokens.len()
                );
                let spread = distance(&theirs, &vec![0.0; VOCAB]);
                assert!(spread > 1.0, "logits are too small to tell: {spread}");
                tokens.push(*token);
            }
        }
    }
}

/// Root mean square of the differences over that of `b`.
fn relative_rms(a: &[f32], b: &[f32]) -> f32 {
    let off: f32 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    (off / b.iter().map(|b| b.powi(2)).sum::<f32>()).sqrt()
}

#[test]
fn llama_in_every_format() {
    compare("llama", false);
}

#[test]
fn qwen2_in_every_format() {
    compare("qwen2", false);
}

#[test]
fn qwen3_in_every_format() {
    compare("qwen3", true);
}

#[test]
fn a_q8_0_file_of_another_tool_is_near_its_exact_values() {
    let mut core = engine(&golden_path("gguf/llama-q8_0.gguf"), &exact());
    for case in cases("gguf/llama-q8_0") {
        let n = case.greedy.len();
        let output = &run(&mut core, &[&case.prompt], n).outputs[0];
        // A close call may go the other way; up to there the contexts are the same.
        let same = output
            .tokens
            .iter()
            .zip(&case.greedy)
            .take_while(|(a, b)| a == b)
            .count();
        for i in 0..(same + 1).min(n) {
            let off = relative_rms(&output.logits[i], &case.logits[i]);
            assert!(off <= EXACT_AGAINST_BLOCKS, "token {i}: off by {off}");
        }
    }
}
