//! `wootz generate` and `wootz chat`, from end to end.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

fn fixtures() -> PathBuf {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    std::env::var_os("WOOTZ_FIXTURES").map_or(own.into(), PathBuf::from)
}

/// A file or folder of the reference data that is not part of the repository.
fn shared(name: &str) -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared");
    let path = std::env::var_os("WOOTZ_SHARED").map_or(default.into(), PathBuf::from).join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no {} (WOOTZ_SHARED names its folder)", path.display());
    None
}

/// A folder that is removed when it goes out of scope.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wootz-cli-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs the program with `input` at its stdin.
fn wootz(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wootz"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input); // it may have refused its arguments already
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a run that must succeed wrote to stdout.
fn success(args: &[&str]) -> String {
    let output = wootz(args, b"");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    stdout(&output)
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&success(args)).unwrap()
}

/// What a run that must fail wrote to stderr. It may not have panicked.
fn failure(code: i32, args: &[&str], input: &[u8]) -> String {
    let output = wootz(args, input);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(!message.contains("panicked"), "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    message
}

fn model(name: &str) -> String {
    fixtures().join(name).to_str().unwrap().to_owned()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// Folders of the fixtures with a model, a tokenizer and a reference.
fn models() -> Vec<PathBuf> {
    let entries = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let complete = |path: &PathBuf| {
        ["config.json", "tokenizer.json", "golden.json"].iter().all(|f| path.join(f).exists())
    };
    let mut found: Vec<PathBuf> = entries.filter(complete).collect();
    found.sort();
    assert!(!found.is_empty(), "no model in {}", fixtures().display());
    found
}

#[test]
fn parity_greedy_text_of_every_fixture() {
    for folder in models() {
        let golden = &read_json(&folder.join("golden.json"))["greedy"];
        let (prompt, whole) = (ids(&golden["prompt_ids"]), ids(&golden["ids"]));
        let count = (whole.len() - prompt.len()).to_string();
        let text = golden["prompt"].as_str().unwrap();
        for kv in ["f16", "f32"] {
            let folder = folder.to_str().unwrap();
            let result =
                json(&["generate", folder, "-p", text, "-n", &count, "-t", "0", "--json", "--kv", kv]);
            assert_eq!(ids(&result["prompt_ids"]), prompt, "{folder}");
            assert_eq!(ids(&result["ids"]), whole[prompt.len()..], "{folder} {kv}");
        }
    }
}

#[test]
fn parity_real_models_tell_their_stories() {
    for name in ["stories260k", "babyllama"] {
        let Some(folder) = shared(&format!("fixtures/real/{name}")) else { return };
        let golden = read_json(&folder.join("golden.json"));
        for (prompt, want) in golden["greedy_80_new_tokens"].as_object().unwrap() {
            for file in ["", "model.gguf", "llama2c.bin"] {
                let path = folder.join(file);
                let path = path.to_str().unwrap();
                let result = json(&[
                    "generate",
                    path,
                    "-p",
                    prompt,
                    "-n",
                    "80",
                    "-t",
                    "0",
                    "--threads",
                    "1",
                    "--json",
                    "--echo",
                ]);
                let all = [ids(&result["prompt_ids"]), ids(&result["ids"])].concat();
                assert_eq!(all, ids(&want["ids"]), "{path}: {prompt}");
                assert_eq!(result["text"], want["text"], "{path}: {prompt}");
                let text = success(&[
                    "generate",
                    path,
                    "-p",
                    prompt,
                    "-n",
                    "80",
                    "-t",
                    "0",
                    "--threads",
                    "1",
                    "--echo",
                ]);
                assert_eq!(text, format!("{}\n", want["text"].as_str().unwrap()), "{path}: {prompt}");
            }
        }
    }
}

#[test]
fn json_holds_what_scripts_read() {
    let path = model("qwen3-micro");
    let args = ["generate", &path, "-p", "The king", "-n", "6", "--seed", "3", "--json", "--logprobs", "2"];
    let result = json(&args);
    assert_eq!(ids(&result["ids"]).len(), 6);
    assert_eq!(result["logprobs"].as_array().unwrap().len(), 6);
    assert!(result["logprobs"].as_array().unwrap().iter().all(|l| l.as_f64().unwrap() <= 0.0));
    for top in result["top_logprobs"].as_array().unwrap() {
        assert_eq!(top.as_array().unwrap().len(), 2);
        assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
    }
    assert_eq!((&result["finish_reason"], &result["seed"]), (&"length".into(), &3.into()));
    for key in ["load", "first_token", "prefill", "decode"] {
        assert!(result[format!("{key}_seconds")].as_f64().unwrap() > 0.0, "{key}");
    }
    for key in ["prefill", "decode"] {
        assert!(result[format!("{key}_tokens_per_second")].as_f64().unwrap() > 0.0, "{key}");
    }
    // The same seed tells the same, on any number of threads, with guesses or without.
    let more = json(&[&args[..], &["--threads", "1", "--lookup"]].concat());
    assert_eq!((&more["ids"], &more["logprobs"]), (&result["ids"], &result["logprobs"]));
    let other = json(&["generate", &path, "-p", "The king", "-n", "6", "--seed", "4", "--json"]);
    assert_ne!(other["ids"], result["ids"]);
    assert_eq!(other["logprobs"], Value::Null);
    // Greedy log-probabilities are those of the most likely token.
    let greedy =
        json(&["generate", &path, "-p", "The king", "-n", "6", "-t", "0", "--json", "--logprobs", "1"]);
    for (i, id) in ids(&greedy["ids"]).into_iter().enumerate() {
        assert_eq!(greedy["top_logprobs"][i][0]["id"], id);
        assert_eq!(greedy["top_logprobs"][i][0]["logprob"], greedy["logprobs"][i]);
    }
}

#[test]
fn prompts_come_from_flags_files_and_stdin() {
    let (path, folder) = (model("llama-micro"), Folder::new());
    let tail = ["-n", "8", "-t", "0", "--json"];
    let run = |args: &[&str]| json(&[&["generate", &path], args, &tail].concat());
    let flag = run(&["-p", "The king said"]);
    for args in [&["-p", "-"][..], &[]] {
        let output = wootz(&[&["generate", &path][..], args, &tail].concat(), b"The king said");
        let piped: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(piped["ids"], flag["ids"]);
    }
    let bytes: Vec<u8> = ids(&flag["prompt_ids"]).iter().flat_map(|&id| (id as u32).to_le_bytes()).collect();
    let tokens = folder.file("tokens.bin", bytes);
    let from_tokens = run(&["--tokens", &tokens]);
    assert_eq!((&from_tokens["ids"], &from_tokens["prompt_ids"]), (&flag["ids"], &flag["prompt_ids"]));
    // Nothing to begin with but the token that begins every text.
    assert_eq!(ids(&run(&["-p", ""])["prompt_ids"]), [1]);
    assert_eq!(
        ids(&run(&["-p", "The king said", "--no-special"])["prompt_ids"]),
        ids(&flag["prompt_ids"])[1..]
    );
    let echo = run(&["-p", "The king said", "--echo"]);
    assert_eq!(echo["text"], format!("The king said{}", flag["text"].as_str().unwrap()));
}

#[test]
fn a_batch_is_the_same_as_its_prompts_alone() {
    let (path, folder) = (model("gemma3-micro"), Folder::new());
    let prompts = ["The king said", "A", "Once upon a time there was a very long prompt", "What light", "I"];
    let plain = folder.file("prompts.txt", prompts.join("\n\n"));
    let lines = prompts.map(|prompt| serde_json::json!({ "prompt": prompt, "id": 7 }).to_string());
    let jsonl = folder.file("prompts.jsonl", lines.join("\n"));
    let tail = ["-n", "12", "-t", "0", "--json", "--logprobs"];
    let alone = prompts.map(|prompt| json(&[&["generate", &path, "-p", prompt], &tail[..]].concat()));
    for file in [&plain, &jsonl] {
        for batch in ["2", "16"] {
            let args = [&["generate", &path, "--batch-file", file, "--batch", batch], &tail[..]].concat();
            let together = json(&args);
            assert_eq!(together.as_array().unwrap().len(), prompts.len());
            for (one, whole) in alone.iter().zip(together.as_array().unwrap()) {
                for key in ["text", "ids", "prompt_ids", "logprobs", "finish_reason"] {
                    assert_eq!(one[key], whole[key], "{key}");
                }
            }
        }
    }
    let text = success(&["generate", &path, "--batch-file", &plain, "-n", "12", "-t", "0"]);
    let blocks = alone.iter().enumerate();
    let want: String =
        blocks.map(|(i, one)| format!("==> {} <==\n{}\n", i + 1, one["text"].as_str().unwrap())).collect();
    assert_eq!(text, want);
    let broken = folder.file("broken.jsonl", "{\"prompt\": \"a\"}\n\n{\"text\": \"b\"}\n");
    assert!(failure(1, &["generate", &path, "--batch-file", &broken], b"").contains("line 3"));
    let empty = folder.file("empty.txt", "\n");
    assert!(failure(1, &["generate", &path, "--batch-file", &empty], b"").contains("no prompts"));
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let path = model("qwen2-micro");
    let args = ["generate", &path, "-p", "The king said", "-n", "24", "-t", "0", "--json"];
    let whole = json(&args);
    let text = whole["text"].as_str().unwrap();
    // From the middle of the text, across tokens as it happens.
    let letters: Vec<char> = text.chars().collect();
    let stop: String = letters[letters.len() / 2..letters.len() / 2 + 4].iter().collect();
    let cut = &text[..text.find(&stop).unwrap()];
    for lookup in [&[][..], &["--lookup", "5"]] {
        let stopped = json(&[&args[..], &["--stop", &stop, "--stop", "never in it"], lookup].concat());
        assert_eq!((stopped["text"].as_str().unwrap(), &stopped["finish_reason"]), (cut, &"stop".into()));
        assert!(ids(&stopped["ids"]).len() < 24);
        assert!(ids(&whole["ids"]).starts_with(&ids(&stopped["ids"])));
    }
    let streamed =
        success(&["generate", &path, "-p", "The king said", "-n", "24", "-t", "0", "--stop", &stop]);
    assert_eq!(streamed, format!("{cut}\n"));
}

#[test]
fn an_end_token_ends_the_text_unless_ignored() {
    let path = model("qwen3-micro");
    // Qwen's <|im_end|>, made certain.
    let args = ["generate", &path, "-p", "The", "-n", "5", "--json", "--logit-bias", "511=100"];
    let ended = json(&args);
    assert_eq!((ids(&ended["ids"]), &ended["finish_reason"]), (vec![511], &"end".into()));
    assert_eq!(ended["text"], "");
    let ignored = json(&[&args[..], &["--ignore-eos"]].concat());
    assert_eq!((ids(&ignored["ids"]), &ignored["finish_reason"]), (vec![511; 5], &"length".into()));
    let full = json(&[
        "generate",
        &path,
        "-p",
        "The king said",
        "-n",
        "-1",
        "--ctx",
        "20",
        "--ignore-eos",
        "--json",
    ]);
    assert_eq!(full["finish_reason"], "context_full");
    assert_eq!(ids(&full["ids"]).len() + ids(&full["prompt_ids"]).len(), 20);
}

#[test]
fn the_built_in_model_needs_no_arguments() {
    let cache = Folder::new();
    for _ in 0..2 {
        // The second time the file is there.
        let output = Command::new(env!("CARGO_BIN_EXE_wootz"))
            .args(["generate", "-n", "20", "--seed", "1"])
            .env("XDG_CACHE_HOME", &cache.0)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(stdout(&output).starts_with("Once upon a time"), "{}", stdout(&output));
        assert!(stdout(&output).len() > 40, "{}", stdout(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("tok/s"));
    }
    assert_eq!(fs::read_dir(cache.0.join("wootz")).unwrap().count(), 1);
}

#[test]
fn nobody_reading_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wootz"))
        .args([
            "generate",
            &model("llama-micro"),
            "-p",
            "The king",
            "-n",
            "200",
            "--ctx",
            "256",
            "--ignore-eos",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !message.contains("panicked") && !message.contains("error"),
        "{message}"
    );
}

#[test]
fn what_cannot_be_done_is_explained() {
    let (path, folder) = (model("llama-micro"), Folder::new());
    let fails = |args: &[&str]| failure(1, &[&["generate"], args].concat(), b"");
    let missing = fails(&["/no/such/model.gguf", "-p", "a"]);
    assert!(missing.contains("/no/such/model.gguf"), "{missing}");
    assert!(fails(&["some/model", "-p", "a", "--offline"]).contains("hub's cache"));
    let empty = folder.file("empty.gguf", "");
    assert!(fails(&[&empty, "-p", "a"]).contains("empty"));
    let bare = Folder::new();
    let bare_path = bare.0.to_str().unwrap();
    let message = fails(&[bare_path, "-p", "a"]);
    assert!(message.contains(bare_path) && message.contains("json"), "{message}");
    let long = fails(&[&path, "-p", "The king said", "--ctx", "3"]);
    assert!(long.contains("7 tokens") && long.contains("context of 3"), "{long}");
    assert!(fails(&[&path, "--tokens", &folder.file("odd.bin", "abcde")]).contains("multiple of 4"));
    assert!(fails(&[&path, "--tokens", &folder.file("none.bin", "")]).contains("no tokens"));
    assert!(fails(&[&path, "--tokens", &folder.file("big.bin", [0, 0, 0, 9])]).contains("token 150994944"));
    assert!(fails(&[&path, "-p", "a", "--logit-bias", "99999=1"]).contains("token 99999"));
    assert!(fails(&[&path, "--batch-file", "/no/such/file"]).contains("/no/such/file"));
    let invalid = failure(1, &["generate", &path], b"abc\xff");
    assert!(invalid.contains("UTF-8") && invalid.contains("byte 3"), "{invalid}");
    // GPT-2's tokenizer adds no token before a text.
    assert!(fails(&[&model("qwen3-micro"), "-p", ""]).contains("empty"));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let path = model("llama-micro");
    let cases: &[&[&str]] = &[
        &["-t", "-1"],
        &["-t", "nan"],
        &["--top-p", "2"],
        &["--top-p", "NaN"],
        &["--top-k", "-1"],
        &["--min-p", "1.5"],
        &["--typical", "0"],
        &["--repeat-penalty", "0"],
        &["--logit-bias", "x=1"],
        &["-n", "-2"],
        &["-n", "many"],
        &["--ctx", "0"],
        &["--threads", "0"],
        &["--kv", "int4"],
        &["--dtype", "f64"],
        &["--tokens", "a", "--batch-file", "b"],
        &["--no-such-flag"],
    ];
    for case in cases {
        failure(2, &[&["generate", &path, "-p", "a"], *case].concat(), b"");
    }
    failure(2, &[], b"");
}

#[test]
fn parity_chat_renders_as_the_reference() {
    let Some(folder) = shared("templates") else { return };
    let mut cases = 0;
    let scratch = Folder::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.to_str().unwrap().strip_suffix(".golden.json") else { continue };
        let template = format!("{name}.jinja");
        // Some write today's date.
        if fs::read_to_string(&template).unwrap().contains("strftime_now") {
            continue;
        }
        let golden = read_json(&path);
        for (case, want) in golden["cases"].as_object().unwrap() {
            let mut input = want["input"].clone();
            for token in ["bos_token", "eos_token"] {
                input[token] = golden[token].clone();
            }
            let file = scratch.file("input.json", input.to_string());
            // With a model its variables stand below those of the input.
            let model = model("qwen3-micro");
            for model in [&[][..], &[model.as_str()]] {
                let args = [&["chat"], model, &["--template", &template, "--render", &file]].concat();
                match want["output"].as_str() {
                    Some(want) => assert_eq!(success(&args), want, "{name} {case}"),
                    None => assert!(failure(1, &args, b"").contains("chat template"), "{name} {case}"),
                }
            }
            cases += 1;
        }
    }
    assert!(cases > 0);
}

#[test]
fn chat_renders_with_the_models_own_template() {
    let (path, folder) = (model("qwen3-micro"), Folder::new());
    let input = r#"{"messages": [{"role": "user", "content": "Hi\n"}], "add_generation_prompt": true}"#;
    let file = folder.file("input.json", input);
    let rendered = success(&["chat", &path, "--render", &file]);
    assert_eq!(rendered, "<|im_start|>user\nHi\n<|im_end|>\n<|im_start|>assistant\n");
    let refuses = folder.file("refuses.jinja", "{{ raise_exception('roles must alternate') }}");
    let message = failure(1, &["chat", &path, "--template", &refuses, "--render", &file], b"");
    assert!(message.contains("roles must alternate"), "{message}");
    let broken = folder.file("broken.jinja", "{% for %}");
    assert!(
        failure(1, &["chat", &path, "--template", &broken, "--render", &file], b"").contains("broken.jinja")
    );
    for (name, text) in [("list.json", "[]"), ("bad.json", "{")] {
        let file = folder.file(name, text);
        assert!(failure(1, &["chat", &path, "--render", &file], b"").contains(name));
    }
    assert!(failure(1, &["chat", &path, "--render", "/no/such/input"], b"").contains("/no/such/input"));
    let none = failure(1, &["chat", &model("llama-micro")], b"hello\n");
    assert!(none.contains("--template") && none.contains("--plain"), "{none}");
}

#[test]
fn a_conversation_with_commands() {
    let (path, folder) = (model("qwen3-micro"), Folder::new());
    let saved = folder.0.join("saved.json");
    let saved = saved.to_str().unwrap();
    let args = ["chat", &path, "-n", "6", "-t", "0", "--stats", "--system", "Be brief."];
    let input = format!(
        "Hello\n/help\nAnd \\\nyou?\n/save {saved}\n/retry\n/nonsense\n/clear\nHello\n/quit\nnever read\n"
    );
    let output = wootz(&args, input.as_bytes());
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{notes}");
    let conversation = read_json(Path::new(saved));
    let roles: Vec<&str> =
        conversation["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(conversation["messages"][3]["content"], "And \nyou?");
    assert!(
        notes.contains("/retry") && notes.contains("/nonsense is no command") && notes.contains("forgotten")
    );
    // Greedy answers repeat: the first again after /clear, the second at /retry.
    let answer = |i: usize| conversation["messages"][i]["content"].as_str().unwrap();
    let want = format!("{0}\n{1}\n{1}\n{0}\n", answer(2), answer(4));
    assert_eq!(stdout(&output), want);
    // The second turn reads only what is new.
    let known: Vec<usize> = notes
        .lines()
        .filter_map(|line| line.split_once("tokens, ")?.1.split_once(" of them known")?.0.parse().ok())
        .collect();
    assert!(known.len() == 4 && known[0] == 0 && known[1] > 20 && known[2] > known[1], "{notes}");

    // A saved conversation goes on where it was; its answer is the one to the whole.
    let loaded = wootz(&args, format!("/load {saved}\n/retry\n").as_bytes());
    assert_eq!(stdout(&loaded), format!("{}\n", answer(4)));
    // It is an input of --render too.
    assert!(
        success(&["chat", &path, "--render", saved]).starts_with("<|im_start|>system\nBe brief.<|im_end|>")
    );
}

#[test]
fn errors_do_not_end_a_conversation() {
    let (path, folder) = (model("qwen3-micro"), Folder::new());
    let fussy = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}\
                 {{ m.content }}{% endfor %}";
    let template = folder.file("fussy.jinja", fussy);
    let input = "/retry\n/system be nice\nHello\n/system\nHello\n/load /no/such/file\n/save\n";
    let args = ["chat", &path, "-n", "4", "-t", "0", "--template", &template];
    let output = wootz(&args, input.as_bytes());
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{notes}");
    for part in ["nothing to answer", "no system role", "/no/such/file", "name of the file is missing"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    // One answer: the messages that were refused left nothing behind.
    let alone = wootz(&args, b"Hello\n");
    assert!(!stdout(&alone).is_empty());
    assert_eq!(stdout(&output), stdout(&alone));
    // Too long for the context: said, and forgotten.
    let long = format!("{}\nHi\n", "word ".repeat(300));
    let output = wootz(&["chat", &path, "-n", "4", "-t", "0", "--ctx", "100"], long.as_bytes());
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(
        notes.contains("context of 100") && output.status.success() && !stdout(&output).is_empty(),
        "{notes}"
    );
}

#[test]
fn plain_chat_continues_the_text() {
    let path = model("llama-micro");
    let output = wootz(&["chat", &path, "--plain", "-n", "8", "-t", "0"], b"The king said\n");
    let want = json(&["generate", &path, "-p", "The king said", "-n", "8", "-t", "0", "--json"]);
    assert_eq!(stdout(&output), format!("{}\n", want["text"].as_str().unwrap()));
    let output = wootz(
        &["chat", &path, "--plain", "-n", "8", "-t", "0"],
        b"The king said\n and\n/clear\nThe king said\n",
    );
    assert_eq!(stdout(&output).lines().next(), stdout(&output).lines().last());
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_generation_with_its_statistics() {
    use std::io::Read as _;
    let mut child = Command::new(env!("CARGO_BIN_EXE_wootz"))
        .args([
            "generate",
            &model("llama-micro"),
            "-p",
            "The king",
            "-n",
            "-1",
            "--ctx",
            "1000000",
            "--ignore-eos",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 20]).unwrap(); // it has begun
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("tok/s"));
}
