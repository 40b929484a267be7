//! Activations of the MLP, and the cap of logits: [`crate::ops::mlp`].

use super::{Exec, Floats};
use crate::device::Result;
use crate::device::launch::grad_norm::GradNorm;
use crate::device::launch::mlp::{Mlp, SoftCap};
use crate::ops::dropout::Dropout;
use crate::ops::mlp::{self, Activation};

impl Exec<'_> {
    /// `h = activation(up)`, or `activation(gate) · up` with a gate.
    ///
    /// # Errors
    /// What the device meets; so in all that follows.
    pub fn activate(
        &self,
        activation: Activation,
        gate: Option<&Floats>,
        up: &Floats,
        h: &mut Floats,
    ) -> Result<()> {
        self.resize(h, up.len())?;
        let op = Mlp { count: up.len(), activation };
        match (self.gpu, gate) {
            (None, None) => mlp::activate_into(self.pool, activation, up.host(), h.host_mut()),
            (None, Some(gate)) => {
                mlp::gated_into(self.pool, activation, gate.host(), up.host(), h.host_mut());
            }
            (Some(gpu), None) => op.activate(gpu, up.memory(), h.memory())?,
            (Some(gpu), Some(gate)) => op.gated(gpu, gate.memory(), up.memory(), h.memory())?,
        }
        Ok(())
    }

    /// Gradients of [`Exec::activate`], which are set: that of `up`, and that of the gate where there is one.
    pub fn activate_backward(
        &self,
        activation: Activation,
        gate: Option<(&Floats, &mut Floats)>,
        (up, d_up): (&Floats, &mut Floats),
        dh: &Floats,
    ) -> Result<()> {
        self.resize(d_up, up.len())?;
        let op = Mlp { count: up.len(), activation };
        match (self.gpu, gate) {
            (None, None) => {
                mlp::activate_backward(self.pool, activation, up.host(), dh.host(), d_up.host_mut());
            }
            (None, Some((gate, d_gate))) => {
                self.resize(d_gate, gate.len())?;
                let (gate, up, dh) = (gate.host(), up.host(), dh.host());
                mlp::gated_backward(self.pool, activation, gate, up, dh, d_gate.host_mut(), d_up.host_mut());
            }
            (Some(gpu), None) => op.activate_backward(gpu, up.memory(), dh.memory(), d_up.memory())?,
            (Some(gpu), Some((gate, d_gate))) => {
                self.resize(d_gate, gate.len())?;
                let (gate, up, dh) = (gate.memory(), up.memory(), dh.memory());
                op.gated_backward(gpu, gate, up, dh, d_gate.memory(), d_up.memory())?;
            }
        }
        Ok(())
    }

    /// `logits = cap · tanh(logits / cap)`.
    pub fn soft_cap(&self, cap: f32, logits: &mut Floats) -> Result<()> {
        match self.gpu {
            None => mlp::soft_cap(self.pool, cap, logits.host_mut()),
            Some(gpu) => SoftCap { count: logits.len(), cap }.forward(gpu, logits.memory())?,
        }
        Ok(())
    }

    /// `x = factor · x`.
    pub fn scale(&self, factor: f32, x: &mut Floats) -> Result<()> {
        match self.gpu {
            None => x.host_mut().iter_mut().for_each(|x| *x *= factor),
            Some(gpu) => GradNorm { count: x.len() }.scale(gpu, x.memory(), factor)?,
        }
        Ok(())
    }

    /// `out = dropout(x)`.
    pub fn drop_out(&self, dropout: &Dropout, x: &Floats, out: &mut Floats) -> Result<()> {
        self.resize(out, x.len())?;
        match self.gpu {
            None => dropout.forward(self.pool, x.host(), out.host_mut()),
            Some(gpu) => {
                let op = crate::device::launch::dropout::Dropout { count: x.len(), draw: dropout.clone() };
                op.forward(gpu, x.memory(), out.memory())?;
            }
        }
        Ok(())
    }

    /// `dx += dropout(dy)`.
    pub fn drop_out_backward(&self, dropout: &Dropout, dy: &Floats, dx: &mut Floats) -> Result<()> {
        match self.gpu {
            None => dropout.backward(self.pool, dy.host(), dx.host_mut()),
            Some(gpu) => {
                let op = crate::device::launch::dropout::Dropout { count: dx.len(), draw: dropout.clone() };
                op.backward(gpu, dy.memory(), dx.memory())?;
            }
        }
        Ok(())
    }
}
