//! GGUF files of the `llama`, `qwen2` and `qwen3` architectures.
//!
//! The file is mapped; each tensor is copied once, into the product that uses it, and its
//! pages are given back. Files of the `llama` architecture hold the rows of the query and
//! key projections in the order of an interleaved rotary embedding; they are brought back
//! to halves here, which for quantised rows moves whole blocks and changes no value.

mod config;
mod header;

use std::borrow::Cow;
use std::path::Path;

use candle_core::{Device, Tensor};

use self::header::TensorInfo;
pub(crate) use self::header::{Header, Value};
use super::layout::{Role, matrices, vectors};
use super::mmap::MappedFile;
use super::progress::Loading;
use super::stored::{self, Origin};
use super::{FormatChoice, TensorFormat, WeightSource};
use crate::config::{Family, ModelConfig};
use crate::error::{EngineError, Result};
use crate::linear::Linear;
use crate::tokenizer::TokenizerSource;

/// Tensors of one GGUF file.
pub struct GgufWeights {
    file: MappedFile,
    header: Header,
    config: ModelConfig,
    choice: FormatChoice,
    device: Device,
    loading: Loading,
}

impl GgufWeights {
    /// Maps the file and checks its header. Tensors are read when asked for.
    ///
    /// # Errors
    /// Names the file, and the tensor where one is concerned: cut off, damaged, missing, of
    /// an unknown type, or unknown to the architecture.
    pub fn open(
        path: &Path,
        choice: FormatChoice,
        device: &Device,
        mut loading: Loading,
    ) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let header = Header::parse(file.bytes()).map_err(|error| match error.tensor {
            None => EngineError::file(path, error.message),
            Some(tensor) => EngineError::Tensor {
                path: path.to_path_buf(),
                tensor,
                message: error.message,
            },
        })?;
        let factors = match header.tensors.get("rope_freqs.weight") {
            None => None,
            Some(info) if info.format.is_float() => Some(
                stored::floats(&file.bytes()[info.range.clone()], info.format)
                    .into_iter()
                    .map(f64::from)
                    .collect(),
            ),
            Some(info) => {
                return Err(EngineError::Tensor {
                    path: path.to_path_buf(),
                    tensor: "rope_freqs.weight".into(),
                    message: format!("stored as {}, expected f32", info.format),
                });
            }
        };
        let name = path
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let config = config::from_header(&header, &name, factors)
            .map_err(|message| EngineError::file(path, message))?;
        loading.expect(
            header.tensors.len() as u64,
            header.tensors.values().map(|t| t.range.len() as u64).sum(),
        );
        let this = Self {
            file,
            header,
            config,
            choice,
            device: device.clone(),
            loading,
        };
        this.check_names()?;
        this.check_choice()?;
        Ok(this)
    }

    /// The configuration in the file's metadata.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the model's tokenizer is: in the file, or beside it.
    #[must_use]
    pub fn tokenizer(&self) -> Option<TokenizerSource> {
        let path = self.file.path();
        let any = self.header.text("tokenizer.ggml.model").is_some()
            || path.with_file_name("tokenizer.json").is_file();
        any.then(|| TokenizerSource::Gguf(path.to_path_buf()))
    }

    /// Which formats the matrices have and how many of each, e.g. `q4_k ×140, q6_k ×30`.
    #[must_use]
    pub fn mix(&self) -> String {
        let formats: Vec<TensorFormat> = matrices(&self.config.shape)
            .iter()
            .filter_map(|m| self.header.tensors.get(&tensor_name(&m.name, "weight")))
            .map(|info| info.format)
            .collect();
        let mut counts: Vec<(usize, TensorFormat)> = TensorFormat::ALL
            .into_iter()
            .map(|f| (formats.iter().filter(|g| **g == f).count(), f))
            .filter(|(count, _)| *count > 0)
            .collect();
        counts.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        let parts: Vec<String> = counts.iter().map(|(n, f)| format!("{f} ×{n}")).collect();
        parts.join(", ")
    }

    fn check_names(&self) -> Result<()> {
        let shape = &self.config.shape;
        let mut expected: Vec<String> = vectors(shape)
            .into_iter()
            .map(|(name, _)| tensor_name(&name, "weight"))
            .collect();
        for matrix in matrices(shape) {
            if matrix.bias {
                expected.push(tensor_name(&matrix.name, "bias"));
            }
            expected.push(tensor_name(&matrix.name, "weight"));
        }
        for name in &expected {
            self.info(name)?;
        }
        let surplus = self
            .header
            .tensors
            .keys()
            .filter(|name| *name != "rope_freqs.weight")
            .filter(|name| !expected.contains(name))
            .min();
        match surplus {
            None => Ok(()),
            Some(name) => Err(self.origin(name).error(
                "this architecture has no such tensor; running without it would give wrong \
                 results",
            )),
        }
    }

    fn check_choice(&self) -> Result<()> {
        for matrix in matrices(&self.config.shape) {
            let name = tensor_name(&matrix.name, "weight");
            let stored = self.info(&name)?.format;
            let wanted = self.choice.of(&matrix, &self.config.shape);
            if let Some(wanted) = wanted
                && wanted != stored
                && !stored.is_float()
            {
                return Err(EngineError::Option(format!(
                    "{} is already quantised (tensor `{name}` is {stored}); --quantize and \
                     --dtype need a checkpoint in f32, f16 or bf16",
                    self.file.path().display()
                )));
            }
        }
        Ok(())
    }

    fn origin<'a>(&'a self, tensor: &'a str) -> Origin<'a> {
        Origin {
            path: self.file.path(),
            tensor,
        }
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.tensors.get(name).ok_or_else(|| {
            self.origin(name)
                .error("missing; the file is not complete or was made for another architecture")
        })
    }

    /// Stored bytes of a tensor, with the rows of rotary projections in the decoder's order.
    fn bytes(&self, name: &str, info: &TensorInfo) -> Cow<'_, [u8]> {
        let bytes = &self.file.bytes()[info.range.clone()];
        let shape = &self.config.shape;
        let heads = match rotary_role(name) {
            Some(Role::Query) if self.config.family == Family::Llama => shape.num_heads,
            Some(Role::Key) if self.config.family == Family::Llama => shape.num_kv_heads,
            _ => return Cow::Borrowed(bytes),
        };
        Cow::Owned(interleaved_to_halves(
            bytes,
            heads as usize,
            shape.head_dim as usize,
        ))
    }

    fn take_vector(&mut self, name: &str, len: u64) -> Result<Tensor> {
        let info = self.info(name)?;
        let origin = self.origin(name);
        origin.check_shape(&info.shape, &[len])?;
        let taken = info.range.len() as u64;
        let tensor = stored::vector(&self.bytes(name, info), info.format, origin, &self.device)?;
        self.loading.loaded(taken);
        Ok(tensor)
    }
}

impl WeightSource for GgufWeights {
    fn linear(
        &mut self,
        name: &str,
        out_features: u64,
        in_features: u64,
        bias: bool,
    ) -> Result<Linear> {
        let bias = if bias {
            Some(self.take_vector(&tensor_name(name, "bias"), out_features)?)
        } else {
            None
        };
        let target = self.stored_as(name)?;
        let full_name = tensor_name(name, "weight");
        let info = self.info(&full_name)?;
        self.origin(&full_name)
            .check_shape(&info.shape, &[out_features, in_features])?;
        let range = info.range.clone();
        let linear = stored::linear(
            &self.bytes(&full_name, info),
            info.format,
            target,
            (out_features as usize, in_features as usize),
            bias,
            &self.device,
        )?;
        self.file.release(range.clone());
        self.loading.loaded(range.len() as u64);
        Ok(linear)
    }

    fn vector(&mut self, name: &str, len: u64) -> Result<Tensor> {
        self.take_vector(&tensor_name(name, "weight"), len)
    }

    fn stored_as(&self, name: &str) -> Result<TensorFormat> {
        let stored = self.info(&tensor_name(name, "weight"))?.format;
        let shape = &self.config.shape;
        let wanted = matrices(shape)
            .iter()
            .find(|m| m.name == name)
            .and_then(|m| self.choice.of(m, shape));
        Ok(wanted.unwrap_or(stored))
    }
}

/// GGUF's name for a tensor with this Hugging Face name.
fn tensor_name(name: &str, suffix: &str) -> String {
    let gguf = match name {
        "model.embed_tokens" => "token_embd".to_string(),
        "model.norm" => "output_norm".to_string(),
        "lm_head" => "output".to_string(),
        _ => match name
            .strip_prefix("model.layers.")
            .and_then(|rest| rest.split_once('.'))
        {
            Some((layer, part)) => {
                let part = match part {
                    "input_layernorm" => "attn_norm",
                    "post_attention_layernorm" => "ffn_norm",
                    "self_attn.q_proj" => "attn_q",
                    "self_attn.k_proj" => "attn_k",
                    "self_attn.v_proj" => "attn_v",
                    "self_attn.o_proj" => "attn_output",
                    "self_attn.q_norm" => "attn_q_norm",
                    "self_attn.k_norm" => "attn_k_norm",
                    "mlp.gate_proj" => "ffn_gate",
                    "mlp.up_proj" => "ffn_up",
                    "mlp.down_proj" => "ffn_down",
                    other => other,
                };
                format!("blk.{layer}.{part}")
            }
            None => name.to_string(),
        },
    };
    format!("{gguf}.{suffix}")
}

fn rotary_role(name: &str) -> Option<Role> {
    match name.rsplit('.').nth(1)? {
        "attn_q" => Some(Role::Query),
        "attn_k" => Some(Role::Key),
        _ => None,
    }
}

/// Rows of each head from the order (first of pair 0, second of pair 0, first of pair 1, …)
/// to (all firsts, all seconds).
fn interleaved_to_halves(bytes: &[u8], heads: usize, head_dim: usize) -> Vec<u8> {
    let row = bytes.len() / (heads * head_dim);
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(head_dim * row) {
        for half in 0..2 {
            for pair in 0..head_dim / 2 {
                let at = (2 * pair + half) * row;
                out.extend_from_slice(&head[at..at + row]);
            }
        }
    }
    out
}
