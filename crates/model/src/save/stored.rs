//! From canonical tensors to those of a file: fused, stacked, transposed and reordered as the file has them.

use std::collections::HashMap;
use std::io::{self, Write};

use wootz_formats::{Format, TensorSpec};
use wootz_kernels::{DType, quant};

use super::Tensors;
use super::gguf::EncodeTensor;
use crate::arch::Architecture;
use crate::config::{DecoderConfig, Norm};
use crate::error::{Result, fail};
use crate::names::{Kind, Part, Place, Source, TensorId};

/// Values that are encoded at a time.
const CHUNK: usize = 1 << 16;

/// What changes in the values of norms between a configuration and a file: `w` here is `1 + w` there, or the reverse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormShift(f32);

impl NormShift {
    pub fn new(config: Norm, file: Norm) -> Self {
        NormShift(match (config, file) {
            (Norm::RmsNormOnePlus, Norm::RmsNorm) => 1.0,
            (Norm::RmsNorm, Norm::RmsNormOnePlus) => -1.0,
            (Norm::LayerNorm | Norm::RmsNorm | Norm::RmsNormOnePlus, _) => 0.0,
        })
    }

    pub fn apply(self, id: TensorId, values: &mut [f32]) {
        if self.0 != 0.0 && is_norm(id) {
            values.iter_mut().for_each(|value| *value += self.0);
        }
    }
}

fn is_norm(id: TensorId) -> bool {
    let norm = match id.place {
        Place::FinalNorm => true,
        Place::Embed | Place::PosEmbed | Place::Head => false,
        Place::Layer(_, part) => match part {
            Part::AttnNorm
            | Part::QNorm
            | Part::KNorm
            | Part::AttnPostNorm
            | Part::MlpNorm
            | Part::MlpPostNorm => true,
            Part::Q | Part::K | Part::V | Part::O | Part::Gate | Part::Up | Part::Down => false,
        },
    };
    norm && id.kind == Kind::Weight
}

/// A tensor of the file, and the canonical ones that it is made of.
pub(crate) struct Stored {
    pub spec: TensorSpec,
    /// For each slice of the outermost dimension that is a layer's (one slice, where layers are not stacked) what is
    /// in it.
    slices: Vec<Vec<Source>>,
}

/// All tensors of a file of this format, each once, in the order of the forward pass; all of type `dtype(spec)`.
pub(super) fn stored(
    architecture: &Architecture,
    config: &DecoderConfig,
    format: Format,
    dtype: impl Fn(&Source) -> DType,
) -> Result<Vec<Stored>> {
    let mut all: Vec<Stored> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    for source in architecture.tensors(config, format)? {
        let at = *index.entry(source.name.clone()).or_insert(all.len());
        if at == all.len() {
            let slices = if source.transform.layer.is_some() { config.n_layers() } else { 1 };
            let spec =
                TensorSpec { name: source.name.clone(), dtype: dtype(&source), shape: source.stored.clone() };
            all.push(Stored { spec, slices: vec![Vec::new(); slices] });
        }
        all[at].slices[source.transform.layer.unwrap_or(0)].push(source);
    }
    Ok(all)
}

impl Stored {
    /// The canonical tensors of its first slice.
    pub fn sources(&self) -> &[Source] {
        &self.slices[0]
    }

    /// Makes room for rows that no canonical tensor fills, at the end of the outermost dimension; they are zero.
    pub fn pad_rows(&mut self, rows: usize) {
        self.spec.shape[0] = rows;
        for source in self.slices.iter_mut().flatten() {
            source.stored[0] = rows;
        }
    }

    /// Writes the tensor, one layer's slice after the other.
    pub fn write(
        &self,
        tensors: &dyn Tensors,
        shift: NormShift,
        encode: &mut EncodeTensor,
        file: &mut dyn Write,
    ) -> io::Result<()> {
        let failed = |error: crate::error::Error| io::Error::other(error);
        let elements = self.spec.shape.iter().product::<usize>() / self.slices.len();
        let mut canonical = Vec::new();
        let mut slice = Vec::new();
        for (layer, sources) in self.slices.iter().enumerate() {
            let start = layer * elements;
            let alone = match sources.as_slice() {
                [only] => only.transform.is_contiguous() && only.rows() * only.cols() == elements,
                _ => false,
            };
            if !alone {
                slice.clear();
                slice.resize(elements, 0.0);
            }
            for source in sources {
                read(tensors, source, shift, &mut canonical).map_err(failed)?;
                if !alone {
                    scatter(source, &canonical, start, &mut slice);
                }
            }
            encode(&self.spec, if alone { &canonical } else { &slice }, file)
                .map_err(|what| io::Error::other(format!("tensor `{}`: {what}", self.spec.name)))?;
        }
        Ok(())
    }
}

fn read(tensors: &dyn Tensors, source: &Source, shift: NormShift, out: &mut Vec<f32>) -> Result<()> {
    tensors.read(source.to, out)?;
    let expected = source.rows() * source.cols();
    if out.len() != expected {
        fail!(
            "tensor `{}`: expected {expected} values for {:?}, found {}",
            source.to,
            source.shape,
            out.len()
        );
    }
    shift.apply(source.to, out);
    Ok(())
}

/// Puts each canonical element where the file has it; the slice begins at the file's element `start`.
fn scatter(source: &Source, canonical: &[f32], start: usize, slice: &mut [f32]) {
    let cols = source.cols();
    for (row, values) in canonical.chunks_exact(cols).enumerate() {
        if source.transform.transpose {
            for (col, value) in values.iter().enumerate() {
                slice[source.stored_element(row, col) - start] = *value;
            }
        } else {
            let at = source.stored_element(row, 0) - start;
            slice[at..at + cols].copy_from_slice(values);
        }
    }
}

/// Rounds values to `dtype`, which has no blocks, and writes them.
pub(crate) fn encode(spec: &TensorSpec, values: &[f32], file: &mut dyn Write) -> io::Result<()> {
    let dtype = spec.dtype;
    let mut bytes = vec![0; CHUNK.min(values.len()) * dtype.block_bytes()];
    for values in values.chunks(CHUNK) {
        /// The least magnitude that rounds to infinity.
        const F16_END: f32 = 65_520.0;
        if dtype == DType::F16
            && let Some(large) = values.iter().find(|x| x.is_finite() && x.abs() >= F16_END)
        {
            return Err(io::Error::other(format!(
                "{large} is beyond F16, which ends at 65504; save as BF16 or F32"
            )));
        }
        let bytes = &mut bytes[..values.len() * dtype.block_bytes()];
        quant::encode(dtype, values, bytes).map_err(io::Error::other)?;
        file.write_all(bytes)?;
    }
    Ok(())
}
