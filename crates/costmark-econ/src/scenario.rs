//! Scenarios: the arithmetic of the news with the published figures, or with the user's own. The
//! files of `configs/scenarios/` or a user's own.

use std::collections::BTreeMap;
use std::path::Path;

use include_dir::{Dir, include_dir};
use jiff::civil::Date;
use serde::Deserialize;

use crate::claims::dated;
use crate::error::BookError;
use crate::nearest::nearest;
use crate::sheet::{Quantity, Sheet, Step};

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../configs/scenarios");

const SCHEMA_VERSION: u32 = 1;

/// One scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The file.
    pub file: String,
    /// Its name.
    pub name: String,
    /// What it asks.
    pub title: String,
    /// Where the default figures come from.
    pub source: String,
    /// When they were published.
    pub as_of: Date,
    /// What is assumed, one sentence each.
    pub assumptions: Vec<String>,
    /// Its arithmetic.
    pub sheet: Sheet,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    schema_version: u32,
    name: String,
    title: String,
    source: String,
    as_of: String,
    assumptions: Vec<String>,
    inputs: BTreeMap<String, Quantity>,
    results: Vec<Step>,
}

impl Scenario {
    /// Reads a scenario from the text of a file named `file`.
    ///
    /// # Errors
    /// The file and the field that is wrong.
    pub fn parse(file: &str, text: &str) -> Result<Self, BookError> {
        let error = |problem: String| BookError::Book {
            file: file.to_owned(),
            problem,
        };
        let raw: Raw =
            toml::from_str(text).map_err(|e| error(e.to_string().trim_end().to_owned()))?;
        if raw.schema_version != SCHEMA_VERSION {
            return Err(error(format!(
                "schema_version is {}, this costmark reads {SCHEMA_VERSION}",
                raw.schema_version
            )));
        }
        if raw.name.trim().is_empty() || raw.title.trim().is_empty() || raw.assumptions.is_empty() {
            return Err(error(String::from(
                "name, title and at least one assumption must be given",
            )));
        }
        let as_of = dated(&raw.source, &raw.as_of).map_err(&error)?;
        Ok(Self {
            file: file.to_owned(),
            name: raw.name,
            title: raw.title,
            source: raw.source,
            as_of,
            assumptions: raw.assumptions,
            sheet: Sheet::new(raw.inputs, raw.results).map_err(error)?,
        })
    }

    /// The scenarios that come with costmark, in order of their names.
    ///
    /// # Errors
    /// When one of them is broken, which the tests rule out for a released build.
    pub fn embedded() -> Result<Vec<Self>, BookError> {
        let mut files: Vec<_> = EMBEDDED.files().collect();
        files.sort_by_key(|f| f.path());
        files
            .into_iter()
            .map(|f| {
                let name = format!("configs/scenarios/{}", f.path().display());
                Self::parse(&name, f.contents_utf8().unwrap_or_default())
            })
            .collect()
    }

    /// A scenario by the name of one that comes along, or from a `.toml` file.
    ///
    /// # Errors
    /// A broken file, or an unknown name, with those there are.
    pub fn find(reference: &str) -> Result<Self, BookError> {
        let path = Path::new(reference);
        if path.exists() {
            let (file, text) = BookError::read(path)?;
            return Self::parse(&file, &text);
        }
        let all = Self::embedded()?;
        let by_file = |s: &Self| s.file == reference || s.name == reference;
        if let Some(scenario) = all.iter().find(|s| by_file(s)) {
            return Ok(scenario.clone());
        }
        let names: Vec<String> = all.iter().map(|s| s.name.clone()).collect();
        let near = nearest(reference, names.iter().cloned());
        let hint = match near.as_slice() {
            [] => format!("there are {}", names.join(", ")),
            near => format!("did you mean {}?", near.join(", ")),
        };
        Err(BookError::Book {
            file: reference.to_owned(),
            problem: format!("no such file and no scenario of that name; {hint}"),
        })
    }
}
