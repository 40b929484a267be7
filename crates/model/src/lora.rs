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
use wootz_kernels::exec::{Exec, Floats, GradientTerm, LinearGradient, Output, Weight};
use wootz_kernels::ops::Write;
use wootz_kernels::ops::dropout::Dropout;
use wootz_kernels::rng::Rng;
use wootz_kernels::{Matrix, Pool};

/// The changes of some projections.
#[derive(Debug)]
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
#[derive(Debug)]
pub struct Lora {
    /// `[r, k]`, in f32.
    pub a: Weight,
    /// `[n, r]`, in f32.
    pub b: Weight,
    /// What the scale is made of.
    pub alpha: f32,
    /// How.
    pub scaling: Scaling,
    /// The lengths of the changed weights' rows, where they are learnt too.
    pub magnitude: Option<Magnitude>,
}

/// Lengths for the rows of `w + s b a`: `m / ‖w + s b a‖` is what each output is multiplied with.
#[derive(Debug, Default)]
pub struct Magnitude {
    /// `[n]`: what is learnt. None yet in a new adapter, which begins with the lengths of w when it is put on a model.
    pub m: Floats,
    /// `[n]`: `‖w + s b a‖`, as [`crate::Model::measure_adapters`] found it last. To backward it is a constant.
    pub(crate) lengths: Floats,
}

impl Magnitude {
    /// With these lengths to give.
    pub fn new(m: Vec<f32>) -> Magnitude {
        Magnitude { m: m.into(), lengths: Floats::default() }
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
    pub(crate) fn measure(&mut self, exec: Exec, weight: &Weight, strength: f32) -> Result<()> {
        let scale = self.scale() * strength;
        let Some(Magnitude { m, lengths }) = &mut self.magnitude else { return Ok(()) };
        exec.lengths(weight, [&self.a, &self.b], scale, lengths)?;
        if m.is_empty() {
            exec.copy(lengths, m)?;
        }
        Ok(())
    }

    /// Moves to where the projection is that it changes.
    pub(crate) fn bring(&mut self, exec: Exec) -> Result<()> {
        self.a.bring(exec)?;
        self.b.bring(exec)?;
        if let Some(Magnitude { m, lengths }) = &mut self.magnitude {
            exec.bring(m)?;
            exec.bring(lengths)?;
        }
        Ok(())
    }

    fn copy(&self) -> Result<Lora> {
        let magnitude = match &self.magnitude {
            Some(Magnitude { m, lengths }) => Some(Magnitude { m: m.copy()?, lengths: lengths.copy()? }),
            None => None,
        };
        let Lora { alpha, scaling, .. } = *self;
        Ok(Lora { a: self.a.copy()?, b: self.b.copy()?, alpha, scaling, magnitude })
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
                let a = Weight::from_f32(pool, [rank, k], &a);
                let b = Matrix::zeroed(wootz_kernels::DType::F32, [n, rank]).into();
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

    /// The same adapter once more, at the same place.
    ///
    /// # Errors
    /// What a device meets that has it.
    pub fn copy(&self) -> Result<Adapter> {
        let parts = self.parts.iter().map(|(place, lora)| Ok((*place, lora.copy()?)));
        let (strength, dropout, saved) = (self.strength, self.dropout, self.saved.clone());
        Ok(Adapter { parts: parts.collect::<Result<_>>()?, strength, dropout, saved })
    }

    /// Whether it has lengths of its own for weights (DoRA).
    pub fn has_magnitudes(&self) -> bool {
        self.parts.values().any(|lora| lora.magnitude.is_some())
    }

    /// Bytes in memory of what is at some places.
    pub fn bytes(&self, of: impl Fn(Place) -> bool) -> usize {
        let bytes = |lora: &Lora| {
            let lengths = lora.magnitude.as_ref().map_or(0, |_| 2 * 4 * lora.b.rows());
            lora.a.bytes() + lora.b.bytes() + lengths
        };
        self.parts.iter().filter(|(place, _)| of(**place)).map(|(_, lora)| bytes(lora)).sum()
    }

    /// Its tensors with their shapes, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<(TensorId, Vec<usize>)> {
        let of = |(&place, lora): (&Place, &Lora)| {
            let shape = |matrix: &Weight| vec![matrix.rows(), matrix.cols()];
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
    h: Vec<Floats>,
    pub dh: Vec<Floats>,
    /// `[m, k]`: x without what dropout leaves out; its gradient.
    dropped: Floats,
    d_dropped: Floats,
    /// What outputs are multiplied with, and what they were before.
    gains: Floats,
    v: Floats,
    sums: Floats,
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
    fn hidden(&self, exec: Exec, x: &Floats, dropped: &mut Floats, h: &mut Floats) -> Result<()> {
        exec.resize(h, x.len() / self.lora.a.cols() * self.lora.rank())?;
        let x = self.input(exec, x, dropped)?;
        exec.product(x, &self.lora.a, h, Write::Set)?;
        Ok(exec.scale(self.scale, h)?)
    }

    /// What goes into a: x, or what dropout leaves of it.
    fn input<'x>(&self, exec: Exec, x: &'x Floats, dropped: &'x mut Floats) -> Result<&'x Floats> {
        let Some(dropout) = &self.dropout else { return Ok(x) };
        exec.drop_out(dropout, x, dropped)?;
        Ok(dropped)
    }

    /// The product that gives dx its part, where dropout is not in between.
    pub fn term<'t>(&'t self, dh: &'t Floats) -> Option<GradientTerm<'t>> {
        let term = GradientTerm { dy: dh, weight: &self.lora.a, exact: true };
        self.dropout.is_none().then_some(term)
    }
}

/// `y += s (x aᵀ) bᵀ` for each change and its output.
pub(crate) fn forward(
    exec: Exec,
    active: &[Active],
    x: &Floats,
    low: &mut Low,
    outputs: &mut [&mut Floats],
) -> Result<()> {
    low.h.resize_with(active.len().max(low.h.len()), Floats::default);
    for (change, h) in active.iter().zip(&mut low.h) {
        change.hidden(exec, x, &mut low.dropped, h)?;
        exec.product(h, &change.lora.b, outputs[change.output], Write::Add)?;
    }
    Ok(())
}

/// Gives each output that has a [`Magnitude`] its length: what [`forward`] has left in `outputs` is multiplied with g.
pub(crate) fn forward_magnitudes(
    exec: Exec,
    active: &[Active],
    low: &mut Low,
    outputs: &mut [&mut Floats],
    biases: &[Option<&Floats>],
) -> Result<()> {
    for change in active {
        let Some(Magnitude { m, lengths }) = &change.lora.magnitude else { continue };
        exec.gains(m, lengths, &mut low.gains)?;
        exec.lengthen(&low.gains, biases[change.output], outputs[change.output])?;
    }
    Ok(())
}

impl Network<'_> {
    /// Backward of [`forward_magnitudes`]: the gradient of each m, and dv for each output that has one.
    ///
    /// What the output was before its length was changed, v, is computed again: a product more for each of them.
    pub fn magnitudes_backward<const N: usize>(
        &self,
        products: &mut Products,
        active: &[Active],
        x: &Floats,
        outputs: &[(Projection, &Floats); N],
        dv: &mut [Floats; 3],
        gradients: &mut Gradients,
    ) -> Result<()> {
        let exec = self.exec;
        let Products { inputs, low, .. } = products;
        low.h.resize_with(active.len().max(low.h.len()), Floats::default);
        let write = gradients.write();
        for (change, h) in active.iter().zip(&mut low.h) {
            let Some(Magnitude { m, lengths }) = &change.lora.magnitude else { continue };
            let (Projection { linear, place }, dy) = outputs[change.output];
            let gradient = gradients.get_mut(TensorId { place, kind: Kind::LoraMagnitude });
            if let Some(dm) = gradient.filter(|_| change.is_first) {
                let v = Output { weight: &linear.weight, bias: None, y: &mut low.v };
                exec.products(&mut inputs[0], x, &mut [v])?;
                change.hidden(exec, x, &mut low.dropped, h)?;
                exec.product(h, &change.lora.b, &mut low.v, Write::Add)?;
                exec.magnitude_gradient(lengths, [dy, &low.v], (dm, write), &mut low.sums)?;
            }
            exec.gains(m, lengths, &mut low.gains)?;
            exec.lengthen_backward(&low.gains, dy, &mut dv[change.output])?;
        }
        Ok(())
    }
}

/// Gradients of the changes that are trained, and dh of all of them, for [`Active::term`].
pub(crate) fn backward(
    exec: Exec,
    active: &[Active],
    x: &Floats,
    dy: &[&Floats],
    products: &mut Products,
    gradients: &mut Gradients,
) -> Result<()> {
    let Products { inputs, low, columns, .. } = products;
    low.h.resize_with(active.len().max(low.h.len()), Floats::default);
    low.dh.resize_with(active.len().max(low.dh.len()), Floats::default);
    let write = gradients.write();
    for ((change, h), dh) in active.iter().zip(&mut low.h).zip(&mut low.dh) {
        let Lora { a, b, .. } = change.lora;
        let dy = dy[change.output];
        exec.input_gradient(inputs, &[GradientTerm { dy, weight: b, exact: true }], dh)?;
        exec.scale(change.scale, dh)?;
        let mut of = |kind: Kind, x: &Floats, like: &Weight, dy: &Floats| -> Result<()> {
            let gradient = gradients.get_mut(TensorId { place: change.place, kind });
            let Some(dw) = gradient.filter(|_| change.is_first) else { return Ok(()) };
            let wanted = &mut [LinearGradient { dy, dw, db: None }];
            Ok(exec.weight_gradient(columns, x, like, wanted, write)?)
        };
        change.hidden(exec, x, &mut low.dropped, h)?;
        of(Kind::LoraB, h, b, dy)?;
        of(Kind::LoraA, change.input(exec, x, &mut low.dropped)?, a, dh)?;
    }
    Ok(())
}

/// What dx takes up from the changes that dropout stands before; those without have their [`Active::term`].
pub(crate) fn add_dropped(exec: Exec, active: &[Active], low: &mut Low, dx: &mut Floats) -> Result<()> {
    let mut inputs = Default::default();
    for (change, dh) in active.iter().zip(&low.dh) {
        let Some(dropout) = &change.dropout else { continue };
        let term = GradientTerm { dy: dh, weight: &change.lora.a, exact: true };
        exec.input_gradient(&mut inputs, &[term], &mut low.d_dropped)?;
        exec.drop_out_backward(dropout, &low.d_dropped, dx)?;
    }
    Ok(())
}
