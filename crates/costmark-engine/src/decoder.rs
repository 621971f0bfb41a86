//! One decoder for all families: a forward pass over packed tokens of many sequences.
//!
//! Families differ only in the switches of [`ModelConfig`] and its shape: biases on query,
//! key and value (Qwen2), norms over each head (Qwen3), a sliding window (Mistral), the
//! rotary scaling (Llama 3.1). Products go through [`Linear`], everything around them
//! through [`Ops`].

use candle_core::{DType, Device, Tensor};
use costmark_core::ModelWork;

use crate::batch::StepBatch;
use crate::config::{ModelConfig, RopeScaling, check_shape};
use crate::error::{EngineError, Result};
use crate::linear::{Linear, Together};
use crate::ops::{AttentionInput, AttentionShape, Norm, Ops};
use crate::options::KvDtype;
use crate::rope;
use crate::weights::WeightSource;

/// A loaded model without its KV cache, which lives in [`Ops`].
pub struct Decoder {
    config: ModelConfig,
    embedding: Linear,
    layers: Vec<Layer>,
    norm: Norm,
    /// The output projection; `None` when the embedding serves.
    head: Option<Linear>,
    frequencies: Vec<f32>,
}

struct Layer {
    input_norm: Norm,
    qkv: Together<3>,
    qk_norm: Option<(Norm, Norm)>,
    o: Linear,
    mlp_norm: Norm,
    gate_up: Together<2>,
    down: Linear,
}

impl Layer {
    fn linears(&self) -> impl Iterator<Item = &Linear> {
        let together = self.qkv.parts().iter().chain(self.gate_up.parts());
        together.chain([&self.o, &self.down])
    }

    fn norms(&self) -> impl Iterator<Item = &Norm> {
        let heads = self.qk_norm.iter().flat_map(|(q, k)| [q, k]);
        [&self.input_norm, &self.mlp_norm].into_iter().chain(heads)
    }
}

impl Decoder {
    /// Loads all weights.
    ///
    /// # Errors
    /// [`EngineError::Option`] for a shape no decoder can have; else what the source says.
    pub fn load(config: &ModelConfig, weights: &mut dyn WeightSource) -> Result<Self> {
        check(config)?;
        let shape = &config.shape;
        let (hidden, inner) = (shape.hidden_size, shape.intermediate_size);
        let q_width = shape.num_heads * shape.head_dim;
        let kv_width = shape.num_kv_heads * shape.head_dim;
        let eps = config.rms_norm_eps;
        let norm = |weights: &mut dyn WeightSource, name: &str, len: u64| -> Result<Norm> {
            let weight = weights.vector(name, len)?;
            Ok(Norm { weight, eps })
        };
        let embedding = weights.linear("model.embed_tokens", shape.vocab_size, hidden, false)?;
        let mut layers = Vec::with_capacity(shape.num_layers as usize);
        for index in 0..shape.num_layers {
            let at = |part: &str| format!("model.layers.{index}.{part}");
            let (attn, mlp) = (
                |p: &str| at(&format!("self_attn.{p}")),
                |p: &str| at(&format!("mlp.{p}")),
            );
            layers.push(Layer {
                input_norm: norm(weights, &at("input_layernorm"), hidden)?,
                qkv: Together::new([
                    weights.linear(&attn("q_proj"), q_width, hidden, shape.qkv_bias)?,
                    weights.linear(&attn("k_proj"), kv_width, hidden, shape.qkv_bias)?,
                    weights.linear(&attn("v_proj"), kv_width, hidden, shape.qkv_bias)?,
                ])?,
                qk_norm: match shape.qk_norm {
                    true => Some((
                        norm(weights, &attn("q_norm"), shape.head_dim)?,
                        norm(weights, &attn("k_norm"), shape.head_dim)?,
                    )),
                    false => None,
                },
                o: weights.linear(&attn("o_proj"), hidden, q_width, false)?,
                mlp_norm: norm(weights, &at("post_attention_layernorm"), hidden)?,
                gate_up: Together::new([
                    weights.linear(&mlp("gate_proj"), inner, hidden, false)?,
                    weights.linear(&mlp("up_proj"), inner, hidden, false)?,
                ])?,
                down: weights.linear(&mlp("down_proj"), hidden, inner, false)?,
            });
        }
        Ok(Self {
            embedding,
            layers,
            norm: norm(weights, "model.norm", hidden)?,
            head: match shape.tie_word_embeddings {
                true => None,
                false => Some(weights.linear("lm_head", shape.vocab_size, hidden, false)?),
            },
            frequencies: rope::frequencies(&config.rope, shape.head_dim as usize),
            config: config.clone(),
        })
    }

    /// What the model is.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Dimensions of its attention.
    #[must_use]
    pub fn attention_shape(&self) -> AttentionShape {
        let shape = &self.config.shape;
        AttentionShape {
            heads: shape.num_heads as usize,
            kv_heads: shape.num_kv_heads as usize,
            head_dim: shape.head_dim as usize,
            window: self.config.sliding_window.map(|w| w as usize),
        }
    }

    /// Runs the batch: writes its keys and values through `ops` and returns logits
    /// `(rows, vocab)` f32 of [`StepBatch::logits_rows`], or `None` when no row is wanted.
    ///
    /// # Errors
    /// When the device fails or an id is outside the vocabulary.
    pub fn forward(&self, batch: &StepBatch, ops: &mut dyn Ops) -> Result<Option<Tensor>> {
        let rotations = ops.begin(batch, &self.frequencies)?;
        let ids = Tensor::new(batch.token_ids.as_slice(), &Device::Cpu)?;
        let mut residual = self.embedding.rows(&ids)?; // (tokens, hidden)
        let mut delta: Option<Tensor> = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let (sum, x) = ops.add_norm(residual, delta.as_ref(), &layer.input_norm)?;
            let [q, k, v] = layer.qkv.forward(&x)?;
            let input = AttentionInput {
                q: &q,
                k: &k,
                v: &v,
                qk_norm: layer.qk_norm.as_ref(),
                rotations: &rotations,
                batch,
            };
            let attended = ops.attend(index, &input)?; // (tokens, heads · head_dim)
            let attended = layer.o.forward(&attended)?;
            let (sum, x) = ops.add_norm(sum, Some(&attended), &layer.mlp_norm)?;
            let [gate, up] = layer.gate_up.forward(&x)?;
            delta = Some(layer.down.forward(&ops.silu_mul(gate, &up)?)?);
            residual = sum;
        }
        let rows = batch.logits_rows();
        if rows.is_empty() {
            return Ok(None);
        }
        if rows.len() < batch.tokens() {
            let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
            let rows = Tensor::new(rows, residual.device())?;
            residual = residual.index_select(&rows, 0)?;
            delta = delta.map(|d| d.index_select(&rows, 0)).transpose()?;
        }
        let (_, x) = ops.add_norm(residual, delta.as_ref(), &self.norm)?;
        Ok(Some(self.output().forward(&x)?.to_dtype(DType::F32)?))
    }

    /// Where the weights are.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.norm.weight.device()
    }

    /// The type of what goes into products and comes out of them: that of the weights where
    /// all are of one float type on a GPU, f32 everywhere else.
    #[must_use]
    pub fn activation_dtype(&self) -> DType {
        let mut linears = self
            .layers
            .iter()
            .flat_map(Layer::linears)
            .chain(&self.head);
        let first = linears.next().and_then(Linear::float_dtype);
        match first {
            Some(dtype) if linears.all(|linear| linear.float_dtype() == Some(dtype)) => dtype,
            _ => DType::F32,
        }
    }

    /// What a step must move and compute, from the weights as they are stored.
    #[must_use]
    pub fn work(&self, kv_dtype: KvDtype) -> ModelWork {
        let shape = &self.config.shape;
        let norm_bytes = |norm: &Norm| (norm.weight.elem_count() * 4) as u64;
        let layers = self.layers.iter().map(|layer| {
            let linears: u64 = layer.linears().map(Linear::bytes).sum();
            linears + layer.norms().map(norm_bytes).sum::<u64>()
        });
        ModelWork {
            layer_weight_bytes: layers.sum::<u64>() + norm_bytes(&self.norm),
            head_weight_bytes: self.output().bytes(),
            embedding_row_bytes: self.embedding.bytes() / shape.vocab_size,
            kv_bytes_per_token: shape.kv_values_per_token() * kv_dtype.bytes(),
            logits_row_bytes: shape.vocab_size * 4,
            matmul_flops_per_token: shape.matmul_flops_per_token(),
            head_flops_per_row: shape.head_flops_per_row(),
            attention_flops_per_pair: shape.attention_flops_per_pair(),
        }
    }

    /// Bytes held by all weights, a tied embedding counted once.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        let work = self.work(KvDtype::F32);
        let embedding = self.head.as_ref().map_or(0, |_| self.embedding.bytes());
        work.layer_weight_bytes + work.head_weight_bytes + embedding
    }

    /// How the matrices are stored, the type that holds most bytes first: `q4_k+q6_k`.
    #[must_use]
    pub fn weight_dtype(&self) -> String {
        let mut kinds: Vec<(String, u64)> = Vec::new();
        let outer = std::iter::once(&self.embedding).chain(&self.head);
        for linear in self.layers.iter().flat_map(Layer::linears).chain(outer) {
            let name = linear.dtype_name();
            match kinds.iter_mut().find(|(known, _)| *known == name) {
                Some((_, bytes)) => *bytes += linear.bytes(),
                None => kinds.push((name, linear.bytes())),
            }
        }
        kinds.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let names: Vec<String> = kinds.into_iter().map(|(name, _)| name).collect();
        names.join("+")
    }

    fn output(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

fn check(config: &ModelConfig) -> Result<()> {
    let problem = match (&config.rope.scaling, config.sliding_window) {
        (RopeScaling::Factors(factors), _) if factors.len() as u64 * 2 != config.shape.head_dim => {
            Err(format!(
                "{} rotary factors do not match heads of {} dimensions",
                factors.len(),
                config.shape.head_dim
            ))
        }
        (_, Some(0)) => Err("its sliding window is 0 tokens".into()),
        _ => check_shape(&config.shape),
    };
    problem.map_err(|what| {
        let name = &config.name;
        EngineError::Option(format!(
            "{name}: {what}: the configuration does not describe a model this engine can run"
        ))
    })
}
