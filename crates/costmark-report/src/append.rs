//! A file of JSON lines that is only ever appended to.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use crate::error::{ReportError, Result};
use crate::lines::TelemetryLine;
use crate::store::FLUSH_EVERY;

/// Appends lines. The file is made with the first of them.
#[derive(Debug)]
pub(crate) struct LineFile {
    path: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl LineFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, writer: None }
    }

    fn writer(&mut self) -> std::io::Result<&mut BufWriter<File>> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(&self.path)?;
                BufWriter::with_capacity(1 << 16, file)
            }
        };
        Ok(self.writer.insert(writer))
    }

    pub(crate) fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let appended = self.writer().and_then(|writer| {
            serde_json::to_writer(&mut *writer, line)?;
            writer.write_all(b"\n")
        });
        appended.map_err(|e| ReportError::write(&self.path, "append to it", e))
    }

    /// Hands everything to the operating system.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.with_writer(Write::flush)
    }

    /// The same, and waits until it is on the disk.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.with_writer(|writer| {
            writer.flush()?;
            writer.get_ref().sync_data()
        })
    }

    fn with_writer(
        &mut self,
        act: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
    ) -> Result<()> {
        self.writer
            .as_mut()
            .map_or(Ok(()), act)
            .map_err(|e| ReportError::write(&self.path, "append to it", e))
    }
}

/// The file of telemetry lines, written by the thread that samples.
#[derive(Debug)]
pub struct TelemetryFile {
    lines: LineFile,
    flushed: Instant,
}

impl TelemetryFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            lines: LineFile::new(path),
            flushed: Instant::now(),
        }
    }

    /// Appends a line; hands all to the operating system every now and then.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn append(&mut self, line: &TelemetryLine) -> Result<()> {
        self.lines.append(line)?;
        if self.flushed.elapsed() < FLUSH_EVERY {
            return Ok(());
        }
        self.flushed = Instant::now();
        self.lines.flush()
    }
}

impl Drop for TelemetryFile {
    fn drop(&mut self) {
        // The run is over; what could not be written was told when it was appended.
        let _ = self.lines.flush();
    }
}

/// Cuts a file of lines before the first whole line that is not to be kept, or that was cut
/// off, and moves what follows to the end of `aside`. A file that is not there is left so.
///
/// What is moved is on the disk in its new place before it goes from the old one.
pub(crate) fn cut(path: &Path, aside: &Path, keep: &dyn Fn(&[u8]) -> bool) -> Result<()> {
    let failed = |e| ReportError::write(path, "cut it", e);
    if !path.exists() {
        return Ok(());
    }
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let (mut kept, mut line) = (0u64, Vec::new());
    loop {
        line.clear();
        let n = reader.read_until(b'\n', &mut line).map_err(failed)?;
        if n == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') || !keep(&line) {
            break;
        }
        kept += n as u64;
    }
    let move_rest = || -> std::io::Result<()> {
        let mut rest = File::open(path)?;
        rest.seek(SeekFrom::Start(kept))?;
        let mut to = OpenOptions::new().append(true).create(true).open(aside)?;
        std::io::copy(&mut rest, &mut to)?;
        rest.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        rest.read_exact(&mut last)?;
        if last != *b"\n" {
            to.write_all(b"\n")?;
        }
        to.sync_data()?;
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(kept)?;
        file.sync_data()
    };
    move_rest().map_err(failed)
}
