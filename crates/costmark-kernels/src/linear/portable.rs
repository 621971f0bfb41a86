//! The products in plain Rust: block by block as the formats are defined, for machines
//! without a faster way and as what the faster ones are tested against, bit for bit.

use std::ops::Range;

use half::{bf16, f16};

use super::activations::Activations;
use super::halves;
use super::packed::{LANES, Lane, Packed, Panel};
use crate::TensorFormat;

/// See [`Isa::tile`](super::isa::Isa::tile).
pub(super) fn tile(
    matrix: &Packed,
    panels: Range<usize>,
    x: &Activations<'_>,
    rows: Range<usize>,
    out: &mut [f32],
) {
    let (lanes, format) = (matrix.lanes(), matrix.format());
    for (panel, out) in panels.zip(out.chunks_exact_mut(rows.len() * lanes)) {
        for lane in 0..lanes {
            let weights = Row {
                panel: matrix.panel(panel),
                lane: Lane {
                    lane,
                    eights: lanes / LANES,
                },
                format,
            };
            let sums = weights.products(x, matrix.width(), rows.clone());
            for (out, sum) in out.iter_mut().skip(lane).step_by(lanes).zip(sums) {
                *out = sum;
            }
        }
    }
}

/// A row of the matrix.
#[derive(Clone, Copy)]
struct Row<'a> {
    panel: Panel<'a>,
    lane: Lane,
    format: TensorFormat,
}

impl Row<'_> {
    fn products(self, x: &Activations<'_>, width: usize, rows: Range<usize>) -> Vec<f32> {
        let mut sums = vec![0f32; rows.len()];
        match x {
            Activations::Exact(x, _) => {
                let weights = self.floats(width);
                for (row, sum) in rows.clone().zip(&mut sums) {
                    let x = &x[row * width..][..width];
                    for (w, x) in weights.iter().zip(x) {
                        *sum = w.mul_add(*x, *sum);
                    }
                }
            }
            Activations::Halves(x) => {
                let weights = self.floats(width);
                for (row, sum) in rows.clone().zip(&mut sums) {
                    *sum = halves::dot(&weights, x, row);
                }
            }
            Activations::Groups(x) => {
                for block in 0..x.per_row() {
                    let (weights, d) = self.group(block);
                    for (row, sum) in rows.clone().zip(&mut sums) {
                        let at = x.first(row) + block * x.stride();
                        let products = dot(&weights, &x.quads[at].0) as f32;
                        *sum = products.mul_add(d * x.scales[at], *sum);
                    }
                }
            }
            Activations::Supers(x) => {
                for block in 0..x.per_row() {
                    let weights = Block::of(self, block);
                    for (row, sum) in rows.clone().zip(&mut sums) {
                        let at = x.first(row) + block * x.stride();
                        let value = weights.dot(&x.quads[at].0, &x.sums[at].of_16);
                        *sum = value.mul_add(x.scales[at], *sum);
                    }
                }
            }
        }
        sums
    }

    /// Words as bytes, in the order of the stored block.
    fn bytes(self, words: Range<usize>) -> impl Iterator<Item = u8> {
        words.flat_map(move |word| *self.lane.word(self.panel.vectors, word))
    }

    fn half(self, index: usize) -> f32 {
        f16::from_bits(self.lane.scale(self.panel.scales, index)).to_f32()
    }

    fn floats(self, width: usize) -> Vec<f32> {
        let words = 0..self.panel.vectors.len() / self.lane.eights;
        let pair = |word: [u8; 4]| {
            let half = |at: usize| u16::from_le_bytes([word[at], word[at + 1]]);
            [half(0), half(2)]
        };
        let mut values: Vec<f32> = match self.format {
            TensorFormat::F32 => words
                .map(|word| f32::from_le_bytes(*self.lane.word(self.panel.vectors, word)))
                .collect(),
            TensorFormat::BF16 => words
                .flat_map(|word| pair(*self.lane.word(self.panel.vectors, word)))
                .map(|bits| bf16::from_bits(bits).to_f32())
                .collect(),
            _ => words
                .flat_map(|word| pair(self.lane.pair(self.panel.vectors, word)))
                .map(|bits| f16::from_bits(bits).to_f32())
                .collect(),
        };
        values.truncate(width);
        values
    }

    /// 32 values and what one unit stands for.
    fn group(self, block: usize) -> ([i32; 32], f32) {
        let mut weights = [0; 32];
        if self.format == TensorFormat::Q8_0 {
            let bytes = self.bytes(8 * block..8 * block + 8);
            for (w, byte) in weights.iter_mut().zip(bytes) {
                *w = i32::from(byte as i8);
            }
        } else {
            let bytes = self.bytes(4 * block..4 * block + 4);
            for (i, byte) in bytes.enumerate() {
                weights[i] = i32::from(byte & 15) - 8;
                weights[i + 16] = i32::from(byte >> 4) - 8;
            }
        }
        (weights, self.half(block))
    }
}

fn dot(weights: &[i32], quads: &[i32]) -> i32 {
    let x = quads.iter().flat_map(|quad| quad.to_le_bytes());
    weights
        .iter()
        .zip(x)
        .map(|(w, x)| w * i32::from(x as i8))
        .sum()
}

/// 256 values: `d · scale · quant − dmin · min`.
struct Block {
    quants: [i32; 256],
    /// Of 16 values each.
    scales: [i32; 16],
    minima: [i32; 16],
    d: f32,
    dmin: f32,
}

impl Block {
    fn of(row: Row<'_>, block: usize) -> Self {
        match row.format {
            TensorFormat::Q6K => Self::q6k(row, block),
            _ => Self::q4k_or_q5k(row, block),
        }
    }

    fn dot(&self, quads: &[i32; 64], sums: &[i32; 8]) -> f32 {
        let mut scaled = 0;
        for (part, scale) in self.scales.iter().enumerate() {
            let quants = &self.quants[16 * part..][..16];
            scaled += scale * dot(quants, &quads[4 * part..][..4]);
        }
        let sums = sums.iter().flat_map(|s| [*s as i16, (s >> 16) as i16]);
        let least: i32 = sums.zip(&self.minima).map(|(s, m)| i32::from(s) * m).sum();
        (-(least as f32)).mul_add(self.dmin, scaled as f32 * self.d)
    }

    fn q4k_or_q5k(row: Row<'_>, block: usize) -> Self {
        let fifth = row.format == TensorFormat::Q5K;
        let words = if fifth { 43 } else { 35 };
        let bytes: Vec<u8> = row.bytes(words * block..words * (block + 1)).collect();
        let (packed, rest) = bytes.split_at(12);
        let (fifths, fours) = rest.split_at(if fifth { 32 } else { 0 });
        let mut this = Self {
            quants: [0; 256],
            scales: [0; 16],
            minima: [0; 16],
            d: row.half(2 * block),
            dmin: row.half(2 * block + 1),
        };
        for sub in 0..8 {
            let (scale, min) = if sub < 4 {
                (packed[sub] & 63, packed[sub + 4] & 63)
            } else {
                (
                    (packed[sub + 4] & 15) | (packed[sub - 4] >> 6) << 4,
                    (packed[sub + 4] >> 4) | (packed[sub] >> 6) << 4,
                )
            };
            this.scales[2 * sub..2 * sub + 2].fill(i32::from(scale));
            this.minima[2 * sub..2 * sub + 2].fill(i32::from(min));
            for i in 0..32 {
                let byte = fours[32 * (sub / 2) + i];
                let four = if sub % 2 == 0 { byte & 15 } else { byte >> 4 };
                let bit = fifths.get(i).map_or(0, |bits| bits >> sub & 1);
                this.quants[32 * sub + i] = i32::from(four | bit << 4);
            }
        }
        this
    }

    fn q6k(row: Row<'_>, block: usize) -> Self {
        let bytes: Vec<u8> = row.bytes(52 * block..52 * (block + 1)).collect();
        let (fours, rest) = bytes.split_at(128);
        let (twos, scales) = rest.split_at(64);
        let mut quants = [0; 256];
        for (i, quant) in quants.iter_mut().enumerate() {
            let (half, part, at) = (i / 128, i % 128 / 32, i % 32);
            let byte = fours[64 * half + 32 * (part % 2) + at];
            let four = if part < 2 { byte & 15 } else { byte >> 4 };
            let two = twos[32 * half + at] >> (2 * part) & 3;
            *quant = i32::from(four | two << 4) - 32;
        }
        let mut signed = [0; 16];
        for (to, scale) in signed.iter_mut().zip(scales) {
            *to = i32::from(*scale as i8);
        }
        Self {
            quants,
            scales: signed,
            minima: [0; 16],
            d: row.half(block),
            dmin: 0.0,
        }
    }
}
