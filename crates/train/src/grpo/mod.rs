//! Group Relative Policy Optimization: a model answers prompts, and learns to answer as it did where it did better than usual.
//!
//! ```text
//!   prompts ── answers ── texts ── rewards ── advantages ──┐
//!                 └─── log-probabilities when drawn ───────┴── loss, gradients ── update
//! ```
//!
//! (Shao et al. 2024, "DeepSeekMath".) For every prompt a group of answers is drawn. What an answer is worth is compared with
//! the others of its group; there is no second network that estimates it. A policy gradient is a cross-entropy whose rows
//! have weights, so forward and backward are those of all training.
//!
//! **On policy.** Answers are drawn by the same kernels that train, and a token's log-probability in the first update has the
//! bits that it had when the token was drawn: the ratio of the two is exactly 1, which every step measures
//! (`max_ratio_deviation`). Temperature, top-k and top-p are replayed in training. Token ids go from the sampler to the loss
//! and never through text.
//!
//! In reading order: [`rollout`] draws answers, [`judging`] has them judged, [`advantage`] compares them, [`objective`] is the
//! loss of a token, [`update`] is that of a step, [`feed`] joins them, [`saved`] is what of it a checkpoint has.

pub mod advantage;
pub mod feed;
pub mod judging;
pub mod objective;
pub mod reference;
pub mod rollout;
pub mod saved;
pub mod settings;
pub mod update;

pub use reference::Reference;
pub use saved::Position;
pub use settings::{Mode, Settings};

use crate::data::prompts::Prompts;
use crate::error::{Context, Result, fail};
use crate::fit::{self, Plan, Run, State};
use crate::run::Folder;
use crate::run::checkpoint::Checkpoint;
use crate::run::metrics::Metrics;
use crate::sft::{save_adapter, save_model};
use crate::trainer::{Trained, Trainer};
use feed::Answering;
use std::path::PathBuf;
use std::sync::Arc;
use wootz_model::Model;
use wootz_rewards::Rewards;
use wootz_text::Tokenizer;

/// Every answer of a run with its tokens, log-probabilities and rewards, one JSON object a line.
pub const ROLLOUTS: &str = "rollouts.jsonl";

/// What a run works on.
pub struct Inputs {
    /// What it is to do.
    pub settings: Settings,
    /// The model; its adapter is what learns, unless all of it does.
    pub model: Model,
    /// The model as it was before the run.
    pub reference: Reference,
    /// What reads and writes texts.
    pub tokenizer: Arc<Tokenizer>,
    /// To learn from.
    pub prompts: Prompts,
    /// To validate with.
    pub val: Option<Prompts>,
    /// What answers are worth.
    pub rewards: Rewards,
}

impl Inputs {
    /// Begins in the folder that `make_folder` makes, once it is known that the settings mean something.
    ///
    /// # Errors
    /// Settings that mean nothing, a folder that cannot be written.
    pub fn begin(self, make_folder: impl FnOnce() -> Result<Folder>) -> Result<Run> {
        let settings = self.settings.clone();
        settings.check()?;
        // What can be wrong is found before there is a folder.
        judging::end_tokens(&self.tokenizer, &settings.end)?;
        let folder = make_folder()?;
        let log = Metrics::create(&rollouts(&folder))?;
        let parts = self.parts(log, Position::default())?;
        Run::begin(parts, &settings, folder)
    }

    /// Goes on from a checkpoint of the folder; the adapter, or all of the model, is the checkpoint's.
    ///
    /// # Errors
    /// As [`Inputs::begin`], and a checkpoint of another model.
    pub fn resume(self, folder: Folder, checkpoint: &Checkpoint) -> Result<Run> {
        let settings = self.settings.clone();
        settings.check()?;
        let state = State::read(checkpoint)?;
        let (log, _) = Metrics::resume(&rollouts(&folder), state.step)?;
        let parts = self.parts(log, state.position()?)?;
        Run::resume(parts, &settings, folder, checkpoint)
    }

    fn parts(self, log: Metrics, position: Position) -> Result<fit::Parts> {
        let Inputs { settings, model, reference, tokenizer, prompts, val, rewards } = self;
        let learning = &settings.learning;
        let lora = settings.mode == Mode::Lora;
        if lora && model.adapters().len() != 1 {
            fail!("{} adapters: expected the one that is trained", model.adapters().len());
        }
        let trained = if lora { Trained::Adapter { beside: Vec::new() } } else { Trained::All };
        let (options, format, recompute) = (learning.options(), learning.format(), learning.recompute());
        let mut trainer = Trainer::new(model, options, format, recompute, learning.clip(), trained)?;
        trainer.measure_entropies();
        let (own, base) = (tokenizer.clone(), settings.model.clone());
        let feed = Answering::new(feed::Parts {
            settings: &settings,
            prompts,
            val,
            rewards,
            tokenizer: tokenizer.clone(),
            reference,
            log,
            position,
        })?;
        Ok(fit::Parts {
            plan: Plan::new(learning, &settings.meanwhile).context(|| "the run's settings")?,
            trainer,
            feed: Box::new(feed),
            tokenizer: Some(tokenizer),
            questions: Vec::new(),
            save: Box::new(move |folder, name, trainer| match lora {
                true => save_adapter(folder, &base, trainer),
                false => save_model(folder, name, trainer, &own),
            }),
        })
    }
}

fn rollouts(folder: &Folder) -> PathBuf {
    folder.path().join(ROLLOUTS)
}
