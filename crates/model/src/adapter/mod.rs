//! Adapters in files: PEFT's folders, and llama.cpp's GGUF adapters. What an adapter is, see [`crate::lora`].
//!
//! [`read`] finds out which of the two a path is, and gives an [`Adapter`] in canonical orientation for the base that it is
//! asked for; [`write()`] goes back. [`crate::Model::put_on`] makes it work. Which names stand for what, and what is equal
//! bit for bit, is in docs/adapters.md.

mod config;
mod gguf;
mod modules;
mod peft;

pub(crate) use modules::values;

use std::collections::HashMap;
use std::path::Path;

use wootz_formats::{Checkpoint, Format, TensorView};
use wootz_kernels::{DType, Pool, quant};

use crate::arch::Architecture;
use crate::config::{DecoderConfig, Head};
use crate::error::{Context, Result, fail};
use crate::lora::Adapter;
use crate::names::{TensorId, canonical};
use crate::save::Existing;

/// The types that values may have in a file that is written.
const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// What an adapter belongs to.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// The architecture: it has the names.
    pub architecture: &'static Architecture,
    /// The configuration: it has the shapes.
    pub config: &'a DecoderConfig,
}

/// A format that adapters come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterFormat {
    /// PEFT's folder.
    Peft,
    /// llama.cpp's one file.
    Gguf,
}

/// What became of the scales of changes that had to share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// They are what they were, bit for bit.
    Kept,
    /// Some are in b, which was rounded for it, or differ in their last bit.
    Rounded,
}

impl Scales {
    fn and(self, other: Scales) -> Scales {
        match (self, other) {
            (Scales::Kept, Scales::Kept) => Scales::Kept,
            (Scales::Rounded, _) | (_, Scales::Rounded) => Scales::Rounded,
        }
    }
}

/// How to write an adapter.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions<'a> {
    /// The format.
    pub format: AdapterFormat,
    /// F32, BF16 or F16. What is in memory is F32.
    pub dtype: DType,
    /// What the base is called: an id of the hub or a path, for other programs to find it.
    pub base: Option<&'a str>,
    /// What to do about files that are there already.
    pub existing: Existing,
}

/// Reads the adapter at `path`, for this base: a folder of PEFT's, or a GGUF adapter.
///
/// # Errors
/// There is none, or it is damaged; it is of another base, or of a kind that is not supported. The message names file,
/// tensor or key, what was expected and what was found.
pub fn read(path: &Path, base: &Base, pool: &Pool) -> Result<Adapter> {
    let whose = || format!("cannot read the adapter {}", path.display());
    if peft::is_folder(path) {
        return peft::read(path, base, pool).context(whose);
    }
    if path.is_dir() {
        fail!("{}: there is no adapter in this folder; expected adapter_config.json", path.display())
    }
    if !path.exists() {
        fail!("no adapter at {}: there is no such file or folder", path.display())
    }
    gguf::read(path, base, pool).context(whose)
}

/// Whether files can hold an adapter: for a run to know before it begins.
///
/// # Errors
/// What PEFT's format has no place for.
pub fn check_writable(base: &Base, adapter: &Adapter) -> Result<()> {
    for module in modules::modules(base.architecture, base.config, Format::Safetensors)? {
        module.join(adapter)?;
    }
    Ok(())
}

/// Whether there is an adapter at `path`, whole or not.
pub fn is_adapter(path: &Path) -> bool {
    if path.is_dir() {
        return peft::is_folder(path);
    }
    Checkpoint::open(path).is_ok_and(|checkpoint| gguf::is_adapter(&checkpoint))
}

/// A tensor's values, where its shape is what the base asks for; `expected` says what its dimensions are.
fn decode_shaped(tensor: &TensorView, shape: [usize; 2], expected: &str) -> Result<Vec<f32>> {
    if tensor.shape != shape {
        fail!(
            "tensor `{}`: expected {shape:?} ({expected}), found {:?}; is this an adapter of another base?",
            tensor.name,
            tensor.shape
        )
    }
    decode(tensor)
}

/// A tensor's values; they are finite.
fn decode(tensor: &TensorView) -> Result<Vec<f32>> {
    if !DType::weights().any(|dtype| dtype == tensor.dtype) {
        fail!("tensor `{}`: expected numbers such as F32, F16 or BF16, found {}", tensor.name, tensor.dtype)
    }
    let mut values = vec![0.0; tensor.elements()];
    quant::decode(tensor.dtype, tensor.bytes, &mut values).context(|| format!("tensor `{}`", tensor.name))?;
    if let Some(at) = values.iter().position(|x| !x.is_finite()) {
        fail!("tensor `{}`: element {at} is {}, expected a finite number", tensor.name, values[at])
    }
    Ok(values)
}

impl Adapter {
    /// The same adapter at strength 1, its strength in each alpha.
    ///
    /// # Errors
    /// What a device meets that has it.
    pub fn at_full_strength(&self) -> Result<Adapter> {
        let mut full = self.copy()?;
        full.strength = 1.0;
        full.parts.values_mut().for_each(|lora| lora.alpha *= self.strength);
        Ok(full)
    }
}

/// Fails where one of several adapters has to be alone.
pub(crate) fn check_together<'a>(adapters: impl Iterator<Item = &'a Adapter>) -> Result<()> {
    let with_lengths: Vec<bool> = adapters.map(Adapter::has_magnitudes).collect();
    if with_lengths.len() > 1 && with_lengths.contains(&true) {
        fail!(
            "an adapter that gives weights a length (DoRA) works alone; merge it into the base, then take others"
        )
    }
    Ok(())
}

/// Fails where an adapter has something that a model of this configuration has not.
pub(crate) fn check(config: &DecoderConfig, adapter: &Adapter) -> Result<()> {
    // The head is a place that can be replaced, even where it is the embedding.
    let config = DecoderConfig { head: Head::Untied, ..config.clone() };
    let shapes: HashMap<TensorId, Vec<usize>> = canonical(&config).into_iter().collect();
    for (place, lora) in &adapter.parts {
        let id = TensorId::weight(*place);
        let found = [lora.b.rows(), lora.a.cols()];
        match shapes.get(&id) {
            Some(shape) if *shape == found && lora.a.rows() == lora.b.cols() => {}
            Some(shape) => fail!(
                "`{id}`: expected a change of {shape:?}, found {found:?}; is the adapter another base's?"
            ),
            None => fail!("`{id}`: the adapter changes it, and this model has none"),
        }
    }
    for (id, values) in &adapter.saved {
        match shapes.get(id) {
            Some(shape) if shape.iter().product::<usize>() == values.len() => {}
            Some(shape) => fail!("`{id}`: expected {shape:?}, found {} values in the adapter", values.len()),
            None => fail!("`{id}`: the adapter replaces it, and this model has none"),
        }
    }
    if let Some((id, _)) = adapter.saved.first()
        && adapter.strength != 1.0
    {
        fail!(
            "the adapter replaces `{id}` (modules_to_save), for which a strength of {} means nothing; use it at strength 1",
            adapter.strength
        )
    }
    Ok(())
}

/// Writes an adapter of this base.
///
/// # Errors
/// An adapter that the format has no words for; a file that is there already and not to be replaced; the disk. A file
/// is complete or not there.
pub fn write(path: &Path, base: &Base, adapter: &Adapter, options: &WriteOptions) -> Result<Scales> {
    let whose = || format!("cannot save the adapter to {}", path.display());
    check(base.config, adapter).context(whose)?;
    if adapter.strength != 1.0 {
        fail!("an adapter of strength {} cannot be written: files have none", adapter.strength)
    }
    if !DTYPES.contains(&options.dtype) {
        fail!("an adapter has values of type F32, BF16 or F16, not {}", options.dtype)
    }
    match options.format {
        AdapterFormat::Peft => peft::write(path, base, adapter, options),
        AdapterFormat::Gguf => gguf::write(path, base, adapter, options),
    }
    .context(whose)
}
