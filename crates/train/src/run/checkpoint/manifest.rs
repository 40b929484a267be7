//! What a checkpoint says of itself, and whether it is all there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::{is_plain_name, read_small, sync_folder};
use crate::error::{Context, Result};

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const DONE: &str = "DONE";
/// The version of `manifest.json` that is written, and the newest that is read.
pub(super) const FORMAT: u32 = 1;

/// What `manifest.json` says of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this file's format.
    pub format: u32,
    /// How many updates the weights have seen.
    pub step: u64,
    /// What the best one is chosen by, such as the validation loss: lower is better.
    pub score: Option<f64>,
    /// Every file but this one and the marker.
    pub files: Vec<FileRecord>,
}

/// A file of a checkpoint, as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name, without folders.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// BLAKE3 of its content, in hexadecimal.
    pub blake3: String,
}

/// How closely a checkpoint is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Marker, manifest, and the sizes of all files.
    Sizes,
    /// And the content of every file, which means to read it all.
    Hashes,
}

/// Writes manifest and marker, and brings the folder to the disk.
pub(super) fn seal(folder: &Path, manifest: &Manifest) -> Result<()> {
    let path = folder.join(MANIFEST);
    let mut json =
        serde_json::to_vec_pretty(manifest).context(|| format!("{}: cannot be JSON", path.display()))?;
    json.push(b'\n');
    let done = format!("{}\n", blake3::hash(&json).to_hex());
    for (name, content) in [(MANIFEST, json.as_slice()), (DONE, done.as_bytes())] {
        let path = folder.join(name);
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
        written.context(|| format!("{}: cannot write", path.display()))?;
    }
    sync_folder(folder);
    Ok(())
}

/// As [`examine`], and that the folder is of the step which its name says.
pub(super) fn examine_step(folder: &Path, step: u64, check: Check) -> Result<Manifest, String> {
    let manifest = examine(folder, check)?;
    if manifest.step != step {
        return Err(format!("is of step {}, as its {MANIFEST} says; was it renamed?", manifest.step));
    }
    Ok(manifest)
}

/// Whether a checkpoint is complete; if not, why not, as a sentence goes on after its name.
pub(super) fn examine(folder: &Path, check: Check) -> Result<Manifest, String> {
    if !folder.is_dir() {
        return Err("is not a folder".into());
    }
    if !folder.join(DONE).exists() {
        return Err(format!("was left unfinished: no {DONE} marker"));
    }
    let damaged = |what: String| format!("is damaged: {what}");
    let read = |name: &str| read_small(&folder.join(name)).map_err(|e| damaged(format!("{e:#}")));
    let (done, json) = (read(DONE)?, read(MANIFEST)?);
    if done.trim() != blake3::hash(json.as_bytes()).to_hex().as_str() {
        return Err(damaged(format!("{MANIFEST} has not the hash that {DONE} holds")));
    }
    let version: Version = serde_json::from_str(&json).map_err(|e| damaged(format!("{MANIFEST}: {e}")))?;
    if version.format > FORMAT {
        return Err(format!(
            "was written by a newer version of this program: format {}, at most {FORMAT} is read",
            version.format
        ));
    }
    let manifest: Manifest = serde_json::from_str(&json).map_err(|e| damaged(format!("{MANIFEST}: {e}")))?;
    for file in &manifest.files {
        examine_file(folder, file, check).map_err(damaged)?;
    }
    Ok(manifest)
}

/// What every version of `manifest.json` has.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

fn examine_file(folder: &Path, expected: &FileRecord, check: Check) -> Result<(), String> {
    let name = &expected.name;
    if !is_plain(name) {
        return Err(format!("{MANIFEST} names a file {name:?}"));
    }
    let path = folder.join(name);
    let size = match fs::metadata(&path) {
        Ok(about) => about.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(format!("{name} is missing")),
        Err(e) => return Err(format!("{name} cannot be read: {e}")),
    };
    if size != expected.size {
        return Err(format!("{name} has {size} bytes, expected {}", expected.size));
    }
    match check {
        Check::Sizes => Ok(()),
        Check::Hashes => {
            let hashed = File::open(&path).and_then(hash);
            let (_, found) = hashed.map_err(|e| format!("{name} cannot be read: {e}"))?;
            match found == expected.blake3 {
                true => Ok(()),
                false => Err(format!("{name} has not the content that was written (BLAKE3 differs)")),
            }
        }
    }
}

/// Size and BLAKE3 of a file's content.
pub(super) fn hash(file: File) -> io::Result<(u64, String)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok((hasher.count(), hasher.finalize().to_hex().to_string()))
}

/// A file name without folders that is not one of the store's own. Manifests are read with the same rule, so that
/// none leads out of its folder.
pub(super) fn is_plain(name: &str) -> bool {
    is_plain_name(name) && name != MANIFEST && name != DONE
}
