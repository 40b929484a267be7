//! Rewards from programs: those that behave, and those that do not.
//!
//! The programs are shell scripts. A question begins with `{"id":7,`, so `id=${line#*:}; id=${id%%,*}` is its id.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use wootz_rewards::{Answer, Failure, Fields, Rewards, Score};

/// Reads questions; `$id` is the id of each.
const EACH: &str = "while read -r line; do id=${line#*:}; id=${id%%,*};";

/// Rewards with a script as their only one.
fn rewards(script: &str, options: &str) -> Rewards {
    let text = format!("[[reward]]\nkind = 'command'\ncommand = ['sh', '-c', '''{script}''']\n{options}");
    Rewards::from_toml(&text, Path::new("f.toml")).unwrap()
}

/// What is said of these texts.
fn score(rewards: &Rewards, texts: &[&str]) -> Vec<Result<Score, Failure>> {
    let fields = Fields::new();
    let answer = |text| Answer { prompt: "p", text, tokens: 3, truncated: false, fields: &fields };
    let answers: Vec<_> = texts.iter().map(|text| answer(*text)).collect();
    let scores = rewards.score(&answers);
    assert_eq!(scores.len(), texts.len());
    scores
}

fn totals(rewards: &Rewards, texts: &[&str]) -> Vec<f64> {
    score(rewards, texts).into_iter().map(|score| score.unwrap().total).collect()
}

/// The failure of a single answer.
fn failure(script: &str, options: &str, text: &str) -> Failure {
    let failure = score(&rewards(script, options), &[text]).remove(0).unwrap_err();
    assert_eq!(failure.reward, "command");
    failure
}

/// A path that no other test has.
fn path(name: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("wootz-rewards-{}-{n}-{name}", std::process::id()))
}

#[test]
fn a_program_is_kept_running() {
    let count = rewards(
        &format!("n=0; {EACH} n=$((n+1)); echo \"{{\\\"id\\\":$id,\\\"reward\\\":$n}}\"; done"),
        "processes = 1",
    );
    assert_eq!(totals(&count, &["a", "b", "c"]), [1.0, 2.0, 3.0]);
    assert_eq!(totals(&count, &["d"]), [4.0]);
    assert_eq!(totals(&count, &[]), [0.0; 0]);
}

#[test]
fn a_question_has_all_that_is_known() {
    let seen = path("question");
    let script = format!(
        "{EACH} echo \"$line\" > {}; echo \"{{\\\"id\\\":$id,\\\"reward\\\":0}}\"; done",
        seen.display()
    );
    let rewards = rewards(&script, "of = { tag = 'answer' }");
    let fields: Fields = serde_json::from_str(r#"{"prompt": "2+2=", "answer": "4", "n": [1]}"#).unwrap();
    let text = "so\n<answer>\"4\"</answer>";
    let answer = Answer { prompt: "2+2=", text, tokens: 9, truncated: true, fields: &fields };
    let without = Answer { text: "no tag", ..answer };
    let scores = rewards.score(&[without, answer]);
    assert!(scores.iter().all(Result::is_ok), "{scores:?}");
    let question: serde_json::Value = serde_json::from_str(&fs::read_to_string(&seen).unwrap()).unwrap();
    fs::remove_file(&seen).unwrap();
    let id = question["id"].clone();
    let expected = serde_json::json!({
        "id": id, "prompt": "2+2=", "completion": "\"4\"", "tokens": 9, "truncated": true,
        "fields": { "prompt": "2+2=", "answer": "4", "n": [1] },
    });
    assert_eq!(question, expected);
}

#[test]
fn answers_keep_their_order_whoever_judges_them() {
    // Each gets the length of its text, from four processes.
    let script = format!(
        "{EACH} text=${{line#*completion\\\":\\\"}}; text=${{text%%\\\"*}}; echo \"{{\\\"id\\\":$id,\\\"reward\\\":${{#text}}}}\"; done"
    );
    let rewards = rewards(&script, "processes = 4");
    let texts: Vec<String> = (0..40).map(|i| "x".repeat(i * 7 % 40)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let expected: Vec<f64> = texts.iter().map(|text| text.len() as f64).collect();
    assert_eq!(totals(&rewards, &texts), expected);
}

#[test]
fn verdicts_of_a_batch_come_in_any_order() {
    let script = "while read -r a && read -r b && read -r c; do
        for line in \"$b\" \"$c\" \"$a\"; do
            id=${line#*:}; id=${id%%,*}; text=${line#*completion\\\":\\\"}; text=${text%%\\\"*}
            echo \"{\\\"id\\\":$id,\\\"reward\\\":${#text}}\"
        done
    done";
    let rewards = rewards(script, "processes = 1\nbatch = 3");
    assert_eq!(totals(&rewards, &["x", "xx", "xxx"]), [1.0, 2.0, 3.0]);
    assert_eq!(totals(&rewards, &["xxxx", "x", "xx"]), [4.0, 1.0, 2.0]);
}

#[test]
fn a_program_that_hangs_is_killed_with_its_family() {
    let pid = path("pid");
    let script = format!("sleep 1000 & echo $! > {}; echo waiting >&2; wait", pid.display());
    let hung = rewards(&script, "time_limit = 0.3\nstart_limit = 0.3");
    let failure = score(&hung, &["x"]).remove(0).unwrap_err();
    assert_eq!(failure.tries, 2);
    assert!(failure.reason.contains("no verdict within the time limit"), "{failure}");
    assert!(failure.to_string().ends_with("; tried 2 times"), "{failure}");
    // A process that nobody has asked for its end is a zombie, which is gone as well.
    let pid = fs::read_to_string(&pid).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    let is_gone =
        || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ") || stat.contains(") X "));
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_gone() {
        assert!(Instant::now() < deadline, "{stat} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_was_owed_is_asked_again() {
    // Where it hangs, the limit is short; then it may strike again, on a busy machine, and so may the retries.
    let short = "time_limit = 0.3\nstart_limit = 0.3\nretries = 50";
    let wrong_id = "echo '{\"id\":999,\"reward\":1}'; read -r line";
    for (fault, limits) in [("sleep 1000", short), ("exit 1", ""), ("echo garbage", ""), (wrong_id, "")] {
        for batch in [1, 4] {
            let mark = path("mark");
            // Only the first start does as it should not.
            let script = format!(
                "[ -e {0} ] || {{ touch {0}; read -r line; {fault}; exit; }}
                 {EACH} echo \"{{\\\"id\\\":$id,\\\"reward\\\":1}}\"; done",
                mark.display()
            );
            let rewards = rewards(&script, &format!("processes = 1\nbatch = {batch}\n{limits}"));
            assert_eq!(totals(&rewards, &["a", "b", "c", "d"]), [1.0; 4], "{fault}, {batch}");
            fs::remove_file(&mark).unwrap();
        }
    }
}

#[test]
fn an_answer_that_breaks_the_program_fails_alone() {
    let script = format!(
        "{EACH} case $line in *poison*) echo 'Traceback: poison' >&2; exit 3;; esac; echo \"{{\\\"id\\\":$id,\\\"reward\\\":1}}\"; done"
    );
    for options in ["processes = 1", "processes = 2\nbatch = 3", "processes = 1\nbatch = 6"] {
        let texts = ["a", "b", "poison", "c", "d", "e"];
        for (text, score) in texts.iter().zip(score(&rewards(&script, options), &texts)) {
            match score {
                Ok(score) => assert!(*text != "poison" && score.total == 1.0, "{options}: {text}: {score:?}"),
                Err(failure) => {
                    assert_eq!((*text, failure.tries), ("poison", 2), "{options}: {failure}");
                    assert_eq!(
                        failure.reason,
                        "the program ended without a verdict (exit status: 3); its stderr ends: Traceback: poison"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_tried_again_is_tried_alone() {
    // It reads ahead while it thinks, and takes its thoughts with it: nothing beside a poison gets a verdict.
    let script = format!(
        "while read -r line; do case $line in *poison*) kill -9 0;; esac; printf '%s\\n' \"$line\"; done |
         {EACH} sleep 0.1; echo \"{{\\\"id\\\":$id,\\\"reward\\\":1}}\"; done"
    );
    let texts = ["poison", "a", "b", "c", "poison", "d", "e", "f"];
    let scores = score(&rewards(&script, "processes = 1\nbatch = 3"), &texts);
    for (text, score) in texts.iter().zip(scores) {
        assert_eq!(score.is_err(), *text == "poison", "{text}: {score:?}");
    }
}

#[test]
fn no_retry_means_none() {
    let found = failure("exit 0", "retries = 0", "x");
    assert_eq!((found.tries, found.to_string().contains("tried")), (1, false), "{found}");
}

#[test]
fn garbage_is_a_failure() {
    let cases = [
        ("echo hello", "expected JSON, found `hello`"),
        ("echo '[]'", "the `id` it was asked with, found []"),
        ("echo '{\"id\":0}'", "expected the number `reward`"),
        ("echo '{\"id\":0,\"reward\":NaN}'", "JSON has no NaN"),
        ("echo '{\"id\":0,\"reward\":-Infinity}'", "JSON has no NaN"),
        ("echo '{\"id\":0,\"reward\":1e999}'", "expected JSON"),
        ("echo '{\"id\":0,\"reward\":\"high\"}'", "`reward` to be a finite number, found \"high\""),
        ("echo '{\"id\":77,\"reward\":1}'", "expected a verdict with `id` 0, found `{\"id\":77"),
        ("printf '\\377\\n'", "wrote what is not UTF-8"),
    ];
    for (fault, expected) in cases {
        let found = failure(&format!("read -r line; {fault}; read -r line"), "retries = 0", "x");
        assert!(found.reason.contains(expected), "{fault}: {found}");
    }
}

#[test]
fn a_line_without_end_is_bounded() {
    let found = failure("read -r line; yes | tr -d '\\n'", "", "x");
    assert!(found.reason.contains("a line of more than 1048576 bytes"), "{found}");
    assert_eq!(found.tries, 2);
}

#[test]
fn a_program_that_does_not_read_holds_up_nobody() {
    // More than a pipe holds.
    let long = "x".repeat(1_000_000);
    let found = failure("exec <&-; sleep 1000", "", &long);
    assert!(found.reason.contains("closed its input"), "{found}");
    let found = failure("sleep 1000", "time_limit = 0.3\nstart_limit = 0.3", &long);
    assert!(found.reason.contains("no verdict within the time limit"), "{found}");
    let reads = rewards(&format!("{EACH} echo \"{{\\\"id\\\":$id,\\\"reward\\\":${{#line}}}}\"; done"), "");
    assert!(totals(&reads, &[&long])[0] > 1e6);
}

#[test]
fn messages_go_to_stderr_as_many_as_there_are() {
    let script = format!(
        "{EACH} head -c 1000000 /dev/zero | tr '\\0' e >&2; echo; echo \"{{\\\"id\\\":$id,\\\"reward\\\":1}}\"; done"
    );
    assert_eq!(totals(&rewards(&script, "processes = 1"), &["a", "b"]), [1.0, 1.0]);
    let found = failure("head -c 100000 /dev/zero | tr '\\0' e >&2; echo last words >&2; exit 1", "", "x");
    assert!(found.reason.ends_with("eee / last words") || found.reason.ends_with("eeelast words"), "{found}");
    assert!(found.reason.len() < 600, "{found}");
}

#[test]
fn an_error_is_the_programs_word_and_not_asked_again() {
    let script = format!(
        "n=0; {EACH} n=$((n+1)); case $line in *bad*) echo \"{{\\\"id\\\":$id,\\\"error\\\":\\\"no compiler\\\"}}\";; *) echo \"{{\\\"id\\\":$id,\\\"reward\\\":$n}}\";; esac; done"
    );
    let rewards = rewards(&script, "processes = 1");
    let scores = score(&rewards, &["a", "bad", "c"]);
    assert_eq!(scores[0].as_ref().unwrap().total, 1.0);
    assert_eq!(scores[1].as_ref().unwrap_err().to_string(), "reward `command`: no compiler");
    assert_eq!(scores[2].as_ref().unwrap().total, 3.0);
}

#[test]
fn parts_are_reported_and_do_not_count() {
    let script = format!(
        "{EACH} echo \"{{\\\"id\\\":$id,\\\"reward\\\":2,\\\"parts\\\":{{\\\"style\\\":0.5,\\\"truth\\\":3}}}}\"; done"
    );
    let rewards = rewards(&script, "name = 'judge'\nweight = 0.5\nparts = ['truth', 'style']");
    assert_eq!(rewards.names(), ["judge", "judge.truth", "judge.style"]);
    let score = score(&rewards, &["x"]).remove(0).unwrap();
    assert_eq!(score, Score { total: 1.0, parts: vec![2.0, 3.0, 0.5] });
}

#[test]
fn a_broken_program_does_not_cost_a_time_limit_an_answer() {
    let texts = ["x"; 100];
    let missing = Rewards::parse("command:/nowhere/judge --fast").unwrap();
    let failures: Vec<_> = score(&missing, &texts).into_iter().map(Result::unwrap_err).collect();
    assert!(
        failures[0].reason.contains("the program cannot be started: `/nowhere/judge`: "),
        "{}",
        failures[0]
    );
    let last = failures.last().unwrap();
    assert_eq!(last.tries, 0);
    assert!(last.reason.contains("not tried, for ") && last.reason.contains("cannot be started"), "{last}");
    // The next call tries again.
    assert_eq!(score(&missing, &["x"]).remove(0).unwrap_err().tries, 2);
}

#[test]
fn a_command_runs_where_it_should() {
    let text = "[[reward]]\nkind = 'command'\ncommand = 'sh judge.sh'\nfolder = '.'";
    let folder = path("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("judge.sh"), format!("{EACH} echo \"{{\\\"id\\\":$id,\\\"reward\\\":5}}\"; done"))
        .unwrap();
    let rewards = Rewards::from_toml(text, &folder.join("rewards.toml")).unwrap();
    assert_eq!(totals(&rewards, &["x"]), [5.0]);
    drop(rewards);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn odd_options_are_refused() {
    let error = |options: &str| {
        let text = format!("[[reward]]\nkind = 'command'\n{options}");
        Rewards::from_toml(&text, Path::new("f.toml")).unwrap_err().to_string()
    };
    assert!(error("").contains("`command` is missing"));
    assert!(error("command = ''").contains("expected a program, found nothing"));
    assert!(error("command = []").contains("expected a program, found nothing"));
    assert!(error("command = 3").contains("expected a line or a list of words, found 3"));
    assert!(error("command = ['a', 3]").contains("expected a line or a list of words"));
    assert!(error("command = \"a 'b\"").contains("expected quotes that are closed"));
    assert!(
        error("command = 'a'\nprocesses = 0").contains("`processes`: expected a whole number, 1 or more")
    );
    assert!(error("command = 'a'\nprocesses = 5000").contains("at most 1024"));
    assert!(error("command = 'a'\ntime_limit = 0").contains("`time_limit`: expected seconds"));
    assert!(error("command = 'a'\nparts = ['x', 'x']").contains("`parts`: expected different names"));
}
