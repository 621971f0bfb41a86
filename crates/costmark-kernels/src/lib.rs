//! The engine's hot loops, on plain slices: products with packed weights, attention over a
//! paged cache, element-wise functions, and the threads that share them out.
//!
//! Nothing here knows a tensor library, a model or a file: a change to a kernel is built and
//! tested in seconds. What a kernel is for and what it rounds is said where it is; whoever
//! uses it decides what to multiply.

pub mod attention;
pub mod error;
mod format;
pub mod linear;
pub mod math;
pub mod parallel;
mod pool;
#[cfg(target_arch = "x86_64")]
mod tiles;

pub use error::{KernelError, Result};
pub use format::TensorFormat;
