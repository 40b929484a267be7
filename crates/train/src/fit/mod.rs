//! Steps until a run is complete, whatever it learns and wherever its batches come from.
//!
//! ```text
//!   feed ── batches ── measure ── outlier? NaN? ── update ── metrics
//!                                                   └── validate, sample, save now and then
//! ```
//!
//! A run that is interrupted and resumed gives the bits of one that was not: a checkpoint holds the weights in f32, the
//! moments, the place in the data and everything else that a step depends on.

pub mod settings;
mod state;

pub use settings::{DtypeName, Learning, Meanwhile, OptimizerName, RecomputeName};
pub use state::State;

use crate::data::hellaswag::Question;
use crate::data::{self, TokenBytes};
use crate::error::{Context, Result, fail};
use crate::outlier::{Judgement, Limits, Outlier};
use crate::run::checkpoint::{Best, Checkpoint, Keep, Saved, Store};
use crate::run::metrics::{self, Metrics, Row};
use crate::run::tensorboard::{Events, Start};
use crate::run::{Folder, report};
use crate::schedule::Schedule;
use crate::trainer::{self, Refused, Trainer};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use wootz_kernels::rng::Rng;
use wootz_model::names::TensorId;
use wootz_model::{Batch, Model};
use wootz_text::Tokenizer;

/// Where a run's batches come from.
pub trait Feed {
    /// Makes the batches of the next step, the `step`-th from 0; a run that learns from what it tries has the model try it
    /// here.
    ///
    /// # Errors
    /// Data that cannot be read.
    fn step(&mut self, trainer: &mut Trainer, step: u64) -> Result<()>;
    /// The batches that were made last; there is a step before them.
    fn batches(&self) -> &[data::Batch];
    /// Measures what is minimised over these batches, and its gradient: the mean loss of all targets.
    ///
    /// # Errors
    /// Batches that the model cannot take.
    fn measure(&mut self, trainer: &mut Trainer) -> Result<trainer::Step> {
        let batches: Vec<Batch> = self.batches().iter().map(data::Batch::as_model).collect();
        trainer.measure(&batches).context(|| "a batch that the model cannot take")
    }
    /// Adds what else there is to say of the step to its line of metrics.
    fn add_metrics(&self, row: Row) -> Row {
        row
    }
    /// The same in a few words, for a terminal; empty for nothing.
    fn note(&self) -> String {
        String::new()
    }
    /// What somebody should be told of the step.
    fn warnings(&mut self) -> Vec<String> {
        Vec::new()
    }
    /// Where the data go on after them; a feed that is set there gives what would have followed.
    fn position(&self) -> Value;
    /// A batch as large as one that may come, where batches differ in size: it is rehearsed before the first step, so that
    /// what it takes is taken.
    ///
    /// # Errors
    /// Data that cannot be read.
    fn largest(&self) -> Result<Option<data::Batch>>;
    /// Hands out the batches of a validation, from the first. Whether there are data to validate with.
    ///
    /// # Errors
    /// Data that cannot be read, and what `each` fails with.
    fn validate(&mut self, each: &mut dyn FnMut(&data::Batch) -> Result<()>) -> Result<bool>;
    /// The mean reward of what the model answers to problems that it does not learn from, where there are any.
    ///
    /// # Errors
    /// What fails the model.
    fn reward(&mut self, trainer: &mut Trainer) -> Result<Option<f64>> {
        let _ = trainer;
        Ok(None)
    }
}

/// Puts what is learnt into a checkpoint's folder, under the run's name.
pub type Save = Box<dyn Fn(&Path, &str, &Trainer) -> Result<()>>;

/// When to do what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Optimiser steps of the run.
    pub steps: u64,
    /// The learning rate of each.
    pub schedule: Schedule,
    /// Which steps are skipped.
    pub limits: Limits,
    /// Makes what dropout leaves out.
    pub seed: u64,
    /// Steps from one validation to the next; 0 for the end alone.
    pub val_every: u64,
    /// Steps from one sample of text to the next; 0 for before and after alone.
    pub sample_every: u64,
    /// Steps from one checkpoint to the next; 0 for the end alone.
    pub save_every: u64,
    /// Checkpoints that stay; 0 for all.
    pub keep: usize,
    /// Steps in a row that may be refused for NaN or infinity.
    pub max_bad_steps: u64,
}

/// What a run works with.
pub struct Parts {
    /// When to do what.
    pub plan: Plan,
    /// What learns.
    pub trainer: Trainer,
    /// What it learns from.
    pub feed: Box<dyn Feed>,
    /// What its text is read with, if it is known.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Asked with every validation.
    pub questions: Vec<Question>,
    /// How it is saved.
    pub save: Save,
}

/// Who looks on, and may end it.
pub trait Watch {
    /// A step is done, or was left out.
    fn step(&mut self, report: &StepReport);
    /// A validation is done.
    fn validated(&mut self, report: &ValReport);
    /// A checkpoint is safe.
    fn saved(&mut self, saved: &Saved);
    /// Something is worth a line.
    fn warn(&mut self, text: &str);
    /// The tensors that got a gradient in a step, and those that did not: in the first, and if not all did, in the second.
    fn received(&mut self, step: u64, count: usize, without: &[TensorId]);
    /// It is time for a sample of what the model writes, after so many steps.
    fn sample(&mut self, model: &Model, step: u64);
    /// Whether the run should end after this step.
    fn interrupted(&self) -> bool;
}

/// What came of a step.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Mean over the step's targets, in nats.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Tokens a second, from the end of the last step to the end of this one.
    pub tokens_per_second: f64,
    /// What else its feed has to say.
    pub note: String,
}

/// What came of a validation.
#[derive(Clone, Copy, Debug)]
pub struct ValReport {
    /// Steps done.
    pub step: u64,
    /// Mean over the targets, in nats, where there are data to validate with.
    pub loss: Option<f64>,
    /// The same for each byte of text, where the tokens' bytes are known.
    pub bits_per_byte: Option<f64>,
    /// Share of questions that were answered right.
    pub hellaswag: Option<f64>,
    /// Mean reward of answers to problems that are not learnt from.
    pub reward: Option<f64>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Complete,
    /// Somebody asked for it; everything is saved.
    Interrupted,
}

/// A run.
pub struct Run {
    plan: Plan,
    trainer: Trainer,
    feed: Box<dyn Feed>,
    questions: Vec<Question>,
    save: Save,
    bytes: Option<TokenBytes>,
    folder: Folder,
    store: Store,
    metrics: Metrics,
    events: Events,
    state: State,
    /// Some tensors had no gradient in the first step.
    unreceived: bool,
}

impl Run {
    /// Begins in a folder, which takes up `config`: what the run is to do, so that it can be repeated.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn begin(parts: Parts, config: &impl Serialize, folder: Folder) -> Result<Run> {
        folder.write_config(config)?;
        state::write_tokenizer(&folder, parts.tokenizer.as_deref())?;
        let metrics = Metrics::create(&folder.metrics())?;
        let events = Events::create(folder.path(), Start::New)?;
        let state = State::new(parts.feed.position());
        Ok(Run::of(parts, state, folder, metrics, events))
    }

    /// Goes on from a checkpoint of the folder: weights and feed are as they were there.
    ///
    /// # Errors
    /// A folder that cannot be written, or a checkpoint of another model.
    pub fn resume(
        mut parts: Parts,
        config: &impl Serialize,
        folder: Folder,
        checkpoint: &Checkpoint,
    ) -> Result<Run> {
        let state = State::read(checkpoint)?;
        state::read_moments(&mut parts.trainer, checkpoint)?;
        parts.trainer.optimizer.set_steps(state.updates);
        parts.trainer.loss_scale = state.loss_scale.or(parts.trainer.loss_scale);
        // What came after the checkpoint will be made again.
        Store::at(folder.checkpoints()).remove_after(state.step)?;
        let (metrics, _) = Metrics::resume(&folder.metrics(), state.step)?;
        let events = Events::create(folder.path(), Start::Resumed(state.step))?;
        folder.write_config(config)?;
        Ok(Run::of(parts, state, folder, metrics, events))
    }

    fn of(parts: Parts, state: State, folder: Folder, metrics: Metrics, events: Events) -> Run {
        let Parts { plan, trainer, feed, tokenizer, questions, save } = parts;
        let keep = Keep { newest: plan.keep, best: Best::Keep };
        Run {
            store: Store::at(folder.checkpoints()).keeping(keep),
            bytes: tokenizer.as_deref().map(TokenBytes::new),
            plan,
            trainer,
            feed,
            questions,
            save,
            folder,
            metrics,
            events,
            state,
            unreceived: false,
        }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.trainer.model
    }

    /// The run's folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// Goes through the steps that are left.
    ///
    /// # Errors
    /// Data or disk that fail, or too many steps in a row whose gradients are no numbers. The last checkpoint is whole
    /// then.
    pub fn train(&mut self, watch: &mut dyn Watch) -> Result<End> {
        if let Some(batch) = self.feed.largest()? {
            self.trainer.rehearse(&batch.as_model()).context(|| "the largest batch")?;
        }
        if self.state.step == 0 {
            self.validate(watch)?;
            watch.sample(&self.trainer.model, 0);
        }
        let mut last = Instant::now();
        while self.state.step < self.plan.steps {
            let report = self.one_step(watch, &mut last)?;
            watch.step(&report);
            let (step, complete) = (self.state.step, self.state.step == self.plan.steps);
            let is_due = |every: u64| every > 0 && step.is_multiple_of(every);
            let interrupted = watch.interrupted();
            if complete || is_due(self.plan.val_every) {
                self.validate(watch)?;
            }
            if complete || is_due(self.plan.sample_every) {
                watch.sample(&self.trainer.model, step);
            }
            if complete || interrupted || is_due(self.plan.save_every) {
                self.save(watch)?;
            }
            if interrupted && !complete {
                return Ok(End::Interrupted);
            }
            if complete || is_due(self.plan.val_every) || is_due(self.plan.save_every) {
                // None of it is this step's work.
                last = Instant::now();
            }
        }
        Ok(End::Complete)
    }

    fn one_step(&mut self, watch: &mut dyn Watch, last: &mut Instant) -> Result<StepReport> {
        self.feed.step(&mut self.trainer, self.state.step)?;
        self.trainer.set_draw(Some(Rng::new(self.plan.seed, self.state.step).next()));
        let tokens = self.feed.batches().iter().map(|batch| batch.inputs.len() as u64).sum::<u64>();
        let measured = self.feed.measure(&mut self.trainer)?;
        let lr = self.plan.schedule.lr(self.state.step);
        // An adapter's a has no gradient as long as its b is 0, which it is in the first step alone.
        let is_first = self.state.updates == 0 || self.state.updates == 1 && self.unreceived;
        if is_first && measured.refused.is_none() {
            let (count, without) = self.trainer.received()?;
            self.unreceived = !without.is_empty();
            watch.received(self.state.step + 1, count, &without);
        }
        let judged = match measured.refused {
            // Nothing was measured: a loss of 0 would make that of the next steps stand out.
            Some(Refused::NoSignal) => Judgement::NONE,
            _ => self.state.guard.judge(measured.loss, measured.grad_norm, &self.plan.limits),
        };
        let step = self.state.step + 1;
        let loss_scale = self.trainer.loss_scale;
        let skipped = match (&measured.refused, judged.skip) {
            (Some(Refused::Overflow(scale)), _) => {
                Some(format!("gradients of a loss times {scale} exceed f16, half as much comes next"))
            }
            (Some(Refused::NoSignal), _) => {
                Some("nothing can be learnt from the answers: no group has any that differ".to_owned())
            }
            (Some(refused), _) => {
                self.state.bad_steps += 1;
                let what = match refused {
                    Refused::Loss => "the loss is not a finite number".to_owned(),
                    Refused::Overflow(_) | Refused::NoSignal | Refused::NoTargets => {
                        "no target counts".to_owned()
                    }
                    Refused::Gradient(id) => format!("the gradient of {id} is not finite"),
                };
                if self.state.bad_steps > self.plan.max_bad_steps {
                    fail!(
                        "step {step}: {what}, and so were the {} steps before; the weights are those before them, and \
                         what was saved is whole. Try a lower learning rate, a longer warm-up, or --clip",
                        self.state.bad_steps - 1
                    );
                }
                Some(what)
            }
            (None, Some(outlier)) => {
                self.state.bad_steps = 0;
                Some(match outlier {
                    Outlier::Loss => format!("the loss stands out by {:.1} deviations", judged.loss_z),
                    Outlier::GradNorm => {
                        format!("the gradient norm stands out by {:.1} deviations", judged.grad_norm_z)
                    }
                })
            }
            (None, None) => {
                self.state.bad_steps = 0;
                self.state.updates += 1;
                self.trainer.update(&measured, lr).context(|| format!("step {step}"))?;
                None
            }
        };
        self.state.step = step;
        self.state.loss_scale = self.trainer.loss_scale;
        self.state.tokens += tokens;
        self.state.position = self.feed.position();
        let now = Instant::now();
        let seconds = now.duration_since(*last).as_secs_f64().max(1e-9);
        *last = now;
        let report = StepReport {
            step,
            tokens: self.state.tokens,
            loss: measured.loss,
            grad_norm: measured.grad_norm,
            lr,
            tokens_per_second: tokens as f64 / seconds,
            note: self.feed.note(),
        };
        let mut row = Row::from(metrics::Step {
            step,
            tokens: report.tokens,
            loss: report.loss,
            grad_norm: report.grad_norm,
            lr,
            tokens_per_second: report.tokens_per_second,
        });
        row = self.feed.add_metrics(row);
        if let Some(scale) = loss_scale {
            row = row.with("loss_scale", scale.value());
        }
        if let Some(why) = &skipped {
            watch.warn(&format!("step {step}: {why}; the weights stay as they are"));
            row = row.with("skipped", why.as_str());
        }
        self.write(&row)?;
        self.feed.warnings().iter().for_each(|warning| watch.warn(&format!("step {step}: {warning}")));
        Ok(report)
    }

    fn write(&mut self, row: &Row) -> Result<()> {
        self.metrics.append(row)?;
        self.events.append(row)
    }

    fn validate(&mut self, watch: &mut dyn Watch) -> Result<()> {
        let step = self.state.step;
        let hellaswag = self.ask()?;
        let reward = self.feed.reward(&mut self.trainer)?;
        let (mut nats, mut targets, mut text) = (0.0, 0, 0);
        let (trainer, bytes) = (&mut self.trainer, &self.bytes);
        let found = self.feed.validate(&mut |batch| {
            let (sum, count) = trainer.evaluate(&batch.as_model()).context(|| "validation")?;
            nats += sum;
            targets += count;
            text += bytes.as_ref().map_or(0, |bytes| bytes.of_targets(&batch.targets));
            Ok(())
        })?;
        let loss = found.then(|| nats / targets.max(1) as f64);
        if loss.is_none() && hellaswag.is_none() && reward.is_none() {
            return Ok(());
        }
        let bits_per_byte = (text > 0).then(|| nats / std::f64::consts::LN_2 / text as f64);
        let mut row = match loss {
            Some(val_loss) => Row::from(metrics::Validation { step, val_loss, bits_per_byte }),
            None => Row::new(step),
        };
        for (name, value) in [("hellaswag", hellaswag), (metrics::VAL_REWARD, reward)] {
            if let Some(value) = value {
                row = row.with(name, value);
            }
        }
        self.write(&row)?;
        self.state.score = reward.map(|reward| -reward).or(loss).filter(|score| score.is_finite());
        watch.validated(&ValReport { step, loss, bits_per_byte, hellaswag, reward });
        Ok(())
    }

    /// The share of questions whose right ending is the likeliest, by its mean loss a token.
    fn ask(&mut self) -> Result<Option<f64>> {
        let mut right = 0usize;
        for question in &self.questions {
            let (mut tokens, mut targets, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
            for ending in &question.endings {
                let all: Vec<u32> = question.context.iter().chain(ending).copied().collect();
                // Every token but the last is asked for the next one; what belongs to the beginning does not count.
                lengths.push(all.len() - 1);
                tokens.extend(&all[..all.len() - 1]);
                targets.extend((1..all.len()).map(|i| {
                    if i < question.context.len() { -1 } else { i32::try_from(all[i]).unwrap_or(-1) }
                }));
            }
            let batch = Batch { tokens: &tokens, targets: &targets, lengths: &lengths };
            let losses = self.trainer.losses(&batch).context(|| format!("HellaSwag {}", question.ind))?;
            let mut start = 0;
            let mut best = (f64::INFINITY, 0);
            for (i, (length, ending)) in lengths.iter().zip(&question.endings).enumerate() {
                let sum: f64 = losses[start..start + length].iter().map(|&loss| f64::from(loss)).sum();
                let mean = sum / ending.len().max(1) as f64;
                if mean < best.0 {
                    best = (mean, i);
                }
                start += length;
            }
            right += usize::from(best.1 == question.label);
        }
        Ok((!self.questions.is_empty()).then(|| right as f64 / self.questions.len() as f64))
    }

    fn save(&mut self, watch: &mut dyn Watch) -> Result<()> {
        self.metrics.sync()?;
        let (state, trainer, save) = (&self.state, &mut self.trainer, &self.save);
        let name = self.folder.name();
        let saved = self.store.save(state.step, |writer| {
            if let Some(score) = state.score {
                writer.score(score);
            }
            state::write(writer, state, trainer, |folder, trainer| save(folder, &name, trainer))
        })?;
        report::write(self.folder.path())?;
        watch.saved(&saved);
        Ok(())
    }
}
