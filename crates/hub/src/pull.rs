//! A repository, or the wanted part of it, into the cache.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::cache::Snapshot;
use crate::client::{Client, Metadata};
use crate::download::{Done, Outcome, SEGMENT, Source, download};
use crate::error::{Context, Result, fail};
use crate::lock::Lock;
use crate::name::{Reference, check_file};
use crate::selection::{Entry, Selection};
use crate::settings::Settings;

pub use crate::checksum::Verified;
pub use crate::http::Retry;

/// Free space that a download leaves, in bytes.
const SPARE: u64 = 64 << 20;

/// What to download, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which files.
    pub selection: Selection,
    /// Patterns of files that are not wanted.
    pub exclude: Vec<String>,
    /// Connections at the same time.
    pub connections: usize,
    /// How often a request is tried.
    pub retry: Retry,
    /// How long a server may say nothing.
    pub silence: Duration,
}

impl Options {
    /// These files, with the usual patience.
    pub fn new(selection: Selection) -> Options {
        Options {
            selection,
            exclude: Vec::new(),
            connections: 4,
            retry: Retry::default(),
            silence: Duration::from_secs(30),
        }
    }
}

/// Somebody who looks on. Calls come from several threads.
pub trait Watch: Sync {
    /// What is to be done: files and bytes, of which some may be there already.
    fn begin(&self, files: usize, bytes: u64);
    /// Bytes that are there so far. They become fewer where something has to be fetched again.
    fn progress(&self, bytes: u64);
    /// Something that takes time: a wait, another program.
    fn note(&self, text: &str);
}

/// What is in the cache now.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The files of the commit.
    pub snapshot: Snapshot,
    /// Those that were wanted, in the order of their names.
    pub files: Vec<PulledFile>,
}

impl Pulled {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Bytes that came over the network.
    pub fn fetched(&self) -> u64 {
        self.files.iter().map(|file| file.fetched).sum()
    }
}

/// A file in the cache.
#[derive(Clone, Debug)]
pub struct PulledFile {
    /// Its name in the repository.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// How many of them came over the network.
    pub fetched: u64,
    /// How it was checked; `None` if it was there already.
    pub verified: Option<Verified>,
}

/// Downloads what is missing of the wanted files.
///
/// # Errors
/// The hub refuses; there is no such file; the network, the disk; a checksum is wrong. Whatever has come so far stays, and the
/// next time goes on from there.
pub fn pull(
    settings: &Settings,
    reference: &Reference,
    options: &Options,
    watch: &dyn Watch,
) -> Result<Pulled> {
    if settings.offline {
        fail!("{reference}: cannot be downloaded, for --offline or HF_HUB_OFFLINE forbids it");
    }
    let waiting = |error: &crate::Error, wait: Duration| {
        let again =
            if wait.is_zero() { "again".to_owned() } else { format!("again in {:.1} s", wait.as_secs_f64()) };
        watch.note(&format!("{error:#}; {again}"));
    };
    let client = Client::new(settings, options.retry, options.silence);
    let repo = &reference.repo;
    let listing = client.list(repo, &reference.revision, &waiting)?;
    let names = options
        .selection
        .of(repo.kind, &listing.files, &options.exclude)
        .context(|| format!("{reference} at {}", settings.endpoint))?;
    let mut wanted: BTreeMap<&str, &Entry> = BTreeMap::new();
    for name in &names {
        check_file(name).context(|| format!("{reference} at {}", settings.endpoint))?;
        wanted.extend(listing.files.iter().find(|file| file.name == *name).map(|file| (name.as_str(), file)));
    }
    let wanted: Vec<&Entry> = wanted.into_values().collect();

    let snapshot = settings.cache.snapshot_of(repo, &listing.commit);
    let (there, missing): (Vec<&Entry>, Vec<&Entry>) =
        wanted.iter().partition(|file| is_there(&snapshot, file));
    let described =
        each(options.connections, &missing, |file| client.metadata(repo, &listing.commit, file, &waiting))?;
    settings.cache.prepare(repo)?;
    let job = Job { settings, reference, options, watch, client: &client, snapshot: &snapshot };
    let files: Vec<(&Entry, Metadata)> = missing.into_iter().zip(described).collect();
    job.check_space(&files)?;

    let there_bytes: u64 = there.iter().map(|file| length(&snapshot, file)).sum();
    let bytes = files.iter().fold(there_bytes, |sum, (_, file)| sum.saturating_add(file.size));
    watch.begin(wanted.len(), bytes);
    let tell = |bytes| watch.progress(bytes);
    let done = Done::new(&tell);
    done.add(there_bytes);
    let fetch = |(file, metadata): &(&Entry, Metadata), connections| {
        job.fetch(file, metadata, connections, &done, &waiting)
            .context(|| format!("{reference}: {}", file.name))
    };
    // Small files beside each other; then large ones, each over all connections. So weights are there last, and where they are
    // the rest is too.
    let (small, large): (Vec<_>, Vec<_>) =
        files.iter().partition(|(_, metadata)| metadata.size <= 2 * SEGMENT);
    let mut fetched = each(options.connections, &small, |file| fetch(file, 1))?;
    for file in &large {
        fetched.push(fetch(file, options.connections)?);
    }
    settings.cache.set_revision(repo, &reference.revision, &listing.commit)?;

    let mut files: Vec<PulledFile> = there
        .into_iter()
        .map(|file| PulledFile {
            name: file.name.clone(),
            path: snapshot.path(&file.name),
            bytes: length(&snapshot, file),
            fetched: 0,
            verified: None,
        })
        .chain(fetched)
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Pulled { snapshot, files })
}

/// What the threads share.
struct Job<'a> {
    settings: &'a Settings,
    reference: &'a Reference,
    options: &'a Options,
    watch: &'a dyn Watch,
    client: &'a Client,
    snapshot: &'a Snapshot,
}

impl Job<'_> {
    /// Fails if the disk has no room for what is to come.
    fn check_space(&self, files: &[(&Entry, Metadata)]) -> Result<()> {
        let (cache, repo) = (&self.settings.cache, &self.reference.repo);
        let mut needed = 0u64;
        for (_, file) in files.iter().filter(|(_, file)| !cache.blob(repo, &file.etag).exists()) {
            let there = fs::metadata(cache.incomplete(repo, &file.etag)).map_or(0, |part| part.len());
            needed = needed.saturating_add(file.size.saturating_sub(there));
        }
        let folder = cache.repo(repo);
        // A file system that does not say how much room it has is tried.
        match fs4::available_space(&folder) {
            Ok(free) if needed > 0 && needed.saturating_add(SPARE) > free => fail!(
                "{}: {} needs {:.2} GB more, and there are {:.2} GB free; make room, or set HF_HOME to a place that has it",
                folder.display(),
                self.reference,
                needed as f64 / 1e9,
                free as f64 / 1e9
            ),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// One file, from the hub to the snapshot. Nobody else writes its blob meanwhile.
    fn fetch(
        &self,
        file: &Entry,
        metadata: &Metadata,
        connections: usize,
        done: &Done<'_>,
        waiting: &crate::http::Waiting<'_>,
    ) -> Result<PulledFile> {
        let (cache, repo) = (&self.settings.cache, &self.reference.repo);
        let _lock = Lock::take(&cache.lock(repo, &metadata.etag), || {
            self.watch.note(&format!("{}: another program is downloading it; waiting", file.name));
        })?;
        let blob = cache.blob(repo, &metadata.etag);
        let is_whole = fs::metadata(&blob).is_ok_and(|found| found.len() == metadata.size);
        let outcome = if is_whole {
            done.add(metadata.size);
            None
        } else {
            let incomplete = cache.incomplete(repo, &metadata.etag);
            let source = Source {
                client: self.client,
                repo,
                commit: &self.snapshot.commit,
                file: &file.name,
                metadata,
                done,
                waiting,
                location: Mutex::new(None),
            };
            let outcome: Outcome = download(&source, &incomplete, connections.min(self.options.connections))?;
            fs::rename(&incomplete, &blob).context(|| format!("{}: cannot rename", incomplete.display()))?;
            Some(outcome)
        };
        cache.link(repo, self.snapshot, &file.name, &metadata.etag)?;
        Ok(PulledFile {
            name: file.name.clone(),
            path: self.snapshot.path(&file.name),
            bytes: metadata.size,
            fetched: outcome.map_or(0, |outcome| outcome.fetched),
            verified: outcome.map(|outcome| outcome.verified),
        })
    }
}

/// Whether the snapshot has the file, as long as the hub says it is. (A commit never changes.)
fn is_there(snapshot: &Snapshot, file: &Entry) -> bool {
    let is_safe = check_file(&file.name).is_ok();
    let found = if is_safe { fs::metadata(snapshot.path(&file.name)).ok() } else { None };
    found.is_some_and(|found| found.is_file() && file.size.is_none_or(|size| size == found.len()))
}

fn length(snapshot: &Snapshot, file: &Entry) -> u64 {
    fs::metadata(snapshot.path(&file.name)).map_or(0, |found| found.len())
}

/// Does the work for each item on so many threads; the results in the order of the items.
///
/// # Errors
/// The first that occurs; what has not begun by then is left.
fn each<T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let has_failed = AtomicBool::new(false);
    let results: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(Vec::with_capacity(items.len()));
    let run = || {
        while !has_failed.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else { return };
            let result = work(item);
            has_failed.fetch_or(result.is_err(), Ordering::Relaxed);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(items.len()) {
            scope.spawn(run);
        }
        run();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn results_are_in_order_and_an_error_ends_it() {
        let items: Vec<u64> = (0..100).collect();
        assert_eq!(each(4, &items, |&i| Ok(2 * i)).unwrap(), items.iter().map(|i| 2 * i).collect::<Vec<_>>());
        let seen = AtomicU64::new(0);
        let failed = each(1, &items, |&i| {
            seen.fetch_add(1, Ordering::Relaxed);
            if i == 3 { fail!("three") } else { Ok(()) }
        });
        assert_eq!(failed.unwrap_err().to_string(), "three");
        assert_eq!(seen.load(Ordering::Relaxed), 4);
        assert!(each(4, &[] as &[u64], |_| Ok(())).unwrap().is_empty());
    }
}
