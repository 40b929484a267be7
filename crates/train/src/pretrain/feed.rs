//! A corpus as a run's feed: windows of token shards.

use super::Settings;
use crate::data::{self, Loader, Validation};
use crate::error::Result;
use crate::fit::Feed;
use crate::trainer::Trainer;
use serde_json::{Value, json};

/// Token shards to learn from and to validate with.
pub struct Corpus {
    loader: Loader,
    validation: Option<Validation>,
    /// Of the step.
    batches: Vec<data::Batch>,
    /// After it.
    position: Value,
    accumulate: usize,
    overfit: bool,
    val_batches: u64,
}

impl Corpus {
    /// The loader goes on where it stands.
    pub fn new(loader: Loader, validation: Option<Validation>, settings: &Settings) -> Corpus {
        Corpus {
            position: json!(loader.position()),
            loader,
            validation,
            batches: Vec::new(),
            accumulate: settings.accumulate,
            overfit: settings.overfit,
            val_batches: settings.meanwhile.val_batches,
        }
    }
}

impl Feed for Corpus {
    fn step(&mut self, _: &mut Trainer, _: u64) -> Result<()> {
        // To overfit, the first step's again.
        if self.overfit && self.batches.len() == self.accumulate {
            return Ok(());
        }
        for i in 0..self.accumulate {
            let next = self.loader.next()?;
            match self.batches.get_mut(i) {
                Some(batch) => {
                    batch.inputs.clone_from(&next.inputs);
                    batch.targets.clone_from(&next.targets);
                }
                None => self.batches.push(next.clone()),
            }
        }
        if !self.overfit {
            self.position = json!(self.loader.position());
        }
        Ok(())
    }

    fn batches(&self) -> &[data::Batch] {
        &self.batches
    }

    fn position(&self) -> Value {
        self.position.clone()
    }

    fn largest(&self) -> Result<Option<data::Batch>> {
        Ok(None)
    }

    fn validate(&mut self, each: &mut dyn FnMut(&data::Batch) -> Result<()>) -> Result<bool> {
        let Some(validation) = &mut self.validation else { return Ok(false) };
        validation.restart();
        for _ in 0..self.val_batches {
            let Some(next) = validation.next()? else { break };
            each(next)?;
        }
        Ok(true)
    }
}
