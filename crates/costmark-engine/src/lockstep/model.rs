//! One of candle-transformers' models behind one face: tokens of a batch in, a row of
//! logits per sequence out.

use std::path::Path;
use std::sync::PoisonError;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{
    gemma2, gemma3, llama, mistral, phi3, quantized_llama, quantized_qwen2, quantized_qwen3, qwen2,
    qwen3,
};
use costmark_core::{ModelShape, ModelWork};

use super::config::{self, Arch, Spec};
use super::gguf;
use super::tensors;
use super::{LockstepModel, LockstepOptions, SyntheticConfig};
use crate::error::{EngineError, Result};
use crate::weights::progress::Loading;
use crate::weights::safetensors::SafetensorsWeights;

/// A loaded model with its KV cache, and what a result must say of it.
pub(super) struct Model {
    pub(super) net: Net,
    pub(super) shape: ModelShape,
    pub(super) work: ModelWork,
    pub(super) eos_token_ids: Vec<u32>,
    pub(super) synthetic: bool,
    pub(super) weight_dtype: String,
    pub(super) weight_bytes: u64,
    /// Most sequences it runs together.
    pub(super) max_batch: u32,
    pub(super) notes: Vec<String>,
}

/// The network itself.
pub(super) enum Net {
    Llama {
        model: llama::Llama,
        cache: llama::Cache,
        /// The cache with nothing in it; rotary tables are shared.
        empty: llama::Cache,
    },
    Mistral(mistral::Model),
    Qwen2(qwen2::ModelForCausalLM),
    Qwen3(qwen3::ModelForCausalLM),
    Phi3(phi3::Model),
    Gemma2(gemma2::Model),
    Gemma3(gemma3::Model),
    QuantizedLlama(quantized_llama::ModelWeights),
    QuantizedQwen2(quantized_qwen2::ModelWeights),
    QuantizedQwen3(quantized_qwen3::ModelWeights),
}

impl Net {
    /// Tokens `(batch, len)` at positions `offset..offset + len` → logits of the last
    /// position `(batch, vocabulary)`, f32. What came before `offset` is in the cache.
    ///
    /// # Errors
    /// When candle fails.
    pub(super) fn forward(&mut self, tokens: &Tensor, offset: usize) -> Result<Tensor> {
        let logits = match self {
            Self::Llama { model, cache, .. } => model.forward(tokens, offset, cache),
            Self::Mistral(model) => model.forward(tokens, offset),
            Self::Qwen2(model) => model.forward(tokens, offset),
            Self::Qwen3(model) => model.forward(tokens, offset),
            Self::Phi3(model) => model.forward(tokens, offset),
            Self::Gemma2(model) => model.forward(tokens, offset),
            Self::Gemma3(model) => model.forward(tokens, offset),
            Self::QuantizedLlama(model) => model.forward(tokens, offset),
            Self::QuantizedQwen2(model) => model.forward(tokens, offset),
            Self::QuantizedQwen3(model) => model.forward(tokens, offset),
        }?;
        // Some models keep the length, (batch, 1, vocabulary), some drop it.
        let batch = tokens.dim(0)?;
        Ok(logits.reshape((batch, ()))?)
    }

    /// Forgets all sequences.
    pub(super) fn clear(&mut self) {
        match self {
            Self::Llama { cache, empty, .. } => *cache = empty.clone(),
            Self::Mistral(model) => model.clear_kv_cache(),
            Self::Qwen2(model) => model.clear_kv_cache(),
            Self::Qwen3(model) => model.clear_kv_cache(),
            Self::Phi3(model) => model.clear_kv_cache(),
            Self::Gemma2(model) => model.clear_kv_cache(),
            Self::Gemma3(model) => model.clear_kv_cache(),
            Self::QuantizedLlama(model) => model.clear_kv_cache(),
            Self::QuantizedQwen2(model) => model.clear_kv_cache(),
            Self::QuantizedQwen3(model) => model.clear_kv_cache(),
        }
    }
}

impl Model {
    /// Loads or makes the model; rotary tables and caches are sized for `max_context`.
    ///
    /// # Errors
    /// Names the file and tensor that cannot be used.
    pub(super) fn load(options: &LockstepOptions) -> Result<Self> {
        let max_context = options.max_context;
        match &options.model {
            LockstepModel::Folder(folder) => from_folder(folder, options),
            LockstepModel::Gguf(path) => gguf::load(path, max_context),
            LockstepModel::Synthetic { config, seed } => {
                let spec = match config {
                    SyntheticConfig::Json(json) => {
                        config::read(Path::new("config.json"), json, None, max_context)?
                    }
                    SyntheticConfig::Parsed(config) => {
                        config::of_engine(config, max_context).map_err(EngineError::Option)?
                    }
                };
                let gemma = matches!(spec.arch, Arch::Gemma2(_) | Arch::Gemma3(_));
                let tensors = tensors::synthetic(*seed, spec.shape.tie_word_embeddings, gemma);
                let mut model = build(spec, tensors)?;
                model.synthetic = true;
                model
                    .notes
                    .push("synthetic weights: the output means nothing, the speed does".into());
                Ok(model)
            }
        }
    }
}

fn from_folder(folder: &Path, options: &LockstepOptions) -> Result<Model> {
    let read = |name: &str| {
        let path = folder.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some((path, text))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EngineError::file(path, format!("cannot be read: {error}"))),
        }
    };
    let Some((path, json)) = read("config.json")? else {
        return Err(EngineError::file(
            folder,
            "has no config.json: give the folder of a Hugging Face checkpoint",
        ));
    };
    let generation = read("generation_config.json")?;
    let generation = generation
        .as_ref()
        .map(|(path, json)| (path.as_path(), json.as_str()));
    let spec = config::read(&path, &json, generation, options.max_context)?;
    let files =
        SafetensorsWeights::scan(folder, &Device::Cpu, Loading::new(options.progress.clone()))?;
    if matches!(spec.arch, Arch::Llama(_)) {
        // candle-transformers panics on what it does not find in a Llama block.
        for (name, shape) in llama_tensors(&spec.shape) {
            files.expect(&name, &shape)?;
        }
    }
    let (tensors, failure) = tensors::from_files(files);
    build(spec, tensors).map_err(|error| {
        let reason = failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        reason.unwrap_or_else(|| EngineError::file(folder, error.to_string()))
    })
}

fn build(spec: Spec, tensors: VarBuilder<'_>) -> Result<Model> {
    let shape = spec.shape;
    let net = match &spec.arch {
        Arch::Llama(config) => {
            let empty = llama::Cache::new(true, tensors.dtype(), config, &Device::Cpu)?;
            Net::Llama {
                model: llama::Llama::load(tensors, config)?,
                cache: empty.clone(),
                empty,
            }
        }
        Arch::Mistral(config) => Net::Mistral(mistral::Model::new(config, tensors)?),
        Arch::Qwen2(config) => Net::Qwen2(qwen2::ModelForCausalLM::new(config, tensors)?),
        Arch::Qwen3(config) => Net::Qwen3(qwen3::ModelForCausalLM::new(config, tensors)?),
        Arch::Phi3(config) => Net::Phi3(phi3::Model::new(config, tensors)?),
        Arch::Gemma2(config) => Net::Gemma2(gemma2::Model::new(false, config, tensors)?),
        Arch::Gemma3(config) => Net::Gemma3(gemma3::Model::new(false, config, tensors)?),
    };
    let block_params = shape.num_layers
        * (shape.layer_matmul_params() + shape.layer_vector_params())
        + shape.hidden_size
        + spec.extra_params;
    let mut notes = spec.notes;
    notes.push("weights are held and multiplied in f32".into());
    Ok(Model {
        net,
        work: work(&shape, 4 * block_params, 4 * shape.embedding_params()),
        eos_token_ids: spec.eos_token_ids,
        synthetic: false,
        weight_dtype: "f32".into(),
        weight_bytes: 4 * (shape.params() + spec.extra_params),
        max_batch: u32::MAX,
        notes,
        shape,
    })
}

/// What steps move and compute. Embeddings, keys, values and logits are f32.
pub(super) fn work(shape: &ModelShape, layer_bytes: u64, head_bytes: u64) -> ModelWork {
    ModelWork {
        layer_weight_bytes: layer_bytes,
        head_weight_bytes: head_bytes,
        embedding_row_bytes: 4 * shape.hidden_size,
        kv_bytes_per_token: 4 * shape.kv_values_per_token(),
        logits_row_bytes: 4 * shape.vocab_size,
        matmul_flops_per_token: shape.matmul_flops_per_token(),
        head_flops_per_row: shape.head_flops_per_row(),
        attention_flops_per_pair: shape.attention_flops_per_pair(),
    }
}

/// Names and shapes of all tensors of a Llama.
fn llama_tensors(shape: &ModelShape) -> Vec<(String, Vec<u64>)> {
    let (hidden, mlp) = (shape.hidden_size, shape.intermediate_size);
    let q = shape.num_heads * shape.head_dim;
    let kv = shape.num_kv_heads * shape.head_dim;
    let mut tensors = vec![
        (
            "model.embed_tokens.weight".to_string(),
            vec![shape.vocab_size, hidden],
        ),
        ("model.norm.weight".to_string(), vec![hidden]),
    ];
    if !shape.tie_word_embeddings {
        tensors.push(("lm_head.weight".into(), vec![shape.vocab_size, hidden]));
    }
    for layer in 0..shape.num_layers {
        let block = [
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![q, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, q]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![mlp, hidden]),
            ("mlp.up_proj", vec![mlp, hidden]),
            ("mlp.down_proj", vec![hidden, mlp]),
        ];
        tensors.extend(
            block
                .into_iter()
                .map(|(name, dims)| (format!("model.layers.{layer}.{name}.weight"), dims)),
        );
    }
    tensors
}
