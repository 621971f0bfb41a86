//! Every way to multiply against plain sums in f64.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

use super::{CpuMatrix, Linear, Values, blocks};
use crate::weights::TensorFormat;

const OUTPUTS: usize = 136;
const WIDTH: usize = 512;

/// Numbers between -1 and 1 without pattern.
fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0
    };
    (0..len).map(|_| next() as f32).collect()
}

fn vec(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The weights as stored, and the product with them.
fn matrix(format: TensorFormat) -> (Vec<f32>, Linear) {
    let shape = (OUTPUTS, WIDTH);
    let weights = Tensor::from_vec(noise(OUTPUTS * WIDTH, 1), shape, &Device::Cpu).unwrap();
    let stored = QTensor::quantize(&weights, format.ggml()).unwrap();
    let bytes = stored.data().unwrap();
    let linear = crate::weights::blocks::linear(&bytes, format, shape, None, &Device::Cpu).unwrap();
    (vec(&stored.dequantize(&Device::Cpu).unwrap()), linear)
}

/// `x` as the product with weights of this format sees it.
fn rounded(x: &Tensor, format: TensorFormat) -> Vec<f32> {
    let kind = match format {
        f if f.is_float() => return vec(x),
        TensorFormat::Q4_0 | TensorFormat::Q5_0 | TensorFormat::Q8_0 => GgmlDType::Q8_0,
        _ => GgmlDType::Q8K,
    };
    let rounded = QTensor::quantize(x, kind).unwrap();
    vec(&rounded.dequantize(&Device::Cpu).unwrap())
}

fn worst_error(y: &[f32], weights: &[f32], x: &[f32]) -> f64 {
    let mut worst = 0f64;
    for (y, x) in y.chunks_exact(OUTPUTS).zip(x.chunks_exact(WIDTH)) {
        for (y, w) in y.iter().zip(weights.chunks_exact(WIDTH)) {
            let exact: f64 = w.iter().zip(x).map(|(w, x)| f64::from(w * x)).sum();
            // Sums of this many products of this size are around this large.
            let scale = (WIDTH as f64).sqrt() / 3.0;
            worst = worst.max((f64::from(*y) - exact).abs() / scale);
        }
    }
    worst
}

#[test]
fn products_are_right_for_any_number_of_rows() {
    for format in TensorFormat::ALL {
        // ggml rounds activations for these to blocks that candle cannot bring back.
        if matches!(format, TensorFormat::Q4_1 | TensorFormat::Q5_1) {
            continue;
        }
        let (weights, linear) = matrix(format);
        for rows in [1, 2, 4, 7, 24, 25, 64, 65, 70] {
            let x = Tensor::from_vec(noise(rows * WIDTH, 7), (rows, WIDTH), &Device::Cpu).unwrap();
            let y = linear.forward(&x).unwrap();
            assert_eq!(y.dims(), [rows, OUTPUTS]);
            let error = worst_error(&vec(&y), &weights, &rounded(&x, format));
            assert!(error < 1e-5, "{format} with {rows} rows: {error}");
        }
    }
}

/// The same activations give the same result in any company.
#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    for format in [
        TensorFormat::BF16,
        TensorFormat::F32,
        TensorFormat::Q4K,
        TensorFormat::Q8_0,
    ] {
        let (_, linear) = matrix(format);
        let x = Tensor::from_vec(noise(80 * WIDTH, 3), (80, WIDTH), &Device::Cpu).unwrap();
        let all = vec(&linear.forward(&x).unwrap());
        let alone = vec(&linear.forward(&x.narrow(0, 5, 1).unwrap()).unwrap());
        for (a, b) in alone.iter().zip(&all[5 * OUTPUTS..]) {
            assert!((a - b).abs() < 1e-4, "{format}: {a} {b}");
        }
    }
}

#[test]
fn rows_are_looked_up_and_bytes_counted() {
    for format in TensorFormat::ALL {
        let (weights, linear) = matrix(format);
        let ids = Tensor::new(&[3u32, 135, 0], &Device::Cpu).unwrap();
        let rows = vec(&linear.rows(&ids).unwrap());
        assert_eq!(rows[..WIDTH], weights[3 * WIDTH..4 * WIDTH], "{format}");
        assert_eq!(rows[WIDTH..2 * WIDTH], weights[135 * WIDTH..], "{format}");
        assert_eq!(linear.bytes(), format.bytes(OUTPUTS as u64, WIDTH as u64));
        let outside = Tensor::new(&[136u32], &Device::Cpu).unwrap();
        assert!(linear.rows(&outside).is_err(), "{format}");
    }
}

#[test]
fn a_bias_is_added_to_every_row() {
    let bias = Tensor::from_vec(noise(OUTPUTS, 9), OUTPUTS, &Device::Cpu).unwrap();
    let stored = vec![half::bf16::ZERO; OUTPUTS * WIDTH];
    let matrix = CpuMatrix::new(Values::BF16(stored), OUTPUTS, WIDTH);
    let linear = Linear::on_cpu(matrix, Some(bias.clone()));
    let y = linear
        .forward(&Tensor::ones((2, WIDTH), candle_core::DType::F32, &Device::Cpu).unwrap())
        .unwrap();
    for row in vec(&y).chunks_exact(OUTPUTS) {
        assert_eq!(row, vec(&bias));
    }
}

/// candle's repacked products, used on other CPUs, and ours agree.
#[test]
fn both_products_with_blocks_agree() {
    let weights = noise(OUTPUTS * WIDTH, 1);
    let weights = Tensor::from_vec(weights, (OUTPUTS, WIDTH), &Device::Cpu).unwrap();
    let stored = QTensor::quantize(&weights, GgmlDType::Q6K).unwrap();
    let values = Values::Blocks(blocks(&stored.data().unwrap(), GgmlDType::Q6K).unwrap());
    let ours = Linear::on_cpu(CpuMatrix::new(values, OUTPUTS, WIDTH), None);
    let bytes = stored.data().unwrap().into_owned();
    let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, GgmlDType::Q6K).unwrap();
    let theirs = Linear::quantized(QTensor::new(storage, (OUTPUTS, WIDTH)).unwrap(), None);
    assert_eq!(ours.dtype_name(), theirs.dtype_name());
    for rows in [1, 9, 70] {
        let x = Tensor::from_vec(noise(rows * WIDTH, 5), (rows, WIDTH), &Device::Cpu).unwrap();
        let (a, b) = (ours.forward(&x).unwrap(), theirs.forward(&x).unwrap());
        for (a, b) in vec(&a).iter().zip(vec(&b)) {
            assert!((a - b).abs() < 1e-3, "{rows} rows: {a} {b}");
        }
    }
}
