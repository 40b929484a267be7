//! Norms: [`crate::ops::rmsnorm`], [`crate::ops::layernorm`]; and the residual sum.

use super::{Exec, Floats, Values};
use crate::device::Result;
use crate::device::launch::{layernorm as on_gpu, residual::Residual, rmsnorm as rms_on_gpu};
use crate::ops::rmsnorm::{self, RmsNorm};
use crate::ops::{Write, layernorm, residual};

fn of_rows(norm: RmsNorm, x: &Floats, weight: &Floats) -> rms_on_gpu::RmsNorm {
    let dim = weight.len();
    rms_on_gpu::RmsNorm { rows: x.len() / dim.max(1), dim, eps: norm.eps, offset: norm.offset }
}

impl Exec<'_> {
    /// `x += y`.
    ///
    /// # Errors
    /// What the device meets; so in all that follows.
    pub fn add(&self, x: &mut Floats, y: &Floats) -> Result<()> {
        match self.gpu {
            None => residual::add(self.pool, x.host_mut(), y.host()),
            Some(gpu) => Residual { count: x.len() }.add(gpu, x.memory(), y.memory())?,
        }
        Ok(())
    }

    /// RMSNorm of rows as wide as `weight`; `y` is set.
    pub fn rms_norm(&self, norm: RmsNorm, x: &Floats, weight: &Floats, y: &mut Floats) -> Result<()> {
        self.resize(y, x.len())?;
        match self.gpu {
            None => norm.forward(self.pool, x.host(), weight.host(), y.host_mut()),
            Some(gpu) => of_rows(norm, x, weight).forward(gpu, x.memory(), weight.memory(), y.memory())?,
        }
        Ok(())
    }

    /// `x += addend`, then [`Exec::rms_norm`], with the bits that these two have one after the other.
    pub fn add_rms_norm(
        &self,
        norm: RmsNorm,
        x: &mut Floats,
        addend: &Floats,
        weight: &Floats,
        y: &mut Floats,
    ) -> Result<()> {
        let Some(gpu) = self.gpu else {
            self.add(x, addend)?;
            return self.rms_norm(norm, x, weight, y);
        };
        self.resize(y, x.len())?;
        let op = of_rows(norm, x, weight);
        op.add_forward(gpu, x.memory(), addend.memory(), weight.memory(), y.memory())
    }

    /// Gradients of [`Exec::rms_norm`]: `dx` is set or added to, `dw` added to.
    #[allow(clippy::too_many_arguments)] // what forward read, what backward writes, and what it works in
    pub fn rms_norm_backward(
        &self,
        norm: RmsNorm,
        x: &Floats,
        weight: &Floats,
        dy: &Floats,
        (dx, write): (&mut Floats, Write),
        dw: Option<&mut Values>,
        scratch: &mut Floats,
    ) -> Result<()> {
        match self.gpu {
            None => {
                let gradients = rmsnorm::Gradients { dx: dx.host_mut(), write, dw: dw.map(Values::host_mut) };
                with_vec(scratch, |scratch| {
                    norm.backward(self.pool, x.host(), weight.host(), dy.host(), gradients, scratch);
                });
            }
            Some(gpu) => {
                let op = of_rows(norm, x, weight);
                self.resize(scratch, op.scratch_bytes() / 4)?;
                let dw = dw.as_deref().map(Values::vector);
                let x = x.memory();
                let (weight, scratch) = (weight.memory(), scratch.memory());
                op.backward(gpu, x, weight, dy.memory(), dx.memory(), write, dw, scratch)?;
            }
        }
        Ok(())
    }

    /// As [`Exec::rms_norm_backward`], with `dx` written over `dy`: both are `d`.
    pub fn rms_norm_backward_in_place(
        &self,
        norm: RmsNorm,
        x: &Floats,
        weight: &Floats,
        d: &mut Floats,
        dw: Option<&mut Values>,
        scratch: &mut Floats,
    ) -> Result<()> {
        match self.gpu {
            None => with_vec(scratch, |scratch| {
                let dw = dw.map(Values::host_mut);
                norm.backward_in_place(self.pool, x.host(), weight.host(), d.host_mut(), dw, scratch);
            }),
            Some(gpu) => {
                let op = of_rows(norm, x, weight);
                self.resize(scratch, op.scratch_bytes() / 4)?;
                let dw = dw.as_deref().map(Values::vector);
                op.backward_in_place(gpu, x.memory(), weight.memory(), d.memory(), dw, scratch.memory())?;
            }
        }
        Ok(())
    }

    /// LayerNorm of rows as wide as `weight`; `y` is set.
    pub fn layer_norm(
        &self,
        eps: f32,
        x: &Floats,
        [weight, bias]: [&Floats; 2],
        y: &mut Floats,
    ) -> Result<()> {
        self.resize(y, x.len())?;
        match self.gpu {
            None => layernorm::forward(self.pool, eps, x.host(), weight.host(), bias.host(), y.host_mut()),
            Some(gpu) => {
                let op = on_gpu::LayerNorm { rows: x.len() / weight.len().max(1), dim: weight.len(), eps };
                op.forward(gpu, x.memory(), weight.memory(), bias.memory(), y.memory())?;
            }
        }
        Ok(())
    }

    /// `x += addend`, then [`Exec::layer_norm`], with the bits that these two have one after the other.
    pub fn add_layer_norm(
        &self,
        eps: f32,
        x: &mut Floats,
        addend: &Floats,
        [weight, bias]: [&Floats; 2],
        y: &mut Floats,
    ) -> Result<()> {
        let Some(gpu) = self.gpu else {
            self.add(x, addend)?;
            return self.layer_norm(eps, x, [weight, bias], y);
        };
        self.resize(y, x.len())?;
        let op = on_gpu::LayerNorm { rows: x.len() / weight.len().max(1), dim: weight.len(), eps };
        op.add_forward(gpu, x.memory(), addend.memory(), weight.memory(), bias.memory(), y.memory())
    }

    /// Gradients of [`Exec::layer_norm`]: `dx` is set or added to, `dw` and `db` are added to.
    #[allow(clippy::too_many_arguments)] // as that of RMSNorm
    pub fn layer_norm_backward(
        &self,
        eps: f32,
        x: &Floats,
        weight: &Floats,
        dy: &Floats,
        (dx, write): (&mut Floats, Write),
        dw_db: Option<[&mut Values; 2]>,
        scratch: &mut Floats,
    ) -> Result<()> {
        match self.gpu {
            None => {
                let dw_db = dw_db.map(|both| both.map(Values::host_mut));
                let gradients = layernorm::Gradients { dx: dx.host_mut(), write, dw_db };
                with_vec(scratch, |scratch| {
                    let (x, weight, dy) = (x.host(), weight.host(), dy.host());
                    layernorm::backward(self.pool, eps, x, weight, dy, gradients, scratch);
                });
            }
            Some(gpu) => {
                let op = on_gpu::LayerNorm { rows: x.len() / weight.len().max(1), dim: weight.len(), eps };
                self.resize(scratch, op.scratch_bytes() / 4)?;
                let dw_db = dw_db.as_ref().map(|both| both.each_ref().map(|values| values.vector()));
                let (x, weight) = (x.memory(), weight.memory());
                op.backward(gpu, x, weight, dy.memory(), dx.memory(), write, dw_db, scratch.memory())?;
            }
        }
        Ok(())
    }
}

/// Lends the vector behind values of the host, so that it can grow.
pub(super) fn with_vec<T>(floats: &mut Floats, work: impl FnOnce(&mut Vec<f32>) -> T) -> T {
    let mut values = std::mem::take(floats).into_vec();
    let done = work(&mut values);
    *floats = Floats::from(values);
    done
}
