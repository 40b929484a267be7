//! Rotary positions: [`crate::ops::rope`].

use super::{Exec, Floats};
use crate::device::Result;
use crate::device::launch::rope::Rope;
use crate::ops::rope::{self, Angles};

/// The angles of some positions, where they are needed.
#[derive(Debug, Default)]
pub struct Turns {
    angles: Angles,
    /// Cosines and sines on a device.
    tables: [Floats; 2],
}

impl Turns {
    /// As [`Angles::set`], for the CPU and, if there is one, for a device.
    ///
    /// # Errors
    /// What the device meets; so in all that follows.
    pub fn set(
        &mut self,
        exec: Exec,
        positions: &[usize],
        frequencies: &[f32],
        magnitude: f32,
    ) -> Result<()> {
        self.angles.set(positions, frequencies, magnitude);
        if exec.gpu.is_some() {
            let [cos, sin] = &mut self.tables;
            exec.set(cos, self.angles.cos())?;
            exec.set(sin, self.angles.sin())?;
        }
        Ok(())
    }
}

impl Exec<'_> {
    /// Turns q and k in place, with their numbers of heads.
    pub fn turn(&self, turns: &Turns, [q, k]: [&mut Floats; 2], heads: [usize; 2]) -> Result<()> {
        match self.gpu {
            None => {
                rope::forward(self.pool, &turns.angles, q.host_mut(), heads[0]);
                rope::forward(self.pool, &turns.angles, k.host_mut(), heads[1]);
            }
            Some(gpu) => {
                let [cos, sin] = turns.tables.each_ref().map(Floats::memory);
                turns.op(heads).forward(gpu, q.memory(), k.memory(), cos, sin)?;
            }
        }
        Ok(())
    }

    /// Turns the gradients of q and k back, in place.
    pub fn turn_back(&self, turns: &Turns, [dq, dk]: [&mut Floats; 2], heads: [usize; 2]) -> Result<()> {
        match self.gpu {
            None => {
                rope::backward(self.pool, &turns.angles, dq.host_mut(), heads[0]);
                rope::backward(self.pool, &turns.angles, dk.host_mut(), heads[1]);
            }
            Some(gpu) => {
                let [cos, sin] = turns.tables.each_ref().map(Floats::memory);
                turns.op(heads).backward(gpu, dq.memory(), dk.memory(), cos, sin)?;
            }
        }
        Ok(())
    }
}

impl Turns {
    fn op(&self, [q_heads, k_heads]: [usize; 2]) -> Rope {
        let half = self.angles.half();
        Rope { rows: self.angles.cos().len() / half.max(1), q_heads, k_heads, half }
    }
}
