//! The run folder: `run.json` and the raw record files beside it.
//!
//! Raw lines are only ever appended; `run.json` is replaced whole, by rename, so that a
//! reader sees the old or the new one and never half of either. It is the first file there
//! is: a folder without it holds nothing yet. The end of the process at any instant, by
//! whatever cause, loses the raw lines of the last [`FLUSH_EVERY`] at most (plus the tenth of
//! a second after which writers look up); what a saved `run.json` sums up is on the disk.
//!
//! [`RunFolder::resume`] takes a folder up again.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use costmark_core::{RequestRecord, StepRecord};
use serde::Deserialize;

use crate::append::{LineFile, TelemetryFile, cut};
use crate::document::{LevelId, RunDocument};
use crate::error::{ReportError, Result};
use crate::lines::{RequestLine, StepLine, UnitTag};

/// Name of the result document in a run folder.
pub const RUN_FILE: &str = "run.json";
/// Name of the per-request lines in a run folder.
pub const REQUESTS_FILE: &str = "requests.jsonl";
/// Name of the per-step lines in a run folder.
pub const STEPS_FILE: &str = "steps.jsonl";

/// Name of the machine's samples in a run folder.
pub const TELEMETRY_FILE: &str = "telemetry.jsonl";
/// Where lines go that belong to no unit of the result: those of a unit that was cut short by
/// a crash and measured again.
const ABANDONED: &str = "abandoned";
/// `run.json` while it is being written.
const TEMPORARY: &str = ".run.json.tmp";

/// Longest time raw lines stay in memory.
pub const FLUSH_EVERY: Duration = Duration::from_millis(500);

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
    /// Makes `path`, which must not exist or be empty.
    ///
    /// # Errors
    /// When the folder holds something, or cannot be made or written.
    pub fn create(path: &Path) -> Result<Self> {
        let made = make_folders(path)?;
        let mut entries = std::fs::read_dir(path)
            .map_err(|e| ReportError::write(path, "look into the folder", e))?;
        // A run that was killed before it began to measure may have left that.
        let holds = |e: std::io::Result<std::fs::DirEntry>| {
            e.map_or(true, |entry| entry.file_name() != TEMPORARY)
        };
        if entries.any(holds) {
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
        // Whether files can be made there is better known before an hour of measuring.
        let probe = path.join(TEMPORARY);
        File::create(&probe)
            .and_then(|_| std::fs::remove_file(&probe))
            .map_err(|e| ReportError::write(path, "create files in it", e))?;
        Ok(Self::at(path, made))
    }

    fn at(path: &Path, made: Vec<PathBuf>) -> Self {
        Self {
            path: path.to_path_buf(),
            made,
            requests: LineFile::new(path.join(REQUESTS_FILE)),
            steps: LineFile::new(path.join(STEPS_FILE)),
            flushed: Instant::now(),
        }
    }

    /// Takes up the folder of a run that ended early, to go on with the first unit that is
    /// not finished. Raw lines of units that `is_finished` does not know, and lines that were
    /// cut off, are moved to files named `….abandoned`.
    ///
    /// # Errors
    /// When a file cannot be read, moved or cut.
    pub fn resume(path: &Path, is_finished: &dyn Fn(&LevelId, u32) -> bool) -> Result<Self> {
        /// Of every line of requests and steps.
        #[derive(Deserialize)]
        struct Tagged {
            unit: UnitTag,
        }
        let keep = |line: &[u8]| {
            serde_json::from_slice(line)
                .is_ok_and(|line: Tagged| is_finished(&line.unit.level, line.unit.repeat))
        };
        for name in [REQUESTS_FILE, STEPS_FILE] {
            let aside = path.join(format!("{name}.{ABANDONED}"));
            cut(&path.join(name), &aside, &keep)?;
        }
        let aside = path.join(format!("{TELEMETRY_FILE}.{ABANDONED}"));
        cut(&path.join(TELEMETRY_FILE), &aside, &|_| true)?;
        Ok(Self::at(path, Vec::new()))
    }

    /// Takes away what [`create`](Self::create) made, if nothing is in it: for a run that
    /// never began to measure.
    pub fn discard(self) {
        for folder in self.made.iter().rev() {
            // Refused by the system while anything is left in it.
            let _ = std::fs::remove_dir(folder);
        }
    }

    /// The file for the machine's samples, to be written by another thread.
    #[must_use]
    pub fn telemetry(&self) -> TelemetryFile {
        TelemetryFile::new(self.path.join(TELEMETRY_FILE))
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

    /// Brings the lines to the disk, then replaces `run.json`.
    ///
    /// # Errors
    /// When the disk does not take it; an earlier `run.json` stays as it was.
    pub fn save(&mut self, document: &RunDocument) -> Result<()> {
        self.requests.sync()?;
        self.steps.sync()?;
        self.flushed = Instant::now();
        let path = self.path.join(RUN_FILE);
        let temporary = self.path.join(TEMPORARY);
        write_document(&temporary, document)
            .and_then(|()| std::fs::rename(&temporary, &path))
            // The new name is on the disk once its folder is.
            .and_then(|()| File::open(&self.path)?.sync_all())
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
