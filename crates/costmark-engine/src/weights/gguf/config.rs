//! The model's configuration from GGUF metadata.

use costmark_core::ModelShape;

use super::header::{Header, Value};
use crate::config::{Family, ModelConfig, Rope, RopeScaling, check_shape};

/// Names of `general.architecture` and the families they stand for. Mistral's files say
/// `llama`: the decoder is the same.
const ARCHITECTURES: [(&str, Family); 3] = [
    ("llama", Family::Llama),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
];

/// Builds the configuration. `factors` are the values of `rope_freqs.weight`.
///
/// # Errors
/// What is missing or not supported.
pub(super) fn from_header(
    header: &Header,
    fallback_name: &str,
    factors: Option<Vec<f64>>,
) -> Result<ModelConfig, String> {
    let arch = header
        .text("general.architecture")
        .ok_or("has no `general.architecture`; is this a language model?")?;
    let (_, family) = ARCHITECTURES
        .into_iter()
        .find(|(name, _)| *name == arch)
        .ok_or_else(|| {
            let known = ARCHITECTURES.map(|(name, _)| name).join(", ");
            format!(
                "architecture `{arch}` is not supported by the engine, which knows {known}; \
                 `--backend lockstep` may cover it"
            )
        })?;
    let number = |name: &str| -> Result<u64, String> {
        let key = format!("{arch}.{name}");
        header.uint(&key)?.ok_or(format!("has no `{key}`"))
    };
    let optional = |name: &str| header.uint(&format!("{arch}.{name}"));

    if header.uint("split.count")?.unwrap_or(1) > 1 {
        return Err(
            "is one part of a model split over several files; merge them first with \
             `llama-gguf-split --merge`"
                .into(),
        );
    }
    if optional("expert_count")?.unwrap_or(0) > 0 {
        return Err("is a mixture of experts, which the engine does not run yet".into());
    }
    let num_heads = number("attention.head_count")?;
    let hidden_size = number("embedding_length")?;
    let head_dim = match optional("attention.key_length")? {
        Some(n) => n,
        None => hidden_size.checked_div(num_heads).unwrap_or(0),
    };
    for (name, value) in [
        (
            "attention.value_length",
            optional("attention.value_length")?,
        ),
        ("rope.dimension_count", optional("rope.dimension_count")?),
    ] {
        if let Some(value) = value
            && value != head_dim
        {
            return Err(format!(
                "`{arch}.{name}` is {value} with heads of {head_dim}; only equal sizes are \
                 supported"
            ));
        }
    }
    let embedding = header
        .tensors
        .get("token_embd.weight")
        .ok_or("has no tensor `token_embd.weight`")?;
    let has = |name: &str| header.tensors.contains_key(name);
    let shape = ModelShape {
        vocab_size: embedding.shape.first().copied().unwrap_or(0),
        hidden_size,
        intermediate_size: number("feed_forward_length")?,
        num_layers: number("block_count")?,
        num_heads,
        num_kv_heads: optional("attention.head_count_kv")?.unwrap_or(num_heads),
        head_dim,
        max_context: number("context_length")?,
        tie_word_embeddings: !has("output.weight"),
        qkv_bias: has("blk.0.attn_q.bias"),
        qk_norm: family == Family::Qwen3,
    };
    check_shape(&shape)?;
    let window = optional("attention.sliding_window")?.unwrap_or(0);
    Ok(ModelConfig {
        name: header
            .text("general.name")
            .filter(|name| !name.is_empty())
            .unwrap_or(fallback_name)
            .to_string(),
        family,
        rms_norm_eps: positive(header, &format!("{arch}.attention.layer_norm_rms_epsilon"))?
            .ok_or_else(|| format!("has no `{arch}.attention.layer_norm_rms_epsilon`"))?,
        rope: rope(header, arch, factors, head_dim)?,
        sliding_window: u32::try_from(window).ok().filter(|&n| n > 0),
        eos_token_ids: end_tokens(header)?,
        shape,
    })
}

fn positive(header: &Header, key: &str) -> Result<Option<f64>, String> {
    match header.float(key)? {
        Some(x) if !(x.is_finite() && x > 0.0) => {
            Err(format!("`{key}` is {x}, expected a positive number"))
        }
        other => Ok(other),
    }
}

fn rope(
    header: &Header,
    arch: &str,
    factors: Option<Vec<f64>>,
    head_dim: u64,
) -> Result<Rope, String> {
    let theta = positive(header, &format!("{arch}.rope.freq_base"))?.unwrap_or(10_000.0);
    let kind_key = format!("{arch}.rope.scaling.type");
    let factor = match positive(header, &format!("{arch}.rope.scaling.factor"))? {
        Some(factor) => Some(factor),
        // The name before scaling had types.
        None => positive(header, &format!("{arch}.rope.scale_linear"))?,
    };
    let linear = match (header.text(&kind_key), factor) {
        (None | Some("linear"), Some(factor)) if factor != 1.0 => Some(factor),
        (None | Some("none" | "linear"), _) => None,
        (Some(other), _) => {
            return Err(format!(
                "`{kind_key}` is `{other}`; supported are none, linear and the factors of \
                 Llama 3"
            ));
        }
    };
    let scaling = match (factors, linear) {
        (None, None) => RopeScaling::None,
        (None, Some(factor)) => RopeScaling::Linear { factor },
        (Some(factors), linear) => {
            if factors.len() as u64 != head_dim / 2 {
                return Err(format!(
                    "`rope_freqs.weight` has {} factors for heads of {head_dim}",
                    factors.len()
                ));
            }
            if !factors.iter().all(|f| f.is_finite() && *f > 0.0) {
                return Err("`rope_freqs.weight` holds values that are not positive".into());
            }
            let whole = linear.unwrap_or(1.0);
            RopeScaling::Factors(factors.into_iter().map(|f| f * whole).collect())
        }
    };
    Ok(Rope { theta, scaling })
}

fn end_tokens(header: &Header) -> Result<Vec<u32>, String> {
    let mut ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match header.metadata.get(&key) {
            // -1 stands for none.
            None | Some(Value::Negative(_)) => {}
            Some(Value::Uint(id)) => {
                let id = u32::try_from(*id).map_err(|_| format!("`{key}` is {id}"))?;
                if id != u32::MAX && !ids.contains(&id) {
                    ids.push(id);
                }
            }
            Some(other) => return Err(format!("`{key}` is {other:?}, expected a token id")),
        }
    }
    Ok(ids)
}
