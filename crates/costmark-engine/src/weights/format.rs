//! How the matrices of a model are stored, and what candle calls it.

use std::fmt;
use std::str::FromStr;

use candle_core::quantized::GgmlDType;
use costmark_core::ModelShape;
pub use costmark_kernels::TensorFormat;

use super::layout::{Matrix, Role};
use crate::error::EngineError;

/// candle's names of formats.
pub(crate) trait Ggml: Sized {
    /// The name of what candle calls this, as users type it where models are stored so.
    fn name_of(kind: GgmlDType) -> String;

    /// candle's name for the blocks.
    fn ggml(self) -> GgmlDType;
}

impl Ggml for TensorFormat {
    fn name_of(kind: GgmlDType) -> String {
        match Self::ALL.into_iter().find(|format| format.ggml() == kind) {
            Some(format) => format.name().into(),
            None => format!("{kind:?}").to_lowercase(),
        }
    }

    fn ggml(self) -> GgmlDType {
        match self {
            Self::F32 => GgmlDType::F32,
            Self::F16 => GgmlDType::F16,
            Self::BF16 => GgmlDType::BF16,
            Self::Q2K => GgmlDType::Q2K,
            Self::Q3K => GgmlDType::Q3K,
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q4_1 => GgmlDType::Q4_1,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q5_0 => GgmlDType::Q5_0,
            Self::Q5_1 => GgmlDType::Q5_1,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q6K => GgmlDType::Q6K,
            Self::Q8_0 => GgmlDType::Q8_0,
        }
    }
}

/// How the matrices of a model shall be stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FormatChoice {
    /// As the checkpoint has them; for synthetic weights `bf16`.
    #[default]
    AsStored,
    /// All in one format, or where its blocks do not fit, what
    /// [`TensorFormat::fitting`] says.
    All(TensorFormat),
    /// The mix that llama.cpp calls `Q4_K_M`: `q6_k` for the output projection (the
    /// embedding when tied) and, in about half of the layers, for `v_proj` and `down_proj`
    /// — the first and last eighth and every third between; `q4_k` for everything else.
    /// llama.cpp's exceptions for single models (`q5_k` values in 70B models) are left out.
    Q4KM,
}

impl FormatChoice {
    /// The format of one matrix; none to keep what the checkpoint has.
    #[must_use]
    pub fn of(self, matrix: &Matrix, shape: &ModelShape) -> Option<TensorFormat> {
        let wanted = match self {
            Self::AsStored => return None,
            Self::All(format) => format,
            Self::Q4KM => {
                let many_bits = |layer: u64| {
                    let eighth = shape.num_layers / 8;
                    layer < eighth || layer >= 7 * shape.num_layers / 8 || (layer - eighth) % 3 == 2
                };
                match (matrix.role, matrix.layer) {
                    (Role::Head, _) => TensorFormat::Q6K,
                    (Role::Embedding, _) if shape.tie_word_embeddings => TensorFormat::Q6K,
                    (Role::Value | Role::Down, Some(layer)) if many_bits(layer) => {
                        TensorFormat::Q6K
                    }
                    _ => TensorFormat::Q4K,
                }
            }
        };
        Some(wanted.fitting(matrix.in_features))
    }
}

impl fmt::Display for FormatChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsStored => f.write_str("as stored"),
            Self::All(format) => format.fmt(f),
            Self::Q4KM => f.write_str("q4_k_m"),
        }
    }
}

impl FromStr for FormatChoice {
    type Err = EngineError;

    /// `f32`, `bf16`, `q8_0`, …, or `q4_k_m`; upper or lower case.
    fn from_str(text: &str) -> Result<Self, EngineError> {
        let lower = text.to_ascii_lowercase();
        if lower == "q4_k_m" {
            return Ok(Self::Q4KM);
        }
        TensorFormat::ALL
            .into_iter()
            .find(|format| format.name() == lower)
            .map(Self::All)
            .ok_or_else(|| {
                let names = TensorFormat::ALL.map(TensorFormat::name).join(", ");
                EngineError::Option(format!(
                    "`{text}` is no weight format; there are {names} and the mix q4_k_m"
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two libraries mean the same blocks by a format.
    #[test]
    fn candle_has_the_same_blocks() {
        for format in TensorFormat::ALL {
            assert_eq!(format.block_len(), format.ggml().block_size() as u64);
            assert_eq!(format.block_bytes(), format.ggml().type_size() as u64);
        }
    }
}
