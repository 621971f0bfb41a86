//! Finding run folders: each path is one, or holds some.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::document::RunDocument;
use crate::error::{ReportError, Result};
use crate::read::read_document;
use crate::store::RUN_FILE;
use crate::text::inert_line;

/// How deep below a named folder runs are looked for.
const DEPTH: usize = 3;

/// A run's document with a name to tell it from others.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedRun {
    /// The folder's name, or its path where that is not unique.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// Its `run.json`.
    pub document: RunDocument,
}

/// Reads the documents of all runs at or below `paths`, in that order; within a folder in the
/// order of names. Raw lines are not read.
///
/// # Errors
/// When a path holds no run, or a document cannot be read.
pub fn find_runs(paths: &[PathBuf]) -> Result<Vec<NamedRun>> {
    let mut folders = Vec::new();
    for path in paths {
        let before = folders.len();
        collect(path, DEPTH, &mut folders)?;
        if folders.len() == before {
            return Err(ReportError::NoRun { path: path.clone() });
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    // Naming a folder and its parent must not compare a run with itself.
    folders.retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    let own_name = |path: &Path| {
        let absolute = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        absolute.file_name().map_or_else(
            || absolute.display().to_string(),
            |n| n.to_string_lossy().into(),
        )
    };
    let names: Vec<String> = folders.iter().map(|path| own_name(path)).collect();
    folders
        .iter()
        .zip(&names)
        .map(|(path, name)| {
            let is_unique = names.iter().filter(|n| *n == name).count() == 1;
            let name = match is_unique {
                true => name.clone(),
                false => path.display().to_string(),
            };
            Ok(NamedRun {
                name: inert_line(&name),
                document: read_document(path)?,
                path: path.clone(),
            })
        })
        .collect()
}

fn collect(path: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    if path.file_name().is_some_and(|name| name == RUN_FILE) && path.is_file() {
        // `runs/x/run.json` means the folder it is in.
        found.push(match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        });
        return Ok(());
    }
    if path.join(RUN_FILE).is_file() {
        found.push(path.to_path_buf());
        return Ok(());
    }
    let entries = match std::fs::read_dir(path) {
        // A name that leads nowhere holds no run.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| ReportError::read(path, e))?,
    };
    if depth == 0 {
        return Ok(());
    }
    let mut folders: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && !path.is_symlink())
        .collect();
    folders.sort();
    for folder in folders {
        collect(&folder, depth - 1, found)?;
    }
    Ok(())
}
