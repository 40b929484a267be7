//! Adapters merged into their base: `w + s b a`, in f32.
//!
//! [`Merged`] gives the parameters of the merged model one at a time, to be saved in any format. [`requantise`] writes a
//! GGUF base anew, with the changed matrices encoded again in the types that they had and everything else as it was.

use std::collections::HashMap;
use std::path::Path;

use wootz_formats::gguf::Value;
use wootz_formats::{Checkpoint, Metadata, TensorSpec, gguf};
use wootz_kernels::{DType, quant};

use crate::adapter;
use crate::arch::{Architecture, sources};
use crate::config::{DecoderConfig, Head};
use crate::error::{Context, Result, fail};
use crate::lora::{Adapter, Lora};
use crate::names::{Place, Source, TensorId};
use crate::save::{Existing, Tensors};

/// The parameters of a base with adapters merged into it.
pub struct Merged<'a> {
    base: &'a dyn Tensors,
    adapters: &'a [Adapter],
    config: DecoderConfig,
    /// The head is the base's embedding, which is replaced.
    parted: bool,
}

impl<'a> Merged<'a> {
    /// The base's parameters with what the adapters change.
    ///
    /// # Errors
    /// An adapter of another base.
    pub fn new(config: &DecoderConfig, base: &'a dyn Tensors, adapters: &'a [Adapter]) -> Result<Self> {
        for adapter in adapters {
            adapter::check(config, adapter)?;
        }
        let replaces = |place| adapters.iter().flat_map(|a| &a.saved).any(|(id, _)| id.place == place);
        let parted = config.head == Head::Tied && (replaces(Place::Embed) || replaces(Place::Head));
        let head = if parted { Head::Untied } else { config.head };
        Ok(Merged { base, adapters, config: DecoderConfig { head, ..config.clone() }, parted })
    }

    /// The merged model's configuration: the base's, but for a head that an adapter parts from the embedding.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }
}

impl Tensors for Merged<'_> {
    fn read(&self, id: TensorId, out: &mut Vec<f32>) -> Result<()> {
        let saved = self.adapters.iter().rev().flat_map(|adapter| &adapter.saved);
        if let Some((_, values)) = saved.into_iter().find(|(other, _)| *other == id) {
            out.clone_from(values);
        } else if self.parted && id == TensorId::weight(Place::Head) {
            self.base.read(TensorId::weight(Place::Embed), out)?;
        } else {
            self.base.read(id, out)?;
        }
        if id == TensorId::weight(id.place) {
            for adapter in self.adapters {
                if let Some(lora) = adapter.parts.get(&id.place) {
                    let mut change = Change::new(lora, adapter.strength);
                    let rows = out.chunks_exact_mut(lora.a.cols()).enumerate();
                    rows.for_each(|(row, out)| change.add(row, out));
                }
            }
        }
        Ok(())
    }
}

/// The change of one projection, row by row.
struct Change<'a> {
    lora: &'a Lora,
    scale: f32,
    /// Row-major.
    a: Vec<f32>,
    b: Vec<f32>,
    sum: Vec<f32>,
}

impl<'a> Change<'a> {
    fn new(lora: &'a Lora, strength: f32) -> Self {
        let a = adapter::values(&lora.a);
        let (b, sum) = (vec![0.0; lora.rank()], vec![0.0; lora.a.cols()]);
        Change { lora, scale: lora.scale() * strength, a, b, sum }
    }

    /// `out += s b[row] a`.
    fn add(&mut self, row: usize, out: &mut [f32]) {
        self.lora.b.decode_row(row, &mut self.b);
        self.sum.fill(0.0);
        for (b, a) in self.b.iter().zip(self.a.chunks_exact(self.sum.len())) {
            self.sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
        }
        out.iter_mut().zip(&self.sum).for_each(|(out, sum)| *out += self.scale * sum);
    }
}

/// Writes a GGUF model with adapters merged into it: the changed matrices in the types that they had, everything else
/// byte for byte.
///
/// # Errors
/// A base of another format; an adapter that replaces tensors; a type that cannot be encoded; the disk.
pub fn requantise(
    path: &Path,
    checkpoint: &Checkpoint,
    architecture: &Architecture,
    config: &DecoderConfig,
    adapters: &[Adapter],
    existing: Existing,
) -> Result<()> {
    let whose = || format!("cannot save the model to {}", path.display());
    let Metadata::Gguf(metadata) = checkpoint.metadata() else {
        fail!("{}: expected a GGUF model, found {}", checkpoint.path().display(), checkpoint.format())
    };
    existing.check(path)?;
    for adapter in adapters {
        adapter::check(config, adapter)?;
        if let Some((id, _)) = adapter.saved.first() {
            fail!(
                "the adapter replaces `{id}` (modules_to_save), which has no type to be encoded in; use --how f16"
            )
        }
    }
    let sources = sources(architecture, config, checkpoint)?;
    let mut changed: HashMap<&str, Vec<&Source>> = HashMap::new();
    for source in &sources {
        let is_weight = source.to == TensorId::weight(source.to.place);
        if is_weight && adapters.iter().any(|adapter| adapter.parts.contains_key(&source.to.place)) {
            changed.entry(&source.name).or_default().push(source);
        }
    }
    let specs: Vec<TensorSpec> = checkpoint
        .tensors()
        .map(|t| TensorSpec { name: t.name.to_owned(), dtype: t.dtype, shape: t.shape.to_vec() })
        .collect();
    let mut read_only: Vec<&str> = specs
        .iter()
        .filter(|spec| changed.contains_key(spec.name.as_str()) && !can_encode(spec.dtype))
        .map(|spec| spec.dtype.name())
        .collect();
    read_only.sort_unstable();
    read_only.dedup();
    if !read_only.is_empty() {
        fail!(
            "the adapter changes tensors of type {}, which can be read and not written; keep the adapter apart (--how keep), \
             or merge into F16 (--how f16)",
            read_only.join(", ")
        )
    }

    // Of a split model one file is made.
    let entries: Vec<(String, Value)> = metadata
        .iter()
        .filter(|(key, _)| !key.starts_with("split."))
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect();
    gguf::write(path, &entries, &specs, &mut |index, file| {
        let spec = &specs[index];
        let tensor =
            checkpoint.tensor(&spec.name).ok_or_else(|| std::io::Error::other("a tensor is gone"))?;
        match changed.get(spec.name.as_str()) {
            None => file.write_all(tensor.bytes),
            Some(parts) => {
                let mut bytes = tensor.bytes.to_vec();
                for source in parts {
                    encode(source, spec.dtype, adapters, &mut bytes).map_err(std::io::Error::other)?;
                }
                file.write_all(&bytes)
            }
        }
    })
    .context(whose)
}

/// Whether values can be rounded to this type, and not only read.
fn can_encode(dtype: DType) -> bool {
    let values = vec![0.0; dtype.block_len()];
    quant::encode(dtype, &values, &mut vec![0; dtype.block_bytes()]).is_ok()
}

/// Adds the changes of one projection to its rows of a stored tensor.
fn encode(source: &Source, dtype: DType, adapters: &[Adapter], bytes: &mut [u8]) -> Result<()> {
    let context = || format!("tensor `{}`", source.name);
    let mut changes: Vec<Change> = adapters
        .iter()
        .filter_map(|adapter| Some(Change::new(adapter.parts.get(&source.to.place)?, adapter.strength)))
        .collect();
    let Some(row_bytes) = dtype.bytes(&[source.cols()]).filter(|_| !source.transform.transpose) else {
        fail!("tensor `{}`: rows of {} values are no whole blocks of {dtype}", source.name, source.cols())
    };
    let mut values = vec![0.0; source.cols()];
    for row in 0..source.rows() {
        let at = source.stored_row(row) * row_bytes;
        let bytes = &mut bytes[at..at + row_bytes];
        quant::decode(dtype, bytes, &mut values).context(context)?;
        changes.iter_mut().for_each(|change| change.add(row, &mut values));
        quant::encode(dtype, &values, bytes).context(context)?;
    }
    Ok(())
}
