//! Where a run lives and what it may take: flags of every kind of run.

use crate::commands::device::DeviceArgs;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use wootz_kernels::pool;
use wootz_train::progress::Style;
use wootz_train::run::checkpoint::{Check, Checkpoint, Store};
use wootz_train::run::{Folder, IfTaken, dated_name};

/// A run's folder and limits.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Settings from a file, such as the config.toml of another run; flags win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Go on with the run of this folder, from its newest whole checkpoint
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "name"])]
    pub resume: Option<PathBuf>,
    /// The run's name [default: the date and the model]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The folder of runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// Refuse to begin if it takes more memory than this many MiB [default: what is free]
    #[arg(long, value_name = "MIB")]
    pub memory: Option<usize>,
    /// Threads; they change no bit [default: one a physical core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// One line a step instead of a progress bar
    #[arg(long)]
    plain: bool,
    /// Print the result as one JSON object, and no samples
    #[arg(long)]
    pub json: bool,
}

impl RunArgs {
    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(pool::default_threads).max(1)
    }

    /// How progress is shown.
    pub fn style(&self) -> Style {
        if self.plain { Style::Lines(Default::default()) } else { Style::Auto }
    }

    /// Makes the folder of a new run of this model: under the name that was given, or the date's and the model's.
    ///
    /// # Errors
    /// There is a run of the name that was given; the disk.
    pub fn make_folder(&self, model: &str, suffix: &str) -> wootz_train::Result<Folder> {
        match &self.name {
            Some(name) => Folder::create(&self.runs, name, IfTaken::Refuse),
            None => {
                let short =
                    Path::new(model).file_stem().map_or("model".into(), |stem| stem.to_string_lossy());
                Folder::create(&self.runs, &dated_name(&format!("{short}{suffix}")), IfTaken::Number)
            }
        }
    }
}

/// The newest whole checkpoint of a run that is not complete after `steps` steps.
///
/// # Errors
/// There is none, or no step is left.
pub fn checkpoint(path: &Path, folder: &Folder, steps: u64) -> Result<Checkpoint> {
    let latest = Store::at(folder.checkpoints()).latest(Check::Hashes)?;
    for skipped in &latest.skipped {
        eprintln!("{skipped}");
    }
    let Some(checkpoint) = latest.found else {
        bail!(
            "{0}: there is no whole checkpoint to go on from; begin again with --config {0}/config.toml",
            path.display()
        )
    };
    if checkpoint.step() >= steps {
        bail!(
            "{}: all {} steps are done; give --steps with a larger number to go on",
            path.display(),
            checkpoint.step()
        );
    }
    Ok(checkpoint)
}
