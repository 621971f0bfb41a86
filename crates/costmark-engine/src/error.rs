//! What can go wrong between a checkpoint and a token.

use std::path::PathBuf;

/// Shorthand for this crate's results.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// An error of the engine. [`is_input`](EngineError::is_input) tells the user's mistakes
/// from failures while running.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file of the checkpoint cannot be used.
    #[error("{}: {message}", path.display())]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// What is wrong with it and the way out.
        message: String,
    },
    /// A tensor is missing or has another shape than the configuration implies.
    #[error("{}: tensor `{tensor}`: {message}", path.display())]
    Tensor {
        /// The file, or the folder when no file holds the tensor.
        path: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// What is wrong with it and the way out.
        message: String,
    },
    /// An option cannot be met, e.g. a KV budget too small for one sequence.
    #[error("{0}")]
    Option(String),
    /// The hub could not deliver.
    #[error("{0}")]
    Hub(String),
    /// The tensor library failed while running.
    #[error("{0}")]
    Candle(#[from] candle_core::Error),
    /// Weights could not be packed.
    #[error("{0}")]
    Kernel(#[from] costmark_kernels::KernelError),
    /// The engine failed while running.
    #[error("{0}")]
    Run(String),
}

impl EngineError {
    /// Whether the input was wrong (exit code 2) rather than the run (exit code 1).
    #[must_use]
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::Candle(_) | Self::Kernel(_) | Self::Run(_))
    }

    /// A [`File`](EngineError::File) error.
    pub fn file(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::File {
            path: path.into(),
            message: message.into(),
        }
    }
}
