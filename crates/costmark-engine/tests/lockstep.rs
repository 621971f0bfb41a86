//! The lockstep backend against golden outputs, and its contract as a backend.

// clippy lets tests unwrap, but not the helpers they share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use costmark_core::{
    Backend, BackendKind, ErrorClass, Event, FinishReason, MonotonicClock, StepRecord,
};
use costmark_engine::lockstep::{
    LockstepBackend, LockstepModel, LockstepOptions, Reference, SyntheticConfig,
};
use costmark_engine::{FormatChoice, OpenOptions, TensorFormat, WeightChoice};
use support::{cases, copy, drain, golden_path, greedy_request, output, with_transformers4_config};

/// Families whose arithmetic candle-transformers shares with the published model.
const FAITHFUL: [&str; 9] = [
    "llama",
    "llama3",
    "llama-bf16",
    "qwen2",
    "qwen2-f16",
    "qwen3",
    "phi3",
    "gemma2",
    "gemma3",
];

fn options(model: LockstepModel) -> LockstepOptions {
    LockstepOptions {
        fill_wait_ns: 200_000_000,
        ..LockstepOptions::new(model, "tiny", "test")
    }
}

fn start(model: LockstepModel, batch_size: u32) -> LockstepBackend {
    let options = LockstepOptions {
        batch_size,
        ..options(model)
    };
    LockstepBackend::start(options, MonotonicClock::start()).unwrap()
}

fn folder(path: &Path) -> LockstepModel {
    LockstepModel::Folder(path.to_path_buf())
}

fn fails(model: LockstepModel) -> String {
    match LockstepBackend::start(options(model), MonotonicClock::start()) {
        Ok(_) => panic!("the model was loaded"),
        Err(error) => {
            assert!(error.is_input(), "{error}");
            error.to_string()
        }
    }
}

fn steps(events: &[Event]) -> Vec<StepRecord> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Step(step) => Some(*step),
            _ => None,
        })
        .collect()
}

#[test]
fn greedy_output_is_the_golden_one_alone_and_in_a_batch() {
    for name in FAITHFUL {
        let mut backend = start(folder(&golden_path(name)), 3);
        for case in cases(&format!("{name}/golden")) {
            // Three requests of one batch end after 13, 1 and 5 tokens.
            let lengths = [case.greedy.len(), 1, 5];
            for (id, &n) in lengths.iter().enumerate() {
                let request = greedy_request(id as u64, &case.prompt, n);
                backend.submit(request).unwrap();
            }
            let events = drain(&mut backend);
            for (id, &n) in lengths.iter().enumerate() {
                assert_eq!(output(&events, id as u64), case.greedy[..n], "{name}");
            }
            assert_eq!(steps(&events).len(), case.greedy.len(), "one batch");
        }
    }
}

#[test]
fn configurations_of_transformers_4_mean_the_same() {
    for name in FAITHFUL {
        let copy = with_transformers4_config(name);
        let mut backend = start(folder(copy.path()), 1);
        let case = &cases(&format!("{name}/golden"))[2];
        backend
            .submit(greedy_request(0, &case.prompt, case.greedy.len()))
            .unwrap();
        assert_eq!(output(&drain(&mut backend), 0), case.greedy, "{name}");
    }
}

#[test]
fn mistral_agrees_within_its_window_and_says_that_it_deviates_beyond() {
    let mut backend = start(folder(&golden_path("mistral")), 1);
    assert!(
        backend.info().notes.iter().any(|n| n.contains("window")),
        "{:?}",
        backend.info().notes
    );
    let case = &cases("mistral/golden")[0];
    assert_eq!(case.prompt.len(), 1);
    // The window of 11 covers a prompt of one token and ten that were fed back.
    backend.submit(greedy_request(0, &case.prompt, 11)).unwrap();
    assert_eq!(output(&drain(&mut backend), 0), case.greedy[..11]);
}

#[test]
fn gguf_of_qwen3_gives_the_golden_output() {
    let mut backend = start(LockstepModel::Gguf(golden_path("gguf/qwen3-f16.gguf")), 8);
    assert_eq!(backend.info().max_sequences, 1);
    assert_eq!(backend.info().weight_dtype, "f32");
    for (id, case) in (0..).zip(cases("gguf/qwen3-f16")) {
        backend
            .submit(greedy_request(id, &case.prompt, case.greedy.len()))
            .unwrap();
        assert_eq!(output(&drain(&mut backend), id), case.greedy);
    }
}

#[test]
fn a_quantised_gguf_runs_one_sequence_at_a_time() {
    let model = LockstepModel::Gguf(golden_path("gguf/llama-q8_0.gguf"));
    let mut reference = Reference::load(&options(model.clone())).unwrap();
    let mut backend = start(model, 2);
    assert_eq!(backend.info().weight_dtype, "q8_0");
    assert_eq!(backend.info().max_sequences, 1);
    for case in cases("gguf/llama-q8_0") {
        for id in 0..2 {
            let request = greedy_request(id, &case.prompt, case.greedy.len());
            backend.submit(request).unwrap();
        }
        let events = drain(&mut backend);
        let (first, second) = (output(&events, 0), output(&events, 1));
        assert_eq!(first, second);
        // With the cache it continues as without one.
        let mut tokens = case.prompt.clone();
        for token in first {
            let logits = reference.logits(&tokens).unwrap();
            let best = logits.iter().copied().fold(f32::MIN, f32::max);
            assert!(logits[token as usize] > best - 1e-2);
            tokens.push(token);
        }
    }
}

#[test]
fn a_file_whose_rotary_factors_are_ignored_is_noted() {
    let backend = start(LockstepModel::Gguf(golden_path("gguf/llama3-f16.gguf")), 1);
    assert!(
        backend.info().notes.iter().any(|n| n.contains("rotary")),
        "{:?}",
        backend.info().notes
    );
}

#[test]
fn synthetic_weights_of_every_architecture_depend_on_the_seed_alone() {
    for name in [
        "llama3", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3",
    ] {
        let config_json = std::fs::read_to_string(golden_path(name).join("config.json")).unwrap();
        let logits = |seed| {
            let config = SyntheticConfig::Json(config_json.clone());
            let model = options(LockstepModel::Synthetic { config, seed });
            Reference::load(&model).unwrap().logits(&[5, 6, 7]).unwrap()
        };
        assert_eq!(logits(1), logits(1), "{name}");
        assert_ne!(logits(1), logits(2), "{name}");
        let backend = start(
            LockstepModel::Synthetic {
                config: SyntheticConfig::Json(config_json.clone()),
                seed: 1,
            },
            1,
        );
        assert!(backend.info().synthetic);
    }
}

#[test]
fn the_step_log_counts_live_sequences_and_covers_the_events() {
    let mut backend = start(folder(&golden_path("llama")), 2);
    let info = backend.info().clone();
    assert_eq!(info.kind, BackendKind::Lockstep);
    // Every parameter of the checkpoint in f32.
    let shape = info.shape.unwrap();
    assert_eq!(info.weight_bytes, 4 * shape.params());
    backend.submit(greedy_request(0, &[3; 10], 4)).unwrap();
    backend.submit(greedy_request(1, &[4; 10], 2)).unwrap();
    let events = drain(&mut backend);
    let steps = steps(&events);
    let counts: Vec<_> = steps
        .iter()
        .map(|s| (s.prefill.tokens, s.decode.tokens, s.decode.kv_tokens_read))
        .collect();
    assert_eq!(counts, [(20, 0, 0), (0, 2, 22), (0, 1, 12), (0, 1, 13)]);
    let work = info.work.unwrap();
    for (index, step) in steps.iter().enumerate() {
        assert_eq!(step.index, index as u64);
        assert_eq!(step.bytes, work.step(&step.prefill, &step.decode).bytes);
        let parts = step.schedule_ns + step.forward_ns + step.sample_ns;
        assert_eq!(parts, step.duration_ns());
    }
    for event in &events {
        if let Event::Tokens(token) = event {
            assert!(steps.iter().any(|s| s.end_ns == token.at_ns));
        }
    }
    let ended: HashMap<_, _> = events
        .iter()
        .filter_map(|event| match event {
            Event::Finished { request, usage, .. } => Some((*request, *usage)),
            _ => None,
        })
        .collect();
    assert_eq!(ended[&0].output_tokens, 4);
    assert_eq!((ended[&1].input_tokens, ended[&1].output_tokens), (10, 2));
}

#[test]
fn prompts_of_other_lengths_wait_for_the_whole_batch() {
    let mut backend = start(folder(&golden_path("llama")), 4);
    for (id, len) in [(0, 5), (1, 7), (2, 5)] {
        backend
            .submit(greedy_request(id, &vec![3; len], 6))
            .unwrap();
    }
    let events = drain(&mut backend);
    let instant = |id, last: bool| {
        let mut instants = events.iter().filter_map(|event| match event {
            Event::Tokens(t) if t.request == id => Some(t.at_ns),
            _ => None,
        });
        if last {
            instants.next_back()
        } else {
            instants.next()
        }
    };
    assert_eq!(instant(0, true), instant(2, true), "one batch");
    assert!(instant(1, false) > instant(0, true));
}

#[test]
fn a_sequence_stops_at_the_end_token_only_when_asked_to() {
    let copy = copy("llama");
    let case = &cases("llama/golden")[1];
    // Make the fourth golden token the end of sequence.
    let position = case
        .greedy
        .iter()
        .position(|&t| t == case.greedy[3])
        .unwrap();
    let json = format!("{{\"eos_token_id\": [{}]}}", case.greedy[3]);
    std::fs::write(copy.path().join("generation_config.json"), json).unwrap();
    let mut backend = start(folder(copy.path()), 1);
    let mut request = greedy_request(0, &case.prompt, 13);
    request.ignore_eos = false;
    backend.submit(request).unwrap();
    let events = drain(&mut backend);
    let Some(Event::Finished { reason, usage, .. }) =
        events.iter().find(|e| matches!(e, Event::Finished { .. }))
    else {
        panic!("did not finish");
    };
    assert_eq!(*reason, FinishReason::Stop);
    assert_eq!(usage.output_tokens as usize, position + 1);
}

#[test]
fn cancelled_requests_end_once_waiting_or_running() {
    let mut backend = start(folder(&golden_path("llama")), 1);
    backend.submit(greedy_request(0, &[3; 10], 200)).unwrap();
    backend.submit(greedy_request(1, &[3; 10], 3)).unwrap();
    backend.submit(greedy_request(2, &[3; 10], 3)).unwrap();
    backend.cancel(1);
    let mut events = Vec::new();
    while !events.iter().any(|e| matches!(e, Event::Tokens(_))) {
        backend.poll(None, &mut events).unwrap();
    }
    backend.cancel(0);
    backend.cancel(99);
    events.extend(drain(&mut backend));
    assert_eq!(output(&events, 2).len(), 3);
    for id in [0, 1] {
        let ends = events
            .iter()
            .filter(|e| {
                matches!(e, Event::Finished { request, reason: FinishReason::Cancelled, .. }
                    if *request == id)
            })
            .count();
        assert_eq!(ends, 1, "request {id}");
    }
}

#[test]
fn requests_that_cannot_be_served_are_rejected() {
    let mut options = options(folder(&golden_path("llama")));
    options.max_context = Some(32);
    let mut backend = LockstepBackend::start(options, MonotonicClock::start()).unwrap();
    assert_eq!(backend.info().max_context, 32);
    backend.submit(greedy_request(0, &[], 4)).unwrap();
    backend.submit(greedy_request(1, &[500], 4)).unwrap();
    backend.submit(greedy_request(2, &[3; 30], 3)).unwrap();
    backend.submit(greedy_request(3, &[3; 30], 2)).unwrap();
    let events = drain(&mut backend);
    for (id, word) in [(0, "at least one"), (1, "vocabulary"), (2, "--max-context")] {
        let error = events
            .iter()
            .find_map(|event| match event {
                Event::Failed { request, error, .. } if *request == id => Some(error.clone()),
                _ => None,
            })
            .unwrap();
        assert_eq!(error.class, ErrorClass::Rejected);
        assert!(error.message.contains(word), "{error}");
    }
    assert_eq!(output(&events, 3).len(), 2);
}

#[test]
fn an_idle_backend_waits_until_the_deadline() {
    let mut backend = start(folder(&golden_path("llama")), 1);
    let mut events = Vec::new();
    backend.poll(None, &mut events).unwrap();
    let until_ns = backend.now_ns() + 20_000_000;
    backend.poll(Some(until_ns), &mut events).unwrap();
    assert!(events.is_empty());
    assert!(backend.now_ns() >= until_ns);
}

/// The tensors of a copied checkpoint, changed.
fn rewrite(folder: &Path, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let file = folder.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, &file).unwrap();
}

#[test]
fn damaged_weights_fail_the_request_and_not_the_backend() {
    let copy = copy("llama");
    rewrite(copy.path(), |tensors| {
        let nan = Tensor::full(f32::NAN, 64, &Device::Cpu).unwrap();
        tensors.insert("model.norm.weight".into(), nan);
    });
    let mut backend = start(folder(copy.path()), 2);
    for id in 0..2 {
        backend.submit(greedy_request(id, &[3, 4], 4)).unwrap();
        let events = drain(&mut backend);
        assert!(
            events
                .iter()
                .any(|event| matches!(event, Event::Failed { error, .. }
            if error.class == ErrorClass::NonFiniteLogits))
        );
    }
}

#[test]
fn bad_checkpoints_are_named() {
    for name in ["llama", "qwen3"] {
        let missing = copy(name);
        rewrite(missing.path(), |tensors| {
            tensors.remove("model.layers.1.mlp.up_proj.weight");
        });
        let message = fails(folder(missing.path()));
        assert!(message.contains("model.layers.1.mlp.up_proj"), "{message}");
        assert!(
            message.contains(missing.path().to_str().unwrap()),
            "{message}"
        );

        let shape = copy(name);
        rewrite(shape.path(), |tensors| {
            let wrong = Tensor::zeros((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
            tensors.insert("model.layers.1.self_attn.q_proj.weight".into(), wrong);
        });
        let message = fails(folder(shape.path()));
        assert!(message.contains("self_attn.q_proj"), "{message}");
    }

    let truncated = copy("llama");
    let file = truncated.path().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let message = fails(folder(truncated.path()));
    assert!(message.contains("safetensors"), "{message}");

    let empty = tempfile::tempdir().unwrap();
    assert!(fails(folder(empty.path())).contains("config.json"));

    let unknown = copy("llama");
    let config = r#"{"architectures": ["MambaForCausalLM"]}"#;
    std::fs::write(unknown.path().join("config.json"), config).unwrap();
    let message = fails(folder(unknown.path()));
    assert!(
        message.contains("MambaForCausalLM") && message.contains("Phi3ForCausalLM"),
        "{message}"
    );

    let cut = tempfile::NamedTempFile::new().unwrap();
    let bytes = std::fs::read(golden_path("gguf/llama-q8_0.gguf")).unwrap();
    for len in [0, 3, 100, bytes.len() / 2] {
        std::fs::write(cut.path(), &bytes[..len]).unwrap();
        let message = fails(LockstepModel::Gguf(cut.path().to_path_buf()));
        assert!(message.contains(cut.path().to_str().unwrap()), "{message}");
    }
}

#[test]
fn models_are_found_as_the_user_names_them() {
    let find = |open: OpenOptions| LockstepOptions::find(&open);
    let path = golden_path("phi3");
    let open = OpenOptions::new(path.to_str().unwrap());
    let found = find(open.clone()).unwrap();
    assert_eq!(found.model, LockstepModel::Folder(path.clone()));
    assert_eq!(found.name, "phi3");
    // An architecture the engine does not have, with random weights.
    let synthetic = find(OpenOptions {
        weights: WeightChoice::Synthetic { seed: 3 },
        ..open.clone()
    })
    .unwrap();
    assert!(matches!(
        synthetic.model,
        LockstepModel::Synthetic { seed: 3, .. }
    ));
    let shape = find(OpenOptions {
        weights: WeightChoice::Synthetic { seed: 3 },
        ..OpenOptions::new("qwen3-0.6b")
    })
    .unwrap();
    assert!(matches!(
        shape.model,
        LockstepModel::Synthetic {
            config: SyntheticConfig::Parsed(_),
            ..
        }
    ));
    let refused = |open| find(open).err().unwrap().to_string();
    assert!(refused(OpenOptions::new("qwen3-0.6b")).contains("synthetic"));
    let quantised = OpenOptions {
        format: FormatChoice::All(TensorFormat::Q8_0),
        ..open
    };
    assert!(refused(quantised).contains("--quantize"));
}
