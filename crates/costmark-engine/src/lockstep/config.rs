//! `config.json` into the configurations candle-transformers takes.

mod families;
mod others;

use std::path::Path;

use candle_transformers::models::{gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3};
use costmark_core::ModelShape;
use serde_json::{Map, Value};

use crate::config::{self, Family, ModelConfig};
use crate::error::{EngineError, Result};

/// Architectures this backend runs, for messages.
const SUPPORTED: &str = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, \
     Qwen3ForCausalLM, Phi3ForCausalLM, Gemma2ForCausalLM, Gemma3ForCausalLM";

/// The configuration of one of candle-transformers' models.
#[derive(Debug, Clone)]
pub(super) enum Arch {
    Llama(llama::Config),
    Mistral(mistral::Config),
    Qwen2(qwen2::Config),
    Qwen3(qwen3::Config),
    Phi3(phi3::Config),
    Gemma2(gemma2::Config),
    Gemma3(gemma3::Config),
}

/// What a `config.json` says, ready for candle-transformers.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) arch: Arch,
    /// Dimensions; `max_context` already limited to what was asked for.
    pub(super) shape: ModelShape,
    /// Norm weights beyond those the shape counts.
    pub(super) extra_params: u64,
    pub(super) eos_token_ids: Vec<u32>,
    /// Where candle-transformers computes something else than the published model.
    pub(super) notes: Vec<String>,
}

/// Reads `config.json` (and `generation_config.json`, where there is one). `max_context`
/// bounds rotary tables and cache, which some models claim in full.
///
/// # Errors
/// Names the file and what is missing or not supported in it.
pub(super) fn read(
    path: &Path,
    json: &str,
    generation: Option<(&Path, &str)>,
    max_context: Option<u32>,
) -> Result<Spec> {
    let mut raw: Map<String, Value> = serde_json::from_str(json)
        .map_err(|error| EngineError::file(path, format!("not a model configuration: {error}")))?;
    let architecture = raw
        .get("architectures")
        .and_then(|a| a.get(0))
        .or_else(|| raw.get("model_type"))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_string();
    let spec = match architecture.as_str() {
        "Phi3ForCausalLM" | "phi3" => others::phi3(&mut raw, max_context),
        "Gemma2ForCausalLM" | "gemma2" => others::gemma2(&mut raw, max_context),
        "Gemma3ForCausalLM" | "gemma3_text" => others::gemma3(&mut raw, max_context),
        name if is_engine_family(name) => {
            let config = config::from_json("", path, json, generation)?;
            families::spec(&config, max_context)
        }
        name => Err(format!(
            "architecture `{name}` is not supported by the lockstep backend, which runs \
             {SUPPORTED} from safetensors and llama, qwen2, qwen3 from GGUF"
        )),
    };
    let mut spec = spec.map_err(|message| EngineError::file(path, message))?;
    if let Some((path, json)) = generation {
        let raw: Map<String, Value> = serde_json::from_str(json)
            .map_err(|error| EngineError::file(path, format!("cannot be read: {error}")))?;
        if let Some(ids) = eos_token_ids(&raw) {
            spec.eos_token_ids = ids;
        }
    }
    Ok(spec)
}

/// As [`read`], from what the engine's reader made of a file.
///
/// # Errors
/// A message that says what candle-transformers lacks.
pub(super) fn of_engine(config: &ModelConfig, max_context: Option<u32>) -> Result<Spec, String> {
    families::spec(config, max_context)
}

fn is_engine_family(name: &str) -> bool {
    Family::ALL
        .iter()
        .any(|f| f.architecture() == name || f.model_type() == name)
}

fn limit(own: u64, asked: Option<u32>) -> u64 {
    asked.map_or(own, |asked| own.min(u64::from(asked)))
}

fn window_note(window: u32) -> String {
    format!(
        "candle-transformers lets the sliding window of {window} tokens reach one token further \
         in a prompt and drops it while decoding"
    )
}

fn eos_token_ids(raw: &Map<String, Value>) -> Option<Vec<u32>> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match raw.get("eos_token_id")? {
        Value::Array(ids) => Some(ids.iter().filter_map(id).collect()),
        one => id(one).map(|id| vec![id]),
    }
}

/// [`ModelShape`] in the integers candle uses.
struct Sizes {
    vocab: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    max_context: usize,
}

impl Sizes {
    fn of(shape: &ModelShape) -> Self {
        Self {
            vocab: shape.vocab_size as usize,
            hidden: shape.hidden_size as usize,
            intermediate: shape.intermediate_size as usize,
            layers: shape.num_layers as usize,
            heads: shape.num_heads as usize,
            kv_heads: shape.num_kv_heads as usize,
            head_dim: shape.head_dim as usize,
            max_context: shape.max_context as usize,
        }
    }

    fn shape(&self, tie_word_embeddings: bool, qk_norm: bool) -> ModelShape {
        ModelShape {
            vocab_size: self.vocab as u64,
            hidden_size: self.hidden as u64,
            intermediate_size: self.intermediate as u64,
            num_layers: self.layers as u64,
            num_heads: self.heads as u64,
            num_kv_heads: self.kv_heads as u64,
            head_dim: self.head_dim as u64,
            max_context: self.max_context as u64,
            tie_word_embeddings,
            qkv_bias: false,
            qk_norm,
        }
    }
}
