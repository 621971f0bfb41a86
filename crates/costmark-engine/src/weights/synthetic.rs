//! Seeded random weights of any shape, made in memory in the wanted format.
//!
//! Values are spread evenly around zero with standard deviation `1 / sqrt(in_features)`,
//! so that a product keeps the scale of its input and logits of any shape are finite and
//! differ. Norm weights are one, biases zero. Quantised matrices are never floats first:
//! the quantised values of a block are random bits and its scales are set so that the
//! values they stand for have that spread. Nothing but speed and memory of such a model
//! means anything. On a GPU, float matrices are made there, from another random stream.
//!
//! Every 64 KiB piece of a tensor has its own ChaCha8 stream, chosen by seed, tensor name
//! and position: the same seed gives the same weights whatever the number of threads.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::layout::{Matrix, matrices};
use super::progress::Loading;
use super::{FormatChoice, TensorFormat, WeightSource, blocks};
use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::linear::Linear;
#[cfg(feature = "cuda")]
use crate::ops::cuda::RandomMatrices;

/// See the [module](self).
pub struct SyntheticWeights {
    seed: u64,
    device: Device,
    matrices: HashMap<String, (Matrix, TensorFormat)>,
    loading: Loading,
    #[cfg(feature = "cuda")]
    there: Vec<RandomMatrices>,
}

impl SyntheticWeights {
    /// Weights of `config`'s shape. [`FormatChoice::AsStored`] means `bf16`.
    #[must_use]
    pub fn new(config: &ModelConfig, choice: FormatChoice, seed: u64, device: &Device) -> Self {
        let with_format = |matrix: Matrix| {
            let format = choice
                .of(&matrix, &config.shape)
                .unwrap_or(TensorFormat::BF16);
            (matrix.name.clone(), (matrix, format))
        };
        Self {
            seed,
            device: device.clone(),
            matrices: matrices(&config.shape)
                .into_iter()
                .map(with_format)
                .collect(),
            loading: Loading::default(),
            #[cfg(feature = "cuda")]
            there: Vec::new(),
        }
    }

    /// A float matrix made on a GPU.
    #[cfg(feature = "cuda")]
    fn made_there(
        &mut self,
        format: TensorFormat,
        dims: (usize, usize),
        seed: u64,
    ) -> Result<Tensor> {
        let dtype = blocks::float_dtype(format);
        let known = self.there.iter().position(|made| made.dtype() == dtype);
        let index = match known {
            Some(index) => index,
            None => {
                self.there.push(RandomMatrices::new(&self.device, dtype)?);
                self.there.len() - 1
            }
        };
        // Uniform on ±sqrt(3) has standard deviation 1.
        self.there[index].make(dims, seed, (3.0 / dims.1 as f32).sqrt())
    }

    /// Tells `loading` of each tensor made.
    #[must_use]
    pub fn with_progress(mut self, mut loading: Loading) -> Self {
        let bytes = |(matrix, format): &(Matrix, TensorFormat)| {
            format.bytes(matrix.out_features, matrix.in_features)
        };
        loading.expect(
            self.matrices.len() as u64,
            self.matrices.values().map(bytes).sum(),
        );
        self.loading = loading;
        self
    }

    fn find(&self, name: &str) -> Result<&(Matrix, TensorFormat)> {
        self.matrices.get(name).ok_or_else(|| EngineError::Tensor {
            path: "synthetic weights".into(),
            tensor: format!("{name}.weight"),
            message: "a model of this shape has no such matrix".into(),
        })
    }
}

impl WeightSource for SyntheticWeights {
    fn linear(
        &mut self,
        name: &str,
        out_features: u64,
        in_features: u64,
        bias: bool,
    ) -> Result<Linear> {
        let (matrix, format) = self.find(name)?;
        if (matrix.out_features, matrix.in_features) != (out_features, in_features) {
            return Err(EngineError::Tensor {
                path: "synthetic weights".into(),
                tensor: format!("{name}.weight"),
                message: format!(
                    "the shape is ({}, {}), not ({out_features}, {in_features})",
                    matrix.out_features, matrix.in_features
                ),
            });
        }
        let format = *format;
        let seed = tensor_seed(self.seed, name);
        let bias = if bias {
            let len = usize_of(out_features)?;
            Some(Tensor::zeros(len, candle_core::DType::F32, &self.device)?)
        } else {
            None
        };
        let dims = (usize_of(out_features)?, usize_of(in_features)?);
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() && format.is_float() {
            let weight = self.made_there(format, dims, seed)?;
            let bias = bias.map(|bias| bias.to_dtype(weight.dtype())).transpose()?;
            self.loading.loaded(format.bytes(out_features, in_features));
            return Ok(Linear::dense(weight, bias));
        }
        let bytes = random_matrix(format, out_features, in_features, seed);
        let linear = blocks::linear(&bytes, format, dims, bias, &self.device)?;
        self.loading.loaded(bytes.len() as u64);
        Ok(linear)
    }

    fn vector(&mut self, _name: &str, len: u64) -> Result<Tensor> {
        let len = usize_of(len)?;
        Ok(Tensor::ones(len, candle_core::DType::F32, &self.device)?)
    }

    fn stored_as(&self, name: &str) -> Result<TensorFormat> {
        self.find(name).map(|(_, format)| *format)
    }
}

fn usize_of(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| EngineError::Option(format!("{n} does not fit this machine")))
}

/// FNV-1a over the name, started from the seed.
fn tensor_seed(seed: u64, name: &str) -> u64 {
    name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |h, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The stored form of a random matrix.
fn random_matrix(format: TensorFormat, rows: u64, width: u64, seed: u64) -> Vec<u8> {
    // Row-major blocks; the caller's sizes were bounded by the configuration's check.
    let len = format.bytes(rows, width) as usize;
    let block_bytes = format.block_bytes() as usize;
    let mut bytes = vec![0u8; len];
    let deviation = 1.0 / (width as f32).sqrt();
    let piece = (64 * 1024 / block_bytes) * block_bytes;
    bytes
        .par_chunks_mut(piece)
        .enumerate()
        .for_each(|(index, piece)| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(index as u64);
            rng.fill_bytes(piece);
            shape_blocks(format, piece, deviation);
        });
    bytes
}

/// Turns random bits into blocks whose values have standard deviation `deviation` and
/// mean zero.
fn shape_blocks(format: TensorFormat, piece: &mut [u8], deviation: f32) {
    // Standard deviation of n equally likely consecutive integers: sqrt((n^2 - 1) / 12).
    let unit = |n: f32| deviation / ((n * n - 1.0) / 12.0).sqrt();
    let put = |at: &mut [u8], value: f32| {
        at.copy_from_slice(&f16::from_f32(value).to_le_bytes());
    };
    // A scale with the sign of a random bit, for formats whose integers are not centred.
    let signed = |at: &mut [u8], value: f32| {
        let negative = at[0] & 1 == 1;
        put(at, if negative { -value } else { value });
    };
    let blocks = piece.chunks_exact_mut(format.block_bytes() as usize);
    match format {
        TensorFormat::F32 => {
            // Uniform on ±sqrt(3) has standard deviation 1.
            let scale = deviation * 3f32.sqrt() / 2f32.powi(31);
            for b in blocks {
                let random = i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                b.copy_from_slice(&(random as f32 * scale).to_le_bytes());
            }
        }
        TensorFormat::F16 | TensorFormat::BF16 => {
            let scale = deviation * 3f32.sqrt() / 2f32.powi(15);
            for b in blocks {
                let value = f32::from(i16::from_le_bytes([b[0], b[1]])) * scale;
                b.copy_from_slice(&if format == TensorFormat::F16 {
                    f16::from_f32(value).to_le_bytes()
                } else {
                    bf16::from_f32(value).to_le_bytes()
                });
            }
        }
        // d, 32 signed bytes; -128 is never written by quantisers.
        TensorFormat::Q8_0 => blocks.for_each(|b| {
            put(&mut b[..2], unit(255.0));
            for q in &mut b[2..] {
                *q = (*q as i8).max(-127) as u8;
            }
        }),
        // d, 32 × (q − 8).
        TensorFormat::Q4_0 => blocks.for_each(|b| signed(&mut b[..2], unit(16.0))),
        // d, 32 × (q − 16).
        TensorFormat::Q5_0 => blocks.for_each(|b| signed(&mut b[..2], unit(32.0))),
        // d, m, 32 × q.
        TensorFormat::Q4_1 => blocks.for_each(|b| {
            put(&mut b[..2], unit(16.0));
            put(&mut b[2..4], -7.5 * unit(16.0));
        }),
        TensorFormat::Q5_1 => blocks.for_each(|b| {
            put(&mut b[..2], unit(32.0));
            put(&mut b[2..4], -15.5 * unit(32.0));
        }),
        // 16 bytes of (min << 4 | scale), 64 bytes of q, d, dmin: d·8·q − dmin·12, centred
        // on q = 1.5 when dmin = d.
        TensorFormat::Q2K => blocks.for_each(|b| {
            b[..16].fill(0xC8);
            put(&mut b[80..82], unit(4.0) / 8.0);
            put(&mut b[82..84], unit(4.0) / 8.0);
        }),
        // 32 bytes of high bits, 64 of low bits, 12 of 6-bit scales biased by 32, d. The
        // scales stay random: they are as often negative as positive.
        TensorFormat::Q3K => {
            // Root mean square of q in −4..4 and of the scales in −32..32.
            let spread = 5.5f32.sqrt() * 341.5f32.sqrt();
            blocks.for_each(|b| put(&mut b[108..110], deviation / spread));
        }
        // d, dmin, eight 6-bit scales and mins, all 32 here (packed 0xA0 ×8, 0 ×4), q:
        // d·32·q − dmin·32, centred by dmin = d·mean(q).
        TensorFormat::Q4K | TensorFormat::Q5K => {
            let levels = if format == TensorFormat::Q4K {
                16.0
            } else {
                32.0
            };
            blocks.for_each(|b| {
                put(&mut b[..2], unit(levels) / 32.0);
                put(&mut b[2..4], unit(levels) / 32.0 * (levels - 1.0) / 2.0);
                b[4..12].fill(0xA0);
                b[12..16].fill(0);
            });
        }
        // 192 bytes of q − 32, sixteen signed scales of alternating sign, d.
        TensorFormat::Q6K => blocks.for_each(|b| {
            for (i, scale) in b[192..208].iter_mut().enumerate() {
                *scale = if i % 2 == 0 { 32i8 } else { -32i8 } as u8;
            }
            put(&mut b[208..210], unit(64.0) / 32.0);
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::layout::Role;
    use costmark_core::ModelShape;

    fn config() -> ModelConfig {
        ModelConfig {
            name: "test".into(),
            family: crate::Family::Qwen2,
            shape: ModelShape {
                vocab_size: 512,
                hidden_size: 256,
                intermediate_size: 512,
                num_layers: 8,
                num_heads: 4,
                num_kv_heads: 2,
                head_dim: 64,
                max_context: 128,
                tie_word_embeddings: false,
                qkv_bias: true,
                qk_norm: false,
            },
            rms_norm_eps: 1e-6,
            rope: crate::Rope {
                theta: 1e4,
                scaling: crate::RopeScaling::None,
            },
            sliding_window: None,
            eos_token_ids: vec![],
        }
    }

    fn values(linear: &Linear, rows: u32) -> Vec<f32> {
        let ids = Tensor::arange(0, rows, &Device::Cpu).unwrap();
        linear
            .rows(&ids)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    }

    /// Every format gives values with the promised mean and spread.
    #[test]
    fn values_have_the_promised_spread() {
        for format in TensorFormat::ALL {
            let mut source =
                SyntheticWeights::new(&config(), FormatChoice::All(format), 3, &Device::Cpu);
            let linear = source
                .linear("model.embed_tokens", 512, 256, false)
                .unwrap();
            let v = values(&linear, 512);
            let n = v.len() as f32;
            let mean = v.iter().sum::<f32>() / n;
            let sd = (v.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n).sqrt();
            let expected = 1.0 / 16.0;
            assert!((sd / expected - 1.0).abs() < 0.03, "{format}: sd {sd}");
            assert!(mean.abs() < 0.02 * expected, "{format}: mean {mean}");
            let distinct: std::collections::HashSet<u32> = v.iter().map(|x| x.to_bits()).collect();
            assert!(distinct.len() >= 4, "{format}");
            if !format.is_float() {
                assert_eq!(linear.bytes(), format.bytes(512, 256), "{format}");
            }
        }
    }

    #[test]
    fn same_seed_same_weights_on_any_number_of_threads() {
        let make = |threads: usize, seed: u64| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| random_matrix(TensorFormat::Q4K, 4096, 256, seed))
        };
        assert_eq!(make(1, 7), make(3, 7));
        assert_ne!(make(1, 7), make(1, 8));
        assert_ne!(tensor_seed(7, "a"), tensor_seed(7, "b"));
    }

    #[test]
    fn the_mix_follows_its_rule() {
        let config = config();
        let source = SyntheticWeights::new(&config, FormatChoice::Q4KM, 0, &Device::Cpu);
        let format = |name: &str| source.stored_as(name).unwrap();
        assert_eq!(format("lm_head"), TensorFormat::Q6K);
        assert_eq!(format("model.embed_tokens"), TensorFormat::Q4K);
        // Of eight layers: 0, 7, and (i − 1) mod 3 = 2, that is 3 and 6.
        let more: Vec<bool> = (0..8)
            .map(|i| format(&format!("model.layers.{i}.mlp.down_proj")) == TensorFormat::Q6K)
            .collect();
        assert_eq!(more, [true, false, false, true, false, false, true, true]);
        assert_eq!(
            matrices(&config.shape)
                .iter()
                .filter(|m| format(&m.name) == TensorFormat::Q6K)
                .filter(|m| m.role == Role::Value)
                .count(),
            4
        );
    }
}
