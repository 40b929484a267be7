//! Where shards are until all of them are complete.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use wootz_formats::write_atomically;

use super::{Existing, Options};
use crate::data::manifest::{MANIFEST, Manifest};
use crate::error::{Context as _, Result, fail};

const TOKENIZER: &str = "tokenizer.json";

/// A hidden folder in the folder to write to. It goes when this value does.
pub(super) struct Stage<'o> {
    options: &'o Options,
    folder: PathBuf,
    /// Locked while this run lives: one that was killed leaves its folder behind, but no lock.
    lock: Option<File>,
    /// Whether the folder to write to was made for this.
    is_new: bool,
}

impl<'o> Stage<'o> {
    /// Makes the folder.
    ///
    /// # Errors
    /// Shards are in the way, another run is writing there, or the folder cannot be made.
    pub fn new(options: &'o Options) -> Result<Stage<'o>> {
        let is_new = !options.out.exists();
        let cannot = |folder: &Path| format!("{}: cannot create the folder", folder.display());
        fs::create_dir_all(&options.out).context(|| cannot(&options.out))?;
        match (old(options)?.first(), options.existing) {
            (Some(found), Existing::Keep) => {
                fail!(
                    "{} is there already; --overwrite replaces it, --out names another folder",
                    found.display()
                )
            }
            (None, Existing::Keep) | (_, Existing::Replace) => {}
        }
        let folder = options.out.join(format!(".{}.partial", options.name));
        fs::create_dir_all(&folder).context(|| cannot(&folder))?;
        let path = folder.join("lock");
        let lock = File::create(&path).context(|| format!("{}: cannot create", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                fail!("{}: another run is writing shards of this name", options.out.display())
            }
            // Not every file system has locks; then it is the user who sees to it.
            Err(TryLockError::Error(_)) => {}
        }
        let stage = Stage { options, folder, lock: Some(lock), is_new };
        for entry in entries(&stage.folder)?.into_iter().filter(|entry| *entry != path) {
            fs::remove_file(&entry).context(|| format!("{}: cannot remove", entry.display()))?;
        }
        Ok(stage)
    }

    /// Where to write.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Moves complete shards to their places, in place of older ones; the note of what there is comes last.
    ///
    /// # Errors
    /// A file that cannot be moved or removed.
    pub fn publish(&self, mut manifest: Manifest, tokenizer_json: Option<&str>) -> Result<Manifest> {
        let out = &self.options.out;
        for path in old(self.options)? {
            fs::remove_file(&path).context(|| format!("{}: cannot remove", path.display()))?;
        }
        for shard in manifest.train.shards.iter().chain(&manifest.val.shards) {
            let path = out.join(&shard.file);
            fs::rename(self.folder.join(&shard.file), &path)
                .context(|| format!("{}: cannot write", path.display()))?;
        }
        if let Some(json) = tokenizer_json {
            write(&out.join(TOKENIZER), json)?;
            manifest.tokenizer.file = Some(TOKENIZER.to_owned());
        }
        let json = serde_json::to_string_pretty(&manifest).context(|| MANIFEST)?;
        write(&out.join(MANIFEST), &(json + "\n"))?;
        Ok(manifest)
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // What is left is hidden, and goes with the next run.
        self.lock = None; // not every system removes an open file
        let _ = fs::remove_dir_all(&self.folder);
        if self.is_new {
            let _ = fs::remove_dir(&self.options.out); // only where there is nothing in it
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, |file| std::io::Write::write_all(file, text.as_bytes())).context(|| "cannot write")
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("{}: cannot list the folder", folder.display());
    let entries = fs::read_dir(folder).context(cannot)?;
    entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>().context(cannot)
}

/// Shards of this name and the note on them, from an earlier run.
fn old(options: &Options) -> Result<Vec<PathBuf>> {
    let mut old = entries(&options.out)?;
    old.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name == MANIFEST || is_shard(&name, &options.name)
    });
    old.sort();
    if let Some(path) = old.iter().find(|path| !path.is_file()) {
        fail!("{}: a shard should go here, and this is no file", path.display());
    }
    Ok(old)
}

/// `NAME_train_000001.bin` and the like.
fn is_shard(file: &str, name: &str) -> bool {
    let rest = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('_'));
    let rest = rest.and_then(|rest| rest.strip_suffix(".bin"));
    let number = rest.and_then(|rest| rest.strip_prefix("train_").or(rest.strip_prefix("val_")));
    number.is_some_and(|digits| digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit()))
}
