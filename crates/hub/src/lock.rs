//! Locks between programs that fill the same cache: those that Python's `filelock` takes.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::cache::create_folder;
use crate::error::{Context, Result};

/// Between two looks at a lock that is held.
const PAUSE: Duration = Duration::from_millis(200);

/// A lock; it is released when this is dropped, or when the program ends in whatever way. Its file stays.
pub struct Lock {
    file: Option<File>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // To close the file is not enough: a program that another thread is just starting has it open too.
        if let Some(file) = &self.file {
            let _ = file.unlock();
        }
    }
}

impl Lock {
    /// Waits until nobody else holds it; `waiting` is called once if somebody does.
    ///
    /// On file systems that have no locks nothing is locked: two programs then spoil each other's download, which the
    /// checksum finds out.
    pub fn take(path: &Path, waiting: impl FnOnce()) -> Result<Lock> {
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        let mut waiting = Some(waiting);
        loop {
            let cannot = || format!("{}: cannot open the lock", path.display());
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(path)
                .context(cannot)?;
            match file.try_lock() {
                Ok(()) if is_there(&file, path) => return Ok(Lock { file: Some(file) }),
                // Somebody removed the file between opening and locking: others lock a new one.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                    return Ok(Lock { file: None });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).context(|| format!("{}: cannot lock", path.display()));
                }
            }
        }
    }
}

#[cfg(unix)]
fn is_there(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |metadata: std::io::Result<std::fs::Metadata>| metadata.ok().map(|m| (m.dev(), m.ino()));
    identity(file.metadata()) == identity(path.metadata())
}

#[cfg(not(unix))]
fn is_there(_: &File, _: &Path) -> bool {
    true // an open file cannot be removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_another_waits() {
        let folder = std::env::temp_dir().join(format!("wootz-hub-lock-{}", std::process::id()));
        let path = folder.join("deep/x.lock");
        let first = Lock::take(&path, || panic!("nobody holds it")).unwrap();
        let waits = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let second =
                scope.spawn(|| Lock::take(&path, || waits.store(true, std::sync::atomic::Ordering::SeqCst)));
            while !waits.load(std::sync::atomic::Ordering::SeqCst) {
                std::thread::yield_now();
            }
            assert!(!second.is_finished());
            // The file goes, and with it what the first holds: the second takes a new one.
            std::fs::remove_file(&path).unwrap();
            let third = second.join().unwrap().unwrap();
            drop(first);
            assert!(path.exists());
            drop(third);
        });
        std::fs::remove_dir_all(folder).unwrap();
    }
}
