//! Rotary position embedding: which angle each pair of a head's dimensions turns by.
//!
//! Dimension `i` is paired with `i + head_dim / 2` (the layout of Hugging Face
//! checkpoints). At position `p` the pair turns by `p · f_i` with
//! `f_i = theta^(-2i / head_dim)` (Su et al., 2021), before scaling.

use crate::config::{Rope, RopeScaling};

/// One frequency per pair of dimensions, `head_dim / 2` of them, in radians per position.
/// Rounded to f32, as the models were trained.
#[must_use]
pub fn frequencies(rope: &Rope, head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|pair| {
            let plain = rope.theta.powf(-((2 * pair) as f64) / head_dim as f64);
            scale(&rope.scaling, pair, plain) as f32
        })
        .collect()
}

fn scale(scaling: &RopeScaling, pair: usize, frequency: f64) -> f64 {
    match *scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position,
        } => {
            // Full turns over the original context; few turns are scaled, many are not,
            // and between the two the scaling fades in linearly.
            let turns = original_max_position * frequency / std::f64::consts::TAU;
            let keep = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let keep = keep.clamp(0.0, 1.0);
            keep * frequency + (1.0 - keep) * frequency / factor
        }
        RopeScaling::Factors(ref factors) => frequency / factors.get(pair).unwrap_or(&1.0),
    }
}

/// Cosines and sines for the tokens of one step, shared by all layers and heads.
#[derive(Debug, Clone)]
pub struct Rotations {
    pairs: usize,
    /// `(tokens, 2, pairs)`: cosines, then sines.
    values: Vec<f32>,
}

impl Rotations {
    /// The rotations of tokens at `positions`.
    #[must_use]
    pub fn new(frequencies: &[f32], positions: &[u32]) -> Self {
        let pairs = frequencies.len();
        let mut values = Vec::with_capacity(positions.len() * 2 * pairs);
        for &position in positions {
            let angles = frequencies.iter().map(|f| position as f32 * f);
            values.extend(angles.clone().map(f32::cos));
            values.extend(angles.map(f32::sin));
        }
        Self { pairs, values }
    }

    /// Cosines and sines of a token, `head_dim / 2` each.
    #[must_use]
    pub fn of(&self, token: usize) -> (&[f32], &[f32]) {
        let start = token * 2 * self.pairs;
        self.values[start..start + 2 * self.pairs].split_at(self.pairs)
    }

    /// Turns one head, `(head_dim)`, of a token in place.
    pub fn rotate(&self, token: usize, head: &mut [f32]) {
        let (cos, sin) = self.of(token);
        let (first, second) = head.split_at_mut(self.pairs);
        for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let (x, y) = (*a, *b);
            *a = x * c - y * s;
            *b = y * c + x * s;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> Rope {
        Rope {
            theta: 500_000.0,
            scaling,
        }
    }

    #[test]
    fn frequencies_fall_geometrically() {
        let f = frequencies(&rope(RopeScaling::None), 4);
        assert_eq!(f[0], 1.0);
        assert!((f[1] - 500_000f32.powf(-0.5)).abs() < 1e-9);
        let half = frequencies(&rope(RopeScaling::Linear { factor: 2.0 }), 4);
        assert_eq!(half, [f[0] / 2.0, f[1] / 2.0]);
        let each = frequencies(&rope(RopeScaling::Factors(vec![4.0, 0.5])), 4);
        assert_eq!(each, [f[0] / 4.0, f[1] * 2.0]);
    }

    /// Llama 3.1's scaling written as in its definition, by wavelength.
    #[test]
    fn llama3_scaling_by_wavelength() {
        let (factor, low, high, original) = (8.0, 1.0, 4.0, 8192.0);
        let scaling = RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position: original,
        };
        let plain = frequencies(&rope(RopeScaling::None), 128);
        let scaled = frequencies(&rope(scaling), 128);
        let mut kinds = [0; 3];
        for (p, s) in plain.iter().zip(&scaled) {
            let p = f64::from(*p);
            let wavelength = std::f64::consts::TAU / p;
            let expected = if wavelength < original / high {
                kinds[0] += 1;
                p
            } else if wavelength > original / low {
                kinds[1] += 1;
                p / factor
            } else {
                kinds[2] += 1;
                let smooth = (original / wavelength - low) / (high - low);
                (1.0 - smooth) * p / factor + smooth * p
            };
            assert!((f64::from(*s) / expected - 1.0).abs() < 1e-6);
        }
        assert!(
            kinds.iter().all(|&n| n > 0),
            "every case was met: {kinds:?}"
        );
    }

    #[test]
    fn a_rotation_keeps_lengths_and_depends_on_distance_only() {
        let f = frequencies(&rope(RopeScaling::None), 8);
        let rotations = Rotations::new(&f, &[0, 3, 10, 13]);
        let turned = |token: usize, head: [f32; 8]| {
            let mut head = head;
            rotations.rotate(token, &mut head);
            head
        };
        let (q, k) = (
            [0.3, -1.0, 0.5, 2.0, 1.0, 0.1, -0.7, 0.2],
            [1.0, 0.4, -0.2, 0.6, -1.5, 0.9, 0.8, -0.3],
        );
        assert_eq!(turned(0, q), q);
        let dot = |a: [f32; 8], b: [f32; 8]| a.iter().zip(&b).map(|(x, y)| x * y).sum::<f32>();
        assert!((dot(turned(1, q), turned(1, q)) - dot(q, q)).abs() < 1e-5);
        let near = dot(turned(1, q), turned(0, k));
        let far = dot(turned(3, q), turned(2, k));
        assert!((near - far).abs() < 1e-5);
    }
}
