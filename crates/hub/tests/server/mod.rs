//! A server that behaves as the hub does, with the standard library alone: its programming interface, files of git, large
//! files that lie on another port, and whatever can go wrong.
#![allow(dead_code)] // each test takes some of it

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha1::{Digest as _, Sha1};
use sha2::Sha256;

/// The commit that every repository is at.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// What the address of a large file is signed with.
pub const SIGNATURE: &str = "Signature=do-not-print";

/// Which part of the server a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The list of files.
    List,
    /// `HEAD` of a file.
    Head,
    /// `GET` of a file, at the hub.
    Get,
    /// The other port.
    Storage,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Nothing comes any more after so many bytes, but the connection stays.
    Stall(usize),
    /// So many bytes, then a pause of 5 ms, and again.
    Slow(usize),
    /// A byte is another one.
    WrongByte,
    /// Always the whole file.
    NoRanges,
    /// An answer with this status, and these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// This body, with status 200.
    Body(Vec<u8>),
}

/// A fault at requests to `part` whose path has `path` in it, for so many times.
#[derive(Clone, Debug)]
pub struct Rule {
    pub part: Part,
    pub path: &'static str,
    pub times: usize,
    pub fault: Fault,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Request {
    pub part: Part,
    pub path: String,
    pub range: Option<(u64, u64)>,
    pub token: Option<String>,
    /// Bytes of the body that were sent.
    pub sent: usize,
}

/// A file of a repository.
#[derive(Clone)]
pub struct Stored {
    pub name: String,
    pub bytes: Arc<Vec<u8>>,
    /// Lies on the other port, under its SHA-256.
    pub is_large: bool,
}

impl Stored {
    pub fn etag(&self) -> String {
        match self.is_large {
            true => hex(&Sha256::digest(&*self.bytes)),
            false => {
                let mut hash = Sha1::new_with_prefix(format!("blob {}\0", self.bytes.len()));
                hash.update(&*self.bytes);
                hex(&hash.finalize())
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default)]
struct State {
    /// By `models/ORGANISATION/NAME`.
    repos: HashMap<String, Vec<Stored>>,
    rules: Vec<Rule>,
    log: Vec<Request>,
    /// Who may see anything.
    token: Option<String>,
    storage: u16,
}

/// The server. Its threads end with the process.
pub struct Hub {
    state: Arc<Mutex<State>>,
    pub endpoint: String,
}

impl Hub {
    pub fn start() -> Hub {
        let state = Arc::new(Mutex::new(State::default()));
        let storage = listen(Arc::clone(&state), true);
        lock(&state).storage = storage;
        let hub = listen(Arc::clone(&state), false);
        Hub { state, endpoint: format!("http://127.0.0.1:{hub}") }
    }

    /// Adds a file to a repository such as `models/a/b`.
    pub fn add(&self, repo: &str, name: &str, bytes: impl Into<Vec<u8>>, is_large: bool) -> Stored {
        let file = Stored { name: name.into(), bytes: Arc::new(bytes.into()), is_large };
        lock(&self.state).repos.entry(repo.into()).or_default().push(file.clone());
        file
    }

    pub fn fail(&self, part: Part, path: &'static str, times: usize, fault: Fault) {
        lock(&self.state).rules.push(Rule { part, path, times, fault });
    }

    /// From now on nothing goes wrong.
    pub fn recover(&self) {
        lock(&self.state).rules.clear();
    }

    pub fn demand_token(&self, token: &str) {
        lock(&self.state).token = Some(token.into());
    }

    /// The requests since the last time that this was asked.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut lock(&self.state).log)
    }

    /// Bytes of this file that were sent since then.
    pub fn sent(requests: &[Request], name: &str) -> usize {
        requests.iter().filter(|r| r.path.contains(name)).map(|r| r.sent).sum()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn listen(state: Arc<Mutex<State>>, is_storage: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = Arc::clone(&state);
            std::thread::spawn(move || drop(answer(stream, &state, is_storage)));
        }
    });
    port
}

/// An answer as it is to be sent.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<Vec<u8>>,
    range: Option<(u64, u64)>,
}

fn answer(stream: TcpStream, state: &Mutex<State>, is_storage: bool) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let range = headers.get("range").and_then(|text| {
        let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().ok()?, to.parse().ok()?))
    });
    let token = headers.get("authorization").map(|text| text.trim_start_matches("Bearer ").to_owned());
    let part = match (is_storage, path.starts_with("/api/"), method.as_str()) {
        (true, _, _) => Part::Storage,
        (false, true, _) => Part::List,
        (false, false, "HEAD") => Part::Head,
        (false, false, _) => Part::Get,
    };
    let (fault, number, mut answer) = {
        let mut state = lock(state);
        let rule = state.rules.iter_mut().find(|r| r.part == part && r.times > 0 && path.contains(r.path));
        let fault = rule.map(|rule| {
            rule.times -= 1;
            rule.fault.clone()
        });
        state.log.push(Request { part, path: path.clone(), range, token: token.clone(), sent: 0 });
        let is_known = is_storage || state.token.is_none() || state.token == token;
        let answer = match is_known {
            true => route(&state, part, &path, range),
            false => refusal(401, "RepoNotFound"),
        };
        (fault, state.log.len() - 1, answer)
    };
    match &fault {
        Some(Fault::Status(status, headers)) => {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            answer = Answer { status: *status, headers, body: Arc::default(), range: None };
        }
        Some(Fault::Body(body)) => {
            answer = Answer { status: 200, headers: vec![], body: Arc::new(body.clone()), range: None };
        }
        Some(Fault::NoRanges) if answer.status == 206 => {
            answer.status = 200;
            answer.range = None;
            answer.headers.retain(|(name, _)| name != "Content-Range");
        }
        _ => {}
    }
    let mut body = match answer.range {
        Some((from, to)) => answer.body[from as usize..=to as usize].to_vec(),
        None => answer.body.to_vec(),
    };
    let mut head =
        format!("HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {}\r\n", answer.status, body.len());
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut stream = stream;
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if method == "HEAD" {
        return stream.flush();
    }
    if matches!(fault, Some(Fault::WrongByte)) {
        let middle = body.len() / 2;
        body[middle] ^= 1;
    }
    let (end, step) = match fault {
        Some(Fault::Cut(end) | Fault::Stall(end)) => (end.min(body.len()), 1 << 16),
        Some(Fault::Slow(step)) => (body.len(), step),
        _ => (body.len(), 1 << 16),
    };
    for chunk in body[..end].chunks(step) {
        stream.write_all(chunk)?;
        if let Some(request) = lock(state).log.get_mut(number) {
            request.sent += chunk.len();
        }
        if matches!(fault, Some(Fault::Slow(_))) {
            stream.flush()?;
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    if matches!(fault, Some(Fault::Stall(_))) {
        // Until the other side gives up.
        let _ = stream.read(&mut [0]);
    }
    Ok(())
}

fn refusal(status: u16, code: &str) -> Answer {
    let headers = vec![("X-Error-Code".to_owned(), code.to_owned())];
    Answer { status, headers, body: Arc::default(), range: None }
}

fn route(state: &State, part: Part, path: &str, range: Option<(u64, u64)>) -> Answer {
    let path = path.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    if part == Part::List {
        let ["api", kind, organisation, name, "revision", revision] = parts.as_slice() else {
            return refusal(404, "");
        };
        let Some(files) = state.repos.get(&format!("{kind}/{organisation}/{name}")) else {
            return refusal(404, "RepoNotFound");
        };
        if !["main", COMMIT, "v1", "refs%2Fpr%2F1"].contains(revision) {
            return refusal(404, "RevisionNotFound");
        }
        let siblings: Vec<_> = files
            .iter()
            .map(|file| serde_json::json!({"rfilename": file.name, "size": file.bytes.len()}))
            .collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        return Answer { status: 200, headers: vec![], body: Arc::new(body.into_bytes()), range: None };
    }
    // [storage/]KIND…/resolve/COMMIT/FILE
    let parts = if part == Part::Storage { &parts[1..] } else { &parts[..] };
    let (kind, parts) = match parts.first() {
        Some(&"datasets") => ("datasets", &parts[1..]),
        _ => ("models", parts),
    };
    let [organisation, name, "resolve", revision, file @ ..] = parts else { return refusal(404, "") };
    let file = file.join("/").replace("%20", " ");
    let found = state.repos.get(&format!("{kind}/{organisation}/{name}"));
    let Some(found) = found.and_then(|files| files.iter().find(|f| f.name == file)) else {
        return refusal(404, "EntryNotFound");
    };
    if *revision != COMMIT {
        return refusal(404, "RevisionNotFound");
    }
    let mut headers = Vec::new();
    let mut header = |name: &str, value: String| headers.push((name.to_owned(), value));
    if part != Part::Storage {
        header("X-Repo-Commit", COMMIT.to_owned());
    }
    if part != Part::Storage && found.is_large {
        header("X-Linked-Etag", format!("\"{}\"", found.etag()));
        header("X-Linked-Size", found.bytes.len().to_string());
        header("Location", format!("http://127.0.0.1:{}/storage{path}?{SIGNATURE}", state.storage));
        return Answer { status: 302, headers, body: Arc::default(), range: None };
    }
    // The storage has a name of its own for it.
    header(
        "ETag",
        if part == Part::Storage { "\"storage-1\"".into() } else { format!("\"{}\"", found.etag()) },
    );
    let size = found.bytes.len() as u64;
    let range = range.filter(|_| size > 0).map(|(from, to)| (from.min(size - 1), to.min(size - 1)));
    if let Some((from, to)) = range {
        header("Content-Range", format!("bytes {from}-{to}/{size}"));
    }
    Answer { status: if range.is_some() { 206 } else { 200 }, headers, body: Arc::clone(&found.bytes), range }
}

/// Bytes that are the same each time and look like none.
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}
