//! The run folder: `run.json` and the raw record files beside it.
//!
//! Raw lines are only ever appended; `run.json` is replaced whole, by rename, so that a
//! reader sees the old or the new one and never half of either. A crash loses at most
//! [`FLUSH_EVERY`] of raw lines.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use costmark_core::{RequestRecord, StepRecord};
use serde::Serialize;

use crate::document::RunDocument;
use crate::error::{ReportError, Result};
use crate::lines::{RequestLine, StepLine, UnitTag};

/// Name of the result document in a run folder.
pub const RUN_FILE: &str = "run.json";
/// Name of the per-request lines in a run folder.
pub const REQUESTS_FILE: &str = "requests.jsonl";
/// Name of the per-step lines in a run folder.
pub const STEPS_FILE: &str = "steps.jsonl";

/// Longest time raw lines stay in memory.
pub const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// A run folder being written.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Folders made for it, outermost first.
    made: Vec<PathBuf>,
    requests: LineFile,
    steps: LineFile,
    flushed: Instant,
}

impl RunFolder {
    /// Makes `path`, which must not exist or be empty, with empty record files in it.
    ///
    /// # Errors
    /// When the folder holds something, or cannot be made or written.
    pub fn create(path: &Path) -> Result<Self> {
        let made = make_folders(path)?;
        let mut entries = std::fs::read_dir(path)
            .map_err(|e| ReportError::write(path, "look into the folder", e))?;
        if entries.next().is_some() {
            return Err(ReportError::NotEmpty {
                path: path.to_path_buf(),
            });
        }
        Self::open(path, made)
    }

    /// Makes a new folder `name` under `parent`, with a number appended when the name is
    /// taken (two runs within one second).
    ///
    /// # Errors
    /// When no folder can be made or written there.
    pub fn create_fresh(parent: &Path, name: &str) -> Result<Self> {
        let mut made = make_folders(parent)?;
        for n in 1u32.. {
            let path = match n {
                1 => parent.join(name),
                _ => parent.join(format!("{name}-{n}")),
            };
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    made.push(path.clone());
                    return Self::open(&path, made);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(ReportError::write(&path, "create the folder", e)),
            }
        }
        Err(ReportError::NotEmpty {
            path: parent.join(name),
        })
    }

    fn open(path: &Path, made: Vec<PathBuf>) -> Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            made,
            requests: LineFile::create(path.join(REQUESTS_FILE))?,
            steps: LineFile::create(path.join(STEPS_FILE))?,
            flushed: Instant::now(),
        })
    }

    /// Takes away what [`create`](Self::create) made, if nothing but empty record files is
    /// in it: for a run that never began to measure.
    pub fn discard(self) {
        for file in [self.requests, self.steps] {
            let is_empty =
                file.writer.buffer().is_empty() && file.path.metadata().is_ok_and(|m| m.len() == 0);
            if is_empty {
                // Best effort: an empty file that stays does no harm.
                let _ = std::fs::remove_file(&file.path);
            }
        }
        for folder in self.made.iter().rev() {
            // Refused by the system while anything is left in it.
            let _ = std::fs::remove_dir(folder);
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a request.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn append_request(&mut self, unit: &UnitTag, record: &RequestRecord) -> Result<()> {
        self.requests.append(&RequestLine::new(unit, record))?;
        self.flush_if_due()
    }

    /// Appends a step.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn append_step(&mut self, unit: &UnitTag, step: &StepRecord) -> Result<()> {
        self.steps.append(&StepLine::new(unit, step))?;
        self.flush_if_due()
    }

    /// Flushes when [`FLUSH_EVERY`] has passed. Call it when nothing was appended for long.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn flush_if_due(&mut self) -> Result<()> {
        if self.flushed.elapsed() < FLUSH_EVERY {
            return Ok(());
        }
        self.flush()
    }

    /// Hands everything appended to the operating system.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn flush(&mut self) -> Result<()> {
        self.flushed = Instant::now();
        self.requests.flush()?;
        self.steps.flush()
    }

    /// Flushes the lines, then replaces `run.json`.
    ///
    /// # Errors
    /// When the disk does not take it; an earlier `run.json` stays as it was.
    pub fn save(&mut self, document: &RunDocument) -> Result<()> {
        self.flush()?;
        let path = self.path.join(RUN_FILE);
        let temporary = self.path.join(".run.json.tmp");
        write_document(&temporary, document)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|e| {
                // What matters is the error; a leftover temporary file does no harm.
                let _ = std::fs::remove_file(&temporary);
                ReportError::write(&path, "write it", e)
            })
    }
}

/// Makes a folder and those above it; says which were not there, outermost first.
fn make_folders(path: &Path) -> Result<Vec<PathBuf>> {
    let mut made: Vec<PathBuf> = path
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .map(Path::to_path_buf)
        .collect();
    made.reverse();
    std::fs::create_dir_all(path).map_err(|e| ReportError::write(path, "create the folder", e))?;
    Ok(made)
}

fn write_document(path: &Path, document: &RunDocument) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    serde_json::to_writer_pretty(&mut file, document)?;
    file.write_all(b"\n")?;
    let file = file
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    // Renaming before the content is on disk could leave an empty file after a power cut.
    file.sync_all()
}

#[derive(Debug)]
struct LineFile {
    path: PathBuf,
    writer: BufWriter<File>,
}

impl LineFile {
    fn create(path: PathBuf) -> Result<Self> {
        match OpenOptions::new().append(true).create_new(true).open(&path) {
            Ok(file) => Ok(Self {
                path,
                writer: BufWriter::with_capacity(1 << 16, file),
            }),
            Err(e) => Err(ReportError::write(&path, "create it", e)),
        }
    }

    fn append(&mut self, line: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.writer, line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.writer.write_all(b"\n"))
            .map_err(|e| ReportError::write(&self.path, "append to it", e))
    }

    fn flush(&mut self) -> Result<()> {
        self.writer
            .flush()
            .map_err(|e| ReportError::write(&self.path, "append to it", e))
    }
}
