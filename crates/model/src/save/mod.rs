//! From a model to a file: a Hugging Face folder, a GGUF, llm.c's `.bin`, ONNX.
//!
//! [`save`] takes the configuration, the architecture that it is written as, and [`Tensors`]: whoever has the parameters
//! gives them one at a time, in the canonical orientation of [`crate::names`]. So memory stays at a few tensors,
//! however large the model. A file appears whole or not at all; a folder's config.json appears last.
//!
//! A file that would say less than the model is, is not written: see [`Architecture::config_json`] and
//! [`Architecture::gguf_head`].

mod checkpoint;
pub(crate) mod gguf;
mod hf;
mod llmc;
mod onnx;
pub(crate) mod stored;

use std::fmt;
use std::path::{Path, PathBuf};

pub use checkpoint::CheckpointTensors;
pub use onnx::{OnnxGraph, OnnxOptions};
pub(crate) use stored::{NormShift, encode};
use wootz_kernels::DType;
use wootz_text::Tokenizer;

use crate::arch::Architecture;
use crate::config::DecoderConfig;
use crate::error::{Context, Result, fail};
use crate::names::TensorId;
use crate::weights::Weights;

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveFormat {
    /// A folder with config.json and model.safetensors, as transformers reads it; F32, BF16 or F16.
    Hf,
    /// llama.cpp's one file; matrices F32, BF16 or F16, vectors and learned positions F32.
    Gguf,
    /// llm.c's `.bin`, GPT-2 only: version 3 (F32) or 5 (BF16); the tokenizer beside it, in `tokenizer.bin`.
    LlmC,
    /// ONNX: `NAME.onnx`; any other path is a folder with model.onnx, config.json and the tokenizer. Matrices F32, BF16 or
    /// F16, vectors F32. It is written and not read.
    Onnx(OnnxOptions),
}

impl SaveFormat {
    /// The name of each format: `hf`, `gguf`, `llmc`, `onnx`.
    pub const NAMES: [&str; 4] = ["hf", "gguf", "llmc", "onnx"];

    /// The name of the format, one of [`SaveFormat::NAMES`].
    pub fn name(self) -> &'static str {
        match self {
            SaveFormat::Hf => "hf",
            SaveFormat::Gguf => "gguf",
            SaveFormat::LlmC => "llmc",
            SaveFormat::Onnx(_) => "onnx",
        }
    }

    /// The format of this name; ONNX with its usual options.
    pub fn from_name(name: &str) -> Option<SaveFormat> {
        let all =
            [SaveFormat::Hf, SaveFormat::Gguf, SaveFormat::LlmC, SaveFormat::Onnx(OnnxOptions::default())];
        all.into_iter().find(|format| format.name() == name)
    }

    /// What is written for a model at `path`: files, or a folder.
    pub fn files(self, path: &Path) -> Vec<PathBuf> {
        match self {
            SaveFormat::Hf | SaveFormat::Gguf | SaveFormat::LlmC => vec![path.to_owned()],
            SaveFormat::Onnx(_) => onnx::files(path).into_iter().filter(|file| file.exists()).collect(),
        }
    }

    /// The types that weights may have in it.
    pub fn dtypes(self) -> &'static [DType] {
        match self {
            SaveFormat::Hf | SaveFormat::Gguf | SaveFormat::Onnx(_) => &[DType::F32, DType::BF16, DType::F16],
            SaveFormat::LlmC => &[DType::F32, DType::BF16],
        }
    }
}

impl fmt::Display for SaveFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What to do where a file is that is to be written. A file that is left as it is makes saving fail before it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Leave it as it is.
    #[default]
    Keep,
    /// Put the new one in its place, when that is complete: for who wrote the old one, or was told to.
    Replace,
}

impl Existing {
    /// Fails where a file is that is to be kept, or a folder.
    ///
    /// # Errors
    /// As said: nothing can be written there.
    pub fn check(self, path: &Path) -> Result<()> {
        if path.is_dir() {
            fail!("{} is a folder, expected the name of a file", path.display());
        }
        match self {
            Existing::Keep if path.exists() => {
                fail!(
                    "{} is there already, and is not replaced unless asked; choose another place",
                    path.display()
                )
            }
            Existing::Keep | Existing::Replace => Ok(()),
        }
    }
}

/// How to save a model.
#[derive(Clone, Copy, Debug)]
pub struct SaveOptions<'a> {
    /// The format.
    pub format: SaveFormat,
    /// Type of the weights, one of [`SaveFormat::dtypes`].
    pub dtype: DType,
    /// What the file calls the model (`general.name` in GGUF).
    pub name: &'a str,
    /// The model's tokenizer: part of a GGUF file, `tokenizer.bin` beside llm.c's, the files of a folder; not in an `.onnx`.
    pub tokenizer: Option<&'a Tokenizer>,
    /// A folder whose tokenizer files go into the new folder as they are, in place of such that say the same as
    /// `tokenizer`. The other formats do not look at it.
    pub tokenizer_folder: Option<&'a Path>,
    /// What to do about files that are there already.
    pub existing: Existing,
}

/// A model's parameters, given one at a time.
pub trait Tensors {
    /// Puts the canonical tensor `id` into `out`, in place of what it held: f32, row-major, with the shape and in the
    /// orientation that [`crate::names::canonical`] says. Norms are as the configuration's `norm` says.
    ///
    /// # Errors
    /// The tensor is not there, or cannot be read.
    fn read(&self, id: TensorId, out: &mut Vec<f32>) -> Result<()>;
}

/// A model in memory. Block formats are decoded; the others come back bit for bit.
impl Tensors for Weights {
    fn read(&self, id: TensorId, out: &mut Vec<f32>) -> Result<()> {
        Weights::read(self, id, out)
    }
}

/// Writes a model to `path`: a folder for [`SaveFormat::Hf`], which is made where it is missing, otherwise a file (or, for
/// [`SaveFormat::Onnx`], either).
///
/// # Errors
/// What the format cannot say of this model or its tokenizer; a file that is there already and not to be replaced; a
/// value that F16 cannot hold; the disk; what `tensors` fails with. A file is complete or not there, and an older one stays
/// as it was until then.
pub fn save(
    path: &Path,
    architecture: &Architecture,
    config: &DecoderConfig,
    tensors: &dyn Tensors,
    options: &SaveOptions,
) -> Result<()> {
    let SaveOptions { format, dtype, tokenizer, .. } = *options;
    let whose = || format!("cannot save the model to {}", path.display());
    check(config, format, dtype, tokenizer).context(whose)?;
    match format {
        SaveFormat::Hf => hf::save(path, architecture, config, tensors, options),
        SaveFormat::Gguf => gguf::save(path, architecture, config, tensors, options),
        SaveFormat::LlmC => llmc::save(path, architecture, config, tensors, options),
        SaveFormat::Onnx(onnx) => onnx::save(path, architecture, config, tensors, options, onnx),
    }
    .context(whose)
}

fn check(
    config: &DecoderConfig,
    format: SaveFormat,
    dtype: DType,
    tokenizer: Option<&Tokenizer>,
) -> Result<()> {
    if !format.dtypes().contains(&dtype) {
        let names: Vec<_> = format.dtypes().iter().map(|dtype| dtype.name()).collect();
        fail!("a model in the format {format} has weights of type {}, not {dtype}", names.join(" or "));
    }
    if let Some(tokenizer) = tokenizer
        && tokenizer.vocab_size() > config.vocab_size
    {
        fail!(
            "the tokenizer has {} tokens and the model's embedding {} rows; is it another model's?",
            tokenizer.vocab_size(),
            config.vocab_size
        );
    }
    Ok(())
}
