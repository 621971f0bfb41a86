//! The families the engine runs too: the crate's own reader understands their files.

use candle_nn::Activation;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};

use super::{Arch, Sizes, Spec, limit, window_note};
use crate::config::{Family, ModelConfig, RopeScaling};

/// What candle-transformers takes for `config`.
pub(super) fn spec(config: &ModelConfig, max_context: Option<u32>) -> Result<Spec, String> {
    let mut shape = config.shape;
    shape.max_context = limit(shape.max_context, max_context);
    let s = Sizes::of(&shape);
    let mut notes = Vec::new();
    if config.rope.scaling != RopeScaling::None
        && !(config.family == Family::Llama
            && matches!(config.rope.scaling, RopeScaling::Llama3 { .. }))
    {
        notes.push("candle-transformers ignores this model's rotary scaling".to_string());
    }
    let rope_theta = config.rope.theta;
    let arch = match config.family {
        Family::Llama => {
            if s.head_dim * s.heads != s.hidden {
                return Err(format!(
                    "candle-transformers' Llama needs heads × head_dim = hidden_size, not {} × {} \
                     for {}; the engine runs this model",
                    s.heads, s.head_dim, s.hidden
                ));
            }
            Arch::Llama(llama::Config {
                hidden_size: s.hidden,
                intermediate_size: s.intermediate,
                vocab_size: s.vocab,
                num_hidden_layers: s.layers,
                num_attention_heads: s.heads,
                num_key_value_heads: s.kv_heads,
                use_flash_attn: false,
                rms_norm_eps: config.rms_norm_eps,
                rope_theta: rope_theta as f32,
                bos_token_id: None,
                eos_token_id: None,
                rope_scaling: llama3_scaling(&config.rope.scaling),
                max_position_embeddings: s.max_context,
                tie_word_embeddings: shape.tie_word_embeddings,
            })
        }
        Family::Mistral => {
            if let Some(window) = config.sliding_window {
                notes.push(window_note(window));
            }
            Arch::Mistral(mistral::Config {
                vocab_size: s.vocab,
                hidden_size: s.hidden,
                intermediate_size: s.intermediate,
                num_hidden_layers: s.layers,
                num_attention_heads: s.heads,
                head_dim: Some(s.head_dim),
                num_key_value_heads: s.kv_heads,
                hidden_act: Activation::Silu,
                max_position_embeddings: s.max_context,
                rms_norm_eps: config.rms_norm_eps,
                rope_theta,
                sliding_window: config.sliding_window.map(|w| w as usize),
                use_flash_attn: false,
            })
        }
        Family::Qwen2 => {
            if let Some(window) = config.sliding_window {
                notes.push(window_note(window));
            }
            Arch::Qwen2(qwen2::Config {
                vocab_size: s.vocab,
                hidden_size: s.hidden,
                intermediate_size: s.intermediate,
                num_hidden_layers: s.layers,
                num_attention_heads: s.heads,
                num_key_value_heads: s.kv_heads,
                max_position_embeddings: s.max_context,
                // Always applied to the prompt; as wide as the context it hides nothing.
                sliding_window: config.sliding_window.map_or(s.max_context, |w| w as usize),
                max_window_layers: s.layers,
                tie_word_embeddings: shape.tie_word_embeddings,
                rope_theta,
                rms_norm_eps: config.rms_norm_eps,
                use_sliding_window: false,
                hidden_act: Activation::Silu,
            })
        }
        Family::Qwen3 => {
            if config.sliding_window.is_some() {
                return Err("candle-transformers' Qwen3 has no sliding window".into());
            }
            Arch::Qwen3(qwen3::Config {
                vocab_size: s.vocab,
                hidden_size: s.hidden,
                intermediate_size: s.intermediate,
                num_hidden_layers: s.layers,
                num_attention_heads: s.heads,
                head_dim: s.head_dim,
                attention_bias: false,
                num_key_value_heads: s.kv_heads,
                max_position_embeddings: s.max_context,
                sliding_window: None,
                max_window_layers: s.layers,
                tie_word_embeddings: shape.tie_word_embeddings,
                rope_theta,
                rms_norm_eps: config.rms_norm_eps,
                use_sliding_window: false,
                hidden_act: Activation::Silu,
            })
        }
    };
    Ok(Spec {
        arch,
        shape,
        extra_params: 0,
        eos_token_ids: config.eos_token_ids.clone(),
        notes,
    })
}

fn llama3_scaling(scaling: &RopeScaling) -> Option<llama::Llama3RopeConfig> {
    let RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position,
    } = *scaling
    else {
        return None;
    };
    Some(llama::Llama3RopeConfig {
        factor: factor as f32,
        low_freq_factor: low_freq_factor as f32,
        high_freq_factor: high_freq_factor as f32,
        original_max_position_embeddings: original_max_position as usize,
        rope_type: llama::Llama3RopeType::Llama3,
    })
}
