//! What a checkpoint's configuration says about the model.

mod hf;

use costmark_core::ModelShape;

pub use hf::from_json;

/// Model families the decoder knows. They differ only in the switches below and in
/// [`ModelShape`]'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 2, 3, 3.1, 3.2.
    Llama,
    /// Mistral, with or without a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on query, key and value.
    Qwen2,
    /// Qwen3: queries and keys normalised per head.
    Qwen3,
}

impl Family {
    /// Every family, for messages that list what is supported.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// `model_type` in `config.json`.
    #[must_use]
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// Entry of `architectures` in `config.json`.
    #[must_use]
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// Frequency scaling of the rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3.1's piecewise scaling.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// Below this many turns over the original context a frequency is low.
        low_freq_factor: f64,
        /// Above this many turns a frequency stays as it is.
        high_freq_factor: f64,
        /// Context length before scaling.
        original_max_position: f64,
    },
    /// A divisor for each of the `head_dim / 2` frequencies, fastest first. GGUF files of
    /// Llama 3.x carry the piecewise scaling in this form (`rope_freqs.weight`).
    Factors(Vec<f64>),
}

/// The rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are scaled.
    pub scaling: RopeScaling,
}

/// A model's configuration, whatever file it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Name for humans: folder name, hub id, GGUF `general.name`, or configs/models name.
    pub name: String,
    /// Which family.
    pub family: Family,
    /// Dimensions.
    pub shape: ModelShape,
    /// Epsilon of all RMS norms.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Attention sees at most this many tokens back, in every layer.
    pub sliding_window: Option<u32>,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
}

/// Whether the dimensions make sense together, so that no later arithmetic overflows or
/// divides by zero. The error names the offending number.
pub(crate) fn check_shape(shape: &ModelShape) -> Result<(), String> {
    const WIDEST: u64 = 1 << 24;
    let limits = [
        ("vocabulary size", shape.vocab_size, 1 << 28),
        ("hidden size", shape.hidden_size, WIDEST),
        ("intermediate size", shape.intermediate_size, WIDEST),
        ("number of layers", shape.num_layers, 1 << 12),
        ("number of attention heads", shape.num_heads, WIDEST),
        ("number of key-value heads", shape.num_kv_heads, WIDEST),
        ("head size", shape.head_dim, WIDEST),
        ("context length", shape.max_context, 1 << 32),
    ];
    for (what, value, most) in limits {
        if value == 0 || value > most {
            return Err(format!("the {what} is {value}, expected 1 to {most}"));
        }
    }
    if shape.num_heads * shape.head_dim > WIDEST {
        return Err(format!(
            "{} heads of {} are wider than {WIDEST}",
            shape.num_heads, shape.head_dim
        ));
    }
    if !shape.num_heads.is_multiple_of(shape.num_kv_heads) {
        return Err(format!(
            "{} attention heads cannot share {} key-value heads evenly",
            shape.num_heads, shape.num_kv_heads
        ));
    }
    if !shape.head_dim.is_multiple_of(2) {
        return Err(format!(
            "the head size {} is odd; rotary embedding needs pairs",
            shape.head_dim
        ));
    }
    Ok(())
}

/// `Llama, Mistral, …` for messages.
pub(crate) fn supported_architectures() -> String {
    Family::ALL.map(Family::architecture).join(", ")
}
