//! Steps of an optimiser, and the size of gradients: [`crate::ops::adamw`], [`crate::ops::sgd`], [`crate::ops::muon`],
//! [`crate::ops::grad_norm`].

use super::{Exec, Floats, Values, Weight};
use crate::device::launch::grad_norm::{GradNorm, sums_of_squares};
use crate::device::launch::{adamw as adamw_on_gpu, sgd as sgd_on_gpu};
use crate::device::{DeviceBuffer, Gpu, Memory, Result};
use crate::ops::adamw::AdamW;
use crate::ops::grad_norm::sum_of_squares;
use crate::ops::muon::{self, Muon};
use crate::ops::sgd::Sgd;

/// What a step moves.
pub enum Moved<'a> {
    /// Weights in f32.
    Weight(&'a mut Weight),
    /// A vector.
    Floats(&'a mut Floats),
    /// Weights in f32 beside the model's.
    Values(&'a mut Values),
}

impl Moved<'_> {
    /// The values on the host.
    fn host_mut(&mut self) -> &mut [f32] {
        match self {
            Moved::Weight(Weight::Host(matrix)) => matrix.values_mut().expect("weights that move are in f32"),
            Moved::Weight(Weight::Device(..)) => panic!("weights of a device were taken for the host's"),
            Moved::Floats(floats) => floats.host_mut(),
            Moved::Values(values) => values.host_mut(),
        }
    }

    /// The device's buffers with their elements.
    fn buffers(&self) -> Vec<(&Memory, usize)> {
        match self {
            Moved::Weight(weight) => {
                weight.device().parts().iter().map(|(_, memory)| (memory, memory.bytes() / 4)).collect()
            }
            Moved::Floats(floats) => vec![(floats.memory(), floats.len())],
            Moved::Values(values) => values.buffers(),
        }
    }
}

impl Exec<'_> {
    /// A step of AdamW.
    ///
    /// # Errors
    /// What the device meets; so in all that follows.
    pub fn adamw(&self, op: AdamW, mut w: Moved, g: &Values, m: &mut Values, v: &mut Values) -> Result<()> {
        match self.gpu {
            None => op.update(self.pool, w.host_mut(), &g.read()?, m.host_mut(), v.host_mut()),
            Some(gpu) => {
                let (w, g, m, v) = (w.buffers(), g.buffers(), m.buffers(), v.buffers());
                for ((((w, count), g), m), v) in w.into_iter().zip(g).zip(m).zip(v) {
                    adamw_on_gpu::AdamW { count, options: op }.update(gpu, w, g.0, m.0, v.0)?;
                }
            }
        }
        Ok(())
    }

    /// A step of gradient descent. Without momentum, `m` is empty.
    pub fn sgd(&self, op: Sgd, mut w: Moved, g: &Values, m: &mut Values) -> Result<()> {
        match self.gpu {
            None => op.update(self.pool, w.host_mut(), &g.read()?, m.host_mut()),
            Some(gpu) => {
                let m = m.buffers();
                for (i, ((w, count), (g, _))) in w.buffers().into_iter().zip(g.buffers()).enumerate() {
                    let m = m.get(i).map(|(memory, _)| *memory);
                    sgd_on_gpu::Sgd { count, options: op }.update(gpu, w, g, m)?;
                }
            }
        }
        Ok(())
    }

    /// A step of Muon for a matrix of this shape. No GPU has a kernel for it: the CPU computes it.
    pub fn muon(
        &self,
        op: Muon,
        shape: [usize; 2],
        mut w: Moved,
        g: &Values,
        m: &mut Values,
        scratch: &mut muon::Scratch,
    ) -> Result<()> {
        match self.gpu {
            None => op.update(self.pool, shape, w.host_mut(), &g.read()?, m.host_mut(), scratch),
            Some(gpu) => {
                gpu.fall_back("muon", "Muon has no kernel for a GPU")?;
                let mut own = Vec::new();
                for (memory, count) in w.buffers() {
                    let start = own.len();
                    own.resize(start + count, 0.0);
                    super::floats::download(memory, &mut own[start..])?;
                }
                let mut momentum = m.read()?.into_owned();
                op.update(self.pool, shape, &mut own, &g.read()?, &mut momentum, scratch);
                m.write(&momentum)?;
                let mut rest = own.as_slice();
                for (memory, count) in w.buffers() {
                    let (part, after) = rest.split_at(count);
                    super::floats::upload(memory, part)?;
                    rest = after;
                }
            }
        }
        Ok(())
    }

    /// `weight` becomes `values`, rounded to its type.
    pub fn round(&self, weight: &mut Weight, values: &Values) -> Result<()> {
        match weight {
            Weight::Host(matrix) => matrix.set(self.pool, &values.read()?),
            Weight::Device(gpu, matrix) => matrix.round_from(gpu, values.matrix())?,
        }
        Ok(())
    }

    /// The sum of squares of each: 0 only where all values are 0, and no finite number where some value is none. Those on
    /// a device come together.
    pub fn sums_of_squares<'v>(
        &self,
        all: impl Iterator<Item = &'v Values> + Clone,
        scratch: &mut Vec<f64>,
    ) -> Result<Vec<f64>> {
        let mut sums = Vec::new();
        let mut slots = 0;
        let mut largest = 0;
        for values in all.clone() {
            match values {
                Values::Host(values) => sums.push(sum_of_squares(self.pool, values, scratch)),
                Values::Matrix(..) | Values::Vector(_) => {
                    sums.push(0.0);
                    for (_, count) in values.buffers() {
                        slots += 1;
                        largest = largest.max(GradNorm { count }.scratch_bytes());
                    }
                }
            }
        }
        let owner = all.clone().find_map(Values::owner);
        let Some(gpu) = owner.filter(|_| slots > 0) else { return Ok(sums) };
        let (room, out) = (gpu.alloc(largest.max(4))?, gpu.alloc(32 * slots)?);
        let mut slot = 0;
        for values in all.clone() {
            for (memory, count) in values.buffers() {
                GradNorm { count }.sum_of_squares(gpu, memory, &room, &out, slot)?;
                slot += 1;
            }
        }
        let mut found = sums_of_squares(gpu, &out)?.into_iter();
        for (sum, values) in sums.iter_mut().zip(all) {
            for _ in values.buffers() {
                *sum += found.next().map_or(0.0, |found| found.value());
            }
        }
        Ok(sums)
    }
}
