//! `wootz export` to ONNX, end to end. That the graphs are right is tested in crates/model.

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
