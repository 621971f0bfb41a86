//! Tensors for candle-transformers' constructors: from safetensors files or from a seed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::error::EngineError;
use crate::weights::safetensors::SafetensorsWeights;

/// Standard deviation of synthetic matrices, the initialisation most families are trained
/// from.
const SYNTHETIC_SD: f32 = 0.02;
/// Values drawn from one random stream; a chunk of a tensor is a stream of its own.
const CHUNK: usize = 1 << 16;

/// Why a constructor failed, in this crate's words; candle would keep the text alone.
pub(super) type Failure = Arc<Mutex<Option<EngineError>>>;

/// Tensors of a folder for models that ask for them by name.
struct Files {
    weights: Mutex<SafetensorsWeights>,
    failure: Failure,
}

impl Files {
    fn weights(&self) -> MutexGuard<'_, SafetensorsWeights> {
        self.weights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimpleBackend for Files {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        _: &Device,
    ) -> candle_core::Result<Tensor> {
        // Only some models know of tied embeddings; the others ask for the head.
        let name = match name {
            "lm_head.weight" if !self.contains_tensor(name) => "model.embed_tokens.weight",
            name => name,
        };
        match self.weights().dense(name, shape.dims()) {
            Ok(tensor) => tensor.to_dtype(dtype),
            Err(error) => {
                let message = candle_core::Error::msg(&error);
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(message)
            }
        }
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("tensor `{name}` was asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.weights().has(name)
    }
}

/// Random tensors of whatever shape is asked for: matrices uniform with
/// [`SYNTHETIC_SD`], vectors as they start out in training.
struct Synthetic {
    seed: u64,
    tied: bool,
    /// Norms multiply by one plus their weight.
    norm_from_zero: bool,
}

impl SimpleBackend for Synthetic {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        if shape.rank() == 1 {
            let ones = name.ends_with("norm.weight") && !self.norm_from_zero;
            return if ones {
                Tensor::ones(shape, dtype, device)
            } else {
                Tensor::zeros(shape, dtype, device)
            };
        }
        let name = match name {
            "lm_head.weight" if self.tied => "model.embed_tokens.weight",
            name => name,
        };
        // FNV-1a, so that every tensor has streams of its own.
        let stream = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        let half_width = SYNTHETIC_SD * 3.0_f32.sqrt();
        let mut values = vec![0f32; shape.elem_count()];
        values
            .par_chunks_mut(CHUNK)
            .enumerate()
            .for_each(|(i, chunk)| {
                let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ stream);
                rng.set_stream(i as u64);
                for value in chunk {
                    *value = (rng.next_u32() as f32 / 2f32.powi(31) - 1.0) * half_width;
                }
            });
        Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("tensor `{name}` was asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        name != "lm_head.weight" || !self.tied
    }
}

/// Tensors of a folder, converted to f32, and the place where an error is left.
pub(super) fn from_files(weights: SafetensorsWeights) -> (VarBuilder<'static>, Failure) {
    let failure = Failure::default();
    let files = Files {
        weights: Mutex::new(weights),
        failure: Arc::clone(&failure),
    };
    let tensors = VarBuilder::from_backend(Box::new(files), DType::F32, Device::Cpu);
    (tensors, failure)
}

/// Seeded random tensors, f32.
pub(super) fn synthetic(seed: u64, tied: bool, norm_from_zero: bool) -> VarBuilder<'static> {
    let backend = Synthetic {
        seed,
        tied,
        norm_from_zero,
    };
    VarBuilder::from_backend(Box::new(backend), DType::F32, Device::Cpu)
}
