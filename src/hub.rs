//! Models of the Hugging Face hub: from its cache, or downloaded into it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use wootz_hub::complete::{Found, Need, find as find_in};
use wootz_hub::{Reference, Settings};

#[cfg(feature = "hub")]
mod show;
#[cfg(feature = "hub")]
pub use show::{Show, Style, count, size};

/// Whether `--offline` was given: the one flag that changes what a name stands for, in every command.
static OFFLINE: OnceLock<()> = OnceLock::new();

/// From now on nothing is asked of the network.
pub fn stay_offline() {
    OFFLINE.get_or_init(|| ());
}

/// What the environment and `--offline` say.
///
/// # Errors
/// The environment contradicts itself; the message names the variable.
pub fn settings() -> Result<Settings> {
    let settings = Settings::from_environment()?;
    Ok(Settings { offline: settings.offline || OFFLINE.get().is_some(), ..settings })
}

/// The path of a model or adapter: its folder, or its GGUF file. What is in the cache is taken as it is, and the hub is not
/// asked whether there is something newer; what is not there is downloaded.
///
/// # Errors
/// It is not there, and cannot be downloaded.
pub fn find(reference: &Reference, need: Need) -> Result<PathBuf> {
    let settings = settings()?;
    let missing = match in_cache(&settings, reference, need)? {
        Found::Whole(path) => return Ok(path),
        Found::Missing(what) => what,
    };
    if settings.offline {
        bail!(
            "{reference} is no file or folder, and not in the hub's cache ({}: {missing} is missing). Nothing is downloaded \
             with --offline or HF_HUB_OFFLINE: download it with `wootz pull {reference}`, or give the path of a model",
            settings.cache.repo(&reference.repo).display()
        );
    }
    // `runs/typo` beside a folder `runs` is a path with a mistake in it, and nobody's business.
    let folder = reference.repo.organisation();
    if Path::new(folder).is_dir() {
        bail!(
            "no model {reference}: there is no such thing in the folder {folder}, and it is not in the hub's cache ({missing} is \
             missing); if the hub's is meant, download it with `wootz pull {reference}`"
        );
    }
    download(&settings, reference, need).with_context(|| format!("{reference} is no file or folder here"))?;
    match in_cache(&settings, reference, need)? {
        Found::Whole(path) => Ok(path),
        Found::Missing(what) => bail!("{reference}: was downloaded, and has no {what}"),
    }
}

/// What the cache has of it.
///
/// # Errors
/// It has several models, and it was not said which is meant; the cache cannot be read.
pub fn in_cache(settings: &Settings, reference: &Reference, need: Need) -> Result<Found> {
    match settings.cache.snapshot(&reference.repo, &reference.revision)? {
        Some(snapshot) => Ok(find_in(&snapshot, reference.choice.as_deref(), need)?),
        None => Ok(Found::Missing("everything".to_owned())),
    }
}

#[cfg(feature = "hub")]
fn download(settings: &Settings, reference: &Reference, need: Need) -> Result<()> {
    use wootz_hub::Selection;
    use wootz_hub::pull::{Options, pull};
    let choice = reference.choice.clone();
    let selection = match need {
        Need::Model => Selection::Model { choice },
        Need::Tokenizer => Selection::Tokenizer { choice },
    };
    pull(settings, reference, &Options::new(selection), &Show::new(reference, Style::Auto))?;
    Ok(())
}

#[cfg(not(feature = "hub"))]
fn download(_: &Settings, reference: &Reference, _: Need) -> Result<()> {
    bail!("{WITHOUT}: download it with `hf download {}`", reference.repo)
}

/// What a program without the network can say.
#[cfg(not(feature = "hub"))]
pub const WITHOUT: &str = "this wootz was built without the feature `hub`, and downloads nothing";
