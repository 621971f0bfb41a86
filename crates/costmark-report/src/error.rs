//! What can go wrong with a run folder.

use std::path::{Path, PathBuf};

/// Shorthand for this crate's results.
pub type Result<T, E = ReportError> = std::result::Result<T, E>;

/// An error of the result store.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file or folder cannot be created, written or read.
    #[error("{}: cannot {action}: {source}. {hint}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried, as in "cannot …".
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
        /// The way out.
        hint: &'static str,
    },
    /// The folder holds something already.
    #[error(
        "{}: the folder is not empty, and results are never overwritten. \
         Name another with --output, or leave the flag out for a fresh one under runs/",
        path.display()
    )]
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
    /// A folder without a run.
    #[error(
        "{}: no run.json there or in folders below it. Name folders that `costmark run` wrote",
        path.display()
    )]
    NoRun {
        /// Which.
        path: PathBuf,
    },
    /// A file is not what this version of costmark writes.
    #[error("{}{}: {message}", path.display(), line.map_or(String::new(), |n| format!(":{n}")))]
    Format {
        /// Which.
        path: PathBuf,
        /// Line, counted from 1, where the file has lines.
        line: Option<usize>,
        /// What is wrong and what to do.
        message: String,
    },
}

impl ReportError {
    /// Whether the user named an unusable place (exit code 2) rather than the store
    /// failing while running (exit code 1).
    #[must_use]
    pub fn is_input(&self) -> bool {
        matches!(
            self,
            Self::NotEmpty { .. } | Self::Format { .. } | Self::NoRun { .. }
        )
    }

    pub(crate) fn write(path: &Path, action: &'static str, source: std::io::Error) -> Self {
        let hint = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                "Free space on that disk, or name a folder on another with --output"
            }
            _ => "Name a folder that can be written with --output",
        };
        Self::Io {
            path: path.to_path_buf(),
            action,
            source,
            hint,
        }
    }

    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            action: "read it",
            source,
            hint: "Name a folder that `costmark run` wrote; one without run.json is of a run that \
                   ended before it measured anything",
        }
    }
}
