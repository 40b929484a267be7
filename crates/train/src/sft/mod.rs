//! Supervised fine-tuning: a model learns to give the answers of samples, by an adapter or with all its weights.

mod feed;
mod settings;

pub use feed::Conversations;
pub use settings::{Settings, targets};

use crate::data::samples::{Order, Samples};
use crate::error::{Context, Result};
use crate::fit::{Parts, Plan, Run, State};
use crate::run::Folder;
use crate::run::checkpoint::Checkpoint;
use crate::trainer::{Trained, Trainer};
use std::path::Path;
use std::sync::Arc;
use wootz_kernels::DType;
use wootz_model::Model;
use wootz_model::adapter::{self, AdapterFormat, Base, WriteOptions};
use wootz_model::save::{self, Existing, SaveFormat, SaveOptions};
use wootz_text::Tokenizer;

/// What a run works on.
pub struct Inputs {
    /// What it is to do.
    pub settings: Settings,
    /// The model; its first adapter is what learns, unless all of it does.
    pub model: Model,
    /// What the samples were read with.
    pub tokenizer: Arc<Tokenizer>,
    /// To learn from, and held out of it.
    pub samples: Samples,
    /// Samples of their own to validate with.
    pub val_samples: Option<Samples>,
}

impl Inputs {
    /// Begins in the folder that `make_folder` makes, once it is known that settings and data fit each other.
    ///
    /// # Errors
    /// Settings that mean nothing, samples of another vocabulary, a folder that cannot be written.
    pub fn begin(self, make_folder: impl FnOnce() -> Result<Folder>) -> Result<Run> {
        let settings = self.settings.clone();
        let parts = self.parts(None)?;
        Run::begin(parts, &settings, make_folder()?)
    }

    /// Goes on from a checkpoint of the folder; the adapter, or all of the model, is the checkpoint's.
    ///
    /// # Errors
    /// As [`Inputs::begin`], and a checkpoint of another model or of other samples.
    pub fn resume(self, folder: Folder, checkpoint: &Checkpoint) -> Result<Run> {
        let settings = self.settings.clone();
        let state = State::read(checkpoint)?;
        let parts = self.parts(Some(&state))?;
        Run::resume(parts, &settings, folder, checkpoint)
    }

    fn parts(self, at: Option<&State>) -> Result<Parts> {
        let Inputs { settings, model, tokenizer, samples, val_samples } = self;
        settings.check()?;
        let vocab = model.config().vocab_size;
        samples.check_vocabulary(vocab)?;
        if let Some(val) = &val_samples {
            val.check_vocabulary(vocab)?;
        }
        let (train, held_out) = samples.hold_out(settings.val_share, settings.learning.seed)?;
        let options = settings.order_options();
        let order = match at {
            None => Order::new(&samples, train, options)?,
            Some(state) => Order::resume(&samples, train, options, &state.position()?)?,
        };
        let learning = &settings.learning;
        let trained = match settings.full {
            true => Trained::All,
            false => Trained::Adapter { beside: Vec::new() },
        };
        let (options, format, recompute) = (learning.options(), learning.format(), learning.recompute());
        let trainer = Trainer::new(model, options, format, recompute, learning.clip(), trained)?;
        let (own, base, full) = (tokenizer.clone(), settings.model.clone(), settings.full);
        Ok(Parts {
            plan: Plan::new(learning, &settings.meanwhile)?,
            trainer,
            feed: Box::new(Conversations::new(samples, order, val_samples, &held_out, &settings)),
            tokenizer: Some(tokenizer),
            questions: Vec::new(),
            save: Box::new(move |folder, name, trainer| match full {
                true => save_model(folder, name, trainer, &own),
                false => save_adapter(folder, &base, trainer),
            }),
        })
    }
}

/// A checkpoint of an adapter is a folder as PEFT has it.
pub(crate) fn save_adapter(folder: &Path, base: &str, trainer: &Trainer) -> Result<()> {
    let model = &trainer.model;
    let Some(adapter) = model.adapters().first() else { return Ok(()) };
    let of = Base { architecture: model.architecture(), config: model.config() };
    let options = WriteOptions {
        format: AdapterFormat::Peft,
        dtype: DType::F32,
        base: Some(base),
        existing: Existing::Keep,
    };
    adapter::write(folder, &of, adapter, &options).context(|| folder.display().to_string())?;
    Ok(())
}

/// A checkpoint of all weights is the whole model, in f32, as a folder that any program reads.
pub(crate) fn save_model(folder: &Path, name: &str, trainer: &Trainer, tokenizer: &Tokenizer) -> Result<()> {
    let model = &trainer.model;
    let options = SaveOptions {
        format: SaveFormat::Hf,
        dtype: DType::F32,
        name,
        tokenizer: tokenizer.to_folder().is_ok().then_some(tokenizer),
        tokenizer_folder: None,
        existing: Existing::Keep,
    };
    save::save(folder, model.architecture(), model.config(), &trainer.weights(), &options)
        .context(|| folder.display().to_string())
}
