//! What can go wrong before a kernel runs.

use crate::TensorFormat;

/// Shorthand for this crate's results.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

/// An error of the kernels: all of them are met while weights are packed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Stored bytes are not the matrix they should be.
    #[error("{bytes} bytes are not {outputs} × {width} values of {format}")]
    Misfit {
        /// How many there are.
        bytes: usize,
        /// Rows of the matrix.
        outputs: usize,
        /// Columns of the matrix.
        width: usize,
        /// What they should be stored as.
        format: TensorFormat,
    },
    /// The system has no memory.
    #[error(
        "the system refuses {bytes} bytes for weights ({source}): take a smaller model or more \
         quantised weights"
    )]
    Memory {
        /// How many were asked for.
        bytes: usize,
        /// What the system said.
        source: std::io::Error,
    },
}
