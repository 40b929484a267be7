//! The first half of a block: `x ← x + o(attention(q, k, v))`, where q, k and v are projections of norm(x).

use super::{Activations, Below, Block, Mode, Past, Projection, Stream, Workspace};
use crate::decoder::Span;
use crate::error::Result;
use crate::gradients::Gradients;
use crate::names::{Part, TensorId};
use wootz_kernels::device::launch::attention::Attention as Shape;
use wootz_kernels::exec::{Floats, Tables};
use wootz_kernels::ops::Write;
use wootz_kernels::ops::attention::Attention;

impl Block<'_> {
    fn qkv(&self) -> [Projection<'_>; 3] {
        let [q, k, v] = &self.layer.qkv;
        [self.projection(Part::Q, q), self.projection(Part::K, k), self.projection(Part::V, v)]
    }

    /// What attention is like in this block.
    fn shape(&self) -> Shape {
        self.network.config.attention(self.index)
    }

    /// The stream takes up what attention gives. `past` and `spans` tell the sequences apart: each
    /// sequence's keys and values are appended to its cache.
    pub fn attention(
        &self,
        stream: &mut Stream,
        past: Past,
        spans: &[Span],
        a: &mut Activations,
        w: &mut Workspace,
    ) -> Result<()> {
        let (net, layer) = (self.network, self.layer);
        let (exec, config) = (net.exec, net.config);
        net.norm_of(stream, &layer.attn_norm, &mut w.normed)?;
        self.keep(&stream.x, &mut a.x)?;

        let [q, k, v] = self.qkv();
        self.show(&[Part::Q, Part::K, Part::V], &w.normed, config.dim)?;
        net.linear(&mut w.products, &w.normed, [(q, &mut a.q), (k, &mut a.k), (v, &mut a.v)])?;
        self.turn(a, &mut w.q, &mut w.k)?;

        let qkv = [&w.q, &w.k, &a.v];
        let (y, lse, scratch) = (&mut a.attended, &mut a.lse, &mut w.attention);
        match past {
            Past::Caches(caches) => {
                let lse = match net.mode {
                    Mode::Inference => None,
                    Mode::Training => Some(lse),
                };
                let Shape { heads, scale, window, .. } = self.shape();
                let op = Attention { heads, scale, window };
                let spans: Vec<_> = spans.iter().map(|span| (span.rows.clone(), span.first)).collect();
                exec.attend_caches(&op, caches, &spans, qkv, y, lse, scratch)?;
            }
            Past::Slots(tables, index) => {
                exec.attend_slots(&self.shape(), tables, index, qkv, y, lse, scratch)?;
            }
            Past::Sequences(tables) => exec.attend_sequences(&self.shape(), tables, qkv, y, lse)?,
        }

        self.show(&[Part::O], &a.attended, config.q_dim())?;
        let o = self.projection(Part::O, &layer.o);
        match &layer.attn_post_norm {
            None => net.linear(&mut w.products, &a.attended, [(o, stream.owe())])?,
            Some(norm) => {
                net.linear(&mut w.products, &a.attended, [(o, &mut a.o)])?;
                net.norm(&a.o, norm, stream.owe())?;
            }
        }
        Ok(())
    }

    /// Queries and keys as attention takes them, from those of the projections: with their norms, where they have any, and
    /// turned by their positions. Backward makes them again, which costs less than to keep both.
    fn turn(&self, a: &Activations, q: &mut Floats, k: &mut Floats) -> Result<()> {
        let (net, config) = (self.network, self.network.config);
        let norms = self.layer.qk_norm.as_ref();
        for (part, (from, out)) in [(&a.q, &mut *q), (&a.k, &mut *k)].into_iter().enumerate() {
            match norms {
                Some(norms) => net.exec.rms_norm(net.rms_norm(), from, &norms[part].weight, out)?,
                None => net.exec.copy(from, out)?,
            }
        }
        match self.turns {
            Some(turns) => Ok(net.exec.turn(turns, [q, k], [config.n_heads, config.n_kv_heads])?),
            None => Ok(()),
        }
    }

    /// `dx` `[rows, C]` is the gradient of the stream after this half, and becomes the one before it. `lengths` are the
    /// sequences' tokens, `tables` those of a device that has them. Where nothing is trained before it, `dx` may stay as it
    /// is.
    #[allow(clippy::too_many_arguments)] // what forward took, then what backward writes
    pub fn attention_backward(
        &self,
        dx: &mut Floats,
        lengths: &[usize],
        tables: Option<&Tables>,
        a: &Activations,
        w: &mut Workspace,
        gradients: &mut Gradients,
        below: Below,
    ) -> Result<()> {
        let (net, layer) = (self.network, self.layer);
        let (exec, config) = (net.exec, net.config);
        let (d, products) = (&mut w.d, &mut w.products);
        let d_out: &Floats = match &layer.attn_post_norm {
            None => dx,
            Some(norm) => {
                let norm = (self.place(Part::AttnPostNorm), norm);
                net.norm_backward(&a.o, norm, dx, (&mut d.out, Write::Set), gradients, &mut d.sums)?;
                &d.out
            }
        };
        let o = (self.projection(Part::O, &layer.o), d_out);
        net.linear_backward(products, &a.attended, [o], gradients, Some(&mut d.attended))?;

        self.turn(a, &mut w.q, &mut w.k)?;
        let (qkv, saved) = ([&w.q, &w.k, &a.v], [&a.attended, &a.lse]);
        let of_qkv = [&mut d.q, &mut d.k, &mut d.v];
        let (dy, scratch) = (&d.attended, &mut d.attention);
        exec.attend_backward(&self.shape(), tables, lengths, qkv, saved, dy, of_qkv, scratch)?;

        if let Some(turns) = self.turns {
            let heads = [config.n_heads, config.n_kv_heads];
            exec.turn_back(turns, [&mut d.q, &mut d.k], heads)?;
        }
        if let Some([q_norm, k_norm]) = &layer.qk_norm {
            let norm = net.rms_norm();
            let dw = gradients.get_mut(TensorId::weight(self.place(Part::QNorm)));
            exec.rms_norm_backward_in_place(norm, &a.q, &q_norm.weight, &mut d.q, dw, &mut d.sums)?;
            let dw = gradients.get_mut(TensorId::weight(self.place(Part::KNorm)));
            exec.rms_norm_backward_in_place(norm, &a.k, &k_norm.weight, &mut d.k, dw, &mut d.sums)?;
        }

        net.norm(&a.x, &layer.attn_norm, &mut w.normed)?;
        let [q, k, v] = self.qkv();
        let outputs = [(q, &d.q), (k, &d.k), (v, &d.v)];
        let d_normed = match below {
            Below::Trained => Some(&mut d.normed),
            Below::Frozen => None,
        };
        net.linear_backward(products, &w.normed, outputs, gradients, d_normed)?;
        if below == Below::Frozen {
            return Ok(());
        }
        let norm = (self.place(Part::AttnNorm), &layer.attn_norm);
        net.norm_backward(&a.x, norm, &d.normed, (dx, Write::Add), gradients, &mut d.sums)
    }
}
