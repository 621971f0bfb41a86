//! Work on disjoint pieces, spread over all threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::pool::Pool;

/// Elements below which waking the other threads costs more than it gains.
const INLINE_BELOW: usize = 32 * 1024;

/// Threads that take part.
pub fn threads() -> usize {
    Pool::get().threads()
}

/// Calls `work` with each item. `elements` says how much data the items hold together:
/// little is done on the calling thread.
pub fn for_each<I: Send>(items: Vec<I>, elements: usize, work: impl Fn(I) + Sync) {
    if items.len() < 2 || elements < INLINE_BELOW || threads() == 1 {
        items.into_iter().for_each(work);
        return;
    }
    // Each index is visited once, so no lock is ever contended.
    let cells: Vec<Mutex<Option<I>>> = items.into_iter().map(|i| Mutex::new(Some(i))).collect();
    let next = AtomicUsize::new(0);
    Pool::get().run(&|| {
        while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
            let item = cell.lock().unwrap_or_else(PoisonError::into_inner).take();
            item.into_iter().for_each(&work);
        }
    });
}

/// Rows per piece so that `rows` are spread evenly with some slack for uneven threads.
pub fn rows_per_piece(rows: usize) -> usize {
    rows.div_ceil(threads() * 4).max(1)
}
