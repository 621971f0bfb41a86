//! How fast products are, per format and number of rows: gigabytes of weights per second (at
//! one row the bandwidth reached), and billions of operations per second, of which a weight
//! and an activation make two. Equal matrices, together larger than the last-level cache of
//! servers, take turns. Beside them the bandwidth of plain reads, measured before and after.
//!
//! `cargo run --release -p costmark-kernels --example products -- [q8_0 …] [portable|avx2|avx512|amx]`
//! Threads as everywhere: `RAYON_NUM_THREADS`.

use std::time::{Duration, Instant};

use costmark_kernels::linear::{Isa, Memory, Packed, multiply};
use costmark_kernels::{TensorFormat, parallel};

/// Of the feed-forward matrices of an 8-billion-parameter Llama.
const SHAPE: (usize, usize) = (14336, 4096);
const FORMATS: [TensorFormat; 7] = [
    TensorFormat::Q8_0,
    TensorFormat::Q4_0,
    TensorFormat::Q4K,
    TensorFormat::Q5K,
    TensorFormat::Q6K,
    TensorFormat::BF16,
    TensorFormat::F16,
];
const ROWS: [usize; 6] = [1, 4, 8, 16, 128, 512];
/// Bytes of all matrices of a format together, and of what is read beside them.
const MEMORY: usize = 1 << 30;
/// How long a case is repeated, at least three times.
const PATIENCE: Duration = Duration::from_millis(600);

/// Fastest of repeated runs in seconds, and their median.
fn time(mut run: impl FnMut()) -> (f64, f64) {
    run();
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || begin.elapsed() < PATIENCE {
        let start = Instant::now();
        run();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

/// Gigabytes per second, fastest and median, of all threads reading.
fn bandwidth(memory: &[f32]) -> (f64, f64) {
    let len = memory.len().div_ceil(parallel::threads() * 16);
    let (best, median) = time(|| {
        parallel::for_each(memory.chunks(len).collect(), memory.len(), |chunk| {
            // As many sums as stay in registers, whatever the instruction set.
            let (lines, _) = chunk.as_chunks::<32>();
            let mut sums = [0f32; 32];
            for line in lines {
                for (sum, value) in sums.iter_mut().zip(line) {
                    *sum += value;
                }
            }
            std::hint::black_box(sums);
        });
    });
    let bytes = size_of_val(memory) as f64;
    (bytes / best / 1e9, bytes / median / 1e9)
}

/// Bytes that are a matrix of this format with finite values.
fn stored(format: TensorFormat) -> Vec<u8> {
    let (outputs, width) = SHAPE;
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let len = format.bytes(outputs as u64, width as u64) as usize;
    let mut bytes: Vec<u8> = (0..len).map(|_| next()).collect();
    let small = |bytes: &mut [u8]| bytes.copy_from_slice(&[next(), 0x20]);
    if format.is_float() {
        bytes.chunks_exact_mut(2).for_each(small);
        return bytes;
    }
    let at: &[usize] = match format {
        TensorFormat::Q6K => &[208],
        TensorFormat::Q4K | TensorFormat::Q5K => &[0, 2],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(format.block_bytes() as usize) {
        for at in at {
            block[*at + 1] = 0x20;
        }
    }
    bytes
}

#[allow(clippy::print_stdout)]
fn main() -> Result<(), costmark_kernels::KernelError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let named = |isa: Isa| words.contains(&isa.name().to_string());
    let isa = Isa::available().find(|isa| named(*isa));
    let isa = isa.unwrap_or_else(Isa::detect);
    let chosen: Vec<TensorFormat> = FORMATS
        .into_iter()
        .filter(|format| words.iter().any(|word| word == format.name()))
        .collect();
    let formats = if chosen.is_empty() {
        FORMATS.to_vec()
    } else {
        chosen
    };
    // In large pages, as weights are.
    let mut memory = Memory::<f32>::zeroed(MEMORY / size_of::<f32>())?;
    memory.fill(1.0);
    let (best, median) = bandwidth(&memory);
    println!(
        "{} threads, {}; reads {best:.1} GB/s (median {median:.1})",
        parallel::threads(),
        isa.name()
    );
    let (outputs, width) = SHAPE;
    for format in formats {
        let stored = stored(format);
        let matrices: Vec<Packed> = (0..MEMORY.div_ceil(stored.len()))
            .map(|_| Packed::new(&stored, format, outputs, width, isa))
            .collect::<Result<_, _>>()?;
        let mut turns = matrices.iter().cycle();
        let mut line = format!("{:<5}", format.name());
        for rows in ROWS {
            let x: Vec<f32> = (0..rows * width).map(|i| (i % 127) as f32 - 63.0).collect();
            let (best, median) = time(|| {
                let matrix: Vec<&Packed> = turns.next().into_iter().collect();
                std::hint::black_box(multiply(&matrix, &x, rows));
            });
            let (amount, unit) = if rows <= 16 {
                (stored.len() as f64, "GB/s")
            } else {
                (2.0 * (outputs * width * rows) as f64, "GOP/s")
            };
            let (best, median) = (amount / best / 1e9, amount / median / 1e9);
            line += &format!(" | {rows}: {median:.1} {unit} (best {best:.1})");
        }
        println!("{line}");
    }
    let (best, median) = bandwidth(&memory);
    println!("reads {best:.1} GB/s (median {median:.1})");
    Ok(())
}
