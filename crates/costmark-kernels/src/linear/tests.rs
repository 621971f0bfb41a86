//! Every way to multiply, bit for bit against plain Rust.

use proptest::prelude::*;

use super::activations::{Activations, Rounding};
use super::isa::Isa;
use super::packed::Packed;
use super::product;
use crate::TensorFormat;

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

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Random stored bytes of a matrix. The scales of blocks are finite.
fn random_bytes(format: TensorFormat, outputs: usize, width: usize, seed: u32) -> Vec<u8> {
    let len = format.bytes(outputs as u64, width as u64) as usize;
    let mut bytes: Vec<u8> = noise(len, seed)
        .iter()
        .map(|v| ((v + 1.0) * 128.0) as u8)
        .collect();
    if format.is_float() {
        let size = format.block_bytes() as usize;
        for (value, v) in bytes.chunks_exact_mut(size).zip(noise(len / size, seed)) {
            match format {
                TensorFormat::F32 => value.copy_from_slice(&v.to_le_bytes()),
                TensorFormat::F16 => value.copy_from_slice(&half::f16::from_f32(v).to_le_bytes()),
                _ => value.copy_from_slice(&half::bf16::from_f32(v).to_le_bytes()),
            }
        }
        return bytes;
    }
    let scales: &[usize] = match format {
        TensorFormat::Q6K => &[208],
        TensorFormat::Q4K | TensorFormat::Q5K => &[0, 2],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(format.block_bytes() as usize) {
        // Any sign; exponents up to 2^14, subnormal numbers and zeros among them.
        scales.iter().for_each(|at| block[at + 1] &= 0b1011_1111);
        if block[scales[0]] < 16 {
            block.fill(0);
        }
    }
    bytes
}

/// Rows of activations of very different sizes, some all zero. None so small that its parts in
/// bf16, times a weight, would be below 2⁻¹²⁶, which tiles take as zero.
fn activations(rows: usize, width: usize, seed: u32) -> Vec<f32> {
    let mut x = noise(rows * width, seed ^ 99);
    for (i, part) in x.chunks_mut(32).enumerate() {
        let scale = [1.0, 0.0, 1e-3, 300.0, 1e-18, 7.0, 1e-7][(i + seed as usize) % 7];
        part.iter_mut().for_each(|v| *v *= scale);
    }
    x
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The kernels of this machine give the bits that plain Rust gives.
    #[test]
    fn kernels_equal_plain_rust(
        outputs in 1usize..45, blocks in 0usize..4, odd in 0usize..40,
        rows in 0usize..70, first in 0usize..3, seed in any::<u32>(),
    ) {
        for format in PACKED {
            // Rows of several pieces, which tiles work on one after another, and of parts of them.
            let width = match format.block_len() {
                _ if format.is_float() => 32 * blocks + odd,
                32 => 32 * (12 * blocks + odd),
                len => blocks * len as usize,
            };
            let bytes = random_bytes(format, outputs, width, seed);
            for isa in Isa::available() {
                let packed = Packed::new(&bytes, format, outputs, width, isa).unwrap();
                let x = activations(rows, width, seed);
                let x = Activations::new(&x, width, Rounding::of(format, isa), Isa::Portable);
                let (panels, lot) = (first.min(packed.panels())..packed.panels(), first.min(rows)..rows);
                // Whatever was there before does not count.
                let mut ours = vec![f32::NAN; panels.len() * lot.len() * packed.lanes()];
                let mut plain = vec![7.0; ours.len()];
                isa.tile(&packed, panels.clone(), &x, lot.clone(), &mut ours);
                Isa::Portable.tile(&packed, panels, &x, lot, &mut plain);
                prop_assert_eq!(bits(&ours), bits(&plain), "{} {:?}", format, isa);
            }
        }
    }

    /// So does rounding.
    #[test]
    fn rounding_equals_plain_rust(blocks in 1usize..4, seed in any::<u32>(), halves in any::<bool>()) {
        let mut x = activations(1, 256 * blocks, seed);
        if halves {
            // Many values halfway between two integers.
            x.iter_mut().for_each(|v| *v = (*v * 20.0).round() / 2.0);
            x[0] = 127.0;
        }
        for kind in Rounding::ALL {
            let plain = Activations::new(&x, x.len(), kind, Isa::Portable);
            for isa in Isa::available() {
                prop_assert_eq!(&Activations::new(&x, x.len(), kind, isa), &plain);
            }
        }
    }
}

/// The same bits alone, in a tile, across tiles and lots, beside another matrix.
#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    const OUTPUTS: usize = 40;
    const ROWS: usize = 530;
    for (format, isa) in PACKED
        .into_iter()
        .flat_map(|f| Isa::available().map(move |isa| (f, isa)))
        .filter(|(_, isa)| *isa != Isa::Portable)
    {
        let pack = |format: TensorFormat, width, seed| {
            let bytes = random_bytes(format, OUTPUTS, width, seed);
            Packed::new(&bytes, format, OUTPUTS, width, isa).unwrap()
        };
        let width = if format.is_float() { 600 } else { 1280 };
        let (matrix, other) = (pack(format, width, 1), pack(TensorFormat::F32, width, 2));
        let x = activations(ROWS, width, 3);
        let all = &product::multiply(&[&matrix], &x, ROWS)[0];
        for (first, rows) in [(0, 1), (7, 8), (3, 15), (16, 16), (500, 30), (17, 257)] {
            let x = &x[first * width..][..rows * width];
            let part = &product::multiply(&[&other, &matrix], x, rows)[1];
            let expected = &all[first * OUTPUTS..][..rows * OUTPUTS];
            assert_eq!(
                bits(part),
                bits(expected),
                "{format} {isa:?} {first} {rows}"
            );
        }
    }
}

/// With float weights the products see what they are given, and with `bf16` in tiles 16 bits of its
/// mantissa.
#[test]
fn activations_that_meet_floats_are_exact_or_nearly() {
    let x = activations(18, 70, 5);
    for isa in Isa::available() {
        for format in [TensorFormat::F32, TensorFormat::F16, TensorFormat::BF16] {
            let seen = super::rounded(&x, 70, format, isa);
            if Rounding::of(format, isa) == Rounding::Halves {
                for (seen, x) in seen.iter().zip(&x) {
                    assert!(
                        (seen - x).abs() <= x.abs() * 2f32.powi(-17),
                        "{seen} for {x}"
                    );
                }
            } else {
                assert_eq!(seen, x, "{format} {isa:?}");
            }
        }
    }
}

#[test]
fn nothing_times_nothing_is_nothing() {
    assert!(product::multiply(&[], &[], 0).is_empty());
}

/// What is not finite stays so in the products, and great finite values stay finite.
#[test]
fn great_values_and_those_beyond_keep_their_kind() {
    const WIDTH: usize = 64;
    let ones: Vec<u8> = [0x80, 0x3f].repeat(16 * WIDTH);
    for isa in Isa::available() {
        let matrix = Packed::new(&ones, TensorFormat::BF16, 16, WIDTH, isa).unwrap();
        for value in [3e38, -3e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut x = [0.0; WIDTH];
            x[5] = value;
            let y = product::multiply(&[&matrix], &x, 1)[0][3];
            assert_eq!(y.is_nan(), value.is_nan(), "{y} for {value}");
            assert_eq!(y.is_infinite(), value.is_infinite(), "{y} for {value}");
            assert!(
                value.is_nan() || y.signum() == value.signum(),
                "{y} for {value}"
            );
        }
    }
}
