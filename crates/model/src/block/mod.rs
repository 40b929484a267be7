//! One block of the decoder. Its halves are files of their own, each with forward and backward side by side:
//!
//! ```text
//!   x ── norm ── q, k, v ── rope ── attention ── o ──(+)── norm ── gate, up ── act ── down ──(+)── x
//!    └───────────────── attention.rs ──────────────┘ └──────────────── mlp.rs ────────────────┘
//! ```
//!
//! Here is what both need: projections and norms, forward and backward. The same forward serves generation and training,
//! so a token has the same bits in both; training keeps what backward asks for ([`Activations`]).

mod attention;
mod mlp;

use crate::config::{DecoderConfig, Norm};
use crate::gradients::{Gradients, Pair};
use crate::lora::{self, Active, Adapter, Low};
use crate::names::{Part, Place, TensorId};
use crate::weights::{Layer, Linear, NormWeights};
use wootz_kernels::Pool;
use wootz_kernels::ops::matmul::{
    Columns, Inputs, Product, Term, WeightGradient, input_gradient, matmul, weight_gradient,
};
use wootz_kernels::ops::rmsnorm::{self, RmsNorm};
use wootz_kernels::ops::rope::Angles;
use wootz_kernels::ops::{Write, attention as attend, layernorm};

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Logits alone: one set of activations serves all blocks in turn.
    Inference,
    /// Backward follows, and finds in [`Activations`] all that it needs.
    Training,
}

/// Whether anything is trained where a gradient of the stream would go next: the norm that a half of a block begins with,
/// and all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Below {
    /// Something is.
    Trained,
    /// Nothing is: backward ends here.
    Frozen,
}

/// Looks at what a forward pass multiplies its matrices with.
pub trait Observer {
    /// `x` are rows `[rows, width]` that the matrices at `places` are about to multiply.
    fn inputs(&self, places: &[Place], x: &[f32], width: usize);
}

/// What is the same for all blocks.
#[derive(Clone, Copy)]
pub(crate) struct Network<'a> {
    pub pool: &'a Pool,
    pub config: &'a DecoderConfig,
    pub mode: Mode,
    /// Changes of projections; gradients are of the first.
    pub adapters: &'a [Adapter],
    /// Makes what dropout leaves out; nothing is left out where there is none.
    pub draw: Option<u64>,
    /// Who is shown the inputs of every product, if anybody is.
    pub observer: Option<&'a dyn Observer>,
}

/// A projection and its place.
#[derive(Clone, Copy)]
pub(crate) struct Projection<'a> {
    pub place: Place,
    pub linear: &'a Linear,
}

/// A block, and all that does not change while it runs.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub network: Network<'a>,
    pub index: usize,
    pub layer: &'a Layer,
    /// Of the rows' positions, if this block has rotary ones.
    pub angles: Option<&'a Angles>,
}

/// What a block computes on its way and backward needs again: `[rows, width]` each.
#[derive(Default)]
pub(crate) struct Activations {
    /// The stream as it came in (C). Training only.
    pub x: Vec<f32>,
    /// Queries and keys before their norms (H·D, G·D), where they have any.
    pub raw: [Vec<f32>; 2],
    /// Queries, keys and values as attention takes them (H·D, G·D, G·D).
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// What attention gives (H·D), and the log-sum-exp of its scores (H; training only).
    pub attended: Vec<f32>,
    pub lse: Vec<f32>,
    /// After the projection, where a norm follows (C).
    pub o: Vec<f32>,
    /// The stream between the halves (C). Training only.
    pub x_mid: Vec<f32>,
    /// The gate and the widened rows (F), before the activation. Without a gate, `up` is what is activated.
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    /// After the narrowing projection, where a norm follows (C).
    pub down: Vec<f32>,
}

/// Buffers that hold nothing from one block to the next.
#[derive(Default)]
pub(crate) struct Workspace {
    pub normed: Vec<f32>,
    pub out: Vec<f32>,
    pub hidden: Vec<f32>,
    pub products: Products,
    pub attention: attend::Scratch,
    pub d: Deltas,
}

/// Gradients of activations, in backward.
#[derive(Default)]
pub(crate) struct Deltas {
    pub normed: Vec<f32>,
    pub out: Vec<f32>,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub attended: Vec<f32>,
    pub hidden: Vec<f32>,
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    /// Partial sums of the norms' gradients.
    pub sums: Vec<f32>,
    pub attention: Vec<f32>,
}

/// The rounded forms that products want of their inputs.
#[derive(Default)]
pub(crate) struct Products {
    pub inputs: [Inputs; 3],
    pub columns: Columns,
    pub low: Low,
    /// Gradients of outputs before their lengths were changed.
    pub dv: [Vec<f32>; 3],
}

impl Network<'_> {
    /// Several projections of the same rows.
    pub fn linear<const N: usize>(
        &self,
        products: &mut Products,
        x: &[f32],
        outputs: [(Projection, &mut Vec<f32>); N],
    ) {
        let width = outputs[0].0.linear.weight.cols();
        let rows = x.len() / width;
        let operands = outputs.iter().map(|(projection, _)| projection.linear.weight.operand());
        let prepared = products.inputs[0].prepare(self.pool, x, [rows, width], operands);
        let projections = outputs.each_ref().map(|(projection, _)| *projection);
        let mut outputs = outputs.map(|(projection, y)| {
            y.resize(rows * projection.linear.weight.rows(), 0.0);
            y
        });
        let mut wanted: Vec<Product> = (outputs.iter_mut().zip(&projections))
            .map(|(y, Projection { linear: Linear { weight, bias }, .. })| Product {
                weight,
                bias: bias.as_deref(),
                y: y.as_mut_slice(),
                write: Write::Set,
            })
            .collect();
        matmul(self.pool, &prepared, &mut wanted);
        let active = self.active(projections);
        lora::forward(self.pool, &active, x, &mut products.low, &mut outputs);
        let biases = projections.map(|projection| projection.linear.bias.as_deref());
        lora::forward_magnitudes(self.pool, &active, &mut products.low, &mut outputs, &biases);
    }

    /// Backward of [`Network::linear`]: dx is set; gradients of weights, biases and adapters are set or added to, as
    /// [`Gradients::write`] says.
    ///
    /// Each output comes with its gradient `[rows, n]`. The weights are of one type. Where nothing asks for dx, it is
    /// `None`.
    pub fn linear_backward<const N: usize>(
        &self,
        products: &mut Products,
        x: &[f32],
        outputs: [(Projection, &[f32]); N],
        gradients: &mut Gradients,
        dx: Option<&mut Vec<f32>>,
    ) {
        let width = outputs[0].0.linear.weight.cols();
        let rows = x.len() / width;
        let write = gradients.write();
        let trained = gradients.at(outputs.map(|(projection, _)| projection.place));
        let mut wanted: Vec<WeightGradient> = (trained.into_iter().zip(&outputs))
            .filter_map(|(at, (_, dy))| Some(WeightGradient { dy, dw: at.weight?, db: at.bias }))
            .collect();
        let operand = outputs[0].0.linear.weight.gradient_operand();
        weight_gradient(self.pool, &mut products.columns, x, [rows, width], operand, &mut wanted, write);
        let active = self.active(outputs.map(|(projection, _)| projection));
        let mut dv = std::mem::take(&mut products.dv);
        self.magnitudes_backward(products, &active, x, &outputs, &mut dv, gradients);
        let mut dy = outputs.map(|(_, dy)| dy);
        for change in active.iter().filter(|change| change.lora.magnitude.is_some()) {
            dy[change.output] = &dv[change.output];
        }
        lora::backward(self.pool, &active, x, &dy, products, gradients);
        if let Some(dx) = dx {
            let projections = outputs.map(|(projection, _)| projection);
            self.inputs_backward(products, &active, projections, dy, dx);
        }
        products.dv = dv;
    }

    /// `dx = Σ dy w`, over several projections of the same rows and what adapters add to them.
    fn inputs_backward<const N: usize>(
        &self,
        products: &mut Products,
        active: &[Active],
        projections: [Projection; N],
        dy: [&[f32]; N],
        dx: &mut Vec<f32>,
    ) {
        let weight = &projections[0].linear.weight;
        let rows = dy[0].len() / weight.rows();
        dx.resize(rows * weight.cols(), 0.0);
        let Products { inputs, low, .. } = products;
        let mut terms: Vec<Term> = (projections.iter().zip(dy).zip(inputs.iter_mut()))
            .map(|((Projection { linear, .. }, dy), inputs)| {
                let size = [rows, linear.weight.rows()];
                let operand = std::iter::once(linear.weight.gradient_operand());
                Term { dy: inputs.prepare(self.pool, dy, size, operand), weight: &linear.weight }
            })
            .collect();
        terms.extend(active.iter().zip(&low.dh).filter_map(|(change, dh)| change.term(dh)));
        input_gradient(self.pool, &terms, dx, Write::Set);
        lora::add_dropped(self.pool, active, low, dx);
    }

    /// The norm that this decoder has everywhere, or the one over heads, which is never a LayerNorm.
    pub fn rms_norm(&self) -> RmsNorm {
        let offset = match self.config.norm {
            Norm::RmsNormOnePlus => 1.0,
            Norm::RmsNorm | Norm::LayerNorm => 0.0,
        };
        RmsNorm { eps: self.config.norm_eps, offset }
    }

    /// y = norm(x).
    pub fn norm(&self, x: &[f32], weights: &NormWeights, y: &mut Vec<f32>) {
        y.resize(x.len(), 0.0);
        match (&self.config.norm, &weights.bias) {
            (Norm::LayerNorm, Some(bias)) => {
                layernorm::forward(self.pool, self.config.norm_eps, x, &weights.weight, bias, y);
            }
            (Norm::LayerNorm | Norm::RmsNorm | Norm::RmsNormOnePlus, _) => {
                self.rms_norm().forward(self.pool, x, &weights.weight, y);
            }
        }
    }

    /// Backward of [`Network::norm`]: dx is set or added to, gradients of the norm at `place` are added.
    pub fn norm_backward(
        &self,
        x: &[f32],
        (place, weights): (Place, &NormWeights),
        dy: &[f32],
        (dx, write): (&mut [f32], Write),
        gradients: &mut Gradients,
        sums: &mut Vec<f32>,
    ) {
        match (&self.config.norm, &weights.bias) {
            (Norm::LayerNorm, Some(_)) => {
                let [Pair { weight, bias }] = gradients.at([place]);
                let dw_db = weight.zip(bias).map(|(dw, db)| [dw, db]);
                let gradients = layernorm::Gradients { dx, write, dw_db };
                layernorm::backward(self.pool, self.config.norm_eps, x, &weights.weight, dy, gradients, sums);
            }
            (Norm::LayerNorm | Norm::RmsNorm | Norm::RmsNormOnePlus, _) => {
                let dw = gradients.get_mut(TensorId::weight(place));
                let gradients = rmsnorm::Gradients { dx, write, dw };
                self.rms_norm().backward(self.pool, x, &weights.weight, dy, gradients, sums);
            }
        }
    }
}

impl<'a> Block<'a> {
    /// A projection of this block.
    fn projection(&self, part: Part, linear: &'a Linear) -> Projection<'a> {
        Projection { place: self.place(part), linear }
    }

    fn place(&self, part: Part) -> Place {
        Place::Layer(self.index, part)
    }

    /// Shows an observer what the matrices of these parts multiply.
    fn show(&self, parts: &[Part], x: &[f32], width: usize) {
        if let Some(observer) = self.network.observer {
            let places: Vec<Place> = parts.iter().map(|&part| self.place(part)).collect();
            observer.inputs(&places, x, width);
        }
    }

    /// Copies the stream for backward.
    fn keep(&self, x: &[f32], copy: &mut Vec<f32>) {
        match self.network.mode {
            Mode::Inference => {}
            Mode::Training => {
                copy.clear();
                copy.extend_from_slice(x);
            }
        }
    }
}
