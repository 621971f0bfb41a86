//! What can be wrong with prices and cost inputs, and why a figure may be undefined.

use serde::{Deserialize, Serialize};

/// A price book that can not be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The file could not be read.
    #[error("cannot read the price book {file}: {source}. Check the path and its permissions")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a price book: a syntax error, or a missing, unknown or mistyped key.
    #[error(
        "{file} is not a price book: {message}. The files in configs/prices/ show the layout; \
         every quote needs source, as_of, region, term and prices"
    )]
    Format {
        /// The file.
        file: String,
        /// What the parser said, with line and column.
        message: String,
    },
    /// An entry holds a value no price can have.
    #[error("{file}: quote {quote}, entry {entry} ({instance}): {problem}")]
    Entry {
        /// The file.
        file: String,
        /// Which `[[quote]]`, counted from 1.
        quote: usize,
        /// Which of its prices, counted from 1.
        entry: usize,
        /// The entry's instance name.
        instance: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// Something is wrong with the book as a whole.
    #[error("{file}: {problem}")]
    Book {
        /// The file.
        file: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// A price that was asked for and not found.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LookupError {
    /// Not of the form `provider/instance[@region][:term]`.
    #[error(
        "`{reference}` does not name a price: {problem}. \
         Write provider/instance[@region][:term], for example aws/p5.4xlarge@us-east-1:on_demand"
    )]
    Reference {
        /// What was asked for.
        reference: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No such price.
    #[error(
        "no price for `{reference}` in the price books{}",
        hint("did you mean", suggestions)
    )]
    NotFound {
        /// What was asked for.
        reference: String,
        /// The closest references there are, closest first.
        suggestions: Vec<String>,
    },
    /// Several prices fit.
    #[error("several prices fit `{reference}`{}", hint("name one of", candidates))]
    Ambiguous {
        /// What was asked for.
        reference: String,
        /// References that each name one of them.
        candidates: Vec<String>,
    },
    /// A stated or derived price is impossible.
    #[error("{0}")]
    Value(#[from] CostError),
    /// No book names an instance whose price per vCPU could be taken.
    #[error(
        "no price book names a default CPU instance; \
         state a price (--price USD_PER_HOUR) or an instance (--instance PROVIDER/NAME)"
    )]
    NoDefault,
}

fn hint(lead: &str, references: &[String]) -> String {
    if references.is_empty() {
        String::from("; `costmark prices list` shows all there are")
    } else {
        format!("; {lead} {}?", references.join(", "))
    }
}

/// An input of the cost model that no money can be computed from.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum CostError {
    /// The hourly price is not a positive number.
    #[error("the price of {0} USD per hour is not a positive finite number")]
    Price(f64),
    /// Utilisation outside (0, 1].
    #[error(
        "a utilization of {0} is not in (0, 1]: it is the share of paid time spent at the \
         measured load, 1 for all of it"
    )]
    Utilization(f64),
    /// Share outside (0, 1].
    #[error("a share of {0} is not in (0, 1]: it is the part of the instance that is charged")]
    Share(f64),
    /// A machine without CPUs.
    #[error("a machine of 0 vCPUs has no price per vCPU")]
    NoVcpus,
}

/// Why a figure does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Undefined {
    /// The backend does not show its steps.
    #[error("the backend shows no step log, so prefill and decode time can not be told apart")]
    NoStepLog,
    /// The model's bytes and FLOPs are not known, so mixed steps can not be split.
    #[error("the model's work per step is not known, so steps can not be split by phase")]
    NoModelWork,
    /// The machine's peaks are not usable.
    #[error(
        "the machine's measured peaks are not positive numbers, so mixed steps can not be split"
    )]
    NoRoofline,
    /// Steps overlap in time.
    #[error("steps of the log overlap in time, so their durations do not add up to the window")]
    OverlappingSteps,
    /// The window has no length.
    #[error("the measured window has no length")]
    EmptyWindow,
    /// No step did any work in the window.
    #[error("no step did any work inside the measured window")]
    NoSteps,
    /// No tokens at all.
    #[error("no tokens in the measured window")]
    NoTokens,
    /// No input token was computed.
    #[error("no uncached input tokens in the measured window")]
    NoInputTokens,
    /// No input token came from the prefix cache.
    #[error("no input tokens came from the prefix cache in the measured window")]
    NoCachedTokens,
    /// No output token.
    #[error("no output tokens in the measured window")]
    NoOutputTokens,
    /// More cached than input tokens.
    #[error("more cached input tokens than input tokens were reported")]
    CachedExceedsInput,
    /// The throughput is not a positive number.
    #[error("the throughput is not a positive number")]
    NoThroughput,
}
