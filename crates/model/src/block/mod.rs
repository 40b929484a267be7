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
use crate::error::Result;
use crate::gradients::{Gradients, Pair};
use crate::lora::{self, Active, Adapter, Low};
use crate::names::{Part, Place, TensorId};
use crate::weights::{Layer, Linear, NormWeights};
use wootz_kernels::exec::{
    AttentionScratch, Exec, Floats, GradientTerm, Ids, LinearGradient, Output, Tables, Turns,
};
use wootz_kernels::ops::Write;
use wootz_kernels::ops::attention::LayerCache;
use wootz_kernels::ops::matmul::{Columns, Inputs};
use wootz_kernels::ops::rmsnorm::RmsNorm;

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
    /// Who computes: the place where the weights of what is computed are.
    pub exec: Exec<'a>,
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
    pub turns: Option<&'a Turns>,
}

/// Where a block finds the keys and values of the positions before its rows, and leaves those of its rows.
pub(crate) enum Past<'a, 'c> {
    /// In the host's memory: a cache for each sequence.
    Caches(&'a mut [&'c mut LayerCache]),
    /// In a device's: this layer of the slabs.
    Slots(&'a Tables, usize),
    /// Nowhere: rows are whole sequences, on a device.
    Sequences(&'a Tables),
}

/// The residual stream `[rows, C]`: `x`, and what the last half of a block gave, which the next norm adds to it as it reads
/// both.
#[derive(Default)]
pub(crate) struct Stream {
    x: Floats,
    addend: Floats,
    /// Whether `addend` is still to be added.
    is_owing: bool,
}

impl Stream {
    /// Room for a stream that begins here.
    pub fn begin(&mut self) -> &mut Floats {
        self.is_owing = false;
        &mut self.x
    }

    /// The whole stream, where `exec` computes.
    pub fn settle(&mut self, exec: Exec) -> Result<&Floats> {
        if std::mem::take(&mut self.is_owing) {
            let owner = self.x.owner().cloned();
            Exec { pool: exec.pool, gpu: owner.as_ref() }.add(&mut self.x, &self.addend)?;
        }
        exec.bring(&mut self.x)?;
        Ok(&self.x)
    }

    /// Room for what a half of a block gives, which is to be added.
    fn owe(&mut self) -> &mut Floats {
        self.is_owing = true;
        &mut self.addend
    }

    /// Sets `part` to the rows `ids` of the stream.
    pub fn gather(&self, exec: Exec, width: usize, ids: &Ids, part: &mut Stream) -> Result<()> {
        exec.gather(&self.x, width, ids, &mut part.x)?;
        part.is_owing = self.is_owing;
        if self.is_owing {
            exec.gather(&self.addend, width, ids, &mut part.addend)?;
        }
        Ok(())
    }

    /// Brings it to where `exec` computes.
    pub fn bring(&mut self, exec: Exec) -> Result<()> {
        match self.x.is_on(exec) {
            true => Ok(()),
            false => self.settle(exec).map(|_| ()),
        }
    }
}

/// What a block computes on its way and backward needs again: `[rows, width]` each.
#[derive(Default)]
pub(crate) struct Activations {
    /// The stream as it came in (C). Training only.
    pub x: Floats,
    /// Queries, keys and values as the projections give them (H·D, G·D, G·D).
    pub q: Floats,
    pub k: Floats,
    pub v: Floats,
    /// What attention gives (H·D), and the log-sum-exp of its scores (H; training only).
    pub attended: Floats,
    pub lse: Floats,
    /// After the projection, where a norm follows (C).
    pub o: Floats,
    /// The stream between the halves (C). Training only.
    pub x_mid: Floats,
    /// The gate and the widened rows (F), before the activation. Without a gate, `up` is what is activated.
    pub gate: Floats,
    pub up: Floats,
    /// After the narrowing projection, where a norm follows (C).
    pub down: Floats,
}

/// Buffers that hold nothing from one block to the next.
#[derive(Default)]
pub(crate) struct Workspace {
    pub normed: Floats,
    /// Queries and keys as attention takes them (H·D, G·D).
    pub q: Floats,
    pub k: Floats,
    pub hidden: Floats,
    pub products: Products,
    pub attention: AttentionScratch,
    pub d: Deltas,
}

/// Gradients of activations, in backward.
#[derive(Default)]
pub(crate) struct Deltas {
    pub normed: Floats,
    pub out: Floats,
    pub q: Floats,
    pub k: Floats,
    pub v: Floats,
    pub attended: Floats,
    pub hidden: Floats,
    pub gate: Floats,
    pub up: Floats,
    /// Partial sums of the norms' gradients.
    pub sums: Floats,
    pub attention: Floats,
}

/// The rounded forms that products want of their inputs.
#[derive(Default)]
pub(crate) struct Products {
    pub inputs: [Inputs; 3],
    pub columns: Columns,
    pub low: Low,
    /// Gradients of outputs before their lengths were changed.
    pub dv: [Floats; 3],
}

impl Network<'_> {
    /// Several projections of the same rows.
    pub fn linear<const N: usize>(
        &self,
        products: &mut Products,
        x: &Floats,
        outputs: [(Projection, &mut Floats); N],
    ) -> Result<()> {
        let projections = outputs.each_ref().map(|(projection, _)| *projection);
        let mut outputs = outputs.map(|(_, y)| y);
        let mut wanted: Vec<Output> = (outputs.iter_mut().zip(&projections))
            .map(|(y, Projection { linear, .. })| Output {
                weight: &linear.weight,
                bias: linear.bias.as_ref(),
                y,
            })
            .collect();
        self.exec.products(&mut products.inputs[0], x, &mut wanted)?;
        let active = self.active(projections);
        lora::forward(self.exec, &active, x, &mut products.low, &mut outputs)?;
        let biases = projections.map(|projection| projection.linear.bias.as_ref());
        lora::forward_magnitudes(self.exec, &active, &mut products.low, &mut outputs, &biases)
    }

    /// Backward of [`Network::linear`]: dx is set; gradients of weights, biases and adapters are set or added to, as
    /// [`Gradients::write`] says.
    ///
    /// Each output comes with its gradient `[rows, n]`. The weights are of one type. Where nothing asks for dx, it is
    /// `None`.
    pub fn linear_backward<const N: usize>(
        &self,
        products: &mut Products,
        x: &Floats,
        outputs: [(Projection, &Floats); N],
        gradients: &mut Gradients,
        dx: Option<&mut Floats>,
    ) -> Result<()> {
        let like = &outputs[0].0.linear.weight;
        let write = gradients.write();
        let trained = gradients.at(outputs.map(|(projection, _)| projection.place));
        let mut wanted: Vec<LinearGradient> = (trained.into_iter().zip(&outputs))
            .filter_map(|(at, (_, dy))| Some(LinearGradient { dy, dw: at.weight?, db: at.bias }))
            .collect();
        if !wanted.is_empty() {
            self.exec.weight_gradient(&mut products.columns, x, like, &mut wanted, write)?;
        }
        let active = self.active(outputs.map(|(projection, _)| projection));
        let mut dv = std::mem::take(&mut products.dv);
        self.magnitudes_backward(products, &active, x, &outputs, &mut dv, gradients)?;
        let mut dy = outputs.map(|(_, dy)| dy);
        for change in active.iter().filter(|change| change.lora.magnitude.is_some()) {
            dy[change.output] = &dv[change.output];
        }
        lora::backward(self.exec, &active, x, &dy, products, gradients)?;
        if let Some(dx) = dx {
            let projections = outputs.map(|(projection, _)| projection);
            self.inputs_backward(products, &active, projections, dy, dx)?;
        }
        products.dv = dv;
        Ok(())
    }

    /// `dx = Σ dy w`, over several projections of the same rows and what adapters add to them.
    fn inputs_backward<const N: usize>(
        &self,
        products: &mut Products,
        active: &[Active],
        projections: [Projection; N],
        dy: [&Floats; N],
        dx: &mut Floats,
    ) -> Result<()> {
        let Products { inputs, low, .. } = products;
        let mut terms: Vec<GradientTerm> = (projections.iter().zip(dy))
            .map(|(Projection { linear, .. }, dy)| GradientTerm { dy, weight: &linear.weight, exact: false })
            .collect();
        terms.extend(active.iter().zip(&low.dh).filter_map(|(change, dh)| change.term(dh)));
        self.exec.input_gradient(inputs, &terms, dx)?;
        lora::add_dropped(self.exec, active, low, dx)
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
    pub fn norm(&self, x: &Floats, weights: &NormWeights, y: &mut Floats) -> Result<()> {
        match (&self.config.norm, &weights.bias) {
            (Norm::LayerNorm, Some(bias)) => {
                self.exec.layer_norm(self.config.norm_eps, x, [&weights.weight, bias], y)?;
            }
            (Norm::LayerNorm | Norm::RmsNorm | Norm::RmsNormOnePlus, _) => {
                self.exec.rms_norm(self.rms_norm(), x, &weights.weight, y)?;
            }
        }
        Ok(())
    }

    /// y = norm(stream), after what is to be added to the stream has been.
    pub fn norm_of(&self, stream: &mut Stream, weights: &NormWeights, y: &mut Floats) -> Result<()> {
        let Stream { x, addend, is_owing } = stream;
        if !std::mem::take(is_owing) {
            return self.norm(x, weights, y);
        }
        match (&self.config.norm, &weights.bias) {
            (Norm::LayerNorm, Some(bias)) => {
                let weights = [&weights.weight, bias];
                self.exec.add_layer_norm(self.config.norm_eps, x, addend, weights, y)?;
            }
            (Norm::LayerNorm | Norm::RmsNorm | Norm::RmsNormOnePlus, _) => {
                self.exec.add_rms_norm(self.rms_norm(), x, addend, &weights.weight, y)?;
            }
        }
        Ok(())
    }

    /// Backward of [`Network::norm`]: dx is set or added to, gradients of the norm at `place` are added.
    pub fn norm_backward(
        &self,
        x: &Floats,
        (place, weights): (Place, &NormWeights),
        dy: &Floats,
        (dx, write): (&mut Floats, Write),
        gradients: &mut Gradients,
        sums: &mut Floats,
    ) -> Result<()> {
        if write == Write::Set {
            self.exec.resize(dx, x.len())?;
        }
        match (&self.config.norm, &weights.bias) {
            (Norm::LayerNorm, Some(_)) => {
                let [Pair { weight, bias }] = gradients.at([place]);
                let dw_db = weight.zip(bias).map(|(dw, db)| [dw, db]);
                let eps = self.config.norm_eps;
                self.exec.layer_norm_backward(eps, x, &weights.weight, dy, (dx, write), dw_db, sums)?;
            }
            (Norm::LayerNorm | Norm::RmsNorm | Norm::RmsNormOnePlus, _) => {
                let dw = gradients.get_mut(TensorId::weight(place));
                let norm = self.rms_norm();
                self.exec.rms_norm_backward(norm, x, &weights.weight, dy, (dx, write), dw, sums)?;
            }
        }
        Ok(())
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
    fn show(&self, parts: &[Part], x: &Floats, width: usize) -> Result<()> {
        if let Some(observer) = self.network.observer {
            let places: Vec<Place> = parts.iter().map(|&part| self.place(part)).collect();
            observer.inputs(&places, &x.read()?, width);
        }
        Ok(())
    }

    /// Copies the stream for backward.
    fn keep(&self, x: &Floats, copy: &mut Floats) -> Result<()> {
        match self.network.mode {
            Mode::Inference => Ok(()),
            Mode::Training => Ok(self.network.exec.copy(x, copy)?),
        }
    }
}
