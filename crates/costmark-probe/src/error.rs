//! Why a measurement or a data file could not be used.

/// A measurement that could not be made, or a data file that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The buffer for bandwidth measurements could not be had.
    #[error(
        "no memory for the bandwidth measurement: {needed_bytes} bytes asked for, \
         {available_bytes} available. Free memory, or allow a smaller buffer"
    )]
    Memory {
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes the machine says are available.
        available_bytes: u64,
    },
    /// A thread could not be started.
    #[error(
        "cannot start {threads} measuring threads: {reason}. \
         Use fewer threads, or raise the process limit"
    )]
    Threads {
        /// Threads wanted.
        threads: usize,
        /// What the system said.
        reason: String,
    },
    /// A measuring thread died.
    #[error("a measuring thread of the {0} measurement died; please report this as a bug")]
    Worker(&'static str),
    /// A matrix product came out wrong.
    #[error(
        "the matrix product used to measure FLOP/s is wrong: {got} instead of {want}. \
         The machine or its math library is faulty; no result from it can be trusted"
    )]
    WrongProduct {
        /// What came out.
        got: f32,
        /// What should have.
        want: f32,
    },
    /// A hardware data file is wrong.
    #[error("{file}: {problem}")]
    Datasheet {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
}
