//! Errors are those of the models' crate: one message, and what caused it.

pub use wootz_model::error::{AnyError, Context, Error, Result};

/// Returns an [`Error`] with a formatted message.
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::error::Error::new(format!($($arg)*)))
    };
}
pub(crate) use fail;
