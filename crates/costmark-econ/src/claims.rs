//! Published claims, recomputed from their own figures: the files of `configs/claims/` or a
//! user's own.
//!
//! A claim is confirmed only where something published comes out of other published figures.
//! Identities (a definition written twice) and what-ifs (a number implied by an assumption) are
//! computed and shown, and never count as confirmation.

use std::collections::BTreeMap;
use std::path::Path;

use include_dir::{Dir, include_dir};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::error::BookError;
use crate::sheet::{Computed, Measured, Quantity, Sheet, Step};

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../configs/claims");

const SCHEMA_VERSION: u32 = 1;

/// What the arithmetic can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A published figure follows from others.
    Check,
    /// The figures say the same thing twice.
    Identity,
    /// A number is implied by an assumption.
    WhatIf,
}

/// What came of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All published figures come out within their rounding.
    Reproduces,
    /// They do, if the stated assumption holds.
    ReproducesUnderAssumption,
    /// At least one does not.
    DoesNotReproduce,
    /// What it needs is not there.
    NotCheckable,
    /// A definition; confirms nothing.
    Identity,
    /// An implication of an assumption; confirms nothing.
    WhatIf,
}

impl Verdict {
    /// For a table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reproduces => "reproduces",
            Self::ReproducesUnderAssumption => "reproduces under assumption",
            Self::DoesNotReproduce => "does not reproduce",
            Self::NotCheckable => "not checkable",
            Self::Identity => "identity",
            Self::WhatIf => "what-if",
        }
    }
}

/// One claim.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Stable name.
    pub id: String,
    /// What was said.
    pub says: String,
    /// What can be shown.
    pub kind: Kind,
    /// What has to be believed for it; none where nothing has.
    pub assumption: Option<String>,
    /// Its arithmetic.
    pub sheet: Sheet,
}

/// One file: claims of one report.
#[derive(Debug, Clone)]
pub struct ClaimFile {
    /// The file.
    pub file: String,
    /// The report, for people.
    pub title: String,
    /// Who said it where.
    pub source: String,
    /// When.
    pub as_of: Date,
    /// What it says.
    pub claims: Vec<Claim>,
}

/// A claim with what came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckedClaim {
    /// Stable name.
    pub id: String,
    /// What was said.
    pub says: String,
    /// What can be shown.
    pub kind: Kind,
    /// What came of it.
    pub verdict: Verdict,
    /// What has to be believed.
    pub assumption: Option<String>,
    /// Inputs as published.
    pub inputs: BTreeMap<String, Quantity>,
    /// What was computed.
    #[serde(flatten)]
    pub computed: Computed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    schema_version: u32,
    title: String,
    source: String,
    as_of: String,
    claim: Vec<RawClaim>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClaim {
    id: String,
    says: String,
    kind: Kind,
    assumption: Option<String>,
    #[serde(default)]
    inputs: BTreeMap<String, Quantity>,
    results: Vec<Step>,
}

impl ClaimFile {
    /// Reads claims from the text of a file named `file`.
    ///
    /// # Errors
    /// The file, the claim and the field that is wrong.
    pub fn parse(file: &str, text: &str) -> Result<Self, BookError> {
        let error = |problem: String| BookError::Book {
            file: file.to_owned(),
            problem,
        };
        let raw: RawFile =
            toml::from_str(text).map_err(|e| error(e.to_string().trim_end().to_owned()))?;
        if raw.schema_version != SCHEMA_VERSION {
            return Err(error(format!(
                "schema_version is {}, this costmark reads {SCHEMA_VERSION}",
                raw.schema_version
            )));
        }
        let as_of = dated(&raw.source, &raw.as_of).map_err(&error)?;
        let mut claims: Vec<Claim> = Vec::new();
        for raw in raw.claim {
            let id = raw.id.clone();
            let claim = raw
                .check()
                .map_err(|p| error(format!("claim `{id}`: {p}")))?;
            if claims.iter().any(|c| c.id == id) {
                return Err(error(format!("claim `{id}` is there twice")));
            }
            claims.push(claim);
        }
        Ok(Self {
            file: file.to_owned(),
            title: raw.title,
            source: raw.source,
            as_of,
            claims,
        })
    }

    /// Reads claims from a file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and when the file can not be read.
    pub fn load(path: &Path) -> Result<Self, BookError> {
        let (file, text) = BookError::read(path)?;
        Self::parse(&file, &text)
    }

    /// The files that come with costmark (`configs/claims/`), in order of their names.
    ///
    /// # Errors
    /// When one of them is broken, which the tests rule out for a released build.
    pub fn embedded() -> Result<Vec<Self>, BookError> {
        let mut files: Vec<_> = EMBEDDED.files().collect();
        files.sort_by_key(|f| f.path());
        files
            .into_iter()
            .map(|f| {
                let name = format!("configs/claims/{}", f.path().display());
                Self::parse(&name, f.contents_utf8().unwrap_or_default())
            })
            .collect()
    }

    /// Checks every claim, against `measured` where it asks for that.
    ///
    /// # Errors
    /// A formula that divides by zero or leaves the real numbers, by file, claim and result.
    pub fn check(&self, measured: Option<&Measured>) -> Result<Vec<CheckedClaim>, BookError> {
        self.claims
            .iter()
            .map(|claim| {
                claim.check(measured).map_err(|p| BookError::Book {
                    file: self.file.clone(),
                    problem: format!("claim `{}`: {p}", claim.id),
                })
            })
            .collect()
    }
}

/// The day of a source that has both.
pub(crate) fn dated(source: &str, as_of: &str) -> Result<Date, String> {
    if source.trim().is_empty() {
        return Err(String::from("source is empty; say who said it and where"));
    }
    as_of
        .parse()
        .map_err(|_| format!("as_of `{as_of}` is not a date such as \"2026-01-31\""))
}

impl RawClaim {
    fn check(self) -> Result<Claim, String> {
        if self.id.trim().is_empty() || self.says.trim().is_empty() {
            return Err(String::from("id and says must not be empty"));
        }
        if self
            .assumption
            .as_ref()
            .is_some_and(|a| a.trim().is_empty())
        {
            return Err(String::from("assumption is empty; say it, or leave it out"));
        }
        let tested = self
            .results
            .iter()
            .any(|s| s.published.is_some() || s.within.is_some());
        match self.kind {
            Kind::Check if !tested => {
                return Err(String::from(
                    "a check needs a result with `published` or `within`; without one it is a what_if",
                ));
            }
            Kind::WhatIf if tested => {
                return Err(String::from(
                    "a what_if has nothing published to compare with; it is a check",
                ));
            }
            Kind::WhatIf if self.assumption.is_none() => {
                return Err(String::from("a what_if must say its assumption"));
            }
            _ => {}
        }
        Ok(Claim {
            id: self.id,
            says: self.says,
            kind: self.kind,
            assumption: self.assumption,
            sheet: Sheet::new(self.inputs, self.results)?,
        })
    }
}

impl Claim {
    /// Computes it and judges.
    ///
    /// # Errors
    /// A formula that divides by zero or leaves the real numbers, by its result.
    pub fn check(&self, measured: Option<&Measured>) -> Result<CheckedClaim, String> {
        let computed = self.sheet.compute(measured)?;
        let disagrees = computed.outcomes.iter().any(|o| o.agrees == Some(false));
        let verdict = match self.kind {
            _ if disagrees => Verdict::DoesNotReproduce,
            _ if !computed.missing.is_empty() => Verdict::NotCheckable,
            Kind::Identity => Verdict::Identity,
            Kind::WhatIf => Verdict::WhatIf,
            Kind::Check if self.assumption.is_some() => Verdict::ReproducesUnderAssumption,
            Kind::Check => Verdict::Reproduces,
        };
        Ok(CheckedClaim {
            id: self.id.clone(),
            says: self.says.clone(),
            kind: self.kind,
            verdict,
            assumption: self.assumption.clone(),
            inputs: self.sheet.inputs.clone(),
            computed,
        })
    }
}
