//! From what the user calls a model to a path: a file or folder, a hub id, or the built-in `story`.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use wootz_hub::complete::Need;
use wootz_hub::{Kind, Reference};

use crate::hub;

/// The name of the built-in model, which is also the one to take when none is named.
pub const STORY: &str = "story";

/// Where a checkpoint may have its adapter.
const CHECKPOINT_ADAPTER: &str = "adapter";

/// The built-in model: a small trained Llama that tells stories, as a GGUF file.
const STORY_FILE: &[u8] = include_bytes!("../assets/story.gguf");

/// The path of a model.
///
/// `story`, or none, is the built-in model (a file of that name is `./story`). A path that exists is taken as it is; of a
/// training run's folder, the newest whole checkpoint.
/// `ORGANISATION/NAME`, perhaps with a revision and the name of one of its GGUF models, is taken from the hub's cache, and
/// downloaded if it is not there.
///
/// # Errors
/// There is no such model; the message says where it was looked for.
pub fn resolve(model: Option<&str>) -> Result<PathBuf> {
    resolve_for(model, Need::Model)
}

/// As [`resolve`], for somebody who wants the tokenizer only: no weights are downloaded where it can be had without.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_tokenizer(model: &str) -> Result<PathBuf> {
    resolve_for(Some(model), Need::Tokenizer)
}

fn resolve_for(model: Option<&str>, need: Need) -> Result<PathBuf> {
    let model = model.unwrap_or(STORY);
    if model == STORY {
        return story();
    }
    let path = PathBuf::from(model);
    if path.join("config.json").is_file() || !path.is_dir() && path.exists() {
        return Ok(path);
    }
    if wootz_train::run::is_run(&path) {
        let newest = wootz_train::run::newest_model(&path)?;
        if wootz_model::adapter::is_adapter(&newest) {
            bail!(
                "{model}: this run has learnt an adapter; name the model that it is for, and give --adapter {model}"
            );
        }
        return Ok(newest);
    }
    if wootz_model::adapter::is_adapter(&path) {
        bail!("{model}: is an adapter; name the model that it is for, and give --adapter {model}");
    }
    if path.exists() {
        return Ok(path);
    }
    let Some(reference) = Reference::parse(Kind::Model, model) else {
        bail!(
            "no model at {model}: there is no such file or folder, and it is no hub id (ORGANISATION/NAME) and not \
             `{STORY}`, the built-in model"
        );
    };
    let path = hub::find(&reference, need)?;
    if need == Need::Model && wootz_model::adapter::is_adapter(&path) {
        bail!("{model}: is an adapter; name the model that it is for, and give --adapter {model}");
    }
    Ok(path)
}

/// The path of an adapter: a folder of PEFT's, a GGUF adapter, a training run (what its newest whole checkpoint holds), or
/// `ORGANISATION/NAME` on the hub.
///
/// # Errors
/// There is no such adapter; the message says where it was looked for.
pub fn resolve_adapter(name: &str) -> Result<PathBuf> {
    let path = PathBuf::from(name);
    if wootz_train::run::is_run(&path) && !wootz_model::adapter::is_adapter(&path) {
        return adapter_of(&wootz_train::run::newest_model(&path)?);
    }
    if path.exists() {
        return Ok(path);
    }
    let Some(reference) = Reference::parse(Kind::Model, name) else {
        bail!(
            "no adapter at {name}: there is no such file or folder, and it is no hub id (ORGANISATION/NAME)"
        );
    };
    hub::find(&reference, Need::Model)
}

/// The adapter of a checkpoint: itself, or a folder in it.
fn adapter_of(checkpoint: &Path) -> Result<PathBuf> {
    let places = [checkpoint.to_owned(), checkpoint.join(CHECKPOINT_ADAPTER)];
    match places.into_iter().find(|path| wootz_model::adapter::is_adapter(path)) {
        Some(path) => Ok(path),
        None => bail!(
            "{}: this checkpoint holds no adapter (expected adapter_config.json, or a folder {CHECKPOINT_ADAPTER} with it); was \
             the whole model trained?",
            checkpoint.display()
        ),
    }
}

/// Whether this is the built-in model.
pub fn is_story(model: Option<&str>) -> bool {
    model.is_none_or(|model| model == STORY)
}

/// The built-in model as a file: models are opened by path and memory-mapped.
fn story() -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    STORY_FILE.hash(&mut hasher);
    let name = format!("story-{:016x}.gguf", hasher.finish());
    let mut last = None;
    for folder in story_folders() {
        match write_story(&folder.join(&name), STORY_FILE) {
            Ok(path) => return Ok(path),
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| anyhow::anyhow!("there is no folder for temporary files"));
    Err(error.context("cannot unpack the built-in model"))
}

/// The user's cache, or where temporary files go.
fn story_folders() -> impl Iterator<Item = PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("wootz")).into_iter().chain([std::env::temp_dir()])
}

/// Writes the file unless it is there with the same contents. A file in a shared folder may be somebody else's.
fn write_story(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(path.to_owned());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot create the folder", folder.display()))?;
    }
    wootz_formats::write_atomically(path, |file| file.write_all(bytes))?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("wootz-model-arg-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn the_story_file_is_written_once_and_mended() {
        let folder = folder("story");
        let path = folder.join("deeper/story.gguf");
        for found in [None, Some("damaged"), Some("bytes")] {
            if let Some(found) = found {
                fs::write(&path, found).unwrap();
            }
            assert_eq!(write_story(&path, b"bytes").unwrap(), path);
            assert_eq!(fs::read(&path).unwrap(), b"bytes");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_no_model_is_explained() {
        let error = resolve(Some("no/such/model.gguf")).unwrap_err().to_string();
        assert!(error.contains("no/such/model.gguf") && error.contains("story"), "{error}");
    }
}
