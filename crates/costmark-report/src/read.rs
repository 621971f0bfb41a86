//! Reading a run folder back, also one whose run did not end well.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use costmark_core::{RequestRecord, StepRecord};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::document::{RunDocument, SCHEMA_VERSION};
use crate::error::{ReportError, Result};
use crate::lines::{RequestLine, StepLine, UnitTag};
use crate::store::{REQUESTS_FILE, RUN_FILE, STEPS_FILE};

/// Raw records of one part of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UnitRecords {
    /// In the order they ended.
    pub requests: Vec<RequestRecord>,
    /// In the order they ran.
    pub steps: Vec<StepRecord>,
}

/// A run folder in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRun {
    /// Where it lies.
    pub path: PathBuf,
    /// `run.json`.
    pub document: RunDocument,
    /// The raw records by level, repeat and phase.
    pub units: BTreeMap<UnitTag, UnitRecords>,
    /// What was tolerated while reading, in words.
    pub remarks: Vec<String>,
}

impl StoredRun {
    /// Reads the folder. A last line that was cut off (a crash, a full disk) is left out
    /// and remarked on.
    ///
    /// # Errors
    /// When a file is missing, of another schema version, or damaged elsewhere.
    pub fn load(path: &Path) -> Result<Self> {
        let document = load_document(&path.join(RUN_FILE))?;
        let mut units: BTreeMap<UnitTag, UnitRecords> = BTreeMap::new();
        let mut remarks = Vec::new();
        let requests = path.join(REQUESTS_FILE);
        each_line(&requests, &mut remarks, |line: RequestLine, number| {
            let unit = line.unit.clone();
            let record = line.into_record().map_err(|message| ReportError::Format {
                path: requests.clone(),
                line: Some(number),
                message,
            })?;
            units.entry(unit).or_default().requests.push(record);
            Ok(())
        })?;
        each_line(&path.join(STEPS_FILE), &mut remarks, |line: StepLine, _| {
            let steps = &mut units.entry(line.unit.clone()).or_default().steps;
            steps.push(line.into());
            Ok(())
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            document,
            units,
            remarks,
        })
    }
}

/// Reads the `run.json` of a folder.
///
/// # Errors
/// When it is missing, of another schema version, or damaged.
pub fn read_document(folder: &Path) -> Result<RunDocument> {
    load_document(&folder.join(RUN_FILE))
}

fn load_document(path: &Path) -> Result<RunDocument> {
    /// Only what tells the version, so that other versions get a message about that.
    #[derive(Deserialize)]
    struct Version {
        schema_version: u32,
    }
    let text = std::fs::read_to_string(path).map_err(|e| ReportError::read(path, e))?;
    let format = |line: Option<usize>, message: String| ReportError::Format {
        path: path.to_path_buf(),
        line,
        message,
    };
    let damaged = |e: serde_json::Error| format(Some(e.line()), e.to_string());
    let version: Version = serde_json::from_str(&text).map_err(damaged)?;
    let version = version.schema_version;
    if version > SCHEMA_VERSION {
        return Err(format(
            None,
            format!(
                "schema version {version}, but this costmark reads {SCHEMA_VERSION}; use the newer \
                 version of costmark that is named under `tool`"
            ),
        ));
    }
    if version == SCHEMA_VERSION {
        return serde_json::from_str(&text).map_err(damaged);
    }
    let value = serde_json::from_str(&text).map_err(damaged)?;
    let value = migrated(value, version, MIGRATIONS).map_err(|message| format(None, message))?;
    serde_json::from_value(value).map_err(|e| format(None, e.to_string()))
}

/// What makes a document of one version one of the next.
type Migration = fn(Value) -> Value;

/// By the version they start from. Version 1 was never released and has none.
const MIGRATIONS: &[(u32, Migration)] = &[];

/// Brings a document of an older version to this one, step by step.
fn migrated(
    mut document: Value,
    from: u32,
    migrations: &[(u32, Migration)],
) -> std::result::Result<Value, String> {
    for version in from..SCHEMA_VERSION {
        let Some((_, migrate)) = migrations.iter().find(|(start, _)| *start == version) else {
            return Err(format!(
                "schema version {from}, from before the first release; this costmark reads \
                 {SCHEMA_VERSION}: run the command under `command` in that file again"
            ));
        };
        document = migrate(document);
        document["schema_version"] = (version + 1).into();
    }
    Ok(document)
}

pub(crate) fn each_line<T: DeserializeOwned>(
    path: &Path,
    remarks: &mut Vec<String>,
    mut take: impl FnMut(T, usize) -> Result<()>,
) -> Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        // It is made with its first line.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(ReportError::read(path, e)),
    };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader
            .read_until(b'\n', &mut line)
            .map_err(|e| ReportError::read(path, e))?;
        if read == 0 {
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(value) => take(value, number)?,
            // Lines are written whole with their end: without it the writing was cut short.
            Err(_) if line.last() != Some(&b'\n') => remarks.push(format!(
                "{}:{number}: the last line is cut off and was left out",
                path.display()
            )),
            Err(e) => {
                return Err(ReportError::Format {
                    path: path.to_path_buf(),
                    line: Some(number),
                    message: e.to_string(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn older_documents_go_through_every_step() {
        let rename: Migration = |mut document| {
            document["new"] = document["old"].take();
            document
        };
        let before = json!({ "schema_version": 1, "old": 7 });
        let after = migrated(before.clone(), 1, &[(1, rename)]).unwrap();
        assert_eq!(
            (&after["schema_version"], &after["new"]),
            (&json!(SCHEMA_VERSION), &json!(7))
        );
        let error = migrated(before, 0, &[(1, rename)]).unwrap_err();
        assert!(error.contains("version 0"), "{error}");
    }
}
