//! Adapters merged into their base: `w + s b a`, in f32, its rows at the lengths that are learnt where they are (DoRA).
//!
//! [`Merged`] gives the parameters of the merged model one at a time, to be saved in any format. [`requantise`] writes a
//! GGUF base anew, with the changed matrices encoded again in the types that they had and everything else as it was.

use std::collections::HashMap;
use std::path::Path;

use wootz_formats::gguf::Value;
use wootz_formats::{Checkpoint, Metadata, TensorSpec, gguf};
use wootz_kernels::{DType, Pool, quant};

use crate::adapter;
use crate::arch::{Architecture, sources};
use crate::config::{DecoderConfig, Head};
use crate::error::{Context, Result, fail};
use crate::lora::{Adapter, Lora};
use crate::names::{Place, Source, TensorId};
use crate::quantize::round;
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
        adapter::check_together(adapters.iter())?;
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
                    let change = Change::new(lora, adapter.strength)?;
                    let rows = out.chunks_exact_mut(lora.a.cols()).enumerate();
                    rows.for_each(|(row, out)| change.add(row, out));
                }
            }
        }
        Ok(())
    }
}

/// The change of one projection, row by row.
struct Change {
    scale: f32,
    rank: usize,
    /// Row-major.
    a: Vec<f32>,
    b: Vec<f32>,
    /// The lengths of rows, where they are learnt.
    m: Option<Vec<f32>>,
}

impl Change {
    fn new(lora: &Lora, strength: f32) -> Result<Change> {
        let m = match &lora.magnitude {
            Some(magnitude) => Some(magnitude.m.read()?.into_owned()),
            None => None,
        };
        let (a, b) = (adapter::values(&lora.a)?, adapter::values(&lora.b)?);
        Ok(Change { scale: lora.scale() * strength, rank: lora.rank(), a, b, m })
    }

    /// `out += s b[row] a`, and then its length is set, if that is learnt.
    fn add(&self, row: usize, out: &mut [f32]) {
        let (b, mut sum) = (&self.b[row * self.rank..][..self.rank], vec![0.0; out.len()]);
        for (b, a) in b.iter().zip(self.a.chunks_exact(out.len())) {
            sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
        }
        out.iter_mut().zip(&sum).for_each(|(out, sum)| *out += self.scale * sum);
        if let Some(m) = &self.m {
            let length = out.iter().map(|x| x * x).sum::<f32>().sqrt();
            let gain = if length > 0.0 { m[row] / length } else { 0.0 };
            out.iter_mut().for_each(|out| *out *= gain);
        }
    }
}

/// Writes a GGUF model with adapters merged into it: the changed matrices in the types that they had, everything else
/// byte for byte.
///
/// # Errors
/// A base of another format; an adapter that replaces tensors; a value that its type cannot hold; the disk.
pub fn requantise(
    path: &Path,
    checkpoint: &Checkpoint,
    architecture: &Architecture,
    config: &DecoderConfig,
    adapters: &[Adapter],
    existing: Existing,
    pool: &Pool,
) -> Result<()> {
    let whose = || format!("cannot save the model to {}", path.display());
    let Metadata::Gguf(metadata) = checkpoint.metadata() else {
        fail!("{}: expected a GGUF model, found {}", checkpoint.path().display(), checkpoint.format())
    };
    existing.check(path)?;
    adapter::check_together(adapters.iter())?;
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
                    encode(source, spec.dtype, adapters, pool, &mut bytes).map_err(std::io::Error::other)?;
                }
                file.write_all(&bytes)
            }
        }
    })
    .context(whose)
}

/// Adds the changes of one projection to its rows of a stored tensor, and rounds them again.
fn encode(source: &Source, dtype: DType, adapters: &[Adapter], pool: &Pool, bytes: &mut [u8]) -> Result<()> {
    let context = || format!("tensor `{}`", source.name);
    let mut changes = Vec::new();
    for adapter in adapters {
        if let Some(lora) = adapter.parts.get(&source.to.place) {
            changes.push(Change::new(lora, adapter.strength)?);
        }
    }
    let cols = source.cols();
    let Some(row_bytes) = dtype.bytes(&[cols]).filter(|_| !source.transform.transpose) else {
        fail!("tensor `{}`: rows of {cols} values are no whole blocks of {dtype}", source.name)
    };
    let stored = |row| {
        let at = source.stored_row(row) * row_bytes;
        at..at + row_bytes
    };
    let mut values = vec![0.0; source.rows() * cols];
    for (row, values) in values.chunks_exact_mut(cols).enumerate() {
        quant::decode(dtype, &bytes[stored(row)], values).context(context)?;
    }
    pool.for_each_row(&mut values, cols, 1, |row, values| {
        changes.iter().for_each(|change| change.add(row, values));
    });
    let mut rounded = Vec::new();
    round(pool, dtype, &values, cols, None, &mut rounded).context(context)?;
    for (row, rounded) in rounded.chunks_exact(row_bytes).enumerate() {
        bytes[stored(row)].copy_from_slice(rounded);
    }
    Ok(())
}
