//! The whole decoder once more, to be read: from tokens to logits and loss, in f64 and plain loops, for every switch of
//! [`DecoderConfig`]. Nothing here is fast. It is what the f32 model is compared with, and what gradients are checked
//! against ([`crate::differences`]).
//!
//! ```text
//!   tokens [T] ── embedding ── x [T, C] ── block 0 ── ... ── block L-1 ── norm ── head ── logits [T, V]
//!
//!   a block:   x ← x + attention(norm(x))     rows look at the rows before them
//!              x ← x + mlp(norm(x))           each row by itself
//! ```
//!
//! A matrix lies row by row; a row of x is a token. Blocks never replace x, they add to it (the residual stream). The
//! symbols of the shapes are those of [`crate::config`]. Five formulas stand in the files of their fast forms, with their
//! sources: [`layernorm`], [`rmsnorm`], [`rope`], [`mlp`] and [`softmax`] (which here is the log-sum-exp of a row).

use crate::config::{DecoderConfig, Head, LayerConfig, Mlp, Norm, NormPlacement, Positions, QkNorm, Rope};
use crate::names::{Part, Place, TensorId};
use crate::rope::frequencies;
use crate::training::Batch;
use std::collections::HashMap;
use wootz_kernels::ops::mlp::{self, Activation};
use wootz_kernels::ops::rmsnorm::{self, RmsNorm};
use wootz_kernels::ops::{layernorm, rope, softmax};

/// Every tensor of [`canonical`](crate::names::canonical), row by row.
pub type Parameters = HashMap<TensorId, Vec<f64>>;

/// A decoder, to be evaluated.
#[derive(Clone, Copy)]
pub struct Reference<'a> {
    /// The blueprint.
    pub config: &'a DecoderConfig,
    /// The numbers.
    pub parameters: &'a Parameters,
}

impl Reference<'_> {
    /// The mean of `-log p(target)` over the rows that have a target, in nats; each sequence by itself.
    ///
    /// Panics where [`Training::loss`](crate::Training::loss) has an error, or where a parameter is missing.
    pub fn loss(&self, batch: &Batch) -> f64 {
        let (mut sum, mut count, mut start) = (0.0, 0, 0);
        for &length in batch.lengths {
            let logits = self.logits(&batch.tokens[start..start + length]);
            let targets = &batch.targets[start..start + length];
            for (row, &target) in logits.chunks_exact(self.config.vocab_size).zip(targets) {
                if let Ok(target) = usize::try_from(target) {
                    sum += softmax::reference(row) - row[target]; // -log softmax(row)[target]
                    count += 1;
                }
            }
            start += length;
        }
        sum / f64::from(count.max(1))
    }

    /// The logits of one sequence: `[T]` tokens → `[T, V]`. Row t says what may follow tokens 0 to t.
    ///
    /// Panics for a token outside of the vocabulary, a sequence beyond the position table, or a missing parameter.
    pub fn logits(&self, tokens: &[u32]) -> Vec<f64> {
        let config = self.config;
        let mut x = self.embed(tokens); // [T, C]
        for layer in 0..config.n_layers() {
            let at = |part| Place::Layer(layer, part);

            let n = self.norm(&x, at(Part::AttnNorm)); // [T, C]
            let a = self.attention(&n, layer); // [T, C]
            add(&mut x, &self.after(a, at(Part::AttnPostNorm)));

            let n = self.norm(&x, at(Part::MlpNorm)); // [T, C]
            let m = self.mlp(&n, layer); // [T, C]
            add(&mut x, &self.after(m, at(Part::MlpPostNorm)));
        }
        let n = self.norm(&x, Place::FinalNorm); // [T, C]
        let head = match config.head {
            Head::Tied => Place::Embed,
            Head::Untied => Place::Head,
        };
        let mut logits = self.linear(&n, head); // [T, V]
        if let Some(cap) = config.logit_softcap.map(f64::from) {
            logits.iter_mut().for_each(|z| *z = cap * (*z / cap).tanh());
        }
        logits
    }

    /// Each token's row of the table: `[T]` → `[T, C]`; with learned positions, the position's row is added.
    fn embed(&self, tokens: &[u32]) -> Vec<f64> {
        let width = self.config.dim;
        let table = self.weight(Place::Embed); // [V, C]
        let scale = f64::from(self.config.embedding_scale);
        let row = |&token: &u32| &table[token as usize * width..][..width];
        let mut x: Vec<f64> = tokens.iter().flat_map(row).map(|x| scale * x).collect();
        match self.config.positions {
            Positions::Learned => add(&mut x, self.weight(Place::PosEmbed)), // [max_seq, C], the first T rows
            Positions::Rotary => {}
        }
        x
    }

    /// Causal self-attention of one sequence: `[T, C]` → `[T, C]`.
    ///
    /// Each head asks with a query what the keys before it, and its own, have to offer, and takes the mean of their
    /// values, weighted by softmax. H/G neighbouring query heads share a head of keys and values.
    fn attention(&self, x: &[f64], layer: usize) -> Vec<f64> {
        let config = self.config;
        let (heads, kv_heads, width) = (config.n_heads, config.n_kv_heads, config.head_dim);
        let LayerConfig { rope, window } = &config.layers[layer];
        let at = |part| Place::Layer(layer, part);
        let mut q = self.linear(x, at(Part::Q)); // [T, H·D]
        let mut k = self.linear(x, at(Part::K)); // [T, G·D]
        let v = self.linear(x, at(Part::V)); // [T, G·D]
        match config.qk_norm {
            QkNorm::None => {}
            QkNorm::PerHead => {
                q = rmsnorm::reference(self.rms_norm(), &q, self.weight(at(Part::QNorm)));
                k = rmsnorm::reference(self.rms_norm(), &k, self.weight(at(Part::KNorm)));
            }
        }
        if let Some(rope) = rope {
            q = rotate(&q, rope, heads, width);
            k = rotate(&k, rope, kv_heads, width);
        }
        let scale = f64::from(config.attention_scale);
        let mut y = vec![0.0; q.len()]; // [T, H·D]
        for position in 0..q.len() / (heads * width) {
            let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
            for head in 0..heads {
                let kv_head = head / (heads / kv_heads);
                let query = row(&q, position * heads + head, width); // [D]
                let key = |t: usize| row(&k, t * kv_heads + kv_head, width); // [D]
                let value = |t: usize| row(&v, t * kv_heads + kv_head, width); // [D]
                let scores: Vec<f64> = (first..=position).map(|t| scale * dot(query, key(t))).collect();
                let log_sum_exp = softmax::reference(&scores);
                let y = &mut y[(position * heads + head) * width..][..width];
                for (t, score) in (first..=position).zip(scores) {
                    let weight = (score - log_sum_exp).exp();
                    y.iter_mut().zip(value(t)).for_each(|(y, v)| *y += weight * v);
                }
            }
        }
        self.linear(&y, at(Part::O)) // [T, C]
    }

    /// Widen, bend, narrow: `[T, C]` → `[T, F]` → `[T, C]`. Where there is a gate, the bent gate multiplies.
    fn mlp(&self, x: &[f64], layer: usize) -> Vec<f64> {
        let at = |part| Place::Layer(layer, part);
        let mut hidden = self.linear(x, at(Part::Up)); // [T, F]
        let mut gated = |activation| {
            let gate = self.linear(x, at(Part::Gate)); // [T, F]
            hidden.iter_mut().zip(gate).for_each(|(h, g)| *h *= mlp::reference(activation, g));
        };
        match self.config.mlp {
            Mlp::Gelu => hidden.iter_mut().for_each(|h| *h = mlp::reference(Activation::Gelu, *h)),
            Mlp::SwiGlu => gated(Activation::Silu),
            Mlp::GeGlu => gated(Activation::Gelu),
        }
        self.linear(&hidden, at(Part::Down)) // [T, C]
    }

    /// What half a block gives, on its way to x: Gemma norms it once more. `[T, C]` → `[T, C]`
    fn after(&self, out: Vec<f64>, place: Place) -> Vec<f64> {
        match self.config.placement {
            NormPlacement::Pre => out,
            NormPlacement::Sandwich => self.norm(&out, place),
        }
    }

    /// Every row brought to a size of about 1, then its columns scaled: `[T, C]` → `[T, C]`.
    fn norm(&self, x: &[f64], place: Place) -> Vec<f64> {
        let weight = self.weight(place); // [C]
        match self.config.norm {
            Norm::LayerNorm => {
                let bias = &self.parameters[&TensorId::bias(place)]; // [C]
                layernorm::reference(self.config.norm_eps, x, weight, bias)
            }
            Norm::RmsNorm | Norm::RmsNormOnePlus => rmsnorm::reference(self.rms_norm(), x, weight),
        }
    }

    /// The norm of q and k, and of everything where it is not LayerNorm.
    fn rms_norm(&self) -> RmsNorm {
        let offset = match self.config.norm {
            Norm::LayerNorm | Norm::RmsNorm => 0.0,
            Norm::RmsNormOnePlus => 1.0,
        };
        RmsNorm { eps: self.config.norm_eps, offset }
    }

    /// `y[t] = W x[t] + b` for each row, with W `[N, K]` and b `[N]`, where there is one: `[T, K]` → `[T, N]`.
    fn linear(&self, x: &[f64], place: Place) -> Vec<f64> {
        let weight = self.weight(place);
        let width = match place {
            Place::Layer(_, Part::O) => self.config.q_dim(),
            Place::Layer(_, Part::Down) => self.config.hidden_dim,
            Place::Layer(..) | Place::Embed | Place::PosEmbed | Place::FinalNorm | Place::Head => {
                self.config.dim
            }
        };
        let mut y = Vec::with_capacity(x.len() / width * (weight.len() / width));
        for x in x.chunks_exact(width) {
            y.extend(weight.chunks_exact(width).map(|weight| dot(x, weight)));
        }
        if let Some(bias) = self.parameters.get(&TensorId::bias(place)) {
            y.chunks_exact_mut(bias.len()).for_each(|y| add(y, bias));
        }
        y
    }

    fn weight(&self, place: Place) -> &[f64] {
        &self.parameters[&TensorId::weight(place)]
    }
}

/// Turns each pair of a head by an angle that grows with the position, so that q · k depends on the distance of the two:
/// `[T, heads · D]` → the same.
fn rotate(x: &[f64], rope: &Rope, heads: usize, width: usize) -> Vec<f64> {
    let (frequencies, magnitude) = frequencies(rope, width); // [D/2]
    let mut y = Vec::with_capacity(x.len());
    for (position, x) in x.chunks_exact(heads * width).enumerate() {
        let turn = |f: fn(f64) -> f64| -> Vec<f64> {
            frequencies.iter().map(|&w| f64::from(magnitude) * f(position as f64 * f64::from(w))).collect()
        };
        y.extend(rope::reference(x, &turn(f64::cos), &turn(f64::sin)));
    }
    y
}

/// Row `index` of a matrix of `width` columns.
fn row(x: &[f64], index: usize, width: usize) -> &[f64] {
    &x[index * width..][..width]
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
