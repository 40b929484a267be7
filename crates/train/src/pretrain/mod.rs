//! Pretraining: a model learns to continue a corpus of token shards.

mod feed;
mod settings;

pub use settings::{Settings, Sizes};

use crate::data::hellaswag::Question;
use crate::data::{Loader, LoaderOptions, Source, Tail, Validation};
use crate::error::{Context, Result};
use crate::fit::{Parts, Plan, Run, State};
use crate::run::Folder;
use crate::run::checkpoint::Checkpoint;
use crate::trainer::{Trained, Trainer};
use feed::Corpus;
use std::path::Path;
use std::sync::Arc;
use wootz_kernels::DType;
use wootz_model::Model;
use wootz_model::save::{self, Existing, SaveFormat, SaveOptions};
use wootz_text::Tokenizer;

/// What a run works on.
pub struct Inputs {
    /// What it is to do.
    pub settings: Settings,
    /// The model as it is at the start, or as the checkpoint has it.
    pub model: Model,
    /// What its text is read with, if it is known.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// To learn from.
    pub data: Arc<Source>,
    /// Held out, if anything is.
    pub val_data: Option<Arc<Source>>,
    /// Asked with every validation.
    pub questions: Vec<Question>,
}

impl Inputs {
    /// Begins in the folder that `make_folder` makes, once it is known that settings and data fit each other.
    ///
    /// # Errors
    /// Settings that mean nothing, data that are too short or of another vocabulary, a folder that cannot be written.
    pub fn begin(self, make_folder: impl FnOnce() -> Result<Folder>) -> Result<Run> {
        self.settings.check()?;
        let loader = Loader::new(self.data.clone(), self.loader_options())?;
        let settings = self.settings.clone();
        let parts = self.parts(loader)?;
        let folder = make_folder()?;
        Run::begin(parts, &settings, folder)
    }

    /// Goes on from a checkpoint of the folder; the model is the checkpoint's.
    ///
    /// # Errors
    /// As [`Inputs::begin`], and a checkpoint of another model or of other data.
    pub fn resume(self, folder: Folder, checkpoint: &Checkpoint) -> Result<Run> {
        self.settings.check()?;
        let position = State::read(checkpoint)?.position()?;
        let loader = Loader::resume(self.data.clone(), self.loader_options(), &position)?;
        let settings = self.settings.clone();
        let parts = self.parts(loader)?;
        Run::resume(parts, &settings, folder, checkpoint)
    }

    fn loader_options(&self) -> LoaderOptions {
        let settings = &self.settings;
        LoaderOptions {
            batch: settings.batch,
            seq: settings.seq,
            order: settings.order,
            seed: settings.learning.seed,
            rank: 0,
            world: 1,
            vocab_size: self.model.config().vocab_size,
        }
    }

    fn parts(self, loader: Loader) -> Result<Parts> {
        let Inputs { settings, model, tokenizer, val_data, questions, .. } = self;
        let (batch, seq, vocab) = (settings.batch, settings.seq, model.config().vocab_size);
        let validation =
            val_data.map(|data| Validation::new(data, batch, seq, vocab, Tail::Pad)).transpose()?;
        let learning = &settings.learning;
        let (options, format, recompute) = (learning.options(), learning.format(), learning.recompute());
        let trainer = Trainer::new(model, options, format, recompute, learning.clip(), Trained::All)?;
        // One that can only decode (llm.c's) has no file of its own.
        let own = tokenizer.clone().filter(|tokenizer| tokenizer.to_folder().is_ok());
        Ok(Parts {
            plan: Plan::new(&settings.learning, &settings.meanwhile)?,
            trainer,
            feed: Box::new(Corpus::new(loader, validation, &settings)),
            tokenizer,
            questions,
            save: Box::new(move |folder, name, trainer| save_model(folder, name, trainer, own.as_deref())),
        })
    }
}

/// A checkpoint holds the whole model, in f32, as a folder that any program reads.
fn save_model(folder: &Path, name: &str, trainer: &Trainer, tokenizer: Option<&Tokenizer>) -> Result<()> {
    let model = &trainer.model;
    let options = SaveOptions {
        format: SaveFormat::Hf,
        dtype: DType::F32,
        name,
        tokenizer,
        tokenizer_folder: None,
        existing: Existing::Keep,
    };
    save::save(folder, model.architecture(), model.config(), &trainer.weights(), &options)
        .context(|| folder.display().to_string())
}
