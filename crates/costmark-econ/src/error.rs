//! What can be wrong with prices and cost inputs, and why a figure may be undefined.

use serde::{Deserialize, Serialize};

/// A price book that can not be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The file could not be read.
    #[error("cannot read {file}: {source}. Check the path and its permissions")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a price book: a syntax error, or a missing, unknown or mistyped key.
    #[error(
        "{file} is not a price book: {message}. The files in configs/prices/rental/ show the layout; \
         every quote needs source, as_of, region, term and prices"
    )]
    Format {
        /// The file.
        file: String,
        /// What the parser said, with line and column.
        message: String,
    },
    /// The file is not a book of list prices.
    #[error(
        "{file} is not a book of list prices: {message}. The files in configs/prices/api/ show the \
         layout; every list needs source, as_of, unit and models"
    )]
    ListFormat {
        /// The file.
        file: String,
        /// What the parser said, with line and column.
        message: String,
    },
    /// An entry holds a value no price can have.
    #[error("{file}: {part}, entry {entry} ({name}): {problem}")]
    Entry {
        /// The file.
        file: String,
        /// Which `[[quote]]` or `[[list]]`, counted from 1.
        part: String,
        /// Which of its prices, counted from 1.
        entry: usize,
        /// The entry's name.
        name: String,
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

impl BookError {
    /// Name and text of a file.
    pub(crate) fn read(path: &std::path::Path) -> Result<(String, String), Self> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Ok((file, text)),
            Err(source) => Err(Self::Read { file, source }),
        }
    }
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
    /// Any other quantity outside its range.
    #[error("the {name} of {value} is not possible; it must be {wanted}")]
    Value {
        /// Which quantity.
        name: &'static str,
        /// What was given.
        value: f64,
        /// What is possible.
        wanted: &'static str,
    },
    /// Cached tokens are to be priced whose cost nobody measured.
    #[error(
        "the cost of a cached input token was not measured: no prompt of the run hit the prefix cache"
    )]
    CachedNotMeasured,
    /// A machine without CPUs.
    #[error("a machine of 0 vCPUs has no price per vCPU")]
    NoVcpus,
}

/// Why there is no margin.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MarginError {
    /// Counts that can not be.
    #[error("the mix of tokens is not possible: {0}")]
    Mix(&'static str),
    /// Cached input has its own price, but nobody counted it.
    #[error(
        "{reference} charges ${usd} per million input tokens {what} the prompt cache and ${input_usd} \
         for others, but how many there are is not known; they are not taken as 0. State the share \
         (--cached-share, --cache-write-share; 0 for none)"
    )]
    NoCacheCounts {
        /// The list price.
        reference: String,
        /// `read from` or `written to`.
        what: &'static str,
        /// Its price.
        usd: f64,
        /// The full price.
        input_usd: f64,
    },
    /// Batches are sold that have no price.
    #[error("{0} lists no batch price; leave --batch-share out, or name another list price")]
    NoBatchPrice(String),
    /// What a cached token costs is not known.
    #[error(
        "the cost of a cached input token was not measured: no prompt of the run hit the prefix \
         cache, so no margin with cache hits can be told from it"
    )]
    CachedNotMeasured,
    /// What a class of tokens costs is not known.
    #[error(
        "the run does not tell input from output time, so another mix than the measured one has no \
         known cost"
    )]
    NotSplit,
    /// The throughput is not a positive number.
    #[error("the throughput is not a positive number")]
    NoThroughput,
    /// A quantity outside its range.
    #[error("the {name} of {value} is not possible; it must be {wanted}")]
    Value {
        /// Which.
        name: &'static str,
        /// What was given.
        value: f64,
        /// What is possible.
        wanted: &'static str,
    },
    /// No value reaches the target.
    #[error("a margin of {:.1} % can not be reached: {because}", target * 100.0)]
    Unreachable {
        /// The margin wanted.
        target: f64,
        /// Why.
        because: &'static str,
    },
    /// A price of time that is none.
    #[error("{0}")]
    Cost(#[from] CostError),
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
