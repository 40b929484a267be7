//! From any model to a quantised GGUF file.
//!
//! - [`mix`]: which tensor gets which type; [`importance`]: which columns matter; [`crate::compare`]: what it has
//!   cost
//!
//! [`quantize`] takes one tensor after the other: its values are decoded, brought into the order of the file, rounded on all
//! threads by [`wootz_kernels::quant::quantize`], and written. A file appears whole or not at all.

pub mod importance;
pub mod mix;

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use wootz_formats::gguf::Value;
use wootz_formats::{Checkpoint, GgufMetadata, Metadata, TensorSpec};
use wootz_kernels::{DType, Pool, quant};
use wootz_text::Tokenizer;

pub use importance::Importances;
pub use mix::{Informed, Mix};

use crate::arch::{ROPE_DIVISORS, identify};
use crate::error::{Context, Error, Result, fail};
use crate::names::Source;
use crate::save::gguf::{FILE_TYPE, GgufFile, GgufFileHead, QUANTIZATION, QUANTIZATION_VERSION};
use crate::save::{CheckpointTensors, Existing};

/// How to quantise a model.
pub struct QuantizeOptions<'a> {
    /// Which tensor gets which type.
    pub mix: Mix,
    /// Which columns matter, where that is known.
    pub importances: Option<&'a Importances>,
    /// What to do with weights that are quantised already.
    pub quantised: Quantised,
    /// What the file calls the model. A GGUF file keeps the name that it has.
    pub name: &'a str,
    /// The tokenizer. A GGUF file keeps the one that it has.
    pub tokenizer: Option<&'a Tokenizer>,
    /// What to do about a file that is there already.
    pub existing: Existing,
}

/// What to do with weights that are quantised already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantised {
    /// Fail: a second rounding adds its error to that of the first.
    #[default]
    Refuse,
    /// Round them again.
    Requantise,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Tensors that are done, and all.
    pub tensors: [usize; 2],
    /// Weights that are done, and all.
    pub weights: [u64; 2],
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the tensors before and after.
    pub bytes: [u64; 2],
    /// Number of weights.
    pub weights: u64,
    /// How many tensors have each type.
    pub types: Vec<(DType, usize)>,
    /// How many tensors were rounded by importances.
    pub informed: usize,
}

impl Summary {
    /// Bits that a weight takes.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes[1] as f64 / self.weights.max(1) as f64
    }
}

/// Writes an open model to `path` as a quantised GGUF file. `watch` is told after every tensor, and may end it with an
/// error.
///
/// # Errors
/// What GGUF cannot say of this model or its tokenizer; weights that are quantised already, unless they are to be rounded
/// again; a weight that is not finite, or that its type cannot hold, which the message names; importances of another model;
/// the disk. A file is complete or not there.
pub fn quantize(
    checkpoint: &Checkpoint,
    path: &Path,
    options: &QuantizeOptions,
    pool: &Pool,
    watch: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<Summary> {
    let (architecture, config) = identify(checkpoint)?;
    let tensors = CheckpointTensors::new(checkpoint, architecture, &config)?;
    check_source(checkpoint, options)?;
    options.existing.check(path)?;
    let head = match checkpoint.metadata() {
        Metadata::Gguf(metadata) => kept_head(checkpoint, metadata, options.mix)?,
        Metadata::Config(_) | Metadata::LlmC(_) | Metadata::Llama2C(_) => {
            let file_type = options.mix.file_type();
            GgufFileHead::of(architecture, &config, options.tokenizer, options.name, file_type)?
        }
    };
    let informed = if options.importances.is_some() { Informed::Yes } else { Informed::No };
    let dtype = |sources: &[Source]| match mix::Tensor::of(&config, sources) {
        Some(tensor) => options.mix.dtype(&tensor, informed),
        None => DType::F32,
    };
    let file = GgufFile::new(architecture, &config, head, dtype)?;

    let weights = |spec: &TensorSpec| spec.shape.iter().product::<usize>() as u64;
    let all = file.tensors.iter().map(|stored| weights(&stored.spec)).sum();
    let mut progress = Progress { tensors: [0, file.tensors.len()], weights: [0, all] };
    let mut summary = Summary { bytes: [0; 2], weights: all, types: Vec::new(), informed: 0 };
    summary.bytes[0] = checkpoint.tensors().map(|tensor| tensor.bytes.len() as u64).sum();
    let mut bytes = Vec::new();
    // The writer shows an error without its causes.
    let whole = |error: Error| io::Error::other(format!("{error:#}"));
    file.write(path, &tensors, &mut |spec, values, file| {
        let importance = importance_of(spec, options.importances).map_err(whole)?;
        let cols = spec.shape.last().copied().unwrap_or(1);
        round(pool, spec.dtype, values, cols, importance.as_deref(), &mut bytes).map_err(whole)?;
        file.write_all(&bytes)?;
        summary.bytes[1] += bytes.len() as u64;
        summary.informed += usize::from(importance.is_some());
        match summary.types.iter_mut().find(|(dtype, _)| *dtype == spec.dtype) {
            Some((_, count)) => *count += 1,
            None => summary.types.push((spec.dtype, 1)),
        }
        progress.tensors[0] += 1;
        progress.weights[0] += weights(spec);
        watch(progress).map_err(whole)
    })?;
    summary.types.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok(summary)
}

/// Fails where rounding would be a second one.
fn check_source(checkpoint: &Checkpoint, options: &QuantizeOptions) -> Result<()> {
    let to_blocks = options.mix.most().block_len() > 1;
    match (checkpoint.tensors().find(|tensor| tensor.dtype.block_len() > 1), options.quantised) {
        (Some(tensor), Quantised::Refuse) if to_blocks => fail!(
            "{}: tensor `{}` is {} already, and rounding it again adds a second error to the first; quantise the original \
             model, or ask for it with --requantize",
            checkpoint.path().display(),
            tensor.name,
            tensor.dtype
        ),
        (Some(_) | None, Quantised::Refuse | Quantised::Requantise) => Ok(()),
    }
}

/// The head of a GGUF file that is made of another: the same, but for what is not true any more.
fn kept_head(checkpoint: &Checkpoint, metadata: &GgufMetadata, mix: Mix) -> Result<GgufFileHead> {
    let changed = [(FILE_TYPE, mix.file_type()), (QUANTIZATION_VERSION, QUANTIZATION)];
    let stays = |key: &str| {
        // The new file is in one piece, and its rounding had importances of its own, or none.
        !key.starts_with("split.")
            && !key.starts_with("quantize.imatrix.")
            && changed.iter().all(|(name, _)| *name != key)
    };
    let mut entries: Vec<(String, Value)> = (metadata.iter())
        .filter(|(key, _)| stays(key))
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect();
    entries.extend(changed.map(|(key, value)| (key.to_owned(), Value::U32(value))));
    let rope_divisors = match checkpoint.tensor(ROPE_DIVISORS) {
        Some(tensor) => {
            let mut values = vec![0.0; tensor.elements()];
            quant::decode(tensor.dtype, tensor.bytes, &mut values)
                .context(|| format!("tensor `{ROPE_DIVISORS}`"))?;
            Some(values)
        }
        None => None,
    };
    Ok(GgufFileHead { metadata: entries, rope_divisors })
}

/// The importances of a tensor's columns, where it is one that they change.
fn importance_of(spec: &TensorSpec, importances: Option<&Importances>) -> Result<Option<Vec<f32>>> {
    let (Some(all), [_, cols]) = (importances, spec.shape.as_slice()) else { return Ok(None) };
    if spec.dtype.block_len() == 1 { Ok(None) } else { all.of(&spec.name, *cols) }
}

/// Rounds rows of `cols` values, on all threads, in place of what `bytes` held.
pub(crate) fn round(
    pool: &Pool,
    dtype: DType,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    bytes: &mut Vec<u8>,
) -> Result<()> {
    /// Values that a task rounds: enough that handing them out costs nothing.
    const TASK: usize = 1 << 14;
    let cols = cols.max(1);
    let Some(row_bytes) = dtype.bytes(&[cols]).filter(|_| values.len().is_multiple_of(cols)) else {
        fail!("{} values are no rows of {cols} in {dtype}", values.len())
    };
    bytes.resize(values.len() / cols * row_bytes, 0);
    let failed = Mutex::new(None);
    pool.for_each_row(bytes, row_bytes, TASK / cols, |row, bytes| {
        let values = &values[row * cols..(row + 1) * cols];
        if let Err(error) = quant::quantize(dtype, values, importance, bytes) {
            let mut first = failed.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert((row, error));
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((row, error)) => Err(error).context(|| format!("row {row}")),
        None => Ok(()),
    }
}
