//! Memory for weights and for the KV cache, in large pages where the system gives them.
//!
//! A decode step reads all weights once, and loading touches every page: one fault per 2 MiB
//! instead of 512. A gain in the reading itself did not show beside the noise (`q8_0` products
//! at 14 to 17 GB/s in either size of page, six alternating runs of which one was disturbed, two
//! threads of a Zen 3 virtual machine).
//! Most matrices are no larger than one large page, so many share a mapping; it is given
//! back when the last of them is dropped.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::MmapMut;

use crate::error::{KernelError, Result};
use crate::parallel;

/// Bytes mapped at a time. What is never touched costs no memory.
const REGION: usize = 64 << 20;
/// Large pages begin at multiples of this.
const LARGE_PAGE: usize = 2 << 20;
/// Pages are cleared by all threads before the first piece of them is handed out, where each
/// on its own would take turns with the one that writes there, or clear it a second time. So
/// that there are several of them, some are cleared before they are needed: at most this many
/// bytes, and at most one in [`AHEAD_OF`].
const AHEAD: usize = 16 << 20;
/// See [`AHEAD`].
const AHEAD_OF: usize = 8;
/// Matrices begin at multiples of this, a cache line.
const ALIGNMENT: usize = 64;

/// Bytes in use.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Bytes that are held in such memory now, beside the heap: weights and KV caches.
#[must_use]
pub fn mapped_bytes() -> usize {
    HELD.load(Ordering::Relaxed)
}

/// Types of which every pattern of bits is a value.
///
/// # Safety
/// That must hold, and the alignment must be at most a cache line, 64 bytes.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: numbers without padding.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for half::f16 {}
// SAFETY: as above.
unsafe impl Plain for half::bf16 {}

/// A mapping that pieces are handed out from.
struct Region {
    _map: MmapMut,
    /// Address of the first large page.
    start: usize,
    len: usize,
    used: Mutex<Used>,
}

/// How much of a region is.
#[derive(Default)]
struct Used {
    /// Bytes handed out.
    bytes: usize,
    /// Bytes whose pages were asked for.
    touched: usize,
}

/// The region with room left.
static OPEN: Mutex<Weak<Region>> = Mutex::new(Weak::new());

impl Region {
    fn map(len: usize) -> Result<Self> {
        let refused = |source| KernelError::Memory { bytes: len, source };
        let mut map = MmapMut::map_anon(len + LARGE_PAGE).map_err(refused)?;
        // A refusal leaves small pages, which only cost speed.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = map.as_mut_ptr().expose_provenance();
        let start = start.next_multiple_of(LARGE_PAGE);
        Ok(Self {
            _map: map,
            start,
            len,
            used: Mutex::default(),
        })
    }

    /// The address of `len` bytes that nobody else has, all zero.
    fn take(&self, len: usize) -> Option<usize> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let first = used.bytes.next_multiple_of(ALIGNMENT);
        let end = first.checked_add(len).filter(|end| *end <= self.len)?;
        used.bytes = end;
        if end > used.touched {
            let ahead = end + (end / AHEAD_OF).min(AHEAD);
            let wanted = ahead.next_multiple_of(LARGE_PAGE).min(self.len);
            self.touch(used.touched..wanted);
            used.touched = wanted;
        }
        Some(self.start + first)
    }

    /// Has the system clear the large pages from one offset to another, on all threads.
    fn touch(&self, range: Range<usize>) {
        let pages: Vec<usize> = range.clone().step_by(LARGE_PAGE).collect();
        parallel::for_each(pages, range.len(), |page| {
            let at: *mut u8 = std::ptr::with_exposed_provenance_mut(self.start + page);
            // SAFETY: within the mapping; nobody was given these bytes yet, and they are 0.
            unsafe { at.write_volatile(0) };
        });
    }
}

/// A slice in such memory.
pub struct Memory<T> {
    _region: Arc<Region>,
    address: usize,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Memory<T> {
    /// `len` elements of zeros.
    ///
    /// # Errors
    /// When the system has no memory.
    pub fn zeroed(len: usize) -> Result<Self> {
        let bytes = len * size_of::<T>();
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let in_open = open.upgrade().and_then(|region| {
            let address = region.take(bytes)?;
            Some((region, address))
        });
        let (region, address) = match in_open {
            Some(taken) => taken,
            None => {
                let region = Arc::new(Region::map(bytes.max(REGION))?);
                let address = region.take(bytes).ok_or_else(|| KernelError::Memory {
                    bytes,
                    source: std::io::ErrorKind::OutOfMemory.into(),
                })?;
                *open = Arc::downgrade(&region);
                (region, address)
            }
        };
        HELD.fetch_add(bytes, Ordering::Relaxed);
        Ok(Self {
            _region: region,
            address,
            len,
            of: PhantomData,
        })
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        HELD.fetch_sub(self.len * size_of::<T>(), Ordering::Relaxed);
    }
}

impl<T: Plain> Deref for Memory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let start = std::ptr::with_exposed_provenance(self.address);
        // SAFETY: `take` gave these bytes to this value alone, aligned for any `Plain` type;
        // they were mapped as zeros, which is a value of `T`, and stay mapped with `_region`.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }
}

impl<T: Plain> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let start = std::ptr::with_exposed_provenance_mut(self.address);
        // SAFETY: as in `deref`, and this value is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(start, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SAFETY: a byte.
    unsafe impl Plain for u8 {}

    #[test]
    fn pieces_are_zero_apart_and_outlive_each_other() {
        let mut pieces: Vec<Memory<u8>> =
            [0, 1, 100, 64, REGION + 5, 7, REGION / 2, REGION / 2 + 1]
                .into_iter()
                .map(|len| Memory::zeroed(len).unwrap())
                .collect();
        for (i, piece) in pieces.iter_mut().enumerate() {
            assert_eq!(piece.as_ptr().addr() % ALIGNMENT, 0);
            if let (Some(first), true) = (piece.first().copied(), piece.len() > 1) {
                assert_eq!((first, piece[piece.len() - 1]), (0, 0));
            }
            if let Some(last) = piece.last_mut() {
                *last = i as u8 + 1;
            }
            if let Some(first) = piece.first_mut() {
                *first = i as u8 + 1;
            }
        }
        pieces.remove(1);
        for (i, piece) in pieces.iter().enumerate().skip(1) {
            let expected = i as u8 + 2;
            assert_eq!(piece.first(), Some(&expected));
            assert_eq!(piece.last(), Some(&expected));
        }
    }
}
