//! `wootz quantize`, end to end: types and sizes, what stays of a GGUF file, importances, and what it says of bad input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

fn fixture(name: &str) -> String {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let fixtures = std::env::var_os("WOOTZ_FIXTURES").map_or(own.into(), PathBuf::from);
    fixtures.join(name).to_str().unwrap().to_owned()
}

/// A folder that is removed when it goes out of scope.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wootz-quantize-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn wootz(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wootz")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn json(args: &[&str]) -> Value {
    let output = wootz(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a run that must fail wrote to stderr.
fn failure(code: i32, args: &[&str]) -> String {
    let output = wootz(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(!message.contains("panicked") && output.stdout.is_empty(), "{args:?}: {message}");
    message
}

/// The types of a GGUF file's tensors.
fn types(path: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let about = json(&["inspect", path, "--json"]);
    let tensors = about["tensors"].as_array().unwrap();
    let mut found: Vec<_> = tensors.iter().map(|t| (text(&t["name"]), text(&t["type"]))).collect();
    found.sort();
    found
}

/// llama.cpp's choice of types is in files that it wrote: ours is the same.
#[test]
fn mixtures_are_those_of_llama_cpp() {
    let folder = Folder::new();
    let mut compared = 0;
    for model in ["llama-tiny", "qwen3-tiny"] {
        for name in ["q4_k_m", "q5_k_m", "q6_k", "iq4_nl"] {
            let theirs = fixture(&format!("gguf/{model}/{name}.gguf"));
            if !Path::new(&theirs).exists() {
                continue;
            }
            let out = folder.path(&format!("{model}-{name}.gguf"));
            json(&["quantize", &theirs, &out, "--type", name, "--requantize", "--no-check", "--json"]);
            assert_eq!(types(&out), types(&theirs), "{theirs}");
            compared += 1;
        }
    }
    assert!(compared >= 4, "{compared} files compared");
}

#[test]
fn every_type_is_written_and_read_again() {
    let folder = Folder::new();
    let model = fixture("gguf/llama-tiny/q6_k.gguf");
    let mut last = f64::INFINITY;
    for (name, worst) in [
        ("F32", 1e-9),
        ("BF16", 1e-4),
        ("F16", 1e-5),
        ("Q8_0", 1e-3),
        ("Q6_K", 1e-2),
        ("Q5_K_M", 0.03),
        ("Q5_1", 0.04),
        ("Q5_0", 0.04),
        ("Q5_K_S", 0.03),
        ("Q4_1", 0.15),
        ("Q4_K_M", 0.15),
        ("Q4_K_S", 0.15),
        ("Q4_0", 0.2),
        ("IQ4_NL", 0.2),
        ("IQ4_XS", 0.2),
        ("Q3_K_L", 0.5),
        ("Q3_K_M", 0.5),
        ("Q3_K_S", 0.8),
        ("Q2_K", 2.0),
    ] {
        let out = folder.path(&format!("{name}.gguf"));
        let found = json(&["quantize", &model, &out, "--type", name, "--requantize", "--json"]);
        let kl = found["kl_mean"].as_f64().unwrap();
        assert!(kl <= worst, "{name}: divergence {kl}");
        assert!(found["same_top"].as_f64().unwrap() > 0.1, "{name}: {found}");
        let bits = found["bits_per_weight"].as_f64().unwrap();
        assert!(bits <= last * 1.15, "{name}: {bits} bits after {last}");
        last = bits;
        assert_eq!(found["bytes"].as_u64(), Some(fs::metadata(&out).unwrap().len()));
    }
}

#[test]
fn any_format_becomes_a_gguf_file() {
    let folder = Folder::new();
    for (i, model) in
        ["gpt2-micro", "gpt2-micro/llmc/model.bin", "gemma3-micro", "qwen3-sharded"].iter().enumerate()
    {
        let out = folder.path(&format!("{i}.gguf"));
        let found = json(&["quantize", &fixture(model), &out, "--type", "q8_0", "--json"]);
        assert!(found["kl_mean"].as_f64().unwrap() < 5e-3, "{model}: {found}");
        if !model.ends_with(".bin") {
            // llm.c's tokenizer cannot encode: the file has none.
            let text = json(&["generate", &out, "-p", "a", "-n", "4", "-t", "0", "--json"]);
            assert!(text["ids"].is_array(), "{model}: {text}");
        }
    }
}

#[test]
fn what_a_gguf_file_says_of_itself_stays() {
    let folder = Folder::new();
    let model = fixture("gguf/qwen3-tiny/q4_k_m.gguf");
    let out = folder.path("out.gguf");
    json(&["quantize", &model, &out, "--type", "q5_0", "--requantize", "--no-check", "--json"]);
    let metadata = |path: &str| json(&["inspect", path, "--json"])["metadata"].as_object().unwrap().clone();
    let (before, after) = (metadata(&model), metadata(&out));
    assert!(before.len() > 10);
    for (key, value) in &before {
        if key != "general.file_type" {
            assert_eq!(after.get(key), Some(value), "{key}");
        }
    }
    assert_eq!(after["general.file_type"], 8);
    assert_eq!(after["general.quantization_version"], 2);
}

#[test]
fn a_text_to_calibrate_with_lowers_the_divergence() {
    let folder = Folder::new();
    let text = folder.path("text.txt");
    // The model is random: what helps is to know its inputs, whatever the words are.
    fs::write(&text, "One day a small cat went to the sea, and the sea was not there. ".repeat(60)).unwrap();
    let (model, saved) = (fixture("gguf/llama-tiny/q6_k.gguf"), folder.path("imatrix.gguf"));
    let run = |name: &str, more: &[&str]| {
        let out = folder.path(name);
        let args = ["quantize", &model, &out, "--type", "Q3_K_S", "--requantize", "--json"];
        (json(&[&args, more].concat()), out)
    };
    let (plain, _) = run("plain.gguf", &[]);
    let (calibrated, out) = run("calibrated.gguf", &["--calibrate", &text, "--save-imatrix", &saved]);
    assert_eq!(plain["informed_tensors"], 0);
    assert!(calibrated["informed_tensors"].as_u64().unwrap() > 10, "{calibrated}");
    // From the file the same bytes come.
    let (_, again) = run("again.gguf", &["--imatrix", &saved]);
    assert!(fs::read(&out).unwrap() == fs::read(&again).unwrap());

    let (mut with, mut without) = (calibrated, plain);
    if with["compared_positions"] != without["compared_positions"] {
        // The two were compared over different texts: once more over one.
        let prompts = |name: &str, more: &[&str]| run(name, more).0;
        with = prompts("with.gguf", &["--imatrix", &saved]);
        without = prompts("without.gguf", &[]);
    }
    let kl = |found: &Value| found["kl_mean"].as_f64().unwrap();
    assert!(kl(&with) < 1.05 * kl(&without), "{with} {without}");
}

#[test]
fn models_are_quantised_while_they_are_loaded() {
    let model = fixture("qwen3-micro");
    let text = |more: &[&str]| {
        let args = ["generate", &model, "-p", "a", "-n", "4", "-t", "0", "--json"];
        json(&[&args, more].concat())
    };
    assert_eq!(text(&["--quantize", "F32"])["ids"], text(&[])["ids"]);
    assert!(text(&["--quantize", "q8_0"])["ids"].is_array());
    let message = failure(2, &["generate", &model, "-p", "a", "--quantize", "q9"]);
    assert!(message.contains("Q4_K_M"), "{message}");
}

#[test]
fn bad_input_is_explained() {
    let folder = Folder::new();
    let out = folder.path("out.gguf");
    let model = fixture("qwen3-micro");
    let quantised = fixture("gguf/llama-tiny/q6_k.gguf");
    let junk = folder.path("junk");
    fs::write(&junk, "no importances").unwrap();
    for (code, args, expected) in [
        (2, vec![&model[..], &out, "--type", "Q9"], "expected one of F32"),
        (2, vec![&model, &out], "--type"),
        (1, vec!["no/such/model", &out, "--type", "q8_0"], "no/such/model"),
        (1, vec![&quantised, &out, "--type", "q4_0"], "--requantize"),
        (1, vec![&model, &folder.path(""), "--type", "q4_0"], "is a folder"),
        (1, vec![&model, &out, "--type", "q4_0", "--imatrix", &junk], "is it a file of importances"),
        (1, vec![&model, &out, "--type", "q4_0", "--imatrix", "no/such"], "no/such"),
        (1, vec![&model, &out, "--type", "q4_0", "--calibrate", "no/such"], "no/such"),
        (2, vec![&model, &out, "--type", "q4_0", "--save-imatrix", "x"], "--calibrate"),
        (1, vec![&model, "/no/such/folder/out.gguf", "--type", "q4_0"], "/no/such/folder/out.gguf"),
    ] {
        let message = failure(code, &[&["quantize"], &args[..]].concat());
        assert!(message.contains(expected), "{args:?}: {message}");
        assert!(!Path::new(&out).exists(), "{args:?}");
    }
    fs::write(&out, "mine").unwrap();
    let message = failure(1, &["quantize", &model, &out, "--type", "q4_0"]);
    assert!(message.contains("is there already"), "{message}");
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    json(&["quantize", &model, &out, "--type", "q4_0", "--overwrite", "--json"]);
    assert_eq!(&fs::read(&out).unwrap()[..4], b"GGUF");
    let message = failure(1, &["quantize", &out, &out, "--type", "q4_0", "--overwrite", "--requantize"]);
    assert!(message.contains("is the model itself"), "{message}");
}

/// A weight that is no number is found, and named.
#[test]
fn a_weight_that_is_no_number_is_named() {
    let folder = Folder::new();
    let model = folder.0.join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(fixture("llama-micro")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
        }
    }
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let out = folder.path("out.gguf");
    let message = failure(1, &["quantize", model.to_str().unwrap(), &out, "--type", "q8_0"]);
    assert!(
        message.contains("tensor `") && message.contains("is NaN, expected a finite number"),
        "{message}"
    );
    assert_eq!(folder.names(), ["model"], "nothing is left behind");
}

/// Killed at any time, there is no file under the final name, or a whole one.
#[test]
fn a_run_that_is_killed_leaves_no_half_of_a_file() {
    let model = fixture("gguf/llama-tiny/q6_k.gguf");
    for delay in [0, 5, 10, 20, 40, 80] {
        let folder = Folder::new();
        let out = folder.path("out.gguf");
        let args =
            ["quantize", &model, &out, "--type", "q2_k", "--requantize", "--no-check", "--threads", "1"];
        let mut child = Command::new(env!("CARGO_BIN_EXE_wootz"))
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From the moment that it has begun to write.
        let deadline = Instant::now() + Duration::from_secs(30);
        while folder.names().is_empty() && Instant::now() < deadline && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        match Path::new(&out).exists() {
            true => assert_eq!(types(&out).len(), types(&model).len()),
            // What it had written has a name that nobody takes for a model.
            false => assert!(folder.names().iter().all(|name| name.starts_with('.')), "{:?}", folder.names()),
        }
    }
}
