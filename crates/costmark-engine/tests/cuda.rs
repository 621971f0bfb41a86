//! The engine on a GPU against the engine on the CPU. Without a GPU each test says that it was
//! skipped and passes: what can be checked without one is in `cuda_kernels.rs`.
#![cfg(feature = "cuda")]
// clippy lets tests unwrap and print, but not the helpers they share.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod support;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use costmark_core::{Backend, Event, MonotonicClock, Replica, Replicas, Sampling};
use costmark_engine::batch::StepBatch;
use costmark_engine::ops::cuda::CudaOps;
use costmark_engine::ops::reference::ReferenceOps;
use costmark_engine::ops::{AttentionInput, AttentionShape, KvShape, Norm, Ops};
use costmark_engine::sampler::{Draw, Sampler};
use costmark_engine::{
    Checkpoint, Decoder, DeviceChoice, EngineBackend, EngineCore, EngineOptions, FormatChoice,
    KvDtype, OpenOptions, TensorFormat, builtin, device, gpu_peaks,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use support::engine::{distance, run};
use support::{drain, golden_path, greedy_request, output};

fn gpu() -> Option<Device> {
    match device::open(DeviceChoice::Cuda(0)) {
        Ok(device) => Some(device),
        Err(error) => {
            eprintln!("skipped, no GPU: {error}");
            None
        }
    }
}

fn random(rng: &mut ChaCha8Rng, rows: usize, width: usize, spread: f32) -> Tensor {
    let values = (0..rows * width).map(|_| spread * (rng.random::<f32>() * 2.0 - 1.0));
    Tensor::from_vec(values.collect::<Vec<_>>(), (rows, width), &Device::Cpu).unwrap()
}

fn host(tensor: &Tensor) -> Vec<f32> {
    tensor
        .to_device(&Device::Cpu)
        .and_then(|t| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1())
        .unwrap()
}

#[derive(Debug, Clone)]
struct Shapes {
    head_dim: usize,
    kv_heads: usize,
    group: usize,
    block_size: usize,
    window: Option<usize>,
    norm: bool,
    /// Tokens of each sequence before the step, and in it.
    spans: Vec<(usize, usize)>,
    seed: u64,
}

fn shapes() -> impl Strategy<Value = Shapes> {
    let dims = prop::sample::select(vec![16usize, 64, 80, 96, 128, 256]);
    let groups = prop::sample::select(vec![1usize, 2, 4, 7, 8, 20]);
    let spans = prop::collection::vec((0usize..600, prop_oneof![Just(1usize), 2usize..90]), 1..6);
    (
        dims,
        1usize..4,
        groups,
        prop::sample::select(vec![16usize, 32]),
        prop::option::of(1usize..300),
        any::<bool>(),
        spans,
        any::<u64>(),
    )
        .prop_map(
            |(head_dim, kv_heads, group, block_size, window, norm, spans, seed)| Shapes {
                head_dim,
                kv_heads,
                group,
                block_size,
                window,
                norm,
                spans,
                seed,
            },
        )
}

/// Fills the cache with each sequence's context, then compares one step.
fn compare_attention(s: &Shapes, gpu: &Device) {
    let shape = AttentionShape {
        heads: s.kv_heads * s.group,
        kv_heads: s.kv_heads,
        head_dim: s.head_dim,
        window: s.window,
    };
    let blocks_of = |(context, new): (usize, usize)| (context + new).div_ceil(s.block_size);
    let kv = KvShape {
        layers: 1,
        blocks: s.spans.iter().map(|&span| blocks_of(span)).sum::<usize>() + 2,
        block_size: s.block_size,
    };
    let mut rng = ChaCha8Rng::seed_from_u64(s.seed);
    let mut ids: Vec<u32> = (0..kv.blocks as u32).collect();
    ids.shuffle(&mut rng);
    let tables: Vec<Vec<u32>> = s
        .spans
        .iter()
        .map(|&span| ids.split_off(ids.len() - blocks_of(span)))
        .collect();
    let frequencies: Vec<f32> = (0..s.head_dim / 2).map(|i| 0.7f32.powi(i as i32)).collect();
    let mut there = CudaOps::new(shape, kv, KvDtype::F16, DType::F32, gpu).unwrap();
    let mut here = ReferenceOps::new(shape, kv, KvDtype::F16, &Device::Cpu).unwrap();
    let norm = |rng: &mut ChaCha8Rng| Norm {
        weight: random(rng, 1, s.head_dim, 1.0).flatten_all().unwrap(),
        eps: 1e-6,
    };
    let norms = s.norm.then(|| (norm(&mut rng), norm(&mut rng)));
    let on_gpu = |norm: &Norm| Norm {
        weight: norm.weight.to_device(gpu).unwrap(),
        eps: norm.eps,
    };
    let gpu_norms = norms.as_ref().map(|(q, k)| (on_gpu(q), on_gpu(k)));
    for is_context in [true, false] {
        let mut batch = StepBatch::default();
        for (&(context, new), table) in s.spans.iter().zip(&tables) {
            let (start, len) = if is_context {
                (0, context)
            } else {
                (context, new)
            };
            if len > 0 {
                batch.push(&vec![0; len], start, usize::MAX, table, s.block_size, false);
            }
        }
        let tokens = batch.tokens();
        if tokens == 0 {
            continue;
        }
        let q = random(&mut rng, tokens, shape.heads * s.head_dim, 3.0);
        let k = random(&mut rng, tokens, s.kv_heads * s.head_dim, 3.0);
        let v = random(&mut rng, tokens, s.kv_heads * s.head_dim, 3.0);
        // Copied before the plain path, which may overwrite what it is given.
        let move_there = |t: &Tensor| t.to_device(gpu).unwrap();
        // As one product leaves them.
        let all = move_there(&Tensor::cat(&[&q, &k, &v], 1).unwrap());
        let columns = |before: &[&Tensor], of: &Tensor| {
            let first = before.iter().map(|t| t.dims()[1]).sum();
            all.narrow(1, first, of.dims()[1]).unwrap()
        };
        let (gpu_q, gpu_k) = (columns(&[], &q), columns(&[&q], &k));
        let gpu_v = columns(&[&q, &k], &v);
        let rotations = here.begin(&batch, &frequencies).unwrap();
        let expected = here
            .attend(
                0,
                &AttentionInput {
                    q: &q,
                    k: &k,
                    v: &v,
                    qk_norm: norms.as_ref(),
                    rotations: &rotations,
                    batch: &batch,
                },
            )
            .unwrap();
        let rotations = there.begin(&batch, &frequencies).unwrap();
        let out = there
            .attend(
                0,
                &AttentionInput {
                    q: &gpu_q,
                    k: &gpu_k,
                    v: &gpu_v,
                    qk_norm: gpu_norms.as_ref(),
                    rotations: &rotations,
                    batch: &batch,
                },
            )
            .unwrap();
        // Queries and weights are rounded to 11 bits; scores may be in the tens.
        let off = distance(&host(&out), &host(&expected));
        assert!(off < 3e-2, "off by {off}");
    }
}

#[test]
fn attention_agrees_with_the_plain_path() {
    let Some(gpu) = gpu() else { return };
    let mut runner = TestRunner::new(ProptestConfig::with_cases(40));
    runner
        .run(&shapes(), |shapes| {
            compare_attention(&shapes, &gpu);
            Ok(())
        })
        .unwrap();
}

#[test]
fn small_operations_agree_with_the_plain_path() {
    let Some(gpu) = gpu() else { return };
    let shape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        window: None,
    };
    let kv = KvShape {
        layers: 1,
        blocks: 1,
        block_size: 16,
    };
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let here = ReferenceOps::new(shape, kv, KvDtype::F16, &Device::Cpu).unwrap();
    let there = CudaOps::new(shape, kv, KvDtype::F16, DType::F32, &gpu).unwrap();
    for (rows, width) in [(1, 64), (3, 4096), (200, 896)] {
        let (a, b) = (
            random(&mut rng, rows, width, 2.0),
            random(&mut rng, rows, width, 2.0),
        );
        let norm = Norm {
            weight: random(&mut rng, 1, width, 1.0).flatten_all().unwrap(),
            eps: 1e-5,
        };
        let move_there = |t: &Tensor| t.to_device(&gpu).unwrap();
        let gpu_norm = Norm {
            weight: move_there(&norm.weight),
            eps: norm.eps,
        };
        for delta in [None, Some(&b)] {
            let (sum, normed) = here.add_norm(a.clone(), delta, &norm).unwrap();
            let moved = delta.map(move_there);
            let (gpu_sum, gpu_normed) = there
                .add_norm(move_there(&a), moved.as_ref(), &gpu_norm)
                .unwrap();
            assert!(distance(&host(&sum), &host(&gpu_sum)) < 1e-6);
            assert!(distance(&host(&normed), &host(&gpu_normed)) < 1e-4);
        }
        let expected = here.silu_mul(a.clone(), &b).unwrap();
        let out = there.silu_mul(move_there(&a), &move_there(&b)).unwrap();
        assert!(distance(&host(&expected), &host(&out)) < 1e-5);
        // As one product leaves them.
        let both = move_there(&Tensor::cat(&[&a, &b], 1).unwrap());
        let columns = |first| both.narrow(1, first, width).unwrap();
        let out = there.silu_mul(columns(0), &columns(width)).unwrap();
        assert!(distance(&host(&expected), &host(&out)) < 1e-5);
        let samplers = || {
            (0..rows).map(|row| {
                let drawn = Sampling::Random {
                    temperature: 0.5 + row as f32,
                    top_p: 1.0,
                    top_k: 0,
                    seed: row as u64,
                };
                Sampler::new(if row % 3 == 0 {
                    &Sampling::Greedy
                } else {
                    &drawn
                })
                .unwrap()
            })
        };
        let draws: Vec<Draw> = samplers().map(|mut sampler| sampler.draw()).collect();
        let drawn = there.draws_there().unwrap().draw(&move_there(&a), &draws);
        let drawn = drawn.unwrap().into_iter().zip(samplers());
        for (row, (found, mut sampler)) in host(&a).chunks(width).zip(drawn) {
            assert_eq!(sampler.sample(row), Ok(found.id));
            assert_eq!(found.not_finite, None);
        }
    }
}

fn options() -> EngineOptions {
    EngineOptions {
        kv_dtype: KvDtype::F16,
        kv_budget_bytes: Some(16 << 20),
        max_context: Some(128),
        ..EngineOptions::default()
    }
}

fn engine_on(path: &Path, device: &Device, options: &EngineOptions) -> EngineCore {
    let mut checkpoint = Checkpoint::open(&OpenOptions {
        device: device.clone(),
        ..OpenOptions::new(path.to_str().unwrap())
    })
    .unwrap();
    let decoder = Decoder::load(&checkpoint.config, checkpoint.weights.as_mut()).unwrap();
    EngineCore::new(decoder, options, MonotonicClock::start()).unwrap()
}

/// Every golden checkpoint that GPUs take, in chunks and together.
#[test]
fn logits_agree_with_the_cpu_engine() {
    let Some(gpu) = gpu() else { return };
    let prompts: [&[u32]; 3] = [
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        &[7],
        &[3, 1, 4, 1, 5],
    ];
    let mut compared = 0;
    for entry in std::fs::read_dir(golden_path("")).unwrap() {
        let path = entry.unwrap().path();
        let is_model = path.join("model.safetensors").is_file();
        if !is_model {
            continue;
        }
        // Of other families than the engine's, or of head sizes GPUs do not take.
        let Ok(checkpoint) = Checkpoint::open(&OpenOptions::new(path.to_str().unwrap())) else {
            continue;
        };
        if !checkpoint.config.shape.head_dim.is_multiple_of(16) {
            continue;
        }
        let here = run(&mut engine_on(&path, &Device::Cpu, &options()), &prompts, 8);
        let there = run(&mut engine_on(&path, &gpu, &options()), &prompts, 8);
        for (a, b) in here.outputs.iter().zip(&there.outputs) {
            // Up to the first token that differs, which near ties may.
            for (index, (x, y)) in a.logits.iter().zip(&b.logits).enumerate() {
                let size = x.iter().fold(1f32, |most, v| most.max(v.abs()));
                let off = distance(x, y) / size;
                // Weights in 16 bits are multiplied with activations in 16 bits.
                assert!(off < 3e-2, "{}: off by {off}", path.display());
                if a.tokens[index] != b.tokens[index] {
                    break;
                }
            }
        }
        compared += 1;
    }
    assert!(compared > 0, "no golden checkpoint was compared");
}

fn synthetic(format: TensorFormat, device: &Device, options: &EngineOptions) -> EngineCore {
    let config = builtin::find("qwen3-0.6b").unwrap().unwrap();
    let mut checkpoint = Checkpoint::synthetic(config, FormatChoice::All(format), 1, device);
    let decoder = Decoder::load(&checkpoint.config, checkpoint.weights.as_mut()).unwrap();
    EngineCore::new(decoder, options, MonotonicClock::start()).unwrap()
}

/// Float and quantised weights of a real shape decode without an error.
#[test]
fn formats_run() {
    let Some(gpu) = gpu() else { return };
    for format in [
        TensorFormat::BF16,
        TensorFormat::F16,
        TensorFormat::Q8_0,
        TensorFormat::Q4K,
        TensorFormat::Q6K,
    ] {
        let mut core = synthetic(format, &gpu, &options());
        let outputs = run(&mut core, &[&[1, 2, 3], &[4, 5, 6, 7]], 4).outputs;
        assert!(outputs.iter().all(|o| o.tokens.len() == 4), "{format}");
    }
}

/// Engines on these devices that serve one queue, each one sequence at a time: what a step computes
/// then does not depend on who else asks, and equal GPUs compute it to the bit.
fn one_at_a_time(devices: Vec<Device>) -> Replicas {
    let clock = MonotonicClock::start();
    let path = golden_path("qwen3");
    let engines = devices.into_iter().map(|device| -> Box<dyn Replica> {
        let checkpoint = Checkpoint::open(&OpenOptions {
            device,
            ..OpenOptions::new(path.to_str().unwrap())
        });
        let options = EngineOptions {
            max_sequences: 1,
            prefix_cache: false,
            ..options()
        };
        Box::new(EngineBackend::open(checkpoint.unwrap(), &options, clock).unwrap())
    });
    Replicas::new(engines.collect(), "GPUs".into()).unwrap()
}

/// On two GPUs where there are two, otherwise on the only one.
#[test]
fn two_engines_say_what_one_says() {
    let Some(first) = gpu() else { return };
    let second = device::open(DeviceChoice::Cuda(1)).unwrap_or_else(|_| {
        eprintln!("one device: both engines run on it");
        gpu().unwrap()
    });
    let mut said = Vec::new();
    for devices in [vec![first.clone()], vec![first, second]] {
        let replicas = devices.len();
        let mut backend = one_at_a_time(devices);
        for id in 0..18u64 {
            let prompt: Vec<u32> = (0..3 + id % 7)
                .map(|i| ((id * 31 + i * 7) % 97) as u32)
                .collect();
            let request = greedy_request(id, &prompt, 4 + (id % 5) as usize * 3);
            backend.submit(request).unwrap();
        }
        let events = drain(&mut backend);
        let served: std::collections::BTreeSet<u32> = events
            .iter()
            .filter_map(|event| match event {
                Event::Step(step) => Some(step.replica),
                _ => None,
            })
            .collect();
        assert_eq!(served.len(), replicas, "each serves some");
        said.push((0..18).map(|id| output(&events, id)).collect::<Vec<_>>());
    }
    assert_eq!(said[0], said[1]);
}

/// 8-bit products are right where the GPU has them, and refused with the reason where not.
#[test]
fn products_of_8_bit_floats_are_checked() {
    let Some(gpu) = gpu() else { return };
    match gpu_peaks::fp8_flops(&gpu) {
        Ok(rates) => assert!(rates.iter().all(|&rate| rate > 1e12), "{rates:?}"),
        Err(error) => assert!(error.to_string().contains("8.9"), "{error}"),
    }
}

#[test]
fn ten_thousand_steps_claim_no_more_memory() {
    let Some(gpu) = gpu() else { return };
    let options = EngineOptions {
        max_sequences: 4,
        kv_budget_bytes: Some(512 << 20),
        max_context: Some(1024),
        ..options()
    };
    let mut core = synthetic(TensorFormat::BF16, &gpu, &options);
    let mut steps = 0;
    let mut settled = None;
    for id in 0.. {
        core.add_request(&greedy_request(id, &[1, 2, 3], 500))
            .unwrap();
        let mut events = Vec::new();
        while !core.is_idle() {
            core.step(&mut events).unwrap();
        }
        steps += events
            .iter()
            .filter(|event| matches!(event, Event::Step(_)))
            .count();
        let free = device::available_bytes(&gpu).unwrap();
        let settled = *settled.get_or_insert(free);
        // Other programs may come and go; a leak of 10 KB per step would be 100 MB.
        assert!(
            free + (64 << 20) > settled,
            "{settled} free bytes became {free}"
        );
        if steps >= 10_000 {
            return;
        }
    }
}

#[test]
fn a_cache_that_does_not_fit_names_the_budget() {
    let Some(gpu) = gpu() else { return };
    let config = builtin::find("qwen3-0.6b").unwrap().unwrap();
    let format = FormatChoice::All(TensorFormat::BF16);
    let mut checkpoint = Checkpoint::synthetic(config, format, 1, &gpu);
    let decoder = Decoder::load(&checkpoint.config, checkpoint.weights.as_mut()).unwrap();
    let options = EngineOptions {
        kv_budget_bytes: device::gpu_memory_bytes(&gpu).map(|bytes| 2 * bytes),
        ..options()
    };
    let Err(error) = EngineCore::new(decoder, &options, MonotonicClock::start()) else {
        panic!("a cache twice the GPU's memory was claimed");
    };
    assert!(error.is_input());
    assert!(error.to_string().contains("--kv-budget"), "{error}");
}
