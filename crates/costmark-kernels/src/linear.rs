//! Products of activations with matrices in the CPU's memory, `(rows, width)` ·
//! `(outputs, width)ᵀ`, with rows from one to a few thousand.
//!
//! [`Packed`] lays the weights out for streaming, `activations` rounds what they are
//! multiplied with, [`multiply`] shares the work out to threads, `isa` holds the kernels,
//! `portable` says the same in plain Rust.
//!
//! What the products round: with float weights only sums, in f32. With ggml blocks the
//! activations are first rounded to 8 bits per value with one scale per 32 (`q*_0`) or 256
//! (`q*_k`) values, as ggml does; the sum is then exact integers within a block and f32
//! between blocks. A row's result is the same bits whatever the number of rows beside it.

mod activations;
mod halves;
mod interleave;
mod isa;
mod memory;
mod packed;
mod portable;
mod product;
#[cfg(test)]
mod tests;

pub use self::activations::rounded;
pub use self::isa::Isa;
pub use self::memory::{Memory, Plain, mapped_bytes};
pub use self::packed::Packed;
pub use self::product::multiply;
