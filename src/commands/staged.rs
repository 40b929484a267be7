//! Files that appear under their names once they are known to be good.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use wootz_model::save::Existing;

/// A hidden folder beside `out`, in which it is made; it goes with this value.
pub struct Staged {
    folder: PathBuf,
    out: PathBuf,
    existing: Existing,
    /// Whether the folder outlives this value.
    keep: bool,
}

impl Staged {
    /// For a file or a folder that is to be at `out`, or files that are to be beside it.
    ///
    /// # Errors
    /// `out` has no name, or the disk.
    pub fn new(out: &Path, existing: Existing) -> Result<Staged> {
        let name =
            out.file_name().with_context(|| format!("{}: expected a name to write to", out.display()))?;
        let folder = format!(".{}.{}.part", name.to_string_lossy(), std::process::id());
        let folder = out.with_file_name(folder);
        std::fs::create_dir(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Staged { folder, out: out.to_owned(), existing, keep: false })
    }

    /// Where to write what is to be at `out`. What is written beside it comes along.
    pub fn path(&self) -> PathBuf {
        self.folder.join(self.out.file_name().unwrap_or_default())
    }

    /// Moves everything to its place. Files that stand for the whole (`out` itself, a folder's config.json) come last.
    ///
    /// # Errors
    /// A file that is there already and not to be replaced: then nothing is moved; the disk, and then the message says where
    /// the rest is.
    pub fn publish(mut self) -> Result<()> {
        let mut moves = Vec::new();
        for path in files(&self.folder)? {
            let to = self.out.with_file_name(path.strip_prefix(&self.folder)?);
            self.existing.check(&to)?;
            let is_last = to == self.out || path.ends_with("config.json");
            moves.push((is_last, path, to));
        }
        moves.sort();
        // From here on old files go, and the new ones must not go with them.
        self.keep = true;
        // Between the first and the last, what stands for the whole is not there: it must not stand for the old and the new.
        if moves.len() > 1 {
            for (_, _, to) in moves.iter().filter(|(is_last, _, to)| *is_last && to.exists()) {
                std::fs::remove_file(to).with_context(|| {
                    format!("cannot replace {}; the new one is in {}", to.display(), self.folder.display())
                })?;
            }
        }
        for (_, from, to) in &moves {
            let whose =
                || format!("cannot write {}; the rest of it is in {}", to.display(), self.folder.display());
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent).with_context(whose)?;
            }
            std::fs::rename(from, to).with_context(whose)?;
        }
        self.keep = false;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// All files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Temporary(PathBuf);

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn temporary(name: &str) -> Temporary {
        let path = std::env::temp_dir().join(format!("wootz-staged-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Temporary(path)
    }

    #[test]
    fn what_is_not_published_is_gone() {
        let folder = temporary("gone");
        let staged = Staged::new(&folder.0.join("m.gguf"), Existing::Keep).unwrap();
        fs::write(staged.path(), "x").unwrap();
        drop(staged);
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
    }

    #[test]
    fn files_and_folders_come_to_their_places() {
        let folder = temporary("places");
        let staged = Staged::new(&folder.0.join("m.bin"), Existing::Keep).unwrap();
        fs::write(staged.path(), "model").unwrap();
        fs::write(staged.path().with_file_name("tokenizer.bin"), "tokens").unwrap();
        staged.publish().unwrap();
        assert_eq!(fs::read_to_string(folder.0.join("m.bin")).unwrap(), "model");
        assert_eq!(fs::read_to_string(folder.0.join("tokenizer.bin")).unwrap(), "tokens");
        // A folder that is there keeps what else it holds.
        let out = folder.0.join("model");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("notes.txt"), "mine").unwrap();
        let staged = Staged::new(&out, Existing::Keep).unwrap();
        fs::create_dir(staged.path()).unwrap();
        fs::write(staged.path().join("config.json"), "{}").unwrap();
        staged.publish().unwrap();
        assert!(out.join("config.json").is_file() && out.join("notes.txt").is_file());
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 3);
    }

    #[test]
    fn what_cannot_come_to_its_place_is_not_lost() {
        let folder = temporary("lost");
        let out = folder.0.join("model");
        let staged = Staged::new(&out, Existing::Keep).unwrap();
        fs::create_dir(staged.path()).unwrap();
        fs::write(staged.path().join("config.json"), "{}").unwrap();
        // Now no folder can be made there.
        fs::write(&out, "a file").unwrap();
        let kept = staged.folder.clone();
        let error = format!("{:#}", staged.publish().unwrap_err());
        assert!(error.contains(&kept.display().to_string()), "{error}");
        assert!(kept.join("model/config.json").is_file());
    }

    #[test]
    fn what_is_there_stays_unless_it_is_to_be_replaced() {
        let folder = temporary("stays");
        let out = folder.0.join("m.bin");
        fs::write(&out, "old").unwrap();
        for (existing, expected) in [(Existing::Keep, "old"), (Existing::Replace, "new")] {
            let staged = Staged::new(&out, existing).unwrap();
            fs::write(staged.path(), "new").unwrap();
            fs::write(staged.path().with_file_name("beside"), "new").unwrap();
            assert_eq!(staged.publish().is_ok(), existing == Existing::Replace);
            assert_eq!(fs::read_to_string(&out).unwrap(), expected);
            assert_eq!(folder.0.join("beside").exists(), existing == Existing::Replace);
        }
    }
}
