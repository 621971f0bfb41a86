//! What is asked for: lengths of prompts and outputs.

use costmark_core::Sampling;
use costmark_load::{LengthDistribution, RequestSource, Workload};
use costmark_report::document::{WorkloadDocument, canonical_hash};

/// What all requests of a plan have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Asking {
    pub(crate) seed: u64,
    pub(crate) ignore_eos: bool,
    pub(crate) sampling: Sampling,
}

/// One workload.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WorkloadPlan {
    /// Unique within the plan.
    pub(crate) id: String,
    pub(crate) input: LengthDistribution,
    pub(crate) output: LengthDistribution,
}

impl WorkloadPlan {
    /// Prompt plus output of the longest request there can be.
    pub(crate) fn longest_request_tokens(&self) -> u64 {
        u64::from(self.input.longest()) + u64::from(self.output.longest())
    }

    /// The requests, for a model of this vocabulary.
    pub(crate) fn source(&self, vocab_size: u32, asking: Asking) -> Box<dyn RequestSource> {
        Box::new(Workload {
            input: self.input,
            output: self.output,
            vocab_size,
            seed: asking.seed,
            ignore_eos: asking.ignore_eos,
            sampling: asking.sampling,
        })
    }

    /// As it goes into the result.
    pub(crate) fn document(&self) -> WorkloadDocument {
        let mut document = WorkloadDocument {
            id: String::new(),
            workload_hash: String::new(),
            input_len: self.input.to_string(),
            output_len: self.output.to_string(),
        };
        // Whatever it is called, it is the same work.
        document.workload_hash = canonical_hash(&document);
        document.id.clone_from(&self.id);
        document
    }
}
