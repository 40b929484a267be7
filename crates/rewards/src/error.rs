//! The crate's one error type: for specs. What goes wrong with an answer is a [`Failure`](crate::Failure).

use std::error::Error as StdError;
use std::fmt;

/// The result of reading a spec.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with a spec: one message, and what caused it.
///
/// A message names the file, the reward and the key, what was expected and what was found; lower case, no full stop.
#[derive(Debug)]
pub struct Error {
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with no further cause.
    pub fn new(message: impl Into<String>) -> Error {
        Error { message: message.into(), source: None }
    }

    /// An error that `source` caused.
    pub fn caused_by(
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Error {
        Error { message: message.into(), source: Some(source.into()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if f.alternate() {
            let mut cause = self.source();
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
