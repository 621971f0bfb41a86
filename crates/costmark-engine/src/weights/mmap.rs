//! Files mapped into memory, and given back piece by piece.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{EngineError, Result};

/// A read-only view of a whole file.
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps the file.
    ///
    /// # Errors
    /// When the file cannot be opened or is empty.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let fail = |error: std::io::Error| EngineError::file(path, format!("cannot read: {error}"));
        let file = File::open(path).map_err(fail)?;
        if file.metadata().map_err(fail)?.len() == 0 {
            return Err(EngineError::file(path, "the file is empty; fetch it again"));
        }
        // SAFETY: the mapping is read-only and private. The one thing that could break the
        // slice is another process cutting the file off meanwhile, which every program that
        // maps its weights accepts.
        let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
        Ok(Self {
            path: path.to_path_buf(),
            map,
        })
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's contents.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Tells the system that a range was copied and need not stay in this process's
    /// memory. It can still be read; it comes from the file again.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            const PAGE: usize = 4096;
            // Whole pages only, so that neighbours stay; larger pages make the call fail,
            // which does no harm.
            let start = range.start.next_multiple_of(PAGE);
            let end = range.end / PAGE * PAGE;
            if start < end {
                // SAFETY: dropping pages of a read-only file mapping loses nothing: they
                // are read from the file again when touched.
                let _ = unsafe {
                    self.map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start,
                        end - start,
                    )
                };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
