//! What `docs/rewards.md` shows works.

use std::path::{Path, PathBuf};

use wootz_rewards::{Answer, Fields, Rewards, Task, kinds::KINDS};

fn page() -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rewards.md");
    let text = std::fs::read_to_string(&path).unwrap();
    (path, text)
}

/// The blocks of a language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    let blocks = page.split(&open).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn every_example_is_a_spec() {
    let (path, page) = page();
    let examples = blocks(&page, "toml");
    assert!(examples.len() >= 7, "{}", examples.len());
    let mut kinds = 0;
    for example in &examples {
        let has_http = example.contains("kind = \"http\"");
        if has_http && !cfg!(feature = "http") {
            continue;
        }
        let rewards =
            Rewards::from_toml(example, &path).unwrap_or_else(|error| panic!("{error:#}\n{example}"));
        kinds += rewards.names().len();
    }
    assert!(kinds >= 10, "{kinds}");
    let lines = &blocks(&page, "text")[0];
    assert!(lines.lines().count() >= 12);
    for line in lines.lines() {
        let (spec, _) = line.split_once(" #").unwrap();
        if cfg!(feature = "http") || !spec.starts_with("http") {
            Rewards::parse(spec).unwrap_or_else(|error| panic!("{error:#}"));
        }
    }
}

#[test]
fn every_kind_and_task_is_told() {
    let (_, page) = page();
    for kind in KINDS {
        assert!(page.contains(&format!("**`{}`**", kind.name)), "{} is not in docs/rewards.md", kind.name);
    }
    for task in Task::ALL {
        assert!(
            page.contains(&format!("| `{}` | `", task.name())),
            "{} is not in docs/rewards.md",
            task.name()
        );
    }
}

/// What an example of a program says of three answers: the right one, one with `because`, and one with neither.
#[cfg(unix)]
fn judged_by(program: &str, name: &str) -> Vec<f64> {
    let folder = std::env::temp_dir().join(format!("wootz-rewards-docs-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (_, page) = page();
    let script = &blocks(&page, if program == "sh" { "sh" } else { "python" })[0];
    std::fs::write(folder.join("judge"), script).unwrap();
    let text =
        format!("[[reward]]\nkind = 'command'\ncommand = '{program} judge'\nfolder = '.'\nprocesses = 1");
    let rewards = Rewards::from_toml(&text, &folder.join("f.toml")).unwrap();
    let fields: Fields = serde_json::from_str(r#"{"answer": 4}"#).unwrap();
    let answer = |text| Answer { prompt: "2+2=", text, tokens: 1, truncated: false, fields: &fields };
    let scores = rewards.score(&["4", "because", "5"].map(answer));
    let totals = scores.into_iter().map(|score| score.unwrap().total).collect();
    std::fs::remove_dir_all(&folder).unwrap();
    totals
}

#[test]
#[cfg(unix)]
fn the_program_in_sh_judges() {
    assert_eq!(judged_by("sh", "sh"), [0.0, 1.0, 0.0]);
}

#[test]
#[cfg(unix)]
fn the_program_in_python_judges() {
    let version = std::process::Command::new("python3").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no python3");
        return;
    }
    assert_eq!(judged_by("python3", "python"), [1.0, 0.0, 0.0]);
}
