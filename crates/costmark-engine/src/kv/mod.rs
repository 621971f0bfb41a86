//! The paged KV cache of the CPU and attention over it.

pub(crate) mod attention;
pub(crate) mod cache;
