//! From what the user calls a model to a path: a file or folder, a hub id, or the built-in `story`.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

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
/// `ORGANISATION/NAME` is looked up in the hub's cache.
///
/// # Errors
/// There is no such model; the message says where it was looked for.
pub fn resolve(model: Option<&str>) -> Result<PathBuf> {
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
    let Some((organisation, name)) = hub_id(model) else {
        bail!(
            "no model at {model}: there is no such file or folder, and it is no hub id (ORGANISATION/NAME) and not \
             `{STORY}`, the built-in model"
        );
    };
    let Some(hub) = hub_cache() else {
        bail!("no model at {model}, and no hub cache to look for it: neither HF_HOME nor HOME is set");
    };
    snapshot(&hub, organisation, name)
}

/// The path of an adapter: a folder of PEFT's, a GGUF adapter, a training run (what its newest whole checkpoint holds), or
/// `ORGANISATION/NAME` in the hub's cache.
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
    let Some((organisation, model)) = hub_id(name) else {
        bail!(
            "no adapter at {name}: there is no such file or folder, and it is no hub id (ORGANISATION/NAME)"
        );
    };
    let Some(hub) = hub_cache() else {
        bail!("no adapter at {name}, and no hub cache to look for it: neither HF_HOME nor HOME is set");
    };
    snapshot(&hub, organisation, model)
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

/// `ORGANISATION/NAME`, of the characters that the hub allows.
fn hub_id(model: &str) -> Option<(&str, &str)> {
    let is_name = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
    };
    model.split_once('/').filter(|(organisation, name)| is_name(organisation) && is_name(name))
}

/// Where Hugging Face's tools keep what they downloaded.
fn hub_cache() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/huggingface/hub")))
}

/// The downloaded revision `main` of a model.
fn snapshot(hub: &Path, organisation: &str, name: &str) -> Result<PathBuf> {
    let folder = hub.join(format!("models--{organisation}--{name}"));
    let main = folder.join("refs/main");
    let Ok(revision) = fs::read_to_string(&main) else {
        bail!(
            "{organisation}/{name} is no file or folder, and not in the hub cache ({}). Models are not downloaded yet \
             (`wootz pull` will): download it with `hf download {organisation}/{name}`, or give the path of a model",
            folder.display()
        );
    };
    let revision = revision.trim();
    let path = folder.join("snapshots").join(revision);
    let is_plain = !revision.is_empty() && revision.chars().all(|c| c.is_ascii_alphanumeric());
    if !is_plain || !path.is_dir() {
        bail!(
            "{organisation}/{name}: {} names revision {revision:?}, which is not in {}; download the model again",
            main.display(),
            folder.join("snapshots").display()
        );
    }
    Ok(path)
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
    fn hub_ids_are_two_plain_names() {
        assert_eq!(hub_id("Qwen/Qwen3-0.6B"), Some(("Qwen", "Qwen3-0.6B")));
        for path in ["story", "a/b/c", "/a", "a/", "./a", "../a", "a/..", "a/b c", ""] {
            assert_eq!(hub_id(path), None, "{path}");
        }
    }

    #[test]
    fn finds_a_snapshot_or_says_what_to_do() {
        let hub = folder("hub");
        let error = snapshot(&hub, "a", "b").unwrap_err().to_string();
        assert!(error.contains("hf download a/b"), "{error}");
        let model = hub.join("models--a--b");
        fs::create_dir_all(model.join("refs")).unwrap();
        fs::create_dir_all(model.join("snapshots/0123abcd")).unwrap();
        fs::write(model.join("refs/main"), "0123abcd\n").unwrap();
        assert_eq!(snapshot(&hub, "a", "b").unwrap(), model.join("snapshots/0123abcd"));
        for bad in ["gone", "", "../.."] {
            fs::write(model.join("refs/main"), bad).unwrap();
            assert!(snapshot(&hub, "a", "b").unwrap_err().to_string().contains("download the model again"));
        }
        fs::remove_dir_all(hub).unwrap();
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
