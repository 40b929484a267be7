//! Samples as a run's feed.

use super::Settings;
use crate::data::samples::{Order, Samples};
use crate::data::{self};
use crate::error::Result;
use crate::fit::Feed;
use crate::trainer::Trainer;
use serde_json::{Value, json};

/// Samples to learn from and to validate with.
pub struct Conversations {
    samples: Samples,
    order: Order,
    /// Samples of their own to validate with; otherwise they are some of `samples`.
    val_samples: Option<Samples>,
    /// The batches of a validation.
    val: Vec<Vec<u32>>,
    /// Of the step.
    batches: Vec<data::Batch>,
    /// Of the validation.
    val_batch: data::Batch,
}

impl Conversations {
    /// The order goes on where it stands. Without samples of their own, those that are held out serve to validate.
    pub fn new(
        samples: Samples,
        order: Order,
        val_samples: Option<Samples>,
        held_out: &[u32],
        settings: &Settings,
    ) -> Conversations {
        let of_val: Vec<u32> = match &val_samples {
            Some(val) => (0..val.len() as u32).collect(),
            None => held_out.to_vec(),
        };
        let from = val_samples.as_ref().unwrap_or(&samples);
        // As large as a batch of training may be, so that they take no more memory.
        let rows = |id: u32| from.get(id as usize).map_or(0, |sample| sample.rows());
        let (most_rows, most) = (order.max_rows(), order.max_lengths().len());
        let mut val: Vec<Vec<u32>> = Vec::new();
        let mut sum = 0;
        for id in of_val {
            match val.last_mut().filter(|batch| sum + rows(id) <= most_rows && batch.len() < most) {
                Some(batch) => batch.push(id),
                None => {
                    sum = 0;
                    val.push(vec![id]);
                }
            }
            sum += rows(id);
        }
        val.truncate(usize::try_from(settings.meanwhile.val_batches).unwrap_or(usize::MAX));
        let (batches, val_batch) = (Vec::new(), data::Batch::default());
        Conversations { samples, order, val_samples, val, batches, val_batch }
    }
}

impl Feed for Conversations {
    fn step(&mut self, _: &mut Trainer, _: u64) -> Result<()> {
        let step = self.order.next_step();
        self.batches.resize_with(step.len(), data::Batch::default);
        for (ids, batch) in step.iter().zip(&mut self.batches) {
            self.samples.batch(ids, batch)?;
        }
        Ok(())
    }

    fn batches(&self) -> &[data::Batch] {
        &self.batches
    }

    fn position(&self) -> Value {
        json!(self.order.position())
    }

    fn largest(&self) -> Result<Option<data::Batch>> {
        let mut batch = data::Batch::default();
        self.samples.batch(&self.order.largest(), &mut batch)?;
        Ok(Some(batch))
    }

    fn validate(&mut self, each: &mut dyn FnMut(&data::Batch) -> Result<()>) -> Result<bool> {
        for ids in &self.val {
            self.val_samples.as_ref().unwrap_or(&self.samples).batch(ids, &mut self.val_batch)?;
            each(&self.val_batch)?;
        }
        Ok(!self.val.is_empty())
    }
}
