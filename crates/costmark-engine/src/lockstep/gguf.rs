//! GGUF files as candle-transformers' quantised models.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_transformers::models::{quantized_llama, quantized_qwen2, quantized_qwen3};
use costmark_core::ModelShape;

use super::model::{Model, Net, work};
use crate::error::{EngineError, Result};
use crate::weights::TensorFormat;
use crate::weights::format::Ggml;

const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";

/// Loads a GGUF file of the architectures `llama`, `qwen2` and `qwen3`.
///
/// # Errors
/// Names the file and what is wrong with it.
pub(super) fn load(path: &Path, max_context: Option<u32>) -> Result<Model> {
    let fail = |message: String| EngineError::file(path, message);
    let file = File::open(path).map_err(|error| fail(format!("cannot be opened: {error}")))?;
    let mut reader = BufReader::new(file);
    let mut content = Content::read(&mut reader)
        .map_err(|error| fail(format!("not a valid GGUF file: {error}")))?;
    let arch = match content.metadata.get("general.architecture") {
        Some(Value::String(arch)) => arch.clone(),
        _ => return Err(fail("does not say its `general.architecture`".into())),
    };
    let mut shape = read_shape(&content, &arch).map_err(fail)?;
    let mut notes = vec![
        "candle-transformers' quantised models run one sequence at a time on a CPU".to_string(),
    ];
    let bytes = Bytes::of(&content);
    let eos_token_ids = number(&content, "tokenizer.ggml.eos_token_id")
        .ok()
        .and_then(|id| u32::try_from(id).ok())
        .into_iter()
        .collect();
    match arch.as_str() {
        "llama" => {
            // Its rotary tables end there.
            shape.max_context = shape.max_context.min(quantized_llama::MAX_SEQ_LEN as u64);
            if content.tensor_infos.contains_key("rope_freqs.weight") {
                notes.push("candle-transformers ignores this file's rotary factors".into());
            }
        }
        "qwen3" => {
            // Without it the rotary tables are made in f16, which tells positions apart
            // only up to 2048.
            content
                .metadata
                .insert("general.dtype".into(), Value::U32(0));
        }
        _ => {}
    }
    if let Some(asked) = max_context {
        shape.max_context = shape.max_context.min(u64::from(asked));
    }
    // Sizes the rotary tables of the models that read it.
    content.metadata.insert(
        format!("{arch}.context_length"),
        Value::U32(u32::try_from(shape.max_context).unwrap_or(u32::MAX)),
    );
    let device = Device::Cpu;
    let net = match arch.as_str() {
        "llama" => quantized_llama::ModelWeights::from_gguf(content, &mut reader, &device)
            .map(Net::QuantizedLlama),
        "qwen2" => quantized_qwen2::ModelWeights::from_gguf(content, &mut reader, &device)
            .map(Net::QuantizedQwen2),
        "qwen3" => quantized_qwen3::ModelWeights::from_gguf(content, &mut reader, &device)
            .map(Net::QuantizedQwen3),
        other => {
            return Err(fail(format!(
                "architecture `{other}` is not supported by the lockstep backend, which reads \
                 GGUF files of llama, qwen2 and qwen3"
            )));
        }
    }
    .map_err(|error| fail(error.to_string()))?;
    Ok(Model {
        net,
        work: work(&shape, bytes.layers, bytes.head),
        eos_token_ids,
        synthetic: false,
        weight_dtype: bytes.dtypes,
        weight_bytes: bytes.held,
        // With more, some lack a code path and others pass on tensors that have gaps.
        max_batch: 1,
        notes,
        shape,
    })
}

fn number(content: &Content, key: &str) -> Result<u64, String> {
    let value = content
        .metadata
        .get(key)
        .ok_or_else(|| format!("has no `{key}`"))?;
    let number = match value {
        Value::U32(n) => Some(u64::from(*n)),
        Value::U64(n) => Some(*n),
        Value::I32(n) => u64::try_from(*n).ok(),
        Value::I64(n) => u64::try_from(*n).ok(),
        _ => None,
    };
    number.ok_or_else(|| format!("`{key}` is not a whole number"))
}

fn read_shape(content: &Content, arch: &str) -> Result<ModelShape, String> {
    let get = |key: &str| number(content, &format!("{arch}.{key}"));
    let embedding = content
        .tensor_infos
        .get(EMBEDDING)
        .ok_or_else(|| format!("has no tensor `{EMBEDDING}`"))?;
    let (vocab_size, hidden_size) = embedding
        .shape
        .dims2()
        .map_err(|_| format!("tensor `{EMBEDDING}` is not a matrix"))?;
    let num_heads = get("attention.head_count")?;
    let head_dim = match get("attention.key_length") {
        Ok(dim) => dim,
        Err(_) => (hidden_size as u64)
            .checked_div(num_heads)
            .ok_or("`attention.head_count` is 0")?,
    };
    Ok(ModelShape {
        vocab_size: vocab_size as u64,
        hidden_size: hidden_size as u64,
        intermediate_size: get("feed_forward_length")?,
        num_layers: get("block_count")?,
        num_heads,
        num_kv_heads: get("attention.head_count_kv").unwrap_or(num_heads),
        head_dim,
        max_context: get("context_length")?,
        tie_word_embeddings: !content.tensor_infos.contains_key(HEAD),
        qkv_bias: content.tensor_infos.contains_key("blk.0.attn_q.bias"),
        qk_norm: content
            .tensor_infos
            .contains_key("blk.0.attn_q_norm.weight"),
    })
}

/// What the weights occupy once they are loaded.
struct Bytes {
    /// Read in every step.
    layers: u64,
    /// The output projection.
    head: u64,
    /// All of it, with the embedding table, which is always held in f32.
    held: u64,
    dtypes: String,
}

impl Bytes {
    fn of(content: &Content) -> Self {
        let (mut layers, mut head, mut embedding) = (0, None, 0);
        let mut tied_head = 0;
        let mut dtypes = BTreeSet::new();
        for (name, info) in &content.tensor_infos {
            match name.as_str() {
                EMBEDDING => {
                    embedding = 4 * info.shape.elem_count() as u64;
                    tied_head = loaded_bytes(info);
                }
                HEAD => head = Some(loaded_bytes(info)),
                _ => layers += loaded_bytes(info),
            }
            if info.shape.rank() == 2 {
                dtypes.insert(loaded_name(info.ggml_dtype));
            }
        }
        let head = head.unwrap_or(tied_head);
        Self {
            layers,
            head,
            held: layers + head + embedding,
            dtypes: dtypes.into_iter().collect::<Vec<_>>().join("+"),
        }
    }
}

/// Float tensors are converted to f32, quantised ones are kept.
fn loaded_bytes(info: &TensorInfo) -> u64 {
    let elements = info.shape.elem_count() as u64;
    match info.ggml_dtype {
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => 4 * elements,
        quantised => elements / quantised.block_size() as u64 * quantised.type_size() as u64,
    }
}

fn loaded_name(dtype: GgmlDType) -> String {
    match dtype {
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => "f32".into(),
        quantised => TensorFormat::name_of(quantised),
    }
}
