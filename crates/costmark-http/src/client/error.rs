//! Why a server cannot be driven at all.

use costmark_core::{ErrorClass, RequestError};

/// Why there is no backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// What was asked for cannot be.
    #[error("{0}")]
    Input(String),
    /// The server does not answer, or not as it should.
    #[error("{0}")]
    Run(String),
}

impl ConnectError {
    /// Whether the user must change the input.
    #[must_use]
    pub fn is_input(&self) -> bool {
        matches!(self, Self::Input(_))
    }
}

impl From<RequestError> for ConnectError {
    fn from(error: RequestError) -> Self {
        Self::Run(error.message)
    }
}

/// A failure with its class.
pub(crate) fn failure(class: ErrorClass, message: impl Into<String>) -> RequestError {
    RequestError {
        class,
        message: message.into(),
    }
}
