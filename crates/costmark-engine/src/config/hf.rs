//! `config.json` as Hugging Face transformers 4 and 5 write it.
//!
//! What is missing takes the default of the architecture's own configuration class;
//! dimensions have no default here. What the decoder does not do is refused by name, so
//! that no setting is silently ignored.

use std::path::Path;

use costmark_core::ModelShape;
use serde::Deserialize;

use super::{Family, ModelConfig, Rope, RopeScaling, check_shape, supported_architectures};
use crate::error::{EngineError, Result};

#[derive(Deserialize)]
struct Raw {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    vocab_size: Option<u64>,
    hidden_size: Option<u64>,
    intermediate_size: Option<u64>,
    num_hidden_layers: Option<u64>,
    num_attention_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    max_position_embeddings: Option<u64>,
    rms_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    /// transformers 4.
    rope_theta: Option<f64>,
    /// transformers 4.
    rope_scaling: Option<RawRope>,
    /// transformers 5.
    rope_parameters: Option<RawRope>,
    partial_rotary_factor: Option<f64>,
    /// Present and null means no window; absent means the class's default.
    #[serde(default, deserialize_with = "present")]
    sliding_window: Option<Option<u32>>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<u64>,
    layer_types: Option<Vec<String>>,
    eos_token_id: Option<OneOrMany>,
    quantization_config: Option<RawQuantization>,
}

#[derive(Deserialize)]
struct RawRope {
    rope_type: Option<String>,
    /// The older name of `rope_type`.
    #[serde(rename = "type")]
    kind: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

#[derive(Deserialize)]
struct RawQuantization {
    quant_method: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

#[derive(Deserialize)]
struct RawGeneration {
    eos_token_id: Option<OneOrMany>,
}

/// Tells an absent key from a null one.
fn present<'de, D, T>(deserializer: D) -> std::result::Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Reads `config.json` and, where there is one, `generation_config.json`, whose
/// end-of-sequence tokens go before those of `config.json`. The paths are for messages.
///
/// # Errors
/// Names the file and what is missing, malformed or not supported in it.
pub fn from_json(
    name: &str,
    path: &Path,
    json: &str,
    generation: Option<(&Path, &str)>,
) -> Result<ModelConfig> {
    let raw: Raw = serde_json::from_str(json)
        .map_err(|error| EngineError::file(path, format!("not a model configuration: {error}")))?;
    let eos_from_generation = match generation {
        None => None,
        Some((path, json)) => {
            serde_json::from_str::<RawGeneration>(json)
                .map_err(|error| EngineError::file(path, format!("cannot be read: {error}")))?
                .eos_token_id
        }
    };
    raw.into_config(name, eos_from_generation)
        .map_err(|message| EngineError::file(path, message))
}

impl Raw {
    fn into_config(
        self,
        name: &str,
        eos_from_generation: Option<OneOrMany>,
    ) -> Result<ModelConfig, String> {
        let family = self.family()?;
        self.refuse_unsupported(family)?;
        let num_heads = need("num_attention_heads", self.num_attention_heads)?;
        let hidden_size = need("hidden_size", self.hidden_size)?;
        let default_kv_heads = match family {
            Family::Llama => num_heads,
            Family::Mistral => 8,
            Family::Qwen2 | Family::Qwen3 => 32,
        };
        let default_head_dim = match family {
            Family::Qwen3 => 128,
            _ => hidden_size.checked_div(num_heads).unwrap_or(0),
        };
        let shape = ModelShape {
            vocab_size: need("vocab_size", self.vocab_size)?,
            hidden_size,
            intermediate_size: need("intermediate_size", self.intermediate_size)?,
            num_layers: need("num_hidden_layers", self.num_hidden_layers)?,
            num_heads,
            num_kv_heads: self.num_key_value_heads.unwrap_or(default_kv_heads),
            head_dim: self.head_dim.unwrap_or(default_head_dim),
            max_context: need("max_position_embeddings", self.max_position_embeddings)?,
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(false),
            qkv_bias: family == Family::Qwen2,
            qk_norm: family == Family::Qwen3,
        };
        check_shape(&shape)?;
        Ok(ModelConfig {
            name: name.to_string(),
            family,
            shape,
            rms_norm_eps: self.rms_norm_eps.unwrap_or(1e-6),
            rope: self.rope()?,
            sliding_window: self.window(family, shape.num_layers)?,
            eos_token_ids: eos_from_generation
                .or(self.eos_token_id)
                .map(OneOrMany::into_vec)
                .unwrap_or_default(),
        })
    }

    fn family(&self) -> Result<Family, String> {
        let architecture = self.architectures.iter().flatten().next();
        let found = match (architecture, &self.model_type) {
            (Some(name), _) => Family::ALL
                .into_iter()
                .find(|f| f.architecture() == name)
                .ok_or(name),
            (None, Some(name)) => Family::ALL
                .into_iter()
                .find(|f| f.model_type() == name)
                .ok_or(name),
            (None, None) => {
                return Err("has neither `architectures` nor `model_type`".into());
            }
        };
        found.map_err(|name| {
            format!(
                "architecture `{name}` is not supported by the engine, which knows {}; \
                 `--backend lockstep` may cover it",
                supported_architectures()
            )
        })
    }

    fn refuse_unsupported(&self, family: Family) -> Result<(), String> {
        if let Some(quantization) = &self.quantization_config {
            return Err(format!(
                "weights quantised by `{}` are not supported; take the unquantised checkpoint \
                 (with --quantize) or a GGUF of the model",
                quantization.quant_method.as_deref().unwrap_or("unknown")
            ));
        }
        if let Some(act) = &self.hidden_act
            && !matches!(act.as_str(), "silu" | "swish")
        {
            return Err(format!("`hidden_act` is `{act}`, only `silu` is supported"));
        }
        // The class of Qwen2 has neither switch: its biases are fixed.
        if self.attention_bias == Some(true) && family != Family::Qwen2 {
            return Err(format!(
                "`attention_bias` is not supported for {}",
                family.architecture()
            ));
        }
        if self.mlp_bias == Some(true) {
            return Err("`mlp_bias` is not supported".into());
        }
        let partial = [&self.rope_parameters, &self.rope_scaling]
            .into_iter()
            .flatten()
            .find_map(|rope| rope.partial_rotary_factor)
            .or(self.partial_rotary_factor);
        match partial {
            Some(part) if part != 1.0 => Err(format!(
                "`partial_rotary_factor` is {part}, only whole heads are rotated"
            )),
            _ => Ok(()),
        }
    }

    fn rope(&self) -> Result<Rope, String> {
        let (key, raw) = match (&self.rope_parameters, &self.rope_scaling) {
            (Some(raw), _) => ("rope_parameters", Some(raw)),
            (None, raw) => ("rope_scaling", raw.as_ref()),
        };
        let theta = raw
            .and_then(|raw| raw.rope_theta)
            .or(self.rope_theta)
            .unwrap_or(10_000.0);
        if !(theta.is_finite() && theta > 0.0) {
            return Err(format!(
                "`rope_theta` is {theta}, expected a positive number"
            ));
        }
        let scaling = match raw {
            None => RopeScaling::None,
            Some(raw) => raw.scaling(key)?,
        };
        Ok(Rope { theta, scaling })
    }

    fn window(&self, family: Family, num_layers: u64) -> Result<Option<u32>, String> {
        let window = match family {
            Family::Llama => return Ok(None),
            Family::Mistral => self.sliding_window.unwrap_or(Some(4096)),
            Family::Qwen2 | Family::Qwen3 => self
                .sliding_window
                .unwrap_or(Some(4096))
                .filter(|_| self.use_sliding_window == Some(true)),
        };
        let Some(window) = window else {
            return Ok(None);
        };
        if window == 0 {
            return Err("`sliding_window` is 0; remove it or set it to null".into());
        }
        let layers = if let Some(types) = &self.layer_types {
            types.iter().filter(|t| *t == "sliding_attention").count() as u64
        } else if family == Family::Mistral {
            num_layers
        } else {
            // Layers from this one on have the window.
            num_layers.saturating_sub(self.max_window_layers.unwrap_or(28))
        };
        match layers {
            0 => Ok(None),
            n if n >= num_layers => Ok(Some(window)),
            n => Err(format!(
                "{n} of {num_layers} layers have a sliding window; the engine has one in all \
                 layers or in none"
            )),
        }
    }
}

impl RawRope {
    fn scaling(&self, key: &str) -> Result<RopeScaling, String> {
        let number = |name: &str, value: Option<f64>| match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            Some(value) => Err(format!(
                "`{key}.{name}` is {value}, expected a positive number"
            )),
            None => Err(format!("`{key}` has no `{name}`")),
        };
        let kind = self.rope_type.as_deref().or(self.kind.as_deref());
        match kind {
            None | Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear {
                factor: number("factor", self.factor)?,
            }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: number("factor", self.factor)?,
                low_freq_factor: number("low_freq_factor", self.low_freq_factor)?,
                high_freq_factor: number("high_freq_factor", self.high_freq_factor)?,
                original_max_position: number(
                    "original_max_position_embeddings",
                    self.original_max_position_embeddings,
                )?,
            }),
            Some(other) => Err(format!(
                "`{key}` asks for rope scaling `{other}`; supported are default, linear and \
                 llama3. Removing `{key}` runs the model without scaling, within its original \
                 context"
            )),
        }
    }
}

fn need<T>(key: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| format!("has no `{key}`"))
}
