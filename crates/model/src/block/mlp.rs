//! The second half of a block: `x ← x + down(act(gate(n)) · up(n))`, or `x + down(act(up(n)))` without a gate, where n
//! is norm(x).

use super::{Activations, Below, Block, Workspace};
use crate::config::Mlp;
use crate::gradients::Gradients;
use crate::names::Part;
use wootz_kernels::ops::mlp::{self, Activation};
use wootz_kernels::ops::{Write, residual};

impl Block<'_> {
    fn activation(&self) -> Activation {
        match self.network.config.mlp {
            Mlp::Gelu | Mlp::GeGlu => Activation::Gelu,
            Mlp::SwiGlu => Activation::Silu,
        }
    }

    /// The stream `x` `[rows, C]` takes up what the MLP gives.
    pub fn mlp(&self, x: &mut [f32], a: &mut Activations, w: &mut Workspace) {
        let (net, layer) = (self.network, self.layer);
        self.keep(x, &mut a.x_mid);
        net.norm(x, &layer.mlp_norm, &mut w.normed);
        let up = self.projection(Part::Up, &layer.up);
        self.show(&[Part::Gate, Part::Up], &w.normed, net.config.dim);
        match &layer.gate {
            None => net.linear(&mut w.products, &w.normed, [(up, &mut a.up)]),
            Some(gate) => {
                net.linear(
                    &mut w.products,
                    &w.normed,
                    [(self.projection(Part::Gate, gate), &mut a.gate), (up, &mut a.up)],
                );
            }
        }
        self.activate(a, &mut w.hidden);
        let down = self.projection(Part::Down, &layer.down);
        self.show(&[Part::Down], &w.hidden, net.config.hidden_dim);
        match &layer.mlp_post_norm {
            None => {
                net.linear(&mut w.products, &w.hidden, [(down, &mut w.out)]);
            }
            Some(norm) => {
                net.linear(&mut w.products, &w.hidden, [(down, &mut a.down)]);
                net.norm(&a.down, norm, &mut w.out);
            }
        }
        residual::add(net.pool, x, &w.out);
    }

    fn activate(&self, a: &Activations, hidden: &mut Vec<f32>) {
        let pool = self.network.pool;
        hidden.resize(a.up.len(), 0.0);
        match &self.layer.gate {
            None => mlp::activate_into(pool, self.activation(), &a.up, hidden),
            Some(_) => mlp::gated_into(pool, self.activation(), &a.gate, &a.up, hidden),
        }
    }

    /// `dx` `[rows, C]` is the gradient of the stream after this half, and becomes the one before it. Where
    /// nothing is trained before it, `dx` may stay as it is.
    pub fn mlp_backward(
        &self,
        dx: &mut [f32],
        a: &Activations,
        w: &mut Workspace,
        gradients: &mut Gradients,
        below: Below,
    ) {
        let (net, layer) = (self.network, self.layer);
        let pool = net.pool;
        self.activate(a, &mut w.hidden);
        let (d, products) = (&mut w.d, &mut w.products);
        let d_out: &[f32] = match &layer.mlp_post_norm {
            None => dx,
            Some(norm) => {
                let norm = (self.place(Part::MlpPostNorm), norm);
                d.out.resize(dx.len(), 0.0);
                net.norm_backward(&a.down, norm, dx, (&mut d.out, Write::Set), gradients, &mut d.sums);
                &d.out
            }
        };
        let down = (self.projection(Part::Down, &layer.down), d_out);
        net.linear_backward(products, &w.hidden, [down], gradients, Some(&mut d.hidden));

        net.norm(&a.x_mid, &layer.mlp_norm, &mut w.normed);
        d.up.resize(a.up.len(), 0.0);
        let up = self.projection(Part::Up, &layer.up);
        let d_normed = match below {
            Below::Trained => Some(&mut d.normed),
            Below::Frozen => None,
        };
        match &layer.gate {
            None => {
                mlp::activate_backward(pool, self.activation(), &a.up, &d.hidden, &mut d.up);
                let up = (up, d.up.as_slice());
                net.linear_backward(products, &w.normed, [up], gradients, d_normed);
            }
            Some(gate) => {
                d.gate.resize(a.gate.len(), 0.0);
                let activation = self.activation();
                mlp::gated_backward(pool, activation, &a.gate, &a.up, &d.hidden, &mut d.gate, &mut d.up);
                let gate = (self.projection(Part::Gate, gate), d.gate.as_slice());
                let up = (up, d.up.as_slice());
                net.linear_backward(products, &w.normed, [gate, up], gradients, d_normed);
            }
        }
        if below == Below::Frozen {
            return;
        }
        let norm = (self.place(Part::MlpNorm), &layer.mlp_norm);
        net.norm_backward(&a.x_mid, norm, &d.normed, (dx, Write::Add), gradients, &mut d.sums);
    }
}
