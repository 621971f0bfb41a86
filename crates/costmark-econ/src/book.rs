//! Dated prices with a source, from the files of `configs/prices/rental/` or a user's own.

use std::fmt;
use std::path::Path;

use include_dir::{Dir, include_dir};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::error::BookError;
use crate::wire;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../configs/prices/rental");

/// On what terms an instance is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// By the hour, no commitment.
    OnDemand,
    /// May be taken away at any time.
    Spot,
    /// Committed for one year.
    #[serde(rename = "reserved_1y")]
    Reserved1y,
    /// Committed for three years.
    #[serde(rename = "reserved_3y")]
    Reserved3y,
    /// Asked by an individual host on a marketplace.
    Marketplace,
    /// Bought; the hourly price is computed from ownership.
    Owned,
}

impl Term {
    /// All terms, in the order they are listed.
    pub const ALL: [Self; 6] = [
        Self::OnDemand,
        Self::Spot,
        Self::Reserved1y,
        Self::Reserved3y,
        Self::Marketplace,
        Self::Owned,
    ];

    /// The name used in files and references.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OnDemand => "on_demand",
            Self::Spot => "spot",
            Self::Reserved1y => "reserved_1y",
            Self::Reserved3y => "reserved_3y",
            Self::Marketplace => "marketplace",
            Self::Owned => "owned",
        }
    }

    /// The term of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a machine costs per hour, when that was so, and who says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Who rents it out, e.g. `aws`.
    pub provider: String,
    /// The provider's name for it, e.g. `p5.4xlarge`.
    pub instance: String,
    /// Its accelerator, e.g. `H100`; none for a CPU instance.
    pub accelerator: Option<String>,
    /// How many accelerators, 0 for a CPU instance.
    pub accelerator_count: u32,
    /// Virtual CPUs, where known.
    pub vcpus: Option<u32>,
    /// Memory, GiB, where known.
    pub memory_gib: Option<f64>,
    /// The region the price holds in; `any` for a flat price, `unstated` where the source
    /// does not say.
    pub region: String,
    /// On what terms.
    pub term: Term,
    /// USD per hour for the whole instance.
    pub usd_per_hour: f64,
    /// The day the price was seen.
    pub as_of: Date,
    /// Where.
    pub source: String,
    /// Why the figure is to be doubted. Shown wherever the price is.
    pub suspect: Option<String>,
    /// Anything else a reader must know.
    pub note: Option<String>,
}

impl Price {
    /// The reference that finds exactly this price: `provider/instance@region:term`.
    #[must_use]
    pub fn reference(&self) -> String {
        format!(
            "{}/{}@{}:{}",
            self.provider, self.instance, self.region, self.term
        )
    }

    /// Price of one accelerator's share of the instance; none for a CPU instance.
    #[must_use]
    pub fn usd_per_accelerator_hour(&self) -> Option<f64> {
        (self.accelerator_count > 0).then(|| self.usd_per_hour / f64::from(self.accelerator_count))
    }
}

/// One file of prices.
#[derive(Debug, Clone, PartialEq)]
pub struct PriceBook {
    /// The file it came from.
    pub file: String,
    /// All its prices.
    pub prices: Vec<Price>,
    /// The CPU instance whose price per vCPU stands for a machine nobody priced.
    pub default_cpu_instance: Option<String>,
}

impl PriceBook {
    /// Reads a book from the text of a file named `file`.
    ///
    /// # Errors
    /// When the text is not a price book, a price lacks its date or source, a value is
    /// impossible, or a price is there twice. The error names file and entry.
    pub fn parse(file: &str, text: &str) -> Result<Self, BookError> {
        wire::parse(file, text)
    }

    /// Reads a book from a file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and when the file can not be read.
    pub fn load(path: &Path) -> Result<Self, BookError> {
        let (file, text) = BookError::read(path)?;
        Self::parse(&file, &text)
    }
}

/// All prices known to a run. Later books override earlier ones.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PriceBooks {
    books: Vec<PriceBook>,
}

impl PriceBooks {
    /// The books that come with costmark (`configs/prices/rental/`).
    ///
    /// # Errors
    /// When one of them is broken, which the tests rule out for a released build.
    pub fn embedded() -> Result<Self, BookError> {
        let mut files: Vec<_> = EMBEDDED.files().collect();
        files.sort_by_key(|f| f.path());
        let mut books = Self::default();
        for file in files {
            let name = format!("configs/prices/rental/{}", file.path().display());
            let text = file.contents_utf8().ok_or_else(|| BookError::Format {
                file: name.clone(),
                message: String::from("it is not UTF-8"),
            })?;
            books.push(PriceBook::parse(&name, text)?);
        }
        Ok(books)
    }

    /// Adds a book; its prices win over those already there.
    pub fn push(&mut self, book: PriceBook) {
        self.books.push(book);
    }

    /// The books, in the order they were added.
    #[must_use]
    pub fn books(&self) -> &[PriceBook] {
        &self.books
    }

    /// Every price with the file it came from. A price overridden by a later book of the
    /// same provider, instance, region and term is left out.
    pub fn prices(&self) -> impl Iterator<Item = (&str, &Price)> {
        self.books.iter().enumerate().flat_map(move |(i, book)| {
            book.prices
                .iter()
                .filter(move |price| {
                    !self.books[i + 1..]
                        .iter()
                        .flat_map(|later| &later.prices)
                        .any(|later| same_offer(later, price))
                })
                .map(move |price| (book.file.as_str(), price))
        })
    }
}

/// Whether two prices are of the same thing.
pub(crate) fn same_offer(a: &Price, b: &Price) -> bool {
    a.provider == b.provider && a.instance == b.instance && a.region == b.region && a.term == b.term
}
