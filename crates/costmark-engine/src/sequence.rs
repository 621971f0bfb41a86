//! One request on its way through the scheduler.

use costmark_core::{Request, RequestId};

use crate::block_manager::BlockTable;

/// The tokens of a request and how far they have been computed. No tensor.
#[derive(Debug)]
pub struct Sequence {
    /// The request it serves.
    pub id: RequestId,
    /// Prompt and output so far.
    pub(crate) tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Leading tokens whose keys and values are in the cache.
    pub(crate) computed: usize,
    pub(crate) table: BlockTable,
    /// Working towards its next token through tokens that are not new: its prompt, or
    /// after preemption everything it had.
    pub(crate) catching_up: bool,
    /// Prompt tokens found in the prefix cache at first admission.
    pub(crate) first_cached: Option<usize>,
    /// Of these, the ones found at the latest admission.
    pub(crate) cached: usize,
}

impl Sequence {
    /// A sequence that holds the request's prompt.
    #[must_use]
    pub fn new(request: &Request) -> Self {
        Self {
            id: request.id,
            tokens: request.prompt.clone(),
            prompt_tokens: request.prompt.len(),
            computed: 0,
            table: BlockTable::default(),
            catching_up: true,
            first_cached: None,
            cached: 0,
        }
    }

    /// Prompt and output so far.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Length of the prompt.
    #[must_use]
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Tokens produced so far.
    #[must_use]
    pub fn output_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Prompt tokens found in the prefix cache when it was first admitted. What it finds
    /// of its own after preemption does not count.
    #[must_use]
    pub fn cached_tokens(&self) -> usize {
        self.first_cached.unwrap_or(0)
    }

    /// Its KV blocks.
    #[must_use]
    pub fn table(&self) -> &BlockTable {
        &self.table
    }

    /// Tokens whose keys and values are not in the cache yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }
}
