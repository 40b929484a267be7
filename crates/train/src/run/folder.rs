//! The folder of a run: its name, its lock, its settings.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::checkpoint::{Check, Store};
use super::{
    CHECKPOINTS, CONFIG, LOCK, METRICS, REPORT, is_plain_name, make_folder, parse_toml, read_small,
    sync_folder,
};
use crate::error::{Context, Error, Result, fail};

/// The folder of a run that this process trains in: nobody else does while this value lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The system gives the lock back when the process ends, in whatever way.
    lock: File,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // To close the file is not enough: a program that another thread is just starting has it open too.
        let _ = self.lock.unlock();
    }
}

/// What to do where a run has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfTaken {
    /// Fail: a name that somebody chose is the name that he will look for.
    Refuse,
    /// Take `NAME-2`, or the next number that is free.
    Number,
}

impl Folder {
    /// Makes the folder of a new run, and `runs` with it where that is not there.
    ///
    /// Fails for a name that is no plain file name, for one that is taken (see [`IfTaken`]), and where the folder
    /// cannot be written.
    pub fn create(runs: &Path, name: &str, if_taken: IfTaken) -> Result<Folder> {
        check_name(name)?;
        make_folder(runs)?;
        for number in 1..=9999 {
            let path = match number {
                1 => runs.join(name),
                _ => runs.join(format!("{name}-{number}")),
            };
            // Two processes that start at once cannot both make it.
            match fs::create_dir(&path) {
                Ok(()) => {
                    sync_folder(runs);
                    return Folder::lock(path);
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match if_taken {
                    IfTaken::Refuse => {
                        fail!("{}: is there already; resume it, or choose another name", path.display())
                    }
                    IfTaken::Number => {}
                },
                Err(e) => {
                    return Err(Error::caused_by(format!("{}: cannot make the folder", path.display()), e));
                }
            }
        }
        fail!("{}: {name} and 9998 numbers after it are taken; choose another name", runs.display())
    }

    /// Opens a run to go on with it. Fails where another process is training in it.
    pub fn open(path: &Path) -> Result<Folder> {
        if !is_run(path) {
            fail!("{}: is not a run; expected a folder with {CONFIG}, as training makes it", path.display());
        }
        Folder::lock(path.to_owned())
    }

    fn lock(path: PathBuf) -> Result<Folder> {
        let lock = path.join(LOCK);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock);
        let mut file = options.context(|| format!("{}: cannot open", lock.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // What is in it is a courtesy; another system's locks may even hinder reading.
                let _ = file.take(100).read_to_string(&mut owner);
                let owner =
                    owner.trim().parse::<u32>().map(|id| format!(" (process {id})")).unwrap_or_default();
                fail!(
                    "{}: another process{owner} is training in this run; wait for it or stop it",
                    path.display()
                );
            }
            Err(TryLockError::Error(e)) => {
                return Err(Error::caused_by(
                    format!(
                        "{}: cannot lock; if its file system has no locks, train on another",
                        lock.display()
                    ),
                    e,
                ));
            }
        }
        let noted = file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "{}", std::process::id()));
        noted.context(|| format!("{}: cannot write", lock.display()))?;
        Ok(Folder { path, lock: file })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's name.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Where the checkpoints lie.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    /// Writes `config.toml`: every setting that makes the run repeatable, with the program's version, the
    /// instruction set and the number of threads.
    ///
    /// TOML has no null (a `None` in a struct is left out) and no integer above 2⁶³ - 1.
    pub fn write_config<T: Serialize>(&self, config: &T) -> Result<()> {
        let path = self.path.join(CONFIG);
        let text =
            toml::to_string_pretty(config).context(|| format!("{}: cannot be TOML", path.display()))?;
        wootz_formats::write_atomically(&path, |file| file.write_all(text.as_bytes()))
            .context(|| "cannot write the settings")
    }

    /// Reads what [`Folder::write_config`] wrote.
    pub fn read_config<T: DeserializeOwned>(&self) -> Result<T> {
        let path = self.path.join(CONFIG);
        parse_toml(&path, &read_small(&path)?)
    }

    /// Writes a file that belongs to the whole run, such as `tokenizer.json`, and returns its path; one of the same
    /// name is replaced.
    pub fn write_file(
        &self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<PathBuf> {
        if !is_plain_name(name) || [CONFIG, LOCK, METRICS, REPORT, CHECKPOINTS].contains(&name) {
            fail!(
                "{name:?} is no name for a file of a run; expected one without folders that the run has no use for"
            );
        }
        let path = self.path.join(name);
        wootz_formats::write_atomically(&path, |file| write(file))
            .context(|| "cannot write a file of the run")?;
        Ok(path)
    }
}

/// A name for a run of today: `2026-01-31-tiny`.
pub fn dated_name(preset: &str) -> String {
    let date = jiff::Zoned::now().date();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
    let preset: String = preset.chars().take(60).map(|c| if is_plain(c) { c } else { '-' }).collect();
    match preset.trim_matches('-') {
        "" => date.to_string(),
        preset => format!("{date}-{preset}"),
    }
}

fn check_name(name: &str) -> Result<()> {
    if !is_plain_name(name) {
        fail!("{name:?} is no name for a run; expected one that is a plain folder name, such as tiny-3");
    }
    Ok(())
}

/// Whether this is the folder of a run (its settings or its checkpoints are there).
pub fn is_run(path: &Path) -> bool {
    path.join(CONFIG).is_file() || path.join(CHECKPOINTS).is_dir()
}

/// The folder of the newest complete checkpoint of a run: what the run is where a model is asked for.
///
/// It only reads, so it may be called while the run is training.
pub fn newest_model(run: &Path) -> Result<PathBuf> {
    if !is_run(run) {
        fail!("{}: is not a run; expected a folder with {CONFIG}, as training makes it", run.display());
    }
    let latest = Store::at(run.join(CHECKPOINTS)).latest(Check::Sizes)?;
    if let Some(checkpoint) = latest.found {
        return Ok(checkpoint.path);
    }
    match latest.skipped.is_empty() {
        true => fail!("{}: this run has saved no checkpoint yet", run.display()),
        false => {
            let list: Vec<String> = latest.skipped.iter().map(ToString::to_string).collect();
            fail!("{}: this run has no complete checkpoint: {}", run.display(), list.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use serde::Deserialize;

    use super::super::scratch::Scratch;
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Config {
        version: String,
        seed: u64,
        lr: f32,
        resumed_from: Option<String>,
        schedule: crate::schedule::Schedule,
    }

    fn config() -> Config {
        Config {
            version: "0.1.0".into(),
            seed: 1337,
            lr: 3e-4,
            resumed_from: None,
            schedule: crate::schedule::Schedule {
                peak: 3e-4,
                shape: "wsd".parse().unwrap(),
                warmup: 10,
                total: 100,
                final_fraction: 0.1,
            },
        }
    }

    #[test]
    fn a_taken_name_is_refused_or_numbered() {
        let runs = Scratch::new();
        let create = |if_taken| Folder::create(&runs.path().join("runs"), "a", if_taken);
        assert_eq!(create(IfTaken::Refuse).unwrap().name(), "a");
        let error = create(IfTaken::Refuse).unwrap_err().to_string();
        assert!(error.contains("is there already"), "{error}");
        assert_eq!(create(IfTaken::Number).unwrap().name(), "a-2");
        assert_eq!(create(IfTaken::Number).unwrap().name(), "a-3");
        for name in ["", ".", "..", "a/b", "a\\b", ".hidden", "a\nb"] {
            assert!(Folder::create(runs.path(), name, IfTaken::Number).is_err(), "{name:?}");
        }
    }

    #[test]
    fn names_of_today_are_plain() {
        let name = dated_name("Qwen/Qwen3 0.6B");
        assert!(name.ends_with("-Qwen-Qwen3-0.6B"), "{name}");
        assert_eq!(name.find('-'), Some(4));
        check_name(&name).unwrap();
        check_name(&dated_name("../..")).unwrap();
        assert_eq!(dated_name("").len(), 10);
    }

    #[test]
    fn settings_come_back_as_they_were() {
        let runs = Scratch::new();
        let folder = Folder::create(runs.path(), "a", IfTaken::Refuse).unwrap();
        folder.write_config(&config()).unwrap();
        let text = fs::read_to_string(folder.path().join(CONFIG)).unwrap();
        assert!(text.contains("lr = 0.0003\n"), "an f32 is written as short as it can be:\n{text}");
        assert_eq!(folder.read_config::<Config>().unwrap(), config());

        fs::write(folder.path().join(CONFIG), "version = \"1\"\nseed = \"x\"\n").unwrap();
        let error = folder.read_config::<Config>().unwrap_err().to_string();
        assert!(error.contains("config.toml: line 2: ") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn files_of_the_run_lie_beside_its_settings() {
        let runs = Scratch::new();
        let folder = Folder::create(runs.path(), "a", IfTaken::Refuse).unwrap();
        for text in ["{}", "{\"model\": 1}"] {
            let path = folder.write_file("tokenizer.json", |out| out.write_all(text.as_bytes())).unwrap();
            assert_eq!(path, folder.path().join("tokenizer.json"));
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        folder.write_file("tokenizer.json", |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(fs::read_to_string(folder.path().join("tokenizer.json")).unwrap(), "{\"model\": 1}");
        for name in ["lock", "config.toml", "checkpoints", "../a", ".a", ""] {
            assert!(folder.write_file(name, |_| Ok(())).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_run_is_open_once() {
        let runs = Scratch::new();
        let folder = Folder::create(runs.path(), "a", IfTaken::Refuse).unwrap();
        let path = folder.path().to_owned();
        let error = Folder::open(&path).unwrap_err().to_string();
        assert!(error.contains("is not a run"), "{error}"); // no settings yet
        folder.write_config(&config()).unwrap();
        let error = Folder::open(&path).unwrap_err().to_string();
        let owner = format!("another process (process {}) is training", std::process::id());
        assert!(error.contains(&owner), "{error}");
        let started = folder.lock.try_clone().unwrap(); // as a program has it that was started meanwhile
        drop(folder);
        // The lock's file stays, with the number of a process that has let go.
        assert!(path.join(LOCK).exists());
        Folder::open(&path).unwrap();
        drop(started);
    }

    const CHILD: &str = "WOOTZ_TEST_LOCKS";

    #[test]
    fn a_lock_dies_with_its_process() {
        if let Some(path) = std::env::var_os(CHILD) {
            let _folder = Folder::open(Path::new(&path)).unwrap();
            println!("locked");
            loop {
                std::thread::park();
            }
        }
        let runs = Scratch::new();
        let folder = Folder::create(runs.path(), "a", IfTaken::Refuse).unwrap();
        folder.write_config(&config()).unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "run::folder::tests::a_lock_dies_with_its_process"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        let mut byte = [0];
        let mut stdout = child.stdout.take().unwrap();
        while !said.ends_with(b"locked") && stdout.read(&mut byte).unwrap() == 1 {
            said.push(byte[0]);
        }
        let error = Folder::open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", child.id())), "{error}");
        child.kill().unwrap();
        child.wait().unwrap();
        Folder::open(&path).unwrap();
    }

    #[test]
    fn a_run_without_checkpoints_says_so() {
        let runs = Scratch::new();
        assert!(newest_model(runs.path()).unwrap_err().to_string().contains("is not a run"));
        let folder = Folder::create(runs.path(), "a", IfTaken::Refuse).unwrap();
        folder.write_config(&config()).unwrap();
        let error = newest_model(folder.path()).unwrap_err().to_string();
        assert!(error.contains("has saved no checkpoint yet"), "{error}");
        fs::create_dir_all(folder.checkpoints().join("step-000010")).unwrap();
        let error = newest_model(folder.path()).unwrap_err().to_string();
        assert!(error.contains("step-000010 was left unfinished: no DONE marker"), "{error}");
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let runs = Scratch::new();
        let file = runs.path().join("runs");
        fs::write(&file, "").unwrap();
        let error = Folder::create(&file, "a", IfTaken::Number).unwrap_err();
        assert!(format!("{error:#}").contains("runs: cannot make the folder: "), "{error:#}");
    }
}
