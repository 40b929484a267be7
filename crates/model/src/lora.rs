//! Low-rank adapters: a projection learns a change of few parameters, while its own weights stay as they are, in any
//! type (Hu et al., "LoRA", 2021).
//!
//! ```text
//!   y = x wᵀ + b + s (x aᵀ) bᵀ           a [r, k], b [n, r]; s = α / r, or α / √r ("rsLoRA", Kalajdzievski, 2023)
//!
//!   x [m, k] ──┬── w ─────────────(+)── y [m, n]
//!              └── a ── h [m, r] ── b ──┘
//! ```
//!
//! a begins with small random numbers and b with zeros, so that an adapter changes nothing before its first step.
//! Backward of the two small products is that of any product: `db = s dyᵀ h`, `dh = s dy b`, `da = dhᵀ x`,
//! `dx += dh a`. Nothing but x is needed for them, and h is computed again.
//!
//! Adapters are in f32, whatever the weights are. Several may be active, and their changes add up.
//!
//! With a [`Magnitude`] each output's weights `w + s b a` are also given a length of their own, which is learnt beside their
//! direction ("DoRA", [`wootz_kernels::ops::dora`]). Such an adapter works alone.

use crate::block::{Network, Products, Projection};
use crate::config::DecoderConfig;
use crate::error::{Result, fail};
use crate::gradients::Gradients;
use crate::names::{Kind, Part, Place, TensorId, canonical};
use crate::weights::Parameter;
use std::collections::BTreeMap;
use wootz_kernels::ops::dropout::Dropout;
use wootz_kernels::ops::matmul::{
    Prepared, Product, Term, WeightGradient, input_gradient, matmul, weight_gradient,
};
use wootz_kernels::ops::{Write, dora};
use wootz_kernels::rng::Rng;
use wootz_kernels::{Matrix, Pool};

/// The changes of some projections.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// By the projection that they change.
    pub parts: BTreeMap<Place, Lora>,
    /// How much of the change is taken: 1 for all of it.
    pub strength: f32,
    /// Share of a projection's inputs that is left out at random in training.
    pub dropout: f32,
    /// Values that take the place of the model's own when the adapter is put on ([`crate::Model::put_on`]): row-major, in
    /// the canonical shape.
    pub saved: Vec<(TensorId, Vec<f32>)>,
}

/// The change of one projection.
#[derive(Clone, Debug)]
pub struct Lora {
    /// `[r, k]`, in f32.
    pub a: Matrix,
    /// `[n, r]`, in f32.
    pub b: Matrix,
    /// What the scale is made of.
    pub alpha: f32,
    /// How.
    pub scaling: Scaling,
    /// The lengths of the changed weights' rows, where they are learnt too.
    pub magnitude: Option<Magnitude>,
}

/// Lengths for the rows of `w + s b a`: `m / ‖w + s b a‖` is what each output is multiplied with.
#[derive(Clone, Debug, Default)]
pub struct Magnitude {
    /// `[n]`: what is learnt. None yet in a new adapter, which begins with the lengths of w when it is put on a model.
    pub m: Vec<f32>,
    /// `[n]`: `‖w + s b a‖`, as [`crate::Model::measure_adapters`] found it last. To backward it is a constant.
    pub(crate) lengths: Vec<f32>,
}

impl Magnitude {
    /// With these lengths to give.
    pub fn new(m: Vec<f32>) -> Magnitude {
        Magnitude { m, lengths: Vec::new() }
    }
}

/// How the size of a change depends on its rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scaling {
    /// `α / r`.
    #[default]
    Rank,
    /// `α / √r`: rank-stabilised.
    RootOfRank,
}

/// A new adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraOptions {
    /// Rank (r).
    pub rank: usize,
    /// Alpha (α).
    pub alpha: f32,
    /// How α and r make the scale.
    pub scaling: Scaling,
    /// The projections that it changes, in every layer.
    pub targets: Vec<Part>,
    /// Whether lengths are learnt beside directions (DoRA).
    pub magnitudes: bool,
    /// Share of inputs that is left out at random in training.
    pub dropout: f32,
    /// Makes the first values.
    pub seed: u64,
}

impl Lora {
    /// Measures `‖w + s b a‖` again, after a or b has changed.
    pub(crate) fn measure(&mut self, pool: &Pool, weight: &Matrix, strength: f32) {
        let scale = self.scale() * strength;
        let Some(Magnitude { m, lengths }) = &mut self.magnitude else { return };
        lengths.resize(weight.rows(), 0.0);
        dora::lengths(pool, weight, [&self.a, &self.b], scale, lengths);
        if m.is_empty() {
            m.clone_from(lengths);
        }
    }

    /// Rank.
    pub fn rank(&self) -> usize {
        self.a.rows()
    }

    /// What the change is multiplied with.
    pub fn scale(&self) -> f32 {
        let rank = self.rank() as f32;
        match self.scaling {
            Scaling::Rank => self.alpha / rank,
            Scaling::RootOfRank => self.alpha / rank.sqrt(),
        }
    }
}

impl Adapter {
    /// An adapter that changes nothing yet.
    ///
    /// # Errors
    /// A rank or a dropout that means nothing, no target, or one that this decoder does not have.
    pub fn new(config: &DecoderConfig, pool: &Pool, options: &LoraOptions) -> Result<Adapter> {
        let LoraOptions { rank, alpha, scaling, ref targets, magnitudes, dropout, seed } = *options;
        if !(1..=1 << 16).contains(&rank) {
            fail!("a rank of {rank}: expected 1 to {}", 1 << 16)
        }
        if !(0.0..1.0).contains(&dropout) {
            fail!("a dropout of {dropout}: expected a share from 0 to 1, without 1")
        }
        if !(alpha.is_finite() && alpha > 0.0) {
            fail!("an alpha of {alpha}: expected a number above 0")
        }
        if targets.is_empty() {
            fail!("an adapter without targets changes nothing")
        }
        let mut parts = BTreeMap::new();
        for (index, (id, shape)) in canonical(config).into_iter().enumerate() {
            let (Place::Layer(_, part), Kind::Weight, &[n, k]) = (id.place, id.kind, &shape[..]) else {
                continue;
            };
            if targets.contains(&part) {
                let rng = Rng::new(seed, index as u64);
                let a = uniform(&rng, rank * k, 1.0 / (k as f32).sqrt());
                let a = Matrix::from_f32(pool, [rank, k], &a);
                let b = Matrix::zeroed(wootz_kernels::DType::F32, [n, rank]);
                let magnitude = magnitudes.then(Magnitude::default);
                parts.insert(id.place, Lora { a, b, alpha, scaling, magnitude });
            }
        }
        let missing = targets.iter().find(|target| {
            !parts.keys().any(|place| matches!(place, Place::Layer(_, part) if part == *target))
        });
        if let Some(target) = missing {
            fail!("this model has no projection `{}` to adapt", target.name())
        }
        Ok(Adapter { parts, strength: 1.0, dropout, saved: Vec::new() })
    }

    /// Whether it has lengths of its own for weights (DoRA).
    pub fn has_magnitudes(&self) -> bool {
        self.parts.values().any(|lora| lora.magnitude.is_some())
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let of = |lora: &Lora| {
            let lengths = lora.magnitude.as_ref().map_or(0, |_| 2 * 4 * lora.b.rows());
            lora.a.bytes() + lora.b.bytes() + lengths
        };
        self.parts.values().map(of).sum()
    }

    /// Its tensors with their shapes, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<(TensorId, Vec<usize>)> {
        let of = |(&place, lora): (&Place, &Lora)| {
            let shape = |matrix: &Matrix| vec![matrix.rows(), matrix.cols()];
            let id = |kind| TensorId { place, kind };
            let pair = [(id(Kind::LoraA), shape(&lora.a)), (id(Kind::LoraB), shape(&lora.b))];
            let magnitude = lora.magnitude.as_ref().map(|_| (id(Kind::LoraMagnitude), vec![lora.b.rows()]));
            pair.into_iter().chain(magnitude)
        };
        self.parts.iter().flat_map(of).collect()
    }

    /// Its parameters, in the order of [`Adapter::tensors`].
    pub fn parameters_mut(&mut self) -> Vec<(TensorId, Parameter<'_>)> {
        let mut all = Vec::new();
        for (&place, lora) in &mut self.parts {
            all.push((TensorId { place, kind: Kind::LoraA }, Parameter::Matrix(&mut lora.a)));
            all.push((TensorId { place, kind: Kind::LoraB }, Parameter::Matrix(&mut lora.b)));
            if let Some(magnitude) = &mut lora.magnitude {
                let id = TensorId { place, kind: Kind::LoraMagnitude };
                all.push((id, Parameter::Vector(&mut magnitude.m)));
            }
        }
        all
    }
}

/// Uniform between -bound and bound: what PEFT begins with, for `bound` = 1 / √k.
fn uniform(rng: &Rng, len: usize, bound: f32) -> Vec<f32> {
    let unit = |at: usize| (rng.at(at as u64) >> 40) as f32 * (1.0 / (1 << 24) as f32);
    (0..len).map(|at| bound * (2.0 * unit(at) - 1.0)).collect()
}

/// A change at work, on one of several outputs that share x.
#[derive(Clone)]
pub(crate) struct Active<'a> {
    /// Which output.
    pub output: usize,
    /// Whose.
    pub place: Place,
    /// What.
    pub lora: &'a Lora,
    /// Times the adapter's strength.
    scale: f32,
    dropout: Option<Dropout>,
    /// Whether gradients are of this adapter: they are of the first.
    is_first: bool,
}

/// Room for the small products, used again from call to call.
#[derive(Default)]
pub(crate) struct Low {
    /// `[m, r]` of each change, and its gradient.
    h: Vec<Vec<f32>>,
    pub dh: Vec<Vec<f32>>,
    /// `[m, k]`: x without what dropout leaves out; its gradient.
    dropped: Vec<f32>,
    d_dropped: Vec<f32>,
    /// What outputs are multiplied with, and what they were before.
    gains: Vec<f32>,
    v: Vec<f32>,
    sums: Vec<f32>,
}

impl Network<'_> {
    /// The changes of some projections.
    pub fn active<const N: usize>(&self, outputs: [Projection; N]) -> Vec<Active<'_>> {
        let mut all = Vec::new();
        for (index, adapter) in self.adapters.iter().enumerate() {
            for (output, Projection { place, .. }) in outputs.iter().enumerate() {
                let Some(lora) = adapter.parts.get(place) else { continue };
                let scale = lora.scale() * adapter.strength;
                let dropout = self.draw.filter(|_| adapter.dropout > 0.0).map(|draw| {
                    // One key a place, the same in the forward pass and in backward.
                    let at = self.config.n_layers() * index;
                    let key = match *place {
                        Place::Layer(layer, part) => 32 * (at + layer) as u64 + part as u64,
                        _ => u64::MAX,
                    };
                    Dropout::new(adapter.dropout, Rng::new(draw, key))
                });
                all.push(Active { output, place: *place, lora, scale, dropout, is_first: index == 0 });
            }
        }
        all
    }
}

impl Active<'_> {
    /// `h = s · dropout(x) aᵀ`.
    fn hidden(&self, pool: &Pool, x: &[f32], rows: usize, dropped: &mut Vec<f32>, h: &mut Vec<f32>) {
        h.resize(rows * self.lora.rank(), 0.0);
        let x = self.input(pool, x, dropped);
        let x = Prepared::exact(x, [rows, self.lora.a.cols()]);
        matmul(pool, &x, &mut [Product { weight: &self.lora.a, bias: None, y: h, write: Write::Set }]);
        h.iter_mut().for_each(|h| *h *= self.scale);
    }

    /// `y += h bᵀ`.
    fn widen(&self, pool: &Pool, h: &[f32], y: &mut [f32]) {
        let rank = self.lora.rank();
        let h = Prepared::exact(h, [h.len() / rank, rank]);
        matmul(pool, &h, &mut [Product { weight: &self.lora.b, bias: None, y, write: Write::Add }]);
    }

    /// What goes into a: x, or what dropout leaves of it.
    fn input<'x>(&self, pool: &Pool, x: &'x [f32], dropped: &'x mut Vec<f32>) -> &'x [f32] {
        let Some(dropout) = &self.dropout else { return x };
        dropped.resize(x.len(), 0.0);
        dropout.forward(pool, x, dropped);
        dropped
    }

    /// The product that gives dx its part, where dropout is not in between.
    pub fn term<'t>(&'t self, dh: &'t [f32]) -> Option<Term<'t>> {
        let rows = dh.len() / self.lora.rank();
        let dy = Prepared::exact(dh, [rows, self.lora.rank()]);
        self.dropout.is_none().then_some(Term { dy, weight: &self.lora.a })
    }
}

/// `y += s (x aᵀ) bᵀ` for each change and its output.
pub(crate) fn forward(
    pool: &Pool,
    active: &[Active],
    x: &[f32],
    low: &mut Low,
    outputs: &mut [&mut Vec<f32>],
) {
    low.h.resize_with(active.len().max(low.h.len()), Vec::new);
    for (change, h) in active.iter().zip(&mut low.h) {
        let rows = x.len() / change.lora.a.cols();
        change.hidden(pool, x, rows, &mut low.dropped, h);
        change.widen(pool, h, outputs[change.output].as_mut_slice());
    }
}

/// Gives each output that has a [`Magnitude`] its length: what [`forward`] has left in `outputs` is multiplied with g.
pub(crate) fn forward_magnitudes(
    pool: &Pool,
    active: &[Active],
    low: &mut Low,
    outputs: &mut [&mut Vec<f32>],
    biases: &[Option<&[f32]>],
) {
    for change in active {
        let Some(Magnitude { m, lengths }) = &change.lora.magnitude else { continue };
        dora::gains(m, lengths, &mut low.gains);
        dora::forward(pool, &low.gains, biases[change.output], outputs[change.output]);
    }
}

impl Network<'_> {
    /// Backward of [`forward_magnitudes`]: the gradient of each m, and dv for each output that has one.
    ///
    /// What the output was before its length was changed, v, is computed again: a product more for each of them.
    pub fn magnitudes_backward<const N: usize>(
        &self,
        products: &mut Products,
        active: &[Active],
        x: &[f32],
        outputs: &[(Projection, &[f32]); N],
        dv: &mut [Vec<f32>; 3],
        gradients: &mut Gradients,
    ) {
        let Products { inputs, low, .. } = products;
        low.h.resize_with(active.len().max(low.h.len()), Vec::new);
        let write = gradients.write();
        for (change, h) in active.iter().zip(&mut low.h) {
            let Some(Magnitude { m, lengths }) = &change.lora.magnitude else { continue };
            let (Projection { linear, place }, dy) = outputs[change.output];
            let (rows, weight) = (dy.len() / m.len(), &linear.weight);
            let gradient = gradients.get_mut(TensorId { place, kind: Kind::LoraMagnitude });
            if let Some(dm) = gradient.filter(|_| change.is_first) {
                low.v.resize(dy.len(), 0.0);
                let operand = std::iter::once(weight.operand());
                let prepared = inputs[0].prepare(self.pool, x, [rows, weight.cols()], operand);
                let product = Product { weight, bias: None, y: &mut low.v, write: Write::Set };
                matmul(self.pool, &prepared, &mut [product]);
                change.hidden(self.pool, x, rows, &mut low.dropped, h);
                change.widen(self.pool, h, &mut low.v);
                dora::magnitude_gradient(self.pool, lengths, [dy, &low.v], (dm, write), &mut low.sums);
            }
            dora::gains(m, lengths, &mut low.gains);
            let dv = &mut dv[change.output];
            dv.resize(dy.len(), 0.0);
            dora::backward(self.pool, &low.gains, dy, dv);
        }
    }
}

/// Gradients of the changes that are trained, and dh of all of them, for [`Active::term`].
pub(crate) fn backward(
    pool: &Pool,
    active: &[Active],
    x: &[f32],
    dy: &[&[f32]],
    products: &mut Products,
    gradients: &mut Gradients,
) {
    let Products { low, columns, .. } = products;
    low.h.resize_with(active.len().max(low.h.len()), Vec::new);
    low.dh.resize_with(active.len().max(low.dh.len()), Vec::new);
    let write = gradients.write();
    for ((change, h), dh) in active.iter().zip(&mut low.h).zip(&mut low.dh) {
        let Lora { a, b, .. } = change.lora;
        let (k, n, rank) = (a.cols(), b.rows(), change.lora.rank());
        let (rows, dy) = (x.len() / k, dy[change.output]);
        dh.resize(rows * rank, 0.0);
        input_gradient(pool, &[Term { dy: Prepared::exact(dy, [rows, n]), weight: b }], dh, Write::Set);
        dh.iter_mut().for_each(|dh| *dh *= change.scale);
        let mut of = |kind: Kind, x: &[f32], k: usize, dy: &[f32]| {
            let gradient = gradients.get_mut(TensorId { place: change.place, kind });
            let Some(dw) = gradient.filter(|_| change.is_first) else { return };
            let wanted = &mut [WeightGradient { dy, dw, db: None }];
            weight_gradient(pool, columns, x, [rows, k], a.gradient_operand(), wanted, write);
        };
        change.hidden(pool, x, rows, &mut low.dropped, h);
        of(Kind::LoraB, h, rank, dy);
        of(Kind::LoraA, change.input(pool, x, &mut low.dropped), k, dh);
    }
}

/// What dx takes up from the changes that dropout stands before; those without have their [`Active::term`].
pub(crate) fn add_dropped(pool: &Pool, active: &[Active], low: &mut Low, dx: &mut [f32]) {
    for (change, dh) in active.iter().zip(&low.dh) {
        let Some(dropout) = &change.dropout else { continue };
        let rank = change.lora.rank();
        let dy = Prepared::exact(dh, [dh.len() / rank, rank]);
        low.d_dropped.resize(dx.len(), 0.0);
        input_gradient(pool, &[Term { dy, weight: &change.lora.a }], &mut low.d_dropped, Write::Set);
        dropout.backward(pool, &low.d_dropped, dx);
    }
}
