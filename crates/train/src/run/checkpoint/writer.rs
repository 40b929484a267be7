//! Writing the files of a checkpoint.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IntoInnerError, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::manifest::{DONE, FileRecord, MANIFEST, hash, is_plain};
use super::tensors::{self, TensorSink, TensorSpec};
use crate::error::{AnyError, Context, Result, fail};

/// What a checkpoint's content is given to, file by file. Each is on the disk when its function returns.
///
/// When one of them fails the checkpoint is given up, whatever the caller makes of the error.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    files: Vec<FileRecord>,
    score: Option<f64>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    /// Something is missing, or half of it is there.
    Failed,
}

impl Writer {
    pub(super) fn new(folder: PathBuf) -> Writer {
        Writer { folder, files: Vec::new(), score: None, state: State::Whole }
    }

    /// The files that were written, and the score.
    pub(super) fn finish(self) -> Result<(Vec<FileRecord>, Option<f64>)> {
        match self.state {
            State::Whole => Ok((self.files, self.score)),
            State::Failed => {
                fail!("{}: a file of the checkpoint could not be written", self.folder.display())
            }
        }
    }

    /// What the best checkpoint is chosen by, such as the validation loss: lower is better, and what is no finite
    /// number counts as none.
    pub fn score(&mut self, score: f64) {
        self.score = score.is_finite().then_some(score);
    }

    /// A file, which `write` streams: no second copy of it need be in memory. `name` is without folders.
    pub fn file(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> Result<(), AnyError>,
    ) -> Result<()> {
        let written = write_file(&self.folder, name, write).map(|file| self.files.push(file));
        self.noted(written)
    }

    /// A file of tensors in f32, in the safetensors format. `fill` is called once for each of `tensors`, with its
    /// index, in their order, and gives all its elements.
    pub fn tensors(
        &mut self,
        name: &str,
        tensors: &[TensorSpec<'_>],
        fill: impl FnMut(usize, &mut TensorSink<'_>) -> Result<(), AnyError>,
    ) -> Result<()> {
        self.file(name, |out| Ok(tensors::write(out, tensors, fill)?))
    }

    /// A file of JSON: whatever else resuming needs.
    ///
    /// Numbers come back to the last bit. But JSON has no NaN and no infinity: they become null, which is no number
    /// when it is read, so a value that may be one is better kept as an `Option`.
    pub fn json(&mut self, name: &str, value: &impl Serialize) -> Result<()> {
        self.file(name, |out| {
            serde_json::to_writer_pretty(&mut *out, value)?;
            Ok(out.write_all(b"\n")?)
        })
    }

    /// Files that somebody else makes in the folder that `write` is given, such as a whole model with its
    /// tokenizer. They are read again for their hashes.
    pub fn folder(&mut self, write: impl FnOnce(&Path) -> Result<(), AnyError>) -> Result<()> {
        let written = write(&self.folder)
            .context(|| format!("{}: cannot write the checkpoint", self.folder.display()))
            .and_then(|()| add_new_files(&self.folder, &mut self.files));
        self.noted(written)
    }

    fn noted(&mut self, written: Result<()>) -> Result<()> {
        if written.is_err() {
            self.state = State::Failed;
        }
        written
    }
}

fn write_file(
    folder: &Path,
    name: &str,
    write: impl FnOnce(&mut dyn Write) -> Result<(), AnyError>,
) -> Result<FileRecord> {
    if !is_plain(name) {
        fail!(
            "{name:?} is no name for a file of a checkpoint; expected one without folders, not {MANIFEST} or {DONE}"
        );
    }
    let path = folder.join(name);
    let written = || -> Result<FileRecord, AnyError> {
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let mut writer =
            BufWriter::with_capacity(1 << 20, Hashed { file, hasher: blake3::Hasher::new(), size: 0 });
        write(&mut writer)?;
        let Hashed { file, hasher, size } = writer.into_inner().map_err(IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(FileRecord { name: name.to_owned(), size, blake3: hasher.finalize().to_hex().to_string() })
    };
    written().context(|| format!("{}: cannot write", path.display()))
}

/// A file that is hashed while it is written.
struct Hashed {
    file: File,
    hasher: blake3::Hasher,
    size: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Records the files of a folder that are not recorded yet, in the order of their names.
fn add_new_files(folder: &Path, files: &mut Vec<FileRecord>) -> Result<()> {
    let mut names = Vec::new();
    let cannot = || format!("{}: cannot list the folder", folder.display());
    for entry in fs::read_dir(folder).context(cannot)? {
        let entry = entry.context(cannot)?;
        let name = entry.file_name();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        match name.to_str().filter(|name| is_file && is_plain(name)) {
            Some(name) if files.iter().all(|file| file.name != name) => names.push(name.to_owned()),
            Some(_) => {}
            None => fail!(
                "{}: a checkpoint has plain files only, and names {MANIFEST} and {DONE} itself",
                entry.path().display()
            ),
        }
    }
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let cannot = || format!("{}: cannot be read again", path.display());
        // Windows syncs what is open for writing only.
        let file = OpenOptions::new().read(true).write(true).open(&path).context(cannot)?;
        file.sync_all().context(|| format!("{}: cannot write", path.display()))?;
        let (size, blake3) = hash(file).context(cannot)?;
        files.push(FileRecord { name, size, blake3 });
    }
    Ok(())
}
