//! The first half of a block: `x ← x + o(attention(q, k, v))`, where q, k and v are projections of norm(x).

use super::{Activations, Below, Block, Mode, Projection, Workspace};
use crate::decoder::Span;
use crate::gradients::Gradients;
use crate::names::{Part, TensorId};
use wootz_kernels::ops::attention::{self, Attention, Fresh, LayerCache, Saved, Segment};
use wootz_kernels::ops::{Write, residual, rope};

impl Block<'_> {
    fn qkv(&self) -> [Projection<'_>; 3] {
        let [q, k, v] = &self.layer.qkv;
        [self.projection(Part::Q, q), self.projection(Part::K, k), self.projection(Part::V, v)]
    }

    fn attention_op(&self) -> Attention {
        let config = self.network.config;
        Attention {
            heads: config.n_heads,
            scale: config.attention_scale,
            window: config.layers[self.index].window,
        }
    }

    /// The stream `x` `[rows, C]` takes up what attention gives. `caches` and `spans` tell the sequences apart: each
    /// sequence's keys and values are appended to its cache.
    pub fn attention(
        &self,
        x: &mut [f32],
        caches: &mut [&mut LayerCache],
        spans: &[Span],
        a: &mut Activations,
        w: &mut Workspace,
    ) {
        let (net, layer) = (self.network, self.layer);
        let (pool, config) = (net.pool, net.config);
        self.keep(x, &mut a.x);
        net.norm(x, &layer.attn_norm, &mut w.normed);

        let [q, k, v] = self.qkv();
        self.show(&[Part::Q, Part::K, Part::V], &w.normed, config.dim);
        net.linear(&mut w.products, &w.normed, [(q, &mut a.q), (k, &mut a.k), (v, &mut a.v)]);
        self.turn(a, &mut w.q, &mut w.k);

        let width = config.kv_dim();
        let mut fresh: Vec<Fresh> = (caches.iter_mut().zip(spans))
            .map(|(cache, span)| {
                let range = span.rows.start * width..span.rows.end * width;
                Fresh { cache, first: span.first, k: &w.k[range.clone()], v: &a.v[range] }
            })
            .collect();
        attention::append(pool, &mut fresh);
        let segments: Vec<Segment> = caches
            .iter()
            .zip(spans)
            .map(|(cache, span)| Segment { rows: span.rows.clone(), first: span.first, cache })
            .collect();
        a.attended.resize(a.q.len(), 0.0);
        let lse = match net.mode {
            Mode::Inference => None,
            Mode::Training => {
                a.lse.resize(x.len() / config.dim * config.n_heads, 0.0);
                Some(a.lse.as_mut_slice())
            }
        };
        self.attention_op().forward(pool, &mut w.attention, &w.q, &segments, &mut a.attended, lse);

        self.show(&[Part::O], &a.attended, config.q_dim());
        match &layer.attn_post_norm {
            None => {
                net.linear(&mut w.products, &a.attended, [(self.projection(Part::O, &layer.o), &mut w.out)]);
                residual::add(pool, x, &w.out);
            }
            Some(norm) => {
                net.linear(&mut w.products, &a.attended, [(self.projection(Part::O, &layer.o), &mut a.o)]);
                net.norm(&a.o, norm, &mut w.out);
                residual::add(pool, x, &w.out);
            }
        }
    }

    /// Queries and keys as attention takes them, from those of the projections: with their norms, where they have any, and
    /// turned by their positions. Backward makes them again, which costs less than to keep both.
    fn turn(&self, a: &Activations, q: &mut Vec<f32>, k: &mut Vec<f32>) {
        let (net, config) = (self.network, self.network.config);
        let norms = self.layer.qk_norm.as_ref();
        for (part, (from, out)) in [(&a.q, &mut *q), (&a.k, &mut *k)].into_iter().enumerate() {
            out.resize(from.len(), 0.0);
            match norms {
                Some(norms) => net.rms_norm().forward(net.pool, from, &norms[part].weight, out),
                None => out.copy_from_slice(from),
            }
        }
        if let Some(angles) = self.angles {
            rope::forward(net.pool, angles, q, config.n_heads);
            rope::forward(net.pool, angles, k, config.n_kv_heads);
        }
    }

    /// `dx` `[rows, C]` is the gradient of the stream after this half, and becomes the one before it. `lengths` are the
    /// sequences' tokens. Where nothing is trained before it, `dx` may stay as it is.
    pub fn attention_backward(
        &self,
        dx: &mut [f32],
        lengths: &[usize],
        a: &Activations,
        w: &mut Workspace,
        gradients: &mut Gradients,
        below: Below,
    ) {
        let (net, layer) = (self.network, self.layer);
        let (pool, config) = (net.pool, net.config);
        let (d, products) = (&mut w.d, &mut w.products);
        let d_out: &[f32] = match &layer.attn_post_norm {
            None => dx,
            Some(norm) => {
                let norm = (self.place(Part::AttnPostNorm), norm);
                d.out.resize(dx.len(), 0.0);
                net.norm_backward(&a.o, norm, dx, (&mut d.out, Write::Set), gradients, &mut d.sums);
                &d.out
            }
        };
        let o = (self.projection(Part::O, &layer.o), d_out);
        net.linear_backward(products, &a.attended, [o], gradients, Some(&mut d.attended));

        for (d, like) in [(&mut d.q, &a.q), (&mut d.k, &a.k), (&mut d.v, &a.v)] {
            d.resize(like.len(), 0.0);
        }
        self.turn(a, &mut w.q, &mut w.k);
        let op = self.attention_op();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let scratch = op.backward_scratch(pool.threads(), config.n_kv_heads, config.head_dim, longest);
        if d.attention.len() < scratch {
            d.attention.resize(scratch, 0.0);
        }
        let saved = Saved { lengths, q: &w.q, k: &w.k, v: &a.v, y: &a.attended, lse: &a.lse };
        let out = attention::Gradients { dq: &mut d.q, dk: &mut d.k, dv: &mut d.v };
        op.backward(pool, &mut d.attention, &saved, &d.attended, out);

        if let Some(angles) = self.angles {
            rope::backward(pool, angles, &mut d.q, config.n_heads);
            rope::backward(pool, angles, &mut d.k, config.n_kv_heads);
        }
        if let Some([q_norm, k_norm]) = &layer.qk_norm {
            let norm = net.rms_norm();
            let dw = gradients.get_mut(TensorId::weight(self.place(Part::QNorm)));
            norm.backward_in_place(pool, &a.q, &q_norm.weight, &mut d.q, dw, &mut d.sums);
            let dw = gradients.get_mut(TensorId::weight(self.place(Part::KNorm)));
            norm.backward_in_place(pool, &a.k, &k_norm.weight, &mut d.k, dw, &mut d.sums);
        }

        net.norm(&a.x, &layer.attn_norm, &mut w.normed);
        let [q, k, v] = self.qkv();
        let outputs = [(q, d.q.as_slice()), (k, d.k.as_slice()), (v, d.v.as_slice())];
        let d_normed = match below {
            Below::Trained => Some(&mut d.normed),
            Below::Frozen => None,
        };
        net.linear_backward(products, &w.normed, outputs, gradients, d_normed);
        if below == Below::Frozen {
            return;
        }
        let norm = (self.place(Part::AttnNorm), &layer.attn_norm);
        net.norm_backward(&a.x, norm, &d.normed, (dx, Write::Add), gradients, &mut d.sums);
    }
}
