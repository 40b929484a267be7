//! The one error of this crate: which file, which thing, what was expected, what was found.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a file could not be read or written.
///
/// The message is written where the check failed; the file is added on the way up. Callers that need to tell
/// cases apart ask [`Error::kind`].
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    path: Option<PathBuf>,
    message: String,
    source: Option<io::Error>,
}

/// What went wrong, coarsely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused: no such file, no permission, disk full.
    Io,
    /// The file breaks its format's rules, or is cut short.
    Invalid,
    /// A well-formed file that holds what wootz does not read.
    Unsupported,
    /// A file, metadata key or tensor that is needed and is not there.
    Missing,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, path: None, message: message.into(), source: None }))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    pub(crate) fn missing(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Missing, message)
    }

    /// `action` completes "cannot …": `open`, `list the folder`.
    pub(crate) fn io(path: &Path, action: &str, source: io::Error) -> Self {
        let kind = if source.kind() == io::ErrorKind::NotFound { ErrorKind::Missing } else { ErrorKind::Io };
        Error(Box::new(Inner {
            kind,
            path: Some(path.to_owned()),
            message: format!("cannot {action}"),
            source: Some(source),
        }))
    }

    /// Names the file, unless a deeper level has done so.
    pub(crate) fn in_file(mut self, path: &Path) -> Self {
        self.0.path.get_or_insert_with(|| path.to_owned());
        self
    }

    /// Names the thing inside the file that the message is about.
    pub(crate) fn about(mut self, thing: impl fmt::Display) -> Self {
        self.0.message = format!("{thing}: {}", self.0.message);
        self
    }

    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file that the error is about; `None` when bytes in memory were parsed.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{}: ", path.display())?;
        }
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}

/// Shows text from a file inside an error: quoted, escaped, and cut when it is long.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_file_once() {
        let e =
            Error::invalid("is short").about("tensor \"a\"").in_file(Path::new("x")).in_file(Path::new("y"));
        assert_eq!(e.to_string(), "x: tensor \"a\": is short");
        assert_eq!(e.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let name = "é".repeat(200);
        assert_eq!(quoted(&name).chars().filter(|&c| c == 'é').count(), 80);
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
    }
}
