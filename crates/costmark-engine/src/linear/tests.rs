//! Products against sums in f64 and against candle's; what the kernels have to be bit for
//! bit is tested beside them.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::*;

use costmark_kernels::linear::{self, Isa};

use super::Linear;
use crate::weights::format::Ggml;
use crate::weights::{TensorFormat, blocks};

const OUTPUTS: usize = 136;
const WIDTH: usize = 512;

const PACKED: [TensorFormat; 8] = [
    TensorFormat::F32,
    TensorFormat::F16,
    TensorFormat::BF16,
    TensorFormat::Q8_0,
    TensorFormat::Q4_0,
    TensorFormat::Q4K,
    TensorFormat::Q5K,
    TensorFormat::Q6K,
];

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

fn tensor(values: Vec<f32>, rows: usize) -> Tensor {
    let width = values.len() / rows;
    Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap()
}

fn vec(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Stored bytes of `weights`, and the values they stand for.
fn stored(
    weights: Vec<f32>,
    outputs: usize,
    width: usize,
    format: TensorFormat,
) -> (Vec<u8>, Vec<f32>) {
    let weights = Tensor::from_vec(weights, (outputs, width), &Device::Cpu).unwrap();
    let stored = QTensor::quantize(&weights, format.ggml()).unwrap();
    let values = vec(&stored.dequantize(&Device::Cpu).unwrap());
    (stored.data().unwrap().into_owned(), values)
}

fn matrix(format: TensorFormat) -> (Vec<f32>, Linear) {
    let (bytes, values) = stored(noise(OUTPUTS * WIDTH, 1), OUTPUTS, WIDTH, format);
    let shape = (OUTPUTS, WIDTH);
    let linear = blocks::linear(&bytes, format, shape, None, &Device::Cpu).unwrap();
    (values, linear)
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

/// Greatest error of `y` relative to the magnitudes that were summed up.
fn worst_error(y: &[f32], weights: &[f32], x: &[f32], width: usize) -> f64 {
    let outputs = weights.len() / width;
    let mut worst = 0f64;
    for (y, x) in y.chunks_exact(outputs).zip(x.chunks_exact(width)) {
        for (y, w) in y.iter().zip(weights.chunks_exact(width)) {
            let products = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let magnitude: f64 = products.clone().map(f64::abs).sum();
            let error = (f64::from(*y) - products.sum::<f64>()).abs();
            // NaN must not pass.
            if error > 0.0 || error.is_nan() {
                worst = worst.max(error / magnitude);
                assert!(!error.is_nan(), "{y}");
            }
        }
    }
    worst
}

/// Rows of activations of very different sizes, some all zero.
fn activations(rows: usize, width: usize, seed: u32) -> Vec<f32> {
    let mut x = noise(rows * width, seed ^ 99);
    for (i, part) in x.chunks_mut(32).enumerate() {
        let scale = [1.0, 0.0, 1e-3, 300.0, 1e-30, 7.0, 1e-7][(i + seed as usize) % 7];
        part.iter_mut().for_each(|v| *v *= scale);
    }
    x
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Activations are rounded to the values that candle's products see.
    #[test]
    fn rounding_equals_candle(blocks in 1usize..4, seed in any::<u32>(), halves in any::<bool>()) {
        let mut x = activations(1, 256 * blocks, seed);
        if halves {
            // Many values halfway between two integers.
            x.iter_mut().for_each(|v| *v = (*v * 20.0).round() / 2.0);
            x[0] = 127.0;
        }
        for (format, ggml) in [(TensorFormat::Q8_0, GgmlDType::Q8_0), (TensorFormat::Q4K, GgmlDType::Q8K)] {
            let ours = linear::rounded(&x, x.len(), format, Isa::detect());
            let theirs = QTensor::quantize(&tensor(x.clone(), 1), ggml).unwrap();
            let theirs = vec(&theirs.dequantize(&Device::Cpu).unwrap());
            prop_assert_eq!(ours.len(), theirs.len());
            for (a, b) in ours.iter().zip(&theirs) {
                prop_assert!(a == b, "{format}: {a} {b}");
            }
        }
    }
}

/// The stated error: rounding in f32 only, relative to the magnitudes summed up.
#[test]
fn products_are_right_for_any_number_of_rows() {
    for format in TensorFormat::ALL {
        // ggml rounds activations for these to blocks that candle cannot bring back.
        if matches!(format, TensorFormat::Q4_1 | TensorFormat::Q5_1) {
            continue;
        }
        let (weights, linear) = matrix(format);
        for rows in [0, 1, 2, 4, 7, 24, 65, 130] {
            let x = Tensor::from_vec(noise(rows * WIDTH, 7), (rows, WIDTH), &Device::Cpu).unwrap();
            let y = linear.forward(&x).unwrap();
            assert_eq!(y.dims(), [rows, OUTPUTS]);
            if rows > 0 {
                let error = worst_error(&vec(&y), &weights, &rounded(&x, format), WIDTH);
                assert!(error < 1e-6, "{format} with {rows} rows: {error}");
            }
        }
    }
}

/// Weights and activations of extreme but finite size.
#[test]
fn extreme_scales_stay_right() {
    for format in PACKED {
        for (weight_scale, x_scale) in [(1e4f32, 1e6f32), (1e-4, 1e-2), (1.0, 1e5), (100.0, 1e-3)] {
            let weights = noise(16 * 512, 3)
                .iter()
                .map(|w| w * weight_scale)
                .collect();
            let (bytes, weights) = stored(weights, 16, 512, format);
            let linear = blocks::linear(&bytes, format, (16, 512), None, &Device::Cpu).unwrap();
            let x = tensor(noise(3 * 512, 4).iter().map(|x| x * x_scale).collect(), 3);
            let y = vec(&linear.forward(&x).unwrap());
            let error = worst_error(&y, &weights, &rounded(&x, format), 512);
            assert!(error < 1e-6, "{format} {weight_scale} {x_scale}: {error}");
        }
    }
}

/// A value that is not finite shows in the result; it is not rounded away.
#[test]
fn values_that_are_not_finite_show() {
    for format in PACKED {
        let (_, linear) = matrix(format);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise(2 * WIDTH, 5);
            x[WIDTH + 100] = bad;
            let y = vec(&linear.forward(&tensor(x, 2)).unwrap());
            assert!(y[..OUTPUTS].iter().all(|y| y.is_finite()), "{format}");
            assert!(
                y[OUTPUTS..].iter().all(|y| !y.is_finite()),
                "{format} {bad}"
            );
        }
    }
}

/// The same bits in any company, on any number of threads, beside any other matrix.
#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let x = tensor(noise(150 * WIDTH, 3), 150);
    let (_, other) = matrix(TensorFormat::Q6K);
    for format in PACKED {
        let (_, linear) = matrix(format);
        let all = vec(&linear.forward(&x).unwrap());
        for (first, rows) in [(5, 1), (64, 2), (130, 20), (0, 70)] {
            let part = x.narrow(0, first, rows).unwrap();
            let [_, part] = Linear::forward_all([&other, &linear], &part).unwrap();
            let expected = &all[first * OUTPUTS..][..rows * OUTPUTS];
            assert_eq!(bits(&vec(&part)), bits(expected), "{format}");
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
    let zeros = vec![0u8; 2 * OUTPUTS * WIDTH];
    let shape = (OUTPUTS, WIDTH);
    let format = TensorFormat::BF16;
    let linear = blocks::linear(&zeros, format, shape, Some(bias.clone()), &Device::Cpu).unwrap();
    let y = linear.forward(&tensor(vec![1.0; 2 * WIDTH], 2)).unwrap();
    for row in vec(&y).chunks_exact(OUTPUTS) {
        assert_eq!(row, vec(&bias));
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (_, linear) = matrix(TensorFormat::Q8_0);
    assert!(linear.forward(&tensor(noise(64, 1), 1)).is_err());
    let short = [0u8; 100];
    for format in PACKED {
        assert!(blocks::linear(&short, format, (2, 256), None, &Device::Cpu).is_err());
    }
}

/// candle's products with the same blocks.
#[test]
fn candle_agrees() {
    for format in [
        TensorFormat::Q8_0,
        TensorFormat::Q4_0,
        TensorFormat::Q4K,
        TensorFormat::Q5K,
        TensorFormat::Q6K,
    ] {
        let (bytes, _) = stored(noise(OUTPUTS * WIDTH, 1), OUTPUTS, WIDTH, format);
        let shape = (OUTPUTS, WIDTH);
        let ours = blocks::linear(&bytes, format, shape, None, &Device::Cpu).unwrap();
        let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, format.ggml()).unwrap();
        let theirs = Linear::quantized(QTensor::new(storage, shape).unwrap(), None);
        assert_eq!(ours.dtype_name(), theirs.dtype_name());
        for rows in [1, 9, 70] {
            let x = tensor(noise(rows * WIDTH, 5), rows);
            let (a, b) = (ours.forward(&x).unwrap(), theirs.forward(&x).unwrap());
            for (a, b) in vec(&a).iter().zip(vec(&b)) {
                assert!((a - b).abs() < 1e-4, "{format}, {rows} rows: {a} {b}");
            }
        }
    }
}
