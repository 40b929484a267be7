//! `wootz export` to ONNX, end to end: every model and graph runs beside the original. More of the graphs is tested in
//! crates/model.

mod common;
mod program;

use common::{Folder, fixtures, text};
use program::{done, error, output};

#[test]
fn the_result_says_what_was_written_and_what_it_takes() {
    let folder = Folder::new("onnx");
    let out = folder.path("story.onnx");
    let result = done(&folder, &["export", "story", text(&out)]);
    assert_eq!((&result["format"], &result["graph"]), (&"onnx".into(), &"plain".into()));
    assert_eq!(result["files"], serde_json::json!([text(&out)]));
    assert_eq!(result["bytes"].as_u64(), Some(out.metadata().unwrap().len()));

    let cache = folder.path("cache.onnx");
    let args = ["export", "story", text(&cache), "--graph", "cache", "--external-data"];
    let said = String::from_utf8(output(&folder, &args).stdout).unwrap();
    for part in
        ["past_key_values.N.key", "cache.onnx.data, which belongs beside", "the tokenizer is not in it"]
    {
        assert!(said.contains(part), "{said}");
    }

    let both = folder.path("both");
    let result = done(&folder, &["export", "story", text(&both), "--format", "onnx", "--graph", "weights"]);
    assert_eq!(result["graph"], "weights");
    for name in ["model.onnx", "config.json", "tokenizer.json"] {
        assert!(both.join(name).is_file(), "{name}");
    }
}

#[test]
fn graphs_say_what_the_model_says() {
    let folder = Folder::new("onnx-all");
    for name in ["gpt2-micro", "llama-micro", "mistral-micro", "qwen2-micro", "qwen3-micro", "gemma3-micro"] {
        let model = fixtures().join(name);
        for graph in ["plain", "cache"] {
            let out = format!("{name}-{graph}.onnx");
            let found = done(&folder, &["export", text(&model), &out, "--graph", graph]);
            assert!(found["kl_mean"].as_f64().expect("a mean") <= 1e-9, "{out}: {found}");
            assert!(found["compared_positions"].as_u64().expect("positions") > 50, "{out}: {found}");
        }
    }
    // With an adapter merged into it.
    let model = fixtures().join("qwen3-micro");
    let adapter = model.join("lora/trained");
    let merged =
        done(&folder, &["export", text(&model), "merged", "--format", "onnx", "--adapter", text(&adapter)]);
    assert!(merged["kl_mean"].as_f64().expect("a mean") <= 1e-6, "{merged}");
    // What is not run is said.
    let half = output(&folder, &["export", text(&model), "half.onnx", "--dtype", "f16"]);
    let said = String::from_utf8_lossy(&half.stderr).into_owned();
    assert!(half.status.success() && said.contains("not run beside the original"), "{said}");
}

#[test]
fn what_cannot_be_is_said() {
    let folder = Folder::new("onnx-errors");
    let out = folder.path("story.onnx");
    done(&folder, &["export", "story", text(&out)]);
    let other = folder.path("story.gguf");
    let base = fixtures().join("llama-micro");
    for (args, expected) in [
        (vec!["export", "story", text(&out)], "is there already"),
        (vec!["export", "story", text(&other), "--graph", "cache"], "are for ONNX, and this is gguf"),
        (vec!["export", "story", text(&other), "--external-data"], "are for ONNX, and this is gguf"),
        (vec!["export", "story", text(&other), "--format", "pickle"], "one of hf, gguf, llmc, onnx"),
        (
            vec!["merge", text(&base), "merged.onnx", "--adapter", text(&base.join("lora/trained"))],
            "`wootz export --adapter` writes it",
        ),
        (vec!["generate", text(&out), "-p", "Once"], "ONNX is written and not read"),
    ] {
        let message = error(&folder, &args);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
    assert!(!other.exists() && !folder.path("merged.onnx").exists());
}
