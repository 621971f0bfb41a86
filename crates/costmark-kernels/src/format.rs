//! How one matrix is stored.

use std::fmt;

/// How the numbers of one matrix are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TensorFormat {
    /// 32-bit float.
    F32,
    /// 16-bit float, IEEE.
    F16,
    /// 16-bit float with the exponent of `f32`.
    BF16,
    /// ggml block formats; the digit is the bits per weight without scales.
    Q2K,
    /// See [`Q2K`](TensorFormat::Q2K).
    Q3K,
    /// See [`Q2K`](TensorFormat::Q2K).
    Q4_0,
    /// See [`Q2K`](TensorFormat::Q2K).
    Q4_1,
    /// See [`Q2K`](TensorFormat::Q2K).
    Q4K,
    /// See [`Q2K`](TensorFormat::Q2K).
    Q5_0,
    /// See [`Q2K`](TensorFormat::Q2K).
    Q5_1,
    /// See [`Q2K`](TensorFormat::Q2K).
    Q5K,
    /// See [`Q2K`](TensorFormat::Q2K).
    Q6K,
    /// See [`Q2K`](TensorFormat::Q2K).
    Q8_0,
}

impl TensorFormat {
    /// Every format.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q2K,
        Self::Q3K,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q4K,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q5K,
        Self::Q6K,
        Self::Q8_0,
    ];

    /// The name users type and results carry.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q4K => "q4_k",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::Q8_0 => "q8_0",
        }
    }

    /// Whether values are stored one by one.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Values per block; a row's length must be a multiple of it.
    #[must_use]
    pub fn block_len(self) -> u64 {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q4K => 144,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Q8_0 => 34,
        }
    }

    /// Bytes of a matrix `(rows, width)` whose width is a multiple of the block length.
    #[must_use]
    pub fn bytes(self, rows: u64, width: u64) -> u64 {
        rows * (width / self.block_len()) * self.block_bytes()
    }

    /// This format where rows of `width` fit its blocks; else `q8_0`, else `f32`.
    #[must_use]
    pub fn fitting(self, width: u64) -> Self {
        [self, Self::Q8_0]
            .into_iter()
            .find(|f| width.is_multiple_of(f.block_len()))
            .unwrap_or(Self::F32)
    }
}

impl fmt::Display for TensorFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
