//! Tiny GGUF files in every block format, written with candle.

use std::fs::File;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One super-block of the formats with 256 weights a block.
pub(crate) const HIDDEN: usize = 256;
pub(crate) const VOCAB: usize = 96;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;

/// Which format a matrix takes, by its name.
pub(crate) type Mix = fn(&str) -> GgmlDType;

/// Values of about unit variance (uniform), times `scale`.
fn random(rng: &mut ChaCha8Rng, dims: &[usize], scale: f32) -> Tensor {
    let n = dims.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|_| (rng.next_u32() as f32 / 2f32.powi(31) - 1.0) * 3f32.sqrt() * scale)
        .collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// Writes a random model of architecture `llama`, `qwen2` or `qwen3`. Rows of a `llama`
/// file are taken as interleaved, as the format has them; random rows are as good either way.
pub(crate) fn write(path: &Path, arch: &str, mix: Mix, tied: bool) {
    write_layers(path, arch, mix, tied, 1);
}

/// As [`write`], of so many layers.
pub(crate) fn write_layers(path: &Path, arch: &str, mix: Mix, tied: bool, layers: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut tensors = Vec::new();
    let mut add = |name: String, dims: &[usize], rng: &mut ChaCha8Rng| {
        let vector = dims.len() == 1;
        let values = match name.as_str() {
            n if n.ends_with("norm.weight") => (random(rng, dims, 0.2) + 1.0).unwrap(),
            n if n.ends_with("bias") => random(rng, dims, 0.3),
            "token_embd.weight" => random(rng, dims, 0.5),
            _ => random(rng, dims, 1.5 / (dims[1] as f32).sqrt()),
        };
        let dtype = if vector { GgmlDType::F32 } else { mix(&name) };
        tensors.push((name, QTensor::quantize(&values, dtype).unwrap()));
    };
    let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    add("token_embd.weight".into(), &[VOCAB, HIDDEN], &mut rng);
    add("output_norm.weight".into(), &[HIDDEN], &mut rng);
    if !tied {
        add("output.weight".into(), &[VOCAB, HIDDEN], &mut rng);
    }
    for layer in 0..layers {
        let matrices = [
            ("attn_q", q, HIDDEN),
            ("attn_k", kv, HIDDEN),
            ("attn_v", kv, HIDDEN),
            ("attn_output", HIDDEN, q),
            ("ffn_gate", 2 * HIDDEN, HIDDEN),
            ("ffn_up", 2 * HIDDEN, HIDDEN),
            ("ffn_down", HIDDEN, 2 * HIDDEN),
        ];
        for (name, rows, width) in matrices {
            add(
                format!("blk.{layer}.{name}.weight"),
                &[rows, width],
                &mut rng,
            );
            if arch == "qwen2" && matches!(name, "attn_q" | "attn_k" | "attn_v") {
                add(format!("blk.{layer}.{name}.bias"), &[rows], &mut rng);
            }
        }
        for norm in ["attn_norm", "ffn_norm"] {
            add(format!("blk.{layer}.{norm}.weight"), &[HIDDEN], &mut rng);
        }
        if arch == "qwen3" {
            for norm in ["attn_q_norm", "attn_k_norm"] {
                add(format!("blk.{layer}.{norm}.weight"), &[HEAD_DIM], &mut rng);
            }
        }
    }
    let number = |n: usize| Value::U32(n as u32);
    let mut metadata = vec![
        (
            "general.architecture".to_string(),
            Value::String(arch.into()),
        ),
        ("general.name".to_string(), Value::String("tiny".into())),
        ("tokenizer.ggml.eos_token_id".to_string(), Value::U32(2)),
    ];
    for (key, value) in [
        ("block_count", number(layers)),
        ("context_length", number(256)),
        ("embedding_length", number(HIDDEN)),
        ("feed_forward_length", number(2 * HIDDEN)),
        ("attention.head_count", number(HEADS)),
        ("attention.head_count_kv", number(KV_HEADS)),
        ("attention.key_length", number(HEAD_DIM)),
        ("attention.value_length", number(HEAD_DIM)),
        ("rope.dimension_count", number(HEAD_DIM)),
        ("rope.freq_base", Value::F32(10_000.0)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ] {
        metadata.push((format!("{arch}.{key}"), value));
    }
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let mut file = File::create(path).unwrap();
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
}
