//! Products with weights, forward and backward: [`crate::ops::matmul`]; lookups in a table: [`crate::ops::embedding`]; lengths
//! of rows that are learnt: [`crate::ops::dora`].
//!
//! On the CPU inputs are rounded to what the type of the weights multiplies with ([`crate::Operand`]). On a GPU they are not:
//! weights are decoded to f32 on the way.

use super::norm::with_vec;
use super::{Exec, Floats, Ids, Values, Weight};
use crate::device::Result;
use crate::device::launch::dora::Dora;
use crate::device::launch::embedding::{Embedding, Lookups};
use crate::device::launch::matmul::MatMul;
use crate::ops::matmul::{
    Columns, Inputs, Prepared, Product, Term, WeightGradient, input_gradient, matmul, weight_gradient,
};
use crate::ops::{Write, dora, embedding};

/// A product `y = x wᵀ + b`.
pub struct Output<'a> {
    /// `[n, k]`.
    pub weight: &'a Weight,
    /// `[n]`.
    pub bias: Option<&'a Floats>,
    /// `[m, n]`; set.
    pub y: &'a mut Floats,
}

/// A product that x went into, for the gradient of x.
pub struct GradientTerm<'a> {
    /// `[m, n]`: the gradient of its output.
    pub dy: &'a Floats,
    /// `[n, k]`.
    pub weight: &'a Weight,
    /// Whether dy is multiplied as it is, or rounded first as the weights ask for.
    pub exact: bool,
}

/// One weight out of several whose products share x, for the gradient of the weight.
pub struct LinearGradient<'a> {
    /// `[m, n]`: the gradient of the product's output.
    pub dy: &'a Floats,
    /// `[n, k]`.
    pub dw: &'a mut Values,
    /// `[n]`.
    pub db: Option<&'a mut Values>,
}

impl Exec<'_> {
    /// Products of the same rows.
    ///
    /// # Errors
    /// What the device meets; so in all that follows.
    pub fn products(&self, inputs: &mut Inputs, x: &Floats, outputs: &mut [Output]) -> Result<()> {
        let Some(first) = outputs.first() else { return Ok(()) };
        let width = first.weight.cols();
        let rows = x.len() / width.max(1);
        for Output { weight, y, .. } in outputs.iter_mut() {
            self.resize(y, rows * weight.rows())?;
        }
        match self.gpu {
            None => {
                let operands = outputs.iter().map(|output| output.weight.operand());
                let prepared = inputs.prepare(self.pool, x.host(), [rows, width], operands);
                let mut wanted: Vec<Product> = Vec::with_capacity(outputs.len());
                for Output { weight, bias, y } in outputs.iter_mut() {
                    let bias = bias.map(Floats::host);
                    wanted.push(Product { weight: weight.host(), bias, y: y.host_mut(), write: Write::Set });
                }
                matmul(self.pool, &prepared, &mut wanted);
            }
            Some(gpu) => {
                for Output { weight, bias, y } in outputs.iter_mut() {
                    let bias = bias.map(Floats::memory);
                    weight.device().forward(gpu, rows, x.memory(), bias, y.memory(), Write::Set)?;
                }
            }
        }
        Ok(())
    }

    /// `y = x wᵀ`, or that is added to it, for weights in f32.
    pub fn product(&self, x: &Floats, weight: &Weight, y: &mut Floats, write: Write) -> Result<()> {
        let rows = x.len() / weight.cols().max(1);
        match self.gpu {
            None => {
                let x = Prepared::exact(x.host(), [rows, weight.cols()]);
                let product = Product { weight: weight.host(), bias: None, y: y.host_mut(), write };
                matmul(self.pool, &x, &mut [product]);
            }
            Some(gpu) => weight.device().forward(gpu, rows, x.memory(), None, y.memory(), write)?,
        }
        Ok(())
    }

    /// `dx = Σ dy w` over products of the same rows; at most three of them are not exact.
    pub fn input_gradient(
        &self,
        inputs: &mut [Inputs; 3],
        terms: &[GradientTerm],
        dx: &mut Floats,
    ) -> Result<()> {
        let Some(first) = terms.first() else { return Ok(()) };
        let rows = first.dy.len() / first.weight.rows().max(1);
        self.resize(dx, rows * first.weight.cols())?;
        match self.gpu {
            None => {
                let mut free = inputs.iter_mut().peekable();
                let mut all = Vec::with_capacity(terms.len());
                for GradientTerm { dy, weight, exact } in terms {
                    let size = [rows, weight.rows()];
                    let operand = std::iter::once(weight.host().gradient_operand());
                    let dy = match free.next_if(|_| !exact) {
                        Some(inputs) => inputs.prepare(self.pool, dy.host(), size, operand),
                        None => Prepared::exact(dy.host(), size),
                    };
                    all.push(Term { dy, weight: weight.host() });
                }
                input_gradient(self.pool, &all, dx.host_mut(), Write::Set);
            }
            Some(gpu) => {
                for (i, GradientTerm { dy, weight, .. }) in terms.iter().enumerate() {
                    let write = if i == 0 { Write::Set } else { Write::Add };
                    weight.device().backward_input(gpu, rows, dy.memory(), dx.memory(), write)?;
                }
            }
        }
        Ok(())
    }

    /// Gradients of weights and biases that were multiplied with the same x. `like` has the type that the CPU rounds to.
    pub fn weight_gradient(
        &self,
        columns: &mut Columns,
        x: &Floats,
        like: &Weight,
        gradients: &mut [LinearGradient],
        write: Write,
    ) -> Result<()> {
        let width = like.cols();
        let rows = x.len() / width.max(1);
        match self.gpu {
            None => {
                let mut wanted = Vec::with_capacity(gradients.len());
                for LinearGradient { dy, dw, db } in gradients {
                    let db = db.as_deref_mut().map(Values::host_mut);
                    wanted.push(WeightGradient { dy: dy.host(), dw: dw.host_mut(), db });
                }
                let operand = like.host().gradient_operand();
                weight_gradient(self.pool, columns, x.host(), [rows, width], operand, &mut wanted, write);
            }
            Some(gpu) => {
                for LinearGradient { dy, dw, db } in gradients {
                    let dw = dw.matrix();
                    dw.backward_weight(gpu, rows, x.memory(), dy.memory(), write)?;
                    if let Some(db) = db {
                        let op = MatMul { m: rows, n: dw.rows(), k: width };
                        op.backward_bias(gpu, dy.memory(), db.vector(), write)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// `x[i, :] = scale · table[ids[i], :]`, or that is added to it.
    pub fn look_up(&self, table: &Weight, ids: &Ids, scale: f32, x: &mut Floats, write: Write) -> Result<()> {
        if write == Write::Set {
            self.resize(x, ids.host().len() * table.cols())?;
        }
        match self.gpu {
            None => embedding::forward(self.pool, table.host(), ids.host(), scale, x.host_mut(), write),
            Some(gpu) => {
                let rows = ids.host().len();
                table.device().lookup(gpu, rows, ids.memory(), scale, x.memory(), write)?;
            }
        }
        Ok(())
    }

    /// Adds the gradient of [`Exec::look_up`] to that of a table of so many rows.
    pub fn look_up_backward(
        &self,
        [vocab, width]: [usize; 2],
        ids: &Ids,
        scale: f32,
        dx: &Floats,
        d_table: &mut Values,
    ) -> Result<()> {
        match self.gpu {
            None => {
                let (dx, d) = (dx.host(), d_table.host_mut());
                embedding::backward(self.pool, [vocab, width], ids.host(), scale, dx, d);
            }
            Some(gpu) => {
                let op = Embedding { rows: ids.host().len(), vocab, width, scale };
                let lookups = Lookups::new(gpu, ids.host())?;
                op.backward(gpu, &lookups, dx.memory(), d_table.matrix())?;
            }
        }
        Ok(())
    }

    /// `lengths = ‖w + scale · b a‖` of each row.
    pub fn lengths(
        &self,
        weight: &Weight,
        [a, b]: [&Weight; 2],
        scale: f32,
        lengths: &mut Floats,
    ) -> Result<()> {
        self.resize(lengths, weight.rows())?;
        match self.gpu {
            None => {
                let change = [a.host(), b.host()];
                dora::lengths(self.pool, weight.host(), change, scale, lengths.host_mut());
            }
            Some(gpu) => {
                weight.device().lengths(gpu, a.device(), b.device(), scale, lengths.memory())?;
            }
        }
        Ok(())
    }

    /// `gains = m / lengths`.
    pub fn gains(&self, m: &Floats, lengths: &Floats, gains: &mut Floats) -> Result<()> {
        match self.gpu {
            None => with_vec(gains, |gains| dora::gains(m.host(), lengths.host(), gains)),
            Some(gpu) => {
                self.resize(gains, m.len())?;
                let op = Dora { rows: 1, n: m.len() };
                op.gains(gpu, m.memory(), lengths.memory(), gains.memory())?;
            }
        }
        Ok(())
    }

    /// `y = gains · (y - bias) + bias`.
    pub fn lengthen(&self, gains: &Floats, bias: Option<&Floats>, y: &mut Floats) -> Result<()> {
        match self.gpu {
            None => dora::forward(self.pool, gains.host(), bias.map(Floats::host), y.host_mut()),
            Some(gpu) => {
                let op = Dora { rows: y.len() / gains.len().max(1), n: gains.len() };
                op.forward(gpu, gains.memory(), bias.map(Floats::memory), y.memory())?;
            }
        }
        Ok(())
    }

    /// `dv = gains · dy`.
    pub fn lengthen_backward(&self, gains: &Floats, dy: &Floats, dv: &mut Floats) -> Result<()> {
        self.resize(dv, dy.len())?;
        match self.gpu {
            None => dora::backward(self.pool, gains.host(), dy.host(), dv.host_mut()),
            Some(gpu) => {
                let op = Dora { rows: dy.len() / gains.len().max(1), n: gains.len() };
                op.backward(gpu, gains.memory(), dy.memory(), dv.memory())?;
            }
        }
        Ok(())
    }

    /// `dm = Σ over rows of dy · v / lengths`, set or added.
    pub fn magnitude_gradient(
        &self,
        lengths: &Floats,
        [dy, v]: [&Floats; 2],
        (dm, write): (&mut Values, Write),
        scratch: &mut Floats,
    ) -> Result<()> {
        match self.gpu {
            None => with_vec(scratch, |scratch| {
                let dm = (dm.host_mut(), write);
                dora::magnitude_gradient(self.pool, lengths.host(), [dy.host(), v.host()], dm, scratch);
            }),
            Some(gpu) => {
                let op = Dora { rows: dy.len() / lengths.len().max(1), n: lengths.len() };
                let both = [dy.memory(), v.memory()];
                op.magnitude_gradient(gpu, lengths.memory(), both, dm.vector(), write)?;
            }
        }
        Ok(())
    }
}
