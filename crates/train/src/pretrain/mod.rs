//! Pretraining: batches of a corpus, one optimiser step after the other, until the run is complete.
//!
//! ```text
//!   loader ── accumulate × batch ── measure ── outlier? NaN? ── update ── metrics
//!                                                                  └── validate, sample, save now and then
//! ```
//!
//! A run that is interrupted and resumed gives the bits of one that was not: a checkpoint holds the weights in f32, the
//! moments, the place in the data and everything else that a step depends on.

mod settings;
mod state;

pub use settings::{DtypeName, OptimizerName, RecomputeName, Settings, Sizes};

use crate::data::hellaswag::Question;
use crate::data::{self, Loader, LoaderOptions, Source, Tail, TokenBytes, Validation};
use crate::error::{Context, Result, fail};
use crate::outlier::{Limits, Outlier};
use crate::run::checkpoint::{Best, Keep, Saved, Store};
use crate::run::metrics::{self, Metrics, Row};
use crate::run::tensorboard::{Events, Start};
use crate::run::{Folder, report};
use crate::schedule::Schedule;
use crate::trainer::{Refused, Trained, Trainer};
use state::State;
use std::sync::Arc;
use std::time::Instant;
use wootz_model::names::TensorId;
use wootz_model::{Batch, Model};
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
    /// The tensors that got a gradient in the first step, and those that did not.
    fn received(&mut self, count: usize, without: &[TensorId]);
    /// It is time for a sample of what the model writes, after so many steps.
    fn sample(&mut self, model: &Model, step: u64);
    /// Whether the run should end after this step.
    fn interrupted(&self) -> bool;
}

/// What came of a step.
#[derive(Clone, Copy, Debug)]
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
}

/// What came of a validation.
#[derive(Clone, Copy, Debug)]
pub struct ValReport {
    /// Steps done.
    pub step: u64,
    /// Mean over the targets, in nats.
    pub loss: f64,
    /// The same for each byte of text, where the tokens' bytes are known.
    pub bits_per_byte: Option<f64>,
    /// Share of questions that were answered right.
    pub hellaswag: Option<f64>,
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
    settings: Settings,
    trainer: Trainer,
    tokenizer: Option<Arc<Tokenizer>>,
    loader: Loader,
    validation: Option<Validation>,
    questions: Vec<Question>,
    bytes: Option<TokenBytes>,
    schedule: Schedule,
    limits: Limits,
    folder: Folder,
    store: Store,
    metrics: Metrics,
    events: Events,
    state: State,
    /// Of the step.
    batches: Vec<data::Batch>,
}

impl Run {
    /// Begins in the folder that `make_folder` makes, once it is known that settings and data fit each other.
    ///
    /// # Errors
    /// Settings that mean nothing, data that are too short or of another vocabulary, a folder that cannot be written.
    pub fn begin(inputs: Inputs, make_folder: impl FnOnce() -> Result<Folder>) -> Result<Run> {
        inputs.settings.check()?;
        let loader = Loader::new(inputs.data.clone(), loader_options(&inputs))?;
        let state = State::new(loader.position().clone());
        let parts = Parts::new(inputs, loader, state)?;
        let folder = make_folder()?;
        folder.write_config(&parts.settings)?;
        state::write_tokenizer(&folder, parts.tokenizer.as_deref())?;
        let metrics = Metrics::create(&folder.metrics())?;
        let events = Events::create(folder.path(), Start::New)?;
        Run::of(parts, folder, metrics, events)
    }

    /// Goes on from a checkpoint of the folder; `inputs.model` is the checkpoint's.
    ///
    /// # Errors
    /// As [`Run::begin`], and a checkpoint of another model or of other data.
    pub fn resume(
        inputs: Inputs,
        folder: Folder,
        checkpoint: &crate::run::checkpoint::Checkpoint,
    ) -> Result<Run> {
        inputs.settings.check()?;
        let state: State = checkpoint.json(state::STATE)?;
        if state.step != checkpoint.step() {
            fail!("{}: is of step {}, and says {}", checkpoint.path.display(), checkpoint.step(), state.step);
        }
        let loader = Loader::resume(inputs.data.clone(), loader_options(&inputs), &state.position)?;
        let mut parts = Parts::new(inputs, loader, state)?;
        state::read_moments(&mut parts.trainer, checkpoint)?;
        parts.trainer.optimizer.set_steps(parts.state.updates);
        parts.trainer.loss_scale = parts.state.loss_scale.or(parts.trainer.loss_scale);
        // What came after the checkpoint will be made again.
        let step = parts.state.step;
        Store::at(folder.checkpoints()).remove_after(step)?;
        let (metrics, _) = Metrics::resume(&folder.metrics(), step)?;
        let events = Events::create(folder.path(), Start::Resumed(step))?;
        folder.write_config(&parts.settings)?;
        Run::of(parts, folder, metrics, events)
    }

    fn of(parts: Parts, folder: Folder, metrics: Metrics, events: Events) -> Result<Run> {
        let Parts { settings, tokenizer, validation, questions, trainer, loader, state } = parts;
        let keep = Keep { newest: settings.keep, best: Best::Keep };
        Ok(Run {
            schedule: settings.lr_schedule()?,
            limits: Limits::from_flags(settings.skip_loss_z, settings.skip_grad_z)?,
            store: Store::at(folder.checkpoints()).keeping(keep),
            bytes: tokenizer.as_deref().map(TokenBytes::new),
            settings,
            trainer,
            tokenizer,
            loader,
            validation,
            questions,
            folder,
            metrics,
            events,
            state,
            batches: Vec::new(),
        })
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
        if self.state.step == 0 {
            self.validate(watch)?;
            watch.sample(&self.trainer.model, 0);
        }
        let mut last = Instant::now();
        while self.state.step < self.settings.steps {
            let report = self.one_step(watch, &mut last)?;
            watch.step(&report);
            let (step, complete) = (self.state.step, self.state.step == self.settings.steps);
            let is_due = |every: u64| every > 0 && step.is_multiple_of(every);
            let interrupted = watch.interrupted();
            if complete || is_due(self.settings.val_every) {
                self.validate(watch)?;
            }
            if complete || is_due(self.settings.sample_every) {
                watch.sample(&self.trainer.model, step);
            }
            if complete || interrupted || is_due(self.settings.save_every) {
                self.save(watch)?;
            }
            if interrupted && !complete {
                return Ok(End::Interrupted);
            }
            if complete || is_due(self.settings.val_every) || is_due(self.settings.save_every) {
                // None of it is this step's work.
                last = Instant::now();
            }
        }
        Ok(End::Complete)
    }

    fn one_step(&mut self, watch: &mut dyn Watch, last: &mut Instant) -> Result<StepReport> {
        self.next_batches()?;
        let batches: Vec<Batch> = self.batches.iter().map(data::Batch::as_model).collect();
        let measured = self.trainer.measure(&batches).context(|| "a batch that the model cannot take")?;
        let lr = self.schedule.lr(self.state.step);
        if self.state.step == 0 {
            let (count, without) = self.trainer.received();
            watch.received(count, &without);
        }
        let judged = self.state.guard.judge(measured.loss, measured.grad_norm, &self.limits);
        let step = self.state.step + 1;
        let loss_scale = self.trainer.loss_scale;
        let skipped = match (&measured.refused, judged.skip) {
            (Some(Refused::Overflow(scale)), _) => {
                Some(format!("gradients of a loss times {scale} exceed f16, half as much comes next"))
            }
            (Some(refused), _) => {
                self.state.bad_steps += 1;
                let what = match refused {
                    Refused::Loss => "the loss is not a finite number".to_owned(),
                    Refused::Overflow(_) | Refused::NoTargets => "no target counts".to_owned(),
                    Refused::Gradient(id) => format!("the gradient of {id} is not finite"),
                };
                if self.state.bad_steps > self.settings.max_bad_steps {
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
                self.trainer.update(&measured, lr);
                None
            }
        };
        self.state.step = step;
        self.state.loss_scale = self.trainer.loss_scale;
        self.state.tokens += self.settings.tokens_per_step();
        let now = Instant::now();
        let seconds = now.duration_since(*last).as_secs_f64().max(1e-9);
        *last = now;
        let report = StepReport {
            step,
            tokens: self.state.tokens,
            loss: measured.loss,
            grad_norm: measured.grad_norm,
            lr,
            tokens_per_second: self.settings.tokens_per_step() as f64 / seconds,
        };
        let mut row = Row::from(metrics::Step {
            step,
            tokens: report.tokens,
            loss: report.loss,
            grad_norm: report.grad_norm,
            lr,
            tokens_per_second: report.tokens_per_second,
        });
        if let Some(scale) = loss_scale {
            row = row.with("loss_scale", scale.value());
        }
        if let Some(why) = &skipped {
            watch.warn(&format!("step {step}: {why}; the weights stay as they are"));
            row = row.with("skipped", why.as_str());
        }
        self.write(&row)?;
        Ok(report)
    }

    /// Fetches a step's batches; to overfit, those of the first step again.
    fn next_batches(&mut self) -> Result<()> {
        let wanted = self.settings.accumulate;
        if self.settings.overfit && self.batches.len() == wanted {
            return Ok(());
        }
        for i in 0..wanted {
            let next = self.loader.next()?;
            match self.batches.get_mut(i) {
                Some(batch) => {
                    batch.inputs.clone_from(&next.inputs);
                    batch.targets.clone_from(&next.targets);
                }
                None => self.batches.push(next.clone()),
            }
        }
        if !self.settings.overfit {
            self.state.position = self.loader.position().clone();
        }
        Ok(())
    }

    fn write(&mut self, row: &Row) -> Result<()> {
        self.metrics.append(row)?;
        self.events.append(row)
    }

    fn validate(&mut self, watch: &mut dyn Watch) -> Result<()> {
        let step = self.state.step;
        let hellaswag = self.ask()?;
        let Some(validation) = &mut self.validation else {
            if let Some(share) = hellaswag {
                self.write(&Row::new(step).with("hellaswag", share))?;
            }
            return Ok(());
        };
        validation.restart();
        let (mut nats, mut targets, mut text) = (0.0, 0, 0);
        for _ in 0..self.settings.val_batches {
            let Some(next) = validation.next()? else { break };
            let (sum, count) = self.trainer.evaluate(&next.as_model()).context(|| "validation")?;
            nats += sum;
            targets += count;
            text += self.bytes.as_ref().map_or(0, |bytes| bytes.of_targets(&next.targets));
        }
        let loss = nats / targets.max(1) as f64;
        let bits_per_byte = (text > 0).then(|| nats / std::f64::consts::LN_2 / text as f64);
        let mut row = Row::from(metrics::Validation { step, val_loss: loss, bits_per_byte });
        if let Some(share) = hellaswag {
            row = row.with("hellaswag", share);
        }
        self.write(&row)?;
        self.state.val_loss = loss.is_finite().then_some(loss);
        watch.validated(&ValReport { step, loss, bits_per_byte, hellaswag });
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
        let (state, trainer) = (&self.state, &mut self.trainer);
        let name = self.folder.name();
        let saved = self.store.save(state.step, |writer| {
            if let Some(loss) = state.val_loss {
                writer.score(loss);
            }
            state::write(writer, state, trainer, self.tokenizer.as_deref(), &name)
        })?;
        report::write(self.folder.path())?;
        watch.saved(&saved);
        Ok(())
    }
}

/// What both ways to start a run have in common.
struct Parts {
    settings: Settings,
    tokenizer: Option<Arc<Tokenizer>>,
    validation: Option<Validation>,
    questions: Vec<Question>,
    trainer: Trainer,
    loader: Loader,
    state: State,
}

impl Parts {
    fn new(inputs: Inputs, loader: Loader, state: State) -> Result<Parts> {
        let Inputs { settings, model, tokenizer, val_data, questions, .. } = inputs;
        let (batch, seq, vocab) = (settings.batch, settings.seq, model.config().vocab_size);
        let validation =
            val_data.map(|data| Validation::new(data, batch, seq, vocab, Tail::Pad)).transpose()?;
        let trainer = trainer(&settings, model);
        Ok(Parts { settings, tokenizer, validation, questions, trainer, loader, state })
    }
}

fn loader_options(inputs: &Inputs) -> LoaderOptions {
    let settings = &inputs.settings;
    LoaderOptions {
        batch: settings.batch,
        seq: settings.seq,
        order: settings.order,
        seed: settings.seed,
        rank: 0,
        world: 1,
        vocab_size: inputs.model.config().vocab_size,
    }
}

fn trainer(settings: &Settings, model: Model) -> Trainer {
    let clip = (settings.clip > 0.0).then_some(settings.clip);
    Trainer::new(
        model,
        settings.optimizer_options(),
        settings.format(),
        settings.recompute(),
        clip,
        Trained::All,
    )
}
