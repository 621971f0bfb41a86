//! The engine's attention kernels on a GPU: what share of its memory's bandwidth decoding reaches,
//! and what share of its tensor cores' arithmetic prompts do. Heads are those of Llama 3.1 8B.
//!
//! By itself, not by criterion: a launch returns before its work is done, so what is timed are
//! rounds over many layers, waited for at their end. Says so and measures nothing without a GPU.
// A bench prints what it measured.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use costmark_engine::batch::StepBatch;
use costmark_engine::ops::cuda::CudaOps;
use costmark_engine::ops::{AttentionInput, AttentionShape, KvShape, Ops};
use costmark_engine::{DeviceChoice, EngineError, KvDtype, device, gpu_peaks};

const SHAPE: AttentionShape = AttentionShape {
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    window: None,
};
const BLOCK: usize = 16;
/// Keys and values of all layers together are at least this much: ten times the largest cache of a
/// GPU, so that none of it is found there again in the next round.
const LEAST_CACHE_BYTES: usize = 512 << 20;
/// Rounds over all layers in a timed pass.
const ROUNDS: usize = 4;
/// Timed passes, after one that is not.
const PASSES: usize = 7;

/// Sequences that do the same.
#[derive(Clone, Copy)]
struct Load {
    sequences: usize,
    context: usize,
    /// Tokens of each in the step.
    new: usize,
}

impl Load {
    /// Keys and values of one layer after the step.
    fn cache_bytes(self) -> usize {
        let tokens = self.sequences * (self.context + self.new);
        2 * 2 * tokens * SHAPE.kv_heads * SHAPE.head_dim
    }

    /// Multiplications and additions of one layer: of each query with each key it sees, and of
    /// each weight with each value.
    fn flops(self) -> f64 {
        let pairs = self.new * self.context + self.new * (self.new + 1) / 2;
        (4 * self.sequences * pairs * SHAPE.heads * SHAPE.head_dim) as f64
    }
}

/// Seconds per layer of each pass.
fn seconds(load: Load, gpu: &Device) -> Result<Vec<f64>, EngineError> {
    let layers = LEAST_CACHE_BYTES.div_ceil(load.cache_bytes());
    let blocks = (load.context + load.new).div_ceil(BLOCK);
    let kv = KvShape {
        layers,
        blocks: load.sequences * blocks,
        block_size: BLOCK,
    };
    let mut ops = CudaOps::new(SHAPE, kv, KvDtype::F16, DType::BF16, gpu)?;
    let mut batch = StepBatch::default();
    for sequence in 0..load.sequences {
        // A sequence's blocks lie apart, as they come to.
        let table: Vec<u32> = (0..blocks)
            .map(|i| (i * load.sequences + sequence) as u32)
            .collect();
        let ids = vec![0; load.new];
        batch.push(&ids, load.context, usize::MAX, &table, BLOCK, true);
    }
    let random = |heads: usize| -> Result<Tensor, EngineError> {
        let dims = (batch.tokens(), heads * SHAPE.head_dim);
        let values = Tensor::randn(0f32, 1f32, dims, gpu)?;
        Ok(values.to_dtype(DType::BF16)?)
    };
    let (q, k, v) = (
        random(SHAPE.heads)?,
        random(SHAPE.kv_heads)?,
        random(SHAPE.kv_heads)?,
    );
    let frequencies: Vec<f32> = (0..SHAPE.head_dim / 2)
        .map(|i| 5e5f32.powf(-2.0 * i as f32 / SHAPE.head_dim as f32))
        .collect();
    let rotations = ops.begin(&batch, &frequencies)?;
    let input = AttentionInput {
        q: &q,
        k: &k,
        v: &v,
        qk_norm: None,
        rotations: &rotations,
        batch: &batch,
    };
    let mut passes = Vec::new();
    for pass in 0..=PASSES {
        ops.wait()?;
        let begin = Instant::now();
        for _ in 0..ROUNDS {
            for layer in 0..layers {
                ops.attend(layer, &input)?;
            }
        }
        ops.wait()?;
        if pass > 0 {
            passes.push(begin.elapsed().as_secs_f64() / (ROUNDS * layers) as f64);
        }
    }
    passes.sort_by(f64::total_cmp);
    Ok(passes)
}

fn measure(gpu: &Device) -> Result<(), EngineError> {
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    let peaks = gpu_peaks::measure(gpu)?;
    let (read, flops) = (best(&peaks.read_bytes_per_s), best(&peaks.bf16_flops_per_s));
    println!(
        "{}: read {:.0} GB/s, bf16 products {:.0} TFLOP/s",
        device::name(gpu),
        read / 1e9,
        flops / 1e12
    );
    for (sequences, context) in [(1, 4096), (32, 4096), (64, 1280), (256, 1088)] {
        let load = Load {
            sequences,
            context: context - 1,
            new: 1,
        };
        let seconds = seconds(load, gpu)?;
        let rate = |s: f64| load.cache_bytes() as f64 / s;
        let (best, median) = (rate(seconds[0]), rate(seconds[PASSES / 2]));
        println!(
            "decode, {sequences} x {context}: {:.0} ({:.0}) GB/s, {:.1} % of the read peak",
            best / 1e9,
            median / 1e9,
            100.0 * best / read
        );
    }
    for (sequences, new, context) in [(4, 1024, 0), (1, 4096, 0), (1, 4096, 28672)] {
        let load = Load {
            sequences,
            context,
            new,
        };
        let seconds = seconds(load, gpu)?;
        let rate = |s: f64| load.flops() / s;
        let (best, median) = (rate(seconds[0]), rate(seconds[PASSES / 2]));
        println!(
            "prompts, {sequences} x {new} after {context}: {:.0} ({:.0}) TFLOP/s, {:.1} % of the \
             bf16 peak",
            best / 1e12,
            median / 1e12,
            100.0 * best / flops
        );
    }
    println!("best pass (median) of {PASSES}, norms, rotations and writes to the cache included");
    Ok(())
}

fn main() -> Result<(), EngineError> {
    match device::open(DeviceChoice::Cuda(0)) {
        Ok(gpu) => measure(&gpu),
        Err(error) => {
            println!("skipped, no GPU: {error}");
            Ok(())
        }
    }
}
