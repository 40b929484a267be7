//! `wootz export`, end to end: every format and type runs beside the original, and nothing is left of what fails.

mod common;
mod program;

use common::{Folder, command, fixtures, text};
use program::{done, error, output};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Model folders of every architecture.
fn models() -> Vec<PathBuf> {
    let names = ["gpt2-micro", "llama-micro", "mistral-micro", "qwen2-micro", "qwen3-micro", "gemma3-micro"];
    names.iter().map(|name| fixtures().join(name)).collect()
}

/// What is in a folder, hidden names included.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_is_written_says_what_the_model_says() {
    let folder = Folder::new("export-all");
    for model in models() {
        let name = model.file_name().expect("a name").to_string_lossy().into_owned();
        for (format, out) in
            [("hf", name.clone()), ("gguf", format!("{name}.gguf")), ("llmc", format!("{name}.bin"))]
        {
            for (dtype, most) in [("f32", 1e-9), ("f16", 1e-4), ("bf16", 1e-3)] {
                if format == "llmc" && (name != "gpt2-micro" || dtype == "f16") {
                    continue;
                }
                let out = format!("{dtype}/{out}");
                std::fs::create_dir_all(folder.path(dtype)).expect("a folder");
                let found = done(&folder, &["export", text(&model), &out, "--dtype", dtype]);
                let (mean, positions) = (found["kl_mean"].as_f64(), found["compared_positions"].as_u64());
                assert!(mean.expect("a mean") <= most, "{out}: {found}");
                assert!(positions.expect("positions") > 50, "{out}: {found}");
                assert_eq!(found["format"], format);
            }
        }
    }
    assert!(names(&folder.0).iter().all(|name| ["bf16", "f16", "f32"].contains(&name.as_str())));
    for dtype in ["bf16", "f16", "f32"] {
        let hidden = names(&folder.path(dtype)).into_iter().filter(|name| name.starts_with('.')).count();
        assert_eq!(hidden, 0, "{dtype}");
    }
    // From GGUF and back to GGUF.
    let quantised = fixtures().join("gguf/qwen3-tiny/q4_k_m.gguf");
    let found = done(&folder, &["export", text(&quantised), "again.gguf"]);
    assert!(found["kl_mean"].as_f64().expect("a mean") <= 1e-9, "{found}");
}

/// A model whose logits are so large that bf16 does not say them.
fn sharp(folder: &Folder) -> PathBuf {
    let (from, to) = (fixtures().join("gpt2-micro"), folder.path("sharp"));
    std::fs::create_dir_all(&to).expect("a folder");
    for name in names(&from).iter().filter(|name| name.ends_with(".json")) {
        std::fs::copy(from.join(name), to.join(name)).expect("a copy");
    }
    let mut bytes = std::fs::read(from.join("model.safetensors")).expect("weights");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let about: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    let (name, tensor) = about
        .as_object()
        .expect("tensors")
        .iter()
        .find(|(name, _)| name.contains("ln_f.weight"))
        .expect("a norm");
    assert_eq!(tensor["dtype"], "F32", "{name}");
    let [begin, end] = [0, 1].map(|i| tensor["data_offsets"][i].as_u64().expect("an offset") as usize);
    for value in bytes[8 + header..][begin..end].chunks_exact_mut(4) {
        let large = f32::from_le_bytes(value.try_into().expect("4 bytes")) * 1e4;
        value.copy_from_slice(&large.to_le_bytes());
    }
    std::fs::write(to.join("model.safetensors"), bytes).expect("weights");
    to
}

#[test]
fn what_says_something_else_is_not_left() {
    let folder = Folder::new("export-wrong");
    let model = sharp(&folder);
    for out in ["m.gguf", "m.bin", "m"] {
        let said = error(&folder, &["export", text(&model), out, "--dtype", "bf16"]);
        assert!(said.contains("does not say what the model says") && said.contains("BF16"), "{out}: {said}");
        assert_eq!(names(&folder.0), ["sharp"], "{out}");
    }
    // In f32 it is what it was, and whoever asks for it gets it untested.
    let found = done(&folder, &["export", text(&model), "m.gguf"]);
    assert!(found["kl_mean"].as_f64().expect("a mean") <= 1e-6, "{found}");
    let untested = done(&folder, &["export", text(&model), "n.gguf", "--dtype", "bf16", "--no-check"]);
    assert!(untested["kl_mean"].is_null(), "{untested}");
    assert_eq!(names(&folder.0), ["m.gguf", "n.gguf", "sharp"]);
}

#[test]
fn what_is_there_stays() {
    let folder = Folder::new("export-there");
    let model = fixtures().join("gpt2-micro");
    std::fs::write(folder.path("m.gguf"), "mine").expect("a file");
    std::fs::create_dir_all(folder.path("m")).expect("a folder");
    std::fs::write(folder.path("m/config.json"), "mine").expect("a file");
    std::fs::write(folder.path("tokenizer.bin"), "mine").expect("a file");
    for out in ["m.gguf", "m", "m.bin"] {
        let said = error(&folder, &["export", text(&model), out]);
        assert!(said.contains("is there already"), "{out}: {said}");
    }
    assert_eq!(names(&folder.0), ["m", "m.gguf", "tokenizer.bin"]);
    assert_eq!(std::fs::read_to_string(folder.path("tokenizer.bin")).expect("a file"), "mine");
    std::fs::write(folder.path("m/notes.txt"), "mine").expect("a file");
    for out in ["m.gguf", "m", "m.bin"] {
        done(&folder, &["export", text(&model), out, "--overwrite"]);
    }
    assert!(names(&folder.path("m")).contains(&"notes.txt".to_owned()));
    let shown = output(&folder, &["export", text(&model), "shown.gguf"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("KL divergence") && shown.contains("gpt2 as gguf"), "{shown}");
    std::fs::write(folder.path("file"), "mine").expect("a file");
    for (out, expected) in
        [("no/m.gguf", "no/.m.gguf"), ("file", "is a file"), ("m.xyz", "`.xyz`"), ("llama.bin", "llm.c")]
    {
        let model = if out == "llama.bin" { fixtures().join("llama-micro") } else { model.clone() };
        let said = error(&folder, &["export", text(&model), out]);
        assert!(said.contains(expected), "{out}: {said}");
    }
}

/// Killed at any moment: there is nothing under the name, or all of it.
#[cfg(unix)]
#[test]
fn a_killed_export_leaves_nothing_under_its_name() {
    let folder = Folder::new("export-kill");
    let model = fixtures().join("gemma3-micro");
    // The name of a file is in it.
    done(&folder, &["export", text(&model), "m.gguf"]);
    let whole = std::fs::read(folder.path("m.gguf")).expect("a file");
    std::fs::remove_file(folder.path("m.gguf")).expect("a file");
    for wait in [1, 3, 10, 20, 40, 80, 160] {
        let args = ["export", text(&model), "m.gguf", "--overwrite"];
        let mut child =
            command(&folder, &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(wait));
        let _ = child.kill();
        let _ = child.wait();
        if let Ok(found) = std::fs::read(folder.path("m.gguf")) {
            assert!(found == whole, "after {wait} ms");
        }
    }
}
