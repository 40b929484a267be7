//! Which files to read: paths, folders and patterns, and what each file is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context as _, Result, fail};

/// The name of the built-in stories among inputs; `stories:N` are the first N of them.
pub const STORIES: &str = "stories";
/// How many stories there are where no number is given: about 9 MB.
const N_STORIES: u64 = 10_000;
/// Bytes of a story, about.
const STORY_BYTES: u64 = 870;

/// What a file holds, by its name; or no file at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plain text, of any extension.
    Text,
    /// A JSON object a line: `.jsonl`, `.ndjson`, `.json`.
    JsonLines,
    /// A table with a column of text: `.parquet`.
    Parquet,
    /// So many of the stories that are built in.
    Stories(u64),
}

/// Extensions that are taken from a folder. A file that is named itself, or by a pattern, may have any.
const IN_FOLDERS: &[&str] = &["txt", "md", "text", "jsonl", "ndjson", "parquet"];

/// A file to read, or the built-in stories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Where it is; of stories the name.
    pub path: PathBuf,
    /// What it holds.
    pub kind: Kind,
    /// How long it is, of stories about.
    pub bytes: u64,
}

impl Input {
    /// The first `n` of the built-in stories.
    pub fn stories(n: u64) -> Input {
        let path = PathBuf::from(format!("{STORIES}:{n}"));
        Input { path, kind: Kind::Stories(n), bytes: n.saturating_mul(STORY_BYTES) }
    }

    /// The file at `path`.
    ///
    /// # Errors
    /// There is none, or its extension says that it holds no text.
    pub fn of(path: &Path) -> Result<Input> {
        let about = fs::metadata(path).context(|| format!("{}: cannot open", path.display()))?;
        if !about.is_file() {
            fail!("{}: is not a regular file", path.display());
        }
        let kind = match extension(path).as_str() {
            "jsonl" | "ndjson" | "json" => Kind::JsonLines,
            "parquet" => Kind::Parquet,
            "gz" | "zst" | "xz" | "bz2" | "zip" | "tar" => {
                fail!("{}: is packed; unpack it first", path.display())
            }
            "bin" | "safetensors" | "gguf" => {
                fail!("{}: expected text, .jsonl or .parquet, found a binary file", path.display())
            }
            _ => Kind::Text,
        };
        Ok(Input { path: path.to_owned(), kind, bytes: about.len() })
    }
}

/// The end of a file's name, in small letters.
pub(super) fn extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

/// The files that `names` mean, in the order of the names: a file is itself, a folder all text below it, and a pattern
/// (`*`, `?`, `[...]`, `**`) whatever matches; the last two in the order of their paths. A file that is named twice is
/// read once. [`STORIES`] are the built-in ones (a file of that name is `./stories`).
///
/// # Errors
/// A name that means no file.
pub fn find<S: AsRef<str>>(names: &[S]) -> Result<Vec<Input>> {
    let mut found: Vec<Input> = Vec::new();
    for name in names.iter().map(AsRef::as_ref) {
        if let Some(stories) = named_stories(name)? {
            found.push(stories);
            continue;
        }
        for path in files(name, IN_FOLDERS)? {
            if !found.iter().any(|input| input.path == path) {
                found.push(Input::of(&path)?);
            }
        }
    }
    Ok(found)
}

/// The files that one name means: itself, what a pattern matches, or those below a folder that have one of these
/// extensions.
///
/// # Errors
/// A folder without such a file, or a pattern that matches none. A file itself need not be there.
pub fn files(name: &str, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let path = Path::new(name);
    if path.is_dir() {
        let mut paths = Vec::new();
        walk(path, extensions, &mut paths)?;
        if paths.is_empty() {
            fail!(
                "{name}: no file in this folder ends with .{}; name files of other kinds by a pattern",
                extensions.join(", .")
            );
        }
        Ok(paths)
    } else if path.exists() || !name.contains(['*', '?', '[']) {
        Ok(vec![path.to_owned()])
    } else {
        matching(name)
    }
}

/// `stories`, or `stories:N`.
fn named_stories(name: &str) -> Result<Option<Input>> {
    let n = match name.strip_prefix(STORIES) {
        Some("") => Some(N_STORIES),
        Some(rest) => match rest.strip_prefix(':').map(str::parse) {
            Some(Ok(n)) => Some(n),
            Some(Err(_)) => fail!("{name}: expected {STORIES}:N, the first N of the built-in stories"),
            None => None,
        },
        None => None,
    };
    Ok(n.map(Input::stories))
}

/// The files that a pattern matches, in the order of their paths.
///
/// # Errors
/// It is no pattern, or matches none.
pub fn matching(pattern: &str) -> Result<Vec<PathBuf>> {
    let paths = glob::glob(pattern).context(|| format!("{pattern}: is no pattern for file names"))?;
    let paths: Vec<PathBuf> = paths
        .collect::<std::result::Result<_, _>>()
        .context(|| format!("{pattern}: cannot look for files"))?;
    let files: Vec<PathBuf> = paths.into_iter().filter(|path| path.is_file()).collect();
    if files.is_empty() {
        fail!("{pattern}: no file matches");
    }
    Ok(files)
}

/// Files of these extensions below a folder, in the order of their paths; hidden ones are left out. Links to folders are not
/// followed: they may lead round in circles.
fn walk(folder: &Path, extensions: &[&str], files: &mut Vec<PathBuf>) -> Result<()> {
    let cannot = || format!("{}: cannot list the folder", folder.display());
    let mut entries: Vec<fs::DirEntry> =
        fs::read_dir(folder).context(cannot)?.collect::<std::io::Result<_>>().context(cannot)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries.iter().filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')) {
        let path = entry.path();
        if entry.file_type().context(cannot)?.is_dir() {
            walk(&path, extensions, files)?;
        } else if path.is_file() && extensions.contains(&extension(&path).as_str()) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_folders_and_patterns_are_found_in_order() {
        let folder = std::env::temp_dir().join(format!("wootz-inputs-{}", std::process::id()));
        fs::create_dir_all(folder.join("b")).unwrap();
        for name in ["c.txt", "a.jsonl", "b/x.parquet", "b/y.rs", ".hidden.txt", "z.bin", "w.txt.gz"] {
            fs::write(folder.join(name), "12345").unwrap();
        }
        let of = |names: &[&str]| -> Vec<String> {
            let names: Vec<String> = names.iter().map(|n| format!("{}/{n}", folder.display())).collect();
            let found = find(&names).unwrap();
            assert!(found.iter().all(|input| input.bytes == 5));
            let relative = |input: &Input| input.path.strip_prefix(&folder).unwrap().display().to_string();
            found.iter().map(relative).collect()
        };
        assert_eq!(of(&[""]), ["a.jsonl", "b/x.parquet", "c.txt"]);
        assert_eq!(of(&["c.txt", "*.*l", "c.txt", "**/*.rs"]), ["c.txt", "a.jsonl", "b/y.rs"]);
        for (name, expected) in [
            ("no.txt", "no.txt"),
            ("*.no", "no file matches"),
            ("z.bin", "binary"),
            ("w.txt.gz", "unpack"),
            ("a[", "a["),
        ] {
            let error = find(&[format!("{}/{name}", folder.display())]).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn stories_are_known_by_name() {
        let found = find(&["stories:7", "stories"]).unwrap();
        assert_eq!(
            found.iter().map(|input| input.kind).collect::<Vec<_>>(),
            [7, N_STORIES].map(Kind::Stories)
        );
        let bytes: usize = crate::stories::corpus(1, 300).map(|story| story.len()).sum();
        let about = Input::stories(300).bytes as f64;
        assert!((0.9..1.1).contains(&(bytes as f64 / about)), "{bytes} bytes, about {about}");
        for bad in ["stories:", "stories:x", "stories:-1", "stories2", "./stories"] {
            let error = find(&[bad]).unwrap_err();
            assert!(format!("{error:#}").contains(bad), "{error:#}");
        }
    }
}
