//! The policy that the divergence is measured from: the model as it was before the run.

use crate::trainer::Trainer;
use wootz_model::Model;
use wootz_model::lora::Adapter;

/// How the model was before the run.
pub enum Reference {
    /// Nobody asks.
    None,
    /// The same weights under other adapters than the one that is trained: that which the run began with, or none. There is
    /// no second copy of the weights.
    Adapters(Vec<Adapter>),
    /// Other weights.
    Model(Box<Model>),
}

impl Reference {
    /// Does something with a trainer whose model is the reference for so long.
    pub fn ask<T>(&mut self, trainer: &mut Trainer, work: impl FnOnce(&mut Trainer) -> T) -> T {
        self.swap(trainer);
        let done = work(trainer);
        self.swap(trainer);
        done
    }

    fn swap(&mut self, trainer: &mut Trainer) {
        match self {
            Reference::None => {}
            Reference::Adapters(adapters) => std::mem::swap(trainer.model.adapters_mut(), adapters),
            Reference::Model(model) => std::mem::swap(&mut trainer.model, model),
        }
    }
}
