//! In-process inference on candle: checkpoints, a paged KV cache, continuous batching.
//!
//! The road of a token: [`weights`] reads or makes a checkpoint and hands out
//! [`linear::Linear`] products; the decoder runs packed tokens of many sequences through
//! them; the scheduler and block manager decide which, without ever touching a tensor.
//!
//! candle is known here and nowhere else.

pub mod checkpoint;
pub mod config;
pub mod error;
pub mod linear;
pub mod weights;

pub use checkpoint::Checkpoint;
pub use config::{Family, ModelConfig, Rope, RopeScaling};
pub use error::EngineError;
pub use weights::{FormatChoice, TensorFormat, WeightSource};
