use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use costmark_core::Sampling;

use super::*;
use crate::config::Family;
use crate::ops::{AttentionInput, Drawn, DrawsThere, Norm};
use crate::options::KvDtype;
use crate::sampler::Draw;
use crate::test_model::{self, RandomWeights};

fn request(id: u64, prompt: Vec<u32>, max_tokens: u32) -> Request {
    Request {
        id,
        prompt,
        max_tokens,
        ignore_eos: true,
        sampling: Sampling::Greedy,
        logprobs: None,
    }
}

/// Prompts of different lengths; the last two begin alike.
fn prompts() -> Vec<Vec<u32>> {
    let make = |seed: u32, len: u32| (0..len).map(|i| (seed * 31 + i * i * 7 + i) % 97).collect();
    let mut prompts: Vec<Vec<u32>> = vec![make(1, 5), make(2, 1), make(3, 33), make(4, 70)];
    let mut twin = prompts[3].clone();
    twin.truncate(50);
    twin.extend([9, 8, 7]);
    prompts.push(twin);
    prompts
}

const OUTPUT: u32 = 30;

fn options() -> EngineOptions {
    EngineOptions {
        kv_dtype: KvDtype::F32,
        ..EngineOptions::default()
    }
}

fn engine(family: Family, options: &EngineOptions) -> EngineCore {
    let decoder = test_model::decoder(family);
    EngineCore::new(decoder, options, MonotonicClock::start()).unwrap()
}

#[derive(Default)]
struct Seen {
    tokens: BTreeMap<u64, Vec<u32>>,
    usage: BTreeMap<u64, (FinishReason, Usage)>,
    failed: BTreeMap<u64, RequestError>,
    logprobs: BTreeMap<u64, Vec<TokenLogprobs>>,
    steps: Vec<StepRecord>,
}

fn drain(engine: &mut EngineCore) -> Seen {
    let mut seen = Seen::default();
    let mut events = Vec::new();
    for _ in 0..5000 {
        if engine.is_idle() {
            break;
        }
        engine.step(&mut events).unwrap();
        for event in events.drain(..) {
            match event {
                Event::Tokens(t) => {
                    let token = t.token_id.unwrap();
                    seen.tokens.entry(t.request).or_default().push(token);
                }
                Event::Finished {
                    request,
                    reason,
                    usage,
                    ..
                } => {
                    seen.usage.insert(request, (reason, usage));
                }
                Event::Failed { request, error, .. } => {
                    seen.failed.insert(request, error);
                }
                Event::Step(step) => seen.steps.push(step),
                Event::Sent { .. } => panic!("sent when submitted"),
                Event::TokenRun(_) => unreachable!("the engine tells every token"),
                Event::Logprobs(told) => {
                    seen.logprobs.entry(told.request).or_default().push(*told);
                }
            }
        }
    }
    assert!(engine.is_idle(), "stuck");
    assert_eq!(engine.scheduler.blocks().used(), 0, "blocks leaked");
    seen
}

fn run_together(family: Family, options: &EngineOptions) -> Seen {
    let mut engine = engine(family, options);
    for (id, prompt) in prompts().into_iter().enumerate() {
        engine
            .add_request(&request(id as u64, prompt, OUTPUT))
            .unwrap();
    }
    drain(&mut engine)
}

fn run_alone(family: Family, options: &EngineOptions) -> BTreeMap<u64, Vec<u32>> {
    let mut engine = engine(family, options);
    let mut all = BTreeMap::new();
    for (id, prompt) in prompts().into_iter().enumerate() {
        engine
            .add_request(&request(id as u64, prompt, OUTPUT))
            .unwrap();
        all.extend(drain(&mut engine).tokens);
    }
    all
}

#[test]
fn greedy_output_does_not_depend_on_how_it_was_scheduled() {
    for family in Family::ALL {
        let base = EngineOptions {
            prefix_cache: false,
            ..options()
        };
        let alone = run_alone(family, &base);
        assert!(alone.values().all(|t| t.len() == OUTPUT as usize));
        let distinct: std::collections::BTreeSet<_> = alone.values().collect();
        assert!(
            distinct.len() > 2,
            "{family:?}: the outputs tell prompts apart"
        );

        assert_eq!(
            run_together(family, &base).tokens,
            alone,
            "{family:?} batched"
        );
        for chunk in [1, 3, 16, 64] {
            let chunked = EngineOptions {
                prefill_chunk: Some(chunk),
                ..base.clone()
            };
            let seen = run_together(family, &chunked);
            assert_eq!(seen.tokens, alone, "{family:?} chunks of {chunk}");
            assert!(seen.steps.iter().any(StepRecord::is_mixed));
        }
        let budget = EngineOptions {
            max_batched_tokens: 16,
            ..base.clone()
        };
        assert_eq!(
            run_together(family, &budget).tokens,
            alone,
            "{family:?} budget"
        );

        let bytes = test_model::config(family).shape.kv_values_per_token() * 4;
        for prefix_cache in [false, true] {
            let tiny = EngineOptions {
                kv_budget_bytes: Some(bytes * 16 * 8),
                prefix_cache,
                ..base.clone()
            };
            let seen = run_together(family, &tiny);
            assert_eq!(seen.tokens, alone, "{family:?} preempted");
            let preempted: u32 = seen.steps.iter().map(|s| s.preempted).sum();
            assert!(preempted > 0, "{family:?}: the case was met");
        }

        let shared = run_alone(family, &options());
        assert_eq!(shared, alone, "{family:?} prefix shared");
    }
}

#[test]
fn a_shared_prefix_is_counted() {
    let mut engine = engine(Family::Qwen3, &options());
    let prompts = prompts();
    engine
        .add_request(&request(0, prompts[3].clone(), 2))
        .unwrap();
    drain(&mut engine);
    engine
        .add_request(&request(1, prompts[4].clone(), 2))
        .unwrap();
    let seen = drain(&mut engine);
    // 50 common tokens are 3 full blocks of 16.
    let (reason, usage) = seen.usage[&1];
    assert_eq!(reason, FinishReason::Length);
    assert_eq!(usage.cached_tokens, 48);
    assert_eq!((usage.input_tokens, usage.output_tokens), (53, 2));
    let first = &seen.steps[0];
    assert_eq!(first.prefill.tokens, 5);
    assert_eq!(first.prefill.cached_kv_tokens_read, 48);
    assert_eq!(first.prefill.kv_tokens_read, 53);
}

#[test]
fn half_precision_caches_stay_close() {
    let logits = |kv_dtype: KvDtype| {
        let mut engine = engine(
            Family::Llama,
            &EngineOptions {
                kv_dtype,
                ..options()
            },
        );
        let seen = Arc::new(Mutex::new(Vec::new()));
        let target = Arc::clone(&seen);
        engine.observe_logits(Box::new(move |_, _, row| {
            target.lock().unwrap().push(row.to_vec());
        }));
        engine
            .add_request(&request(0, prompts()[3].clone(), 1))
            .unwrap();
        drain(&mut engine);
        let rows = seen.lock().unwrap();
        assert_eq!(rows.len(), 1);
        rows[0].clone()
    };
    let exact = logits(KvDtype::F32);
    let scale = exact.iter().fold(0f32, |m, l| m.max(l.abs()));
    for (dtype, tolerance) in [(KvDtype::F16, 1e-3), (KvDtype::Bf16, 1e-2)] {
        let rounded = logits(dtype);
        let off = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs());
        let off = off.fold(0f32, f32::max) / scale;
        assert!(off > 0.0 && off < tolerance, "{dtype:?}: {off}");
    }
}

/// Greedy or drawn, alone or beside others: they are those of the logits as they were.
#[test]
fn log_probabilities_are_told_to_who_asks() {
    let mut engine = engine(Family::Qwen3, &options());
    let rows = Arc::new(Mutex::new(BTreeMap::new()));
    let sink = Arc::clone(&rows);
    engine.observe_logits(Box::new(move |id, index, row| {
        sink.lock().unwrap().insert((id, index), row.to_vec());
    }));
    let drawn = Sampling::Random {
        temperature: 2.5,
        top_p: 0.9,
        top_k: 50,
        seed: 4,
    };
    let asked = [
        (Sampling::Greedy, Some(3)),
        (drawn, Some(0)),
        (drawn, Some(1000)),
        (Sampling::Greedy, None),
    ];
    for (id, (sampling, logprobs)) in (0u64..).zip(asked) {
        let mut request = request(id, prompts()[id as usize].clone(), 6);
        (request.sampling, request.logprobs) = (sampling, logprobs);
        engine.add_request(&request).unwrap();
    }
    let seen = drain(&mut engine);
    assert_eq!(seen.logprobs.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    let rows = rows.lock().unwrap();
    for (id, told) in &seen.logprobs {
        let ids: Vec<u32> = told.iter().map(|t| t.token_id).collect();
        assert_eq!(ids, seen.tokens[id]);
        for (index, told) in told.iter().enumerate() {
            let row = &rows[&(*id, index)];
            let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
            let is_of = |id: u32, logprob: f32| {
                let exact = f64::from(row[id as usize]) - sum.ln();
                (f64::from(logprob) - exact).abs() < 1e-5
            };
            assert!(is_of(told.token_id, told.logprob));
            assert_eq!(told.top.len(), [3, 0, 97][*id as usize], "of 97 there are");
            assert!(told.top.iter().all(|&(id, logprob)| is_of(id, logprob)));
            assert!(told.top.windows(2).all(|two| two[0].1 >= two[1].1));
        }
    }
    let greedy = &seen.logprobs[&0];
    assert!(greedy.iter().all(|t| t.top[0] == (t.token_id, t.logprob)));
}

/// The CPU's operations, except that tokens are drawn where the logits are.
struct DrawsItself(CpuOps, Arc<Mutex<usize>>);

impl Ops for DrawsItself {
    fn add_norm(
        &self,
        residual: Tensor,
        delta: Option<&Tensor>,
        norm: &Norm,
    ) -> Result<(Tensor, Tensor)> {
        self.0.add_norm(residual, delta, norm)
    }

    fn silu_mul(&self, gate: Tensor, up: &Tensor) -> Result<Tensor> {
        self.0.silu_mul(gate, up)
    }

    fn attend(&mut self, layer: usize, input: &AttentionInput<'_>) -> Result<Tensor> {
        self.0.attend(layer, input)
    }

    fn draws_there(&self) -> Option<&dyn DrawsThere> {
        Some(self)
    }
}

impl DrawsThere for DrawsItself {
    fn draw(&self, logits: &Tensor, draws: &[Draw]) -> Result<Vec<Drawn>> {
        *self.1.lock().unwrap() += draws.len();
        let rows = logits.to_vec2::<f32>()?.into_iter().zip(draws);
        let drawn = rows.map(|(row, draw)| Drawn {
            id: draw.from(&row),
            not_finite: None,
        });
        Ok(drawn.collect())
    }
}

/// Whether rows come back or only tokens changes no token, also where it changes on the way:
/// drawn elsewhere are all tokens but those beside a request that keeps only the likeliest.
#[test]
fn tokens_drawn_elsewhere_are_the_same() {
    let drawn = |top_k| Sampling::Random {
        temperature: 2.5,
        top_p: 1.0,
        top_k,
        seed: 4,
    };
    for (short, elsewhere) in [(drawn(0), 9 + 30 + 30), (drawn(20), 21 + 21)] {
        let requests = [short, drawn(0), Sampling::Greedy].into_iter().zip(0u64..);
        let requests: Vec<Request> = requests
            .map(|(sampling, id)| Request {
                sampling,
                ..request(id, vec![5, 6, 7], if id == 0 { 9 } else { OUTPUT })
            })
            .collect();
        let tokens = |mut engine: EngineCore| {
            for request in &requests {
                engine.add_request(request).unwrap();
            }
            drain(&mut engine).tokens
        };
        let counted = Arc::new(Mutex::new(0));
        let decoder = test_model::decoder(Family::Qwen3);
        let count = Arc::clone(&counted);
        let there = EngineCore::with_ops(
            decoder,
            &options(),
            MonotonicClock::start(),
            |attention, kv| {
                let ops = CpuOps::new(attention, kv, KvDtype::F32)?;
                Ok(Box::new(DrawsItself(ops, count)))
            },
        );
        let here = tokens(engine(Family::Qwen3, &options()));
        assert_eq!(tokens(there.unwrap()), here);
        assert_ne!(here[&1], here[&2]);
        assert_eq!(*counted.lock().unwrap(), elsewhere);
    }
}

#[test]
fn step_records_add_up() {
    let seen = run_together(
        Family::Qwen2,
        &EngineOptions {
            prefix_cache: false,
            ..options()
        },
    );
    let prompt_tokens: usize = prompts().iter().map(Vec::len).sum();
    let outputs = prompts().len() as u32 * OUTPUT;
    let total = |f: fn(&StepRecord) -> u32| seen.steps.iter().map(f).sum::<u32>();
    assert_eq!(total(|s| s.prefill.tokens), prompt_tokens as u32);
    assert_eq!(
        total(|s| s.prefill.logits_rows + s.decode.logits_rows),
        outputs
    );
    // Each first token comes from prefill, each further one from one decode token.
    assert_eq!(total(|s| s.decode.tokens), outputs - prompts().len() as u32);
    for (index, step) in seen.steps.iter().enumerate() {
        assert_eq!(step.index, index as u64);
        let parts = step.schedule_ns + step.forward_ns + step.sample_ns;
        assert_eq!(parts, step.duration_ns());
        assert!(step.bytes > 0 && step.flops > 0 && step.kv_blocks_used > 0);
    }
}

/// Mistral's window of 20 tokens hides what lies before it from the count, too.
#[test]
fn a_sliding_window_is_counted() {
    let mut engine = engine(Family::Mistral, &options());
    engine
        .add_request(&request(0, prompts()[3].clone(), 2))
        .unwrap();
    let seen = drain(&mut engine);
    let decode = seen.steps[1].decode;
    assert_eq!((decode.tokens, decode.kv_tokens_read), (1, 20));
    assert_eq!(decode.attended_pairs, 20);
}

#[test]
fn weights_are_counted_as_stored() {
    let config = test_model::config(Family::Qwen2);
    let decoder = test_model::decoder(Family::Qwen2);
    assert_eq!(decoder.weight_bytes(), config.shape.params() * 4);
    assert_eq!(decoder.weight_dtype(), "f32");
    let work = decoder.work(KvDtype::F16);
    assert_eq!(work.head_weight_bytes, 97 * 32 * 4);
    assert_eq!(work.kv_bytes_per_token, 2 * 2 * 2 * 8 * 2);
}

#[test]
fn end_of_sequence_stops_unless_ignored() {
    let base = run_alone(Family::Llama, &options());
    let mut config = test_model::config(Family::Llama);
    config.eos_token_ids = vec![base[&0][4]];
    let first = base[&0].iter().position(|t| *t == base[&0][4]).unwrap();
    let decoder = Decoder::load(&config, &mut RandomWeights { poisoned: None }).unwrap();
    let mut engine = EngineCore::new(decoder, &options(), MonotonicClock::start()).unwrap();
    let mut stopping = request(0, prompts()[0].clone(), OUTPUT);
    stopping.ignore_eos = false;
    engine.add_request(&stopping).unwrap();
    engine
        .add_request(&request(1, prompts()[0].clone(), OUTPUT))
        .unwrap();
    let seen = drain(&mut engine);
    assert_eq!(seen.usage[&0].0, FinishReason::Stop);
    assert_eq!(seen.tokens[&0], base[&0][..=first]);
    assert_eq!(seen.usage[&1].0, FinishReason::Length);
    assert_eq!(seen.tokens[&1], base[&0]);
}

#[test]
fn what_cannot_be_served_is_rejected_with_the_way_out() {
    let shape = test_model::config(Family::Llama).shape;
    let mut engine = engine(
        Family::Llama,
        &EngineOptions {
            kv_budget_bytes: Some(shape.kv_values_per_token() * 4 * 32),
            ..options()
        },
    );
    let mut rejected = |prompt: Vec<u32>, n: u32| {
        let error = engine.add_request(&request(0, prompt, n)).unwrap_err();
        assert_eq!(error.class, ErrorClass::Rejected);
        error.message
    };
    assert!(rejected(vec![], 1).contains("empty"));
    assert!(rejected(vec![1], 0).contains("at least one"));
    assert!(rejected(vec![1, 97], 1).contains("id 97 is outside"));
    assert!(rejected(vec![1; 30], 3).contains("--kv-budget"));
    assert!(engine.is_idle());
    engine.add_request(&request(1, vec![1; 30], 2)).unwrap();
    assert_eq!(drain(&mut engine).tokens[&1].len(), 2);
}

#[test]
fn damaged_weights_fail_the_request_not_the_engine() {
    let mut weights = RandomWeights {
        poisoned: Some("model.layers.1.mlp.down_proj"),
    };
    let decoder = Decoder::load(&test_model::config(Family::Llama), &mut weights).unwrap();
    let mut engine = EngineCore::new(decoder, &options(), MonotonicClock::start()).unwrap();
    engine.add_request(&request(0, vec![1, 2], 3)).unwrap();
    let seen = drain(&mut engine);
    assert_eq!(seen.failed[&0].class, ErrorClass::NonFiniteLogits);
    assert!(seen.failed[&0].message.contains("NaN"));
    assert!(seen.tokens.is_empty());
}

#[test]
fn a_cancelled_request_ends_at_once() {
    let mut engine = engine(Family::Llama, &options());
    engine.add_request(&request(0, vec![1, 2, 3], 50)).unwrap();
    let mut events = Vec::new();
    engine.step(&mut events).unwrap();
    engine.step(&mut events).unwrap();
    let Some(Event::Finished { reason, usage, .. }) = engine.cancel(0) else {
        panic!("not cancelled");
    };
    assert_eq!(reason, FinishReason::Cancelled);
    assert_eq!(usage.output_tokens, 2);
    assert!(engine.cancel(0).is_none());
    assert!(engine.is_idle());
    assert_eq!(engine.scheduler.blocks().used(), 0);
}
