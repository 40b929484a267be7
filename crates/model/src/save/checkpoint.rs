//! The parameters of an open file, in canonical form.

use std::collections::HashMap;

use wootz_formats::Checkpoint;
use wootz_kernels::quant;

use super::Tensors;
use crate::arch::{Architecture, sources};
use crate::config::DecoderConfig;
use crate::error::{Context, Error, Result};
use crate::names::{Source, TensorId};

/// The tensors of a [`Checkpoint`], decoded to f32.
pub struct CheckpointTensors<'a> {
    checkpoint: &'a Checkpoint,
    sources: HashMap<TensorId, Source>,
}

impl<'a> CheckpointTensors<'a> {
    /// The tensors of a model that [`crate::arch::identify`] has identified.
    ///
    /// # Errors
    /// What [`sources`] finds.
    pub fn new(
        checkpoint: &'a Checkpoint,
        architecture: &Architecture,
        config: &DecoderConfig,
    ) -> Result<Self> {
        let sources = sources(architecture, config, checkpoint)?;
        let sources = sources.into_iter().map(|source| (source.to, source)).collect();
        Ok(CheckpointTensors { checkpoint, sources })
    }
}

impl Tensors for CheckpointTensors<'_> {
    fn read(&self, id: TensorId, out: &mut Vec<f32>) -> Result<()> {
        let missing =
            || Error::new(format!("{}: tensor `{id}` is missing", self.checkpoint.path().display()));
        let source = self.sources.get(&id).ok_or_else(missing)?;
        let tensor = self.checkpoint.tensor(&source.name).ok_or_else(missing)?;
        let context = || format!("{}: tensor `{}`", self.checkpoint.path().display(), source.name);
        let (rows, cols) = (source.rows(), source.cols());
        out.clear();
        out.resize(rows * cols, 0.0);
        if !source.transform.transpose {
            let row_bytes = tensor.dtype.bytes(&[cols]).unwrap_or(0); // no whole blocks: `decode` says so
            for (row, out) in out.chunks_exact_mut(cols.max(1)).enumerate() {
                let at = source.stored_row(row) * row_bytes;
                quant::decode(tensor.dtype, &tensor.bytes[at..at + row_bytes], out).context(context)?;
            }
            return Ok(());
        }
        // A transposed matrix holds plain numbers: decoded stored row by stored row, each a canonical column.
        let stored_cols = source.stored.last().copied().unwrap_or(1);
        let row_bytes = tensor.dtype.bytes(&[stored_cols]).unwrap_or(0);
        let mut line = vec![0.0; stored_cols];
        for col in 0..cols {
            let at = source.stored_element(0, col) / stored_cols;
            quant::decode(tensor.dtype, &tensor.bytes[at * row_bytes..(at + 1) * row_bytes], &mut line)
                .context(context)?;
            for row in 0..rows {
                out[row * cols + col] = line[source.stored_element(row, col) - at * stored_cols];
            }
        }
        Ok(())
    }
}
