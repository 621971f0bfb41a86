//! The CPU's operations against the reference, over random shapes, scattered blocks,
//! chunk boundaries and sliding windows.

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cpu::{CpuOps, Values};
use super::reference::ReferenceOps;
use super::*;
use crate::options::KvDtype;

struct Random(ChaCha8Rng);

impl Random {
    fn tensor(&mut self, rows: usize, width: usize, spread: f32) -> Tensor {
        let values = (0..rows * width).map(|_| spread * (self.0.random::<f32>() * 2.0 - 1.0));
        Tensor::from_vec(values.collect::<Vec<_>>(), (rows, width), &Device::Cpu).unwrap()
    }

    fn norm(&mut self, width: usize) -> Norm {
        let weight = self.tensor(1, width, 1.0).flatten_all().unwrap();
        Norm { weight, eps: 1e-6 }
    }
}

fn greatest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (Values::of(a).unwrap(), Values::of(b).unwrap());
    let pairs = a.get().iter().zip(b.get());
    pairs.fold(0f32, |worst, (a, b)| {
        // NaN must not pass.
        let off = (a - b).abs();
        if off > worst || off.is_nan() {
            off
        } else {
            worst
        }
    })
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = Values::of(tensor).unwrap();
    values.get().iter().map(|v| v.to_bits()).collect()
}

/// A sequence of `tokens` tokens in its own blocks, and the projections of all of them.
#[derive(Debug)]
struct History {
    tokens: usize,
    blocks: Vec<u32>,
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

#[derive(Debug)]
struct Case {
    shape: AttentionShape,
    kv: KvShape,
    norms: Option<(Norm, Norm)>,
    histories: Vec<History>,
    frequencies: Vec<f32>,
}

impl Case {
    fn new(
        shape: AttentionShape,
        block_size: usize,
        lengths: &[usize],
        norm: bool,
        seed: u64,
    ) -> Self {
        let mut random = Random(ChaCha8Rng::seed_from_u64(seed));
        let needed: usize = lengths.iter().map(|l| l.div_ceil(block_size)).sum();
        let kv = KvShape {
            layers: 2,
            blocks: needed + 2,
            block_size,
        };
        let mut ids: Vec<u32> = (0..kv.blocks as u32).collect();
        ids.shuffle(&mut random.0);
        let (dim, heads, kv_heads) = (shape.head_dim, shape.heads, shape.kv_heads);
        let histories = lengths
            .iter()
            .map(|&tokens| History {
                tokens,
                blocks: ids.split_off(ids.len() - tokens.div_ceil(block_size)),
                q: random.tensor(tokens, heads * dim, 3.0),
                k: random.tensor(tokens, kv_heads * dim, 3.0),
                v: random.tensor(tokens, kv_heads * dim, 3.0),
            })
            .collect();
        Self {
            shape,
            kv,
            norms: norm.then(|| (random.norm(dim), random.norm(dim))),
            histories,
            frequencies: (0..dim / 2).map(|i| 0.7f32.powi(i as i32)).collect(),
        }
    }

    /// Feeds each history in chunks of its own size, all sequences side by side, and
    /// returns each sequence's attention `(tokens, heads · head_dim)`.
    fn run(&self, ops: &mut dyn Ops, chunks: &[usize]) -> Vec<Tensor> {
        let mut done = vec![0; self.histories.len()];
        let mut outputs: Vec<Vec<Tensor>> = vec![Vec::new(); done.len()];
        while done.iter().zip(&self.histories).any(|(d, h)| *d < h.tokens) {
            let mut batch = StepBatch::default();
            let mut parts = Vec::new();
            for (index, history) in self.histories.iter().enumerate() {
                let len = chunks[index].min(history.tokens - done[index]);
                if len == 0 {
                    continue;
                }
                let ids = vec![0; len];
                let size = self.kv.block_size;
                let prompt = history.tokens / 2;
                batch.push(&ids, done[index], prompt, &history.blocks, size, false);
                parts.push((index, done[index], len));
                done[index] += len;
            }
            let join = |of: fn(&History) -> &Tensor| {
                let rows: Vec<Tensor> = parts
                    .iter()
                    .map(|&(i, start, len)| of(&self.histories[i]).narrow(0, start, len).unwrap())
                    .collect();
                Tensor::cat(&rows, 0).unwrap()
            };
            let input = AttentionInput {
                // Copies: what they are joined of is needed again.
                q: &join(|h| &h.q).copy().unwrap(),
                k: &join(|h| &h.k).copy().unwrap(),
                v: &join(|h| &h.v),
                qk_norm: self.norms.as_ref(),
                rotations: &Rotations::new(&self.frequencies, &batch.positions),
                batch: &batch,
            };
            let out = ops.attend(1, &input).unwrap();
            for ((index, _, len), span) in parts.into_iter().zip(&batch.spans) {
                outputs[index].push(out.narrow(0, span.tokens.start, len).unwrap());
            }
        }
        let whole = |parts: &Vec<Tensor>| Tensor::cat(parts, 0).unwrap().contiguous().unwrap();
        outputs.iter().map(whole).collect()
    }
}

fn cases() -> impl Strategy<Value = (Case, Vec<usize>)> {
    let shape = (
        1usize..4,
        1usize..8,
        1usize..9,
        prop::option::of(1usize..40),
    );
    let lengths = prop::collection::vec((1usize..90, 1usize..90), 1..4);
    (shape, lengths, any::<bool>(), any::<bool>(), any::<u64>()).prop_map(
        |((kv_heads, group, half_dim, window), lengths, wide, norm, seed)| {
            let shape = AttentionShape {
                heads: kv_heads * group,
                kv_heads,
                head_dim: 2 * half_dim,
                window,
            };
            let (lengths, chunks): (Vec<_>, Vec<_>) = lengths.into_iter().unzip();
            let size = if wide { 32 } else { 16 };
            (Case::new(shape, size, &lengths, norm, seed), chunks)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn attention_agrees_with_the_reference((case, chunks) in cases()) {
        for (dtype, tolerance) in [(KvDtype::F32, 1e-4), (KvDtype::F16, 1e-2), (KvDtype::Bf16, 1e-1)] {
            let mut cpu = CpuOps::new(case.shape, case.kv, dtype).unwrap();
            let mut reference = ReferenceOps::new(case.shape, case.kv, dtype, &Device::Cpu).unwrap();
            let (a, b) = (case.run(&mut cpu, &chunks), case.run(&mut reference, &chunks));
            for (a, b) in a.iter().zip(&b) {
                let off = greatest_difference(a, b);
                prop_assert!(off < tolerance, "{dtype:?}: {off}");
            }
        }
    }

    /// Bit for bit: a token's attention does not depend on chunks or on neighbours.
    #[test]
    fn attention_does_not_depend_on_the_batch((case, chunks) in cases()) {
        let mut ops = CpuOps::new(case.shape, case.kv, KvDtype::F16).unwrap();
        let chunked = case.run(&mut ops, &chunks);
        let mut ops = CpuOps::new(case.shape, case.kv, KvDtype::F16).unwrap();
        let whole = case.run(&mut ops, &vec![usize::MAX; chunks.len()]);
        for (a, b) in chunked.iter().zip(&whole) {
            prop_assert_eq!(bits(a), bits(b));
        }
    }

    #[test]
    fn norms_and_gates_agree_with_the_reference(rows in 1usize..40, width in 1usize..700, seed in any::<u64>()) {
        let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 2, window: None };
        let kv = KvShape { layers: 1, blocks: 1, block_size: 16 };
        let cpu = CpuOps::new(shape, kv, KvDtype::F32).unwrap();
        let reference = ReferenceOps::new(shape, kv, KvDtype::F32, &Device::Cpu).unwrap();
        let mut random = Random(ChaCha8Rng::seed_from_u64(seed));
        let (x, y) = (random.tensor(rows, width, 4.0), random.tensor(rows, width, 4.0));
        let norm = random.norm(width);
        for delta in [None, Some(&y)] {
            let a = cpu.add_norm(x.copy().unwrap(), delta, &norm).unwrap();
            let b = reference.add_norm(x.clone(), delta, &norm).unwrap();
            prop_assert!(greatest_difference(&a.0, &b.0) == 0.0);
            prop_assert!(greatest_difference(&a.1, &b.1) < 1e-5);
        }
        let a = cpu.silu_mul(x.copy().unwrap(), &y).unwrap();
        let b = reference.silu_mul(x, &y).unwrap();
        prop_assert!(greatest_difference(&a, &b) < 1e-5);
    }
}

/// Another sequence's NaN in a reused block must not reach this one.
#[test]
fn what_a_block_held_before_is_not_seen() {
    let shape = AttentionShape {
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        window: None,
    };
    let clean = Case::new(shape, 16, &[5], false, 1);
    let mut dirty = Case::new(shape, 16, &[16], false, 2);
    dirty.histories[0].blocks = clean.histories[0].blocks.clone();
    let nan = |t: &Tensor| t.affine(f64::NAN, 0.0).unwrap();
    dirty.histories[0].k = nan(&dirty.histories[0].k);
    dirty.histories[0].v = nan(&dirty.histories[0].v);
    let mut ops = CpuOps::new(shape, clean.kv, KvDtype::F16).unwrap();
    let expected = clean.run(&mut ops, &[16]);
    dirty.run(&mut ops, &[16]);
    let after = clean.run(&mut ops, &[3]);
    assert_eq!(bits(&expected[0]), bits(&after[0]));
}
