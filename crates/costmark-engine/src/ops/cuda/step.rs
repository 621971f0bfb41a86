//! What all layers of a step need to know, copied to the device once.

use crate::batch::StepBatch;

/// A step's numbers as one array of u32, and where each part of it begins.
///
/// In order: tiles of prompts (span, first row) · 2, positions, slots, spans (first token,
/// tokens, context, begin of its table) · 4 with those that decode behind the others, tables.
/// Tiles come first because the device reads them as pairs, aligned to 8 bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StepNumbers {
    pub(super) numbers: Vec<u32>,
    pub(super) tiles: usize,
    pub(super) positions: usize,
    pub(super) slots: usize,
    pub(super) prompts: usize,
    pub(super) decodes: usize,
    pub(super) tables: usize,
    pub(super) tile_count: usize,
    pub(super) decode_count: usize,
    /// Most keys one decoding sequence may see.
    pub(super) longest_decode: usize,
}

impl StepNumbers {
    /// `group` query heads share a key head; `rows` (token, head of a group) make a tile.
    pub(super) fn new(batch: &StepBatch, group: usize, rows: usize) -> Self {
        let mut this = Self::default();
        let (decodes, prompts): (Vec<_>, Vec<_>) =
            batch.spans.iter().partition(|span| span.tokens.len() == 1);
        for (index, span) in prompts.iter().enumerate() {
            for first in (0..span.tokens.len() * group).step_by(rows) {
                this.numbers.extend([index as u32, first as u32]);
                this.tile_count += 1;
            }
        }
        this.positions = this.numbers.len();
        this.numbers.extend(&batch.positions);
        this.slots = this.numbers.len();
        this.numbers.extend(&batch.slots);
        this.prompts = this.numbers.len();
        this.decodes = this.prompts + 4 * prompts.len();
        let mut table = 0;
        for span in prompts.iter().chain(&decodes) {
            let tokens = &span.tokens;
            this.numbers.extend(
                [tokens.start, tokens.len(), span.context, table].map(|number| number as u32),
            );
            table += span.blocks.len();
        }
        this.tables = this.numbers.len();
        for span in prompts.iter().chain(&decodes) {
            this.numbers.extend(&span.blocks);
        }
        this.decode_count = decodes.len();
        this.longest_decode = decodes.iter().map(|s| s.context + 1).max().unwrap_or(0);
        this
    }
}

/// Into how many parts the keys of decoding sequences are cut, so that `blocks` (sequences ×
/// key heads) times that many keep a GPU of `processors` busy.
///
/// A processor holds two blocks of the kernel; twice as many even out their ends. A part is
/// two rounds of `round` keys at least: less would not pay for joining.
pub(super) fn splits(blocks: usize, longest: usize, round: usize, processors: usize) -> usize {
    let wanted = (4 * processors).div_ceil(blocks.max(1));
    wanted.min(longest / (2 * round)).clamp(1, MOST_SPLITS)
}

/// Beyond, joining reads more than the parts saved.
const MOST_SPLITS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_where_the_kernels_look() {
        let mut batch = StepBatch::default();
        batch.push(&[1], 17, 9, &[4, 2], 16, true); // decodes
        batch.push(&[2, 3, 4], 0, 3, &[7], 16, true); // a prompt
        batch.push(&[5], 0, 1, &[9], 16, true); // decodes
        let step = StepNumbers::new(&batch, 4, 8);
        let part = |start: usize, len: usize| &step.numbers[start..start + len];
        assert_eq!(step.tile_count, 2);
        assert_eq!(part(0, 4), [0, 0, 0, 8]);
        assert_eq!(part(step.positions, 5), [17, 0, 1, 2, 0]);
        assert_eq!(part(step.slots, 5), batch.slots.as_slice());
        // first token, tokens, context, begin of the table
        assert_eq!(part(step.prompts, 4), [1, 3, 0, 0]);
        assert_eq!(part(step.decodes, 8), [0, 1, 17, 1, 4, 1, 0, 3]);
        assert_eq!(part(step.tables, 4), [7, 4, 2, 9]);
        assert_eq!(step.numbers.len(), step.tables + 4);
        assert_eq!((step.decode_count, step.longest_decode), (2, 18));
        assert_eq!(step.positions % 2, 0, "tiles are pairs");
    }

    #[test]
    fn long_contexts_are_split_when_processors_would_idle() {
        assert_eq!(splits(8, 4096, 128, 132), 16);
        assert_eq!(splits(8, 300, 128, 132), 1, "too short to share");
        assert_eq!(splits(32 * 8, 4096, 128, 132), 3);
        assert_eq!(splits(256 * 8, 4096, 128, 132), 1);
        assert_eq!(splits(1, 1 << 20, 128, 132), MOST_SPLITS);
        assert_eq!(splits(0, 0, 128, 132), 1);
    }
}
