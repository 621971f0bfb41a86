//! A model ready to be loaded: its configuration and where its weights come from.

use candle_core::Device;

use crate::config::ModelConfig;
use crate::weights::{FormatChoice, SyntheticWeights, WeightSource};

/// A checkpoint whose tensors can be asked for.
pub struct Checkpoint {
    /// The model's configuration.
    pub config: ModelConfig,
    /// Where the weights come from, for results: a path, a hub id with revision, or
    /// `synthetic, seed n`.
    pub source: String,
    /// The weights are random numbers.
    pub synthetic: bool,
    /// Commit of a hub checkpoint.
    pub revision: Option<String>,
    /// Conversions and other facts a reader of the result must know.
    pub notes: Vec<String>,
    /// Hands out the tensors.
    pub weights: Box<dyn WeightSource + Send>,
}

impl Checkpoint {
    /// Random weights of `config`'s shape, see [`SyntheticWeights`].
    #[must_use]
    pub fn synthetic(
        config: ModelConfig,
        format: FormatChoice,
        seed: u64,
        device: &Device,
    ) -> Self {
        Self {
            source: format!("synthetic, seed {seed}"),
            synthetic: true,
            revision: None,
            notes: vec!["synthetic weights: output is meaningless, speed is not".into()],
            weights: Box::new(SyntheticWeights::new(&config, format, seed, device)),
            config,
        }
    }
}
