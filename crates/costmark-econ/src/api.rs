//! What providers charge for tokens: list prices by class, dated and with a source, from the
//! files of `configs/prices/api/` or a user's own.

use std::path::Path;

use include_dir::{Dir, include_dir};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::error::{BookError, LookupError};
use crate::nearest::nearest;
use crate::wire::currency_problem;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../configs/prices/api");

const SCHEMA_VERSION: u32 = 1;
const UNIT: &str = "usd_per_mtok";

/// List price of a model, USD per million tokens of each class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListPrice {
    /// Who sells it, e.g. `deepinfra`.
    pub provider: String,
    /// The seller's name of the model, without the seller.
    pub model: String,
    /// Input that was not in the prompt cache.
    pub input: f64,
    /// Input read from the prompt cache; none where it is not listed.
    pub cached_read: Option<f64>,
    /// Input written to the prompt cache, for minutes; none where it costs what input costs.
    pub cache_write: Option<f64>,
    /// Input written to the prompt cache for an hour.
    pub cache_write_1h: Option<f64>,
    /// Output.
    pub output: f64,
    /// Input of deferred batches.
    pub batch_input: Option<f64>,
    /// Output of deferred batches.
    pub batch_output: Option<f64>,
    /// Prices of requests with a long prompt.
    pub long_context: Option<LongContext>,
    /// The last day it is sold, where announced.
    pub retires: Option<Date>,
    /// The day the price was seen.
    pub as_of: Date,
    /// Where.
    pub source: String,
    /// Why the figure is to be doubted. Shown wherever the price is.
    pub suspect: Option<String>,
    /// Anything else a reader must know.
    pub note: Option<String>,
}

/// What replaces the standard prices when a prompt is longer than `over_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongContext {
    /// Prompt tokens of a request, cached ones included, above which it applies.
    pub over_tokens: u64,
    /// Input.
    pub input: f64,
    /// Input read from the prompt cache.
    pub cached_read: Option<f64>,
    /// Input written to the prompt cache.
    pub cache_write: Option<f64>,
    /// Output.
    pub output: f64,
}

impl ListPrice {
    /// A price stated by the user, as of `today`.
    ///
    /// # Errors
    /// A price that is not positive and finite, by the name of its class.
    pub fn stated(
        input: f64,
        cached_read: Option<f64>,
        output: f64,
        today: Date,
    ) -> Result<Self, String> {
        let price = Self {
            provider: String::from("user"),
            model: String::from("stated"),
            input,
            cached_read,
            cache_write: None,
            cache_write_1h: None,
            output,
            batch_input: None,
            batch_output: None,
            long_context: None,
            retires: None,
            as_of: today,
            source: String::from("stated by user"),
            suspect: None,
            note: None,
        };
        match price.problem() {
            Some(problem) => Err(problem),
            None => Ok(price),
        }
    }

    /// The reference that finds it: `provider/model`.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{}/{}", self.provider, self.model)
    }

    /// The price in one line: what, how much, since when, says who.
    #[must_use]
    pub fn describe(&self) -> String {
        let cached = match self.cached_read {
            Some(usd) => format!(", ${usd} cached read"),
            None => String::new(),
        };
        format!(
            "{}: ${} input{cached}, ${} output per million tokens, as of {} ({})",
            self.reference(),
            self.input,
            self.output,
            self.as_of,
            self.source
        )
    }

    /// What a reader must be told beside the price on the day `today`, one sentence each.
    #[must_use]
    pub fn caveats(&self, today: Date) -> Vec<String> {
        let mut caveats = Vec::new();
        if let Some(reason) = &self.suspect {
            caveats.push(format!("The list price is suspect: {reason}."));
        }
        if let Some(day) = self.retires {
            let verb = if day < today { "was" } else { "is to be" };
            caveats.push(format!("{} {verb} retired on {day}.", self.reference()));
        }
        if let Some(note) = &self.note {
            caveats.push(format!("Price note: {note}."));
        }
        caveats
    }

    /// Whether this is the price of `model`, as far as names tell: letters and digits after the
    /// last slash, upper or lower case.
    #[must_use]
    pub fn is_of(&self, model: &str) -> bool {
        let plain = |name: &str| -> String {
            let name = name
                .trim_end_matches('/')
                .rsplit('/')
                .next()
                .unwrap_or(name);
            name.chars()
                .filter(char::is_ascii_alphanumeric)
                .map(|c| c.to_ascii_lowercase())
                .collect()
        };
        plain(&self.model) == plain(model)
    }

    fn problem(&self) -> Option<String> {
        let long = self.long_context;
        let prices = [
            ("input", Some(self.input)),
            ("cached_read", self.cached_read),
            ("cache_write", self.cache_write),
            ("cache_write_1h", self.cache_write_1h),
            ("output", Some(self.output)),
            ("batch_input", self.batch_input),
            ("batch_output", self.batch_output),
            ("long_context.input", long.map(|l| l.input)),
            ("long_context.cached_read", long.and_then(|l| l.cached_read)),
            ("long_context.cache_write", long.and_then(|l| l.cache_write)),
            ("long_context.output", long.map(|l| l.output)),
        ];
        if let Some((key, usd)) = prices.into_iter().find_map(|(key, usd)| {
            let usd = usd?;
            (!(usd.is_finite() && usd > 0.0)).then_some((key, usd))
        }) {
            return Some(format!(
                "{key} is {usd}; a price must be positive, and one that is not charged is left out"
            ));
        }
        if long.is_some_and(|l| l.over_tokens == 0) {
            return Some(String::from(
                "long_context.over_tokens is 0; it is the prompt length above which the prices hold",
            ));
        }
        if self.batch_input.is_some() != self.batch_output.is_some() {
            return Some(String::from(
                "batch_input and batch_output belong together; give both or neither",
            ));
        }
        [("suspect", &self.suspect), ("note", &self.note)]
            .into_iter()
            .find(|(_, text)| text.as_ref().is_some_and(|t| t.trim().is_empty()))
            .map(|(key, _)| format!("{key} is empty; say what a reader must know, or leave it out"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema_version: u32,
    provider: String,
    list: Vec<List>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    source: String,
    as_of: String,
    unit: String,
    currency: Option<String>,
    models: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    model: String,
    input: f64,
    cached_read: Option<f64>,
    cache_write: Option<f64>,
    cache_write_1h: Option<f64>,
    output: f64,
    batch_input: Option<f64>,
    batch_output: Option<f64>,
    long_context: Option<LongContext>,
    retires: Option<String>,
    suspect: Option<String>,
    note: Option<String>,
}

/// One file of list prices.
#[derive(Debug, Clone, PartialEq)]
pub struct ListBook {
    /// The file it came from.
    pub file: String,
    /// All its prices.
    pub prices: Vec<ListPrice>,
}

impl ListBook {
    /// Reads a book from the text of a file named `file`.
    ///
    /// # Errors
    /// When the text is not a book of list prices, a price lacks its date or source or is not
    /// positive, or a model is there twice. The error names file, entry and field.
    pub fn parse(file: &str, text: &str) -> Result<Self, BookError> {
        let raw: File = toml::from_str(text).map_err(|e| BookError::ListFormat {
            file: file.to_owned(),
            message: e.to_string().trim_end().to_owned(),
        })?;
        let book_error = |problem: String| BookError::Book {
            file: file.to_owned(),
            problem,
        };
        if raw.schema_version != SCHEMA_VERSION {
            return Err(book_error(format!(
                "schema_version is {}, this costmark reads {SCHEMA_VERSION}",
                raw.schema_version
            )));
        }
        if raw.provider.is_empty()
            || raw
                .provider
                .contains(|c: char| c.is_whitespace() || c == '/')
        {
            return Err(book_error(format!(
                "provider `{}` must not be empty or hold spaces or `/`",
                raw.provider
            )));
        }
        let mut prices: Vec<ListPrice> = Vec::new();
        for (l, list) in raw.list.into_iter().enumerate() {
            let as_of = list
                .check()
                .map_err(|problem| book_error(format!("list {}: {problem}", l + 1)))?;
            for (e, entry) in list.models.into_iter().enumerate() {
                let model = entry.model.clone();
                let entry_error = |problem: String| BookError::Entry {
                    file: file.to_owned(),
                    part: format!("list {}", l + 1),
                    entry: e + 1,
                    name: model.clone(),
                    problem,
                };
                let price = entry
                    .into_price(&raw.provider, as_of, &list.source)
                    .map_err(entry_error)?;
                if prices
                    .iter()
                    .any(|p| p.model.eq_ignore_ascii_case(&price.model))
                {
                    return Err(entry_error(format!(
                        "{} is priced twice in this file; keep one",
                        price.reference()
                    )));
                }
                prices.push(price);
            }
        }
        Ok(Self {
            file: file.to_owned(),
            prices,
        })
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

impl List {
    fn check(&self) -> Result<Date, String> {
        if self.source.trim().is_empty() {
            return Err(String::from(
                "source is empty; say where the prices were seen",
            ));
        }
        if self.unit != UNIT {
            return Err(format!(
                "unit is `{}`; list prices are \"{UNIT}\", US dollars per million tokens",
                self.unit
            ));
        }
        if let Some(problem) = currency_problem(self.currency.as_deref()) {
            return Err(problem);
        }
        self.as_of.parse().map_err(|_| {
            format!(
                "as_of `{}` is not a date; write the day the prices were seen as \"2026-01-31\"",
                self.as_of
            )
        })
    }
}

impl Entry {
    fn into_price(self, provider: &str, as_of: Date, source: &str) -> Result<ListPrice, String> {
        if self.model.trim().is_empty() || self.model.contains(char::is_whitespace) {
            return Err(String::from("model must not be empty or hold spaces"));
        }
        let retires = match &self.retires {
            None => None,
            Some(day) => Some(
                day.parse()
                    .map_err(|_| format!("retires `{day}` is not a date such as \"2026-01-31\""))?,
            ),
        };
        let price = ListPrice {
            provider: provider.to_owned(),
            model: self.model,
            input: self.input,
            cached_read: self.cached_read,
            cache_write: self.cache_write,
            cache_write_1h: self.cache_write_1h,
            output: self.output,
            batch_input: self.batch_input,
            batch_output: self.batch_output,
            long_context: self.long_context,
            retires,
            as_of,
            source: source.to_owned(),
            suspect: self.suspect,
            note: self.note,
        };
        match price.problem() {
            Some(problem) => Err(problem),
            None => Ok(price),
        }
    }
}

/// All list prices known. Later books override earlier ones.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListBooks {
    books: Vec<ListBook>,
}

impl ListBooks {
    /// The books that come with costmark (`configs/prices/api/`).
    ///
    /// # Errors
    /// When one of them is broken, which the tests rule out for a released build.
    pub fn embedded() -> Result<Self, BookError> {
        let mut files: Vec<_> = EMBEDDED.files().collect();
        files.sort_by_key(|f| f.path());
        let mut books = Self::default();
        for file in files {
            let name = format!("configs/prices/api/{}", file.path().display());
            books.push(ListBook::parse(
                &name,
                file.contents_utf8().unwrap_or_default(),
            )?);
        }
        Ok(books)
    }

    /// Adds a book; its prices win over those already there.
    pub fn push(&mut self, book: ListBook) {
        self.books.push(book);
    }

    /// Every price with the file it came from, overridden ones left out.
    pub fn prices(&self) -> impl Iterator<Item = (&str, &ListPrice)> {
        self.books.iter().enumerate().flat_map(move |(i, book)| {
            book.prices
                .iter()
                .filter(move |price| {
                    !self.books[i + 1..]
                        .iter()
                        .flat_map(|later| &later.prices)
                        .any(|later| {
                            later.provider == price.provider
                                && later.model.eq_ignore_ascii_case(&price.model)
                        })
                })
                .map(move |price| (book.file.as_str(), price))
        })
    }

    /// The price named by `provider/model`; letter case does not matter, and the last part of
    /// a model's name is enough where only one model of the provider ends so.
    ///
    /// # Errors
    /// An unknown price, with the closest ones there are, or an ambiguous one.
    pub fn find(&self, reference: &str) -> Result<&ListPrice, LookupError> {
        let wanted = reference.trim();
        let exact = self
            .prices()
            .map(|(_, p)| p)
            .find(|p| p.reference().eq_ignore_ascii_case(wanted));
        if let Some(price) = exact {
            return Ok(price);
        }
        let short: Vec<&ListPrice> = match wanted.split_once('/') {
            None => Vec::new(),
            Some((provider, model)) => self
                .prices()
                .map(|(_, p)| p)
                .filter(|p| {
                    let last = p.model.rsplit('/').next().unwrap_or_default();
                    p.provider.eq_ignore_ascii_case(provider) && last.eq_ignore_ascii_case(model)
                })
                .collect(),
        };
        match short.as_slice() {
            [price] => Ok(price),
            [] => Err(LookupError::NotFound {
                reference: reference.to_owned(),
                suggestions: nearest(wanted, self.prices().map(|(_, p)| p.reference())),
            }),
            several => Err(LookupError::Ambiguous {
                reference: reference.to_owned(),
                candidates: several.iter().map(|p| p.reference()).collect(),
            }),
        }
    }
}
