//! `wootz pull`, and models of the hub in every command, from end to end: against a server of the tests' own.
#![cfg(feature = "hub")]

mod common;
#[path = "../crates/hub/tests/server/mod.rs"]
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Folder, fixtures, text};
use serde_json::Value;
use server::{COMMIT, Fault, Hub, Part, SIGNATURE, noise};

/// The program, with a hub and a cache of its own.
fn wootz(hub: &Hub, folder: &Folder, args: &[&str]) -> Command {
    let mut command = common::command(folder, args);
    for name in [
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HUB_OFFLINE",
    ] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", folder.path("hf")).stdin(Stdio::null());
    command
}

fn run(hub: &Hub, folder: &Folder, args: &[&str]) -> Output {
    wootz(hub, folder, args).output().expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn success(hub: &Hub, folder: &Folder, args: &[&str]) -> String {
    let output = run(hub, folder, args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(hub: &Hub, folder: &Folder, args: &[&str]) -> Value {
    serde_json::from_str(&success(hub, folder, args)).expect("JSON")
}

fn failure(hub: &Hub, folder: &Folder, args: &[&str]) -> String {
    let output = run(hub, folder, args);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
    assert!(output.stdout.is_empty() && !message.contains("panicked"), "{args:?}: {message}");
    message
}

/// Puts the files of a folder onto the hub; weights as large files.
fn publish(hub: &Hub, repo: &str, folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("a file").path();
        if path.is_file() {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
            let is_large = [".safetensors", ".gguf"].iter().any(|ending| name.ends_with(ending));
            hub.add(repo, &name, fs::read(&path).expect("readable"), is_large);
        }
    }
}

const PROMPT: [&str; 6] = ["-p", "The king said", "-n", "4", "-t", "0"];

#[test]
fn a_model_is_pulled_and_then_runs_offline() {
    let (hub, folder) = (Hub::start(), Folder::new("pull-model"));
    for name in ["llama-micro", "qwen3-sharded"] {
        let local = fixtures().join(name);
        publish(&hub, &format!("models/org/{name}"), &local);
        let id = format!("org/{name}");
        let result = json(&hub, &folder, &["pull", &id, "--json"]);
        let path = PathBuf::from(result["path"].as_str().expect("a path"));
        assert_eq!(path, folder.path("hf/hub").join(format!("models--org--{name}/snapshots")).join(COMMIT));
        let bytes = fs::read(path.join("config.json")).expect("the config");
        assert_eq!(bytes, fs::read(local.join("config.json")).expect("the config"));
        assert_eq!((result["commit"].as_str(), result["kind"].as_str()), (Some(COMMIT), Some("model")));
        let files = result["files"].as_array().expect("files");
        let verified = |name: &str| files.iter().find(|f| f["name"] == name).map(|f| f["verified"].clone());
        assert_eq!(verified("config.json"), Some("git-sha1".into()));
        assert!(files.iter().any(|f| f["verified"] == "sha256"), "{result}");
        assert_eq!(result["downloaded_bytes"], result["bytes"]);

        hub.requests();
        let expected = success(&hub, &folder, &[&["generate", text(&local)], &PROMPT[..]].concat());
        let offline = success(&hub, &folder, &[&["generate", &id, "--offline"], &PROMPT[..]].concat());
        assert_eq!(offline, expected);
        // What is there is taken as it is: the hub is not asked.
        assert_eq!(success(&hub, &folder, &[&["generate", &id], &PROMPT[..]].concat()), expected);
        assert!(hub.requests().is_empty());
        let again = run(&hub, &folder, &["pull", &id]);
        assert_eq!(String::from_utf8_lossy(&again.stdout).trim_end(), text(&path));
        assert!(stderr(&again).contains("of which 0 bytes were downloaded"), "{}", stderr(&again));
    }
}

#[test]
fn a_model_that_is_not_there_is_downloaded_where_it_is_named() {
    let (hub, folder) = (Hub::start(), Folder::new("pull-named"));
    let local = fixtures().join("llama-micro");
    publish(&hub, "models/org/micro", &local);
    let offline = failure(&hub, &folder, &["--offline", "generate", "org/micro", "-p", "a"]);
    assert!(offline.contains("wootz pull org/micro") && offline.contains("models--org--micro"), "{offline}");
    let output =
        wootz(&hub, &folder, &["generate", "org/micro", "-p", "a"]).env("HF_HUB_OFFLINE", "1").output();
    assert!(stderr(&output.expect("starts")).contains("wootz pull org/micro"));
    assert!(hub.requests().is_empty());

    // Who wants text only gets no weights.
    let ids = success(&hub, &folder, &["tokenizer", "encode", "org/micro", "The king said"]);
    assert_eq!(ids, success(&hub, &folder, &["tokenizer", "encode", text(&local), "The king said"]));
    assert!(hub.requests().iter().all(|request| request.part != Part::Storage));
    let partial = failure(&hub, &folder, &["--offline", "generate", "org/micro", "-p", "a"]);
    assert!(partial.contains("is missing"), "{partial}");

    let output = run(&hub, &folder, &[&["generate", "org/micro"], &PROMPT[..]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let expected = success(&hub, &folder, &[&["generate", text(&local)], &PROMPT[..]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert!(stderr(&output).contains("org/micro:"), "{}", stderr(&output));

    let message = failure(&hub, &folder, &["generate", "org/none", "-p", "a"]);
    assert!(message.contains("no file or folder") && message.contains("no such model"), "{message}");
    hub.requests();
    fs::create_dir(folder.path("runs")).expect("a folder");
    let message = failure(&hub, &folder, &["generate", "runs/typo", "-p", "a"]);
    assert!(message.contains("in the folder runs") && message.contains("wootz pull runs/typo"), "{message}");
    let message = failure(&hub, &folder, &["generate", "org/none.gguf", "-p", "a"]);
    assert!(message.contains("no such file") && hub.requests().is_empty(), "{message}");
}

#[test]
fn adapters_and_gguf_models_come_from_the_hub_too() {
    let (hub, folder) = (Hub::start(), Folder::new("pull-adapter"));
    let base = fixtures().join("llama-micro");
    publish(&hub, "models/org/base", &base);
    let adapters =
        fs::read_dir(base.join("adapters")).expect("adapters").map(|entry| entry.expect("one").path());
    let adapter =
        adapters.filter(|path| path.join("adapter_model.safetensors").is_file()).min().expect("an adapter");
    publish(&hub, "models/org/adapter", &adapter);
    let with = |model: &str, adapter: &str| {
        success(&hub, &folder, &[&["generate", model, "--adapter", adapter], &PROMPT[..]].concat())
    };
    assert_eq!(with("org/base", "org/adapter:2.5"), with(text(&base), &format!("{}:2.5", text(&adapter))));
    let message = failure(&hub, &folder, &["generate", "org/adapter", "-p", "a"]);
    assert!(message.contains("is an adapter") && message.contains("--adapter org/adapter"), "{message}");

    let made = folder.path("made.gguf");
    success(&hub, &folder, &["export", text(&base), text(&made), "--dtype", "f16"]);
    let bytes = fs::read(&made).expect("a model");
    hub.add("models/org/gguf", "small-F16.gguf", bytes.clone(), true);
    hub.add("models/org/gguf", "small-BF16.gguf", "another", true);
    let message = failure(&hub, &folder, &["generate", "org/gguf", "-p", "a"]);
    assert!(message.contains("small-F16.gguf") && message.contains("small-BF16.gguf"), "{message}");
    let expected = success(&hub, &folder, &[&["generate", text(&made)], &PROMPT[..]].concat());
    assert_eq!(success(&hub, &folder, &[&["generate", "org/gguf:f16"], &PROMPT[..]].concat()), expected);
    // The only one that is in the cache needs no choice.
    assert_eq!(
        success(&hub, &folder, &[&["generate", "org/gguf", "--offline"], &PROMPT[..]].concat()),
        expected
    );
    let path = success(&hub, &folder, &["pull", "org/gguf:F16", "--quiet"]);
    assert_eq!(fs::read(path.trim_end()).expect("the path of the model"), bytes);
}

#[test]
fn files_patterns_and_data_sets() {
    let (hub, folder) = (Hub::start(), Folder::new("pull-files"));
    for name in ["config.json", "data/a.jsonl", "data/b.jsonl", "data/c.txt"] {
        hub.add("datasets/org/data", name, name, false);
    }
    let names = |args: &[&str]| {
        let result = json(&hub, &folder, &[&["pull", "org/data", "--dataset", "--json"], args].concat());
        let files = result["files"].as_array().expect("files").clone();
        files.iter().map(|f| f["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["--include", "*.jsonl", "--exclude", "*b*"]), ["data/a.jsonl"]);
    assert_eq!(names(&["data/c.txt", "config.json"]), ["config.json", "data/c.txt"]);
    assert_eq!(names(&["--revision", "v1"]).len(), 4);
    let one = success(&hub, &folder, &["pull", "org/data", "data/a.jsonl", "--dataset", "-q"]);
    assert_eq!(fs::read_to_string(one.trim_end()).expect("the file"), "data/a.jsonl");
    assert!(failure(&hub, &folder, &["pull", "org/data"]).contains("no such model"));
    assert!(failure(&hub, &folder, &["pull", "data"]).contains("ORGANISATION/NAME"));
    assert!(failure(&hub, &folder, &["pull", "org/data@v1", "--revision", "v1"]).contains("--revision"));
    assert!(failure(&hub, &folder, &["pull", "org/data:Q4_0", "x.gguf"]).contains("colon"));
    let wrong = run(&hub, &folder, &["pull", "org/data", "x", "--include", "y"]);
    assert_eq!(wrong.status.code(), Some(2));
}

/// Bytes in the file that is being downloaded.
fn incomplete(folder: &Folder, repo: &str) -> Option<u64> {
    let blobs = fs::read_dir(folder.path("hf/hub").join(repo).join("blobs")).ok()?;
    let part = blobs.flatten().find(|entry| entry.path().extension().is_some_and(|e| e == "incomplete"))?;
    part.metadata().ok().map(|m| m.len())
}

#[test]
fn a_download_that_was_killed_goes_on_where_it_was() {
    let (hub, folder) = (Hub::start(), Folder::new("pull-killed"));
    let weights = noise(4 << 20);
    hub.add("models/org/big", "config.json", "{}", false);
    hub.add("models/org/big", "model.safetensors", weights.clone(), true);
    hub.fail(Part::Storage, "model", 1, Fault::Slow(16 << 10));
    let mut child = wootz(&hub, &folder, &["pull", "org/big"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    while incomplete(&folder, "models--org--big").is_none_or(|bytes| bytes < 500_000) {
        assert!(child.try_wait().expect("a state").is_none(), "it ended before it could be killed");
        std::thread::yield_now();
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    let there = incomplete(&folder, "models--org--big").expect("a part");
    assert!((500_000..4 << 20).contains(&there), "{there}");
    hub.requests();
    let result = json(&hub, &folder, &["pull", "org/big", "--json"]);
    assert_eq!(Hub::sent(&hub.requests(), "/storage") as u64, (4 << 20) - there);
    assert_eq!(result["downloaded_bytes"].as_u64(), Some((4 << 20) - there));
    let path = Path::new(result["path"].as_str().expect("a path")).join("model.safetensors");
    assert!(fs::read(path).expect("the weights") == weights);
    assert_eq!(incomplete(&folder, "models--org--big"), None);
}

#[test]
fn two_programs_at_once_download_once() {
    let (hub, folder) = (Hub::start(), Folder::new("pull-two"));
    let weights = noise(2 << 20);
    hub.add("models/org/big", "config.json", "{}", false);
    hub.add("models/org/big", "model.safetensors", weights.clone(), true);
    hub.fail(Part::Storage, "model", 1, Fault::Slow(32 << 10));
    let start =
        || wootz(&hub, &folder, &["pull", "org/big"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let programs = [start().expect("starts"), start().expect("starts")];
    for program in programs {
        let output = program.wait_with_output().expect("ends");
        assert!(output.status.success(), "{}", stderr(&output));
        let path = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        assert!(fs::read(Path::new(&path).join("model.safetensors")).expect("the weights") == weights);
    }
    assert_eq!(Hub::sent(&hub.requests(), "/storage"), 2 << 20);
}

#[test]
fn secrets_are_not_printed_and_do_not_travel() {
    let (hub, folder) = (Hub::start(), Folder::new("pull-secret"));
    hub.add("models/org/big", "config.json", "{}", false);
    hub.add("models/org/big", "model.safetensors", noise(300_000), true);
    hub.demand_token("hf_secret");
    let pull = |token: &str| {
        wootz(&hub, &folder, &["pull", "org/big"]).env("HF_TOKEN", token).output().expect("starts")
    };
    let wrong = stderr(&pull("hf_wrong"));
    assert!(wrong.contains("token") && !wrong.contains("hf_wrong"), "{wrong}");
    assert!(failure(&hub, &folder, &["pull", "org/big"]).contains("HF_TOKEN"));
    hub.fail(Part::Storage, "model", 1, Fault::Cut(100_000));
    hub.fail(Part::Storage, "model", 1, Fault::WrongByte);
    let output = pull("hf_secret");
    let said = stderr(&output);
    assert!(said.contains("checksum") && said.contains("at byte 100000"), "{said}");
    assert!(!said.contains("hf_secret") && !said.contains(SIGNATURE), "{said}");
    // From the file that other programs write it to.
    fs::write(folder.path("hf/token"), "hf_secret\n").expect("a token");
    success(&hub, &folder, &["pull", "org/big"]);
    for request in hub.requests() {
        assert!(request.part != Part::Storage || request.token.is_none(), "{request:?}");
    }
}
