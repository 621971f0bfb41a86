//! Matrices that meet the same activations.

use candle_core::Tensor;

use super::{Linear, Weight};
use crate::error::Result;

/// Several matrices `(out_i, in)` that meet the same activations.
///
/// Float matrices on a GPU are laid one under the other, so that one product does for all, in one
/// launch, and the few rows of keys and values need none of their own. What that gains was not
/// measured yet. On the CPU all products are one piece of work anyway; ggml's blocks are multiplied
/// one by one.
#[derive(Debug, Clone)]
pub(crate) struct Together<const N: usize> {
    parts: [Linear; N],
    /// `(sum of out_i, in)`. The weights of `parts` are its rows then, held once.
    stacked: Option<Linear>,
}

impl<const N: usize> Together<N> {
    /// Takes the matrices, and lays them together where that pays. Memory for both layouts of
    /// these matrices is held while it does.
    ///
    /// # Errors
    /// When the device has no room for that.
    pub(crate) fn new(mut parts: [Linear; N]) -> Result<Self> {
        let stacked = stack(&mut parts)?;
        Ok(Self { parts, stacked })
    }

    /// The matrices, each for itself.
    pub(crate) fn parts(&self) -> &[Linear; N] {
        &self.parts
    }

    /// `(tokens, in)` → `(tokens, out_i)` each, of the types that [`Linear::forward`] says. Of
    /// matrices laid together they are columns of one tensor.
    ///
    /// # Errors
    /// When the shapes do not fit or the device fails.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<[Tensor; N]> {
        let Some(stacked) = &self.stacked else {
            return Linear::forward_all(self.parts.each_ref(), x);
        };
        let all = stacked.forward(x)?;
        let mut outputs = [(); N].map(|()| all.clone());
        let mut first = 0;
        for (part, output) in self.parts.iter().zip(&mut outputs) {
            if let Weight::Dense(weight) = &part.weight {
                let width = weight.dim(0)?;
                *output = all.narrow(1, first, width)?;
                first += width;
            }
        }
        Ok(outputs)
    }
}

/// One matrix of all rows, which `parts` become views of; `None`, and nothing done, unless all are
/// of one float type and all or none have a bias.
fn stack(parts: &mut [Linear]) -> Result<Option<Linear>> {
    let weights: Option<Vec<&Tensor>> = parts
        .iter()
        .map(|part| match &part.weight {
            Weight::Dense(weight) => Some(weight),
            Weight::Quantized(_) | Weight::Cpu(_) => None,
        })
        .collect();
    let Some(weights) = weights else {
        return Ok(None);
    };
    let biases: Vec<&Tensor> = parts.iter().filter_map(|part| part.bias.as_ref()).collect();
    let one_type = weights.windows(2).all(|w| w[0].dtype() == w[1].dtype());
    if !one_type || !(biases.is_empty() || biases.len() == parts.len()) {
        return Ok(None);
    }
    let weight = Tensor::cat(&weights, 0)?;
    let bias = match biases.is_empty() {
        true => None,
        false => Some(Tensor::cat(&biases, 0)?),
    };
    let mut first = 0;
    for part in parts {
        if let Weight::Dense(own) = &mut part.weight {
            let rows = own.dim(0)?;
            *own = weight.narrow(0, first, rows)?;
            first += rows;
        }
    }
    Ok(Some(Linear::dense(weight, bias)))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// `(rows, 8)`, each number another.
    fn matrix(rows: usize, dtype: DType) -> Tensor {
        let values: Vec<f32> = (0..rows * 8).map(|i| (i as f32 * 0.7).sin()).collect();
        let matrix = Tensor::from_vec(values, (rows, 8), &Device::Cpu).unwrap();
        matrix.to_dtype(dtype).unwrap()
    }

    fn linear(rows: usize, bias: bool, dtype: DType) -> Linear {
        let bias = bias.then(|| matrix(rows, DType::F32).narrow(1, 3, 1).unwrap());
        let bias = bias.map(|column| column.flatten_all().unwrap());
        Linear::dense(matrix(rows, dtype), bias)
    }

    fn numbers(tensor: &Tensor) -> Vec<Vec<f32>> {
        tensor.to_vec2().unwrap()
    }

    #[test]
    fn one_product_gives_what_each_gives_for_itself() {
        for bias in [false, true] {
            let alone = [6, 2, 3].map(|rows| linear(rows, bias, DType::F32));
            let together = Together::new(alone.clone()).unwrap();
            assert!(together.stacked.is_some());
            for tokens in [1, 5] {
                let x = matrix(tokens, DType::F32);
                let outputs = together.forward(&x).unwrap();
                for ((alone, part), output) in alone.iter().zip(together.parts()).zip(&outputs) {
                    let expected = numbers(&alone.forward(&x).unwrap());
                    assert_eq!(output.dims(), [tokens, expected[0].len()]);
                    for (row, wanted) in numbers(output).iter().zip(&expected) {
                        for (a, b) in row.iter().zip(wanted) {
                            assert!((a - b).abs() < 1e-5, "{a} {b}");
                        }
                    }
                    assert_eq!(part.bytes(), alone.bytes());
                    assert_eq!(numbers(&part.forward(&x).unwrap()), expected);
                }
            }
        }
    }

    #[test]
    fn what_does_not_belong_together_stays_apart() {
        let mixed = [linear(4, false, DType::F32), linear(4, false, DType::F16)];
        assert!(Together::new(mixed).unwrap().stacked.is_none());
        let half_biased = [linear(4, true, DType::F32), linear(4, false, DType::F32)];
        let together = Together::new(half_biased).unwrap();
        assert!(together.stacked.is_none());
        let [with, without] = together.forward(&matrix(2, DType::F32)).unwrap();
        assert_ne!(numbers(&with), numbers(&without));
    }
}
