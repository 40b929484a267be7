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
    /// Who is shown the inputs of every product, if anybody is.
    pub observer: Option<&'a dyn Observer>,
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
}

impl Network<'_> {
    /// Several projections of the same rows.
    pub fn linear<const N: usize>(
        &self,
        products: &mut Products,
        x: &[f32],
        mut outputs: [(&Linear, &mut Vec<f32>); N],
    ) {
        let width = outputs[0].0.weight.cols();
        let rows = x.len() / width;
        let operands = outputs.iter().map(|(linear, _)| linear.weight.operand());
        let x = products.inputs[0].prepare(self.pool, x, [rows, width], operands);
        for (linear, y) in &mut outputs {
            y.resize(rows * linear.weight.rows(), 0.0);
        }
        let mut products = outputs.map(|(linear, y)| Product {
            weight: &linear.weight,
            bias: linear.bias.as_deref(),
            y: y.as_mut_slice(),
        });
        matmul(self.pool, &x, &mut products);
    }

    /// Backward of [`Network::linear`]: dx is set; gradients of weights and biases are set or added to, as
    /// [`Gradients::write`] says.
    ///
    /// Each output comes with its place in the network and its gradient `[rows, n]`. The weights are of one type.
    pub fn linear_backward<const N: usize>(
        &self,
        products: &mut Products,
        x: &[f32],
        outputs: [(Place, &Linear, &[f32]); N],
        gradients: &mut Gradients,
        dx: &mut Vec<f32>,
    ) {
        let width = outputs[0].1.weight.cols();
        let rows = x.len() / width;
        let write = gradients.write();
        let trained = gradients.at(outputs.map(|(place, ..)| place));
        let mut wanted: Vec<WeightGradient> = (trained.into_iter().zip(&outputs))
            .filter_map(|(at, (_, _, dy))| Some(WeightGradient { dy, dw: at.weight?, db: at.bias }))
            .collect();
        let operand = outputs[0].1.weight.gradient_operand();
        weight_gradient(self.pool, &mut products.columns, x, [rows, width], operand, &mut wanted, write);
        dx.resize(rows * width, 0.0);
        let terms: Vec<Term> = outputs
            .iter()
            .zip(products.inputs.iter_mut())
            .map(|((_, linear, dy), inputs)| {
                let size = [rows, linear.weight.rows()];
                let operand = std::iter::once(linear.weight.gradient_operand());
                Term { dy: inputs.prepare(self.pool, dy, size, operand), weight: &linear.weight }
            })
            .collect();
        input_gradient(self.pool, &terms, dx, Write::Set);
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

impl Block<'_> {
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
