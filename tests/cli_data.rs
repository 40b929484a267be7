//! `wootz data` and `wootz tokenizer train`, from end to end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use wootz_formats::tokens::Tokens;

fn fixtures() -> PathBuf {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    std::env::var_os("WOOTZ_FIXTURES").map_or(own.into(), PathBuf::from)
}

/// A file or folder of the reference data that is not part of the repository.
fn shared(name: &str) -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared");
    let path = std::env::var_os("WOOTZ_SHARED").map_or(default.into(), PathBuf::from).join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no {} (WOOTZ_SHARED names its folder)", path.display());
    None
}

/// A folder that is removed when it goes out of scope.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wootz-cli-data-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        fs::write(self.0.join(name), contents).unwrap();
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn wootz(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wootz")).args(args).output().unwrap()
}

/// What a run that must succeed wrote to stdout.
fn success(args: &[&str]) -> String {
    let output = wootz(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&success(args)).unwrap()
}

/// What a run that must fail wrote to stderr. It may not have panicked.
fn failure(code: i32, args: &[&str]) -> String {
    let output = wootz(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(!message.contains("panicked"), "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    message
}

/// The ids of a split, as the printed result names its shards.
fn tokens(result: &Value, split: &str) -> Vec<u32> {
    let folder = Path::new(result["folder"].as_str().unwrap());
    let shards = result[split]["shards"].as_array().unwrap();
    let ids: Vec<u32> = shards
        .iter()
        .flat_map(|shard| Tokens::open(&folder.join(shard["file"].as_str().unwrap())).unwrap().to_vec())
        .collect();
    assert_eq!(result[split]["tokens"], ids.len());
    ids
}

fn encode(tokenizer: &str, text: &str) -> Vec<u32> {
    let result = json(&["tokenizer", "encode", tokenizer, text, "--no-special", "--json"]);
    result["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

const STORIES: [&str; 3] = ["Once upon a time.", "There was a café,\n\nand the end.", "Zwölf!"];

#[test]
fn prepared_shards_are_encoded_documents_with_separators() {
    let folder = Folder::new();
    let text = folder.file("a.txt", STORIES.join("\n<|endoftext|>\n"));
    let lines: Vec<String> =
        STORIES.iter().map(|story| serde_json::json!({ "story": story }).to_string()).collect();
    let lines = folder.file("b.jsonl", lines.join("\n"));
    let qwen = fixtures().join("qwen3-micro");
    for (tokenizer, mark, id_bytes) in [("gpt2", 50_256, 2), ("bytes", 0, 2), (qwen.to_str().unwrap(), 0, 2)]
    {
        let mark = if tokenizer.contains("qwen") { encode_mark(tokenizer) } else { mark };
        let mut want = Vec::new();
        for story in STORIES {
            want.push(mark);
            want.extend(encode(tokenizer, story));
        }
        for input in [&text, &lines] {
            let out = folder.path("out");
            let args =
                ["data", "prepare", input, "--tokenizer", tokenizer, "--out", &out, "--val-fraction", "0"];
            let result = json(&[&args[..], &["--json", "--overwrite", "--threads", "3"]].concat());
            assert_eq!(tokens(&result, "train"), want, "{tokenizer} {input}");
            assert_eq!((&result["documents"], &result["id_bytes"]), (&3.into(), &id_bytes.into()));
            assert!(result["tokens_per_second"].as_f64().is_some_and(|speed| speed > 0.0));
            assert_eq!(result["train"]["shards"][0]["file"], "out_train_000001.bin");
        }
    }
}

/// The id of `<|endoftext|>`, where it is read as the token that it names.
fn encode_mark(tokenizer: &str) -> u32 {
    let args =
        ["tokenizer", "encode", tokenizer, "<|endoftext|>", "--no-special", "--parse-special", "--json"];
    json(&args)["ids"][0].as_u64().unwrap() as u32
}

#[test]
fn llmc_recipe_for_shakespeare() {
    let Some(text) = shared("text/tinyshakespeare.txt") else { return };
    let folder = Folder::new();
    let out = folder.path("tinyshakespeare");
    let text_path = text.to_str().unwrap();
    let args = ["data", "prepare", text_path, "--tokenizer", "gpt2", "--blank-lines", "--val-first", "32768"];
    let result = json(&[&args[..], &["--out", &out, "--json"]].concat());
    let (val, train) = (tokens(&result, "val"), tokens(&result, "train"));
    // llm.c's `tinyshakespeare.py` writes so many.
    assert_eq!((val.len(), train.len()), (32_768, 305_260));
    assert_eq!(result["val"]["shards"][0]["file"], "tinyshakespeare_val_000000.bin");
    let all: Vec<String> =
        [val, train].concat().iter().filter(|&&id| id != 50_256).map(u32::to_string).collect();
    let ids = folder.file("ids", all.join(" "));
    let decoded = Command::new(env!("CARGO_BIN_EXE_wootz"))
        .args(["tokenizer", "decode", "gpt2"])
        .stdin(fs::File::open(ids).unwrap())
        .output()
        .unwrap();
    let want = fs::read(text).unwrap();
    assert!(decoded.stdout.strip_suffix(b"\n") == Some(&want[..]), "the text comes back");
}

#[cfg(unix)]
#[test]
fn recipes_run_and_say_what_is_missing() {
    let folder = Folder::new();
    let text = folder.file("text", STORIES.join("\n<|endoftext|>\n"));
    let recipe = |name: &str, args: &[&str]| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs").join(name);
        let mut command = Command::new(script);
        command
            .args(args)
            .env("WOOTZ", env!("CARGO_BIN_EXE_wootz"))
            .env_remove("TOKENIZER")
            .current_dir(&folder.0);
        let output = command.output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), said)
    };
    let (shakespeare, stories) = (folder.path("shakespeare"), folder.path("stories"));
    let (good, said) = recipe("tinyshakespeare.sh", &[&text, &shakespeare]);
    assert!(good && said.contains("tiny_shakespeare_val_000000.bin") && said.contains("|Once|"), "{said}");
    let (good, said) = recipe("tinystories.sh", &[&text, &text, &stories]);
    assert!(good && said.contains("stories_train_000001.bin") && said.contains("|Once|"), "{said}");
    for script in ["tinyshakespeare.sh", "tinystories.sh"] {
        let (good, said) = recipe(script, &["gone.txt"]);
        assert!(!good && said.contains("gone.txt"), "{said}");
    }
}

#[test]
fn bad_input_is_named_with_its_line() {
    let folder = Folder::new();
    let out = folder.path("out");
    let prepare = |input: &str, more: &[&str]| {
        let args = ["data", "prepare", input, "--tokenizer", "bytes", "--out", &out, "--overwrite"];
        failure(1, &[&args[..], more].concat())
    };
    let bad = folder.file("bad.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n{\n{\"text\": \"c\"}\n");
    let message = prepare(&bad, &[]);
    for expected in ["bad.jsonl:2: ", "`text`", "`txt`", "--field", "--skip-bad"] {
        assert!(message.contains(expected), "{message}");
    }
    let args = ["data", "prepare", &bad, "--tokenizer", "bytes", "--out", &out, "--skip-bad", "--json"];
    let result = json(&args);
    assert_eq!((&result["skipped"], &result["documents"]), (&2.into(), &2.into()));

    let latin = folder.file("latin.txt", b"good\nna\xEFve\n");
    let message = prepare(&latin, &[]);
    assert!(message.contains("latin.txt:2: expected UTF-8, found the byte 0xEF"), "{message}");
    assert!(prepare(&folder.path("gone.txt"), &[]).contains("gone.txt"));
    assert!(prepare(&folder.path("*.none"), &[]).contains("no file matches"));
    assert!(prepare(&folder.file("e.txt", ""), &[]).contains("no text"));
    let text = folder.file("a.txt", "a");
    assert!(prepare(&text, &["--document-token", "<nothing>"]).contains("<nothing>"));
    assert!(prepare(&text, &["--name", "a/b"]).contains("--name"));
    assert!(prepare(&text, &["--shard-tokens", "0"]).contains("0 tokens"));
    assert!(
        failure(1, &["data", "prepare", &text, "--tokenizer", "/no/such", "--out", &out])
            .contains("/no/such")
    );
    for wrong in
        [&["--val-first", "1", "--val-tokens", "1"][..], &["--val-fraction", "2"], &["--threads", "0"]]
    {
        failure(2, &[&["data", "prepare", &text, "--out", &out][..], wrong].concat());
    }
}

#[test]
fn shards_are_not_overwritten_unasked() {
    let folder = Folder::new();
    let (text, out) = (folder.file("a.txt", "one two"), folder.path("out"));
    let args = ["data", "prepare", &text, "--tokenizer", "bytes", "--out", &out];
    let output = wootz(&args);
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing is held out"));
    let summary = String::from_utf8(output.stdout).unwrap();
    assert!(summary.contains("1 document,") && summary.contains("out_train_000001.bin"), "{summary}");
    assert!(failure(1, &args).contains("--overwrite"));
    success(&[&args[..], &["--overwrite"]].concat());
    assert!(folder.0.join("out/tokenizer.json").is_file(), "the vocabulary travels with its ids");
}

#[test]
fn stories_need_no_file() {
    let folder = Folder::new();
    let out = folder.path("out");
    let args = ["data", "prepare", "stories:20", "--tokenizer", "story", "--out", &out, "--val", "stories:3"];
    let result = json(&[&args[..], &["--json"]].concat());
    let (train, val) = (tokens(&result, "train"), tokens(&result, "val"));
    assert!(train.starts_with(&val), "the first three of the same stories");
    let marks = |ids: &[u32]| ids.iter().filter(|&&id| id == result["tokenizer"]["document_token"]).count();
    assert_eq!((marks(&train), marks(&val), &result["documents"]), (20, 3, &23.into()));
    let shown = success(&["data", "view", "stories:2", "-n", "1", "--json"]);
    let text = serde_json::from_str::<Value>(&shown).unwrap()["samples"][0]["text"].clone();
    let shown = success(&["data", "view", &out, "-n", "1", "--json", "--tokens", "9999"]);
    let views: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((views.len(), &views[0]["documents"], &views[1]["documents"]), (2, &20.into(), &3.into()));
    let whole = views[1]["samples"][0]["text"].as_str().unwrap();
    assert!(whole.contains(text.as_str().unwrap()), "{whole}");
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_nothing() {
    let folder = Folder::new();
    let (out, partial) = (folder.path("out"), folder.path("out/.out.partial/out_train_000002.bin"));
    let args = ["data", "prepare", "stories:1000000000", "--tokenizer", "bytes", "--shard-tokens", "1000"];
    let mut run = Command::new(env!("CARGO_BIN_EXE_wootz"))
        .args([&args[..], &["--out", &out]].concat())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !Path::new(&partial).exists() {
        assert_eq!(run.try_wait().unwrap(), None, "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(!folder.0.join("out/out_train_000001.bin").exists(), "complete shards wait for the others");
    assert!(failure(1, &["data", "prepare", "stories:1", "--out", &out]).contains("another run"));
    let signal = Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    assert!(signal.success());
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert!(!Path::new(&out).exists());
}

#[test]
fn view_shows_token_boundaries() {
    let folder = Folder::new();
    let (text, out) = (folder.file("a.txt", STORIES.join("<|endoftext|>")), folder.path("out"));
    success(&["data", "prepare", &text, "--out", &out, "--val-fraction", "0"]);
    let shard = folder.path("out/out_train_000001.bin");
    let shown = success(&["data", "view", &shard, "-n", "2"]);
    for expected in ["llm.c shard, 16 bits", "<|endoftext|>|Once| upon| a| time|.", "--- 2", "documents "] {
        assert!(shown.contains(expected), "{shown}");
    }
    assert!(!shown.contains("--- 3"), "{shown}");
    let result = json(&["data", "view", &shard, "--json", "--tokens", "4"]);
    assert_eq!((&result["documents"], &result["largest_id"]), (&3.into(), &50_256.into()));
    assert_eq!(result["samples"][0]["text"], "<|endoftext|>Once upon a");
    assert_eq!(result["samples"][0]["more"], 2);

    // Another vocabulary than the ids are of.
    let shown = success(&["data", "view", &shard, "--tokenizer", "bytes"]);
    assert!(shown.contains("outside the vocabulary of 257 tokens") && shown.contains("<50256?>"), "{shown}");
    let output = wootz(&["data", "view", &shard, "--tokenizer", "bytes"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("made with the tokenizer gpt2"), "{message}");

    let shown = success(&["data", "view", &text, "-n", "1", "--tokenizer", "gpt2"]);
    assert!(
        shown.contains("Once| upon| a| time|.") && shown.contains("documents               3"),
        "{shown}"
    );
    let result = json(&["data", "view", &text, "--json"]);
    assert_eq!((&result["format"], &result["samples"][2]["text"]), (&"text".into(), &STORIES[2].into()));
}

#[test]
fn view_reads_every_form_of_llmc() {
    let folder = fixtures().join("gpt2-micro/llmc");
    for (file, format) in [
        ("val.bin", "llm.c shard, 16 bits"),
        ("val_uint32.bin", "llm.c shard, 32 bits"),
        ("val_legacy_int32.bin", "plain, 32 bits"),
    ] {
        let path = folder.join(file);
        let result = json(&["data", "view", path.to_str().unwrap(), "--json"]);
        assert_eq!((&result["format"], &result["tokens"]), (&format.into(), &4096.into()), "{file}");
        assert!(result["largest_id"].as_u64().unwrap() < 500);
        assert!(success(&["data", "view", path.to_str().unwrap()]).contains("--tokenizer"));
    }
    let cut = Folder::new();
    let rubbish = cut.file("rubbish.bin", [0xF0; 400]);
    let output = wootz(&["data", "view", &rubbish]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("hardly token ids"));
    let bytes = fs::read(folder.join("val.bin")).unwrap();
    let path = cut.file("cut.bin", &bytes[..5001]);
    let message = failure(1, &["data", "view", &path]);
    assert!(message.contains("cut.bin") && message.contains("4096"), "{message}");
}

#[test]
fn a_vocabulary_is_learnt_and_used() {
    let folder = Folder::new();
    let (out, again) = (folder.path("new/tokenizer.json"), folder.path("again.json"));
    let result =
        json(&["tokenizer", "train", "stories:2500", "--vocab-size", "512", "--out", &out, "--json"]);
    assert_eq!(result["vocab_size"], 512);
    assert!(result["text_bytes"].as_u64().unwrap() > 1_000_000);
    success(&["tokenizer", "train", "stories:2500", "--vocab-size", "512", "--out", &again]);
    assert_eq!(fs::read(&out).unwrap(), fs::read(&again).unwrap());

    let story = "Once upon a time there was a little dog. Ünïcode: 世界";
    let ids = encode(&out, story);
    assert!(ids.len() < story.len() && ids.iter().all(|&id| id < 512));
    let words: Vec<String> = ids.iter().map(u32::to_string).collect();
    let args: Vec<&str> =
        ["tokenizer", "decode", &out].into_iter().chain(words.iter().map(String::as_str)).collect();
    assert_eq!(success(&args), format!("{story}\n"));
    let text = folder.file("a.txt", story);
    let result =
        json(&["data", "prepare", &text, "--tokenizer", &out, "--out", &folder.path("out"), "--json"]);
    assert_eq!(tokens(&result, "train"), [&[0], &ids[..]].concat());
    assert_eq!(result["tokenizer"]["vocab_size"], 512);
    assert_eq!(fs::read(folder.path("out/tokenizer.json")).unwrap(), fs::read(&out).unwrap());

    let message = failure(1, &["tokenizer", "train", &text, "--vocab-size", "200", "--out", &again]);
    assert!(message.contains("200") && message.contains("257"), "{message}");
    assert!(failure(1, &["tokenizer", "train", &folder.path("gone"), "--out", &again]).contains("gone"));
    let empty = folder.file("empty.txt", "");
    assert!(failure(1, &["tokenizer", "train", &empty, "--out", &again]).contains("no text"));
}
