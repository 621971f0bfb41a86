//! Quantising while loading: each format holds the very blocks candle's own quantiser makes,
//! and products with them are those of the values the blocks stand for.

// clippy lets tests unwrap, but not the helpers they share.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use costmark_engine::weights::layout::{Matrix, matrices, vectors};
use costmark_engine::{Checkpoint, FormatChoice, OpenOptions, TensorFormat, config};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One super-block of the formats with 256 weights a block; 320 does not divide into them.
const CONFIG: &str = r#"{
  "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 256,
  "intermediate_size": 320, "num_hidden_layers": 1, "num_attention_heads": 4,
  "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 128,
  "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false
}"#;

const FORMATS: [(TensorFormat, GgmlDType); 13] = [
    (TensorFormat::F32, GgmlDType::F32),
    (TensorFormat::F16, GgmlDType::F16),
    (TensorFormat::BF16, GgmlDType::BF16),
    (TensorFormat::Q2K, GgmlDType::Q2K),
    (TensorFormat::Q3K, GgmlDType::Q3K),
    (TensorFormat::Q4_0, GgmlDType::Q4_0),
    (TensorFormat::Q4_1, GgmlDType::Q4_1),
    (TensorFormat::Q4K, GgmlDType::Q4K),
    (TensorFormat::Q5_0, GgmlDType::Q5_0),
    (TensorFormat::Q5_1, GgmlDType::Q5_1),
    (TensorFormat::Q5K, GgmlDType::Q5K),
    (TensorFormat::Q6K, GgmlDType::Q6K),
    (TensorFormat::Q8_0, GgmlDType::Q8_0),
];

fn ggml(format: TensorFormat) -> GgmlDType {
    FORMATS.iter().find(|(f, _)| *f == format).unwrap().1
}

fn noise(rng: &mut ChaCha8Rng, dims: &[usize]) -> Tensor {
    let n = dims.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|_| rng.next_u32() as f32 / 2f32.powi(31) - 1.0)
        .collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// A checkpoint of random values stored as `stored`, and those values in f32.
fn write(folder: &Path, stored: DType) -> HashMap<String, Tensor> {
    std::fs::write(folder.join("config.json"), CONFIG).unwrap();
    let shape = config::from_json("x", folder, CONFIG, None).unwrap().shape;
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut tensors = HashMap::new();
    for m in matrices(&shape) {
        let dims = [m.out_features as usize, m.in_features as usize];
        tensors.insert(format!("{}.weight", m.name), noise(&mut rng, &dims));
        if m.bias {
            tensors.insert(format!("{}.bias", m.name), noise(&mut rng, &dims[..1]));
        }
    }
    for (name, len) in vectors(&shape) {
        tensors.insert(format!("{name}.weight"), noise(&mut rng, &[len as usize]));
    }
    for tensor in tensors.values_mut() {
        *tensor = tensor.to_dtype(stored).unwrap();
    }
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    for tensor in tensors.values_mut() {
        *tensor = tensor.to_dtype(DType::F32).unwrap();
    }
    tensors
}

fn open(folder: &Path, format: FormatChoice) -> Checkpoint {
    Checkpoint::open(&OpenOptions {
        format,
        ..OpenOptions::new(folder.to_str().unwrap())
    })
    .unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Loads one matrix and compares it with candle's own way to `format`.
fn check(checkpoint: &mut Checkpoint, m: &Matrix, format: TensorFormat, stored: &Tensor) {
    let what = format!("{} as {format}", m.name);
    let linear = checkpoint
        .weights
        .linear(&m.name, m.out_features, m.in_features, m.bias)
        .unwrap();
    assert_eq!(linear.dtype_name(), format.name(), "{what}");
    let expected = QTensor::quantize(stored, ggml(format)).unwrap();
    let expected = expected.dequantize(&Device::Cpu).unwrap();
    let ids = Tensor::arange(0, m.out_features as u32, &Device::Cpu).unwrap();
    let rows = linear.rows(&ids).unwrap();
    assert_eq!(values(&rows), values(&expected), "{what}");

    for count in [1, 7, 70] {
        let mut rng = ChaCha8Rng::seed_from_u64(count);
        let x = noise(&mut rng, &[count as usize, m.in_features as usize]);
        let y = values(&linear.forward(&x).unwrap());
        // The bias is left out by the difference to a product with nothing.
        let zero = values(&linear.forward(&x.zeros_like().unwrap()).unwrap());
        let exact = values(&x.matmul(&expected.t().unwrap()).unwrap());
        // Activations are rounded to 8 bits with a scale per block: at most half a step of
        // 1/127 each, with random signs.
        let scale = values(&expected.sqr().unwrap().mean_all().unwrap().sqrt().unwrap())[0];
        let error = if format.is_float() { 1e-4 } else { 0.02 };
        let bound = error * scale * (m.in_features as f32).sqrt();
        for ((y, zero), exact) in y.iter().zip(&zero).zip(&exact) {
            assert!(
                (y - zero - exact).abs() <= bound,
                "{what}, {count} rows: {y} {exact}"
            );
        }
    }
}

#[test]
fn every_format_is_what_candle_makes_of_the_same_values() {
    let folder = tempfile::tempdir().unwrap();
    let stored = write(folder.path(), DType::BF16);
    for (format, _) in FORMATS {
        let mut checkpoint = open(folder.path(), FormatChoice::All(format));
        for m in matrices(&checkpoint.config.shape) {
            let wanted = format.fitting(m.in_features);
            assert_eq!(checkpoint.weights.stored_as(&m.name).unwrap(), wanted);
            let weight = &stored[&format!("{}.weight", m.name)];
            check(&mut checkpoint, &m, wanted, weight);
        }
        let notes = checkpoint.notes.join("\n");
        assert!(notes.contains(&format!("converted to {format}")), "{notes}");
        let fits = 320 % format.block_len() == 0;
        assert_eq!(notes.contains("do not divide"), !fits, "{format}: {notes}");
    }
}

#[test]
fn the_mix_is_made_of_the_formats_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let stored = write(folder.path(), DType::F16);
    let mut checkpoint = open(folder.path(), FormatChoice::Q4KM);
    let shape = checkpoint.config.shape;
    let mut seen = Vec::new();
    for m in matrices(&shape) {
        let format = FormatChoice::Q4KM.of(&m, &shape).unwrap();
        seen.push(format);
        check(
            &mut checkpoint,
            &m,
            format,
            &stored[&format!("{}.weight", m.name)],
        );
    }
    for format in [TensorFormat::Q4K, TensorFormat::Q6K, TensorFormat::Q8_0] {
        assert!(seen.contains(&format), "{format}");
    }
}

/// Without a wish nothing is converted.
#[test]
fn floats_are_kept_as_they_are() {
    for (dtype, format) in [
        (DType::F32, TensorFormat::F32),
        (DType::F16, TensorFormat::F16),
        (DType::BF16, TensorFormat::BF16),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let stored = write(folder.path(), dtype);
        let mut checkpoint = open(folder.path(), FormatChoice::AsStored);
        for m in matrices(&checkpoint.config.shape) {
            check(
                &mut checkpoint,
                &m,
                format,
                &stored[&format!("{}.weight", m.name)],
            );
        }
    }
}
