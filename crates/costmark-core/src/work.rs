//! Bytes and FLOPs a step cannot do without, and how long they take at a machine's peaks.
//!
//! These are the numerators of MBU and MFU and the weights by which a step that mixes
//! prefill and decode is split. They are *modelled*: what had to move, not what a counter saw.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::step::StepPart;

/// Bytes to move and floating-point operations to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Bytes read or written.
    pub bytes: u64,
    /// Floating-point operations (a multiply-add is two).
    pub flops: u64,
}

/// What a loaded model costs per step, per token and per context entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelWork {
    /// Weights of all blocks and the final norm as they are stored for the products,
    /// read once per step.
    pub layer_weight_bytes: u64,
    /// The output projection, read once in a step that computes any logits.
    pub head_weight_bytes: u64,
    /// One row of the embedding table.
    pub embedding_row_bytes: u64,
    /// Key and value bytes of one token over all layers.
    pub kv_bytes_per_token: u64,
    /// One row of logits.
    pub logits_row_bytes: u64,
    /// See [`crate::ModelShape::matmul_flops_per_token`].
    pub matmul_flops_per_token: u64,
    /// See [`crate::ModelShape::head_flops_per_row`].
    pub head_flops_per_row: u64,
    /// See [`crate::ModelShape::attention_flops_per_pair`].
    pub attention_flops_per_pair: u64,
}

impl ModelWork {
    /// The work of `part` if it were a step of its own; nothing for an empty part.
    #[must_use]
    pub fn part_alone(&self, part: &StepPart) -> Work {
        Work {
            bytes: self.weight_bytes(part.tokens > 0, part.logits_rows > 0)
                + self.traffic_bytes(part),
            flops: self.flops(part),
        }
    }

    /// The work of a whole step. Weights are read once for both parts.
    #[must_use]
    pub fn step(&self, prefill: &StepPart, decode: &StepPart) -> Work {
        Work {
            bytes: self.weight_bytes(
                prefill.tokens + decode.tokens > 0,
                prefill.logits_rows + decode.logits_rows > 0,
            ) + self.traffic_bytes(prefill)
                + self.traffic_bytes(decode),
            flops: self.flops(prefill) + self.flops(decode),
        }
    }

    /// The work spent on KV entries that came from the prefix cache: reading them and
    /// attending to them. What cached input tokens really cost.
    #[must_use]
    pub fn cached_context(&self, part: &StepPart) -> Work {
        Work {
            bytes: part.cached_kv_tokens_read * self.kv_bytes_per_token,
            flops: part.cached_attended_pairs * self.attention_flops_per_pair,
        }
    }

    fn weight_bytes(&self, any_token: bool, any_logits: bool) -> u64 {
        u64::from(any_token) * self.layer_weight_bytes
            + u64::from(any_logits) * self.head_weight_bytes
    }

    fn traffic_bytes(&self, part: &StepPart) -> u64 {
        let tokens = u64::from(part.tokens);
        tokens * self.embedding_row_bytes
            + (part.kv_tokens_read + tokens) * self.kv_bytes_per_token
            + u64::from(part.logits_rows) * self.logits_row_bytes
    }

    fn flops(&self, part: &StepPart) -> u64 {
        u64::from(part.tokens) * self.matmul_flops_per_token
            + u64::from(part.logits_rows) * self.head_flops_per_row
            + part.attended_pairs * self.attention_flops_per_pair
    }
}

/// Measured peaks of a machine; of one replica where several serve side by side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Roofline {
    /// Memory read bandwidth, bytes per second.
    pub read_bytes_per_s: f64,
    /// Matrix-product rate, FLOPs per second.
    pub flops_per_s: f64,
}

impl Roofline {
    /// The shortest time `work` can take, in seconds: the larger of its bytes over the
    /// bandwidth and its FLOPs over the arithmetic peak (Williams et al., 2009).
    #[must_use]
    pub fn seconds(&self, work: Work) -> f64 {
        (work.bytes as f64 / self.read_bytes_per_s).max(work.flops as f64 / self.flops_per_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WORK: ModelWork = ModelWork {
        layer_weight_bytes: 1_000_000,
        head_weight_bytes: 100_000,
        embedding_row_bytes: 64,
        kv_bytes_per_token: 512,
        logits_row_bytes: 4096,
        matmul_flops_per_token: 2_000_000,
        head_flops_per_row: 200_000,
        attention_flops_per_pair: 256,
    };

    #[test]
    fn an_empty_part_costs_nothing() {
        let empty = StepPart::default();
        assert_eq!(WORK.part_alone(&empty), Work::default());
    }

    proptest! {
        /// Batching saves exactly the weights that would have been read twice, and no FLOPs.
        #[test]
        fn step_shares_weights_only(p in 1u32..600, c in 0u32..3000, n in 1u32..64) {
            let (mut prefill, mut decode) = (StepPart::default(), StepPart::default());
            prefill.add_sequence(p, c, 0, true);
            for _ in 0..n {
                decode.add_sequence(1, c, 0, true);
            }
            let (a, b) = (WORK.part_alone(&prefill), WORK.part_alone(&decode));
            let both = WORK.step(&prefill, &decode);
            prop_assert_eq!(both.flops, a.flops + b.flops);
            prop_assert_eq!(
                both.bytes + WORK.layer_weight_bytes + WORK.head_weight_bytes,
                a.bytes + b.bytes
            );
        }
    }
}
