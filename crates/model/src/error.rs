//! The crate's one error type.

use std::error::Error as StdError;
use std::fmt;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error of a caller's own code, where a crate calls it.
pub type AnyError = Box<dyn StdError + Send + Sync>;

/// What went wrong: one message, and what caused it.
///
/// A message names the thing, what was expected, what was found and, where it helps, what to do; lower case, no full
/// stop. Context is added on the way up with [`Context::context`]; `{:#}` prints the whole chain in one line,
/// `{}` only the outermost message (whoever prints the chain walks [`std::error::Error::source`]).
#[derive(Debug)]
pub struct Error {
    message: String,
    source: Option<AnyError>,
}

impl Error {
    /// An error with no further cause.
    pub fn new(message: impl Into<String>) -> Self {
        Error { message: message.into(), source: None }
    }

    /// An error that `source` caused.
    pub fn caused_by(message: impl Into<String>, source: impl Into<AnyError>) -> Self {
        Error { message: message.into(), source: Some(source.into()) }
    }

    /// The outermost message.
    pub fn message(&self) -> &str {
        &self.message
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

impl From<wootz_kernels::device::Error> for Error {
    fn from(error: wootz_kernels::device::Error) -> Error {
        Error::new(error.to_string())
    }
}

/// Adds a message to an error on its way up.
pub trait Context<T> {
    /// Wraps an error under `message()`, which is made only when there is one.
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<AnyError>> Context<T> for std::result::Result<T, E> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| Error::caused_by(message(), error))
    }
}

/// Returns an [`Error`] with a formatted message.
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::error::Error::new(format!($($arg)*)))
    };
}
pub(crate) use fail;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternate_display_prints_the_whole_chain() {
        let inner: Result<()> = Err(Error::new("`a.weight`: expected [2, 3], found [3, 2]"));
        let error = inner.context(|| "model.safetensors").unwrap_err();
        assert_eq!(error.to_string(), "model.safetensors");
        assert_eq!(format!("{error:#}"), "model.safetensors: `a.weight`: expected [2, 3], found [3, 2]");
    }
}
