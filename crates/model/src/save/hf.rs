//! A Hugging Face folder: config.json, model.safetensors, generation_config.json and the tokenizer's files.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde_json::{Map, Value, json};
use wootz_formats::{Format, TensorSpec, safetensors, write_atomically};
use wootz_kernels::DType;
use wootz_text::Tokenizer;

use super::stored::{NormShift, encode, stored};
use super::{Existing, SaveOptions, Tensors};
use crate::arch::Architecture;
use crate::config::DecoderConfig;
use crate::error::{Context, Result, fail};

/// The files of a tokenizer, and what belongs to it. The first is the one that is needed.
const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    GENERATION,
];
const GENERATION: &str = "generation_config.json";

/// What `torch_dtype` calls the types.
const DTYPE_NAMES: &[(DType, &str)] =
    &[(DType::F32, "float32"), (DType::BF16, "bfloat16"), (DType::F16, "float16")];
const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";

pub(super) fn save(
    folder: &Path,
    architecture: &Architecture,
    config: &DecoderConfig,
    tensors: &dyn Tensors,
    options: &SaveOptions,
) -> Result<()> {
    let (files, written) = Folder::new(architecture, config, options)?;
    let all = stored(architecture, &written, Format::Safetensors, |_| options.dtype)?;
    let shift = NormShift::new(config.norm, written.norm);
    let specs: Vec<TensorSpec> = all.iter().map(|stored| stored.spec.clone()).collect();
    let fill = &mut |index: usize, file: &mut dyn Write| all[index].write(tensors, shift, &mut encode, file);
    // Without this note transformers refuses the file.
    let notes = [("format", "pt")];
    let weights = folder.join(WEIGHTS);
    files.write(folder, &[&weights], || {
        safetensors::write_streamed(&weights, &specs, &notes, fill).context(|| "the weights")
    })
}

/// A folder as transformers reads it, but for the weights: config.json and what belongs to the tokenizer.
pub(super) struct Folder {
    config: Map<String, Value>,
    tokenizer: Vec<(&'static str, Vec<u8>)>,
    existing: Existing,
}

impl Folder {
    /// The folder's files, and the configuration that they say the weights have.
    pub fn new(
        architecture: &Architecture,
        config: &DecoderConfig,
        options: &SaveOptions,
    ) -> Result<(Self, DecoderConfig)> {
        let (mut keys, written) = architecture.config_json(config)?;
        let Some((_, dtype)) = DTYPE_NAMES.iter().find(|(dtype, _)| *dtype == options.dtype) else {
            fail!("config.json has no name for {}", options.dtype)
        };
        keys.insert("torch_dtype".into(), json!(dtype));
        keys.insert("bos_token_id".into(), json!(options.tokenizer.and_then(Tokenizer::bos)));
        keys.insert("eos_token_id".into(), json!(options.tokenizer.and_then(Tokenizer::eos)));
        let tokenizer = tokenizer_files(options)?;
        Ok((Folder { config: keys, tokenizer, existing: options.existing }, written))
    }

    /// Writes the folder; `write_weights` makes the files `weights` in it.
    pub fn write(
        &self,
        folder: &Path,
        weights: &[&Path],
        write_weights: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        weights.iter().try_for_each(|path| self.existing.check(path))?;
        self.check(folder)?;
        fs::create_dir_all(folder).context(|| format!("cannot make the folder {}", folder.display()))?;
        write_weights()?;
        for (name, bytes) in &self.tokenizer {
            write_atomically(&folder.join(name), |file| file.write_all(bytes)).context(|| "the tokenizer")?;
        }
        // Last: a folder without it is no model.
        write_atomically(&folder.join(CONFIG), |file| file.write_all(&pretty(&self.config)?))
            .context(|| "the configuration")
    }

    /// Fails where a file is that is not to be replaced, or one that would be read with the new ones and is not of them.
    fn check(&self, folder: &Path) -> Result<()> {
        for name in self.tokenizer.iter().map(|(name, _)| *name).chain([CONFIG]) {
            self.existing.check(&folder.join(name))?;
        }
        let is_written = |name: &str| self.tokenizer.iter().any(|(written, _)| *written == name);
        let others = TOKENIZER_FILES.iter().filter(|name| !self.tokenizer.is_empty() && !is_written(name));
        for name in ["model.safetensors.index.json"].iter().chain(others) {
            let path = folder.join(name);
            if path.exists() {
                fail!(
                    "{} belongs to another model; remove it, or choose a folder without one",
                    path.display()
                );
            }
        }
        Ok(())
    }
}

/// The tokenizer's files and what generation stops at: copies of a folder's, or written anew.
fn tokenizer_files(options: &SaveOptions) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut files = match (options.tokenizer_folder, options.tokenizer) {
        (Some(folder), _) => copies(folder)?,
        (None, Some(tokenizer)) => {
            let files = tokenizer.to_folder().context(|| "the tokenizer cannot go into a folder")?;
            files.into_iter().map(|(name, text)| (name, text.into_bytes())).collect()
        }
        (None, None) => Vec::new(),
    };
    if let Some(tokenizer) = options.tokenizer
        && !files.iter().any(|(name, _)| *name == GENERATION)
    {
        files.push((GENERATION, pretty(&generation(tokenizer)).context(|| GENERATION)?));
    }
    Ok(files)
}

/// What transformers' `generate` stops at.
fn generation(tokenizer: &Tokenizer) -> Map<String, Value> {
    let mut keys = Map::new();
    if let Some(bos) = tokenizer.bos() {
        keys.insert("bos_token_id".into(), json!(bos));
    }
    match tokenizer.end_tokens() {
        [] => {}
        [only] => drop(keys.insert("eos_token_id".into(), json!(only))),
        several => drop(keys.insert("eos_token_id".into(), json!(several))),
    }
    keys
}

fn pretty(keys: &Map<String, Value>) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(keys)?;
    text.push(b'\n');
    Ok(text)
}

/// What there is of a tokenizer in a folder.
fn copies(from: &Path) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut files = Vec::new();
    for &name in TOKENIZER_FILES {
        match fs::read(from.join(name)) {
            Ok(bytes) => files.push((name, bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound && name != TOKENIZER_FILES[0] => {}
            Err(error) => return Err(error).context(|| format!("cannot read {}", from.join(name).display())),
        }
    }
    Ok(files)
}
