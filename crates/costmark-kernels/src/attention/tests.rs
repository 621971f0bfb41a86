//! Every instruction set against attention as it is written in a textbook, in f64; bit for bit
//! against other chunks and queries alone; and bit for bit against each other, but for tiles.

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;

/// A sequence's queries `(tokens, group, dim)`, and one head's keys and values of it in
/// blocks. What no token wrote is NaN.
struct Case<T> {
    tokens: usize,
    group: usize,
    dim: usize,
    size: usize,
    window: Option<usize>,
    q: Vec<f32>,
    /// `(tokens, dim)`.
    keys: Vec<T>,
    values: Vec<T>,
    blocks: Vec<(Vec<T>, Vec<T>)>,
}

trait Number: Element {
    fn of(value: f32) -> Self;
    fn exact(self) -> f64;
}

impl Number for f32 {
    fn of(value: f32) -> Self {
        value
    }
    fn exact(self) -> f64 {
        self.into()
    }
}

impl Number for f16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn exact(self) -> f64 {
        self.to_f64()
    }
}

impl Number for bf16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn exact(self) -> f64 {
        self.to_f64()
    }
}

impl<T: Number> Case<T> {
    fn new(
        (tokens, group, dim): (usize, usize, usize),
        size: usize,
        window: Option<usize>,
        spread: f32,
        seed: u32,
    ) -> Self {
        let mut state = seed;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            spread * ((state >> 8) as f32 / 2f32.powi(23) - 1.0)
        };
        let q = (0..tokens * group * dim).map(|_| random()).collect();
        let keys: Vec<T> = (0..tokens * dim).map(|_| T::of(random())).collect();
        let values: Vec<T> = (0..tokens * dim).map(|_| T::of(random())).collect();
        let block = |first: usize| {
            let mut block = (
                vec![T::of(f32::NAN); size * dim],
                vec![T::of(f32::NAN); size * dim],
            );
            for token in first..tokens.min(first + size) {
                let offset = token - first;
                let tile = offset / LANES * LANES * dim + offset % LANES;
                for d in 0..dim {
                    block.0[tile + d * LANES] = keys[token * dim + d];
                }
                block.1[offset * dim..][..dim].copy_from_slice(&values[token * dim..][..dim]);
            }
            block
        };
        Self {
            blocks: (0..tokens).step_by(size).map(block).collect(),
            tokens,
            group,
            dim,
            size,
            window,
            q,
            keys,
            values,
        }
    }

    /// Tokens `chunk` of all, with the blocks as they are; `(tokens, group, dim)`.
    fn chunk(&self, isa: Isa, chunk: std::ops::Range<usize>, scratch: &mut Scratch) -> Vec<f32> {
        let stride = self.group * self.dim;
        let mut out = vec![f32::NAN; chunk.len() * stride];
        let queries = Queries {
            values: &self.q[chunk.start * stride..],
            stride,
            tokens: chunk.len(),
            group: self.group,
            head_dim: self.dim,
            first: chunk.start,
            window: self.window,
            block_size: self.size,
        };
        let block = |index: usize| Block {
            keys: &self.blocks[index].0,
            values: &self.blocks[index].1,
        };
        attend(isa, &queries, block, scratch, &mut out, stride);
        out
    }

    fn chunked(&self, isa: Isa, len: usize) -> Vec<u32> {
        let mut scratch = Scratch::default();
        let starts = (0..self.tokens).step_by(len);
        let chunks = starts.flat_map(|first| {
            let chunk = first..self.tokens.min(first + len);
            self.chunk(isa, chunk, &mut scratch)
        });
        chunks.map(f32::to_bits).collect()
    }

    fn textbook(&self) -> Vec<f64> {
        let dot = |a: &[f32], b: &[T]| -> f64 {
            let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * b.exact());
            products.sum()
        };
        let mut out = Vec::new();
        for (row, q) in self.q.chunks_exact(self.dim).enumerate() {
            let token = row / self.group;
            let oldest = self.window.map_or(0, |w| (token + 1).saturating_sub(w));
            let seen = oldest..token + 1;
            let scores: Vec<f64> = seen
                .clone()
                .map(|key| dot(q, &self.keys[key * self.dim..][..self.dim]))
                .collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..self.dim {
                let values = seen
                    .clone()
                    .map(|key| self.values[key * self.dim + d].exact());
                let sum: f64 = weights.iter().zip(values).map(|(w, v)| w * v).sum();
                out.push(sum / total);
            }
        }
        out
    }

    /// `spread` bounds all values; scores are of its square.
    fn check(&self, spread: f64) -> Result<(), TestCaseError> {
        let exact = self.textbook();
        let portable = self.chunked(Isa(Kind::Portable), self.tokens);
        for isa in Isa::available() {
            let whole = self.chunked(isa, self.tokens);
            // A score's error is a share of the sum of `dim` products of at most `spread²`,
            // and turns into a weight's relative one.
            let share = if isa.rounds::<T>() { 2e-5 } else { 2e-7 };
            let score = self.dim as f64 * spread * spread;
            let keys = (self.tokens as f64).sqrt().max(8.0);
            let tolerance = spread * keys * (1.0 + score) * share;
            for (found, exact) in whole.iter().zip(&exact) {
                let off = (f64::from(f32::from_bits(*found)) - exact).abs();
                prop_assert!(off <= tolerance, "{:?}: {} beyond {}", isa, off, tolerance);
            }
            if !isa.rounds::<T>() {
                prop_assert_eq!(&whole, &portable, "{:?}", isa);
            }
            for len in [1, 3, 29] {
                prop_assert_eq!(&self.chunked(isa, len), &whole, "{:?}, {}", isa, len);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn is_attention_on_every_instruction_set(
        tokens in 1usize..150,
        group in 1usize..10,
        dim in 1usize..80,
        blocks in 1usize..3,
        window in prop::option::of(1usize..90),
        spread in prop::sample::select(vec![0.01f32, 0.7, 4.0]),
        seed in any::<u32>(),
    ) {
        let (shape, size) = ((tokens, group, dim), blocks * LANES);
        Case::<f32>::new(shape, size, window, spread, seed).check(spread.into())?;
        Case::<f16>::new(shape, size, window, spread, seed).check(spread.into())?;
        Case::<bf16>::new(shape, size, window, spread, seed).check(spread.into())?;
    }
}

/// A head of 128 takes strips no small one does.
#[test]
fn wide_heads() {
    for group in [1, 2, 4, 7, 16] {
        let case = Case::<f16>::new((70, group, 128), 16, None, 0.5, group as u32);
        case.check(0.5).unwrap();
    }
}

/// Garbage reaches the rows that see it, and says so.
#[test]
fn not_a_number_stays_one() {
    let mut case = Case::<f32>::new((40, 2, 16), 16, None, 1.0, 7);
    case.blocks[1].0[3] = f32::NAN; // key 19, dimension 0
    for isa in Isa::available() {
        let out = case.chunk(isa, 0..40, &mut Scratch::default());
        let rows: Vec<bool> = out
            .chunks(32)
            .map(|row| row.iter().all(|v| v.is_nan()))
            .collect();
        assert!(rows[19..].iter().all(|nan| *nan), "{isa:?}");
        assert!(out[..19 * 32].iter().all(|v| v.is_finite()), "{isa:?}");
    }
}
