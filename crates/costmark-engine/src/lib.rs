//! In-process inference on candle: checkpoints, a paged KV cache, continuous batching.
//!
//! The road of a token: [`weights`] reads or makes a checkpoint and hands out
//! [`linear::Linear`] products; the decoder runs packed tokens of many sequences through
//! them; the scheduler and block manager decide which, without ever touching a tensor.
//!
//! candle is known here and nowhere else.

pub mod backend;
pub mod batch;
pub mod block_manager;
pub mod builtin;
pub mod chat_template;
pub mod checkpoint;
pub mod config;
pub mod decoder;
pub mod device;
pub mod engine;
pub mod error;
pub mod gpu_peaks;
pub mod hub;
pub mod info;
mod kv;
pub mod linear;
pub mod lockstep;
mod logprobs;
pub mod memory;
pub mod ops;
pub mod options;
mod request_check;
pub mod rope;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
#[cfg(test)]
mod test_model;
pub mod tokenizer;
pub mod weights;

pub use backend::{EngineBackend, ModelDescription};
pub use checkpoint::{Checkpoint, OpenOptions, WeightChoice};
pub use config::{Family, ModelConfig, Rope, RopeScaling};
pub use decoder::Decoder;
pub use device::DeviceChoice;
pub use engine::EngineCore;
pub use error::EngineError;
pub use info::ModelInfo;
pub use options::{EngineOptions, KvDtype, Limits};
pub use tokenizer::{Tokenizer, TokenizerSource};
pub use weights::{FormatChoice, Progress, ProgressFn, TensorFormat, WeightSource};
