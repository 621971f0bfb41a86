//! `costmark model info`: what a model costs in memory and per token, without running it.

use std::fmt::Write;

use costmark_engine::memory::available_bytes;
use costmark_engine::{Checkpoint, KvDtype, ModelInfo, OpenOptions, WeightChoice};
use costmark_report::numbers::short;
use serde::Serialize;

use crate::args::InfoArgs;
use crate::failure::Result;
use crate::units::human_bytes;
use crate::{backend, output, stop};

#[derive(Serialize)]
struct Info {
    #[serde(flatten)]
    model: ModelInfo,
    /// How keys and values are counted.
    kv_dtype: &'static str,
    /// Tokens of context per sequence.
    context: u32,
    kv_bytes_per_sequence: u64,
    /// Memory that weights and sequences are fitted into.
    memory_bytes: Option<u64>,
    sequences_that_fit: Option<u64>,
}

/// Runs the command.
pub(crate) fn run(args: &InfoArgs) -> Result<()> {
    stop::install()?;
    let checkpoint = open(args)?;
    let kv = KvDtype::F16;
    let mut model = ModelInfo::of(&checkpoint, kv.bytes())?;
    if checkpoint.synthetic {
        // No weights are made here; only their size is counted.
        model.source = "configuration only".into();
        model.notes.retain(|note| !note.starts_with("synthetic"));
    }
    let memory_bytes = args.memory.map(|m| m.0).or_else(available_bytes);
    let info = Info {
        kv_dtype: kv.name(),
        context: args.context,
        kv_bytes_per_sequence: model.kv_bytes_per_token * u64::from(args.context),
        memory_bytes,
        sequences_that_fit: memory_bytes.map(|m| model.sequences_in(m, args.context.into())),
        model,
    };
    if args.json {
        output::json(&info)
    } else {
        output::text(&text(&info))
    }
}

/// Headers are enough: of a hub model only the configuration is fetched, and a built-in
/// shape needs no weights. Then what a checkpoint has is not known, and bf16 is assumed.
fn open(args: &InfoArgs) -> Result<Checkpoint> {
    let format = backend::format_choice(args.dtype.as_deref(), args.quantize.as_deref())?;
    let local = std::path::Path::new(&args.model);
    let has_weights = local.is_dir() && has_safetensors(local)
        || local
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let weights = if has_weights {
        WeightChoice::Real
    } else {
        WeightChoice::Synthetic { seed: 0 }
    };
    Ok(Checkpoint::open(&OpenOptions {
        weights,
        format,
        ..OpenOptions::new(args.model.clone())
    })?)
}

fn has_safetensors(folder: &std::path::Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let path = entry.path();
            path.extension().is_some_and(|e| e == "safetensors")
        })
    })
}

fn text(info: &Info) -> String {
    let (model, shape) = (&info.model, &info.model.shape);
    let mut text = String::new();
    let mut add = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<17}{value}");
    };
    add("Model", format!("{} ({})", model.name, model.architecture));
    add("Source", model.source.clone());
    add(
        "Shape",
        format!(
            "{} layers, hidden {}, MLP {}, {} query and {} KV heads of {}, vocabulary {}{}",
            shape.num_layers,
            shape.hidden_size,
            shape.intermediate_size,
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            shape.vocab_size,
            if shape.tie_word_embeddings {
                ", tied"
            } else {
                ""
            }
        ),
    );
    add("Context", format!("{} tokens", shape.max_context));
    add(
        "Parameters",
        format!("{} ({} B)", model.params, short(model.params as f64 / 1e9)),
    );
    let formats: Vec<String> = model
        .formats
        .iter()
        .map(|f| format!("{} {}", f.format, human_bytes(f.bytes)))
        .collect();
    add(
        "Weights",
        format!(
            "{}: {}",
            human_bytes(model.weight_bytes),
            formats.join(", ")
        ),
    );
    add(
        "Per decode step",
        format!(
            "{} of weights read, whatever the number of sequences",
            human_bytes(model.weight_bytes_per_decode_step)
        ),
    );
    add(
        "Per token",
        format!(
            "{} GFLOP and {} of KV cache in {}",
            short((model.work.matmul_flops_per_token + model.work.head_flops_per_row) as f64 / 1e9),
            human_bytes(model.kv_bytes_per_token),
            info.kv_dtype
        ),
    );
    add(
        "Per sequence",
        format!(
            "{} of KV cache at {} tokens",
            human_bytes(info.kv_bytes_per_sequence),
            info.context
        ),
    );
    if let (Some(memory), Some(fit)) = (info.memory_bytes, info.sequences_that_fit) {
        let memory = human_bytes(memory);
        add(
            "Fit",
            match fit {
                0 => format!("none in {memory}"),
                n => format!("{n} sequences of {} tokens in {memory}", info.context),
            },
        );
    }
    for note in &model.notes {
        add("Note", note.clone());
    }
    text
}
