//! Lengths as they were observed: files of token counts.

use std::io::BufRead;
use std::sync::Arc;

use crate::length::LengthDistribution;
use crate::trace::{LineReader, TraceError, token_count};

/// Lengths a file may hold; more say nothing that these do not.
const MAX_LENGTHS: usize = 10_000_000;

/// A file of lengths.
#[derive(Debug, Clone, PartialEq)]
pub enum ObservedLengths {
    /// One length per line, ascending here.
    Single(Arc<[u32]>),
    /// `input,output` on each line, in the file's order.
    Pairs(Arc<[(u32, u32)]>),
}

impl ObservedLengths {
    /// Reads whole numbers of at least 1, one per line or two with a comma between them; a
    /// header line `input_tokens,output_tokens` may come first. `name` is what errors call
    /// the file.
    ///
    /// # Errors
    /// The first line that is none of these, with its number; no lengths at all.
    pub fn read(reader: impl BufRead, name: &str) -> Result<Self, TraceError> {
        let at_line = |line: u64, reason: String| TraceError::Line {
            name: name.to_owned(),
            line,
            reason,
        };
        let mut source = LineReader::new(reader);
        let (mut single, mut pairs) = (Vec::new(), Vec::new());
        while source.next().map_err(|source| TraceError::Io {
            name: name.to_owned(),
            source,
        })? {
            let (line, number) = (source.line().trim(), source.number());
            if line.is_empty() || number == 1 && line == "input_tokens,output_tokens" {
                continue;
            }
            let tokens = |what: &str, text: &str| {
                let count = text
                    .trim()
                    .parse::<i64>()
                    .map_err(|_| format!("`{}` is not a whole number of tokens", text.trim()));
                count
                    .and_then(|count| token_count(what, count, 1))
                    .map_err(|reason| at_line(number, reason))
            };
            match line.split_once(',') {
                None => single.push(tokens("the length", line)?),
                Some((input, output)) => {
                    pairs.push((tokens("the input", input)?, tokens("the output", output)?));
                }
            }
            if !single.is_empty() && !pairs.is_empty() {
                let reason = "one line has one length and another has two; give all lines one \
                              (`128`) or two (`128,32`)";
                return Err(at_line(number, reason.into()));
            }
            if single.len() + pairs.len() > MAX_LENGTHS {
                let reason = format!("more than {MAX_LENGTHS} lengths; a sample of them will do");
                return Err(at_line(number, reason));
            }
        }
        if !pairs.is_empty() {
            return Ok(Self::Pairs(pairs.into()));
        }
        if single.is_empty() {
            return Err(at_line(1, "the file holds no lengths".into()));
        }
        single.sort_unstable();
        Ok(Self::Single(single.into()))
    }

    /// How many lines there were.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Single(all) => all.len(),
            Self::Pairs(all) => all.len(),
        }
    }

    /// Never: [`read`](Self::read) refuses an empty file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The distribution of inputs, or of the only column there is.
    #[must_use]
    pub fn inputs(&self) -> LengthDistribution {
        match self {
            Self::Single(all) => LengthDistribution::Observed(Arc::clone(all)),
            Self::Pairs(all) => observed(all.iter().map(|pair| pair.0).collect()),
        }
    }

    /// The distribution of outputs, or of the only column there is.
    #[must_use]
    pub fn outputs(&self) -> LengthDistribution {
        match self {
            Self::Single(all) => LengthDistribution::Observed(Arc::clone(all)),
            Self::Pairs(all) => observed(all.iter().map(|pair| pair.1).collect()),
        }
    }
}

fn observed(mut lengths: Vec<u32>) -> LengthDistribution {
    lengths.sort_unstable();
    LengthDistribution::Observed(lengths.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ObservedLengths, TraceError> {
        ObservedLengths::read(text.as_bytes(), "lens.txt")
    }

    #[test]
    fn one_or_two_columns() {
        let single = read("30\n10\n\n20\n").unwrap();
        assert_eq!(single, ObservedLengths::Single([10, 20, 30].into()));
        assert_eq!(single.inputs().longest(), 30);
        let pairs = read("input_tokens,output_tokens\n10, 1\n5,7\n").unwrap();
        assert_eq!(pairs, ObservedLengths::Pairs([(10, 1), (5, 7)].into()));
        assert_eq!(pairs.inputs(), LengthDistribution::Observed([5, 10].into()));
        assert_eq!(pairs.outputs(), LengthDistribution::Observed([1, 7].into()));
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, says) in [
            ("", "lens.txt:1: the file holds no lengths"),
            ("10\n-3\n", "lens.txt:2: the length is -3"),
            ("10\n0\n", "lens.txt:2: the length is 0"),
            ("10\nten\n", "lens.txt:2: `ten` is not a whole number"),
            ("10\n5,6\n", "lens.txt:2: one line has one length"),
            ("5,999999999999\n", "lens.txt:1: the output is 999999999999"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }
}
