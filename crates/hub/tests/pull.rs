//! Downloading from a server that behaves as the hub does, and from one that does not.
#![cfg(feature = "network")]

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use server::{COMMIT, Fault, Hub, Part, noise};
use wootz_hub::pull::{Options, Pulled, Retry, Verified, Watch, pull};
use wootz_hub::{Cache, Kind, Reference, Result, Selection, Settings, Token};

/// A cache that goes with the test, and who fills it.
struct User {
    folder: PathBuf,
    settings: Settings,
    notes: Mutex<Vec<String>>,
    done: Mutex<Vec<u64>>,
    all: Mutex<u64>,
}

impl User {
    fn of(hub: &Hub) -> User {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("wootz-hub-pull-{}-{n}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let settings = Settings {
            endpoint: hub.endpoint.clone(),
            cache: Cache::new(folder.join("hub"), true),
            token: None,
            offline: false,
        };
        User { folder, settings, notes: Mutex::default(), done: Mutex::default(), all: Mutex::default() }
    }

    fn with_token(hub: &Hub, token: &str) -> User {
        let mut user = User::of(hub);
        user.settings.token = Token::parse(token, "the test").unwrap();
        user
    }

    fn options(selection: Selection) -> Options {
        let retry = Retry { tries: 4, first_wait: Duration::from_millis(1) };
        Options { retry, silence: Duration::from_secs(20), ..Options::new(selection) }
    }

    fn pull_with(&self, kind: Kind, id: &str, options: &Options) -> Result<Pulled> {
        pull(&self.settings, &Reference::parse(kind, id).unwrap(), options, self)
    }

    fn pull(&self, id: &str) -> Result<Pulled> {
        let reference = Reference::parse(Kind::Model, id).unwrap();
        let selection = Selection::Model { choice: reference.choice };
        self.pull_with(Kind::Model, id, &User::options(selection))
    }

    fn error(&self, id: &str) -> String {
        format!("{:#}", self.pull(id).map(|_| ()).unwrap_err())
    }

    fn repo(&self) -> PathBuf {
        self.settings.cache.folder().join("models--a--b")
    }

    /// Every file and folder below the test's folder, links not followed.
    fn everything(&self) -> Vec<PathBuf> {
        let (mut found, mut folders) = (Vec::new(), vec![self.folder.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
                found.push(entry.path());
            }
        }
        found
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Watch for User {
    fn begin(&self, _: usize, bytes: u64) {
        *self.all.lock().unwrap() = bytes;
    }
    fn progress(&self, bytes: u64) {
        self.done.lock().unwrap().push(bytes);
    }
    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
    }
}

/// A server with a model whose weights have so many bytes.
fn with_model(bytes: usize) -> (Hub, Vec<u8>) {
    let hub = Hub::start();
    let weights = noise(bytes);
    hub.add("models/a/b", "config.json", "{}", false);
    hub.add("models/a/b", "tokenizer.json", "{\"a\": 1}", false);
    hub.add("models/a/b", "README.md", "# b", false);
    hub.add("models/a/b", "pytorch_model.bin", "pickle", true);
    hub.add("models/a/b", "model.safetensors", weights.clone(), true);
    (hub, weights)
}

fn read(pulled: &Pulled, name: &str) -> Vec<u8> {
    fs::read(pulled.snapshot.path(name)).unwrap()
}

#[test]
fn a_model_comes_into_the_cache_as_python_lays_it_out() {
    let (hub, weights) = with_model(100_000);
    hub.demand_token("hf_secret");
    let user = User::with_token(&hub, "hf_secret");
    let pulled = user.pull("a/b").unwrap();
    let names: Vec<&str> = pulled.files.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    let verified: Vec<_> = pulled.files.iter().map(|f| f.verified).collect();
    assert_eq!(verified, [Some(Verified::GitSha1), Some(Verified::Sha256), Some(Verified::GitSha1)]);
    assert_eq!(read(&pulled, "model.safetensors"), weights);
    assert_eq!((pulled.bytes(), pulled.fetched()), (100_010, 100_010));
    assert_eq!((*user.all.lock().unwrap(), user.done.lock().unwrap().last()), (100_010, Some(&100_010)));

    let repo = user.repo();
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(pulled.snapshot.folder, repo.join("snapshots").join(COMMIT));
    let blob = "9e26dfeeb6e641a33dae4961196235bdb965b21b"; // git's name of `{}`
    assert_eq!(fs::read(repo.join("blobs").join(blob)).unwrap(), b"{}");
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(pulled.snapshot.path("config.json")).unwrap(),
        Path::new("../../blobs").join(blob)
    );
    assert!(user.settings.cache.folder().join(".locks/models--a--b").join(format!("{blob}.lock")).exists());
    assert!(user.everything().iter().all(|path| !path.to_string_lossy().ends_with(".incomplete")));

    // The token goes to the hub, and not where the hub sends us.
    let requests = hub.requests();
    for request in &requests {
        let expected = (request.part != Part::Storage).then(|| "hf_secret".to_owned());
        assert_eq!(request.token, expected, "{request:?}");
    }
    assert_eq!(requests.iter().filter(|r| r.part == Part::Storage).count(), 1);

    // Nothing is fetched twice: a list is asked for, and that is all.
    let again = user.pull("a/b").unwrap();
    assert_eq!((again.fetched(), again.bytes()), (0, 100_010));
    assert!(hub.requests().iter().all(|r| r.part == Part::List));
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let (hub, weights) = with_model(1_000_000);
    for bytes in [300_000, 0, 400_000] {
        hub.fail(Part::Storage, "model.safetensors", 1, Fault::Cut(bytes));
    }
    hub.fail(Part::Get, "config.json", 2, Fault::Cut(1));
    let user = User::of(&hub);
    let pulled = user.pull("a/b").unwrap();
    assert_eq!(read(&pulled, "model.safetensors"), weights);
    let requests = hub.requests();
    let storage: Vec<_> =
        requests.iter().filter(|r| r.part == Part::Storage).map(|r| (r.range, r.sent)).collect();
    let expected = [
        (None, 300_000),
        (Some((300_000, 999_999)), 0),
        (Some((300_000, 999_999)), 400_000),
        (Some((700_000, 999_999)), 300_000),
    ];
    assert_eq!(storage, expected);
    let notes = user.notes.lock().unwrap().join("\n");
    assert!(notes.contains("at byte 300000") && notes.contains("model.safetensors"), "{notes}");
    assert!(!notes.contains("do-not-print"), "{notes}");
    assert_eq!(user.done.lock().unwrap().last(), Some(&1_000_010));
}

#[test]
fn what_an_earlier_try_left_is_not_fetched_again() {
    let (hub, weights) = with_model(1_000_000);
    hub.fail(Part::Storage, "model.safetensors", 1, Fault::Cut(600_000));
    hub.fail(Part::Storage, "model.safetensors", 9, Fault::Cut(0));
    let user = User::of(&hub);
    let error = user.error("a/b");
    assert!(error.contains("a/b: model.safetensors") && error.contains("tried 4 times"), "{error}");
    let incomplete: Vec<_> =
        user.everything().into_iter().filter(|p| p.to_string_lossy().ends_with(".incomplete")).collect();
    assert_eq!(incomplete.len(), 1);
    assert_eq!(fs::read(&incomplete[0]).unwrap(), weights[..600_000]);
    // What is not whole has no name in a snapshot.
    assert!(!user.repo().join("snapshots").join(COMMIT).join("model.safetensors").exists());
    assert!(!user.repo().join("refs/main").exists());

    hub.recover();
    hub.requests();
    let pulled = user.pull("a/b").unwrap();
    assert_eq!(read(&pulled, "model.safetensors"), weights);
    assert_eq!((Hub::sent(&hub.requests(), "/storage"), pulled.fetched()), (400_000, 400_000));
    assert!(!incomplete[0].exists());
}

#[test]
fn a_server_that_sends_whole_files_only_is_begun_again() {
    let (hub, weights) = with_model(1_000_000);
    hub.fail(Part::Storage, "model.safetensors", 1, Fault::Cut(600_000));
    hub.fail(Part::Storage, "model.safetensors", 9, Fault::NoRanges);
    let user = User::of(&hub);
    let pulled = user.pull("a/b").unwrap();
    assert_eq!(read(&pulled, "model.safetensors"), weights);
    assert_eq!(user.done.lock().unwrap().last(), Some(&1_000_010));
}

/// More than two segments.
const LARGE: usize = (20 << 20) + 12_345;

#[test]
fn a_mirror_may_send_us_to_the_hub_and_does_not_give_our_token_away() {
    let (hub, weights) = with_model(10_000);
    let (mirror, _) = with_model(10_000);
    mirror.demand_token("hf_mirror");
    for part in [Part::Head, Part::Get] {
        for name in ["config.json", "model.safetensors"] {
            let location = format!("{}/a/b/resolve/{COMMIT}/{name}", hub.endpoint);
            mirror.fail(part, name, 99, Fault::Status(308, vec![("Location", location)]));
        }
    }
    let user = User::with_token(&mirror, "hf_mirror");
    assert_eq!(read(&user.pull("a/b").unwrap(), "model.safetensors"), weights);
    assert!(mirror.requests().iter().all(|r| r.token.as_deref() == Some("hf_mirror")));
    let requests = hub.requests();
    assert!(requests.iter().all(|r| r.token.is_none()) && requests.iter().any(|r| r.part == Part::Storage));
}

#[test]
fn a_file_that_changes_meanwhile_is_not_mixed() {
    let (hub, _) = with_model(10_000);
    let other = |etag: &str| vec![("ETag", format!("\"{etag}\""))];
    hub.fail(Part::Get, "config.json", 1, Fault::Status(200, other(&"0".repeat(40))));
    let error = User::of(&hub).error("a/b");
    assert!(error.contains("changed meanwhile") && error.contains("config.json"), "{error}");
}

#[test]
fn a_large_file_comes_over_several_connections() {
    let (hub, weights) = with_model(LARGE);
    hub.fail(Part::Storage, "model.safetensors", 2, Fault::Cut(5_000_000));
    let user = User::of(&hub);
    let pulled = user.pull("a/b").unwrap();
    assert!(read(&pulled, "model.safetensors") == weights);
    let requests = hub.requests();
    assert_eq!(Hub::sent(&requests, "/storage"), LARGE);
    assert!(requests.iter().filter(|r| r.part == Part::Storage).all(|r| r.range.is_some()));
    assert_eq!(pulled.files[1].verified, Some(Verified::Sha256));

    // The same from a server without ranges, and from a beginning that an earlier try left.
    hub.fail(Part::Storage, "model.safetensors", 99, Fault::NoRanges);
    let other = User::of(&hub);
    assert!(read(&other.pull("a/b").unwrap(), "model.safetensors") == weights);
    hub.recover();
    let third = User::of(&hub);
    let etag = pulled.files[1].path.canonicalize().unwrap();
    let incomplete =
        third.repo().join("blobs").join(format!("{}.incomplete", etag.file_name().unwrap().display()));
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, &weights[..1_000_001]).unwrap();
    hub.requests();
    assert!(read(&third.pull("a/b").unwrap(), "model.safetensors") == weights);
    assert_eq!(Hub::sent(&hub.requests(), "/storage"), LARGE - 1_000_001);
}

#[test]
fn a_permission_that_runs_out_is_asked_for_again() {
    let (hub, weights) = with_model(LARGE);
    hub.fail(Part::Storage, "model.safetensors", 1, Fault::Cut(100_000));
    hub.fail(Part::Storage, "model.safetensors", 2, Fault::Status(403, vec![]));
    let user = User::of(&hub);
    assert!(read(&user.pull("a/b").unwrap(), "model.safetensors") == weights);
    assert!(hub.requests().iter().filter(|r| r.part == Part::Get && r.path.contains("model")).count() > 1);
}

#[test]
fn wrong_bytes_are_found_removed_and_told() {
    for (part, name) in [(Part::Storage, "model.safetensors"), (Part::Get, "config.json")] {
        let (hub, weights) = with_model(100_000);
        hub.fail(part, name, 1, Fault::WrongByte);
        let user = User::of(&hub);
        let error = user.error("a/b");
        assert!(
            error.contains(name) && error.contains("wrong checksum") && error.contains("removed"),
            "{error}"
        );
        assert!(user.everything().iter().all(|path| !path.to_string_lossy().ends_with(".incomplete")));
        let pulled = user.pull("a/b").unwrap();
        assert_eq!(read(&pulled, "model.safetensors"), weights);
    }
}

#[test]
fn a_beginning_that_is_damaged_is_thrown_away() {
    let (hub, weights) = with_model(100_000);
    hub.fail(Part::Storage, "model.safetensors", 1, Fault::Cut(50_000));
    hub.fail(Part::Storage, "model.safetensors", 9, Fault::Cut(0));
    let user = User::of(&hub);
    user.error("a/b");
    let incomplete =
        user.everything().into_iter().find(|p| p.to_string_lossy().ends_with(".incomplete")).unwrap();
    hub.recover();
    for damaged in [vec![7; 50_000], vec![7; 100_000], vec![7; 200_000]] {
        fs::write(&incomplete, damaged).unwrap();
        let pulled = user.pull("a/b").unwrap();
        assert_eq!(read(&pulled, "model.safetensors"), weights);
        assert_eq!(pulled.files[1].fetched, 100_000);
        fs::remove_dir_all(user.repo().join("blobs")).unwrap();
        fs::create_dir(user.repo().join("blobs")).unwrap();
    }
}

#[test]
fn trouble_that_passes_is_waited_for_and_other_trouble_is_told() {
    let (hub, weights) = with_model(10_000);
    let after = |seconds: &str| vec![("Retry-After", seconds.to_owned())];
    hub.fail(Part::List, "a/b", 1, Fault::Status(503, vec![]));
    hub.fail(Part::List, "a/b", 1, Fault::Cut(5));
    hub.fail(Part::Head, "config.json", 2, Fault::Status(429, after("0")));
    hub.fail(Part::Storage, "model", 3, Fault::Status(500, vec![]));
    let user = User::of(&hub);
    assert_eq!(read(&user.pull("a/b").unwrap(), "model.safetensors"), weights);
    let notes = user.notes.lock().unwrap().join("\n");
    assert!(
        notes.contains("status 503") && notes.contains("status 429") && notes.contains("again in"),
        "{notes}"
    );

    let other = User::of(&hub);
    hub.fail(Part::List, "a/b", 99, Fault::Status(502, vec![]));
    hub.requests();
    let error = other.error("a/b");
    assert!(error.contains("status 502") && error.contains("tried 4 times"), "{error}");
    assert_eq!(hub.requests().len(), 4);
    hub.recover();
    hub.fail(Part::List, "a/b", 1, Fault::Status(429, after("4000")));
    assert!(other.error("a/b").contains("come back in 4000 s"));
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let (hub, weights) = with_model(1_000_000);
    hub.fail(Part::Storage, "model.safetensors", 1, Fault::Stall(400_000));
    let user = User::of(&hub);
    let options =
        Options { silence: Duration::from_secs(2), ..User::options(Selection::Model { choice: None }) };
    let pulled = user.pull_with(Kind::Model, "a/b", &options).unwrap();
    assert_eq!(read(&pulled, "model.safetensors"), weights);
    assert_eq!(Hub::sent(&hub.requests(), "/storage"), 1_000_000);
}

#[test]
fn refusals_say_what_to_do() {
    let (hub, _) = with_model(100);
    let user = User::of(&hub);
    let gated =
        |code: &str| vec![("X-Error-Code", code.to_owned()), ("X-Error-Message", "ask\tfirst".to_owned())];
    let missing = user.error("a/none");
    assert!(missing.contains("no such model") && missing.contains("HF_TOKEN"), "{missing}");
    let revision = user.error("a/b@v9");
    assert!(revision.contains("no revision \"v9\""), "{revision}");
    let file = Options {
        selection: Selection::Files(vec!["x.json".into()]),
        ..User::options(Selection::Files(vec![]))
    };
    let file = format!("{:#}", user.pull_with(Kind::Model, "a/b", &file).unwrap_err());
    assert!(file.contains("\"x.json\"") && file.contains("config.json"), "{file}");
    hub.fail(Part::Head, "config.json", 1, Fault::Status(404, gated("EntryNotFound")));
    assert!(user.error("a/b").contains("no file \"config.json\""));
    hub.fail(Part::Head, "model.safetensors", 1, Fault::Status(401, gated("GatedRepo")));
    let error = user.error("a/b");
    assert!(error.contains("gated") && error.contains(&format!("{}/a/b", hub.endpoint)), "{error}");
    assert!(error.contains("HF_TOKEN") && !error.contains('\t'), "{error}");
    hub.fail(Part::Head, "model.safetensors", 1, Fault::Status(418, vec![]));
    assert!(user.error("a/b").contains("status 418"));

    hub.demand_token("right");
    let error = User::with_token(&hub, "hf_wrong").error("a/b");
    assert!(error.contains("token") && !error.contains("hf_wrong"), "{error}");
    let error = User::of(&hub).error("a/b");
    assert!(error.contains("private") && error.contains("HF_TOKEN"), "{error}");
}

#[test]
fn offline_asks_nothing() {
    let (hub, _) = with_model(100);
    let mut user = User::of(&hub);
    user.settings.offline = true;
    assert!(user.error("a/b").contains("offline"));
    assert!(hub.requests().is_empty());
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    let evil = [
        "../../../evil.safetensors",
        "/tmp/evil.safetensors",
        "a\\..\\evil.safetensors",
        "x\u{1b}[2J.safetensors",
    ];
    for name in evil {
        let hub = Hub::start();
        hub.add("models/a/b", "config.json", "{}", false);
        hub.add("models/a/b", name, "evil", true);
        let user = User::of(&hub);
        let options = User::options(Selection::Matching(vec!["*".into()]));
        let error = format!("{:#}", user.pull_with(Kind::Model, "a/b", &options).unwrap_err());
        assert!(error.contains("refused") && !error.contains('\u{1b}'), "{error}");
        // Before anything is fetched, or written.
        assert!(hub.requests().iter().all(|r| r.part == Part::List));
        assert_eq!(user.everything(), Vec::<PathBuf>::new(), "{name}");
    }
}

#[test]
fn a_server_that_is_no_hub_is_found_out() {
    let (hub, _) = with_model(100);
    let user = User::of(&hub);
    let says = |body: &str| {
        hub.fail(Part::List, "a/b", 1, Fault::Body(body.into()));
        user.error("a/b")
    };
    assert!(says("<html>log in</html>").contains("is this a hub?"));
    assert!(says(r#"{"sha": "../../../../x", "siblings": []}"#).contains("expected a commit"));
    let head = |headers: &[(&'static str, &str)], status| {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        hub.fail(Part::Head, "config.json", 1, Fault::Status(status, headers));
        user.error("a/b")
    };
    let commit = ("X-Repo-Commit", COMMIT);
    assert!(head(&[], 200).contains("X-Repo-Commit"));
    assert!(head(&[commit], 200).contains("ETag"));
    assert!(head(&[commit, ("ETag", "\"../../../x\"")], 200).contains("ETag"));
    assert!(head(&[("Location", "ftp://127.0.0.1/x")], 302).contains("no http address"));
    let itself = format!("/a/b/resolve/{COMMIT}/config.json");
    hub.fail(Part::Head, "config.json", 99, Fault::Status(307, vec![("Location", itself)]));
    assert!(user.error("a/b").contains("redirects"));
    hub.recover();
    // A list that does not end.
    hub.fail(Part::List, "a/b", 1, Fault::Body(vec![b' '; (64 << 20) + 1]));
    let error = user.error("a/b");
    assert!(error.contains("longer than"), "{error}");
}

#[test]
fn two_at_once_fetch_a_file_once() {
    let (hub, weights) = with_model(2_000_000);
    hub.fail(Part::Storage, "model.safetensors", 1, Fault::Slow(50_000));
    let user = User::of(&hub);
    let fetched: Vec<u64> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..3).map(|_| scope.spawn(|| user.pull("a/b").unwrap().fetched())).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(fetched.iter().sum::<u64>(), 2_000_010);
    let requests = hub.requests();
    assert_eq!(Hub::sent(&requests, "/storage"), 2_000_000);
    assert_eq!(
        fs::read(user.repo().join("snapshots").join(COMMIT).join("model.safetensors")).unwrap(),
        weights
    );
}

#[test]
fn one_of_several_gguf_models_a_data_set_and_patterns() {
    let hub = Hub::start();
    for name in ["m-Q4_0.gguf", "big/m-F16-00001-of-00002.gguf", "big/m-F16-00002-of-00002.gguf"] {
        hub.add("models/a/b", name, name, true);
    }
    hub.add("models/a/b", "a file.txt", "text", false);
    hub.add("datasets/a/b", "data/train file.jsonl", "{}", false);
    hub.add("datasets/a/b", "empty.txt", "", false);
    hub.add("datasets/a/b", ".gitattributes", "", false);
    let user = User::of(&hub);
    assert!(user.error("a/b").contains("say which"));
    let names = |pulled: Pulled| pulled.files.into_iter().map(|f| f.name).collect::<Vec<_>>();
    assert_eq!(names(user.pull("a/b:q4_0").unwrap()), ["m-Q4_0.gguf"]);
    assert_eq!(names(user.pull("a/b@v1:F16").unwrap()).len(), 2);
    assert_eq!(fs::read_to_string(user.repo().join("refs/v1")).unwrap(), COMMIT);
    let text = User::options(Selection::Matching(vec!["*.txt".into()]));
    let pulled = user.pull_with(Kind::Model, "a/b@refs/pr/1", &text).unwrap();
    assert_eq!(read(&pulled, "a file.txt"), b"text");
    let all = User::options(Selection::Model { choice: None });
    let pulled = user.pull_with(Kind::Dataset, "a/b", &all).unwrap();
    assert_eq!(read(&pulled, "data/train file.jsonl"), b"{}");
    assert!(pulled.snapshot.folder.starts_with(user.settings.cache.folder().join("datasets--a--b")));
    assert_eq!(names(pulled), ["data/train file.jsonl", "empty.txt"]);
}

#[test]
fn a_cache_without_links_has_files() {
    let (hub, weights) = with_model(1000);
    let mut user = User::of(&hub);
    user.settings.cache = Cache::new(user.folder.join("hub"), false);
    let pulled = user.pull("a/b").unwrap();
    assert_eq!(read(&pulled, "model.safetensors"), weights);
    assert!(!pulled.snapshot.path("model.safetensors").is_symlink());
    assert_eq!(user.pull("a/b").unwrap().fetched(), 0);
}
