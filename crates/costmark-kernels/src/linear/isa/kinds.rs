//! How blocks of `q4_k`, `q5_k` and `q6_k` are cut up, which is the same for every instruction
//! set. Kernels are compiled for each of the three.

pub(super) const Q4K: u8 = 0;
pub(super) const Q5K: u8 = 1;
pub(super) const Q6K: u8 = 2;

/// Words of a block in a panel, see [`packed`](super::super::packed).
pub(super) const fn words(kind: u8) -> usize {
    match kind {
        Q4K => 35,
        Q5K => 43,
        _ => 52,
    }
}

/// Vectors, of four values of each row, that share a scale.
pub(super) const fn vectors_of_sub(kind: u8) -> usize {
    if kind == Q6K { 4 } else { 8 }
}

/// Which sub-block of its block the `index`th of a quarter is: those whose bits share words are
/// unpacked together.
pub(super) const fn sub(kind: u8, quarter: usize, index: usize) -> usize {
    match kind {
        Q6K => quarter / 2 * 8 + 2 * index + quarter % 2,
        _ => 2 * quarter + index,
    }
}
