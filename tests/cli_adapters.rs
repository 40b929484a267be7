//! `--adapter` and `wootz merge`, from end to end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use wootz_kernels::DType;
use wootz_kernels::exec::Weight;
use wootz_model::Model;
use wootz_model::adapter::{self, AdapterFormat, Base, WriteOptions};
use wootz_model::load::LoadOptions;
use wootz_model::lora::{Adapter, LoraOptions, Scaling};
use wootz_model::names::Part;
use wootz_model::save::Existing;
use wootz_train::run::checkpoint::Store;

fn fixtures() -> PathBuf {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    std::env::var_os("WOOTZ_FIXTURES").map_or(own.into(), PathBuf::from)
}

fn fixture(name: &str) -> String {
    fixtures().join(name).to_str().unwrap().to_owned()
}

/// A folder that is removed when it goes out of scope.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wootz-cli-adapters-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn join(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
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
    message
}

/// Ids and log-probabilities of a greedy continuation.
fn continuation(model: &str, adapters: &[&str]) -> Value {
    let mut args = vec!["generate", model, "-p", "hello", "-n", "8", "-t", "0", "--dtype", "f32", "--json"];
    args.extend(["--logprobs", "--ignore-eos"]);
    args.extend(adapters.iter().flat_map(|adapter| ["--adapter", adapter]));
    let result = json(&args);
    assert!(result["logprobs"].is_array(), "{result}");
    serde_json::json!([result["ids"], result["logprobs"]])
}

#[test]
fn an_adapter_on_the_command_line_is_at_work() {
    let (model, trained) = (fixture("llama-micro"), fixture("llama-micro/lora/trained"));
    let bare = continuation(&model, &[]);
    let with = continuation(&model, &[&trained]);
    assert_ne!(bare, with);
    assert_eq!(bare, continuation(&model, &[&format!("{trained}:0")]));
    assert_eq!(with, continuation(&model, &[&format!("{trained}:1.0")]));
    assert_eq!(with, continuation(&model, &[&trained, &format!("{trained}:0")]));
    assert_ne!(with, continuation(&model, &[&format!("{trained}:0.5")]));
    let reference = fixture("llama-micro/lora/golden.safetensors");
    let args = ["check", &model, "--reference", &reference, "--logits-key", "logits_after", "--json"];
    let result = json(&[&args[..], &["--adapter", &trained]].concat());
    assert_eq!(result["passed"], true, "{result}");
    assert_eq!(wootz(&args).status.code(), Some(1), "without the adapter the logits are others");
    success(&["bench", &model, "--adapter", &trained, "--prompt", "4", "--generate", "2", "--repeat", "1"]);
}

/// What a conversation answers, whose model gains and loses adapters on the way.
#[test]
fn adapters_are_changed_in_a_conversation() {
    let (model, trained) = (fixture("llama-micro"), fixture("llama-micro/lora/trained"));
    let args = ["chat", &model, "--plain", "-n", "8", "-t", "0", "--dtype", "f32"];
    let answer = |adapters: &[&str]| {
        let mut args =
            vec!["generate", &model, "-p", "hello", "-n", "8", "-t", "0", "--dtype", "f32", "--json"];
        args.extend(adapters.iter().flat_map(|adapter| ["--adapter", adapter]));
        json(&args)["text"].as_str().unwrap().to_owned()
    };
    let (bare, full, half) = (answer(&[]), answer(&[&trained]), answer(&[&format!("{trained}:0.5")]));
    assert!(bare != full && full != half && bare != half, "{bare} {full} {half}");
    let lines = [
        "hello".to_owned(),
        "/adapter".to_owned(),
        format!("/adapter {trained}"),
        "/clear\nhello".to_owned(),
        "/adapter no/such/adapter".to_owned(),
        format!("/adapter {trained}:0.5"),
        "/clear\nhello".to_owned(),
        "/adapter off".to_owned(),
        "/clear\nhello\n".to_owned(),
    ];
    let output = conversation(&args, &lines);
    let notes = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, format!("{bare}\n{full}\n{half}\n{bare}\n"), "{notes}");
    assert!(notes.contains("no adapter at no/such/adapter"), "{notes}");
    assert_eq!(notes.matches("no adapter is on").count(), 2, "{notes}");
    assert_eq!(notes.matches("on: ").count(), 2, "{notes}");

    // What has replaced parameters has no strength, and is not taken back.
    let (model, saved) = (fixture("qwen2-micro"), fixture("qwen2-micro/adapters/saved"));
    let lines = [
        format!("/adapter {saved}"),
        format!("/adapter {saved}:0.5"),
        format!("/adapter {saved}:1"),
        "/adapter off\n".to_owned(),
    ];
    let output = conversation(&["chat", &model, "--plain", "-n", "4", "-t", "0"], &lines);
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{notes}");
    assert!(notes.contains("has no strength but 1") && notes.contains("stay as they are"), "{notes}");
    assert_eq!((notes.matches("error:").count(), notes.matches("on: ").count()), (1, 2), "{notes}");
}

/// `wootz chat`, to which these lines are said.
fn conversation(args: &[&str], lines: &[String]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wootz"))
        .args(args)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines.join("\n").as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A run's newest checkpoint has its adapter in a folder of its own.
#[test]
fn a_run_stands_for_its_newest_adapter() {
    let run = Folder::new();
    let (model, trained) = (fixture("llama-micro"), fixtures().join("llama-micro/lora/trained"));
    fs::write(run.0.join("config.toml"), "version = \"0.1.0\"\n").unwrap();
    let run_name = run.0.to_str().unwrap();
    let generate = ["generate", &model, "-p", "x", "--adapter", run_name];
    assert!(failure(1, &generate).contains("has saved no checkpoint yet"));
    let store = Store::at(run.0.join("checkpoints"));
    store.save(5, |writer| writer.json("state.json", &5)).unwrap();
    let message = failure(1, &generate);
    assert!(message.contains("step-000005") && message.contains("holds no adapter"), "{message}");
    store.save(10, |writer| writer.json("state.json", &10)).unwrap();
    let adapter = run.0.join("checkpoints/step-000010/adapter");
    fs::create_dir_all(&adapter).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(trained.join(name), adapter.join(name)).unwrap();
    }
    assert_eq!(continuation(&model, &[run_name]), continuation(&model, &[trained.to_str().unwrap()]));
}

#[test]
fn an_adapter_that_does_not_fit_is_an_error() {
    let model = fixture("llama-micro");
    let with = |adapter: &str| failure(1, &["generate", &model, "-p", "x", "--adapter", adapter]);
    let message = with(&fixture("qwen3-micro/lora/trained"));
    assert!(message.contains("another base") && message.contains("expected ["), "{message}");
    assert!(with("no/such/adapter").contains("no adapter at no/such/adapter"));
    assert!(with(&fixture("llama-micro/lora")).contains("no adapter in this folder"));
    assert!(with(&fixture("llama-micro")).contains("no adapter in this folder"));
    assert!(with(&fixture("gguf/llama-tiny/q6_k.gguf")).contains("is this a model?"));
    let (model, saved) = (fixture("qwen2-micro"), fixture("qwen2-micro/adapters/saved"));
    let message = failure(1, &["generate", &model, "-p", "x", "--adapter", &format!("{saved}:0.5")]);
    assert!(message.contains("--adapter") && message.contains("modules_to_save"), "{message}");
}

#[test]
fn a_merged_folder_is_a_whole_model() {
    let (model, trained, folder) =
        (fixture("llama-micro"), fixture("llama-micro/lora/trained"), Folder::new());
    for name in ["hf", "m.gguf"] {
        let out = folder.join(name);
        let result = json(&["merge", &model, &out, "--adapter", &trained, "--json"]);
        assert!(result["kl_largest"].as_f64().unwrap() < 1e-8, "{result}");
        assert_eq!(result["same_top"], 1.0, "{result}");
        assert!(result["compared_positions"].as_u64().unwrap() > 50, "{result}");
        let ids = |value: Value| value[0].clone();
        assert_eq!(ids(continuation(&out, &[])), ids(continuation(&model, &[&trained])));
        assert!(failure(1, &["merge", &model, &out, "--adapter", &trained]).contains("is there already"));
        success(&["merge", &model, &out, "--adapter", &trained, "--overwrite", "--no-check"]);
    }
    assert!(Path::new(&folder.join("hf/tokenizer.json")).is_file());
    // Rounded to 16 bits, it is a little off, by the text that is given.
    let (out, text) = (folder.join("half"), folder.join("text"));
    fs::write(&text, "one two three four five").unwrap();
    let args = ["merge", &model, &out, "--adapter", &trained, "--dtype", "bf16", "--text", &text];
    let line = success(&args);
    assert!(line.contains("BF16") && line.contains("KL divergence"), "{line}");
    // `export` merges too.
    let out = folder.join("exported.gguf");
    success(&["export", &model, &out, "--adapter", &trained]);
    let bytes = |name: &str| fs::read(folder.0.join(name)).unwrap().len();
    assert_eq!(bytes("exported.gguf"), bytes("m.gguf"));
}

#[test]
fn a_quantised_base_is_kept_or_decoded_as_asked() {
    let folder = Folder::new();
    let model = fixture("gguf/llama-tiny/q5_k_m.gguf");
    let adapter = folder.join("adapter");
    make_adapter(&model, &adapter);
    let message = failure(1, &["merge", &model, &folder.join("a.gguf"), "--adapter", &adapter]);
    assert!(message.contains("--how keep") && message.contains("--how f16"), "{message}");

    let kept = folder.join("kept");
    let result = json(&["merge", &model, &kept, "--adapter", &adapter, "--how", "keep", "--json"]);
    let (base, beside) = (folder.join("kept/q5_k_m.gguf"), folder.join("kept/adapter.gguf"));
    assert_eq!(fs::read(&model).unwrap(), fs::read(&base).unwrap());
    assert!(result["kl_largest"].as_f64().unwrap() < 1e-9, "{result}");
    assert_eq!(result["adapters"][0], beside);
    assert_eq!(continuation(&base, &[&beside]), continuation(&model, &[&adapter]));
    assert_ne!(continuation(&base, &[&beside]), continuation(&base, &[]));
    assert!(failure(1, &["bench", &beside]).contains("this is an adapter, not a model"));

    let half = folder.join("half.gguf");
    let result = json(&["merge", &model, &half, "--adapter", &adapter, "--how", "f16", "--json"]);
    assert!(result["kl_largest"].as_f64().unwrap() < 1e-3, "{result}");
    let both = ["--how", "f16", "--dtype", "f32"];
    failure(2, &[&["merge", &model, &folder.join("x.gguf"), "--adapter", &adapter][..], &both].concat());
    let (plain, trained) = (fixture("llama-micro"), fixture("llama-micro/lora/trained"));
    let args = ["merge", &plain, &folder.join("y"), "--adapter", &trained, "--how", "f16"];
    assert!(failure(1, &args).contains("--dtype"));
    assert!(failure(2, &["merge", &plain, &folder.join("y")]).contains("--adapter"));
}

/// A folder with an adapter of this model that changes something.
fn make_adapter(model: &str, path: &str) {
    let model = Model::load(Path::new(model), &LoadOptions::default()).unwrap();
    let options = LoraOptions {
        rank: 4,
        alpha: 8.0,
        scaling: Scaling::Rank,
        targets: vec![Part::Q, Part::Down],
        magnitudes: false,
        dropout: 0.0,
        seed: 1,
    };
    let mut adapter = Adapter::new(model.config(), model.pool(), &options).unwrap();
    for lora in adapter.parts.values_mut() {
        let rows = lora.b.rows();
        let b: Vec<f32> = (0..rows * 4).map(|i| (i * 37 % 101) as f32 / 300.0 - 0.1).collect();
        lora.b = Weight::from_f32(model.pool(), [rows, 4], &b);
    }
    let base = Base { architecture: model.architecture(), config: model.config() };
    let options =
        WriteOptions { format: AdapterFormat::Peft, dtype: DType::F32, base: None, existing: Existing::Keep };
    adapter::write(Path::new(path), &base, &adapter, &options).unwrap();
}
