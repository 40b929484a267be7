//! `check`, `inspect`, `tokenizer` and `bench`, end to end.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use wootz_formats::Checkpoint;

fn fixtures() -> PathBuf {
    match std::env::var_os("WOOTZ_FIXTURES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"),
    }
}

fn wootz(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wootz")).args(args).output().expect("the program starts")
}

/// The JSON that a command prints; the command must succeed.
fn json(args: &[&str]) -> Value {
    let output = wootz(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {output:?}"))
}

/// What a command that must fail says.
fn error(args: &[&str]) -> String {
    let output = wootz(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
    stderr
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn check_passes_every_reference_parity() {
    let folder = fixtures();
    let mut cases = 0;
    for entry in std::fs::read_dir(&folder).expect("fixtures").flatten().map(|e| e.path()) {
        let reference = entry.join("golden.safetensors");
        if !entry.join("config.json").is_file() || !reference.is_file() {
            continue;
        }
        let result = json(&["check", text(&entry), "--reference", text(&reference), "--json"]);
        assert_eq!(result["passed"], true, "{}: {result}", entry.display());
        assert!(result["loss"].as_f64().is_some_and(|loss| loss > 1.0), "{result}");
        cases += 1;
    }
    assert!(cases >= 10, "{cases} references under {}", folder.display());
    let llmc = folder.join("gpt2-micro/llmc");
    let (model, state) = (llmc.join("model.bin"), llmc.join("debug_state.bin"));
    assert_eq!(json(&["check", text(&model), "--reference", text(&state), "--json"])["passed"], true);
    let gguf = folder.join("gguf/qwen3-tiny");
    let (model, reference) = (gguf.join("q4_k_m.gguf"), gguf.join("golden.safetensors"));
    for dtype in ["f32", "auto"] {
        let args = ["check", text(&model), "--reference", text(&reference), "--dtype", dtype, "--json"];
        assert_eq!(json(&args)["passed"], true, "{dtype}");
    }
}

#[test]
fn check_fails_on_another_models_reference_and_still_dumps() {
    let dump = std::env::temp_dir().join(format!("wootz-dump-{}.safetensors", std::process::id()));
    let (model, other) = (fixtures().join("qwen3-micro"), fixtures().join("qwen2-micro/golden.safetensors"));
    let message = error(&["check", text(&model), "--reference", text(&other), "--dump", text(&dump)]);
    assert!(message.contains("disagrees with"), "{message}");
    let written = Checkpoint::open(&dump).expect("the dump is written all the same");
    let want = Checkpoint::open(&fixtures().join("qwen3-micro/golden.safetensors")).expect("golden");
    let (got, want) = (written.tensor("logits").expect("logits"), want.tensor("logits").expect("logits"));
    assert_eq!(got.shape, want.shape);
    assert_eq!(written.tensor("loss").expect("loss").bytes.len(), 4);
    std::fs::remove_file(&dump).expect("the dump goes");
}

#[test]
fn check_names_what_is_wrong_with_a_reference() {
    let model = fixtures().join("qwen3-micro");
    let weights = model.join("model.safetensors");
    let message = error(&["check", text(&model), "--reference", text(&weights)]);
    assert!(message.contains("`input_ids` is missing"), "{message}");
    let golden = model.join("golden.safetensors");
    let message = error(&["check", text(&model), "--reference", text(&golden), "--logits-key", "nothing"]);
    assert!(message.contains("`nothing` is missing"), "{message}");
    let state = fixtures().join("gpt2-micro/llmc/debug_state.bin");
    let message = error(&["check", text(&model), "--reference", text(&state)]);
    assert!(message.contains("llm.c"), "{message}");
    assert!(error(&["check", text(&model), "--reference", "/nowhere"]).contains("/nowhere"));
    assert_eq!(wootz(&["check", text(&model)]).status.code(), Some(2), "no reference is wrong usage");
}

#[test]
fn check_finds_every_architecture_s_gradients_right() {
    let result = json(&["check", "--gradients", "--json"]);
    let checks = result["checks"].as_array().expect("checks");
    let names: Vec<&str> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
    let architectures: Vec<&str> = wootz_model::arch::ARCHITECTURES.iter().map(|a| a.name).collect();
    assert_eq!(names, architectures);
    assert_eq!(result["passed"], true, "{result}");
    let tolerance = result["tolerance"].as_f64().expect("tolerance");
    for check in checks {
        let rows = check["gradients"].as_array().expect("gradients");
        assert!(rows.len() > 20, "{check}");
        for row in rows {
            let compared = row["compared"].as_u64().is_some_and(|n| n > 0);
            let near = row["relative_difference"].as_f64().is_some_and(|x| x <= tolerance);
            assert!(compared && near && row["passed"] == true, "{}: {row}", check["name"]);
        }
    }
}

#[test]
fn check_of_gradients_takes_a_model_or_an_architecture() {
    let one = |target: &str| {
        let output = wootz(&["check", "--gradients", target, "--threads", "1"]);
        assert!(output.status.success(), "{target}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let (named, file) = (one("gemma3"), one(text(&fixtures().join("gemma3-micro"))));
    for output in [&named, &file] {
        assert!(output.contains("layers.1.attn_post_norm.weight"), "{output}");
        assert!(output.contains("tolerance") && output.trim_end().ends_with("passed"), "{output}");
    }
    assert!(named.contains("4 heads of 6 over 2") && file.contains("4 heads of 6 over 1"), "{named}{file}");
    assert!(one("story").contains("layers.0.gate.weight"));
    let message = error(&["check", "--gradients", "no-such"]);
    assert!(
        message.contains("no-such is no architecture (gpt2, ") && message.contains("no model"),
        "{message}"
    );
}

#[test]
fn check_says_what_it_needs() {
    let usage = |args: &[&str]| {
        let output = wootz(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let message = usage(&["check"]);
    for needed in ["--reference <FILE>", "MODEL", "wootz check --gradients [MODEL|ARCHITECTURE]"] {
        assert!(message.contains(needed), "{message}");
    }
    for other in [["--reference", "x"], ["--dump", "x"], ["--steps", "1"], ["--dtype", "f32"]] {
        let message = usage(&["check", "--gradients", "story", other[0], other[1]]);
        assert!(message.contains("cannot be used with") && message.contains(other[0]), "{message}");
    }
}

#[test]
fn inspect_tells_what_is_in_each_format() {
    let folder = fixtures();
    for (path, format) in [
        (folder.join("qwen3-sharded"), "safetensors"),
        (folder.join("gguf/qwen3-tiny/q4_k_m.gguf"), "GGUF"),
        (folder.join("gpt2-micro/llmc/model_bf16.bin"), "llm.c"),
    ] {
        let result = json(&["inspect", text(&path), "--json"]);
        let found = result["format"].as_str().unwrap_or_default();
        assert!(found.eq_ignore_ascii_case(format), "{found}, expected {format}");
        assert!(result["parameters"].as_u64().is_some_and(|n| n > 10_000), "{result}");
        assert!(result["tensors"].as_array().is_some_and(|t| t.len() > 10));
        assert!(wootz(&["inspect", text(&path)]).status.success());
    }
    assert_eq!(json(&["inspect", "story", "--json"])["tokenizer"]["size"], 1024);
    assert!(error(&["inspect", text(&folder.join("README.md"))]).contains("README.md"));
}

#[test]
fn tokenizer_encodes_and_decodes() {
    let model = fixtures().join("qwen3-micro");
    let sentence = "Grüße, 世界! <|im_end|>";
    let ids = json(&["tokenizer", "encode", text(&model), sentence, "--no-special", "--json"]);
    let ids: Vec<String> = ids["ids"].as_array().expect("ids").iter().map(Value::to_string).collect();
    let mut args = vec!["tokenizer", "decode", text(&model), "--json"];
    args.extend(ids.iter().map(String::as_str));
    assert_eq!(json(&args)["text"], sentence);
    assert!(error(&["tokenizer", "decode", text(&model), "99999999"]).contains("99999999"));
}

#[test]
fn an_instruction_set_that_is_not_there_is_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wootz"));
    let output =
        command.args(["inspect", "story"]).env("WOOTZ_ISA", "mmx").output().expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("WOOTZ_ISA=mmx") && stderr.contains("scalar"), "{stderr}");
}

#[test]
fn bench_reports_the_names_that_scripts_rely_on() {
    let args =
        ["bench", "story", "--prompt", "8", "--generate", "4", "--batch", "2", "--repeat", "1", "--json"];
    let result = json(&args);
    for key in ["prefill_tokens_per_second", "decode_tokens_per_second", "resident_bytes", "share_of_peak"] {
        assert!(result[key].as_f64().is_some_and(|x| x > 0.0), "{key}: {result}");
    }
    let model = fixtures().join("gpt2-micro");
    let message = error(&["bench", text(&model), "--prompt", "100000"]);
    assert!(message.contains("position table"), "{message}");
}
