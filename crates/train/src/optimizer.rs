//! From gradients to new weights.
//!
//! The formulas are in [`wootz_kernels::ops`]; here is which tensor gets which, and what is kept from step to step: the
//! moments, and where weights are multiplied in fewer than 32 bits, the weights themselves in f32 ("master weights"). A
//! step of a millionth of a weight is nothing in bf16, and ten thousand of them are 1 %.
//!
//! Matrices lie in panels, as their gradients do, so that an update goes from one end to the other.

use std::collections::HashMap;
use wootz_kernels::exec::{Exec, Moved, Values};
use wootz_kernels::ops::adamw::AdamW;
use wootz_kernels::ops::muon::{self, Muon, Scale};
use wootz_kernels::ops::sgd::{Momentum, Sgd};
use wootz_kernels::{DType, panels};
use wootz_model::lora::Adapter;
use wootz_model::names::{Kind, Place, TensorId, canonical};
use wootz_model::plan::Share;
use wootz_model::weights::Parameter;
use wootz_model::{DecoderConfig, Gradients, Model, Result};

/// Which rule moves the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// AdamW for every tensor.
    AdamW(Adam),
    /// Gradient descent, with or without momentum.
    Sgd(Option<Momentum>),
    /// Muon for the matrices of the blocks, AdamW for embeddings, head, norms and biases.
    Muon {
        /// Usually `Nesterov(0.95)`.
        momentum: Momentum,
        /// The rest's rule.
        adam: Adam,
    },
}

/// AdamW's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Share of the old mean in the new one.
    pub beta1: f64,
    /// Share of the old mean square in the new one.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
}

/// Which tensors decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decay {
    /// Matrices and embeddings; norms and biases have few weights, and a reason to be where they are.
    #[default]
    Matrices,
    /// All of them.
    All,
}

/// What does not change from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The rule.
    pub rule: Rule,
    /// Share of a weight that is taken off in a step, times the learning rate.
    pub weight_decay: f64,
    /// Which tensors decay.
    pub decay: Decay,
}

/// What is kept of one tensor.
struct State {
    id: TensorId,
    shape: Vec<usize>,
    /// First and second moment; empty where the rule has none.
    moments: [Values; 2],
    /// The weights in f32; empty where the model has them so.
    master: Values,
}

/// The optimiser of a model's trained tensors.
pub struct Optimizer {
    options: Options,
    tensors: Vec<State>,
    steps: u64,
    muon: muon::Scratch,
}

/// One of the arrays that an optimiser keeps of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Array {
    /// The first moment, or the momentum.
    M,
    /// The second moment.
    V,
}

impl Optimizer {
    /// Moments of zero for every tensor that has a gradient. The matrices among them become `dtype`, but for an adapter's;
    /// where that is not f32, the optimiser keeps their values. What has no gradient stays as it is.
    /// Everything is kept where its tensor is.
    ///
    /// # Errors
    /// A device without memory.
    pub fn new(
        options: Options,
        model: &mut Model,
        gradients: &Gradients,
        dtype: DType,
    ) -> Result<Optimizer> {
        let mut shapes: HashMap<TensorId, Vec<usize>> = canonical(model.config()).into_iter().collect();
        shapes.extend(model.adapters().first().into_iter().flat_map(Adapter::tensors));
        let is_trained = |place| gradients.get(TensorId::weight(place)).is_some();
        let (weights, pool) = model.weights_mut();
        weights.convert(pool, DType::F32, |place, _| is_trained(place))?;
        let mut tensors = Vec::new();
        let (parameters, pool) = model.parameters_mut();
        for (id, parameter) in parameters {
            let Some(gradient) = gradients.get(id) else { continue };
            let exec = Exec { pool, gpu: gradient.owner() };
            let shape = shapes.get(&id).cloned().unwrap_or_default();
            let zeros = |wanted: bool| match wanted {
                true => Values::zeroed(exec, &shape),
                false => Ok(Values::none()),
            };
            let (first, second) = match options.rule {
                Rule::AdamW(_) => (true, true),
                Rule::Sgd(momentum) => (momentum.is_some(), false),
                Rule::Muon { .. } => (true, !is_for_muon(id)),
            };
            let master = match parameter {
                Parameter::Matrix(matrix) if dtype != DType::F32 && is_product(id) => {
                    Values::of(exec, matrix)?
                }
                Parameter::Matrix(_) | Parameter::Vector(_) => Values::none(),
            };
            let moments = [zeros(first)?, zeros(second)?];
            tensors.push(State { id, shape, moments, master });
        }
        let (weights, pool) = model.weights_mut();
        weights.convert(pool, dtype, |place, _| is_trained(place))?;
        Ok(Optimizer { options, tensors, steps: 0, muon: muon::Scratch::default() })
    }

    /// Bytes that [`Optimizer::new`] takes for a share of a model whose products are in `dtype`: moments, and master weights.
    pub fn bytes(rule: Rule, config: &DecoderConfig, dtype: DType, share: Share) -> [usize; 2] {
        let (mut moments, mut masters) = (0, 0);
        for (id, shape) in canonical(config).into_iter().filter(|(id, _)| share.has(config, id.place)) {
            let bytes = 4 * match *shape {
                [rows, cols] => panels::len([rows, cols]),
                _ => shape.iter().product(),
            };
            moments += bytes
                * match rule {
                    Rule::AdamW(_) => 2,
                    Rule::Sgd(momentum) => usize::from(momentum.is_some()),
                    Rule::Muon { .. } => 1 + usize::from(!is_for_muon(id)),
                };
            if dtype != DType::F32 && is_product(id) {
                masters += bytes;
            }
        }
        [moments, masters]
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Goes on after a number of steps.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// Moves every weight by its gradient, times `grad_scale`.
    ///
    /// # Errors
    /// What a device meets; the weights are not to be used then.
    pub fn step(&mut self, model: &mut Model, gradients: &Gradients, lr: f64, grad_scale: f32) -> Result<()> {
        self.steps += 1;
        let Options { rule, weight_decay, decay } = self.options;
        let (parameters, pool) = model.parameters_mut();
        let trained = parameters.into_iter().filter(|(id, _)| gradients.get(*id).is_some());
        for (state, (id, parameter)) in self.tensors.iter_mut().zip(trained) {
            let Some(g) = gradients.get(id) else { continue };
            let decays = decay == Decay::All || state.shape.len() == 2;
            let weight_decay = if decays { weight_decay } else { 0.0 };
            let update = Update { rule, lr, weight_decay, step: self.steps, grad_scale };
            let exec = Exec { pool, gpu: g.owner() };
            match parameter {
                Parameter::Vector(w) => update.run(exec, state, Moved::Floats(w), g, &mut self.muon)?,
                Parameter::Matrix(matrix) if matrix.dtype() == DType::F32 => {
                    update.run(exec, state, Moved::Weight(matrix), g, &mut self.muon)?;
                }
                Parameter::Matrix(matrix) => {
                    let mut master = std::mem::replace(&mut state.master, Values::none());
                    update.run(exec, state, Moved::Values(&mut master), g, &mut self.muon)?;
                    exec.round(matrix, &master)?;
                    state.master = master;
                }
            }
        }
        Ok(())
    }

    /// The moments, in one order, with their tensors: matrices in panels.
    pub fn moments(&mut self) -> Vec<(TensorId, Array, &mut Values)> {
        let mut all: Vec<(TensorId, Array, &mut Values)> = Vec::new();
        for State { id, moments: [m, v], .. } in &mut self.tensors {
            for (array, values) in [(Array::M, m), (Array::V, v)] {
                if !values.is_empty() {
                    all.push((*id, array, values));
                }
            }
        }
        all
    }

    /// The weights that are kept in f32 because the model has them in fewer bits: matrices, with their columns and their
    /// panels.
    pub fn masters(&self) -> impl Iterator<Item = (TensorId, usize, &Values)> {
        let kept = self.tensors.iter().filter(|state| !state.master.is_empty());
        kept.map(|state| (state.id, state.shape.last().copied().unwrap_or(1), &state.master))
    }
}

/// The settings of a step for one tensor.
struct Update {
    rule: Rule,
    lr: f64,
    weight_decay: f64,
    step: u64,
    grad_scale: f32,
}

impl Update {
    fn run(
        &self,
        exec: Exec,
        State { id, shape, moments: [m, v], .. }: &mut State,
        w: Moved,
        g: &Values,
        scratch: &mut muon::Scratch,
    ) -> Result<()> {
        let &Update { rule, lr, weight_decay, step, grad_scale } = self;
        let adamw = |adam: Adam| {
            let Adam { beta1, beta2, eps } = adam;
            AdamW { lr, beta1, beta2, eps, weight_decay, step, grad_scale }
        };
        match rule {
            Rule::AdamW(adam) => exec.adamw(adamw(adam), w, g, m, v)?,
            Rule::Sgd(momentum) => exec.sgd(Sgd { lr, momentum, weight_decay, grad_scale }, w, g, m)?,
            Rule::Muon { momentum, adam } => match shape[..] {
                [rows, cols] if is_for_muon(*id) => {
                    let scale = Scale::LikeAdam;
                    let muon = Muon { lr, momentum, weight_decay, scale, grad_scale };
                    exec.muon(muon, [rows, cols], w, g, m, scratch)?;
                }
                _ => exec.adamw(adamw(adam), w, g, m, v)?,
            },
        }
        Ok(())
    }
}

/// Whether it is a matrix inside a block: what Muon is for.
fn is_for_muon(id: TensorId) -> bool {
    matches!(id.place, Place::Layer(_, part) if part.is_projection()) && id.kind == Kind::Weight
}

/// Whether rows are multiplied with it, so that it may be kept in fewer bits.
fn is_product(id: TensorId) -> bool {
    is_for_muon(id) || matches!((id.place, id.kind), (Place::Embed | Place::Head, Kind::Weight))
}
