//! Where requests come from.

use costmark_core::Request;

use crate::workload::{RequestKey, Workload, WorkloadError};

/// Makes the requests of a run: what is asked, apart from when it is due.
pub trait RequestSource {
    /// The request with the id of `key`.
    ///
    /// `position` counts the requests of a unit from 0 over all phases: the place in a
    /// trace. `elapsed` (0 ≤ `elapsed` < 1) is the share of its output that it should start
    /// with as already produced; a source may take that as 0.
    ///
    /// Pure: the same arguments give the same request, in any order of calls.
    fn make(&self, key: RequestKey, position: u64, elapsed: f64) -> Request;

    /// The same request with any token ids in its prompt, for backends that only count them
    /// ([`Backend::reads_prompts`](costmark_core::Backend::reads_prompts)). Drawing the ids is
    /// most of the work of making a request: sources that can do without should.
    fn make_blank(&self, key: RequestKey, position: u64, elapsed: f64) -> Request {
        self.make(key, position, elapsed)
    }

    /// Tokens at the begin of every prompt that are the same in all: said once in a
    /// conversation.
    fn shared_prefix_tokens(&self) -> u32 {
        0
    }

    /// Checks that every request fits a model's context.
    ///
    /// # Errors
    /// The longest one does not, or there are no token ids to make prompts from.
    fn check(&self, max_context: u32) -> Result<(), WorkloadError>;
}

impl RequestSource for Workload {
    fn make(&self, key: RequestKey, _: u64, elapsed: f64) -> Request {
        self.request_under_way(key, elapsed)
    }

    fn make_blank(&self, key: RequestKey, _: u64, elapsed: f64) -> Request {
        self.blank_request(key, elapsed)
    }

    fn check(&self, max_context: u32) -> Result<(), WorkloadError> {
        Workload::check(self, max_context)
    }
}
