//! Flags that every kind of run has, and the file that may hold them.
//!
//! A setting is a flag, or a key of the same name in the file of `--config`, or what is usual. Each group of flags is a
//! struct of options; a group of the library's settings is what they come to.

mod learning;
mod meanwhile;
mod run;

use anyhow::{Context, Result, bail};
pub use learning::{LearningArgs, UsualLearning};
pub use meanwhile::{MeanwhileArgs, UsualMeanwhile};
pub use run::{RunArgs, checkpoint};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// What was said by a flag, or else in the file.
macro_rules! said {
    ($flags:ident, $file:ident, $name:ident) => {
        $flags.$name.clone().or_else(|| $file.$name.clone())
    };
}
pub(crate) use said;

/// The settings in a file, or none where there is no file.
///
/// # Errors
/// A file that cannot be read, or has a name that is no setting's.
pub fn from_file<T: Serialize + DeserializeOwned + Default>(path: Option<&Path>, command: &str) -> Result<T> {
    let Some(path) = path else { return Ok(T::default()) };
    let text = super::read_text(path)?;
    let whose = || format!("{}: expected settings of `wootz {command}`", path.display());
    let table: toml::Table = toml::from_str(&text).with_context(whose)?;
    // Groups of settings are one flat list in the file, for which serde cannot tell what is unknown by itself.
    let known = serde_json::to_value(T::default()).context("the names of settings")?;
    if let Some(unknown) = table.keys().find(|key| known.get(key.as_str()).is_none()) {
        let names: Vec<&str> =
            known.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let line =
            text.lines().position(|line| line.trim_start().starts_with(unknown.as_str())).unwrap_or(0) + 1;
        bail!(
            "{}:{line}: `{unknown}` is no setting of `wootz {command}`; expected one of {}",
            path.display(),
            names.join(", ")
        );
    }
    toml::from_str(&text).with_context(whose)
}

/// Fails where a flag was given that a run that goes on cannot change: `changed` are the flags without those that can.
///
/// # Errors
/// The names of such flags.
pub fn refuse_changes(changed: &impl Serialize) -> Result<()> {
    let given = serde_json::to_value(changed).context("the flags")?;
    let names = given.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let names: Vec<String> = names.map(|(name, _)| format!("--{name}")).collect();
    if !names.is_empty() {
        bail!(
            "{}: cannot change in a run that is resumed; begin a new one from its checkpoint with --model RUN",
            names.join(", ")
        );
    }
    Ok(())
}
