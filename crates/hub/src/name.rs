//! What things on the hub are called, and which of these names may become paths.

use std::fmt;

use crate::error::{Result, fail};

/// The revision that is meant when none is named.
pub const MAIN: &str = "main";
/// Endings of files that models have: `models/a.gguf` is a path that does not exist, and no repository.
const FILE_ENDINGS: &[&str] = &[".gguf", ".safetensors", ".bin", ".json", ".jsonl", ".txt", ".toml"];
/// The longest name of a file that most file systems have, in bytes.
const LONGEST_NAME: usize = 255;
/// The longest name of a file with its folders.
const LONGEST_PATH: usize = 1024;

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A model, or an adapter.
    Model,
    /// A data set.
    Dataset,
}

impl Kind {
    /// In sentences.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Model => "model",
            Kind::Dataset => "dataset",
        }
    }

    /// The first folder of the programming interface, and of the cache.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }
}

/// A repository: `ORGANISATION/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    /// What it holds.
    pub kind: Kind,
    organisation: String,
    name: String,
}

impl Repo {
    /// `ORGANISATION/NAME`, of the characters that the hub allows; nothing else is a repository.
    pub fn parse(kind: Kind, id: &str) -> Option<Repo> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_name = |part: &str| {
            let is_dotted = part.starts_with('.') || part.ends_with('.') || part.contains("..");
            // The cache writes `--` for `/`.
            !part.is_empty()
                && part.len() <= 96
                && !is_dotted
                && !part.contains("--")
                && part.chars().all(allowed)
        };
        let (organisation, name) = id.split_once('/')?;
        let is_file = FILE_ENDINGS.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending));
        (is_name(organisation) && is_name(name) && !is_file).then(|| Repo {
            kind,
            organisation: organisation.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Whose it is.
    pub fn organisation(&self) -> &str {
        &self.organisation
    }

    /// `models--ORGANISATION--NAME`: its folder in the cache, and in the folder of locks.
    pub(crate) fn folder(&self) -> String {
        format!("{}--{}--{}", self.kind.plural(), self.organisation, self.name)
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.organisation, self.name)
    }
}

/// What a user names: `ORGANISATION/NAME[@REVISION][:CHOICE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The repository.
    pub repo: Repo,
    /// A branch, a tag or a commit; `main` where none was named.
    pub revision: String,
    /// Which of several GGUF models: a file's name, or a type such as `Q4_K_M`.
    pub choice: Option<String>,
}

impl Reference {
    /// Reads it; `None` for what cannot be one.
    pub fn parse(kind: Kind, text: &str) -> Option<Reference> {
        let (rest, choice) = match text.split_once(':') {
            Some((rest, choice)) => (rest, Some(choice)),
            None => (text, None),
        };
        let (id, revision) = rest.split_once('@').unwrap_or((rest, MAIN));
        let is_choice = choice.is_none_or(|choice| check_file(choice).is_ok());
        (is_choice && check_revision(revision).is_ok()).then_some(())?;
        Some(Reference {
            repo: Repo::parse(kind, id)?,
            revision: revision.to_owned(),
            choice: choice.map(str::to_owned),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repo)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        match &self.choice {
            Some(choice) => write!(f, ":{choice}"),
            None => Ok(()),
        }
    }
}

/// Whether a revision may become a path below `refs`.
///
/// # Errors
/// It may not: says why.
pub fn check_revision(revision: &str) -> Result<()> {
    check_path("revision", revision)
}

/// Whether the name of a file may become a path below a folder: parts between `/`, none of which leads elsewhere.
///
/// # Errors
/// It may not: says why.
pub fn check_file(name: &str) -> Result<()> {
    check_path("file name", name)
}

fn check_path(what: &str, path: &str) -> Result<()> {
    let shown = printable(path);
    if path.len() > LONGEST_PATH {
        fail!("{what} {shown:?}: {} bytes, at most {LONGEST_PATH} are taken", path.len());
    }
    for part in path.split('/') {
        if part.is_empty() || part == "." || part == ".." {
            fail!("{what} {shown:?}: would lead out of its folder, or is none; it is refused");
        }
        // What Windows gives a meaning of its own, and what terminals do.
        let is_odd = |c: char| c.is_control() || "\\:*?\"<>|".contains(c) || is_invisible(c);
        if let Some(odd) = part.chars().find(|&c| is_odd(c)) {
            fail!("{what} {shown:?}: holds {odd:?}; it is refused");
        }
        if part.len() > LONGEST_NAME || part.ends_with([' ', '.']) {
            fail!("{what} {shown:?}: not every system can have a file {part:?}; it is refused");
        }
    }
    Ok(())
}

/// Characters that change how the text around them looks.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Whether this is a commit: what `snapshots` has folders for.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Text of a server, fit for a terminal: no control characters, and not long.
pub(crate) fn printable(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut shown: String =
        text.chars().map(|c| if c.is_control() || is_invisible(c) { ' ' } else { c }).take(LONGEST).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repositories_are_two_plain_names() {
        let repo = Repo::parse(Kind::Model, "Qwen/Qwen3-0.6B").unwrap();
        assert_eq!(
            (repo.to_string().as_str(), repo.folder().as_str()),
            ("Qwen/Qwen3-0.6B", "models--Qwen--Qwen3-0.6B")
        );
        let odd = [
            "story",
            "a/b/c",
            "/a",
            "a/",
            "./a",
            "../a",
            "a/..",
            "a/b c",
            "",
            "a/b--c",
            "a/b..c",
            "a/b.",
            "models/a.gguf",
            "x/model.safetensors",
            "a/é",
            "a/b\0",
        ];
        for path in odd {
            assert_eq!(Repo::parse(Kind::Model, path), None, "{path}");
        }
    }

    #[test]
    fn a_reference_may_name_a_revision_and_a_choice() {
        let read =
            |text| Reference::parse(Kind::Model, text).map(|r| (r.repo.to_string(), r.revision, r.choice));
        let some = |revision: &str, choice: Option<&str>| {
            Some(("a/b".to_owned(), revision.to_owned(), choice.map(str::to_owned)))
        };
        assert_eq!(read("a/b"), some("main", None));
        assert_eq!(read("a/b@v1:Q4_K_M"), some("v1", Some("Q4_K_M")));
        assert_eq!(read("a/b:sub/m-00001-of-00002.gguf"), some("main", Some("sub/m-00001-of-00002.gguf")));
        assert_eq!(read("a/b@refs/pr/1"), some("refs/pr/1", None));
        for text in ["a/b@", "a/b:", "a/b@../x", "a/b:../x", "a/b:/x", "a/b@v1:", "a", "a/b:x:y"] {
            assert_eq!(read(text), None, "{text}");
        }
        let text = "a/b@v1:Q8_0";
        assert_eq!(Reference::parse(Kind::Model, text).unwrap().to_string(), text);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "x".repeat(300);
        let odd = [
            "..",
            "../x",
            "a/../../x",
            "/etc/passwd",
            "a//b",
            "",
            ".",
            "a/.",
            "a\\b",
            "C:x",
            "a\0",
            "a\nb",
            "a\u{1b}[2J",
            "a ",
            "a.",
            "a\u{202e}b",
            "a*",
            long.as_str(),
        ];
        for name in odd {
            assert!(check_file(name).is_err(), "{name:?}");
        }
        for name in ["config.json", "a/b c.gguf", ".gitattributes", "größe.txt", "a..b"] {
            check_file(name).unwrap();
        }
    }

    proptest! {
        #[test]
        fn a_name_that_is_taken_stays_in_its_folder(name in "[a-z./\\\\: ]{0,12}") {
            if check_file(&name).is_ok() {
                let path = std::path::Path::new("/folder").join(&name);
                prop_assert!(path.starts_with("/folder") && path != std::path::Path::new("/folder"));
                prop_assert!(path.components().all(|part| !matches!(part, std::path::Component::ParentDir)));
            }
        }

        #[test]
        fn errors_do_not_touch_the_terminal(name in any::<String>()) {
            if let Err(error) = check_file(&name) {
                prop_assert!(!error.to_string().contains(char::is_control));
            }
        }
    }
}
