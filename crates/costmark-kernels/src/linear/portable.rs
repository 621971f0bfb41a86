//! The products in plain Rust: block by block as the formats are defined, for machines
//! without a faster way and as what the faster ones are tested against, bit for bit.

use std::ops::Range;

use half::{bf16, f16};

use super::activations::{Activations, Group, Super};
use super::isa::Sums;
use super::packed::{LANES, Packed, Panel, Vector};
use crate::TensorFormat;

/// See [`Isa::tile`](super::isa::Isa::tile).
pub(super) fn tile(
    matrix: &Packed,
    panels: Range<usize>,
    x: &Activations<'_>,
    rows: Range<usize>,
    out: &mut [Sums],
) {
    out.fill([0.0; LANES]);
    for (panel, out) in panels.zip(out.chunks_exact_mut(rows.len())) {
        let panel = matrix.panel(panel);
        for lane in 0..LANES {
            match x {
                Activations::Exact(x, width) => {
                    let weights = floats(panel, lane, *width, matrix.format());
                    for (row, out) in rows.clone().zip(&mut *out) {
                        let x = &x[row * width..][..*width];
                        for (w, x) in weights.iter().zip(x) {
                            out[lane] = w.mul_add(*x, out[lane]);
                        }
                    }
                }
                Activations::Groups(x, per_row) => {
                    for block in 0..*per_row {
                        let (weights, d) = group(panel, lane, block, matrix.format());
                        for (row, out) in rows.clone().zip(&mut *out) {
                            let x: &Group = &x[row * per_row + block];
                            let products = dot(&weights, &x.quads) as f32;
                            out[lane] = products.mul_add(d * x.scale, out[lane]);
                        }
                    }
                }
                Activations::Supers(x, per_row) => {
                    for block in 0..*per_row {
                        let weights = Block::of(panel, lane, block, matrix.format());
                        for (row, out) in rows.clone().zip(&mut *out) {
                            let x: &Super = &x[row * per_row + block];
                            out[lane] = weights.dot(x).mul_add(x.scale, out[lane]);
                        }
                    }
                }
            }
        }
    }
}

/// A lane's bytes of some vectors, in the order of the stored block.
fn bytes(vectors: &[Vector], lane: usize) -> impl Iterator<Item = u8> {
    vectors
        .iter()
        .flat_map(move |vector| vector.0[4 * lane..4 * lane + 4].iter().copied())
}

fn half(panel: Panel<'_>, index: usize, lane: usize) -> f32 {
    f16::from_bits(panel.scales[index][lane]).to_f32()
}

fn floats(panel: Panel<'_>, lane: usize, width: usize, format: TensorFormat) -> Vec<f32> {
    let bytes: Vec<u8> = bytes(panel.vectors, lane).collect();
    let pair = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    let mut values: Vec<f32> = match format {
        TensorFormat::F32 => {
            let (words, _) = bytes.as_chunks::<4>();
            words.iter().map(|b| f32::from_le_bytes(*b)).collect()
        }
        TensorFormat::BF16 => bytes
            .chunks_exact(2)
            .map(|b| bf16::from_bits(pair(b)).to_f32())
            .collect(),
        // Eight first values and then eight second ones.
        _ => panel
            .vectors
            .iter()
            .flat_map(|vector| {
                let at = |lane: usize| f16::from_bits(pair(&vector.0[2 * lane..])).to_f32();
                [at(lane), at(LANES + lane)]
            })
            .collect(),
    };
    values.truncate(width);
    values
}

fn dot(weights: &[i32], quads: &[i32]) -> i32 {
    let x = quads.iter().flat_map(|quad| quad.to_le_bytes());
    weights
        .iter()
        .zip(x)
        .map(|(w, x)| w * i32::from(x as i8))
        .sum()
}

/// 32 values and what one unit stands for.
fn group(panel: Panel<'_>, lane: usize, block: usize, format: TensorFormat) -> ([i32; 32], f32) {
    let mut weights = [0; 32];
    if format == TensorFormat::Q8_0 {
        let bytes = bytes(&panel.vectors[8 * block..][..8], lane);
        for (w, byte) in weights.iter_mut().zip(bytes) {
            *w = i32::from(byte as i8);
        }
    } else {
        let bytes = bytes(&panel.vectors[4 * block..][..4], lane);
        for (i, byte) in bytes.enumerate() {
            weights[i] = i32::from(byte & 15) - 8;
            weights[i + 16] = i32::from(byte >> 4) - 8;
        }
    }
    (weights, half(panel, block, lane))
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
    fn of(panel: Panel<'_>, lane: usize, block: usize, format: TensorFormat) -> Self {
        match format {
            TensorFormat::Q6K => Self::q6k(panel, lane, block),
            _ => Self::q4k_or_q5k(panel, lane, block, format == TensorFormat::Q5K),
        }
    }

    fn dot(&self, x: &Super) -> f32 {
        let mut scaled = 0;
        for (part, scale) in self.scales.iter().enumerate() {
            let quants = &self.quants[16 * part..][..16];
            scaled += scale * dot(quants, &x.quads[4 * part..][..4]);
        }
        let sums = x.sums.iter().flat_map(|s| [*s as i16, (s >> 16) as i16]);
        let least: i32 = sums.zip(&self.minima).map(|(s, m)| i32::from(s) * m).sum();
        (-(least as f32)).mul_add(self.dmin, scaled as f32 * self.d)
    }

    fn q4k_or_q5k(panel: Panel<'_>, lane: usize, block: usize, fifth: bool) -> Self {
        let words = if fifth { 43 } else { 35 };
        let vectors = &panel.vectors[words * block..][..words];
        let bytes: Vec<u8> = bytes(vectors, lane).collect();
        let (packed, rest) = bytes.split_at(12);
        let (fifths, fours) = rest.split_at(if fifth { 32 } else { 0 });
        let mut this = Self {
            quants: [0; 256],
            scales: [0; 16],
            minima: [0; 16],
            d: half(panel, 2 * block, lane),
            dmin: half(panel, 2 * block + 1, lane),
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

    fn q6k(panel: Panel<'_>, lane: usize, block: usize) -> Self {
        let bytes: Vec<u8> = bytes(&panel.vectors[52 * block..][..52], lane).collect();
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
            d: half(panel, block, lane),
            dmin: 0.0,
        }
    }
}
