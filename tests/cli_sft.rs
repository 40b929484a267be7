//! `wootz sft`, end to end: an adapter is learnt, saved, resumed and used; all weights are; what it says of bad input.

mod common;
mod program;
mod runs;

use common::{Folder, command, fixtures, text};
use program::{done, error, output};
use runs::metrics;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Questions with answers, as a conversation, a completion or a text.
fn write_samples(folder: &Folder) -> PathBuf {
    let path = folder.path("samples.jsonl");
    let names = ["Ana", "Ben", "Cleo", "Dan", "Eve"];
    let things = ["a stone", "the lamp", "two birds", "an old map"];
    let line = |i: usize| {
        let (name, thing) = (names[i % 5], things[i * 7 % 4]);
        let (ask, answer) = (format!("What has {name}?"), format!("{name} has {thing}."));
        match i % 3 {
            0 => {
                json!({"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]})
            }
            1 => json!({"prompt": ask, "completion": format!(" {answer}")}),
            _ => json!({"text": format!("{ask} {answer}")}),
        }
    };
    let lines: String = (0..60).map(|i| format!("{}\n", line(i))).collect();
    std::fs::write(&path, lines).expect("samples");
    path
}

fn checkpoint(run: &Path, step: u64, files: &[&str]) -> Vec<Vec<u8>> {
    let folder = run.join(format!("checkpoints/step-{step:06}"));
    files
        .iter()
        .map(|name| std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}")))
        .collect()
}

/// Models that take no time: safetensors, and a file that stays quantised.
fn models() -> [PathBuf; 2] {
    [fixtures().join("qwen3-micro"), fixtures().join("gguf/qwen3-tiny/q4_k_m.gguf")]
}

/// Twelve steps at once, or six, a new process, and six more: the same bits, on one thread and on two.
#[test]
fn a_resumed_run_equals_one_that_was_not_interrupted() {
    let folder = Folder::new("sft-resume");
    let data = write_samples(&folder);
    let adapter = &["adapter_model.safetensors", "optimizer.safetensors"][..];
    let weights = &["model.safetensors", "optimizer.safetensors"][..];
    let [float, quantised] = models();
    // One to go on with, whose file says what is left out of it.
    let first = [
        "sft",
        text(&float),
        "--data",
        text(&data),
        "--steps",
        "2",
        "--name",
        "first",
        "--lora-dropout",
        "0.3",
    ];
    done(&folder, &first);
    let given = folder.path("runs/first");
    for (i, (model, more, files)) in [
        (&float, &["--lora-dropout", "0.2", "--dtype", "bf16"][..], adapter),
        (&float, &["--adapter", text(&given)][..], adapter),
        (&quantised, &["--lora-targets", "q,v", "--recompute", "block", "--batch-tokens", "64"][..], adapter),
        (&quantised, &["--dora", "--lora-targets", "attention"][..], adapter),
        (&float, &["--full", "--by-length", "16"][..], weights),
    ]
    .into_iter()
    .enumerate()
    {
        let common =
            ["sft", text(model), "--data", text(&data), "--steps", "12", "--val-every", "4", "--lr", "0.003"];
        let run = |name: &str, threads: &str, every: &str| {
            let own = ["--name", name, "--threads", threads, "--save-every", every];
            done(&folder, &[&common[..], more, &own].concat())
        };
        let (whole, parts) = (format!("whole-{i}"), format!("parts-{i}"));
        let result = run(&whole, "2", "0");
        assert_eq!((result["complete"].clone(), result["step"].clone()), (true.into(), 12.into()));
        run(&parts, "1", "6");
        let (whole, parts) = (folder.path("runs").join(whole), folder.path("runs").join(parts));
        std::fs::remove_dir_all(parts.join("checkpoints/step-000012")).expect("the last checkpoint goes");
        done(&folder, &["sft", "--resume", text(&parts)]);
        assert_eq!(metrics(&parts), metrics(&whole), "{model:?} {more:?}");
        assert!(
            checkpoint(&parts, 12, files) == checkpoint(&whole, 12, files),
            "{model:?} {more:?}: other bits"
        );
        let rows = metrics(&whole);
        let losses: Vec<f64> = rows.iter().filter_map(|row| row["val_loss"].as_f64()).collect();
        assert!(losses.last() < losses.first(), "{model:?} {more:?}: {losses:?}");
        let config = std::fs::read_to_string(whole.join("config.toml")).expect("settings");
        let dropout = if more.contains(&"--adapter") { "lora-dropout = 0.3" } else { "lora-dropout" };
        assert!(config.contains(dropout), "{more:?}: {config}");
    }
}

/// Killed while it writes or in between, a run goes on from its last whole checkpoint.
#[cfg(unix)]
#[test]
fn a_killed_run_goes_on() {
    let folder = Folder::new("sft-kill");
    let data = write_samples(&folder);
    let [model, _] = models();
    let args = |name: &'static str| {
        ["sft", text(&model), "--data", text(&data), "--steps", "40", "--save-every", "4", "--name", name]
            .map(str::to_owned)
    };
    let strings = |args: &[String]| -> Vec<String> { args.to_vec() };
    let calm = strings(&args("calm"));
    done(&folder, &calm.iter().map(String::as_str).collect::<Vec<_>>());
    let run = folder.path("runs/killed");
    for round in 0..6 {
        let newest =
            (1..=40).filter(|step| run.join(format!("checkpoints/step-{step:06}/DONE")).is_file()).max();
        let arguments = match newest {
            Some(_) => vec!["sft".to_owned(), "--resume".to_owned(), text(&run).to_owned()],
            None => {
                let _ = std::fs::remove_dir_all(&run);
                strings(&args("killed"))
            }
        };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut child =
            command(&folder, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        let is_time = || match round % 2 {
            0 => (newest.unwrap_or(0) + 1..=40)
                .any(|step| run.join(format!("checkpoints/step-{step:06}/DONE")).is_file()),
            _ => std::fs::read_dir(run.join("checkpoints"))
                .into_iter()
                .flatten()
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with('.')),
        };
        while !is_time() && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let _ = child.kill();
        let _ = child.wait();
        if run.join("checkpoints/step-000040/DONE").is_file() {
            break;
        }
    }
    if !run.join("checkpoints/step-000040/DONE").is_file() {
        done(&folder, &["sft", "--resume", text(&run)]);
    }
    let files = &["adapter_model.safetensors"];
    assert!(checkpoint(&run, 40, files) == checkpoint(&folder.path("runs/calm"), 40, files), "other bits");
}

/// What was learnt is said: the loss falls, and the screen tells what was done.
#[test]
fn samples_are_learnt_and_the_screen_says_what_happens() {
    let folder = Folder::new("sft-learn");
    let data = write_samples(&folder);
    let [model, _] = models();
    let args = [
        "sft",
        text(&model),
        "--data",
        text(&data),
        "--epochs",
        "2",
        "--lr",
        "0.01",
        "--name",
        "a",
        "--plain",
    ];
    let shown = output(&folder, &args);
    let (stdout, stderr) = (String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
    assert!(shown.status.success(), "{stderr}");
    for expected in [
        "60 samples",
        "memory: ",
        "trainable tensors received a gradient",
        "an adapter of",
        "validation loss",
    ] {
        assert!(stderr.contains(expected), "{expected}: {stderr}");
    }
    assert!(stdout.contains("What to try next") && stdout.contains("--adapter"), "{stdout}");
    let run = folder.path("runs/a");
    // 57 samples, 4 at a time, twice: the last batch of an epoch has one.
    let steps: Vec<Value> = metrics(&run).into_iter().filter(|row| !row["loss"].is_null()).collect();
    assert_eq!(steps.len(), 30);
    let loss = |row: &Value| row["loss"].as_f64().expect("a loss");
    assert!(loss(&steps[29]) < 0.8 * loss(&steps[0]), "{} to {}", steps[0], steps[29]);
    // Its name alone is not enough to run it: it is an adapter.
    let refused = error(&folder, &["generate", text(&run), "-p", "What", "-n", "2"]);
    assert!(refused.contains("name the model that it is for"), "{refused}");
    let with =
        ["generate", text(&model), "--adapter", text(&run), "-p", "What has Ana?", "-n", "4", "-t", "0"];
    assert_eq!(done(&folder, &with)["ids"].as_array().map(Vec::len), Some(4));
    let refused = error(&folder, &["train", "--resume", text(&run)]);
    assert!(refused.contains("expected a run of `wootz train`"), "{refused}");
    // An adapter can be gone on with.
    let latest = run.join("checkpoints/step-000030");
    let more = [
        "sft",
        text(&model),
        "--data",
        text(&data),
        "--steps",
        "2",
        "--adapter",
        text(&latest),
        "--name",
        "b",
    ];
    let result = done(&folder, &more);
    assert!(loss(&result) < 0.8 * loss(&steps[0]), "{result}");
}

#[test]
fn bad_input_gets_a_message() {
    let folder = Folder::new("sft-bad");
    let data = write_samples(&folder);
    let [model, quantised] = models();
    let model = text(&model);
    let fails = |args: &[&str]| error(&folder, &[&["sft"], args].concat());
    let with = |more: &[&str]| fails(&[&[model, "--data", text(&data), "--steps", "1"], more].concat());
    assert!(fails(&[]).contains("no model to tune"));
    assert!(fails(&[model]).contains("no samples: give --data"));
    assert!(fails(&["nowhere", "--data", text(&data)]).contains("nowhere"));
    assert!(fails(&[model, "--data", "nowhere.jsonl"]).contains("nowhere.jsonl"));
    assert!(with(&["--lora-targets", "x"]).contains("--lora-targets x: expected `all`"));
    assert!(with(&["--lora-rank", "0"]).contains("a rank of 0"));
    assert!(with(&["--lora-dropout", "1"]).contains("--lora-dropout 1: expected a share"));
    // Its q, k and v are one matrix, of which a file has all lengths or none.
    let fused = fixtures().join("gpt2-micro");
    std::fs::write(folder.path("plain.jsonl"), "{\"text\": \"enough to learn\"}\n").expect("a file");
    let fused =
        fails(&[text(&fused), "--data", "plain.jsonl", "--steps", "1", "--dora", "--lora-targets", "q,v"]);
    assert!(fused.contains("c_attn") && fused.contains("DoRA"), "{fused}");
    assert!(with(&["--batch", "0"]).contains("--batch 0"));
    assert!(with(&["--batch-tokens", "3"]).contains('3'));
    assert!(with(&["--val-share", "1"]).contains("--val-share 1"));
    assert!(with(&["--lr=-1"]).contains("learning rate is -1"));
    assert!(with(&["--memory", "1"]).contains("1 MiB allowed"));
    assert!(with(&["--adapter", text(&folder.path("nowhere"))]).contains("nowhere"));
    let other = fixtures().join("llama-micro/lora/trained");
    assert!(with(&["--adapter", text(&other)]).contains("adapter"));
    std::fs::write(folder.path("bad.toml"), "lora-rnak = 3\n").expect("a file");
    assert!(with(&["--config", "bad.toml"]).contains("bad.toml:1: `lora-rnak` is no setting"));
    std::fs::write(folder.path("bad.jsonl"), "{\"text\": \"good enough\"}\n{\"txt\": 1}\n").expect("a file");
    assert!(fails(&[model, "--data", "bad.jsonl", "--steps", "1"]).contains("bad.jsonl:2"));
    let skipped = done(
        &folder,
        &["sft", model, "--data", "bad.jsonl", "--skip-bad", "--steps", "1", "--name", "skipped"],
    );
    assert_eq!(skipped["complete"], true);
    assert!(!folder.path("runs").join("a").exists());
    // Only what may change in a run that goes on.
    let run = folder.path("runs/skipped");
    let refused = fails(&["--resume", text(&run), "--steps", "3", "--lora-rank", "4"]);
    assert!(refused.contains("--lora-rank: cannot change"), "{refused}");
    assert!(fails(&["--resume", text(&run)]).contains("all 1 steps are done"));
    std::fs::write(folder.path("bad.jsonl"), "{\"text\": \"other text, and more of it\"}\n").expect("a file");
    assert!(fails(&["--resume", text(&run), "--steps", "3"]).contains("not the same data"));
    // A quantised model can be trained as a whole too: it becomes f32.
    let full = ["sft", text(&quantised), "--data", text(&data), "--steps", "1", "--full", "--name", "full"];
    assert_eq!(done(&folder, &full)["complete"], true);
}
