//! Whether what is in the cache is enough, so that nothing need be asked of the network.

use std::path::PathBuf;

use crate::cache::Snapshot;
use crate::error::{Context, Result, fail};
use crate::selection::{ADAPTER, Choice, INDEX, choose, gguf_models};

/// What a snapshot is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To run the model, or to put the adapter on one.
    Model,
    /// To read and write its text.
    Tokenizer,
}

/// What there is of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// All that is needed: the folder, or the GGUF file to open.
    Whole(PathBuf),
    /// Something is missing: says what.
    Missing(String),
}

/// Looks whether the snapshot has what is needed; of several GGUF models the chosen one.
///
/// # Errors
/// There are several models, and it was not said which is meant; the folder or the index cannot be read.
pub fn find(snapshot: &Snapshot, choice: Option<&str>, need: Need) -> Result<Found> {
    let names = snapshot.files()?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let has = |name: &str| names.contains(&name);
    if choice.is_none() {
        if need == Need::Tokenizer && has("tokenizer.json") {
            return Ok(Found::Whole(snapshot.folder.clone()));
        }
        if has(INDEX) {
            let missing = shards(snapshot)?.into_iter().find(|shard| !has(shard));
            return Ok(match missing {
                None if !has("config.json") => Found::Missing("config.json".to_owned()),
                None => Found::Whole(snapshot.folder.clone()),
                Some(shard) => Found::Missing(shard),
            });
        }
        let has_weights = names.iter().any(|name| name.ends_with(".safetensors") && !name.contains('/'));
        let is_adapter = has("adapter_config.json") && has(ADAPTER);
        if is_adapter || has_weights && has("config.json") {
            return Ok(Found::Whole(snapshot.folder.clone()));
        }
    }
    let models = gguf_models(&names);
    Ok(match choose(&models, choice) {
        Choice::One(model) if model.is_whole => Found::Whole(snapshot.path(&model.files[0])),
        Choice::One(model) => Found::Missing(format!("parts of {}", model.files[0])),
        Choice::None => Found::Missing(choice.unwrap_or("the weights").to_owned()),
        Choice::Several(several) => {
            let names: Vec<&str> = several.iter().map(|model| model.files[0].as_str()).collect();
            fail!(
                "{}: several models are there, so say which behind a colon: {}",
                snapshot.folder.display(),
                names.join(", ")
            )
        }
    })
}

/// The files that the index names.
fn shards(snapshot: &Snapshot) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let path = snapshot.path(INDEX);
    let text = std::fs::read(&path).context(|| format!("{}: cannot read", path.display()))?;
    let index: Index = serde_json::from_slice(&text)
        .context(|| format!("{}: expected an index of tensors", path.display()))?;
    let mut files: Vec<String> = index.weight_map.into_values().collect();
    files.sort();
    files.dedup();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is found in a folder with these files.
    fn found(files: &[(&str, &str)], choice: Option<&str>, need: Need) -> Result<Option<String>> {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("wootz-hub-complete-{}-{n}", std::process::id()));
        for (name, text) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let snapshot = Snapshot { folder: folder.clone(), commit: "0".into() };
        let found = find(&snapshot, choice, need);
        fs::remove_dir_all(&folder).unwrap();
        Ok(match found? {
            Found::Whole(path) => Some(path.strip_prefix(&folder).unwrap().to_string_lossy().into_owned()),
            Found::Missing(_) => None,
        })
    }

    #[test]
    fn a_model_is_whole_with_config_and_all_weights() {
        let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
        let config = ("config.json", "");
        let model = |files: &[(&str, &str)]| found(files, None, Need::Model).unwrap();
        assert_eq!(model(&[config, ("model.safetensors", "")]), Some(String::new()));
        assert_eq!(model(&[config]), None);
        assert_eq!(model(&[("model.safetensors", "")]), None);
        let shards = [config, (INDEX, index), ("model-1.safetensors", ""), ("model-2.safetensors", "")];
        assert_eq!(model(&shards), Some(String::new()));
        assert_eq!(model(&shards[..3]), None);
        assert_eq!(model(&[("adapter_config.json", ""), (ADAPTER, "")]), Some(String::new()));
        assert!(found(&[config, (INDEX, "{")], None, Need::Model).is_err());
    }

    #[test]
    fn a_gguf_model_is_the_file_to_open() {
        let both =
            [("a-Q4_0.gguf", ""), ("s/a-Q8_0-00001-of-00002.gguf", ""), ("s/a-Q8_0-00002-of-00002.gguf", "")];
        let choose = |n: usize, choice| found(&both[..n], choice, Need::Model).unwrap();
        assert_eq!(choose(1, None).as_deref(), Some("a-Q4_0.gguf"));
        assert_eq!(choose(1, Some("Q8_0")), None);
        assert_eq!(choose(2, Some("Q8_0")), None);
        assert_eq!(choose(3, Some("Q8_0")).as_deref(), Some("s/a-Q8_0-00001-of-00002.gguf"));
        let error = found(&both, None, Need::Model).unwrap_err().to_string();
        assert!(error.contains("a-Q4_0.gguf") && error.contains("colon"), "{error}");
    }

    #[test]
    fn text_needs_a_tokenizer_only() {
        assert_eq!(found(&[("tokenizer.json", "")], None, Need::Tokenizer).unwrap(), Some(String::new()));
        assert_eq!(found(&[("tokenizer.json", "")], None, Need::Model).unwrap(), None);
    }
}
