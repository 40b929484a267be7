//! Read-only memory maps: the one place of this crate with `unsafe`.

#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::Error;

/// The bytes of a file, mapped and not copied.
///
/// As with every memory map, the file must not be cut short or written to while it is open: wootz itself
/// replaces files by renaming a finished one over the old (see [`crate::write_atomically`]), which leaves
/// existing maps as they were.
#[derive(Debug)]
pub(crate) struct Mmap(Option<memmap2::Mmap>);

impl Mmap {
    /// Maps the whole of a regular file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
        let about = file.metadata().map_err(|e| Error::io(path, "read its length", e))?;
        if !about.is_file() {
            return Err(Error::invalid("is not a regular file").in_file(path));
        }
        if about.len() == 0 {
            return Ok(Mmap(None)); // an empty range cannot be mapped everywhere
        }
        // SAFETY: bytes behind `&[u8]` must not change, and for a file only its owner can see to that: the type's
        // comment asks for it, and it is the price of not copying models of many gigabytes. The map is never
        // written to from here, and it is private to this value. Nothing of the parsers' own state points into
        // it (names and metadata are copies), so that a file that changes nonetheless gives wrong numbers, or
        // ends the process with a bus error if it was cut short.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, "map into memory", e))?;
        Ok(Mmap(Some(map)))
    }

    /// Asks the system to read the file ahead of use. A hint: nothing depends on it.
    pub fn read_ahead(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.0 {
            let _ = map.advise(memmap2::Advice::WillNeed);
        }
    }
}

impl Deref for Mmap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn empty_missing_and_folder() {
        let dir = std::env::temp_dir();
        let empty = dir.join(format!("wootz-mmap-{}", std::process::id()));
        std::fs::write(&empty, b"").unwrap();
        assert_eq!(&*Mmap::open(&empty).unwrap(), b"");
        std::fs::remove_file(&empty).unwrap();
        assert_eq!(Mmap::open(&empty).unwrap_err().kind(), ErrorKind::Missing);
        assert!(Mmap::open(&dir).is_err());
    }
}
