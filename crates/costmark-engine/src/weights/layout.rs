//! The matrices of a model by name and size, without any file.

use costmark_core::ModelShape;

/// What a matrix is for. Mixed formats choose by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Token embedding.
    Embedding,
    /// Query projection.
    Query,
    /// Key projection.
    Key,
    /// Value projection.
    Value,
    /// Output projection of attention.
    Output,
    /// Gate of the MLP.
    Gate,
    /// Up projection of the MLP.
    Up,
    /// Down projection of the MLP.
    Down,
    /// Projection to logits.
    Head,
}

/// One matrix `(out_features, in_features)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Hugging Face name without `.weight`.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Which block it belongs to.
    pub layer: Option<u64>,
    /// Rows.
    pub out_features: u64,
    /// Columns.
    pub in_features: u64,
    /// Has a bias of `out_features`.
    pub bias: bool,
}

impl Matrix {
    /// Number of weights, bias not included.
    #[must_use]
    pub fn params(&self) -> u64 {
        self.out_features * self.in_features
    }
}

/// Every matrix of a model in the order of the file: embedding, blocks, and the output
/// projection unless it is the embedding.
#[must_use]
pub fn matrices(shape: &ModelShape) -> Vec<Matrix> {
    let hidden = shape.hidden_size;
    let q = shape.num_heads * shape.head_dim;
    let kv = shape.num_kv_heads * shape.head_dim;
    let mlp = shape.intermediate_size;
    let bias = shape.qkv_bias;
    let mut all = vec![Matrix {
        name: "model.embed_tokens".into(),
        role: Role::Embedding,
        layer: None,
        out_features: shape.vocab_size,
        in_features: hidden,
        bias: false,
    }];
    for layer in 0..shape.num_layers {
        let block = [
            ("self_attn.q_proj", Role::Query, q, hidden, bias),
            ("self_attn.k_proj", Role::Key, kv, hidden, bias),
            ("self_attn.v_proj", Role::Value, kv, hidden, bias),
            ("self_attn.o_proj", Role::Output, hidden, q, false),
            ("mlp.gate_proj", Role::Gate, mlp, hidden, false),
            ("mlp.up_proj", Role::Up, mlp, hidden, false),
            ("mlp.down_proj", Role::Down, hidden, mlp, false),
        ];
        all.extend(
            block.map(|(name, role, out_features, in_features, bias)| Matrix {
                name: format!("model.layers.{layer}.{name}"),
                role,
                layer: Some(layer),
                out_features,
                in_features,
                bias,
            }),
        );
    }
    if !shape.tie_word_embeddings {
        all.push(Matrix {
            name: "lm_head".into(),
            role: Role::Head,
            layer: None,
            out_features: shape.vocab_size,
            in_features: hidden,
            bias: false,
        });
    }
    all
}

/// Every norm of a model, as (name without `.weight`, length).
#[must_use]
pub fn vectors(shape: &ModelShape) -> Vec<(String, u64)> {
    let mut all = vec![("model.norm".to_string(), shape.hidden_size)];
    for layer in 0..shape.num_layers {
        let mut add = |name: &str, len| all.push((format!("model.layers.{layer}.{name}"), len));
        add("input_layernorm", shape.hidden_size);
        add("post_attention_layernorm", shape.hidden_size);
        if shape.qk_norm {
            add("self_attn.q_norm", shape.head_dim);
            add("self_attn.k_norm", shape.head_dim);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_and_vectors_hold_all_parameters() {
        let shape = ModelShape {
            vocab_size: 100,
            hidden_size: 64,
            intermediate_size: 96,
            num_layers: 3,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 32,
            max_context: 128,
            tie_word_embeddings: false,
            qkv_bias: true,
            qk_norm: true,
        };
        let with_bias = |m: &Matrix| m.params() + if m.bias { m.out_features } else { 0 };
        let norms: u64 = vectors(&shape).iter().map(|(_, len)| len).sum();
        assert_eq!(
            matrices(&shape).iter().map(with_bias).sum::<u64>() + norms,
            shape.params()
        );
    }
}
