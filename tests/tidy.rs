//! The project's rules about itself, as tests over the tree: file lengths, `unsafe`, panics, the crate graph, and
//! documents that say what is there.
//!
//! Source is read as text, which the formatter keeps regular: an item that begins at some indentation ends at the
//! first line of that indentation which begins with a bracket.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a source file, at the most.
const LONGEST: usize = 800;
/// Lines of `src/main.rs`, at the most.
const LONGEST_MAIN: usize = 60;

/// Which crates of ours each crate may use: arrows point down only. The program itself may use all.
const GRAPH: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("text", &[]),
    ("hub", &[]),
    ("rewards", &[]),
    ("formats", &["kernels"]),
    ("model", &["kernels", "formats", "text"]),
    ("train", &["rewards", "model", "text", "formats", "kernels"]),
    ("serve", &["model", "text"]),
];

/// Crates whose code must answer with an error where something is wrong. (A kernel panics when its caller breaks
/// the contract: that is a mistake of ours, and no file or flag gets so far.)
const NEVER_PANIC: &[&str] = &[
    "crates/formats/src/",
    "crates/text/src/",
    "crates/hub/src/",
    "crates/rewards/src/",
    "crates/model/src/",
    "crates/train/src/",
    "src/",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every file of the project, as a path from its root with `/`. Build outputs, reference data and hidden folders
/// but `.ci` are left out.
fn files() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let relative = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
            let left_out = ["target", "corpus", "artifacts"].contains(&name.as_str())
                || relative == "tests/fixtures"
                || (name.starts_with('.') && name != ".ci");
            if left_out {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(relative);
            }
        }
    }
    found.sort();
    found
}

fn has_extension(path: &str, extensions: &[&str]) -> bool {
    path.rsplit_once('.').is_some_and(|(_, extension)| extensions.contains(&extension))
}

/// Source in every language that the project is written in.
fn sources() -> Vec<String> {
    let is_script =
        |path: &str| path.starts_with("scripts/") || path.starts_with(".ci/") || path.starts_with("runs/");
    let is_source = |path: &String| has_extension(path, &["rs", "cu", "wgsl", "py", "sh"]) || is_script(path);
    files().into_iter().filter(is_source).collect()
}

/// Rust files that are part of a crate, and not of its tests.
fn library_sources() -> Vec<String> {
    let is_test =
        |path: &str| path.contains("/tests/") || path.starts_with("tests/") || path.ends_with("/tests.rs");
    let is_library = |path: &String| path.starts_with("src/") || path.contains("/src/");
    sources().into_iter().filter(|p| p.ends_with(".rs") && is_library(p) && !is_test(p)).collect()
}

/// The members of `crates/`, by name of their folder.
fn crates() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| root().join("crates").join(name).join("Cargo.toml").is_file())
        .collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

/// Fails with all findings at once.
fn expect_none(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

/// The lines of Rust code that are neither comments nor compiled for tests alone, with their numbers.
fn code_lines(text: &str) -> Vec<(usize, &str)> {
    let mut code = Vec::new();
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    while let Some((number, line)) = lines.next() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("#[cfg(test)]") {
            skip_item(&mut lines, line.len() - trimmed.len());
        } else if !trimmed.starts_with("//") {
            code.push((number, line.split(" // ").next().unwrap_or(line)));
        }
    }
    code
}

/// Skips the item that follows an attribute at this indentation.
fn skip_item<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>, indentation: usize) {
    let mut inside = false;
    for (_, line) in lines {
        let trimmed = line.trim_start();
        let is_outer = line.len() - trimmed.len() == indentation && !trimmed.is_empty();
        if inside && is_outer && trimmed.starts_with(['}', ')', ']']) {
            return;
        }
        let ends_at_once =
            line.trim_end().ends_with([';', ',']) || (trimmed.contains('{') && trimmed.ends_with('}'));
        if !inside && is_outer && !trimmed.starts_with("#[") && ends_at_once {
            return;
        }
        inside |= is_outer && !trimmed.starts_with("#[");
    }
}

#[test]
fn code_for_tests_is_told_from_the_rest() {
    let text = "a\n#[cfg(test)]\nmod tests;\nb // no\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n    fn c() {\n    }\n}\nd\n";
    assert_eq!(code_lines(text), [(1, "a"), (4, "b"), (11, "d")]);
}

#[test]
fn files_are_short() {
    let length = |path: String| (read(&path).lines().count(), path);
    let long = sources().into_iter().map(length).filter(|(lines, _)| *lines > LONGEST);
    let list = long.map(|(lines, path)| format!("{path}: {lines} lines")).collect();
    expect_none(&format!("a source file has at most {LONGEST} lines"), list);
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    let mut findings = Vec::new();
    let mut roots = vec!["src/main.rs".to_owned()];
    roots.extend(
        crates().iter().filter(|name| *name != "kernels").map(|name| format!("crates/{name}/src/lib.rs")),
    );
    for path in roots {
        let expected = if path.contains("/formats/") { "deny" } else { "forbid" };
        if !read(&path).contains(&format!("#![{expected}(unsafe_code)]")) {
            findings.push(format!("{path}: `#![{expected}(unsafe_code)]` is missing"));
        }
    }
    for path in
        sources().iter().filter(|path| path.ends_with(".rs") && path.starts_with("crates/formats/src/"))
    {
        if read(path).contains("allow(unsafe_code)") && !path.ends_with("/mmap.rs") {
            findings.push(format!("{path}: unsafe code of formats belongs into mmap.rs"));
        }
    }
    expect_none("`unsafe` is in kernels, and in the one file that maps memory", findings);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut marks: Vec<String> =
        ["todo", "unimplemented", "dbg"].iter().map(|name| format!("{name}!(")).collect();
    marks.extend(["TO", "FIX"].iter().zip(["DO", "ME"]).map(|(a, b)| format!("{a}{b}")));
    let mut findings = Vec::new();
    for path in sources() {
        for (i, line) in read(&path).lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(*mark)) {
                findings.push(format!("{path}:{}: {mark}", i + 1));
            }
        }
    }
    expect_none("unfinished code is not kept", findings);
}

#[test]
fn wrong_input_is_an_error_and_no_panic() {
    const PANICS: &[&str] =
        &[".unwrap()", ".unwrap_err()", ".expect(", ".expect_err(", "panic!(", "unreachable!("];
    let mut findings = Vec::new();
    for path in
        library_sources().iter().filter(|path| NEVER_PANIC.iter().any(|folder| path.starts_with(folder)))
    {
        for (number, line) in code_lines(&read(path)) {
            if let Some(found) = PANICS.iter().find(|panic| line.contains(**panic)) {
                findings.push(format!("{path}:{number}: {found}"));
            }
        }
    }
    expect_none("formats, text, model and the program return errors", findings);
}

/// The names under `[section]` of a Cargo.toml, with what stands behind the `=` on their line.
fn entries(toml: &str, section: &str) -> BTreeMap<String, String> {
    let header = format!("[{section}]");
    let lines = toml.lines().skip_while(|line| line.trim() != header).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let entry = |line: &str| {
        let (name, value) = line.split_once('=')?;
        let name = name.trim().trim_end_matches(".workspace");
        (!name.starts_with('#')).then(|| (name.to_owned(), value.trim().to_owned()))
    };
    lines.filter_map(entry).collect()
}

/// Every Cargo.toml of the workspace, by the name of the crate's folder; the program's is ``.
fn manifests() -> Vec<(String, String)> {
    let mut all: Vec<_> =
        crates().into_iter().map(|name| (name.clone(), read(&format!("crates/{name}/Cargo.toml")))).collect();
    all.push((String::new(), read("Cargo.toml")));
    all
}

#[test]
fn arrows_of_the_crate_graph_point_down() {
    let mut findings = Vec::new();
    for name in crates() {
        let Some((_, allowed)) = GRAPH.iter().find(|(known, _)| *known == name) else {
            findings.push(format!("crates/{name} has no place in the graph: see GRAPH in tests/tidy.rs"));
            continue;
        };
        let toml = read(&format!("crates/{name}/Cargo.toml"));
        let used = entries(&toml, "dependencies").into_keys();
        for used in used.filter_map(|used| used.strip_prefix("wootz-").map(str::to_owned)) {
            if !allowed.contains(&used.as_str()) {
                findings.push(format!("{name} uses {used}; it may use {allowed:?}"));
            }
        }
    }
    expect_none("a crate uses those below it", findings);
}

#[test]
fn every_dependency_has_its_reason() {
    let record = read("docs/adr/0003-dependencies.md");
    // Those used are rows of the table; the text names others, which were not chosen.
    let record: String = record.lines().filter(|line| line.starts_with("| `")).collect();
    let workspace = entries(&read("Cargo.toml"), "workspace.dependencies");
    let mut used = BTreeSet::new();
    for (_, toml) in manifests() {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            used.extend(entries(&toml, section).into_keys().filter(|name| !name.starts_with("wootz-")));
        }
    }
    assert!(used.len() > 10, "expected to find dependencies, found {used:?}");
    let unexplained = used.iter().filter(|name| !record.contains(&format!("`{name}`")));
    let mut findings: Vec<_> =
        unexplained.map(|name| format!("{name} is not in docs/adr/0003-dependencies.md")).collect();
    let unused = workspace.keys().filter(|name| !name.starts_with("wootz-") && !used.contains(*name));
    findings
        .extend(unused.map(|name| format!("{name} is in [workspace.dependencies], and no crate uses it")));
    expect_none("a dependency is there for a written reason", findings);
}

#[test]
fn every_decision_is_in_the_index() {
    let index = read("docs/adr/README.md");
    let mut findings = Vec::new();
    let records = files().into_iter().filter_map(|path| path.strip_prefix("docs/adr/").map(str::to_owned));
    let records: Vec<_> = records.filter(|name| name != "README.md").collect();
    for (i, name) in records.iter().enumerate() {
        if !name.starts_with(&format!("{:04}-", i + 1)) {
            findings.push(format!("docs/adr/{name}: expected number {:04}", i + 1));
        }
        if !index.contains(&format!("({name})")) {
            findings.push(format!("docs/adr/{name} is not linked from docs/adr/README.md"));
        }
    }
    expect_none("decisions are numbered from 0001 without gaps, and listed", findings);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut findings = Vec::new();
    for path in files().into_iter().filter(|path| path.ends_with(".md")) {
        let text = read(&path);
        let folder = PathBuf::from(&path);
        let folder = root().join(folder.parent().unwrap_or(Path::new("")));
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or_default();
            let is_elsewhere = target.is_empty() || target.contains("://") || target.contains(' ');
            if !is_elsewhere && !folder.join(target).exists() {
                findings.push(format!("{path}: {target}"));
            }
        }
    }
    expect_none("links lead to files that are there", findings);
}

#[test]
fn main_parses_runs_and_prints_the_error() {
    let text = read("src/main.rs");
    let lines = text.lines().count();
    assert!(lines <= LONGEST_MAIN, "src/main.rs: {lines} lines, at most {LONGEST_MAIN}");
    let allowed = ["//", "#", "mod ", "use ", "fn main()", "}"];
    let strange = text.lines().filter(|line| !line.is_empty() && !line.starts_with(' '));
    let strange = strange.filter(|line| !allowed.iter().any(|start| line.starts_with(start)));
    expect_none("src/main.rs has modules and `fn main` only", strange.map(str::to_owned).collect());
}

#[test]
fn every_command_is_in_the_readme() {
    let output = Command::new(env!("CARGO_BIN_EXE_wootz")).arg("--help").output().unwrap();
    assert!(output.status.success(), "wootz --help: {}", output.status);
    let help = String::from_utf8(output.stdout).unwrap();
    // `Commands:`, then a line for each with its name after two spaces; long descriptions continue further right.
    let lines =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let names: Vec<_> =
        names.filter_map(|line| line.split(' ').next()).filter(|name| *name != "help").collect();
    assert!(!names.is_empty(), "no commands in the help:\n{help}");
    let readme = read("README.md");
    let missing = names.iter().filter(|name| !readme.contains(&format!("wootz {name}")));
    expect_none("README.md shows every command", missing.map(|name| format!("wootz {name}")).collect());
}

/// The entries of README's tree. A line without indentation that ends with `/` is a folder; an indented line begins
/// with a path in it, in which `{a,b}` stands for both and `*` for anything.
fn tree_entries(readme: &str) -> Vec<String> {
    let block = readme.split("```").find(|block| block.contains("\ncrates/kernels/src/"));
    let mut folder = "";
    let mut found = Vec::new();
    for line in block.expect("README.md has the tree in a block").lines().skip(1) {
        let Some(path) = line.split_whitespace().next() else { continue };
        if line.starts_with("   ") {
            continue; // a description goes on
        } else if line.starts_with(' ') {
            found.extend(alternatives(&format!("{folder}{path}")));
        } else if path.ends_with('/') {
            folder = path;
        } else {
            folder = "";
            found.extend(alternatives(path));
        }
    }
    found
}

/// `a{b,c}d` as `abd` and `acd`.
fn alternatives(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let (inside, after) = rest.split_once('}').expect("a `{` has its `}`");
    inside.split(',').flat_map(|part| alternatives(&format!("{before}{part}{after}"))).collect()
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => {
            path.len() >= start.len() + end.len() && path.starts_with(start) && path.ends_with(end)
        }
        None => pattern == path,
    }
}

#[test]
fn the_tree_in_the_readme_is_the_tree() {
    let entries = tree_entries(&read("README.md"));
    let files = files();
    let belongs = |path: &&String| {
        (path.starts_with("src/") || path.contains("/src/")) && has_extension(path, &["rs", "cu", "wgsl"])
    };
    let unnamed =
        files.iter().filter(belongs).filter(|path| !entries.iter().any(|entry| matches(entry, path)));
    let mut findings: Vec<_> = unnamed.map(|path| format!("{path} is not in README.md's tree")).collect();
    let is_there = |entry: &&String| {
        root().join(entry.as_str()).exists() || files.iter().any(|path| matches(entry, path))
    };
    let gone = entries.iter().filter(|entry| !is_there(entry));
    findings.extend(gone.map(|entry| format!("{entry} is in README.md's tree, and not there")));
    expect_none("README.md's tree names every source file", findings);
}

#[test]
fn the_text_names_no_place_outside_the_project() {
    let absolute = format!("/{}/", "work");
    let (folder, neighbour) = ("shared/", "../shared/");
    let is_text = |path: &String| {
        has_extension(path, &["rs", "cu", "wgsl", "py", "sh", "toml", "md"]) || !path.contains('.')
    };
    let mut findings = Vec::new();
    for path in files().into_iter().filter(is_text) {
        let is_test = path.starts_with("scripts/") || path.contains("tests/") || path.ends_with("/tests.rs");
        for (i, line) in read(&path).lines().enumerate() {
            let names_neighbour = line.contains(neighbour) && !is_test;
            let names_folder = line.replace(neighbour, "").contains(folder);
            if line.contains(&absolute) || names_neighbour || (names_folder && path != "tests/tidy.rs") {
                findings.push(format!("{path}:{}: {}", i + 1, line.trim()));
            }
        }
    }
    expect_none("the project speaks of itself alone; reference data may lie beside it, for tests", findings);
}
