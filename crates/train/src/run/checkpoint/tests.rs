//! The store under everything that can end a process or damage a file.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::super::scratch::Scratch;
use super::manifest::{DONE, MANIFEST};
use super::*;
use crate::error::AnyError;

const WEIGHTS: &[u8] = &[7; 3_000_000];

/// Saves a checkpoint of two files, whose content depends on the step.
fn save(store: &Store, step: u64) -> Saved {
    save_scored(store, step, None)
}

fn save_scored(store: &Store, step: u64, score: Option<f64>) -> Saved {
    let saved = store.save(step, |w| {
        w.file("model.safetensors", |out| {
            WEIGHTS.chunks(100_001).try_for_each(|chunk| out.write_all(chunk))?;
            Ok(out.write_all(&step.to_le_bytes())?)
        })?;
        w.file("state.json", |out| Ok(write!(out, "{{\"step\": {step}}}")?))?;
        score.into_iter().for_each(|score| w.score(score));
        Ok(())
    });
    saved.unwrap()
}

/// Names in a folder, sorted.
fn list(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn step_found(store: &Store, check: Check) -> Option<u64> {
    store.latest(check).unwrap().found.map(|checkpoint| checkpoint.step())
}

fn skipped(store: &Store, check: Check) -> Vec<String> {
    store.latest(check).unwrap().skipped.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_saved_is_found() {
    let scratch = Scratch::new();
    let store = Store::at(scratch.path().join("a/checkpoints"));
    assert_eq!(step_found(&store, Check::Hashes), None);
    let saved = save_scored(&store, 100, Some(2.5));
    assert_eq!(saved.bytes, WEIGHTS.len() as u64 + 8 + 13);
    assert!(saved.path.ends_with("a/checkpoints/step-000100"));
    save(&store, 1_000_000);
    save(&store, 999_999);
    let latest = store.latest(Check::Hashes).unwrap();
    assert!(latest.skipped.is_empty());
    assert_eq!(latest.found.as_ref().map(Checkpoint::step), Some(1_000_000));
    assert_eq!(list(&store.folder), ["step-000100", "step-1000000", "step-999999"]);
    assert_eq!(list(&saved.path), ["DONE", "manifest.json", "model.safetensors", "state.json"]);

    let checkpoint = Checkpoint::open(&saved.path, Check::Hashes).unwrap();
    assert_eq!((checkpoint.step(), checkpoint.manifest.score), (100, Some(2.5)));
    let content = fs::read(saved.path.join("model.safetensors")).unwrap();
    assert_eq!(content[..WEIGHTS.len()], *WEIGHTS);
    assert_eq!(checkpoint.manifest.files[0].blake3, blake3::hash(&content).to_hex().as_str());
}

#[test]
fn files_that_somebody_else_makes_are_recorded() {
    let scratch = Scratch::new();
    let store = Store::at(scratch.path());
    let model = |folder: &Path| -> Result<(), AnyError> {
        fs::write(folder.join("model.safetensors"), b"weights")?;
        Ok(fs::write(folder.join("config.json"), b"{}")?)
    };
    let saved = store.save(3, |w| {
        w.file("state", |out| Ok(out.write_all(b"state")?))?;
        w.folder(model)
    });
    let saved = saved.unwrap();
    assert_eq!(saved.bytes, 14);
    let manifest = store.latest(Check::Hashes).unwrap().found.unwrap().manifest;
    let names: Vec<&str> = manifest.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["state", "config.json", "model.safetensors"]);
    assert_eq!(manifest.files[2].blake3, blake3::hash(b"weights").to_hex().as_str());

    let nested = |folder: &Path| Ok(fs::create_dir(folder.join("sub"))?);
    let error = store.save(4, |w| w.folder(nested)).unwrap_err().to_string();
    assert!(error.contains("sub: a checkpoint has plain files only"), "{error}");
    assert_eq!(list(scratch.path()), ["step-000003"]);
}

#[test]
fn a_writer_that_fails_half_way_leaves_nothing_behind() {
    let scratch = Scratch::new();
    let store = Store::at(scratch.path()).keeping(Keep { newest: 1, best: Best::Forget });
    save(&store, 100);
    let half = |out: &mut dyn Write| -> Result<(), AnyError> {
        out.write_all(WEIGHTS)?;
        Err(io::Error::from(io::ErrorKind::StorageFull).into())
    };
    let error = format!("{:#}", store.save(200, |w| w.file("model.safetensors", half)).unwrap_err());
    assert!(
        error.contains("model.safetensors: cannot write: ") && error.contains("no storage space"),
        "{error}"
    );
    assert_eq!(list(scratch.path()), ["step-000100"]);
    assert_eq!(step_found(&store, Check::Hashes), Some(100));

    // Nor does it help to look away.
    let looks_away = |w: &mut Writer| {
        let _ = w.file("model.safetensors", half);
        w.json("state.json", &7)
    };
    let error = store.save(200, looks_away).unwrap_err().to_string();
    assert!(error.contains(".step-000200.tmp: a file of the checkpoint could not be written"), "{error}");
    assert_eq!(list(scratch.path()), ["step-000100"]);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let scratch = Scratch::new();
    let store = Store::at(scratch.path());
    for name in ["", "../a", "a/b", "a\\b", ".hidden", "DONE", "manifest.json", "a\0"] {
        let error = store.save(1, |w| w.file(name, |_| Ok(()))).unwrap_err();
        assert!(error.to_string().contains("is no name for a file"), "{name:?}: {error:#}");
    }
    let twice = store.save(1, |w| w.file("a", |_| Ok(())).and_then(|()| w.file("a", |_| Ok(()))));
    assert!(twice.is_err());
    assert!(list(scratch.path()).is_empty());
}

#[test]
fn damage_is_seen_named_and_passed_over() {
    type Damage = fn(&Path);
    let cases: &[(Damage, Check, &str)] = &[
        (|f| fs::remove_file(f.join(DONE)).unwrap(), Check::Sizes, "was left unfinished: no DONE marker"),
        (
            |f| fs::remove_file(f.join("state.json")).unwrap(),
            Check::Sizes,
            "is damaged: state.json is missing",
        ),
        (
            |f| fs::write(f.join("model.safetensors"), b"short").unwrap(),
            Check::Sizes,
            "is damaged: model.safetensors has 5 bytes, expected 3000008",
        ),
        (
            |f| flip(&f.join("model.safetensors"), 1_234_567),
            Check::Hashes,
            "is damaged: model.safetensors has not the content that was written (BLAKE3 differs)",
        ),
        (
            |f| flip(&f.join(MANIFEST), 20),
            Check::Sizes,
            "is damaged: manifest.json has not the hash that DONE holds",
        ),
        (
            |f| {
                fs::remove_dir_all(f).unwrap();
                fs::write(f, b"").unwrap();
            },
            Check::Sizes,
            "is not a folder",
        ),
        (
            |f| reseal(f, |json| json.replace("\"format\": 1", "\"format\": 2, \"new\": []")),
            Check::Sizes,
            "was written by a newer version of this program: format 2, at most 1 is read",
        ),
        (
            |f| reseal(f, |json| json.replace("state.json", "../../../secret")),
            Check::Sizes,
            "is damaged: manifest.json names a file \"../../../secret\"",
        ),
        (
            |f| reseal(f, |json| json.replace("\"step\": 200", "\"step\": 300")),
            Check::Sizes,
            "is of step 300, as its manifest.json says; was it renamed?",
        ),
    ];
    for (damage, check, why) in cases {
        let scratch = Scratch::new();
        let store = Store::at(scratch.path());
        save(&store, 100);
        let newest = save(&store, 200).path;
        assert_eq!(step_found(&store, Check::Hashes), Some(200));
        damage(&newest);
        assert_eq!(step_found(&store, *check), Some(100), "{why}");
        assert_eq!(skipped(&store, *check), [format!("step-000200 {why}")]);
        // What the run does next: it goes on from 100, and saves 200 again.
        save(&store, 200);
        assert_eq!(step_found(&store, Check::Hashes), Some(200));
        assert_eq!(list(scratch.path()), ["step-000100", "step-000200"]);
    }
}

/// Flips one bit of a file.
fn flip(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Changes the manifest, and the marker with it.
fn reseal(folder: &Path, change: impl Fn(&str) -> String) {
    let before = fs::read_to_string(folder.join(MANIFEST)).unwrap();
    let after = change(&before);
    assert_ne!(before, after);
    fs::write(folder.join(DONE), blake3::hash(after.as_bytes()).to_hex().as_str()).unwrap();
    fs::write(folder.join(MANIFEST), after).unwrap();
}

#[test]
fn the_newest_and_the_best_are_kept() {
    let steps = |best, scores: &[f64]| {
        let scratch = Scratch::new();
        let store = Store::at(scratch.path()).keeping(Keep { newest: 2, best });
        for (i, score) in scores.iter().enumerate() {
            let saved = save_scored(&store, i as u64 + 1, Some(*score));
            assert!(saved.notes.is_empty());
        }
        list(scratch.path()).join(" ")
    };
    assert_eq!(steps(Best::Forget, &[3.0, 1.0, 2.0, 4.0]), "step-000003 step-000004");
    assert_eq!(steps(Best::Keep, &[3.0, 1.0, 2.0, 4.0]), "step-000002 step-000003 step-000004");
    assert_eq!(steps(Best::Keep, &[3.0, f64::NAN, 2.0, 1.0]), "step-000003 step-000004");
    assert_eq!(steps(Best::Keep, &[f64::NAN, f64::NEG_INFINITY, 2.0, 3.0]), "step-000003 step-000004");
    assert_eq!(steps(Best::Keep, &[1.0]), "step-000001");
}

#[test]
fn a_damaged_checkpoint_does_not_crowd_out_the_only_valid_one() {
    let scratch = Scratch::new();
    let store = Store::at(scratch.path());
    save(&store, 100);
    for step in [200, 300] {
        fs::remove_file(save(&store, step).path.join(DONE)).unwrap();
    }
    let store = store.keeping(Keep { newest: 2, best: Best::Forget });
    // Step 150 is saved after resuming from 100: both are valid, and the two unfinished ones are newer.
    let saved = save(&store, 150);
    assert!(saved.removed.is_empty());
    assert_eq!(step_found(&store, Check::Hashes), Some(150));
    let saved = save(&store, 400);
    let removed: Vec<_> =
        saved.removed.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(removed, ["step-000100"]);
    save(&store, 500);
    assert_eq!(list(scratch.path()), ["step-000400", "step-000500"]);
}

#[test]
fn what_was_just_saved_stays_though_its_step_is_older() {
    let scratch = Scratch::new();
    let store = Store::at(scratch.path()).keeping(Keep { newest: 1, best: Best::Forget });
    save(&store, 300);
    save(&store, 100);
    assert_eq!(list(scratch.path()), ["step-000100", "step-000300"]);
    let removed = store.remove_after(100).unwrap();
    assert_eq!(removed, [scratch.path().join("step-000300")]);
    assert_eq!(list(scratch.path()), ["step-000100"]);
}

#[test]
fn what_a_killed_process_leaves_is_cleaned_up() {
    let scratch = Scratch::new();
    let store = Store::at(scratch.path());
    let at = |name: &str| scratch.path().join(name);
    save(&store, 100);
    save(&store, 200);
    // Killed while it saved 300, while it removed 50, and after 200 had been replaced.
    fs::create_dir(at(".step-000300.tmp")).unwrap();
    fs::write(at(".step-000300.tmp/model.safetensors"), b"half").unwrap();
    fs::create_dir(at(".step-000050.removed")).unwrap();
    fs::create_dir(at(".step-000200.old")).unwrap();
    fs::write(at("notes.txt"), b"somebody's own").unwrap();
    assert_eq!(step_found(&store, Check::Hashes), Some(200));
    let why = ".step-000300.tmp was left unfinished by a process that died, or is being written";
    assert_eq!(skipped(&store, Check::Hashes), [why]);
    save(&store, 300);
    assert_eq!(list(scratch.path()), ["notes.txt", "step-000100", "step-000200", "step-000300"]);
}

#[test]
fn killed_between_two_renames_the_old_one_is_still_there() {
    let scratch = Scratch::new();
    let store = Store::at(scratch.path()).keeping(Keep { newest: 1, best: Best::Forget });
    let saved = save(&store, 200);
    fs::rename(&saved.path, scratch.path().join(".step-000200.old")).unwrap();
    assert_eq!(step_found(&store, Check::Hashes), Some(200));
    // A save that fails puts it back, and one that succeeds makes it superfluous.
    store.save(300, |w| w.file("a", |_| Err("no".into()))).unwrap_err();
    assert_eq!(list(scratch.path()), ["step-000200"]);
    save(&store, 300);
    assert_eq!(list(scratch.path()), ["step-000300"]);
}

#[test]
fn what_is_in_the_way_is_named() {
    let scratch = Scratch::new();
    let file = scratch.path().join("checkpoints");
    fs::write(&file, b"").unwrap();
    let store = Store::at(&file);
    let error = store.save(1, |w| w.file("a", |_| Ok(()))).unwrap_err();
    assert!(format!("{error:#}").contains("checkpoints: cannot make the folder: "), "{error:#}");
    let error = store.latest(Check::Sizes).unwrap_err();
    assert!(format!("{error:#}").contains("checkpoints: cannot list the folder: "), "{error:#}");
}

/// What a trainer saves and reads again.
#[test]
fn tensors_and_state_come_back_as_they_were() {
    let scratch = Scratch::new();
    let store = Store::at(scratch.path());
    let moments: [&[f32]; 2] = [&[1.0, -0.0, f32::MIN_POSITIVE / 3.0], &[0.1, f32::NAN]];
    let specs = [TensorSpec { name: "m.w", shape: &[3, 1] }, TensorSpec { name: "v.w", shape: &[2] }];
    let state = (7u64, u64::MAX, 0.1f32, 1.0 / 3.0);
    let saved = store.save(7, |w| {
        w.tensors("optimizer.safetensors", &specs, |i, sink| Ok(sink.write(moments[i])?))?;
        w.json("state.json", &state)
    });
    saved.unwrap();
    let checkpoint = store.latest(Check::Hashes).unwrap().found.unwrap();
    assert_eq!(checkpoint.json::<(u64, u64, f32, f64)>("state.json").unwrap(), state);
    let tensors = checkpoint.tensors("optimizer.safetensors").unwrap();
    for (spec, expected) in specs.iter().zip(moments) {
        let mut found = vec![7.0; expected.len()];
        tensors.read(spec.name, spec.shape, &mut found).unwrap();
        assert!(found.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    let error = checkpoint.tensors("model.safetensors").unwrap_err().to_string();
    assert!(
        error.ends_with("has no file model.safetensors; there are optimizer.safetensors, state.json"),
        "{error}"
    );
    let error = format!("{:#}", checkpoint.json::<Vec<u8>>("state.json").unwrap_err());
    assert!(error.contains("state.json: is not what was expected: "), "{error}");
}

/// Copies a folder of files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in list(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// Every state that a process can leave which is killed while it saves step 200 over step 100, keeping one: the
/// files in the order in which they are written, each of them whole, half and empty; then the renames.
#[test]
fn killed_at_any_point_there_is_a_whole_checkpoint_and_training_goes_on() {
    /// What is left, the step that is valid then, and how to make it of two whole checkpoints.
    type State = (String, u64, Box<dyn Fn(&Path)>);
    let files = ["model.safetensors", "state.json", MANIFEST, DONE];
    let mut states: Vec<State> = Vec::new();
    for (i, file) in files.into_iter().enumerate() {
        for part in [0.0, 0.5, 1.0] {
            let cut = move |store: &Path| {
                let temporary = store.join(".step-000200.tmp");
                fs::rename(store.join("step-000200"), &temporary).unwrap();
                files[i + 1..].iter().for_each(|later| fs::remove_file(temporary.join(later)).unwrap());
                truncate(&temporary.join(file), part);
            };
            states.push((format!("{file} written to {part}"), 100, Box::new(cut)));
        }
    }
    states.push(("before the old one is removed".into(), 200, Box::new(|_| {})));
    for i in 0..files.len() {
        let half_removed = move |store: &Path| {
            let removed = store.join(".step-000100.removed");
            fs::rename(store.join("step-000100"), &removed).unwrap();
            files[..i].iter().for_each(|file| fs::remove_file(removed.join(file)).unwrap());
        };
        states.push((format!("{i} files of the old one removed"), 200, Box::new(half_removed)));
    }

    let whole = Scratch::new();
    let store = Store::at(whole.path());
    [100, 200].into_iter().for_each(|step| drop(save(&store, step)));
    for (name, expected, leave) in states {
        let scratch = Scratch::new();
        list(whole.path()).iter().for_each(|step| copy(&whole.path().join(step), &scratch.path().join(step)));
        leave(scratch.path());
        let store = Store::at(scratch.path()).keeping(Keep { newest: 1, best: Best::Forget });
        assert_eq!(step_found(&store, Check::Hashes), Some(expected), "{name}");
        assert_eq!(skipped(&store, Check::Hashes).is_empty(), expected == 200, "{name}");
        for step in [200, 300] {
            save(&store, step);
            assert_eq!(list(scratch.path()), [format!("step-000{step}")], "{name}");
            assert_eq!(step_found(&store, Check::Hashes), Some(step), "{name}");
        }
    }
}

/// What a file system without order can leave after a power cut: the folder has its name, and a file is short.
#[test]
fn a_short_file_is_seen_and_named() {
    let scratch = Scratch::new();
    let store = Store::at(scratch.path());
    [100, 200].into_iter().for_each(|step| drop(save(&store, step)));
    for file in ["model.safetensors", "state.json", MANIFEST, DONE] {
        let path = scratch.path().join("step-000200").join(file);
        let content = fs::read(&path).unwrap();
        for part in [0.0, 0.5] {
            truncate(&path, part);
            assert_eq!(step_found(&store, Check::Sizes), Some(100), "{file}");
            let why = skipped(&store, Check::Sizes);
            assert!(why[0].starts_with("step-000200 is damaged: ") && why[0].contains(file), "{why:?}");
            fs::write(&path, &content).unwrap();
        }
        assert_eq!(step_found(&store, Check::Hashes), Some(200));
    }
}

/// Cuts a file to a part of its length.
fn truncate(path: &Path, part: f64) {
    let length = fs::metadata(path).unwrap().len() as f64 * part;
    fs::File::options().write(true).open(path).unwrap().set_len(length as u64).unwrap();
}

const CHILD: &str = "WOOTZ_TEST_SAVES";

/// The child's side: saves step 200, and hangs in the middle of file number `hang`.
fn save_and_hang(folder: &Path, hang: usize) {
    let writer = |number: usize| {
        move |out: &mut dyn Write| -> Result<(), AnyError> {
            out.write_all(WEIGHTS)?;
            match number == hang {
                true => loop {
                    std::thread::park();
                },
                false => Ok(()),
            }
        }
    };
    let saved = Store::at(folder).save(200, |w| {
        w.file("model.safetensors", writer(0))?;
        w.file("state.json", writer(1))
    });
    saved.unwrap();
}

#[test]
fn a_process_killed_in_mid_save_loses_nothing() {
    if let Some(folder) = std::env::var_os(CHILD) {
        let hang = std::env::var("WOOTZ_TEST_HANGS").unwrap().parse().unwrap();
        return save_and_hang(Path::new(&folder), hang);
    }
    for (hang, file) in [(0, "model.safetensors"), (1, "state.json")] {
        let scratch = Scratch::new();
        let store = Store::at(scratch.path()).keeping(Keep { newest: 1, best: Best::Forget });
        save(&store, 100);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "run::checkpoint::tests::a_process_killed_in_mid_save_loses_nothing"])
            .env(CHILD, scratch.path())
            .env("WOOTZ_TEST_HANGS", hang.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let half = scratch.path().join(".step-000200.tmp").join(file);
        while !fs::metadata(&half).is_ok_and(|about| about.len() > 1_000_000) {
            assert!(child.try_wait().unwrap().is_none(), "the child must not end by itself");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(list(scratch.path()), [".step-000200.tmp", "step-000100"]);
        assert_eq!(step_found(&store, Check::Hashes), Some(100));
        save(&store, 200);
        assert_eq!(list(scratch.path()), ["step-000200"]);
        assert_eq!(step_found(&store, Check::Hashes), Some(200));
    }
}

/// As a full disk does, a limit on the size of files makes a write fail in the middle.
#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_leaves_the_old_one() {
    const NAME: &str = "run::checkpoint::tests::a_disk_that_takes_no_more_leaves_the_old_one";
    if let Some(folder) = std::env::var_os(CHILD) {
        let store = Store::at(&folder).keeping(Keep { newest: 1, best: Best::Forget });
        let saved = store.save(200, |w| w.file("model.safetensors", |out| Ok(out.write_all(WEIGHTS)?)));
        return fs::write(Path::new(&folder).join("error"), format!("{:#}", saved.unwrap_err())).unwrap();
    }
    let scratch = Scratch::new();
    let store = Store::at(scratch.path());
    save(&store, 100);
    // Blocks of 512 bytes; without the trap the system ends the process instead.
    let limited = "trap '' XFSZ; ulimit -f 2000; exec \"$0\" --exact \"$1\"";
    let child = Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .arg(NAME)
        .env(CHILD, scratch.path())
        .output();
    let output = child.unwrap();
    assert!(output.status.success(), "{output:?}");
    let error = fs::read_to_string(scratch.path().join("error")).unwrap();
    assert!(error.contains("step-000200.tmp/model.safetensors: cannot write: "), "{error}");
    assert_eq!(list(scratch.path()), ["error", "step-000100"]);
    assert_eq!(step_found(&store, Check::Hashes), Some(100));
}
