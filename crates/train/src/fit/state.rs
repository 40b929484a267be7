//! What a checkpoint of a run holds: what is learnt as other programs read it, the moments, and the rest in JSON.

use crate::error::{Context, Result, fail};
use crate::loss_scale::LossScale;
use crate::optimizer::{Array, Optimizer};
use crate::outlier::Guard;
use crate::run::Folder;
use crate::run::checkpoint::{Checkpoint, TensorSpec, Writer};
use crate::trainer::Trainer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use wootz_kernels::exec::Values;
use wootz_text::Tokenizer;

/// The file of [`State`].
const STATE: &str = "state.json";
/// The file of the moments.
const MOMENTS: &str = "optimizer.safetensors";

/// All that a step depends on beside weights and moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done, those included that were left out.
    pub step: u64,
    /// Steps that moved the weights.
    pub updates: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// The next batch, as its feed says it.
    pub position: Value,
    /// The last losses and norms.
    pub guard: Guard,
    /// Steps in a row that were refused.
    pub bad_steps: u64,
    /// What the last validation found, the lower the better: its loss, or its reward times -1.
    #[serde(alias = "val_loss")]
    pub score: Option<f64>,
    /// In f16 alone.
    #[serde(default)]
    pub loss_scale: Option<LossScale>,
}

impl State {
    /// Before the first step.
    pub fn new(position: Value) -> State {
        State {
            step: 0,
            updates: 0,
            tokens: 0,
            position,
            guard: Guard::default(),
            bad_steps: 0,
            score: None,
            loss_scale: None,
        }
    }

    /// Where its data go on.
    ///
    /// # Errors
    /// It is of another kind of run.
    pub fn position<P: serde::de::DeserializeOwned>(&self) -> Result<P> {
        P::deserialize(&self.position).context(|| "where the data go on: is it a run of another kind?")
    }

    /// As a checkpoint has it.
    ///
    /// # Errors
    /// A file that cannot be read, or is another step's.
    pub fn read(checkpoint: &Checkpoint) -> Result<State> {
        let state: State = checkpoint.json(STATE)?;
        if state.step != checkpoint.step() {
            fail!("{}: is of step {}, and says {}", checkpoint.path.display(), checkpoint.step(), state.step);
        }
        Ok(state)
    }
}

/// Writes a checkpoint's files.
pub fn write(
    writer: &mut Writer,
    state: &State,
    trainer: &mut Trainer,
    save: impl FnOnce(&Path, &Trainer) -> Result<()>,
) -> Result<()> {
    writer.folder(|folder| Ok(save(folder, trainer)?))?;
    let arrays = moments(&mut trainer.optimizer);
    let shapes: Vec<[usize; 1]> = arrays.iter().map(|(_, values)| [values.len()]).collect();
    let specs: Vec<TensorSpec> =
        arrays.iter().zip(&shapes).map(|((name, _), shape)| TensorSpec { name, shape }).collect();
    writer.tensors(MOMENTS, &specs, |i, sink| Ok(sink.write(&arrays[i].1.read()?)?))?;
    writer.json(STATE, state)
}

/// Reads the moments back.
pub fn read_moments(trainer: &mut Trainer, checkpoint: &Checkpoint) -> Result<()> {
    let file = checkpoint.tensors(MOMENTS)?;
    let arrays = moments(&mut trainer.optimizer);
    let (found, expected) = (file.list().count(), arrays.len());
    if found != expected {
        fail!(
            "{}: {MOMENTS} has {found} arrays, and this optimiser {expected}; was it another rule's?",
            checkpoint.path.display()
        );
    }
    for (name, values) in arrays {
        let mut stored = vec![0.0; values.len()];
        file.read(&name, &[values.len()], &mut stored)?;
        values.write(&stored)?;
    }
    Ok(())
}

/// The moments with their names: `m.layers.0.q.weight`.
fn moments(optimizer: &mut Optimizer) -> Vec<(String, &mut Values)> {
    let name = |array: Array| match array {
        Array::M => "m",
        Array::V => "v",
    };
    optimizer
        .moments()
        .into_iter()
        .map(|(id, array, values)| (format!("{}.{id}", name(array)), values))
        .collect()
}

/// Puts the tokenizer beside the run's settings. One that can only decode (llm.c's) has no file of its own.
pub fn write_tokenizer(folder: &Folder, tokenizer: Option<&Tokenizer>) -> Result<()> {
    for (name, text) in tokenizer.and_then(|tokenizer| tokenizer.to_folder().ok()).into_iter().flatten() {
        folder.write_file(name, |file| file.write_all(text.as_bytes()))?;
    }
    Ok(())
}
