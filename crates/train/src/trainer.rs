//! One optimiser step, from batches of tokens to new weights.
//!
//! ```text
//!   batches ── forward, backward, added up ── norm ── clipped ── optimiser ── weights
//! ```
//!
//! A step that would ruin the weights is not taken: if the loss or any gradient is not a finite number, everything is
//! as it was before, and the first bad tensor is named.

use crate::loss_scale::LossScale;
use crate::optimizer::{Optimizer, Options};
use std::collections::HashMap;
use wootz_kernels::exec::{Exec, Values};
use wootz_kernels::ops::Write;
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::rng::Rng;
use wootz_kernels::{DType, panels};
use wootz_model::generate::Kept;
use wootz_model::names::{Place, TensorId};
use wootz_model::save::Tensors;
use wootz_model::{Batch, Distribution, Gradients, Model, Recompute, Result, Training};

/// What products multiply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// f32.
    #[default]
    F32,
    /// bf16, added up in f32; the optimiser keeps the weights in f32.
    Bf16,
    /// f16 in the same way, with a [`LossScale`].
    F16,
}

impl Format {
    /// The type of the matrices.
    pub fn dtype(self) -> DType {
        match self {
            Format::F32 => DType::F32,
            Format::Bf16 => DType::BF16,
            Format::F16 => DType::F16,
        }
    }
}

/// Which parameters move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trained {
    /// The model's.
    All,
    /// Those of its first adapter, and the model's at some places.
    Adapter {
        /// Which places.
        beside: Vec<Place>,
    },
}

/// A model in training.
pub struct Trainer {
    /// The model.
    pub model: Model,
    /// Its optimiser.
    pub optimizer: Optimizer,
    /// What the loss is multiplied by, in f16 alone.
    pub loss_scale: Option<LossScale>,
    training: Training,
    gradients: Gradients,
    /// Gradients are scaled down to this norm.
    clip: Option<f64>,
    draw: Option<u64>,
    sums: Vec<f64>,
}

/// What is minimised: a function of the log-probabilities of targets.
///
/// Rows are those of a batch, batches those of a step, in their order.
pub trait Objective: Sync {
    /// What logits are multiplied by before they are probabilities: 1, or 1 / the temperature that targets were drawn at.
    fn scale(&self) -> f32;
    /// The tokens that a target was drawn from; `None` for all.
    fn kept(&self, batch: usize, row: usize) -> Option<&Kept>;
    /// The derivative of the objective by a row's loss. It may depend on the loss; any thread may ask.
    fn weight(&self, batch: usize, row: usize, loss: f32) -> f32;
    /// A batch's part of the objective, given losses and entropies of its rows, in nats. Entropies are empty unless
    /// [`Trainer::measure_entropies`] asked for them.
    fn value(&mut self, batch: usize, losses: &[f32], entropies: &[f32]) -> f64;
}

/// The mean loss of all targets.
struct MeanLoss {
    targets: usize,
}

impl Objective for MeanLoss {
    fn scale(&self) -> f32 {
        1.0
    }

    fn kept(&self, _: usize, _: usize) -> Option<&Kept> {
        None
    }

    fn weight(&self, _: usize, _: usize, _: f32) -> f32 {
        1.0 / self.targets.max(1) as f32
    }

    fn value(&mut self, _: usize, losses: &[f32], _: &[f32]) -> f64 {
        losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / self.targets.max(1) as f64
    }
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What is minimised: the mean over all targets that count, in nats, unless an [`Objective`] says otherwise.
    pub loss: f64,
    /// Targets that count.
    pub targets: usize,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Why the weights were left as they are, if they were.
    pub refused: Option<Refused>,
}

/// Why a step was not taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Refused {
    /// The loss is not a finite number.
    Loss,
    /// This tensor's gradient is not finite: the first of them, in the order of the forward pass.
    Gradient(TensorId),
    /// A gradient is not finite because the loss was multiplied by this number, which is halved now. It happens in f16,
    /// and does no harm.
    Overflow(f32),
    /// No target counts, so that there is nothing to learn from.
    NoTargets,
    /// All that was tried is worth as much, so that nothing says where to go. It does no harm.
    NoSignal,
}

impl Trainer {
    /// Takes over a model. Matrices that are trained take on the wanted format, but for an adapter's, which stay in f32.
    ///
    /// # Errors
    /// A device without memory.
    pub fn new(
        mut model: Model,
        options: Options,
        format: Format,
        recompute: Recompute,
        clip: Option<f64>,
        trained: Trained,
    ) -> Result<Trainer> {
        let gradients = match trained {
            Trained::All => Gradients::new(&model, |_| true)?,
            Trained::Adapter { beside } => {
                let is_beside = |place: Place| beside.contains(&place);
                match model.adapters().first() {
                    Some(adapter) => Gradients::of_adapter(&model, adapter, is_beside)?,
                    None => Gradients::new(&model, is_beside)?,
                }
            }
        };
        let optimizer = Optimizer::new(options, &mut model, &gradients, format.dtype())?;
        let training = Training::new(recompute, CacheType::F32);
        let loss_scale = (format == Format::F16).then(LossScale::default);
        let (draw, sums) = (None, Vec::new());
        Ok(Trainer { model, optimizer, loss_scale, training, gradients, clip, draw, sums })
    }

    /// One step over the batches together, as if they were one: the loss is the mean over all of their targets.
    ///
    /// # Errors
    /// A batch that the model cannot take; nothing has changed then.
    pub fn step(&mut self, batches: &[Batch], lr: f64) -> Result<Step> {
        let step = self.measure(batches)?;
        if step.refused.is_none() {
            self.update(&step, lr)?;
        }
        Ok(step)
    }

    /// The first half of a step: loss and gradients. The weights are as they were.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn measure(&mut self, batches: &[Batch]) -> Result<Step> {
        let targets = batches.iter().map(count).sum::<usize>();
        self.measure_by(batches, &mut MeanLoss { targets })
    }

    /// As [`Trainer::measure`], of something else than the mean loss.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn measure_by(&mut self, batches: &[Batch], objective: &mut dyn Objective) -> Result<Step> {
        let targets = batches.iter().map(count).sum::<usize>();
        let scale = self.loss_scale.map_or(1.0, LossScale::value);
        let mut loss = 0.0;
        for (i, batch) in batches.iter().enumerate() {
            let write = if i == 0 { Write::Set } else { Write::Add };
            self.training.set_draw(self.draw.map(|draw| Rng::new(draw, i as u64).next()));
            let of: &dyn Objective = objective;
            let weight = |row: usize, loss: f32| scale * of.weight(i, row, loss);
            let kept = |row: usize| of.kept(i, row);
            let drawn = Distribution { scale: of.scale(), kept: Some(&kept) };
            let (model, gradients) = (&self.model, &mut self.gradients);
            self.training.gradients_under(model, batch, &drawn, &weight, gradients, write)?;
            loss += objective.value(i, self.training.losses(), self.training.entropies());
        }
        self.training.set_draw(None);
        let mut squares = 0.0;
        let mut refused = match targets {
            0 => Some(Refused::NoTargets),
            _ => (!loss.is_finite()).then_some(Refused::Loss),
        };
        let sums = self.sums_of_squares()?;
        for ((id, _), sum) in self.gradients.iter().zip(sums) {
            if !sum.is_finite() && refused.is_none() {
                refused = Some(Refused::Gradient(id));
            }
            squares += sum;
        }
        if let (Some(Refused::Gradient(_)), Some(loss_scale)) = (&refused, &mut self.loss_scale)
            && loss_scale.overflows()
        {
            refused = Some(Refused::Overflow(scale));
        }
        Ok(Step { loss, targets, grad_norm: squares.sqrt() / f64::from(scale), refused })
    }

    /// Goes forward and back once, and forgets it: the buffers are as large as this batch asks for then.
    ///
    /// # Errors
    /// A batch that the model cannot take.
    pub fn rehearse(&mut self, batch: &Batch) -> Result<()> {
        self.training.set_draw(self.draw.or(Some(0)));
        let weight = |_: usize, _: f32| 0.0;
        self.training.gradients(&self.model, batch, &weight, &mut self.gradients, Write::Set)?;
        self.training.set_draw(None);
        Ok(())
    }

    fn sums_of_squares(&mut self) -> Result<Vec<f64>> {
        let exec = Exec { pool: self.model.pool(), gpu: self.model.gpu() };
        let all = self.gradients.iter().map(|(_, gradient)| gradient);
        Ok(exec.sums_of_squares(all, &mut self.sums)?)
    }

    /// The second half: the weights move by the gradients that were measured last.
    ///
    /// # Errors
    /// What a device meets; the weights are not to be used then.
    pub fn update(&mut self, measured: &Step, lr: f64) -> Result<()> {
        // PyTorch adds a millionth, so that a gradient of zero divides.
        let scale = self.clip.map_or(1.0, |clip| (clip / (measured.grad_norm + 1e-6)).min(1.0));
        let loss_scale = self.loss_scale.map_or(1.0, LossScale::value);
        self.optimizer.step(&mut self.model, &self.gradients, lr, scale as f32 / loss_scale)?;
        self.model.measure_adapters()?;
        if let Some(loss_scale) = &mut self.loss_scale {
            loss_scale.fits();
        }
        Ok(())
    }

    /// What dropout leaves out of the next step, as a function of this number; `None` for nothing.
    pub fn set_draw(&mut self, draw: Option<u64>) {
        self.draw = draw;
    }

    /// The sum of losses over the targets that count, in nats, and their number.
    ///
    /// # Errors
    /// A batch that the model cannot take.
    pub fn evaluate(&mut self, batch: &Batch) -> Result<(f64, usize)> {
        let losses = self.training.loss(&self.model, batch)?;
        Ok((losses.iter().map(|&loss| f64::from(loss)).sum(), count(batch)))
    }

    /// The loss of every row.
    ///
    /// # Errors
    /// A batch that the model cannot take.
    pub fn losses(&mut self, batch: &Batch) -> Result<&[f32]> {
        self.training.loss(&self.model, batch)
    }

    /// The loss of every row, with probabilities as an objective has them.
    ///
    /// # Errors
    /// A batch that the model cannot take.
    pub fn losses_by(&mut self, batch: &Batch, at: usize, objective: &dyn Objective) -> Result<&[f32]> {
        let kept = |row: usize| objective.kept(at, row);
        let drawn = Distribution { scale: objective.scale(), kept: Some(&kept) };
        self.training.loss_under(&self.model, batch, &drawn)
    }

    /// From now on objectives are told entropies.
    pub fn measure_entropies(&mut self) {
        self.training.measure_entropies();
    }

    /// The weights in f32, whatever products multiply, to be saved.
    pub fn weights(&self) -> TrainedWeights<'_> {
        TrainedWeights {
            model: &self.model,
            masters: self.optimizer.masters().map(|(id, cols, values)| (id, (cols, values))).collect(),
        }
    }

    /// The gradients of the last step, times its loss scale.
    pub fn gradients(&self) -> &Gradients {
        &self.gradients
    }

    /// Tensors that got a gradient other than zero in the last step, and those that did not.
    ///
    /// # Errors
    /// What a device meets.
    pub fn received(&mut self) -> Result<(usize, Vec<TensorId>)> {
        let sums = self.sums_of_squares()?;
        let all = self.gradients.iter().zip(sums);
        let (zero, other): (Vec<_>, Vec<_>) = all.partition(|(_, sum)| *sum == 0.0);
        Ok((other.len(), zero.into_iter().map(|((id, _), _)| id).collect()))
    }
}

/// Targets that count.
fn count(batch: &Batch) -> usize {
    batch.targets.iter().filter(|&&target| target >= 0).count()
}

/// A model's weights as they are trained: in f32.
pub struct TrainedWeights<'a> {
    model: &'a Model,
    /// Columns, and panels.
    masters: HashMap<TensorId, (usize, &'a Values)>,
}

impl Tensors for TrainedWeights<'_> {
    fn read(&self, id: TensorId, out: &mut Vec<f32>) -> Result<()> {
        self.model.weights().read(id, out)?;
        let Some((cols, master)) = self.masters.get(&id) else { return Ok(()) };
        let master = master.read()?;
        // A matrix, of which the model has the rounded values: the same element, from the panels.
        for (i, value) in out.iter_mut().enumerate() {
            *value = master[panels::index(*cols, i / cols, i % cols)];
        }
        Ok(())
    }
}
