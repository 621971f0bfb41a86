//! Telling a caller how far loading and downloading are.

use std::sync::Arc;

/// How far something long is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A file comes from the hub.
    Download {
        /// Its name in the repository.
        file: &'a str,
        /// Bytes on disk, those of an earlier attempt included.
        done_bytes: u64,
        /// Bytes of the whole file.
        total_bytes: u64,
    },
    /// Tensors are read, or made.
    Load {
        /// Tensors handed out.
        done_tensors: u64,
        /// Tensors there are.
        total_tensors: u64,
        /// Bytes they take in the file.
        done_bytes: u64,
        /// Bytes of all tensors in the file.
        total_bytes: u64,
    },
}

/// Called often from the thread that loads; must be quick.
pub type ProgressFn = Arc<dyn Fn(Progress<'_>) + Send + Sync>;

/// Counts the tensors of one source.
#[derive(Clone, Default)]
pub struct Loading {
    report: Option<ProgressFn>,
    done_tensors: u64,
    total_tensors: u64,
    done_bytes: u64,
    total_bytes: u64,
}

impl Loading {
    /// Counts and tells `report`.
    #[must_use]
    pub fn new(report: Option<ProgressFn>) -> Self {
        Self {
            report,
            ..Self::default()
        }
    }

    /// Says what is to come.
    pub(crate) fn expect(&mut self, tensors: u64, bytes: u64) {
        self.total_tensors = tensors;
        self.total_bytes = bytes;
    }

    /// One tensor more.
    pub(crate) fn loaded(&mut self, bytes: u64) {
        self.done_tensors += 1;
        self.done_bytes += bytes;
        if let Some(report) = &self.report {
            report(Progress::Load {
                done_tensors: self.done_tensors,
                total_tensors: self.total_tensors,
                done_bytes: self.done_bytes,
                total_bytes: self.total_bytes,
            });
        }
    }
}
