//! Checkpoints that survive whatever ends the process: a kill, a full disk, a power cut.
//!
//! ```text
//! checkpoints/
//!   step-000100/        complete: what a reader takes
//!     model.safetensors …
//!     manifest.json     name, size and BLAKE3 of each file; the step; the format's version
//!     DONE              BLAKE3 of manifest.json; written last
//!   .step-000200.tmp/   being written, or left by a process that died
//!   .step-000100.old/   for a moment, while another checkpoint of the same step takes its place
//!   .step-000050.removed/  being removed
//! ```
//! Everything is written into the temporary folder and brought to the disk, the marker last; then the folder gets
//! its name. Only then are older checkpoints removed. So at every moment what was there before is there still, or
//! the new one is complete.
//!
//! One process at a time may save and remove, which the lock of the run sees to ([`super::Folder`]). Reading needs no
//! lock.
//!
//! - [`Store`]: saving, choosing and removing
//! - [`Writer`]: what a checkpoint consists of; [`TensorSpec`], [`TensorSink`] and [`Tensors`] are its arrays
//! - [`Manifest`]: what must be there

mod manifest;
mod tensors;
mod writer;

pub use manifest::{Check, FileRecord, Manifest};
pub use tensors::{TensorSink, TensorSpec, Tensors};
pub use writer::Writer;

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use self::manifest::{FORMAT, examine, examine_step, seal};
use super::{make_folder, read_small, sync_folder};
use crate::error::{Context, Error, Result, fail};

/// The checkpoints of one run, in one folder.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    keep: Keep,
}

/// Which checkpoints stay when a new one is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How many of the newest, that which was just saved included; 0 for all.
    pub newest: usize,
    /// Whether the one of the best score stays too.
    pub best: Best,
}

/// What becomes of the checkpoint with the best score when newer ones crowd it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Best {
    /// It stays.
    Keep,
    /// It goes like any other.
    Forget,
}

/// What [`Store::save`] did.
#[derive(Debug)]
pub struct Saved {
    /// The checkpoint's folder.
    pub path: PathBuf,
    /// Size of all its files.
    pub bytes: u64,
    /// Older checkpoints that were removed.
    pub removed: Vec<PathBuf>,
    /// What went wrong after the checkpoint was safe: an old one that could not be removed.
    pub notes: Vec<String>,
}

/// A complete checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
}

/// What [`Store::latest`] found.
#[derive(Debug)]
pub struct Latest {
    /// The newest complete checkpoint.
    pub found: Option<Checkpoint>,
    /// What is newer than it and cannot be used, newest first: for the caller to print.
    pub skipped: Vec<Skipped>,
}

/// A checkpoint that cannot be used. Displayed, it is a sentence: `step-000200 was left unfinished: no DONE marker`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its folder.
    pub path: PathBuf,
    /// Why, as the sentence goes on after its name.
    pub why: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.file_name().unwrap_or_default().to_string_lossy(), self.why)
    }
}

impl Store {
    /// The store in this folder, which is made when something is saved. It keeps everything.
    pub fn at(folder: impl Into<PathBuf>) -> Store {
        Store { folder: folder.into(), keep: Keep { newest: 0, best: Best::Forget } }
    }

    /// The same store with a limit.
    pub fn keeping(self, keep: Keep) -> Store {
        Store { keep, ..self }
    }

    /// Saves what `write` writes as the checkpoint of a step, and removes older ones as [`Keep`] says. One of the
    /// same step is replaced.
    ///
    /// On failure everything that was there before is there still, and what was begun is removed.
    pub fn save(&self, step: u64, write: impl FnOnce(&mut Writer) -> Result<()>) -> Result<Saved> {
        make_folder(&self.folder)?;
        self.sweep()?;
        let temporary = self.folder.join(Name::Temporary(step).to_string());
        let made = fs::create_dir(&temporary);
        made.context(|| format!("{}: cannot make the folder", temporary.display()))?;
        let mut writer = Writer::new(temporary.clone());
        let saved = write(&mut writer).and_then(|()| {
            let (files, score) = writer.finish()?;
            let bytes = files.iter().map(|file| file.size).sum();
            seal(&temporary, &Manifest { format: FORMAT, step, score, files })?;
            Ok((self.publish(step, &temporary)?, bytes))
        });
        if saved.is_err() {
            let _ = fs::remove_dir_all(&temporary); // the first error is the one to tell
        }
        let (path, bytes) = saved?;
        let mut saved = Saved { path, bytes, removed: Vec::new(), notes: Vec::new() };
        self.prune(step, &mut saved);
        Ok(saved)
    }

    /// The newest checkpoint that is complete, and what is newer and is not.
    ///
    /// It changes nothing, so it may be called while another process saves. No folder is no checkpoint, and no error.
    pub fn latest(&self, check: Check) -> Result<Latest> {
        let mut latest = Latest { found: None, skipped: Vec::new() };
        for (name, path) in self.newest_first()? {
            let examined = match name {
                Name::Temporary(_) => {
                    Err("was left unfinished by a process that died, or is being written".into())
                }
                Name::Complete(_) | Name::Replaced(_) | Name::Removed(_) => {
                    examine_step(&path, name.step(), check)
                }
            };
            match examined {
                Ok(manifest) => {
                    latest.found = Some(Checkpoint { path, manifest });
                    break;
                }
                Err(why) => latest.skipped.push(Skipped { path, why }),
            }
        }
        Ok(latest)
    }

    /// Removes all checkpoints after `step`, whole or not: for a run that goes on from an older one, and must not
    /// be taken for what it was before. Returns what was removed.
    pub fn remove_after(&self, step: u64) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for (name, path) in self.newest_first()? {
            if name.step() > step {
                self.remove(name, &path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }

    /// What may be a checkpoint, newest first: complete ones, those that wait to be replaced while nothing has
    /// taken their place, and unfinished ones.
    fn newest_first(&self) -> Result<Vec<(Name, PathBuf)>> {
        let mut all = self.entries()?;
        let complete: Vec<u64> = all
            .iter()
            .filter(|(name, _)| matches!(name, Name::Complete(_)))
            .map(|(name, _)| name.step())
            .collect();
        all.retain(|(name, _)| match name {
            Name::Complete(_) | Name::Temporary(_) => true,
            Name::Replaced(step) => !complete.contains(step),
            Name::Removed(_) => false,
        });
        all.sort_by_key(|(name, _)| (Reverse(name.step()), matches!(name, Name::Temporary(_))));
        Ok(all)
    }

    /// Everything in the folder that has a name of ours.
    fn entries(&self) -> Result<Vec<(Name, PathBuf)>> {
        let cannot = || format!("{}: cannot list the folder", self.folder.display());
        let entries = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context(cannot)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.context(cannot)?;
            if let Some(name) = Name::parse(&entry.file_name()) {
                found.push((name, entry.path()));
            }
        }
        Ok(found)
    }

    /// Cleans up after a process that died: only what was complete stays.
    fn sweep(&self) -> Result<()> {
        for (name, path) in self.entries()? {
            match name {
                Name::Complete(_) => {}
                Name::Temporary(_) | Name::Removed(_) => remove_all(&path)?,
                Name::Replaced(step) => {
                    let place = self.folder.join(Name::Complete(step).to_string());
                    if place.exists() {
                        remove_all(&path)?;
                    } else {
                        rename(&path, &place)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives the finished folder its name.
    fn publish(&self, step: u64, temporary: &Path) -> Result<PathBuf> {
        let place = self.folder.join(Name::Complete(step).to_string());
        let replaced = self.folder.join(Name::Replaced(step).to_string());
        let in_the_way = fs::symlink_metadata(&place).is_ok();
        if in_the_way {
            // A folder cannot be renamed onto another. Should the process die between the two, `newest_first` still
            // sees the old one, and `sweep` puts it back.
            rename(&place, &replaced)?;
        }
        if let Err(error) = rename(temporary, &place) {
            if in_the_way {
                let _ = fs::rename(&replaced, &place);
            }
            return Err(error);
        }
        sync_folder(&self.folder);
        if in_the_way {
            let _ = remove_all(&replaced); // or else by the next `sweep`
        }
        Ok(place)
    }

    /// Removes what [`Keep`] does not keep. What fails becomes a note: the new checkpoint is safe.
    fn prune(&self, just_saved: u64, saved: &mut Saved) {
        if self.keep.newest == 0 {
            return;
        }
        let all = match self.newest_first() {
            Ok(all) => all,
            Err(error) => return saved.notes.push(format!("{error:#}")),
        };
        let examined = all.into_iter().map(|(name, path)| {
            let manifest = examine_step(&path, name.step(), Check::Sizes).ok();
            (name, path, manifest)
        });
        let all: Vec<(Name, PathBuf, Option<Manifest>)> = examined.collect();
        let score = |manifest: &Option<Manifest>| manifest.as_ref().and_then(|manifest| manifest.score);
        let scores = all.iter().filter_map(|(name, _, manifest)| Some((score(manifest)?, name.step())));
        let best = match self.keep.best {
            Best::Keep => scores.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, step)| step),
            Best::Forget => None,
        };
        let mut valid = 0;
        for (name, path, manifest) in all {
            // A damaged one that is newer than those which are kept may be all that is left of those steps.
            let is_kept = valid < self.keep.newest || name.step() == just_saved || Some(name.step()) == best;
            valid += usize::from(manifest.is_some());
            if is_kept {
                continue;
            }
            match self.remove(name, &path) {
                Ok(()) => saved.removed.push(path),
                Err(error) => saved.notes.push(format!("{error:#}")),
            }
        }
    }

    /// Takes its name from a checkpoint first, so that half of one is never seen.
    fn remove(&self, name: Name, path: &Path) -> Result<()> {
        let doomed = self.folder.join(Name::Removed(name.step()).to_string());
        rename(path, &doomed)?;
        remove_all(&doomed)
    }
}

impl Checkpoint {
    /// Opens a checkpoint by its folder, wherever that is.
    pub fn open(path: &Path, check: Check) -> Result<Checkpoint> {
        match examine(path, check) {
            Ok(manifest) => Ok(Checkpoint { path: path.to_owned(), manifest }),
            Err(why) => fail!("{}: the checkpoint {why}", path.display()),
        }
    }

    /// How many updates the weights have seen.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// Reads a file that [`Writer::json`] wrote.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.file(name)?;
        let text = read_small(&path)?;
        serde_json::from_str(&text).context(|| format!("{}: is not what was expected", path.display()))
    }

    /// Opens a file that [`Writer::tensors`] wrote.
    pub fn tensors(&self, name: &str) -> Result<Tensors> {
        Tensors::open(&self.file(name)?)
    }

    /// Where a file of the checkpoint is. Fails when it has none of this name.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        let names: Vec<&str> = self.manifest.files.iter().map(|file| file.name.as_str()).collect();
        match names.contains(&name) {
            true => Ok(self.path.join(name)),
            false => fail!("{}: has no file {name}; there are {}", self.path.display(), names.join(", ")),
        }
    }
}

/// The names of folders in a store, with their steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Complete(u64),
    Temporary(u64),
    Replaced(u64),
    Removed(u64),
}

impl Name {
    fn step(self) -> u64 {
        match self {
            Name::Complete(step) | Name::Temporary(step) | Name::Replaced(step) | Name::Removed(step) => step,
        }
    }

    /// `None` for what this store did not make.
    fn parse(name: &OsStr) -> Option<Name> {
        let name = name.to_str()?;
        let digits: String = name.chars().filter(char::is_ascii_digit).collect();
        let step = digits.parse().ok()?;
        let ours = [Name::Complete(step), Name::Temporary(step), Name::Replaced(step), Name::Removed(step)];
        ours.into_iter().find(|ours| ours.to_string() == name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Complete(step) => write!(f, "step-{step:06}"),
            Name::Temporary(step) => write!(f, ".step-{step:06}.tmp"),
            Name::Replaced(step) => write!(f, ".step-{step:06}.old"),
            Name::Removed(step) => write!(f, ".step-{step:06}.removed"),
        }
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).context(|| format!("{}: cannot rename to {}", from.display(), to.display()))
}

/// Removes a folder of ours, or a file that has its name.
fn remove_all(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    };
    removed.map_err(|e| Error::caused_by(format!("{}: cannot remove", path.display()), e))
}

#[cfg(test)]
mod tests;
