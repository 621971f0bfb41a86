//! Matrices laid out for streaming: what a product reads next always comes next in memory.
//!
//! As many consecutive rows of the matrix (outputs of the product) as a vector of the
//! instruction set has lanes, 8 or 16, make a *panel*. A row's stored blocks are cut into
//! words of four bytes, and word `i` of all the panel's rows lies side by side: lane `l`
//! belongs to row `l`, so that the rows' sums grow side by side and none is ever taken across
//! lanes. Nothing is added and nothing is dropped (the last panel is filled up with zeros): a
//! format's bytes per weight are those of its file. The f16 scales of its blocks lie apart, a
//! panel's rows side by side.
//!
//! | format | words of a block, in order | f16 scales |
//! |---|---|---|
//! | `f32`, `bf16`, `f16` | the value, or two of them; `f16` first all first ones | |
//! | `q8_0` | 32 × i8 | `d` |
//! | `q4_0` | 32 × 4 bits | `d` |
//! | `q4_k` | 6-bit scales and minima, 256 × 4 bits | `d`, `dmin` |
//! | `q5_k` | 6-bit scales and minima, 256 × 1 bit, 256 × 4 bits | `d`, `dmin` |
//! | `q6_k` | 256 × 4 bits, 256 × 2 bits, 16 × i8 scales | `d` |

use std::ops::Range;

use super::interleave::{Lanes, Place};
use super::isa::Isa;
use super::memory::{Memory, Plain};
use crate::TensorFormat;
use crate::error::{KernelError, Result};
use crate::parallel;

/// Rows whose words share a [`Vector`].
pub(crate) const LANES: usize = 8;

/// Bytes of vectors that a thread packs at a time.
const PIECE: usize = 256 * 1024;

/// One word each of eight rows of a panel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(align(32))]
pub(crate) struct Vector(pub(crate) [u8; 4 * LANES]);

/// One f16 each of eight rows of a panel, as bits.
pub(crate) type Scales = [u16; LANES];

// SAFETY: arrays of integers without padding, aligned to 32 and 2.
#[allow(unsafe_code)]
unsafe impl Plain for Vector {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Plain for Scales {}

/// Where the parts of a stored block lie.
pub(super) struct Parts {
    /// Values of a block.
    len: usize,
    /// Bytes of a block.
    pub(super) bytes: usize,
    /// The words.
    pub(super) body: Range<usize>,
    /// Offsets of the f16 scales.
    pub(super) scales: &'static [usize],
}

impl Parts {
    fn of(format: TensorFormat) -> Option<Self> {
        let parts = |len, bytes, body, scales| {
            Some(Self {
                len,
                bytes,
                body,
                scales,
            })
        };
        match format {
            TensorFormat::F32 => parts(1, 4, 0..4, &[]),
            TensorFormat::F16 | TensorFormat::BF16 => parts(2, 4, 0..4, &[]),
            TensorFormat::Q8_0 => parts(32, 34, 2..34, &[0]),
            TensorFormat::Q4_0 => parts(32, 18, 2..18, &[0]),
            TensorFormat::Q4K => parts(256, 144, 4..144, &[0, 2]),
            TensorFormat::Q5K => parts(256, 176, 4..176, &[0, 2]),
            TensorFormat::Q6K => parts(256, 210, 0..208, &[208]),
            _ => None,
        }
    }

    fn words(&self) -> usize {
        self.body.len() / 4
    }
}

/// A matrix `(outputs, width)` in panels.
pub struct Packed {
    format: TensorFormat,
    outputs: usize,
    width: usize,
    /// Whose layout this is.
    isa: Isa,
    /// `(panels, blocks of a row, words of a block, eights of lanes)`.
    vectors: Memory<Vector>,
    /// `(panels, blocks of a row, scales of a block, eights of lanes)`.
    scales: Memory<Scales>,
    /// Vectors and scales of a panel.
    stride: (usize, usize),
}

/// As many rows of a matrix as there are lanes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub(crate) vectors: &'a [Vector],
    pub(crate) scales: &'a [Scales],
}

impl Packed {
    /// Whether matrices of this format can be packed.
    #[must_use]
    pub fn takes(format: TensorFormat) -> bool {
        Parts::of(format).is_some()
    }

    /// Packs stored rows, panel by panel on all threads.
    ///
    /// # Errors
    /// When the format is not one of the table above, `bytes` are not `outputs × width`
    /// values of it, or the system has no memory.
    pub fn new(
        bytes: &[u8],
        format: TensorFormat,
        outputs: usize,
        width: usize,
        isa: Isa,
    ) -> Result<Self> {
        let misfit = || KernelError::Misfit {
            bytes: bytes.len(),
            outputs,
            width,
            format,
        };
        let parts = Parts::of(format).ok_or_else(misfit)?;
        let row_bytes = format.bytes(1, width as u64) as usize;
        let whole_blocks = format.is_float() || width.is_multiple_of(parts.len);
        if !whole_blocks || bytes.len() != outputs * row_bytes {
            return Err(misfit());
        }
        let panels = outputs.div_ceil(isa.lanes());
        let eights = isa.lanes() / LANES;
        let blocks = width.div_ceil(parts.len) * eights;
        let stride = (blocks * parts.words(), blocks * parts.scales.len());
        let mut packed = Self {
            format,
            outputs,
            width,
            isa,
            vectors: Memory::zeroed(panels * stride.0)?,
            scales: Memory::zeroed(panels * stride.1)?,
            stride,
        };
        if stride.0 == 0 || row_bytes == 0 {
            return Ok(packed);
        }
        let missing = vec![0u8; row_bytes];
        let pack = |panel: usize, vectors: &mut [Vector], scales: &mut [Scales]| {
            for eighth in 0..eights {
                let row = |lane: usize| {
                    let start = ((panel * eights + eighth) * LANES + lane) * row_bytes;
                    bytes.get(start..start + row_bytes).unwrap_or(&missing)
                };
                let lanes = Lanes {
                    rows: std::array::from_fn(row),
                    place: Place {
                        eights,
                        eighth,
                        halves: format == TensorFormat::F16,
                    },
                };
                lanes.pack(&parts, isa, vectors, scales);
            }
        };
        // Neighbouring panels go to one thread, which reads and writes on and on.
        let piece = (PIECE / (stride.0 * size_of::<Vector>())).max(1);
        let mut rest = &mut packed.scales[..];
        let pieces = packed.vectors.chunks_mut(piece * stride.0).enumerate();
        let pieces = pieces.map(|(index, vectors)| {
            let panels = vectors.len() / stride.0;
            let (scales, tail) = std::mem::take(&mut rest).split_at_mut(panels * stride.1);
            rest = tail;
            (index * piece, vectors, scales)
        });
        let pieces = pieces.collect();
        parallel::for_each(pieces, bytes.len(), |(first, vectors, mut scales)| {
            for (index, vectors) in vectors.chunks_exact_mut(stride.0).enumerate() {
                let (here, tail) = std::mem::take(&mut scales).split_at_mut(stride.1);
                scales = tail;
                pack(first + index, vectors, here);
            }
        });
        Ok(packed)
    }

    /// How the weights are stored.
    #[must_use]
    pub fn format(&self) -> TensorFormat {
        self.format
    }

    /// Rows of the matrix.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the matrix.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whose layout this is, and who multiplies.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Rows of a panel.
    pub(crate) fn lanes(&self) -> usize {
        self.isa.lanes()
    }

    pub(crate) fn panels(&self) -> usize {
        self.outputs.div_ceil(self.lanes())
    }

    /// Bytes of the weights without what fills up the last panel.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.format.bytes(self.outputs as u64, self.width as u64) as usize
    }

    pub(crate) fn panel(&self, index: usize) -> Panel<'_> {
        let (vectors, scales) = self.stride;
        Panel {
            vectors: &self.vectors[index * vectors..][..vectors],
            scales: &self.scales[index * scales..][..scales],
        }
    }

    /// A row as it was stored.
    #[must_use]
    pub fn row(&self, index: usize) -> Vec<u8> {
        let row_bytes = self.format.bytes(1, self.width as u64) as usize;
        let mut row = vec![0u8; row_bytes];
        let Some(parts) = Parts::of(self.format) else {
            return row;
        };
        let Panel { vectors, scales } = self.panel(index / self.lanes());
        let lane = Lane {
            lane: index % self.lanes(),
            eights: self.lanes() / LANES,
        };
        for (block, bytes) in row.chunks_mut(parts.bytes).enumerate() {
            for (i, &at) in parts.scales.iter().enumerate() {
                let scale = lane.scale(scales, block * parts.scales.len() + i);
                bytes[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
            let end = parts.body.end.min(bytes.len());
            let words = bytes[parts.body.start..end].chunks_mut(4);
            for (i, word) in words.enumerate() {
                let at = block * parts.words() + i;
                let bytes = match self.format {
                    TensorFormat::F16 => lane.pair(vectors, at),
                    _ => *lane.word(vectors, at),
                };
                let len = word.len(); // two bytes at the end of an odd row of halves
                word.copy_from_slice(&bytes[..len]);
            }
        }
        row
    }
}

/// Where a row's words lie in a panel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane {
    pub(crate) lane: usize,
    /// Vectors of a word of the panel.
    pub(crate) eights: usize,
}

impl Lane {
    /// A word of this row.
    pub(crate) fn word(self, vectors: &[Vector], word: usize) -> &[u8; 4] {
        let vector = &vectors[word * self.eights + self.lane / LANES];
        &vector.0.as_chunks::<4>().0[self.lane % LANES]
    }

    /// A word of this row where first ones and second ones lie apart, see [`Place::halves`].
    pub(crate) fn pair(self, vectors: &[Vector], word: usize) -> [u8; 4] {
        let half = |index: usize| {
            let vector = &vectors[word * self.eights + index / (2 * LANES)];
            vector.0.as_chunks::<2>().0[index % (2 * LANES)]
        };
        let (first, second) = (half(self.lane), half(self.eights * LANES + self.lane));
        [first[0], first[1], second[0], second[1]]
    }

    /// An f16 of this row, as bits.
    pub(crate) fn scale(self, scales: &[Scales], index: usize) -> u16 {
        scales[index * self.eights + self.lane / LANES][self.lane % LANES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACKED: [TensorFormat; 8] = [
        TensorFormat::F32,
        TensorFormat::F16,
        TensorFormat::BF16,
        TensorFormat::Q8_0,
        TensorFormat::Q4_0,
        TensorFormat::Q4K,
        TensorFormat::Q5K,
        TensorFormat::Q6K,
    ];

    proptest! {
        /// Every row comes back as it was stored, and no byte is held beyond the last panel.
        #[test]
        fn rows_come_back(outputs in 0usize..20, blocks in 0usize..4, odd in 0usize..2, seed in any::<u8>()) {
            for (format, isa) in PACKED.into_iter().flat_map(|f| Isa::available().map(move |isa| (f, isa))) {
                let width = if format.is_float() { 2 * blocks + odd } else { blocks * format.block_len() as usize };
                let row_bytes = format.bytes(1, width as u64) as usize;
                let bytes: Vec<u8> = (0..outputs * row_bytes).map(|i| (i * 31 + i / 251) as u8 ^ seed).collect();
                let packed = Packed::new(&bytes, format, outputs, width, isa).unwrap();
                prop_assert_eq!(packed.bytes(), bytes.len());
                for index in 0..outputs {
                    prop_assert_eq!(&packed.row(index)[..], &bytes[index * row_bytes..][..row_bytes], "{}", format);
                }
                let held = packed.vectors.len() * 32 + packed.scales.len() * 16;
                let filled = outputs.next_multiple_of(isa.lanes()) * (row_bytes + odd * 2);
                prop_assert!(held <= filled, "{}: {} for {}", format, held, filled);
                if outputs > 0 && row_bytes > 0 {
                    prop_assert!(Packed::new(&bytes[1..], format, outputs, width, isa).is_err());
                }
            }
        }
    }
}
