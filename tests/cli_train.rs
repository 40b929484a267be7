//! `wootz train`, end to end: exact resume, kills, llm.c's trace, export, and what it says of bad input.

mod common;
mod program;
mod runs;

use common::{Folder, fixtures, text};
use runs::metrics;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn train(folder: &Folder, args: &[&str]) -> Output {
    program::output(folder, &[&["train"], args].concat())
}

fn command(folder: &Folder, args: &[&str]) -> Command {
    common::command(folder, &[&["train"], args].concat())
}

fn done(folder: &Folder, args: &[&str]) -> Value {
    program::done(folder, &[&["train"], args].concat())
}

fn error(folder: &Folder, args: &[&str]) -> String {
    program::error(folder, &[&["train"], args].concat())
}

/// A text to learn from.
fn write_text(folder: &Folder) -> PathBuf {
    let path = folder.path("text.txt");
    let sentence = |i: usize| {
        let names = ["Ana", "Ben", "Cleo", "Dan"];
        let things = ["a stone", "the lamp", "two birds", "an old map", "the river"];
        format!("{} saw {} and went home on day {i}.\n", names[i % 4], things[i * 7 % 5])
    };
    std::fs::write(&path, (0..600).map(sentence).collect::<String>()).expect("a text");
    path
}

/// A model that takes no time.
const SMALL: &[&str] = &[
    "--layers",
    "2",
    "--dim",
    "32",
    "--heads",
    "2",
    "--kv-heads",
    "1",
    "--vocab",
    "300",
    "--batch",
    "2",
    "--seq",
    "32",
    "--lr",
    "0.01",
    "--warmup",
    "2",
    "--val-batches",
    "2",
];

/// [`SMALL`] on `data`, but for what `more` says otherwise.
fn small<'a>(data: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let kept = SMALL.chunks(2).filter(|pair| !more.contains(&pair[0])).flatten().copied();
    kept.chain(["--data", text(data)]).chain(more.iter().copied()).collect()
}

/// The bytes of the weights and moments of a run's checkpoint.
fn weights(run: &Path, step: u64) -> Vec<Vec<u8>> {
    let checkpoint = run.join(format!("checkpoints/step-{step:06}"));
    let read = |name: &str| std::fs::read(checkpoint.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    vec![read("model.safetensors"), read("optimizer.safetensors")]
}

/// Twenty steps at once, or ten, a new process, and ten more: the same bits, on one thread and on two.
#[test]
fn a_resumed_run_equals_one_that_was_not_interrupted() {
    let folder = Folder::new("resume");
    let data = write_text(&folder);
    for (dtype, optimizer, recompute) in [
        ("f32", "adamw", "none"),
        ("bf16", "adamw", "block"),
        ("f16", "adamw", "none"),
        ("f32", "muon", "all"),
        ("f32", "sgd", "none"),
    ] {
        let common = [
            "--steps",
            "20",
            "--dtype",
            dtype,
            "--optimizer",
            optimizer,
            "--recompute",
            recompute,
            "--schedule",
            "wsd",
        ];
        let name = |what: &str| format!("{what}-{dtype}-{optimizer}");
        let (whole, parts) = (name("whole"), name("parts"));
        let more = [&common[..], &["--name", &whole, "--threads", "2", "--val-every", "5"]].concat();
        done(&folder, &small(&data, &more));
        let more =
            [&common[..], &["--name", &parts, "--threads", "1", "--val-every", "5", "--save-every", "10"]]
                .concat();
        done(&folder, &small(&data, &more));
        // Back to the middle, as if the process had died there.
        let run = folder.path("runs").join(&parts);
        std::fs::remove_dir_all(run.join("checkpoints/step-000020")).expect("the last checkpoint goes");
        let resumed = done(&folder, &["--resume", text(&run)]);
        assert_eq!(resumed["complete"], true);
        let whole = folder.path("runs").join(&whole);
        assert_eq!(metrics(&run), metrics(&whole), "{dtype} {optimizer}");
        assert!(weights(&run, 20) == weights(&whole, 20), "{dtype} {optimizer}: other bits");
    }
}

/// Killed at any moment, a run goes on from its last whole checkpoint, and ends as if nothing had happened.
#[cfg(unix)]
#[test]
fn a_killed_run_goes_on() {
    let folder = Folder::new("kill");
    let data = write_text(&folder);
    let args = |name: &'static str| {
        small(&data, &["--steps", "60", "--save-every", "5", "--keep", "2", "--name", name])
    };
    done(&folder, &args("calm"));
    let run = folder.path("runs/killed");
    let entries = || -> Vec<String> {
        let entries = std::fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    for round in 0..12 {
        // Without a whole checkpoint there is nothing to go on from.
        let done_steps = |step: u64| run.join(format!("checkpoints/step-{step:06}/DONE")).is_file();
        let newest = (1..=60).filter(|step| done_steps(*step)).max();
        if newest.is_none() {
            let _ = std::fs::remove_dir_all(&run);
        }
        let resume = ["--resume", text(&run)];
        let arguments = if newest.is_some() { resume.to_vec() } else { args("killed") };
        let mut child =
            command(&folder, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        // Now in the middle of writing one, now after one more is whole.
        let is_time = || match round % 2 {
            0 => (newest.unwrap_or(0) + 1..=60).any(done_steps),
            _ => entries().iter().any(|name| name.starts_with('.')),
        };
        while !is_time() && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let _ = child.kill();
        let _ = child.wait();
        if done_steps(60) {
            break;
        }
    }
    if !run.join("checkpoints/step-000060/DONE").is_file() {
        done(&folder, &["--resume", text(&run)]);
    }
    assert!(weights(&run, 60) == weights(&folder.path("runs/calm"), 60), "other bits");
    assert_eq!(metrics(&run), metrics(&folder.path("runs/calm")));
}

/// llm.c's forty steps: its data, its order, its losses.
#[test]
fn parity_of_llmc_trace() {
    let llmc = fixtures().join("gpt2-micro/llmc");
    if !llmc.is_dir() {
        println!("skipped: no {}", llmc.display());
        return;
    }
    let folder = Folder::new("trace");
    let trace: Value =
        serde_json::from_slice(&std::fs::read(llmc.join("trace.json")).expect("trace")).expect("JSON");
    let [model, data, val] = ["model.bin", "train.bin", "val.bin"].map(|name| llmc.join(name));
    let number = |name: &str| trace[name].to_string();
    let (batch, seq, lr) = (number("B"), number("T"), number("lr"));
    let steps = trace["losses"].as_array().expect("losses").len().to_string();
    let args = [
        "--model",
        text(&model),
        "--data",
        text(&data),
        "--val-data",
        text(&val),
        "--order",
        "sequential",
        "--batch",
        &batch,
        "--seq",
        &seq,
        "--steps",
        &steps,
        "--lr",
        &lr,
        "--schedule",
        "constant",
        "--warmup",
        "0",
        "--weight-decay",
        "0",
        "--beta1",
        "0.9",
        "--beta2",
        "0.999",
        "--clip",
        "0",
        "--val-batches",
        "10",
        "--val-every",
        "0",
        "--name",
        "trace",
    ];
    done(&folder, &args);
    let rows = metrics(&folder.path("runs/trace"));
    let close = |found: &Value, want: &Value, what: &str| {
        let (found, want) = (found.as_f64().expect(what), want.as_f64().expect(what));
        assert!((found - want).abs() <= 1e-4 * want, "{what}: {found}, expected {want}");
    };
    let validations: Vec<&Value> = rows.iter().filter(|row| !row["val_loss"].is_null()).collect();
    close(&validations[0]["val_loss"], &trace["val_loss_before"], "before");
    close(&validations[1]["val_loss"], &trace["val_loss_after"], "after");
    let losses: Vec<&Value> = rows.iter().filter(|row| !row["loss"].is_null()).collect();
    assert_eq!(losses.len(), trace["losses"].as_array().expect("losses").len());
    for (i, (row, want)) in losses.iter().zip(trace["losses"].as_array().expect("losses")).enumerate() {
        close(&row["loss"], want, &format!("step {i}"));
    }
}

/// The last checkpoint is a model like any other, and so is the run's folder.
#[test]
fn what_was_trained_can_be_used() {
    let folder = Folder::new("use");
    let data = write_text(&folder);
    let output = train(&folder, &small(&data, &["--steps", "3", "--name", "a"]));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.contains("What to try next"), "{stdout}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    for expected in ["memory: ", "of 24 trainable tensors received a gradient", "validation loss", "saved "] {
        assert!(stderr.contains(expected), "{expected}: {stderr}");
    }
    let run = folder.path("runs/a");
    for file in ["config.toml", "tokenizer.json", "metrics.jsonl", "report.html"] {
        assert!(run.join(file).is_file(), "{file}");
    }
    let generated = Command::new(env!("CARGO_BIN_EXE_wootz"))
        .args(["generate", text(&run), "-p", "Ana", "-n", "4", "-t", "0"])
        .output()
        .expect("the program starts");
    assert!(generated.status.success(), "{generated:?}");
    let inspected =
        Command::new(env!("CARGO_BIN_EXE_wootz")).args(["inspect", text(&run)]).output().expect("it starts");
    assert!(String::from_utf8_lossy(&inspected.stdout).contains("qwen3"), "{inspected:?}");
    // In every format that its family has, it says the same.
    let program = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_wootz")).args(args).output().expect("it starts");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let says =
        |model: &Path| program(&["generate", text(model), "-p", "Ana saw", "-n", "12", "-t", "0", "--json"]);
    let answer = |json: &str| -> Value {
        serde_json::from_str::<Value>(json).unwrap_or_else(|e| panic!("{e}: {json}"))["ids"].clone()
    };
    let expected = answer(&says(&run));
    for name in ["out", "out.gguf"] {
        let out = folder.path(name);
        program(&["export", text(&run), text(&out)]);
        assert_eq!(answer(&says(&out)), expected, "{name}");
    }
    let again = Command::new(env!("CARGO_BIN_EXE_wootz"))
        .args(["export", text(&run), text(&folder.path("out.gguf"))])
        .output();
    assert_eq!(again.expect("it starts").status.code(), Some(1), "a file is replaced only with --overwrite");
    // Another run may begin with it.
    let result = done(
        &folder,
        &["--model", text(&run), "--data", text(&data), "--steps", "2", "--batch", "2", "--seq", "16"],
    );
    assert_eq!(result["complete"], true);
    // And its settings serve for another.
    let config = run.join("config.toml");
    done(&folder, &["--config", text(&config), "--steps", "2", "--name", "b"]);
    let [a, b] =
        ["a", "b"].map(|name| std::fs::read_to_string(folder.path("runs").join(name).join("config.toml")));
    assert_eq!(a.expect("a").replace("steps = 3", "steps = 2"), b.expect("b"));
}

#[test]
fn one_batch_can_be_learnt_by_heart() {
    let folder = Folder::new("overfit");
    let data = write_text(&folder);
    let result =
        done(&folder, &small(&data, &["--overfit", "--steps", "150", "--name", "o", "--final-lr", "0"]));
    let loss = result["loss"].as_f64().expect("a loss");
    assert!(loss < 0.1, "{loss}");
}

#[test]
fn bad_input_gets_a_message() {
    let folder = Folder::new("bad");
    let data = write_text(&folder);
    let says = |args: &[&str], expected: &[&str]| {
        let message = error(&folder, args);
        for expected in expected {
            assert!(message.contains(expected), "{args:?}: {message}");
        }
    };
    says(&["--model", "gpt3"], &["no preset `gpt3`", "gpt2-124m", "no such file"]);
    says(&["--data", "nowhere.txt"], &["nowhere.txt"]);
    says(&small(&data, &["--seq", "999"]), &["--seq 999", "longest sequence is 256"]);
    says(&small(&data, &["--steps", "0"]), &["--steps 0"]);
    says(&small(&data, &["--clip=-1"]), &["--clip -1"]);
    says(&small(&data, &["--beta2", "1"]), &["--beta2 1"]);
    says(&small(&data, &["--eps", "0"]), &["--eps 0"]);
    says(&small(&data, &["--schedule", "square"]), &["square", "cosine"]);
    says(&small(&data, &["--memory", "1"]), &["1 MiB allowed", "--recompute block"]);
    says(&["--resume", "nowhere"], &["nowhere"]);
    says(&["--config", "nowhere.toml"], &["nowhere.toml"]);
    std::fs::write(folder.path("odd.toml"), "learning-rate = 1\n").expect("a file");
    says(&["--config", "odd.toml"], &["odd.toml", "learning-rate"]);
    says(&["--model", text(&fixtures().join("gpt2-micro")), "--layers", "3"], &["--layers", "presets"]);
    // Nothing of all this has left a folder behind.
    assert!(!folder.path("runs").exists());
    // Shards of another vocabulary, cut short, and empty ones.
    let llmc = fixtures().join("gpt2-micro/llmc");
    let train_bin = llmc.join("train.bin");
    says(&small(&train_bin, &["--vocab", "280"]), &["train.bin", "280"]);
    let bytes = std::fs::read(&train_bin).expect("train.bin");
    std::fs::write(folder.path("cut.bin"), &bytes[..bytes.len() - 100]).expect("a file");
    says(&["--data", "cut.bin"], &["cut.bin"]);
    std::fs::write(folder.path("empty.bin"), b"").expect("a file");
    says(&["--data", "empty.bin"], &["empty.bin"]);
    // Shards of another tokenizer than the model's, though every id is one of the model's too.
    let shards = folder.path("shards");
    let prepare = ["data", "prepare", text(&data), "--tokenizer", "bytes", "--out", text(&shards)];
    let prepared = Command::new(env!("CARGO_BIN_EXE_wootz")).args(prepare).output().expect("it starts");
    assert!(prepared.status.success(), "{prepared:?}");
    says(
        &["--model", text(&fixtures().join("gpt2-micro")), "--data", text(&shards)],
        &["shards", "the tokenizer bytes", "other ids"],
    );
    // A new model has the vocabulary that was asked for, though that of the shards is smaller.
    done(&folder, &small(&shards, &["--steps", "1", "--name", "asked", "--vocab", "400"]));
    let config = folder.path("runs/asked/checkpoints/step-000001/config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(config).expect("a file")).expect("JSON");
    assert_eq!(config["vocab_size"], 400);
    // A name that is taken, and a flag that would make it another run.
    done(&folder, &small(&data, &["--steps", "2", "--name", "taken"]));
    says(&small(&data, &["--steps", "2", "--name", "taken"]), &["taken"]);
    says(&["--resume", "runs/taken", "--lr", "0.5"], &["--lr", "--model RUN"]);
    says(&["--resume", "runs/taken"], &["all 2 steps are done", "--steps"]);
    // A damaged checkpoint is named, and without another one there is nothing to go on from.
    let weights = folder.path("runs/taken/checkpoints/step-000002/model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).expect("a file");
    let output = train(&folder, &["--resume", "runs/taken"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("model.safetensors") && stderr.contains("no whole checkpoint"), "{stderr}");
}

/// A learning rate beyond all measure: the weights are kept, the tensor is named, and the run gives up.
#[test]
fn numbers_that_explode_end_the_run_and_not_the_weights() {
    let folder = Folder::new("explode");
    let data = write_text(&folder);
    let args = small(
        &data,
        &[
            "--steps",
            "40",
            "--lr",
            "1e30",
            "--warmup",
            "0",
            "--clip",
            "0",
            "--max-bad-steps",
            "2",
            "--name",
            "x",
        ],
    );
    let message = error(&folder, &args);
    assert!(message.contains("finite") && message.contains("learning rate"), "{message}");
}
