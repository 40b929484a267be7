//! `wootz data view --model`: samples to fine-tune on, from end to end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

fn model() -> String {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let fixtures = std::env::var_os("WOOTZ_FIXTURES").map_or(own.into(), PathBuf::from);
    fixtures.join("qwen3-micro").to_str().unwrap().to_owned()
}

/// A folder that is removed when it goes out of scope.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wootz-cli-sft-data-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn lines(&self, name: &str, lines: &[Value]) -> String {
        self.file(name, lines.iter().map(|line| format!("{line}\n")).collect::<String>())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A run without colours of the environment's, and what it said.
fn wootz(args: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_wootz")).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{args:?}: {said}");
    (output, said)
}

/// What a run that must succeed wrote to stdout.
fn success(args: &[&str]) -> String {
    let (output, said) = wootz(args);
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn failure(code: i32, args: &[&str]) -> String {
    let (output, said) = wootz(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(output.stdout.is_empty(), "{args:?}");
    said
}

fn talk() -> Value {
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    json!({"messages": [
        message("user", "Hi"), message("assistant", "Hello."), message("user", "Bye"), message("assistant", "See you."),
    ]})
}

#[test]
fn what_is_learnt_stands_in_brackets() {
    let (folder, model) = (Folder::new(), model());
    let lines = [talk(), json!({"prompt": "1 + 1", "completion": " = 2"}), json!({"text": "a story"})];
    let file = folder.lines("a.jsonl", &lines);
    let view = |more: &[&str]| success(&[&["data", "view", &file, "--model", &model], more].concat());
    let shown = view(&[]);
    for expected in [
        "samples                 3",
        "a.jsonl:1, ",
        "<|im_start|>assistant\n⟦Hello.<|im_end|>⟧\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n⟦See you.<|im_end|>⟧",
        "1 + 1⟦ = 2<|im_end|>⟧",
        "learnt tokens",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(!shown.contains('\x1b'), "no colours where there is no terminal: {shown}");
    let last = view(&["--train-on", "completion", "-n", "1"]);
    assert!(last.contains("Hello.<|im_end|>") && last.contains("⟦See you.<|im_end|>⟧"), "{last}");
    assert!(!last.contains("⟦Hello") && !last.contains("--- 2"), "{last}");
    assert!(view(&["--train-on", "all"]).contains("⟦user"));

    let template = folder.file("t.jinja", "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}");
    let shown = view(&["--template", &template, "--no-color", "-n", "1"]);
    assert!(shown.contains("Hi<|im_end|>⟦Hello.<|im_end|>⟧Bye<|im_end|>⟦See you.<|im_end|>⟧"), "{shown}");
}

#[test]
fn the_result_is_one_object() {
    let (folder, model) = (Folder::new(), model());
    folder.lines("a.jsonl", &[talk()]);
    folder.lines("b.jsonl", &[json!({"text": "a story"}), json!({"prompt": "a ", "completion": "story"})]);
    let all = folder.0.to_str().unwrap();
    let output = success(&["data", "view", all, "--model", &model, "--json", "-n", "2", "--tokens", "4"]);
    let result: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((&result["samples"], &result["straddled"], &result["bad"]), (&3.into(), &1.into(), &0.into()));
    let shown = result["shown"].as_array().unwrap();
    assert_eq!(shown.len(), 2);
    assert_eq!(
        (shown[0]["ids"].as_array().unwrap().len(), &shown[0]["text"]),
        (4, &json!("<|im_start|>user\n"))
    );
    assert!(shown[1]["place"].as_str().unwrap().ends_with("b.jsonl:1"));
    let learnt = |value: &Value| value["learnt_tokens"].as_u64().unwrap();
    assert!(learnt(&result) > learnt(&shown[0]) + learnt(&shown[1]));

    // Tokens that were made before.
    let golden = Path::new(&model).join("golden.safetensors");
    let output = success(&["data", "view", golden.to_str().unwrap(), "--model", &model, "--json"]);
    let result: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(
        (&result["samples"], &result["tokens"], &result["learnt_tokens"]),
        (&2.into(), &98.into(), &96.into())
    );
}

#[test]
fn what_cannot_be_learnt_is_named_and_left_out_if_asked() {
    let (folder, model) = (Folder::new(), model());
    let bad = json!({"messages": [{"role": "gpt", "content": "x"}]}).to_string();
    let file = folder
        .file("a.jsonl", format!("{}\n{bad}\nno JSON\n{}\n", talk(), json!({"text": "long ".repeat(99)})));
    let message = failure(1, &["data", "view", &file, "--model", &model]);
    assert!(message.contains("a.jsonl:2: message 1: role \"gpt\" is not known"), "{message}");
    assert!(message.contains("--skip-bad"), "{message}");
    let args = ["data", "view", &file, "--model", &model, "--skip-bad", "--max-tokens"];
    let (output, said) = wootz(&[&args[..], &["60"]].concat());
    assert!(output.status.success(), "{said}");
    for expected in ["left out: ", "a.jsonl:3: is no JSON", "1 samples were cut"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let message = failure(1, &[&args[..], &["3", "--truncation", "refuse"]].concat());
    assert!(message.contains("no samples to learn from: 4 were read, 4 of them are bad"), "{message}");
    let message = failure(1, &[&args[..], &["1"]].concat());
    assert!(message.contains("at least 2"), "{message}");
}

#[test]
fn wrong_usage_is_explained() {
    let (folder, model) = (Folder::new(), model());
    let file = folder.lines("a.jsonl", &[talk()]);
    let view = ["data", "view", &file, "--model", &model];
    let message = failure(2, &[&view[..], &["--train-on", "me"]].concat());
    assert!(message.contains("assistant") && message.contains("completion"), "{message}");
    assert!(failure(2, &[&view[..], &["--truncation", "x"]].concat()).contains("refuse"));
    assert!(failure(2, &[&view[..], &["--tokenizer", "gpt2"]].concat()).contains("--model"));
    // A model that has no template.
    let gpt2 = Path::new(&model).with_file_name("gpt2-micro");
    let message = failure(1, &["data", "view", &file, "--model", gpt2.to_str().unwrap()]);
    assert!(message.contains("a.jsonl:1") && message.contains("--template"), "{message}");
    let text = folder.file("a.txt", "text");
    assert!(failure(1, &["data", "view", &text, "--model", &model]).contains("expected samples in .jsonl"));
}
