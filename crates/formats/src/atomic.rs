//! Writing a file so that either the old or the complete new one is there, whatever happens.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use crate::Error;

/// Writes `path` through a temporary file beside it, which is renamed when it is complete and on disk.
///
/// When `write` fails, or the disk is full, the temporary file is removed and an older file at `path` stays as
/// it was.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), Error> {
    let mut file = AtomicFile::create(path)?;
    write(&mut file.writer).map_err(|e| Error::io(path, "write", e))?;
    file.commit()
}

/// A file that is written piece by piece, and is at its path only once it is complete: a temporary file beside
/// it, removed when this value is dropped before [`AtomicFile::commit`].
#[derive(Debug)]
pub(crate) struct AtomicFile {
    path: PathBuf,
    /// Closed before the temporary file is removed, which not every system could do otherwise.
    pub writer: BufWriter<File>,
    temporary: Temporary,
}

/// Removes the file when it is dropped; after the rename there is none.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // whoever gave up has told the first error
    }
}

impl AtomicFile {
    pub fn create(path: &Path) -> Result<Self, Error> {
        let name =
            path.file_name().ok_or_else(|| Error::invalid("is not the name of a file").in_file(path))?;
        let (file, temporary) = create_temporary(folder(path), name)
            .map_err(|e| Error::io(path, "create a temporary file beside it", e))?;
        Ok(AtomicFile {
            path: path.to_owned(),
            writer: BufWriter::with_capacity(1 << 20, file),
            temporary: Temporary(temporary),
        })
    }

    /// The file that this becomes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Brings everything to the disk, and the file to its path.
    pub fn commit(self) -> Result<(), Error> {
        let AtomicFile { path, writer, temporary } = self;
        let finish = || {
            let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            fs::rename(&temporary.0, &path)
        };
        finish().map_err(|e| Error::io(&path, "write", e))?;
        // The rename itself must reach the disk too. Not every system can sync a folder: the file is whole anyhow.
        #[cfg(unix)]
        if let Ok(folder) = File::open(folder(&path)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn create_temporary(folder: &Path, name: &std::ffi::OsStr) -> io::Result<(File, PathBuf)> {
    for attempt in 0..100 {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}-{attempt}.tmp", std::process::id()));
        let path = folder.join(hidden);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (file, path)),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "a hundred temporary files are in the way"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("wootz-atomic-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("f");
        write_atomically(&path, |w| w.write_all(b"old")).unwrap();
        let failed = write_atomically(&path, |w| {
            w.write_all(b"half of the new")?;
            Err(io::Error::other("disk full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write_atomically(&path, |w| w.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
