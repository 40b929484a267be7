//! `wootz grpo`, end to end: answers are drawn, judged and learnt from, a run is resumed, and what it says of bad input.

mod common;
mod program;
mod runs;

use common::{Folder, fixtures, text};
use program::{done, error, output};
use runs::metrics;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Prompts of several forms, with what a reward may ask for.
fn write_prompts(folder: &Folder) -> PathBuf {
    let path = folder.path("prompts.jsonl");
    let line = |i: usize| match i % 2 {
        0 => json!({"prompt": format!("Name thing {i}:"), "answer": "e"}),
        _ => json!({"messages": [{"role": "user", "content": format!("Thing {i}?")}], "answer": "a"}),
    };
    let lines: String = (0..24).map(|i| format!("{}\n", line(i))).collect();
    std::fs::write(&path, lines).expect("prompts");
    path
}

fn rollouts(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("rollouts.jsonl")).expect("answers");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn checkpoint(run: &Path, step: u64, files: &[&str]) -> Vec<Vec<u8>> {
    let folder = run.join(format!("checkpoints/step-{step:06}"));
    files
        .iter()
        .map(|name| std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}")))
        .collect()
}

/// The answers of a step, as a reward that asks for the letter in `answer` sees them.
const SMALL: [&str; 8] =
    ["--group-size", "4", "--prompts-per-step", "3", "--max-new-tokens", "12", "--val-prompts", "4"];

/// Seven steps at once, or three, a new process, and four more: the same bits, on one thread and on two; also where the third
/// step is in the middle of some answers' use. Every step is on policy.
#[test]
fn a_resumed_run_equals_one_that_was_not_interrupted() {
    let folder = Folder::new("grpo-resume");
    let data = write_prompts(&folder);
    let (float, quantised) = (fixtures().join("qwen3-micro"), fixtures().join("gguf/qwen3-tiny/q4_k_m.gguf"));
    let adapter = &["adapter_model.safetensors", "optimizer.safetensors"][..];
    let weights = &["model.safetensors"][..];
    done(
        &folder,
        &[
            &[
                "grpo",
                text(&float),
                "--data",
                text(&data),
                "--reward",
                "contains",
                "--steps",
                "1",
                "--name",
                "first",
            ],
            &SMALL[..],
        ]
        .concat(),
    );
    let given = folder.path("runs/first");
    for (i, (model, more, files)) in [
        (&float, &["--iterations", "2", "--beta", "0.1", "--top-k", "40", "--top-p", "0.95"][..], adapter),
        (
            &float,
            &["--adapter", text(&given), "--beta", "0.1", "--dtype", "bf16", "--loss", "gspo"][..],
            adapter,
        ),
        (
            &quantised,
            &["--refill", "--loss", "dapo", "--temperature", "0.9", "--lora-targets", "q,v"][..],
            adapter,
        ),
        (&float, &["--full-param"][..], weights),
        (&float, &["--accurate", "--beta", "0.05", "--loss", "cispo", "--iterations", "2"][..], weights),
    ]
    .into_iter()
    .enumerate()
    {
        let common = [
            &[
                "grpo",
                text(model),
                "--data",
                text(&data),
                "--reward",
                "contains",
                "--steps",
                "7",
                "--val-every",
                "3",
            ],
            &["--lr", "0.003", "--verify-policy"][..],
            &SMALL[..],
        ]
        .concat();
        let run = |name: &str, threads: &str, every: &str| {
            let own = ["--name", name, "--threads", threads, "--save-every", every, "--keep", "0"];
            done(&folder, &[&common[..], more, &own].concat())
        };
        let (whole, parts) = (format!("whole-{i}"), format!("parts-{i}"));
        let result = run(&whole, "2", "0");
        assert_eq!((result["complete"].clone(), result["step"].clone()), (true.into(), 7.into()));
        run(&parts, "1", "3");
        let (whole, parts) = (folder.path("runs").join(whole), folder.path("runs").join(parts));
        for step in [6, 7] {
            std::fs::remove_dir_all(parts.join(format!("checkpoints/step-00000{step}")))
                .expect("a checkpoint goes");
        }
        done(&folder, &["grpo", "--resume", text(&parts)]);
        assert_eq!(metrics(&parts), metrics(&whole), "{more:?}");
        assert_eq!(rollouts(&parts), rollouts(&whole), "{more:?}");
        assert!(checkpoint(&parts, 7, files) == checkpoint(&whole, 7, files), "{more:?}: other bits");

        let rows = metrics(&whole);
        // Every third row is an update that the answers were drawn for, or all are.
        let fresh: Vec<&Value> = rows.iter().filter(|row| row["reward_mean"].is_number()).collect();
        assert!(!fresh.is_empty());
        for row in fresh.iter().filter(|row| row["max_ratio_deviation"].is_number()) {
            assert_eq!(row["max_ratio_deviation"], 0.0, "{more:?}");
        }
        if more.contains(&"--beta") {
            assert_eq!(rows[1]["kl"], 0.0, "{more:?}: the run begins with its reference");
            assert!(rows.iter().any(|row| row["kl"].as_f64().is_some_and(|kl| kl > 0.0)), "{more:?}");
        }
        if more.contains(&"--iterations") {
            let deviates = |row: &Value| row["max_ratio_deviation"].as_f64().is_some_and(|off| off > 0.0);
            assert!(rows.iter().any(deviates), "{more:?}: the second update is off policy");
        }
        assert!(rows[1]["entropy"].as_f64().is_some_and(|entropy| entropy > 0.0), "{more:?}");
    }
}

/// Without arguments the built-in model learns to speak of its hero again, whom it is asked about by names that it never
/// learnt with.
#[test]
fn the_built_in_task_is_learnt() {
    let folder = Folder::new("grpo-default");
    for seed in ["1", "2", "3"] {
        let sizes = ["--steps", "8", "--prompts-per-step", "5", "--val-prompts", "40", "--lr", "0.001"];
        let own = ["--seed", seed, "--name", seed, "--verify-policy", "--val-every", "0"];
        let args = [&["grpo"], &sizes[..], &own].concat();
        let result = done(&folder, &args);
        let rows = metrics(&folder.path("runs").join(seed));
        let rewards: Vec<f64> = rows.iter().filter_map(|row| row["val_reward"].as_f64()).collect();
        assert!(rewards.len() == 2 && rewards[1] > rewards[0] + 0.2, "seed {seed}: {rewards:?}");
        assert_eq!(result["val_reward"].as_f64(), rewards.last().copied());
    }
    // What was learnt is an adapter like any other.
    let run = folder.path("runs/1");
    let eval = |more: &[&str]| {
        let result = done(&folder, &[&["eval", "story", "--count", "40", "--right", "1"], more].concat());
        (result["reward_mean"].as_f64().expect("a reward"), result["pass_at"]["1"].as_f64().expect("a share"))
    };
    let (before, after) = (eval(&[]), eval(&["--adapter", text(&run)]));
    assert!(after.0 > before.0 + 0.2 && after.0 == after.1, "{before:?} {after:?}");
}

#[test]
fn answers_are_judged_again() {
    let folder = Folder::new("grpo-rescore");
    let data = write_prompts(&folder);
    let model = fixtures().join("qwen3-micro");
    let args =
        ["grpo", text(&model), "--data", text(&data), "--reward", "contains", "--steps", "2", "--name", "r"];
    done(&folder, &[&args[..], &SMALL].concat());
    let run = folder.path("runs/r");
    let answers = rollouts(&run);
    assert_eq!(answers.len(), 24);
    for answer in &answers {
        let said = answer["completion"].as_str().expect("text");
        let wanted = answer["fields"]["answer"].as_str().expect("a field");
        assert_eq!(answer["reward"], if said.contains(wanted) { 1.0 } else { 0.0 });
        assert_eq!(
            answer["completion_ids"].as_array().map(Vec::len),
            answer["logprobs"].as_array().map(Vec::len)
        );
    }
    let same = done(&folder, &["grpo", "rescore", text(&run), "--reward", "contains"]);
    assert_eq!((same["answers"].clone(), same["changed"].clone()), (24.into(), 0.into()));
    std::fs::write(folder.path("new.toml"), "[[reward]]\nkind = 'regex'\npattern = '.'\nweight = 2\n")
        .expect("a spec");
    let other = done(&folder, &["grpo", "rescore", text(&run), "--reward", "new.toml", "--out", "new.jsonl"]);
    assert!(other["reward_mean"].as_f64().is_some_and(|mean| mean > 1.5), "{other}");
    let lines = std::fs::read_to_string(folder.path("new.jsonl")).expect("answers");
    assert_eq!(lines.lines().count(), 24);
    let first: Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert!(
        first["reward"].is_number() && first["parts"]["regex"].is_number() && first["fields"].is_object(),
        "{first}"
    );
}

/// A reward that fails for some answers leaves these out, with a count; one that fails for all ends the run.
#[cfg(unix)]
#[test]
fn rewards_that_fail_are_named_and_survived() {
    let folder = Folder::new("grpo-fail");
    let data = write_prompts(&folder);
    let model = fixtures().join("qwen3-micro");
    let script = |name: &str, body: &str| {
        std::fs::write(folder.path(name), body).expect("a script");
        format!("command:sh {name}")
    };
    // Judges three of four, says NaN of the rest.
    let some = script(
        "some.sh",
        "n=0\nwhile read -r line; do n=$((n+1)); id=$(printf %s \"$line\" | sed 's/.*\"id\":\\([0-9]*\\).*/\\1/')\n\
         if [ $((n % 4)) = 0 ]; then echo \"{\\\"id\\\":$id,\\\"error\\\":\\\"no idea\\\"}\"; else echo \"{\\\"id\\\":$id,\\\"reward\\\":$((n % 3))}\"; fi; done\n",
    );
    let run = |reward: &str, name: &str| {
        let args =
            ["grpo", text(&model), "--data", text(&data), "--steps", "2", "--reward", reward, "--name", name];
        output(&folder, &[&args[..], &SMALL, &["--plain"]].concat())
    };
    let survived = run(&some, "some");
    let stderr = String::from_utf8_lossy(&survived.stderr).into_owned();
    assert!(survived.status.success(), "{stderr}");
    assert!(stderr.contains("answers could not be judged") && stderr.contains("no idea"), "{stderr}");
    let rows = metrics(&folder.path("runs/some"));
    assert!(rows.iter().any(|row| row["unjudged"].as_u64().is_some_and(|count| count > 0)));
    let answers = rollouts(&folder.path("runs/some"));
    assert!(answers.iter().any(|answer| answer["error"].as_str().is_some_and(|e| e.contains("no idea"))));
    assert!(answers.iter().all(|answer| answer["error"].is_string() != answer["reward"].is_number()));

    let none = script("none.sh", "echo garbage\n");
    let failed = run(&none, "none");
    let stderr = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("none of 12 answers could be judged"), "{stderr}");
}

#[test]
fn groups_without_a_difference_teach_nothing() {
    let folder = Folder::new("grpo-equal");
    let data = write_prompts(&folder);
    let model = fixtures().join("qwen3-micro");
    let args = [
        "grpo",
        text(&model),
        "--data",
        text(&data),
        "--reward",
        "regex:zzzzzz",
        "--steps",
        "3",
        "--name",
        "e",
    ];
    done(&folder, &[&args[..], &SMALL].concat());
    let rows = metrics(&folder.path("runs/e"));
    let skipped = rows.iter().filter(|row| row["skipped"].is_string()).count();
    assert_eq!(skipped, 3, "{rows:?}");
    assert!(
        rows.iter().filter(|row| row["skipped"].is_string()).all(|row| row["groups_without_signal"] == 3)
    );
    // Nothing was measured, so nothing is known of how losses usually are.
    let newest = folder.path("runs/e/checkpoints/step-000003/state.json");
    let state = std::fs::read_to_string(&newest).unwrap_or_else(|e| panic!("{}: {e}", newest.display()));
    let state: Value = serde_json::from_str(&state).expect("JSON");
    assert_eq!(state["guard"], json!({ "loss": [], "grad_norm": [] }), "{state}");
}

#[test]
fn answers_are_counted() {
    let folder = Folder::new("grpo-eval");
    let data = write_prompts(&folder);
    let model = fixtures().join("qwen3-micro");
    for source in [&["--task", "copy"][..], &["--data", text(&data), "--reward", "contains"]] {
        let args = [&["eval", text(&model), "--samples", "5", "--count", "8", "-n", "9"], source].concat();
        let result = done(&folder, &args);
        assert_eq!(
            (result["problems"].as_u64(), result["answers"].as_u64()),
            (Some(8), Some(40)),
            "{result}"
        );
        let at = |k: &str| result["pass_at"][k].as_f64();
        assert!(
            at("1") <= at("2") && at("2") <= at("4") && at("4").is_some() && at("8").is_none(),
            "{result}"
        );
        assert_eq!(
            done(&folder, &[&args[..], &["--threads", "1"]].concat())["reward_mean"],
            result["reward_mean"]
        );
    }
    let said = error(&folder, &["eval", text(&model), "--data", text(&data)]);
    assert!(said.contains("no reward"), "{said}");
}

#[test]
fn bad_input_is_named() {
    let folder = Folder::new("grpo-bad");
    let data = write_prompts(&folder);
    let model = fixtures().join("qwen3-micro");
    let (model, data) = (text(&model), text(&data));
    std::fs::write(
        folder.path("bad.jsonl"),
        "{\"prompt\": \"a\", \"answer\": \"b\"}\n{\"question\": \"a\"}\n",
    )
    .expect("a file");
    let long = format!("{{\"prompt\": \"{}\", \"answer\": \"b\"}}\n", "many words ".repeat(200));
    std::fs::write(folder.path("long.jsonl"), long).expect("a file");
    for (args, expected) in [
        (&["grpo", model, "--data", data][..], "no reward"),
        (&["grpo", model, "--data", "none.jsonl", "--reward", "exact", "-n", "5"], "none.jsonl"),
        (
            &["grpo", model, "--data", data, "--reward", "exact", "-n", "256"],
            // Answers that nobody has given a length leave half of the 256 to the prompt; asked for all, there is none.
            "--max-new-tokens 256: the model's longest sequence is 256",
        ),
        (
            &["grpo", model, "--data", "bad.jsonl", "--reward", "exact", "-n", "5"],
            "bad.jsonl:2: expected a `prompt`",
        ),
        (&["grpo", model, "--data", "long.jsonl", "--reward", "exact", "-n", "5"], "1 prompts are too long"),
        (&["grpo", model, "--data", data, "--reward", "exakt"], "exakt"),
        (&["grpo", model, "--data", data, "--reward", "json", "--group-size", "1"], "--group-size 1"),
        (&["grpo", model, "--data", data, "--reward", "exact", "--temperature", "0"], "--temperature 0"),
        (&["grpo", model, "--data", data, "--reward", "exact", "-n", "5", "--end", "two words"], "--end"),
        (&["grpo", model, "--task", "chess"], "--task chess: expected one of heroes, arithmetic"),
        (&["grpo", model, "--data", data, "--reward", "exact", "-n", "5", "--memory", "1"], "MiB are needed"),
        (&["grpo", "rescore", "nowhere", "--reward", "exact"], "nowhere"),
        (&["grpo", "--resume", "nowhere"], "nowhere: is not a run"),
    ] {
        let said = error(&folder, args);
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    assert!(!folder.path("runs").exists(), "nothing was begun");
    // Bad lines are left out where that was asked for.
    let args = [
        "grpo",
        model,
        "--data",
        "bad.jsonl",
        "--reward",
        "contains",
        "--skip-bad",
        "--steps",
        "1",
        "--val-share",
        "0",
    ];
    done(&folder, &[&args[..], &SMALL].concat());
}
