//! The price books: those that come along, then the user's own.

use std::path::PathBuf;

use costmark_econ::{ListBook, ListBooks, PriceBook, PriceBooks};

use crate::failure::{Failure, Result};

/// All prices known.
pub(crate) struct Books {
    pub(crate) rental: PriceBooks,
    pub(crate) lists: ListBooks,
}

impl Books {
    /// Files with `[[quote]]` are rental books, files with `[[list]]` books of list prices.
    pub(crate) fn load(files: &[PathBuf]) -> Result<Self> {
        let mut books = Self {
            rental: PriceBooks::embedded().map_err(Failure::input)?,
            lists: ListBooks::embedded().map_err(Failure::input)?,
        };
        for path in files {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let is_list = text.lines().any(|line| line.trim() == "[[list]]");
            if is_list {
                books
                    .lists
                    .push(ListBook::load(path).map_err(Failure::input)?);
            } else {
                books
                    .rental
                    .push(PriceBook::load(path).map_err(Failure::input)?);
            }
        }
        Ok(books)
    }
}
