//! candle-transformers models as they come, one static batch at a time.
//!
//! What naive serving costs, measured through the same [`Backend`](costmark_core::Backend)
//! as the engine: requests wait until a batch is formed, every sequence of a batch runs
//! until the longest is done, and a new request waits for the whole batch. It also covers
//! architectures the engine does not have (Phi-3, Gemma 2 and 3).
//!
//! The models know no padding masks, so only requests of equal prompt length share a
//! batch; with prompts of many lengths batches are small, down to one.
//!
//! **What the step log counts.** Slots whose request is done keep computing until the
//! batch ends. The time they take is in the step, their tokens, bytes and FLOPs are not:
//! waste shows as lower utilisation, not as work done.
//!
//! **Where candle-transformers deviates** from the published model (a sliding window that
//! is one token wider and ends with the prompt, rotary factors that are ignored) the
//! result's notes say so. Timing is what is measured; logits of such models are not used
//! as a reference.
//!
//! Weights of safetensors checkpoints are converted to f32, GGUF files run as
//! candle-transformers' quantised models. CPU only.

mod backend;
mod batch;
mod config;
mod gguf;
mod model;
mod reference;
mod tensors;
mod worker;

use std::path::PathBuf;

pub use backend::LockstepBackend;
pub use reference::Reference;

use crate::checkpoint::{OpenOptions, Place, WeightChoice};
use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::weights::{FormatChoice, ProgressFn};

/// Where the model comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum LockstepModel {
    /// A folder with `config.json` and safetensors files.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// Random weights.
    Synthetic {
        /// Of which shape.
        config: SyntheticConfig,
        /// Equal seeds give equal weights.
        seed: u64,
    },
}

/// The shape of a synthetic model.
#[derive(Debug, Clone, PartialEq)]
pub enum SyntheticConfig {
    /// The text of a `config.json`, of any architecture this backend runs.
    Json(String),
    /// One of the engine's families.
    Parsed(Box<ModelConfig>),
}

/// How the backend loads and batches.
#[derive(Clone)]
pub struct LockstepOptions {
    /// What to load.
    pub model: LockstepModel,
    /// The model's name in results.
    pub name: String,
    /// Where the weights came from, in results.
    pub source: String,
    /// Most requests in one batch.
    pub batch_size: u32,
    /// How long the first request of a batch waits for others to fill it.
    pub fill_wait_ns: u64,
    /// Longest prompt plus output of a request; `None` for the model's own limit. Some
    /// models claim cache for this many tokens per sequence up front.
    pub max_context: Option<u32>,
    /// Told how far loading is.
    pub progress: Option<ProgressFn>,
}

impl LockstepOptions {
    /// Batches of up to 16 that wait 10 ms to fill.
    pub fn new(model: LockstepModel, name: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            model,
            name: name.into(),
            source: source.into(),
            batch_size: 16,
            fill_wait_ns: 10_000_000,
            max_context: None,
            progress: None,
        }
    }

    /// [`new`](Self::new) for a model as the user names it: found where
    /// [`Checkpoint::open`](crate::Checkpoint::open) finds it, whatever its architecture.
    ///
    /// # Errors
    /// When the model is not found or cannot be fetched, or when a conversion is asked for:
    /// weights run in f32 or as a GGUF file stores them.
    pub fn find(open: &OpenOptions) -> Result<Self> {
        if open.format != FormatChoice::AsStored {
            return Err(EngineError::Option(
                "the lockstep backend runs weights in f32 or as a GGUF file stores them: leave \
                 out --dtype and --quantize, or use --backend engine"
                    .into(),
            ));
        }
        let found = open.locate()?;
        let (model, source) = match (open.weights, found.place) {
            (WeightChoice::Real, Place::Folder(folder)) => {
                (LockstepModel::Folder(folder), found.source)
            }
            (WeightChoice::Real, Place::Gguf(path)) => (LockstepModel::Gguf(path), found.source),
            (WeightChoice::Real, Place::Shape(_)) => {
                return Err(EngineError::Option(format!(
                    "`{}` is a shape without weights: add `--weights synthetic`",
                    open.model
                )));
            }
            (WeightChoice::Synthetic { seed }, place) => {
                let config = match place {
                    Place::Folder(folder) => {
                        let path = folder.join("config.json");
                        let text = std::fs::read_to_string(&path).map_err(|error| {
                            EngineError::file(&path, format!("cannot be read: {error}"))
                        })?;
                        SyntheticConfig::Json(text)
                    }
                    Place::Shape(config) => SyntheticConfig::Parsed(config),
                    Place::Gguf(path) => {
                        return Err(EngineError::file(
                            path,
                            "synthetic weights of a GGUF file's shape are the engine's: use \
                             --backend engine, or give a config.json",
                        ));
                    }
                };
                let source = format!("synthetic, seed {seed}");
                (LockstepModel::Synthetic { config, seed }, source)
            }
        };
        let mut options = Self::new(model, found.name, source);
        options.progress.clone_from(&open.progress);
        Ok(options)
    }
}
