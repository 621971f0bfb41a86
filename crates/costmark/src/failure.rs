//! How a command fails: whose fault it is decides the exit code.

use std::fmt::Display;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The input was wrong; exit code 2.
    Input(anyhow::Error),
    /// The measurement failed; exit code 1.
    Run(anyhow::Error),
}

/// Shorthand for commands.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// Wrong input, in words.
    pub(crate) fn input(message: impl Display) -> Self {
        Self::Input(anyhow::anyhow!("{message}"))
    }

    /// A failed run, in words.
    pub(crate) fn run(message: impl Display) -> Self {
        Self::Run(anyhow::anyhow!("{message}"))
    }
}

impl From<costmark_engine::EngineError> for Failure {
    fn from(error: costmark_engine::EngineError) -> Self {
        if error.is_input() {
            Self::Input(error.into())
        } else {
            Self::Run(error.into())
        }
    }
}

impl From<costmark_report::ReportError> for Failure {
    fn from(error: costmark_report::ReportError) -> Self {
        if error.is_input() {
            Self::Input(error.into())
        } else {
            Self::Run(error.into())
        }
    }
}

impl Failure {
    /// What went wrong.
    pub(crate) fn message(&self) -> String {
        let (Self::Input(error) | Self::Run(error)) = self;
        error.to_string()
    }

    /// Tells the user and gives the exit code.
    pub(crate) fn report(self) -> std::process::ExitCode {
        let (code, error) = match self {
            Self::Input(error) => (2, error),
            Self::Run(error) => (1, error),
        };
        // Messages quote files and servers.
        let error = costmark_report::inert(&error.to_string());
        anstream::eprintln!("\x1b[1;31merror:\x1b[0m {error}");
        code.into()
    }
}
