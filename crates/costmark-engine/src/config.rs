//! What a checkpoint's configuration says about the model.

use costmark_core::ModelShape;

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

/// Frequency scaling of the rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
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
}

/// The rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
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
