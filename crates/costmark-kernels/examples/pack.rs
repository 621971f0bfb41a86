//! How fast weights are laid out: matrices of the sizes of a small model, GB of stored bytes
//! per second on all threads, the memory's pages cleared and not yet there.
//!
//! `cargo run --release -p costmark-kernels --example pack`

use std::time::Instant;

use costmark_kernels::TensorFormat;
use costmark_kernels::linear::{Isa, Packed};

/// (outputs, width) of a decoder layer.
const SHAPES: [(usize, usize); 7] = [
    (2048, 1024),
    (1024, 1024),
    (1024, 1024),
    (1024, 2048),
    (3072, 1024),
    (3072, 1024),
    (1024, 3072),
];
const LAYERS: usize = 28;
const ROUNDS: usize = 5;

#[allow(clippy::print_stdout)]
fn main() -> costmark_kernels::Result<()> {
    for format in [
        TensorFormat::Q8_0,
        TensorFormat::Q4_0,
        TensorFormat::Q4K,
        TensorFormat::Q6K,
        TensorFormat::BF16,
        TensorFormat::F16,
    ] {
        let bytes = |(outputs, width): (usize, usize)| {
            let len = format.bytes(outputs as u64, width as u64) as usize;
            (0..len)
                .map(|i| (i * 31 + i / 251) as u8)
                .collect::<Vec<u8>>()
        };
        let stored = SHAPES.map(bytes);
        let total: usize = LAYERS * stored.iter().map(Vec::len).sum::<usize>();
        let mut rates: Vec<f64> = Vec::new();
        for _ in 0..ROUNDS {
            let mut held = Vec::new();
            let begun = Instant::now();
            for _ in 0..LAYERS {
                for ((outputs, width), bytes) in SHAPES.into_iter().zip(&stored) {
                    held.push(Packed::new(bytes, format, outputs, width, Isa::detect())?);
                }
            }
            rates.push(total as f64 / begun.elapsed().as_secs_f64() / 1e9);
        }
        println!("{format}: {rates:.2?} GB/s of {total} bytes");
    }
    Ok(())
}
