//! What attention reaches with each instruction set: GB of keys and values per second while 16
//! sequences decode, GFLOP/s (of the products a causal mask leaves) for prompts. Heads as in
//! the Qwen3-0.6B shape, f16 cache.
//!
//! `cargo run --release -p costmark-kernels --example attention -- [amx avx512 avx2 portable]`

use std::time::Instant;

use costmark_kernels::attention::{Block, Isa, Queries, Scratch, attend};
use costmark_kernels::parallel;
use half::f16;

const DIM: usize = 128;
const KV_HEADS: usize = 8;
const GROUP: usize = 2;
const HEADS: usize = KV_HEADS * GROUP;
const BLOCK: usize = 16;
const SEQUENCES: usize = 16;
/// Bytes of keys and values, so that no cache holds them between rounds.
const CACHE_BYTES: usize = 1 << 30;
/// Times each layer is measured; the least counts, which a neighbour's turn of the cores
/// disturbs least.
const ROUNDS: usize = 20;

/// Blocks of heads, `(blocks, heads, BLOCK · DIM)`.
struct Cache {
    keys: Vec<f16>,
    values: Vec<f16>,
}

impl Cache {
    fn new(tokens: usize) -> Self {
        let value = |i: usize| f16::from_f32((i * 7919 % 1000) as f32 / 1000.0 - 0.5);
        let keys: Vec<f16> = (0..tokens * KV_HEADS * DIM).map(value).collect();
        Self {
            values: keys.clone(),
            keys,
        }
    }

    fn block(&self, block: usize, head: usize) -> Block<'_, f16> {
        let at = (block * KV_HEADS + head) * BLOCK * DIM;
        Block {
            keys: &self.keys[at..at + BLOCK * DIM],
            values: &self.values[at..at + BLOCK * DIM],
        }
    }
}

/// `tokens` from position `first` of the sequence that begins at `base`, one head.
fn unit(isa: Isa, cache: &Cache, base: usize, first: usize, q: &[f32], head: usize) {
    thread_local! {
        static SCRATCH: std::cell::RefCell<(Scratch, Vec<f32>)> = Default::default();
    }
    let queries = Queries {
        values: &q[head * GROUP * DIM..],
        stride: HEADS * DIM,
        tokens: q.len() / (HEADS * DIM),
        group: GROUP,
        head_dim: DIM,
        first,
        window: None,
        block_size: BLOCK,
    };
    SCRATCH.with_borrow_mut(|(scratch, out)| {
        out.resize(queries.tokens * GROUP * DIM, 0.0);
        let block = |index: usize| cache.block(base / BLOCK + index, head);
        attend(isa, &queries, block, scratch, out, GROUP * DIM);
    });
}

/// The least time of a layer, in seconds.
fn best(layers: usize, mut work: impl FnMut(usize)) -> f64 {
    let times = (0..ROUNDS * layers).map(|index| {
        let begun = Instant::now();
        work(index % layers);
        begun.elapsed().as_secs_f64()
    });
    times.fold(f64::MAX, f64::min)
}

#[allow(clippy::print_stdout)]
fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |isa: &Isa| names.is_empty() || names.iter().any(|name| name == isa.name());
    let q = |tokens: usize| -> Vec<f32> {
        (0..tokens * HEADS * DIM)
            .map(|i| (i * 31 % 100) as f32 / 100.0 - 0.5)
            .collect()
    };
    for isa in Isa::available().filter(wanted) {
        for context in [256, 1024, 4096] {
            let bytes = SEQUENCES * context * KV_HEADS * DIM * 4;
            let layers = (CACHE_BYTES / bytes).clamp(1, 28);
            let cache = Cache::new(layers * SEQUENCES * context);
            let q = q(1);
            let seconds = best(layers, |layer| {
                let units: Vec<_> = (0..SEQUENCES * KV_HEADS).collect();
                parallel::for_each(units, usize::MAX, |index| {
                    let (sequence, head) = (index / KV_HEADS, index % KV_HEADS);
                    let base = (layer * SEQUENCES + sequence) * context;
                    unit(isa, &cache, base, context - 1, &q, head);
                });
            });
            println!(
                "{:9} decode {SEQUENCES} × {context}: {:.3} ms a layer, {:.1} GB/s",
                isa.name(),
                seconds * 1e3,
                bytes as f64 / seconds / 1e9
            );
        }
        for prompt in [512, 2048] {
            let (cache, q) = (Cache::new(prompt), q(prompt));
            // Tokens that are taken together.
            let tile = (prompt / 8).min(128);
            let seconds = best(1, |_| {
                let units: Vec<_> = (0..prompt).step_by(tile).rev().collect();
                parallel::for_each(units, usize::MAX, |first| {
                    let q = &q[first * HEADS * DIM..(first + tile) * HEADS * DIM];
                    (0..KV_HEADS).for_each(|head| unit(isa, &cache, 0, first, q, head));
                });
            });
            let flop = prompt * (prompt + 1) / 2 * HEADS * DIM * 4;
            println!(
                "{:9} prefill {prompt}: {:.3} ms a layer, {:.1} GFLOP/s",
                isa.name(),
                seconds * 1e3,
                flop as f64 / seconds / 1e9
            );
        }
    }
}
