//! Families candle-transformers runs and the engine does not: Phi-3, Gemma 2, Gemma 3.
//!
//! Their `config.json` is brought to the form candle-transformers' own types read, whichever
//! version of transformers wrote it.

use candle_transformers::models::{gemma2, gemma3, phi3};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Arch, Sizes, Spec, eos_token_ids, limit, window_note};

pub(super) fn phi3(raw: &mut Map<String, Value>, max_context: Option<u32>) -> Result<Spec, String> {
    let eos_token_ids = eos_token_ids(raw).unwrap_or_default();
    // A list of tokens is more than candle-transformers reads; it does not use them.
    raw.insert("eos_token_id".into(), Value::Null);
    let rope = flatten_rope(raw, "rope_parameters")?;
    if let Some(kind) = rope {
        if kind != "longrope" {
            return Err(format!("rope scaling `{kind}` is not supported for Phi-3"));
        }
        let mut scaling = raw
            .get("rope_scaling")
            .or_else(|| raw.get("rope_parameters"))
            .cloned()
            .unwrap_or_default();
        scaling["type"] = json!("longrope");
        raw.insert("rope_scaling".into(), scaling);
    } else {
        raw.remove("rope_scaling");
    }
    default(raw, "rope_theta", json!(10_000.0));
    if raw.get("partial_rotary_factor") == Some(&json!(1.0)) {
        raw.remove("partial_rotary_factor");
    }
    let mut config: phi3::Config = typed(raw)?;
    let mut notes = Vec::new();
    let asked = limit(config.max_position_embeddings as u64, max_context) as usize;
    config.max_position_embeddings = match (
        &config.rope_scaling,
        config.original_max_position_embeddings,
    ) {
        // The long tables begin where the short ones end and must hold something.
        (Some(_), Some(original)) => asked.max(original + 1),
        _ => asked,
    };
    if config.rope_scaling.is_some() {
        notes.push(
            "candle-transformers multiplies by this model's rotary factors instead of dividing"
                .to_string(),
        );
    }
    let shape = Sizes {
        vocab: config.vocab_size,
        hidden: config.hidden_size,
        intermediate: config.intermediate_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: checked_head_dim(config.hidden_size, config.num_attention_heads)?,
        max_context: asked,
    }
    .shape(config.tie_word_embeddings, false);
    Ok(Spec {
        arch: Arch::Phi3(config),
        shape,
        extra_params: 0,
        eos_token_ids,
        notes,
    })
}

/// The two generations' configurations are different types with the same fields.
macro_rules! gemma_sizes {
    ($config:expr) => {
        Sizes {
            vocab: $config.vocab_size,
            hidden: $config.hidden_size,
            intermediate: $config.intermediate_size,
            layers: $config.num_hidden_layers,
            heads: $config.num_attention_heads,
            kv_heads: $config.num_key_value_heads,
            head_dim: $config.head_dim,
            max_context: $config.max_position_embeddings,
        }
    };
}

pub(super) fn gemma2(
    raw: &mut Map<String, Value>,
    max_context: Option<u32>,
) -> Result<Spec, String> {
    let eos_token_ids = eos_token_ids(raw).unwrap_or_default();
    let mut notes = Vec::new();
    if let Some(kind) = flatten_rope(raw, "rope_parameters")? {
        return Err(format!(
            "rope scaling `{kind}` is not supported for Gemma 2"
        ));
    }
    default(raw, "rope_theta", json!(10_000.0));
    gemma_defaults(raw);
    let mut config: gemma2::Config = typed(raw)?;
    config.max_position_embeddings =
        limit(config.max_position_embeddings as u64, max_context) as usize;
    if let Some(window) = config
        .sliding_window
        .filter(|&w| w < config.max_position_embeddings)
    {
        notes.push(format!(
            "candle-transformers applies the sliding window of {window} tokens in every layer of \
             a prompt instead of every second, and drops it while decoding"
        ));
    }
    scale_note(config.query_pre_attn_scalar, config.head_dim, &mut notes);
    let shape = gemma_sizes!(config).shape(true, false);
    Ok(Spec {
        arch: Arch::Gemma2(config),
        extra_params: 2 * shape.num_layers * shape.hidden_size,
        shape,
        eos_token_ids,
        notes,
    })
}

pub(super) fn gemma3(
    raw: &mut Map<String, Value>,
    max_context: Option<u32>,
) -> Result<Spec, String> {
    let eos_token_ids = eos_token_ids(raw).unwrap_or_default();
    let mut notes = Vec::new();
    // transformers 5 keeps one set of rotary settings per kind of layer.
    for (layers, key) in [
        ("sliding_attention", "rope_local_base_freq"),
        ("full_attention", "rope_theta"),
    ] {
        let rope = raw.get("rope_parameters").and_then(|r| r.get(layers));
        if let Some(rope) = rope.and_then(Value::as_object).cloned() {
            if let Some(kind) = scaled(&rope) {
                return Err(format!(
                    "rope scaling `{kind}` is not supported for Gemma 3"
                ));
            }
            if let Some(theta) = rope.get("rope_theta") {
                raw.insert(key.into(), theta.clone());
            }
        }
    }
    if let Some(kind) = raw
        .get("rope_scaling")
        .and_then(Value::as_object)
        .and_then(scaled)
    {
        return Err(format!(
            "rope scaling `{kind}` is not supported for Gemma 3"
        ));
    }
    default(raw, "rope_theta", json!(1_000_000.0));
    default(raw, "rope_local_base_freq", json!(10_000.0));
    if let Some(types) = raw.get("layer_types").and_then(Value::as_array) {
        let pattern = pattern_of(types)?;
        raw.insert("sliding_window_pattern".into(), json!(pattern));
    }
    default(raw, "sliding_window_pattern", json!(6));
    gemma_defaults(raw);
    let mut config: gemma3::Config = typed(raw)?;
    if config.num_key_value_heads != 1 {
        return Err(format!(
            "candle-transformers' Gemma 3 fails with `num_key_value_heads` {}; it runs the sizes \
             with one (270M, 1B)",
            config.num_key_value_heads
        ));
    }
    config.max_position_embeddings =
        limit(config.max_position_embeddings as u64, max_context) as usize;
    if config.sliding_window < config.max_position_embeddings {
        notes.push(window_note(
            u32::try_from(config.sliding_window).unwrap_or(u32::MAX),
        ));
    }
    scale_note(config.query_pre_attn_scalar, config.head_dim, &mut notes);
    let shape = gemma_sizes!(config).shape(true, true);
    Ok(Spec {
        arch: Arch::Gemma3(config),
        extra_params: 2 * shape.num_layers * shape.hidden_size,
        shape,
        eos_token_ids,
        notes,
    })
}

/// Every how many layers one sees the whole context.
fn pattern_of(types: &[Value]) -> Result<usize, String> {
    let full = |t: &Value| t == "full_attention";
    let pattern = types
        .iter()
        .position(full)
        .map_or(types.len() + 1, |i| i + 1);
    let regular = types
        .iter()
        .enumerate()
        .all(|(i, t)| full(t) == (i + 1).is_multiple_of(pattern));
    if regular {
        Ok(pattern)
    } else {
        Err("`layer_types` follow no fixed period; candle-transformers' Gemma 3 needs one".into())
    }
}

fn scale_note(scalar: usize, head_dim: usize, notes: &mut Vec<String>) {
    if scalar != head_dim {
        notes.push(format!(
            "candle-transformers scales attention by the head width {head_dim} instead of {scalar}"
        ));
    }
}

fn gemma_defaults(raw: &mut Map<String, Value>) {
    default(raw, "attention_bias", json!(false));
    default(raw, "hidden_activation", json!("gelu_pytorch_tanh"));
}

fn default(raw: &mut Map<String, Value>, key: &str, value: Value) {
    raw.entry(key.to_string())
        .and_modify(|v| {
            if v.is_null() {
                v.clone_from(&value);
            }
        })
        .or_insert(value);
}

/// The kind of scaling, unless it is none.
fn scaled(rope: &Map<String, Value>) -> Option<String> {
    let kind = rope
        .get("rope_type")
        .or_else(|| rope.get("type"))?
        .as_str()?;
    (kind != "default").then(|| kind.to_string())
}

/// Moves what transformers 5 keeps under `key` to where version 4 has it. Returns the kind
/// of scaling, unless it is none.
fn flatten_rope(raw: &mut Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    let Some(rope) = raw.get(key).filter(|v| !v.is_null()).cloned() else {
        return Ok(raw
            .get("rope_scaling")
            .and_then(Value::as_object)
            .and_then(scaled));
    };
    let rope = rope
        .as_object()
        .ok_or_else(|| format!("`{key}` is not an object"))?;
    for name in ["rope_theta", "partial_rotary_factor"] {
        if let Some(value) = rope.get(name) {
            raw.insert(name.into(), value.clone());
        }
    }
    Ok(scaled(rope))
}

fn typed<T: DeserializeOwned>(raw: &Map<String, Value>) -> Result<T, String> {
    serde_json::from_value(Value::Object(raw.clone())).map_err(|error| error.to_string())
}

fn checked_head_dim(hidden: usize, heads: usize) -> Result<usize, String> {
    match hidden.checked_div(heads) {
        Some(dim) if dim * heads == hidden => Ok(dim),
        _ => Err(format!(
            "`hidden_size` {hidden} is not a multiple of `num_attention_heads` {heads}"
        )),
    }
}
