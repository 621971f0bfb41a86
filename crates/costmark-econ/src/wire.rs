//! The file format of price books: quotes of one source, day, region and term, each with
//! its instances. Strict: an unknown key is an error, not a typing slip passed over.

use jiff::civil::Date;
use serde::Deserialize;

use crate::book::{Price, PriceBook, Term, same_offer};
use crate::error::BookError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BookFile {
    schema_version: u32,
    provider: String,
    default_cpu_instance: Option<String>,
    quote: Vec<Quote>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Quote {
    source: String,
    as_of: String,
    /// For all its prices that do not state their own.
    region: Option<String>,
    term: Term,
    /// US dollars where it is left out; anything else is refused.
    currency: Option<String>,
    /// Why all its prices are to be doubted.
    suspect: Option<String>,
    prices: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    instance: String,
    region: Option<String>,
    accelerator: Option<String>,
    accelerator_count: Option<u32>,
    vcpus: Option<u32>,
    memory_gib: Option<f64>,
    usd_per_hour: f64,
    currency: Option<String>,
    suspect: Option<String>,
    note: Option<String>,
}

const SCHEMA_VERSION: u32 = 1;

pub(crate) fn parse(file: &str, text: &str) -> Result<PriceBook, BookError> {
    let raw: BookFile = toml::from_str(text).map_err(|e| BookError::Format {
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
    if let Some(problem) = name_problem("provider", &raw.provider) {
        return Err(book_error(problem));
    }
    let mut prices: Vec<Price> = Vec::new();
    for (q, quote) in raw.quote.into_iter().enumerate() {
        let head = QuoteHead::check(&quote)
            .map_err(|problem| book_error(format!("quote {}: {problem}", q + 1)))?;
        for (e, entry) in quote.prices.into_iter().enumerate() {
            let instance = entry.instance.clone();
            let entry_error = |problem: String| BookError::Entry {
                file: file.to_owned(),
                part: format!("quote {}", q + 1),
                entry: e + 1,
                name: instance,
                problem,
            };
            let price = match entry.into_price(&raw.provider, &head) {
                Ok(price) => price,
                Err(problem) => return Err(entry_error(problem)),
            };
            if prices.iter().any(|p| same_offer(p, &price)) {
                return Err(entry_error(format!(
                    "{} is priced twice in this file; keep one",
                    price.reference()
                )));
            }
            prices.push(price);
        }
    }
    if let Some(name) = &raw.default_cpu_instance {
        let usable = prices.iter().any(|p| {
            &p.instance == name
                && p.term == Term::OnDemand
                && p.accelerator.is_none()
                && p.vcpus.is_some()
        });
        if !usable {
            return Err(book_error(format!(
                "default_cpu_instance `{name}` has no on_demand price with vcpus and without \
                 an accelerator in this file"
            )));
        }
    }
    Ok(PriceBook {
        file: file.to_owned(),
        prices,
        default_cpu_instance: raw.default_cpu_instance,
    })
}

/// What all prices of a quote share.
struct QuoteHead {
    source: String,
    as_of: Date,
    region: Option<String>,
    term: Term,
    suspect: Option<String>,
}

impl QuoteHead {
    fn check(quote: &Quote) -> Result<Self, String> {
        if quote.source.trim().is_empty() {
            return Err(String::from(
                "source is empty; say where the prices were seen",
            ));
        }
        let as_of: Date = quote.as_of.parse().map_err(|_| {
            format!(
                "as_of `{}` is not a date; write the day the prices were seen as \"2026-01-31\"",
                quote.as_of
            )
        })?;
        if let Some(problem) = currency_problem(quote.currency.as_deref()) {
            return Err(problem);
        }
        if quote.suspect.as_ref().is_some_and(|s| s.trim().is_empty()) {
            return Err(String::from(
                "suspect is empty; say what a reader must know, or leave it out",
            ));
        }
        Ok(Self {
            source: quote.source.clone(),
            as_of,
            region: quote.region.clone(),
            term: quote.term,
            suspect: quote.suspect.clone(),
        })
    }
}

impl Entry {
    fn into_price(self, provider: &str, head: &QuoteHead) -> Result<Price, String> {
        if let Some(problem) = name_problem("instance", &self.instance) {
            return Err(problem);
        }
        if !(self.usd_per_hour.is_finite() && self.usd_per_hour > 0.0) {
            return Err(format!(
                "usd_per_hour is {}; it must be a positive price for the whole instance",
                self.usd_per_hour
            ));
        }
        if let Some(problem) = currency_problem(self.currency.as_deref()) {
            return Err(problem);
        }
        let region = self.region.or_else(|| head.region.clone()).ok_or_else(|| {
            String::from(
                "no region, neither here nor in the quote; write \"any\" for a flat price and \
                 \"unstated\" where the source does not say",
            )
        })?;
        if let Some(problem) = name_problem("region", &region) {
            return Err(problem);
        }
        let accelerator_count = match (&self.accelerator, self.accelerator_count) {
            (None, None | Some(0)) => 0,
            (Some(_), Some(n)) if n > 0 => n,
            (Some(name), _) => {
                return Err(format!(
                    "accelerator `{name}` needs an accelerator_count of at least 1"
                ));
            }
            (None, Some(n)) => {
                return Err(format!(
                    "accelerator_count is {n}, but no accelerator is named"
                ));
            }
        };
        if self.vcpus == Some(0) {
            return Err(String::from("vcpus is 0; leave it out if it is not known"));
        }
        if self.memory_gib.is_some_and(|m| !(m.is_finite() && m > 0.0)) {
            return Err(String::from(
                "memory_gib must be positive; leave it out if it is not known",
            ));
        }
        if let Some(key) = [("suspect", &self.suspect), ("note", &self.note)]
            .into_iter()
            .find_map(|(key, text)| text.as_ref().filter(|t| t.trim().is_empty()).map(|_| key))
        {
            return Err(format!(
                "{key} is empty; say what a reader must know, or leave it out"
            ));
        }
        Ok(Price {
            provider: provider.to_owned(),
            instance: self.instance,
            accelerator: self.accelerator,
            accelerator_count,
            vcpus: self.vcpus,
            memory_gib: self.memory_gib,
            region,
            term: head.term,
            usd_per_hour: self.usd_per_hour,
            as_of: head.as_of,
            source: head.source.clone(),
            suspect: self.suspect.or_else(|| head.suspect.clone()),
            note: self.note,
        })
    }
}

/// Sums of money in several currencies do not add up, so there is only one.
pub(crate) fn currency_problem(currency: Option<&str>) -> Option<String> {
    currency.filter(|c| *c != "USD").map(|c| {
        format!(
            "currency is {c}; prices are US dollars only: convert it, and say the rate and its \
             day in the note"
        )
    })
}

/// Names end up in references, where `/`, `@`, `:` and spaces have a meaning.
pub(crate) fn name_problem(key: &str, name: &str) -> Option<String> {
    let bad = name.is_empty()
        || name
            .chars()
            .any(|c| c.is_whitespace() || matches!(c, '/' | '@' | ':'));
    bad.then(|| format!("{key} `{name}` must not be empty or hold spaces, `/`, `@` or `:`"))
}
