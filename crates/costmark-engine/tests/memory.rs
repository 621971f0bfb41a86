//! Loading holds the weights once: the most that heap and weight memory ever hold is the weights and a
//! fifth. (Mapped files are not on the heap, and are given back piece by piece.) And no damage
//! to a file makes its reader ask for much more memory than the file could fill.

// clippy lets tests unwrap, but not the helpers they share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::Path;

use candle_core::quantized::GgmlDType;
use costmark_engine::linear::mapped_bytes;
use costmark_engine::{
    Checkpoint, Decoder, FormatChoice, ModelInfo, OpenOptions, TensorFormat, WeightChoice,
};
use peak_alloc::PeakAlloc;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// A configuration of some 13 million parameters in many layers, as real ones are: no matrix
/// is a large part of the whole.
const CONFIG: &str = r#"{
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 256,
  "intermediate_size": 768, "num_hidden_layers": 16, "num_attention_heads": 4,
  "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 2048,
  "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
  "tie_word_embeddings": true
}"#;

/// Of the weights, what may be on the heap beside them.
const SPARE: f64 = 0.2;

/// Opens and loads; the most bytes on the heap meanwhile with all that is held beside it at the
/// end, and those of the weights.
fn load(options: &OpenOptions) -> (usize, u64) {
    // Buffers and thread pools that are made once.
    drop(decoder(options));
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let (decoder, weight_bytes) = decoder(options);
    let peak = HEAP.peak_usage() - before + mapped_bytes();
    drop(decoder);
    assert_eq!(mapped_bytes(), 0, "weights that nobody holds");
    (peak, weight_bytes)
}

fn decoder(options: &OpenOptions) -> (Decoder, u64) {
    let mut checkpoint = Checkpoint::open(options).unwrap();
    let bytes = ModelInfo::of(&checkpoint, 2).unwrap().weight_bytes;
    let decoder = Decoder::load(&checkpoint.config, checkpoint.weights.as_mut()).unwrap();
    (decoder, bytes)
}

#[track_caller]
fn fits(options: &OpenOptions, what: &str) {
    let (peak, weights) = load(options);
    let limit = weights as f64 * (1.0 + SPARE);
    assert!(
        (peak as f64) <= limit,
        "{what}: {peak} bytes at the most for {weights} of weights"
    );
    assert!(
        peak as u64 >= weights / 2,
        "{what}: {peak} bytes were seen, which is too few"
    );
}

fn write_folder(folder: &Path, dtype: candle_core::DType) {
    use costmark_engine::weights::layout::{matrices, vectors};
    std::fs::write(folder.join("config.json"), CONFIG).unwrap();
    let shape = costmark_engine::config::from_json("x", folder, CONFIG, None)
        .unwrap()
        .shape;
    let one = |dims: &[usize]| {
        let values: Vec<f32> = (0..dims.iter().product::<usize>())
            .map(|i| (i as f32 * 0.37).sin())
            .collect();
        let tensor = candle_core::Tensor::from_vec(values, dims, &candle_core::Device::Cpu);
        tensor.unwrap().to_dtype(dtype).unwrap()
    };
    let mut tensors = std::collections::HashMap::new();
    for m in matrices(&shape) {
        let dims = [m.out_features as usize, m.in_features as usize];
        tensors.insert(format!("{}.weight", m.name), one(&dims));
    }
    for (name, len) in vectors(&shape) {
        tensors.insert(format!("{name}.weight"), one(&[len as usize]));
    }
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
}

// One test: the heap is that of the whole process.
#[test]
fn memory_is_bounded_by_what_is_loaded() {
    no_road_into_memory_holds_the_weights_twice();
    no_damage_makes_a_reader_ask_for_more_than_the_file();
}

/// What opening and reading a vocabulary may take beside a few times the file.
const READERS_BYTES: usize = 2 << 20;

fn no_damage_makes_a_reader_ask_for_more_than_the_file() {
    // Symbols are read once, where RUST_BACKTRACE has the libraries' errors name them.
    let _ = std::backtrace::Backtrace::force_capture().to_string();
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(
        support::golden_path("llama/config.json"),
        folder.join("config.json"),
    )
    .unwrap();
    let gguf = place.path().join("x.gguf");
    let weights = folder.join("model.safetensors");
    for (original, target, open) in [
        ("gguf/llama3-f16.gguf", &gguf, &gguf),
        ("gguf/sentencepiece.gguf", &gguf, &gguf),
        ("gguf/qwen3-f16.gguf", &gguf, &gguf),
        ("llama/model.safetensors", &weights, &folder),
    ] {
        let sound = std::fs::read(support::golden_path(original)).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(sound.len() as u64);
        for attempt in 0..200 {
            let mut bytes = sound.clone();
            for _ in 0..1 + attempt % 4 {
                // Headers are at the beginning; large counts are the dangerous ones.
                let at = rng.next_u32() as usize % bytes.len().min(8192);
                bytes[at] = if attempt % 2 == 0 {
                    0xff
                } else {
                    rng.next_u32() as u8
                };
            }
            std::fs::write(target, &bytes).unwrap();
            drop(bytes);
            let before = HEAP.current_usage();
            HEAP.reset_peak_usage();
            if let Ok(checkpoint) = Checkpoint::open(&OpenOptions::new(open.to_str().unwrap()))
                && let Some(tokenizer) = &checkpoint.tokenizer
            {
                let _ = tokenizer.load();
            }
            let asked = HEAP.peak_usage() - before;
            assert!(
                asked <= READERS_BYTES + 8 * sound.len(),
                "{original}, attempt {attempt}: {asked} bytes"
            );
        }
    }
}

fn no_road_into_memory_holds_the_weights_twice() {
    let place = tempfile::tempdir().unwrap();
    for (name, dtype) in [
        ("bf16", candle_core::DType::BF16),
        ("f16", candle_core::DType::F16),
        ("f32", candle_core::DType::F32),
    ] {
        let folder = place.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        write_folder(&folder, dtype);
        let mut options = OpenOptions::new(folder.to_str().unwrap());
        fits(&options, name);
        for format in ["q8_0", "q4_0", "q4_k_m"] {
            options.format = format.parse().unwrap();
            fits(&options, &format!("{name} quantised to {format}"));
        }
        options.weights = WeightChoice::Synthetic { seed: 1 };
        options.format = FormatChoice::All(TensorFormat::Q8_0);
        fits(&options, "synthetic q8_0");
    }
    for (name, mix) in [
        ("q8_0", (|_| GgmlDType::Q8_0) as support::gguf::Mix),
        ("q4_k", |_| GgmlDType::Q4K),
        ("f16", |_| GgmlDType::F16),
    ] {
        let path = place.path().join(format!("{name}.gguf"));
        support::gguf::write_layers(&path, "llama", mix, true, 12);
        fits(
            &OpenOptions::new(path.to_str().unwrap()),
            &format!("{name}.gguf"),
        );
    }
}
