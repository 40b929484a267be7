//! What can go wrong between text and ids.

use std::path::PathBuf;

/// An error of this crate. `place` names the file, or the part of it, that is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said; the next link of the error chain.
        source: std::io::Error,
    },
    /// A vocabulary, or the file that holds it, contradicts itself.
    #[error("{place}: {what}")]
    Malformed {
        /// The file or the metadata key.
        place: String,
        /// What was expected and what was found.
        what: String,
    },
    /// A kind of tokenizer that this program does not know.
    #[error("{place}: {what}")]
    Unsupported {
        /// The file or the metadata key.
        place: String,
        /// What was found, and what is supported.
        what: String,
    },
    /// A text that cannot be made into ids of this vocabulary.
    #[error("cannot encode the text: {0}")]
    Encode(String),
    /// What a chat template itself refuses, in its own words (`raise_exception`).
    #[error("the chat template refuses: {0}")]
    Raised(String),
    /// A chat template that cannot be parsed or rendered.
    #[error("chat template: {0}")]
    Template(String),
}

impl Error {
    pub(crate) fn malformed(place: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Malformed { place: place.into(), what: what.into() }
    }

    pub(crate) fn unsupported(place: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Unsupported { place: place.into(), what: what.into() }
    }
}
