//! The second half of a block: `x ← x + down(act(gate(n)) · up(n))`, or `x + down(act(up(n)))` without a gate, where n
//! is norm(x).

use super::{Activations, Below, Block, Stream, Workspace};
use crate::config::Mlp;
use crate::error::Result;
use crate::gradients::Gradients;
use crate::names::Part;
use wootz_kernels::exec::Floats;
use wootz_kernels::ops::Write;
use wootz_kernels::ops::mlp::Activation;

impl Block<'_> {
    fn activation(&self) -> Activation {
        match self.network.config.mlp {
            Mlp::Gelu | Mlp::GeGlu => Activation::Gelu,
            Mlp::SwiGlu => Activation::Silu,
        }
    }

    /// The stream takes up what the MLP gives.
    pub fn mlp(&self, stream: &mut Stream, a: &mut Activations, w: &mut Workspace) -> Result<()> {
        let (net, layer) = (self.network, self.layer);
        net.norm_of(stream, &layer.mlp_norm, &mut w.normed)?;
        self.keep(&stream.x, &mut a.x_mid)?;
        let up = self.projection(Part::Up, &layer.up);
        self.show(&[Part::Gate, Part::Up], &w.normed, net.config.dim)?;
        match &layer.gate {
            None => net.linear(&mut w.products, &w.normed, [(up, &mut a.up)])?,
            Some(gate) => {
                let gate = (self.projection(Part::Gate, gate), &mut a.gate);
                net.linear(&mut w.products, &w.normed, [gate, (up, &mut a.up)])?;
            }
        }
        self.activate(a, &mut w.hidden)?;
        let down = self.projection(Part::Down, &layer.down);
        self.show(&[Part::Down], &w.hidden, net.config.hidden_dim)?;
        match &layer.mlp_post_norm {
            None => net.linear(&mut w.products, &w.hidden, [(down, stream.owe())])?,
            Some(norm) => {
                net.linear(&mut w.products, &w.hidden, [(down, &mut a.down)])?;
                net.norm(&a.down, norm, stream.owe())?;
            }
        }
        Ok(())
    }

    fn activate(&self, a: &Activations, hidden: &mut Floats) -> Result<()> {
        let gate = self.layer.gate.as_ref().map(|_| &a.gate);
        Ok(self.network.exec.activate(self.activation(), gate, &a.up, hidden)?)
    }

    /// `dx` `[rows, C]` is the gradient of the stream after this half, and becomes the one before it. Where
    /// nothing is trained before it, `dx` may stay as it is.
    pub fn mlp_backward(
        &self,
        dx: &mut Floats,
        a: &Activations,
        w: &mut Workspace,
        gradients: &mut Gradients,
        below: Below,
    ) -> Result<()> {
        let (net, layer) = (self.network, self.layer);
        self.activate(a, &mut w.hidden)?;
        let (d, products) = (&mut w.d, &mut w.products);
        let d_out: &Floats = match &layer.mlp_post_norm {
            None => dx,
            Some(norm) => {
                let norm = (self.place(Part::MlpPostNorm), norm);
                net.norm_backward(&a.down, norm, dx, (&mut d.out, Write::Set), gradients, &mut d.sums)?;
                &d.out
            }
        };
        let down = (self.projection(Part::Down, &layer.down), d_out);
        net.linear_backward(products, &w.hidden, [down], gradients, Some(&mut d.hidden))?;

        net.norm(&a.x_mid, &layer.mlp_norm, &mut w.normed)?;
        let up = self.projection(Part::Up, &layer.up);
        let d_normed = match below {
            Below::Trained => Some(&mut d.normed),
            Below::Frozen => None,
        };
        let activation = self.activation();
        match &layer.gate {
            None => {
                net.exec.activate_backward(activation, None, (&a.up, &mut d.up), &d.hidden)?;
                net.linear_backward(products, &w.normed, [(up, &d.up)], gradients, d_normed)?;
            }
            Some(gate) => {
                let of_gate = Some((&a.gate, &mut d.gate));
                net.exec.activate_backward(activation, of_gate, (&a.up, &mut d.up), &d.hidden)?;
                let gate = (self.projection(Part::Gate, gate), &d.gate);
                net.linear_backward(products, &w.normed, [gate, (up, &d.up)], gradients, d_normed)?;
            }
        }
        if below == Below::Frozen {
            return Ok(());
        }
        let norm = (self.place(Part::MlpNorm), &layer.mlp_norm);
        net.norm_backward(&a.x_mid, norm, &d.normed, (dx, Write::Add), gradients, &mut d.sums)
    }
}
