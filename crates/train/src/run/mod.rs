//! What a training run writes and reads beside the mathematics. Nothing here knows what a model is: it works on
//! bytes, numbers and names.
//!
//! ```text
//! runs/2026-01-31-tiny/
//!   config.toml                 every setting, so that the run can be repeated  folder.rs
//!   tokenizer.json              and what else the run's text is read with
//!   metrics.jsonl               one object a line                             metrics.rs
//!   events.out.tfevents.*       the same numbers for TensorBoard              tensorboard.rs
//!   report.html                 the same numbers as a page                    report.rs
//!   checkpoints/step-000100/    the model, and what else resuming needs       checkpoint.rs
//!   lock                        held by the process that trains               folder.rs
//! ```
//!
//! A step counts the updates that are done: the first line of `metrics.jsonl` is step 1, and `step-000100` holds
//! the weights after 100 updates.
//!
//! ```
//! use wootz_train::run::checkpoint::{Best, Check, Keep, Store, TensorSpec};
//! use wootz_train::run::metrics::{Metrics, Row, Step};
//! use wootz_train::run::{Folder, IfTaken, report};
//!
//! # let runs = std::env::temp_dir().join(format!("wootz-doc-{}", std::process::id()));
//! # let settings = std::collections::BTreeMap::from([("seed", 1337)]);
//! # let (weights, rng) = ([0.5f32; 6], 7u64);
//! # let specs = [TensorSpec { name: "w", shape: &[2, 3] }];
//! # let measured = Step { step: 1, tokens: 64, loss: 2.5, grad_norm: 1.0, lr: 1e-3, tokens_per_second: 9.0 };
//! let run = Folder::create(&runs, "tiny", IfTaken::Number)?; // locked as long as it lives
//! run.write_config(&settings)?;
//! let mut metrics = Metrics::create(&run.metrics())?;
//! let store = Store::at(run.checkpoints()).keeping(Keep { newest: 3, best: Best::Keep });
//!
//! metrics.append(&Row::from(measured))?;
//! metrics.sync()?;
//! store.save(1, |w| {
//!     w.tensors("weights.safetensors", &specs, |_, sink| Ok(sink.write(&weights)?))?;
//!     w.json("state.json", &rng)
//! })?;
//! report::write(run.path())?;
//!
//! // To go on, in another process:
//! # let path = run.path().to_owned();
//! # drop(run);
//! let run = Folder::open(&path)?;
//! let latest = Store::at(run.checkpoints()).latest(Check::Hashes)?;
//! latest.skipped.iter().for_each(|skipped| eprintln!("{skipped}"));
//! let checkpoint = latest.found.ok_or("no checkpoint")?;
//! let (metrics, _) = Metrics::resume(&run.metrics(), checkpoint.step())?;
//! let mut weights = [0.0; 6];
//! checkpoint.tensors("weights.safetensors")?.read("w", &[2, 3], &mut weights)?;
//! let rng: u64 = checkpoint.json("state.json")?;
//! # assert_eq!((weights, rng), ([0.5; 6], 7));
//! # drop((run, metrics));
//! # std::fs::remove_dir_all(&runs)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod checkpoint;
mod folder;
pub mod metrics;
pub mod report;
pub mod tensorboard;

pub use folder::{Folder, IfTaken, dated_name, is_run, newest_model};

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Context, Error, Result, fail};

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
const REPORT: &str = "report.html";
const CHECKPOINTS: &str = "checkpoints";
const LOCK: &str = "lock";

/// Reads a small text file that a run wrote; one that has grown beyond all measure is not read.
fn read_small(path: &Path) -> Result<String> {
    const LARGEST: u64 = 16 << 20;
    let file = File::open(path).context(|| format!("{}: cannot open", path.display()))?;
    let mut text = String::new();
    let bytes = file.take(LARGEST + 1).read_to_string(&mut text);
    if bytes.context(|| format!("{}: cannot read", path.display()))? as u64 > LARGEST {
        fail!("{}: is longer than {LARGEST} bytes; is it damaged?", path.display());
    }
    Ok(text)
}

/// Parses the settings that `path` holds; an error has one line, where the library's own draws several.
fn parse_toml<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(start).filter(|&byte| byte == b'\n').count() + 1;
        Error::new(format!("{}: line {line}: {}", path.display(), error.message().replace('\n', ", ")))
    })
}

/// A file name without folders, and not hidden. What a file names must be one too, so that it leads out of no folder.
fn is_plain_name(name: &str) -> bool {
    let is_odd = |c: char| c.is_control() || matches!(c, '/' | '\\' | ':');
    !name.is_empty() && !name.starts_with('.') && name.len() <= 200 && !name.contains(is_odd)
}

/// Makes a folder where there is none, with those above it, so that it is there after a power cut too.
fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).context(|| format!("{}: cannot make the folder", path.display()))?;
    if let Some(parent) = path.parent() {
        sync_folder(parent);
    }
    Ok(())
}

/// Makes the entries of a folder durable: files that were made, renamed or removed in it.
///
/// Not every system can do that for a folder; there the system's own order of writing must do.
fn sync_folder(folder: &Path) {
    #[cfg(unix)]
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    #[cfg(not(unix))]
    let _ = folder;
}

#[cfg(test)]
pub(crate) mod scratch {
    //! A folder for one test, removed with it.

    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicUsize, Ordering};

    pub struct Scratch(PathBuf);

    impl Scratch {
        pub fn new() -> Scratch {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("wootz-train-{}-{n}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }

        pub fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
