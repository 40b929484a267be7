//! The program on a GPU: what it says of devices, and that runs, answers and errors are as on the CPU.

mod common;
mod program;
mod runs;

use common::{Folder, command, fixtures, text};
use program::{done, error, output};
use runs::metrics;
use serde_json::{Value, json};
use std::path::Path;

/// Whether there is a Vulkan device; prints that the test is skipped where not, or fails where `WOOTZ_REQUIRE` names it.
fn has_vulkan(folder: &Folder) -> bool {
    let found = output(folder, &["doctor", "--device", "vulkan", "--json"]);
    if found.status.success() {
        return true;
    }
    let why = String::from_utf8_lossy(&found.stderr).trim().to_owned();
    let required = std::env::var("WOOTZ_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name.trim() == "vulkan"), "vulkan is required: {why}");
    println!("skipped: {why}");
    false
}

/// The program where there is no driver.
fn without_driver(folder: &Folder, args: &[&str]) -> std::process::Output {
    let mut command = command(folder, args);
    for name in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        command.env(name, "/there/is/none.json");
    }
    command.output().expect("the program starts")
}

#[test]
fn the_doctor_tells_what_there_is_and_why() {
    let folder = Folder::new("device-doctor");
    let found = done(&folder, &["doctor"]);
    assert!(found["threads"].as_u64() >= Some(1) && found["instruction_set"].is_string(), "{found}");
    let nothing = without_driver(&folder, &["doctor"]);
    let said = String::from_utf8_lossy(&nothing.stdout);
    assert!(nothing.status.success() && said.contains("computes: the CPU"), "{nothing:?}");
    if cfg!(target_os = "linux") {
        assert!(said.contains("no Vulkan driver was found. Install"), "{said}");
    }
    if !has_vulkan(&folder) {
        return;
    }
    let found = done(&folder, &["doctor", "--device", "vulkan"]);
    let gpus = found["gpus"].as_array().expect("a list");
    let chosen: Vec<&Value> = gpus.iter().filter(|gpu| gpu["chosen"] == json!(true)).collect();
    assert_eq!((chosen.len(), &found["chosen_works"]), (1, &json!(true)), "{found}");
    assert!(chosen[0]["max_buffer_bytes"].as_u64() > Some(1 << 20) && chosen[0]["driver"].is_string());
    let limited = |kernels: &str| {
        let mut command = command(&folder, &["doctor", "--device", "vulkan"]);
        command.env("WOOTZ_GPU_KERNELS", kernels).output().expect("the program starts")
    };
    let plain = limited("plain");
    let said = String::from_utf8_lossy(&plain.stdout);
    assert!(plain.status.success() && said.contains("kernels: plain"), "{plain:?}");
    let wrong = limited("fast");
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(said.contains("expected plain, subgroups or matrices, found `fast`"), "{wrong:?}");
    assert_eq!(wrong.status.code(), Some(1));
    let cpu = done(&folder, &["doctor", "--device", "cpu"]);
    assert_eq!(cpu["chosen"], json!("the CPU"));
    assert!(cpu["gpus"][0]["why"].as_str().is_some_and(|why| why.contains("--device cpu")), "{cpu}");
}

#[test]
fn a_device_that_is_not_there_is_said_with_advice() {
    let folder = Folder::new("device-none");
    let generate = ["generate", "-p", "Once", "-n", "4", "-t", "0"];
    let with = |more: &[&'static str]| [&generate[..], more].concat();
    let refused = without_driver(&folder, &with(&["--device", "vulkan"]));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("no Vulkan") && said.contains("install"), "{said}");
    // Nobody asked for a GPU: the CPU computes.
    let fine = without_driver(&folder, &generate);
    assert!(fine.status.success(), "{fine:?}");
    let said = error(&folder, &with(&["--device", "cpu", "--gpu-layers", "2"]));
    assert!(said.contains("--gpu-layers"), "{said}");
    if has_vulkan(&folder) {
        let said = error(&folder, &with(&["--device", "vulkan", "--gpu-name", "no such thing"]));
        assert!(said.contains("no such thing") && said.contains("there is"), "{said}");
    }
}

#[test]
fn a_gpu_writes_what_the_cpu_writes() {
    let folder = Folder::new("device-generate");
    if !has_vulkan(&folder) {
        return;
    }
    let args = ["generate", "-p", "Once there was a", "-n", "24", "-t", "0", "--kv", "f32", "--dtype", "f32"];
    let cpu = done(&folder, &[&args[..], &["--device", "cpu"]].concat());
    for more in [&["--no-fallback"][..], &["--gpu-layers", "1"], &["--quantize", "Q8_0", "--gpu-layers", "2"]]
    {
        let on_gpu = [&args[..], &["--device", "vulkan"], more].concat();
        let found = done(&folder, &on_gpu);
        let expected = match more.contains(&"--quantize") {
            true => done(&folder, &[&args[..], &["--device", "cpu", "--quantize", "Q8_0"]].concat()),
            false => cpu.clone(),
        };
        assert_eq!(found["ids"], expected["ids"], "{more:?}");
    }
    let listed = folder.path("prompts.txt");
    std::fs::write(&listed, "Once\nThe dog\nA tree\n").expect("prompts");
    let batch =
        ["generate", "--batch-file", text(&listed), "--batch", "3", "-n", "8", "-t", "0", "--kv", "f32"];
    let lines = |device: &'static str| {
        let found = output(&folder, &[&batch[..], &["--dtype", "f32", "--device", device]].concat());
        assert!(found.status.success(), "{found:?}");
        String::from_utf8_lossy(&found.stdout).into_owned()
    };
    assert_eq!(lines("vulkan"), lines("cpu"));
}

/// Logits, loss, every gradient and optimiser steps against PyTorch's.
#[test]
fn parity_of_check_on_a_gpu() {
    let folder = Folder::new("device-check");
    if !has_vulkan(&folder) {
        return;
    }
    let model = fixtures().join("qwen3-micro");
    if !model.is_dir() {
        return println!("skipped: no qwen3-micro in {}", fixtures().display());
    }
    let reference = model.join("golden.safetensors");
    let args = ["check", text(&model), "--reference", text(&reference), "--steps", "3"];
    let found = done(&folder, &[&args[..], &["--device", "vulkan", "--no-fallback"]].concat());
    assert_eq!(found["passed"], json!(true), "{found}");
}

fn files(run: &Path, step: u64) -> Vec<Vec<u8>> {
    let folder = run.join(format!("checkpoints/step-{step:06}"));
    ["model.safetensors", "optimizer.safetensors"]
        .map(|name| std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}")))
        .to_vec()
}

/// Four steps at once, or two, a new process, and two more: the same bits, with weights in bf16 and masters beside them.
#[test]
fn a_run_on_a_gpu_is_resumed_exactly() {
    let folder = Folder::new("device-train");
    if !has_vulkan(&folder) {
        return;
    }
    let steps = |steps: &'static str, name: &'static str| {
        [&SMALL[..], &["--steps", steps, "--name", name, "--dtype", "bf16", "--schedule", "constant"]]
            .concat()
    };
    done(&folder, &steps("4", "whole"));
    done(&folder, &steps("2", "parts"));
    let (whole, parts) = (folder.path("runs/whole"), folder.path("runs/parts"));
    let more = ["train", "--resume", text(&parts), "--steps", "4", "--device", "vulkan", "--no-fallback"];
    done(&folder, &more);
    assert_eq!(files(&parts, 4), files(&whole, 4));
    let losses = |run: &Path| -> Vec<Value> {
        metrics(run).into_iter().filter_map(|mut row| row.get_mut("loss").map(Value::take)).collect()
    };
    assert_eq!(losses(&parts), losses(&whole));
}

/// A training that a software driver gets done.
const SMALL: [&str; 13] = [
    "train",
    "--batch",
    "1",
    "--seq",
    "16",
    "--device",
    "vulkan",
    "--no-fallback",
    "--val-every",
    "0",
    "--val-batches",
    "1",
    "--plain",
];

#[test]
fn a_run_that_is_killed_on_a_gpu_leaves_a_whole_checkpoint() {
    let folder = Folder::new("device-kill");
    if !has_vulkan(&folder) {
        return;
    }
    let long = ["--steps", "1000", "--save-every", "1", "--name", "killed"];
    let mut child = command(&folder, &[&SMALL[..], &long].concat())
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("the program starts");
    let second = folder.path("runs/killed/checkpoints/step-000002");
    while !second.is_dir() {
        assert!(child.try_wait().expect("its state").is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
    let saved =
        std::fs::read_dir(folder.path("runs/killed/checkpoints")).expect("checkpoints").count() as u64;
    let run = folder.path("runs/killed");
    let step = (saved + 2).to_string();
    let resumed =
        output(&folder, &["train", "--resume", text(&run), "--steps", &step, "--device", "vulkan", "--json"]);
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
}

/// Muon has no kernel: the CPU computes it and that is said, or it is an error.
#[test]
fn what_has_no_kernel_falls_back_and_is_counted() {
    let folder = Folder::new("device-fallback");
    if !has_vulkan(&folder) {
        return;
    }
    let muon = ["--optimizer", "muon", "--steps", "1"];
    let strict = [&SMALL[..], &muon, &["--name", "strict"]].concat();
    let said = error(&folder, &strict);
    assert!(said.contains("Muon has no kernel") && said.contains("--no-fallback"), "{said}");
    let free: Vec<&str> = strict.iter().copied().filter(|arg| *arg != "--no-fallback").collect();
    let found = output(&folder, &[&free[..free.len() - 1], &["free"]].concat());
    let said = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success() && said.contains("operations were computed on the CPU"), "{said}");
}

/// An adapter over quantised weights is tuned and reinforced on the GPU, on policy.
#[test]
fn tuning_and_reinforcing_on_a_gpu() {
    let folder = Folder::new("device-tune");
    if !has_vulkan(&folder) {
        return;
    }
    let model = fixtures().join("gguf/qwen3-tiny/q4_k_m.gguf");
    if !model.is_file() {
        return println!("skipped: no gguf/qwen3-tiny in {}", fixtures().display());
    }
    let device = ["--device", "vulkan", "--no-fallback"];
    let samples = folder.path("samples.jsonl");
    let line = |i: usize| {
        format!("{}\n", json!({"prompt": format!("{i} and"), "completion": format!(" {}", i + 1)}))
    };
    std::fs::write(&samples, (0..6).map(line).collect::<String>()).expect("samples");
    let sft = ["sft", text(&model), "--data", text(&samples), "--steps", "2", "--name", "tuned"];
    done(&folder, &[&sft[..], &device].concat());
    let tuned = metrics(&folder.path("runs/tuned"));
    assert!(tuned.iter().filter_map(|row| row["loss"].as_f64()).all(f64::is_finite), "{tuned:?}");

    let prompts = folder.path("prompts.jsonl");
    let line = |i: usize| format!("{}\n", json!({"prompt": format!("Name thing {i}:"), "answer": "e"}));
    std::fs::write(&prompts, (0..8).map(line).collect::<String>()).expect("prompts");
    let grpo = [
        &[
            "grpo",
            text(&model),
            "--data",
            text(&prompts),
            "--reward",
            "contains",
            "--steps",
            "1",
            "--verify-policy",
        ][..],
        &[
            "--group-size",
            "3",
            "--prompts-per-step",
            "2",
            "--max-new-tokens",
            "5",
            "--beta",
            "0.1",
            "--top-k",
            "40",
        ],
        &["--val-prompts", "1", "--name", "reinforced"],
    ]
    .concat();
    done(&folder, &[&grpo[..], &device].concat());
    let rows = metrics(&folder.path("runs/reinforced"));
    let ratios: Vec<f64> = rows.iter().filter_map(|row| row["max_ratio_deviation"].as_f64()).collect();
    assert!(ratios.len() == 1 && ratios.iter().all(|&ratio| ratio == 0.0), "{rows:?}");
}

#[test]
fn the_gate_and_the_soak() {
    let folder = Folder::new("device-bench");
    if !has_vulkan(&folder) {
        return;
    }
    let soak = ["bench", "soak", "--device", "vulkan", "--no-fallback", "--rounds", "10", "--generate", "6"];
    let found = done(&folder, &soak);
    assert_eq!((&found["equal"], &found["fallbacks"]), (&json!(true), &json!(0)), "{found}");
    let small = ["bench", "story", "--prompt", "8", "--generate", "4", "--repeat", "1"];
    let said = error(&folder, &[&small[..], &["--device", "vulkan", "--gate", "100000"]].concat());
    assert!(said.contains("times as fast as the CPU, and the gate is 100000"), "{said}");
    let said = error(&folder, &[&small[..], &["--device", "cpu", "--gate", "2"]].concat());
    assert!(said.contains("wootz doctor"), "{said}");
}
