//! One file: from an address to `ETAG.incomplete`, going on where an earlier try ended.
//!
//! What is in `ETAG.incomplete` is always the beginning of the file, so that whoever goes on needs its length only. A large
//! file comes over several connections: each fetches a segment of some MiB into memory, and one writer puts them into the
//! file in order, hashing what it writes.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

use crate::checksum::{self, Checksum, Verified};
use crate::client::{Client, Metadata, etag_of};
use crate::error::{Context, Error, Result, fail};
use crate::http::{Answer, Ask, Failure, Waiting, text};
use crate::name::Repo;
use crate::url::{Origin, shown};

/// What one connection fetches before it takes the next.
pub const SEGMENT: u64 = 8 << 20;
/// What is read at once.
const CHUNK: usize = 128 << 10;
/// Bytes that count as progress: a connection that brings fewer each time has failed all the same.
const PROGRESS: u64 = 64 << 10;
/// How often a file is begun again because the server cannot go on in the middle of it.
const RESTARTS: u32 = 5;

/// A file to be downloaded.
pub struct Source<'a> {
    /// Who asks.
    pub client: &'a Client,
    /// Whose file it is.
    pub repo: &'a Repo,
    /// At which commit.
    pub commit: &'a str,
    /// Its name.
    pub file: &'a str,
    /// What the hub has said of it.
    pub metadata: &'a Metadata,
    /// Bytes that are there, of all files.
    pub done: &'a Done<'a>,
    /// Told before each wait.
    pub waiting: &'a Waiting<'a>,
    /// Where the hub has redirected to, if that is another host: valid for a while.
    pub location: Mutex<Option<String>>,
}

/// Counts bytes.
pub struct Done<'a> {
    bytes: AtomicU64,
    tell: &'a (dyn Fn(u64) + Sync),
}

impl<'a> Done<'a> {
    /// From 0; each change is told.
    pub fn new(tell: &'a (dyn Fn(u64) + Sync)) -> Done<'a> {
        Done { bytes: AtomicU64::new(0), tell }
    }

    /// More are there.
    pub fn add(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        (self.tell)(before.saturating_add(bytes));
    }

    /// Some were of no use.
    fn take_back(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        (self.tell)(before.saturating_sub(bytes));
    }
}

/// What came of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How the bytes were checked.
    pub verified: Verified,
    /// Bytes that came over the network, and were kept.
    pub fetched: u64,
}

/// Why a stretch of a file did not come.
enum Stop {
    /// The server sends files whole and not in parts.
    NoRanges,
    /// Nobody waits for it any more.
    Abandoned,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Failed(error.into())
    }
}

/// Downloads what is missing of the file, over so many connections, and checks the whole.
///
/// # Errors
/// The network or the disk: what has come stays for the next time. A wrong length or checksum: it is removed.
pub fn download(source: &Source<'_>, incomplete: &Path, connections: usize) -> Result<Outcome> {
    let mut part = Part::open(incomplete, source)?;
    let resumed = part.length > 0;
    part.fill(source, connections)?;
    let mut fetched = part.fetched;
    let verified = match part.verify() {
        Err(error) if resumed => {
            // What an earlier try left may be what is wrong: once more, without it.
            (source.waiting)(&error, std::time::Duration::ZERO);
            let mut part = Part::open(incomplete, source)?;
            part.fill(source, connections)?;
            fetched = part.fetched;
            part.verify()
        }
        other => other,
    };
    Ok(Outcome { verified: verified?, fetched })
}

/// The beginning of a file.
struct Part<'a, 'b> {
    source: &'a Source<'b>,
    path: &'a Path,
    file: File,
    length: u64,
    fetched: u64,
    checksum: Checksum,
}

impl<'a, 'b> Part<'a, 'b> {
    /// What there is, hashed.
    fn open(path: &'a Path, source: &'a Source<'b>) -> Result<Part<'a, 'b>> {
        let cannot = || format!("{}: cannot open", path.display());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .context(cannot)?;
        let Metadata { etag, size } = source.metadata;
        let mut part =
            Part { source, path, file, length: 0, fetched: 0, checksum: Checksum::new(etag, *size) };
        if part.file.metadata().context(cannot)?.len() > *size {
            part.restart()?;
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = part.file.read(&mut buffer).context(|| format!("{}: cannot read", path.display()))?;
            if n == 0 {
                break;
            }
            part.checksum.update(&buffer[..n]);
            part.length += n as u64;
        }
        source.done.add(part.length);
        Ok(part)
    }

    /// Throws away what there is.
    fn restart(&mut self) -> Result<()> {
        self.source.done.take_back(self.length);
        let Metadata { etag, size } = self.source.metadata;
        self.checksum = Checksum::new(etag, *size);
        (self.length, self.fetched) = (0, 0);
        let empty = || self.file.set_len(0).and_then(|()| (&self.file).seek(SeekFrom::Start(0)));
        empty().map(|_| ()).context(|| format!("{}: cannot empty", self.path.display()))
    }

    /// Adds bytes.
    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).context(|| format!("{}: cannot write", self.path.display()))?;
        self.checksum.update(bytes);
        self.length += bytes.len() as u64;
        self.fetched += bytes.len() as u64;
        self.source.done.add(bytes.len() as u64);
        Ok(())
    }

    /// Fetches the rest.
    fn fill(&mut self, source: &Source<'_>, connections: usize) -> Result<()> {
        let size = source.metadata.size;
        let mut connections = connections;
        for _ in 0..RESTARTS {
            let left = self.length..size;
            let filled = if connections > 1 && size.saturating_sub(self.length) > 2 * SEGMENT {
                self.fill_in_segments(source, left, connections)
            } else {
                source.fetch(left, &mut |bytes| Ok(self.push(bytes)?))
            };
            match filled {
                Ok(()) => return Ok(()),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::NoRanges | Stop::Abandoned) => {
                    self.restart()?;
                    connections = 1;
                }
            }
        }
        fail!(
            "{}: the connection broke {RESTARTS} times, and the server cannot go on in the middle of a file",
            source.address()
        )
    }

    /// Fetches it over several connections. Workers take segments in order, and hand each a queue of its bytes; the queues
    /// come here in order too. Fewer than two segments a connection are in memory.
    fn fill_in_segments(
        &mut self,
        source: &Source<'_>,
        left: Range<u64>,
        connections: usize,
    ) -> Result<(), Stop> {
        let (queues, in_order) = sync_channel(connections.saturating_sub(1));
        let next = Mutex::new((left.start, queues));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..connections {
                scope.spawn(|| work(source, &next, left.end, &is_over));
            }
            let result = self.write_in_order(&in_order, left.end);
            is_over.store(true, Ordering::Relaxed);
            // Workers that wait to hand over a queue find that nobody takes it.
            drop(in_order);
            result
        })
    }

    fn write_in_order(&mut self, in_order: &Receiver<Receiver<Piece>>, end: u64) -> Result<(), Stop> {
        while self.length < end {
            // Without a worker there is nobody left to hand over more.
            let queue = in_order.recv().map_err(|_| Stop::Abandoned)?;
            for piece in queue {
                self.push(&piece?)?;
            }
        }
        Ok(())
    }

    /// Compares length and checksum with what the hub says; removes the file if they are wrong.
    fn verify(self) -> Result<Verified> {
        let Part { path, file, checksum, length, source, .. } = self;
        let expected = source.metadata.size;
        let check = || {
            if length != expected {
                fail!("expected {expected} bytes, found {length}");
            }
            checksum.verify()
        };
        match check() {
            Ok(verified) => {
                // The name says that it is whole, and has to be true after a power failure too.
                file.sync_all().context(|| format!("{}: cannot write", path.display()))?;
                Ok(verified)
            }
            Err(error) => {
                drop(file);
                source.done.take_back(length);
                let removed = match std::fs::remove_file(path) {
                    Ok(()) => "what was downloaded is removed".to_owned(),
                    Err(error) => format!("{} cannot be removed: {error}", path.display()),
                };
                fail!("{}: {error}; {removed}", source.address())
            }
        }
    }
}

/// Bytes of a segment, or why there are no more.
type Piece = Result<Vec<u8>, Stop>;

/// The next byte that nobody has taken, and where queues are handed over.
type Next = Mutex<(u64, SyncSender<Receiver<Piece>>)>;

/// Fetches segments until there are no more, or something stops it.
fn work(source: &Source<'_>, next: &Next, end: u64, is_over: &AtomicBool) {
    loop {
        let (segment, pieces) = {
            let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
            let (start, queues) = &mut *next;
            if *start >= end || is_over.load(Ordering::Relaxed) {
                return;
            }
            let segment = *start..end.min(start.saturating_add(SEGMENT));
            *start = segment.end;
            let (pieces, queue): (Sender<Piece>, _) = channel();
            // Waits while enough is in memory. Nobody else may go before: queues are in the order of segments.
            if queues.send(queue).is_err() {
                return;
            }
            (segment, pieces)
        };
        let fetched = source.fetch(segment, &mut |bytes| match is_over.load(Ordering::Relaxed) {
            true => Err(Stop::Abandoned),
            false => pieces.send(Ok(bytes.to_vec())).map_err(|_| Stop::Abandoned),
        });
        if let Err(stop) = fetched {
            let _ = pieces.send(Err(stop)); // nobody listens any more: nobody wants to know
            return;
        }
    }
}

impl Source<'_> {
    /// Where it comes from, for messages.
    fn address(&self) -> String {
        shown(&self.client.address(self.repo, self.commit, self.file))
    }

    /// Fetches a stretch of the file, with as many requests as it takes.
    fn fetch(&self, range: Range<u64>, take: &mut dyn FnMut(&[u8]) -> Result<(), Stop>) -> Result<(), Stop> {
        let mut at = range.start;
        let mut tries = self.client.http().tries();
        while at < range.end {
            let before = at;
            let stopped = match self.ask(at..range.end) {
                Ok(answer) => self.read(answer, &mut at, range.end, take)?,
                Err(Broken::Stop(stop)) => return Err(stop),
                Err(Broken::Failure(failure)) => Some(failure),
            };
            if at - before >= PROGRESS {
                tries.progressed();
            }
            if let Some(failure) = stopped {
                *self.location.lock().unwrap_or_else(PoisonError::into_inner) = None;
                tries.failed(failure, self.waiting)?;
            }
        }
        Ok(())
    }

    /// Takes bytes until the stretch is there or the connection ends, which is told.
    fn read(
        &self,
        answer: Answer,
        at: &mut u64,
        end: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Stop>,
    ) -> Result<Option<Failure>, Stop> {
        let from = shown(&answer.url);
        let mut body = answer.body.into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; CHUNK];
        while *at < end {
            let most = buffer.len().min(usize::try_from(end - *at).unwrap_or(usize::MAX));
            let why = match body.read(&mut buffer[..most]) {
                Ok(0) => "the connection ended before the file did".to_owned(),
                Ok(n) => {
                    take(&buffer[..n])?;
                    *at += n as u64;
                    continue;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => format!("the connection broke: {error}"),
            };
            return Ok(Some(Failure::Passing(Error::new(format!("{from}: {why} (at byte {at})")), None)));
        }
        Ok(None)
    }

    /// Asks for a stretch, and makes sure that the answer is it.
    fn ask(&self, range: Range<u64>) -> Result<Answer, Broken> {
        let size = self.metadata.size;
        let is_whole = range == (0..size);
        let ask = if is_whole { Ask::Whole } else { Ask::Range(range.start, range.end) };
        let known = self.location.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let address = self.client.address(self.repo, self.commit, self.file);
        let answer = self.client.http().ask(known.as_deref().unwrap_or(&address), ask)?;
        let from = shown(&answer.url);
        let is_elsewhere = Origin::of(&answer.url) != Origin::of(&address);
        match answer.status {
            200 | 206 => {}
            // The hub allows to fetch it there, for a while: that may be over, and the hub allows it again.
            status if is_elsewhere && status != 416 => {
                return Err(Failure::Passing(
                    Error::new(format!("{from}: refused with status {status}")),
                    None,
                )
                .into());
            }
            416 => {
                let has = text(&answer.headers, "content-range").unwrap_or("fewer bytes");
                let has = crate::name::printable(has);
                return Err(
                    Error::new(format!("{from}: expected a file of {size} bytes, found {has}")).into()
                );
            }
            _ => return Err(self.client.refusal(answer, self.repo, self.commit, Some(self.file)).into()),
        }
        if known.is_none() {
            let Metadata { etag, .. } = self.metadata;
            if let Some(found) =
                etag_of(&answer).filter(|found| checksum::etag(found).is_ok_and(|found| found != *etag))
            {
                return Err(Error::new(format!(
                    "{from}: the file has changed meanwhile: expected {etag}, found {}; try again",
                    crate::name::printable(found)
                ))
                .into());
            }
            if is_elsewhere {
                *self.location.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer.url.clone());
            }
        }
        if answer.status == 200 && range.start > 0 {
            return Err(Broken::Stop(Stop::NoRanges));
        }
        if answer.status == 206 {
            let found = text(&answer.headers, "content-range").unwrap_or("none");
            let expected = format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1));
            // A server may leave the whole length out.
            let without = format!("bytes {}-{}/*", range.start, range.end.saturating_sub(1));
            if found != expected && found != without {
                let found = crate::name::printable(found);
                return Err(
                    Error::new(format!("{from}: expected {expected}, found Content-Range {found}")).into()
                );
            }
        }
        Ok(answer)
    }
}

/// Why there is no answer that can be read.
enum Broken {
    Failure(Failure),
    Stop(Stop),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Broken {
        Broken::Failure(failure)
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Broken {
        Broken::Failure(Failure::Lasting(error))
    }
}
