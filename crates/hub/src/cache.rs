//! The cache on disk, as Python's `huggingface_hub` lays it out.
//!
//! ```text
//! models--ORGANISATION--NAME/
//!   blobs/ETAG                  a file's bytes, by the checksum that the hub calls it
//!   blobs/ETAG.incomplete       the first part of one: no program reads it as a file
//!   refs/main                   the commit that a branch was last seen at
//!   snapshots/COMMIT/FILE       a relative link to a blob
//! .locks/models--…/ETAG.lock    held by whoever writes that blob
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result, fail};
use crate::name::{Repo, check_revision};

/// The folder that all downloads share.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Whether snapshots may be links.
    links: bool,
}

/// The files of one commit, as far as they are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where they are.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
}

impl Cache {
    /// A cache in this folder, which need not exist. Without `links`, snapshots hold files.
    pub fn new(folder: PathBuf, links: bool) -> Cache {
        Cache { folder, links }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of a repository.
    pub fn repo(&self, repo: &Repo) -> PathBuf {
        self.folder.join(repo.folder())
    }

    /// What is there of a revision; `None` if nothing was downloaded.
    ///
    /// # Errors
    /// The name of the revision, or what the cache says of it, is none.
    pub fn snapshot(&self, repo: &Repo, revision: &str) -> Result<Option<Snapshot>> {
        check_revision(revision)?;
        let folder = self.repo(repo);
        let is_plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric());
        let reference = folder.join("refs").join(revision);
        let commit = match fs::read_to_string(&reference) {
            Ok(text) => text.trim().to_owned(),
            Err(_) if is_plain(revision) => revision.to_owned(),
            Err(_) => return Ok(None),
        };
        if !is_plain(&commit) {
            fail!(
                "{}: expected a commit, found {:?}; download {repo} again",
                reference.display(),
                crate::name::printable(&commit)
            );
        }
        let snapshot = Snapshot { folder: folder.join("snapshots").join(&commit), commit };
        Ok(snapshot.folder.is_dir().then_some(snapshot))
    }
}

impl Snapshot {
    /// The names of its files whose bytes are there, with `/` between folders, sorted.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn files(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut folders = vec![(self.folder.clone(), String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            let cannot = || format!("{}: cannot list the folder", folder.display());
            for entry in fs::read_dir(&folder).context(cannot)? {
                let entry = entry.context(cannot)?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let name = format!("{prefix}{name}");
                let path = entry.path();
                // A folder that is a link would be somebody else's.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push((path, format!("{name}/")));
                } else if path.is_file() {
                    found.push(name);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Where a file of it is, or would be.
    pub fn path(&self, file: &str) -> PathBuf {
        file.split('/').fold(self.folder.clone(), |path, part| path.join(part))
    }
}

#[cfg(feature = "network")]
impl Cache {
    /// The folder of a commit's files, whether it exists or not.
    pub(crate) fn snapshot_of(&self, repo: &Repo, commit: &str) -> Snapshot {
        Snapshot { folder: self.repo(repo).join("snapshots").join(commit), commit: commit.to_owned() }
    }

    /// Where the bytes of a file are, or come to be.
    pub(crate) fn blob(&self, repo: &Repo, etag: &str) -> PathBuf {
        self.repo(repo).join("blobs").join(etag)
    }

    /// Where the first part of a blob is kept.
    pub(crate) fn incomplete(&self, repo: &Repo, etag: &str) -> PathBuf {
        self.repo(repo).join("blobs").join(format!("{etag}.incomplete"))
    }

    /// The file that is locked while a blob is written.
    pub(crate) fn lock(&self, repo: &Repo, etag: &str) -> PathBuf {
        self.folder.join(".locks").join(repo.folder()).join(format!("{etag}.lock"))
    }

    /// Makes the folders of a repository, and marks the cache as one for programs that make backups.
    pub(crate) fn prepare(&self, repo: &Repo) -> Result<()> {
        create_folder(&self.repo(repo).join("blobs"))?;
        let tag = self.folder.join("CACHEDIR.TAG");
        if !tag.exists() {
            // The first line is the mark: https://bford.info/cachedir/. A cache without it is one all the same.
            let text = "Signature: 8a477f597d28d172789f06886806bc55\n# What was downloaded from the Hugging Face hub.\n";
            let _ = fs::write(tag, text);
        }
        Ok(())
    }

    /// Puts a blob into a snapshot under a file's name: as a relative link, or where there are none as a second name, or
    /// as a copy.
    pub(crate) fn link(&self, repo: &Repo, snapshot: &Snapshot, file: &str, etag: &str) -> Result<()> {
        let path = snapshot.path(file);
        let blob = self.blob(repo, etag);
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        // Linked under another name first: whoever reads the snapshot sees the old file or the new one.
        let temporary = path.with_file_name(format!(".{}-{etag}.tmp", std::process::id()));
        let remove = |path: &Path| match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        let up = "../".repeat(2 + file.split('/').count() - 1);
        let put = || {
            remove(&temporary)?;
            let linked = self.links && symlink(&format!("{up}blobs/{etag}"), &temporary).is_ok();
            if !linked && fs::hard_link(&blob, &temporary).is_err() {
                fs::copy(&blob, &temporary)?;
            }
            fs::rename(&temporary, &path)?;
            // Two names of one file are renamed into each other by doing nothing.
            remove(&temporary)
        };
        put().context(|| format!("{}: cannot put {} there", path.display(), blob.display()))
    }

    /// Notes the commit that a revision is at.
    pub(crate) fn set_revision(&self, repo: &Repo, revision: &str, commit: &str) -> Result<()> {
        check_revision(revision)?;
        let path = self.repo(repo).join("refs").join(revision);
        if revision == commit || fs::read_to_string(&path).is_ok_and(|found| found == commit) {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        let temporary = path.with_file_name(format!(".{}.tmp", std::process::id()));
        fs::write(&temporary, commit)
            .and_then(|()| fs::rename(&temporary, &path))
            .context(|| format!("{}: cannot write", path.display()))
    }
}

#[cfg(feature = "network")]
pub(crate) fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).context(|| format!("{}: cannot create the folder", folder.display()))
}

#[cfg(all(feature = "network", unix))]
fn symlink(target: &str, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(all(feature = "network", windows))]
fn symlink(target: &str, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target.replace('/', "\\"), link)
}

#[cfg(all(feature = "network", not(any(unix, windows))))]
fn symlink(_: &str, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Kind;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("wootz-hub-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn repo() -> Repo {
        Repo::parse(Kind::Model, "a/b").unwrap()
    }

    #[test]
    fn a_snapshot_is_found_by_branch_and_by_commit() {
        let folder = folder("snapshot");
        let cache = Cache::new(folder.clone(), true);
        assert_eq!(cache.snapshot(&repo(), "main").unwrap(), None);
        let model = folder.join("models--a--b");
        fs::create_dir_all(model.join("refs/refs/pr")).unwrap();
        fs::create_dir_all(model.join("snapshots/0123abcd/sub")).unwrap();
        fs::write(model.join("snapshots/0123abcd/sub/x"), "").unwrap();
        fs::write(model.join("snapshots/0123abcd/a"), "").unwrap();
        fs::write(model.join("refs/main"), "0123abcd\n").unwrap();
        fs::write(model.join("refs/refs/pr/1"), "0123abcd").unwrap();
        for revision in ["main", "0123abcd", "refs/pr/1"] {
            let found = cache.snapshot(&repo(), revision).unwrap().expect(revision);
            assert_eq!(found.folder, model.join("snapshots/0123abcd"));
            assert_eq!(found.files().unwrap(), ["a", "sub/x"]);
        }
        fs::write(model.join("refs/main"), "gone").unwrap();
        assert_eq!(cache.snapshot(&repo(), "main").unwrap(), None);
        for bad in ["", "../.."] {
            fs::write(model.join("refs/main"), bad).unwrap();
            assert!(cache.snapshot(&repo(), "main").unwrap_err().to_string().contains("refs"));
        }
        assert!(cache.snapshot(&repo(), "../main").is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[cfg(feature = "network")]
    #[test]
    fn links_are_relative_and_replace_what_was_there() {
        for links in [true, false] {
            let folder = folder(&format!("link-{links}"));
            let cache = Cache::new(folder.join("hub"), links);
            cache.prepare(&repo()).unwrap();
            let snapshot = cache.snapshot_of(&repo(), "0123");
            for (etag, bytes) in [("e1", "one"), ("e2", "two")] {
                fs::write(cache.blob(&repo(), etag), bytes).unwrap();
                for file in ["a", "deep/er/b"] {
                    cache.link(&repo(), &snapshot, file, etag).unwrap();
                    // A second time changes nothing, and leaves nothing behind.
                    cache.link(&repo(), &snapshot, file, etag).unwrap();
                    assert_eq!(fs::read_to_string(snapshot.path(file)).unwrap(), bytes);
                }
            }
            assert_eq!(snapshot.files().unwrap(), ["a", "deep/er/b"]);
            cache.set_revision(&repo(), "refs/pr/1", "0123").unwrap();
            // The folder can be moved.
            fs::rename(folder.join("hub"), folder.join("moved")).unwrap();
            let moved =
                Cache::new(folder.join("moved"), links).snapshot(&repo(), "refs/pr/1").unwrap().unwrap();
            assert_eq!(fs::read_to_string(moved.path("deep/er/b")).unwrap(), "two");
            fs::remove_dir_all(folder).unwrap();
        }
    }
}
