//! Which KV block belongs to whom. Knows token ids and block numbers, no tensor.
//!
//! A block holds the keys and values of `block_size` consecutive tokens in all layers.
//! Sequences that start alike share the blocks of their common prefix. A full block is
//! found again through a chain: its key is the content of the block before it and its own
//! token ids, both compared in full, so that equal hashes of unequal prompts never share.
//! Blocks nobody refers to stay findable until their room is needed; then the one unused
//! for longest goes first.

use std::collections::{BTreeSet, HashMap};

/// Number of a block in the KV cache.
pub type BlockId = u32;

/// Names the content of a registered block together with everything before it. Never
/// reused, so a key that mentions an evicted block can not be found by mistake.
type ContentId = u64;

/// The content before the first block.
const ROOT: ContentId = 0;

type Key = (ContentId, Box<[u32]>);

#[derive(Debug, Default)]
struct Block {
    /// Sequences that refer to it.
    refs: u32,
    /// Under which it is found.
    key: Option<Key>,
    /// Its place in `unused`.
    unused_since: u64,
}

/// The blocks of one sequence, in order of position.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
    /// Leading blocks whose content has a name.
    registered: usize,
    /// The name of the last of these.
    chain: ContentId,
}

impl BlockTable {
    /// Block numbers by position / `block_size`.
    #[must_use]
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct BlockManager {
    block_size: usize,
    prefix_cache: bool,
    blocks: Vec<Block>,
    /// Unused and without content worth keeping.
    blank: Vec<BlockId>,
    /// Unused but findable, oldest first.
    unused: BTreeSet<(u64, BlockId)>,
    by_key: HashMap<Key, (BlockId, ContentId)>,
    last_content: ContentId,
    /// Counts releases, to order `unused`.
    tick: u64,
}

impl BlockManager {
    /// A manager of `total` blank blocks of `block_size` tokens. Without `prefix_cache`
    /// nothing is shared or kept.
    #[must_use]
    pub fn new(total: u32, block_size: u32, prefix_cache: bool) -> Self {
        Self {
            block_size: block_size as usize,
            prefix_cache,
            blocks: (0..total).map(|_| Block::default()).collect(),
            blank: (0..total).rev().collect(),
            unused: BTreeSet::new(),
            by_key: HashMap::new(),
            last_content: ROOT,
            tick: 0,
        }
    }

    /// Tokens per block.
    #[must_use]
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// All blocks.
    #[must_use]
    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks no sequence refers to; all of them can be claimed.
    #[must_use]
    pub fn free(&self) -> usize {
        self.blank.len() + self.unused.len()
    }

    /// Blocks at least one sequence refers to.
    #[must_use]
    pub fn used(&self) -> usize {
        self.total() - self.free()
    }

    /// Blocks that `tokens` tokens occupy.
    #[must_use]
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }

    /// Blocks for all of `tokens`, the longest known prefix shared, or `None` when fewer
    /// than `headroom` free blocks would be left. Also tells how many tokens were found;
    /// never all of them, because the last must be computed to give logits.
    pub fn admit(&mut self, tokens: &[u32], headroom: usize) -> Option<(BlockTable, usize)> {
        let mut table = self.find_prefix(tokens);
        let found_unused = table
            .blocks
            .iter()
            .filter(|&&id| self.blocks[id as usize].refs == 0)
            .count();
        let missing = self.blocks_for(tokens.len()) - table.blocks.len();
        if missing + found_unused + headroom > self.free() {
            return None;
        }
        for &id in &table.blocks {
            self.retain(id);
        }
        let found = table.blocks.len() * self.block_size;
        let grown = self.grow(&mut table, tokens.len());
        debug_assert!(grown, "counted above");
        Some((table, found))
    }

    /// Makes `table` cover `tokens` tokens. `false`, and no change, when blocks run out.
    pub fn grow(&mut self, table: &mut BlockTable, tokens: usize) -> bool {
        let missing = self.blocks_for(tokens).saturating_sub(table.blocks.len());
        if missing > self.free() {
            return false;
        }
        for _ in 0..missing {
            table.blocks.extend(self.claim());
        }
        true
    }

    /// Tells that the first `computed` of `tokens` are in the cache, so that full blocks
    /// can be found by others.
    pub fn register(&mut self, table: &mut BlockTable, tokens: &[u32], computed: usize) {
        if !self.prefix_cache {
            return;
        }
        while (table.registered + 1) * self.block_size <= computed {
            let start = table.registered * self.block_size;
            let key: Key = (table.chain, tokens[start..start + self.block_size].into());
            table.chain = match self.by_key.get(&key) {
                // Somebody computed the same meanwhile: theirs is found, ours stays private.
                Some(&(_, content)) => content,
                None => {
                    let id = table.blocks[table.registered];
                    self.last_content += 1;
                    self.by_key.insert(key.clone(), (id, self.last_content));
                    self.blocks[id as usize].key = Some(key);
                    self.last_content
                }
            };
            table.registered += 1;
        }
    }

    /// Gives the blocks back. Those with registered content stay findable.
    pub fn release(&mut self, table: BlockTable) {
        // Last block first: when room is needed, prefixes go after what builds on them.
        for id in table.blocks.into_iter().rev() {
            let block = &mut self.blocks[id as usize];
            debug_assert!(block.refs > 0, "block {id} released twice");
            block.refs -= 1;
            if block.refs > 0 {
                continue;
            }
            if block.key.is_some() {
                self.tick += 1;
                block.unused_since = self.tick;
                self.unused.insert((self.tick, id));
            } else {
                self.blank.push(id);
            }
        }
    }

    fn find_prefix(&self, tokens: &[u32]) -> BlockTable {
        let mut table = BlockTable::default();
        if !self.prefix_cache {
            return table;
        }
        let all_but_last = &tokens[..tokens.len().saturating_sub(1)];
        for chunk in all_but_last.chunks_exact(self.block_size) {
            let Some(&(id, content)) = self.by_key.get(&(table.chain, chunk.into())) else {
                break;
            };
            table.blocks.push(id);
            table.registered += 1;
            table.chain = content;
        }
        table
    }

    fn retain(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        if block.refs == 0 {
            self.unused.remove(&(block.unused_since, id));
        }
        block.refs += 1;
    }

    /// A free block for new content: a blank one, else the one unused for longest.
    fn claim(&mut self) -> Option<BlockId> {
        let id = match self.blank.pop() {
            Some(id) => id,
            None => self.unused.pop_first()?.1,
        };
        let block = &mut self.blocks[id as usize];
        if let Some(key) = block.key.take() {
            self.by_key.remove(&key);
        }
        block.refs = 1;
        Some(id)
    }
}

#[cfg(test)]
impl BlockManager {
    pub(crate) fn references(&self, id: BlockId) -> usize {
        self.blocks[id as usize].refs as usize
    }

    pub(crate) fn free_blocks(&self) -> std::collections::HashSet<BlockId> {
        let unused = self.unused.iter().map(|&(_, id)| id);
        self.blank.iter().copied().chain(unused).collect()
    }
}

#[cfg(test)]
#[path = "block_manager_tests.rs"]
mod tests;
