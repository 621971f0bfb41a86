//! Tiny models with random weights, for this crate's own tests.

use candle_core::{Device, Tensor};
use costmark_core::ModelShape;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::{Family, ModelConfig, Rope, RopeScaling};
use crate::decoder::Decoder;
use crate::error::Result;
use crate::linear::Linear;
use crate::weights::{TensorFormat, WeightSource, blocks};

/// Every family's switches, with more query than key heads.
pub(crate) fn config(family: Family) -> ModelConfig {
    let qwen3 = family == Family::Qwen3;
    ModelConfig {
        name: "tiny".into(),
        family,
        shape: ModelShape {
            vocab_size: 97,
            hidden_size: 32,
            intermediate_size: 48,
            num_layers: 2,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: if qwen3 { 12 } else { 8 },
            max_context: 512,
            tie_word_embeddings: qwen3,
            qkv_bias: family == Family::Qwen2,
            qk_norm: qwen3,
        },
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: 10_000.0,
            scaling: match family {
                Family::Llama => RopeScaling::Llama3 {
                    factor: 4.0,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_max_position: 32.0,
                },
                _ => RopeScaling::None,
            },
        },
        sliding_window: (family == Family::Mistral).then_some(20),
        eos_token_ids: vec![3],
    }
}

/// Uniform random weights; a tensor depends on its name only.
pub(crate) struct RandomWeights {
    /// All weights of this tensor are NaN.
    pub(crate) poisoned: Option<&'static str>,
}

impl RandomWeights {
    fn values(&self, name: &str, len: u64, centre: f32, spread: f32) -> Vec<f32> {
        if self.poisoned == Some(name) {
            return vec![f32::NAN; len as usize];
        }
        let seed = name
            .bytes()
            .fold(7u64, |h, b| h.wrapping_mul(31) + u64::from(b));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..len)
            .map(|_| centre + spread * (rng.random::<f32>() * 2.0 - 1.0))
            .collect()
    }
}

impl WeightSource for RandomWeights {
    fn linear(&mut self, name: &str, out: u64, input: u64, bias: bool) -> Result<Linear> {
        // Keeps activations near 1 in size: greedy choices are then far from ties.
        let spread = 2.0 / (input as f32).sqrt();
        let weight = self.values(name, out * input, 0.0, spread);
        let weight: Vec<u8> = weight.iter().flat_map(|w| w.to_le_bytes()).collect();
        let bias = match bias {
            true => {
                let values = self.values(&format!("{name}.bias"), out, 0.0, 0.5);
                Some(Tensor::from_vec(values, out as usize, &Device::Cpu)?)
            }
            false => None,
        };
        let shape = (out as usize, input as usize);
        blocks::linear(&weight, TensorFormat::F32, shape, bias, &Device::Cpu)
    }

    fn vector(&mut self, name: &str, len: u64) -> Result<Tensor> {
        let values = self.values(name, len, 1.0, 0.5);
        Ok(Tensor::from_vec(values, len as usize, &Device::Cpu)?)
    }

    fn stored_as(&self, _: &str) -> Result<TensorFormat> {
        Ok(TensorFormat::F32)
    }
}

pub(crate) fn decoder(family: Family) -> Decoder {
    Decoder::load(&config(family), &mut RandomWeights { poisoned: None }).unwrap()
}
