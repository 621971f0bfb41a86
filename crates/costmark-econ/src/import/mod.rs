//! Catalogues of prices that others keep, turned into price books of our own layout. What can not
//! be a price is left out and told, with its line.

mod litellm;
mod skypilot;
mod toml_text;

use jiff::civil::Date;

pub use litellm::import_litellm;
pub use skypilot::import_skypilot;
pub use toml_text::{list_book, price_book};

/// Where a catalogue comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Whom to cite.
    pub source: String,
    /// The day the prices were seen.
    pub as_of: Date,
}

/// A row that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Line in the file, or place in its order, counted from 1.
    pub line: usize,
    /// What it names.
    pub name: String,
    /// Why it is no price.
    pub reason: String,
}

/// A catalogue, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported<T> {
    /// What could be used.
    pub prices: Vec<T>,
    /// What could not.
    pub rejected: Vec<Rejected>,
}
