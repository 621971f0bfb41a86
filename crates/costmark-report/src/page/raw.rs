//! The raw lines of a run, read for pictures: only the keys a picture needs, on all cores, and
//! in bounded memory.
//!
//! Lines become buckets and cells as they are read ([`Pictures`]); nothing keeps them. A run of
//! a million steps is hundreds of megabytes of text.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use super::pictures::{Pictures, Request, Step};
use crate::error::{ReportError, Result};
use crate::lines::{Phase, TelemetryLine};
use crate::read::each_line;
use crate::store::{REQUESTS_FILE, STEPS_FILE, TELEMETRY_FILE};

/// Bytes asked of the system at once.
const BLOCK: usize = 1 << 20;
/// A part smaller than this is not worth a thread.
const LEAST_PART: u64 = 4 << 20;

#[derive(Deserialize)]
struct Tag<'a> {
    #[serde(borrow)]
    level: std::borrow::Cow<'a, str>,
    repeat: u32,
    phase: Phase,
}

#[derive(Deserialize)]
struct Part {
    tokens: u32,
    sequences: u32,
}

#[derive(Deserialize)]
struct StepKeys<'a> {
    #[serde(borrow)]
    unit: Tag<'a>,
    start_ns: u64,
    end_ns: u64,
    prefill: Part,
    decode: Part,
    bytes: u64,
    flops: u64,
    waiting: u32,
    kv_blocks_used: u32,
    kv_blocks_total: u32,
}

#[derive(Deserialize)]
struct RequestKeys<'a> {
    #[serde(borrow)]
    unit: Tag<'a>,
    sent_ns: u64,
    #[serde(default)]
    first_token_ns: Option<u64>,
    finished_ns: u64,
}

/// Reads both files of raw lines into `pictures`. Returns remarks on what was left out.
///
/// # Errors
/// When a file cannot be read, or a line that is not the last is damaged.
pub(super) fn read(folder: &Path, pictures: &mut Pictures) -> Result<Vec<String>> {
    let mut remarks = Vec::new();
    each_part(
        &folder.join(REQUESTS_FILE),
        pictures,
        &mut remarks,
        |line, pictures| {
            let keys: RequestKeys<'_> = serde_json::from_slice(line)?;
            pictures.add_request(&Request {
                sent_ns: keys.sent_ns,
                first_ns: keys.first_token_ns,
                finished_ns: keys.finished_ns,
                is_measured: keys.unit.phase == Phase::Measured,
            });
            Ok(())
        },
    )?;
    each_part(
        &folder.join(STEPS_FILE),
        pictures,
        &mut remarks,
        |line, pictures| {
            let keys: StepKeys<'_> = serde_json::from_slice(line)?;
            pictures.add_step(
                &keys.unit.level,
                keys.unit.repeat,
                keys.unit.phase,
                &Step {
                    start_ns: keys.start_ns,
                    end_ns: keys.end_ns,
                    prefill_tokens: keys.prefill.tokens,
                    decode_tokens: keys.decode.tokens,
                    sequences: keys.prefill.sequences + keys.decode.sequences,
                    bytes: keys.bytes,
                    flops: keys.flops,
                    waiting: keys.waiting,
                    kv_blocks_used: keys.kv_blocks_used,
                    kv_blocks_total: keys.kv_blocks_total,
                },
            );
            Ok(())
        },
    )?;
    Ok(remarks)
}

/// Reads the samples of the machine, a few each second, into `pictures`.
///
/// # Errors
/// When the file cannot be read, or a line that is not the last is damaged.
pub(super) fn read_telemetry(folder: &Path, pictures: &mut Pictures) -> Result<Vec<String>> {
    let (mut remarks, mut before) = (Vec::new(), None);
    each_line(
        &folder.join(TELEMETRY_FILE),
        &mut remarks,
        |now: TelemetryLine, _| {
            if let Some(before) = &before {
                pictures.add_samples(before, &now);
            }
            before = Some(now);
            Ok(())
        },
    )?;
    Ok(remarks)
}

/// What a part came to: its pictures, and where a line could not be read.
struct PartResult {
    pictures: Pictures,
    damage: Option<Damage>,
}

struct Damage {
    offset: u64,
    is_cut: bool,
    message: String,
}

fn each_part(
    path: &Path,
    pictures: &mut Pictures,
    remarks: &mut Vec<String>,
    take: impl Fn(&[u8], &mut Pictures) -> serde_json::Result<()> + Sync,
) -> Result<()> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        // A file is begun with its first line: a server shows no steps.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(ReportError::read(path, e)),
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let parts = (size / LEAST_PART).clamp(1, threads);
    let empty = pictures.like();
    let results: Vec<std::io::Result<PartResult>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..parts)
            .map(|i| {
                let range = (size * i / parts, size * (i + 1) / parts);
                let (empty, take) = (empty.clone(), &take);
                scope.spawn(move || read_part(path, range, empty, take))
            })
            .collect();
        running
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    });
    for result in results {
        let part = result.map_err(|e| ReportError::read(path, e))?;
        pictures.merge(part.pictures);
        let Some(damage) = part.damage else { continue };
        let line = line_at(path, damage.offset).map_err(|e| ReportError::read(path, e))?;
        if damage.is_cut {
            remarks.push(format!(
                "{}:{line}: the last line is cut off and was left out",
                path.display()
            ));
        } else {
            return Err(ReportError::Format {
                path: path.to_path_buf(),
                line: Some(line),
                message: damage.message,
            });
        }
    }
    Ok(())
}

/// The lines that begin in `begin..end`.
fn read_part(
    path: &Path,
    (begin, end): (u64, u64),
    mut pictures: Pictures,
    take: &(impl Fn(&[u8], &mut Pictures) -> serde_json::Result<()> + Sync),
) -> std::io::Result<PartResult> {
    let mut reader = BufReader::with_capacity(BLOCK, File::open(path)?);
    let mut line = Vec::new();
    let mut offset = begin;
    if begin > 0 {
        // The line that holds the byte before `begin` belongs to the part before.
        reader.seek(SeekFrom::Start(begin - 1))?;
        offset = begin - 1 + reader.read_until(b'\n', &mut line)? as u64;
    }
    let mut damage = None;
    while offset < end {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)? as u64;
        if length == 0 {
            break;
        }
        if let Err(e) = take(&line, &mut pictures) {
            damage = Some(Damage {
                offset,
                // Lines are written whole with their end: without it the writing was cut short.
                is_cut: line.last() != Some(&b'\n'),
                message: e.to_string(),
            });
            break;
        }
        offset += length;
    }
    Ok(PartResult { pictures, damage })
}

/// Number of the line that begins at `offset`, from 1.
fn line_at(path: &Path, offset: u64) -> std::io::Result<usize> {
    let mut reader = BufReader::with_capacity(BLOCK, File::open(path)?);
    let (mut at, mut line) = (0u64, 1);
    while at < offset {
        let block = reader.fill_buf()?;
        if block.is_empty() {
            break;
        }
        let length = block
            .len()
            .min(usize::try_from(offset - at).unwrap_or(usize::MAX));
        line += block[..length].iter().filter(|&&b| b == b'\n').count();
        reader.consume(length);
        at += length as u64;
    }
    Ok(line)
}
