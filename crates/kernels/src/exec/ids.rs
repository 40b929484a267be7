//! Numbers of rows: tokens of a table, or rows that are picked out.

use super::{Exec, Floats};
use crate::device::launch::moves::{self, Rows};
use crate::device::{DeviceBuffer, Gpu, Memory, Result};

/// Numbers of rows, on the host and, where a device will look at them, there too.
#[derive(Debug, Default)]
pub struct Ids {
    host: Vec<u32>,
    device: Option<Memory>,
}

impl Ids {
    /// Takes other numbers.
    ///
    /// # Errors
    /// What the device meets.
    pub fn set(&mut self, exec: Exec, ids: impl Iterator<Item = u32>) -> Result<()> {
        self.host.clear();
        self.host.extend(ids);
        let Some(gpu) = exec.gpu else { return Ok(()) };
        let bytes: Vec<u8> = self.host.iter().flat_map(|id| id.to_ne_bytes()).collect();
        let memory = match self.device.take().filter(|memory| memory.bytes() >= bytes.len()) {
            Some(memory) => memory,
            None => gpu.alloc(bytes.len())?,
        };
        gpu.upload(&memory, 0, &bytes)?;
        self.device = Some(memory);
        Ok(())
    }

    /// The numbers.
    pub fn host(&self) -> &[u32] {
        &self.host
    }

    /// The numbers on the device. Panics where they were not set for one.
    pub(super) fn memory(&self) -> &Memory {
        self.device.as_ref().expect("the numbers were set for the device that reads them")
    }
}

impl Exec<'_> {
    /// `to` becomes `from`.
    ///
    /// # Errors
    /// What the device meets.
    pub fn copy(&self, from: &Floats, to: &mut Floats) -> Result<()> {
        self.resize(to, from.len())?;
        match self.gpu {
            None => to.host_mut().copy_from_slice(from.host()),
            Some(gpu) => moves::copy(gpu, from.memory(), 0, to.memory(), 0, from.len())?,
        }
        Ok(())
    }

    /// Copies `count` values, from a place in one buffer to a place in another.
    ///
    /// # Errors
    /// What the device meets.
    pub fn copy_values(
        &self,
        (from, from_first): (&Floats, usize),
        (to, to_first): (&mut Floats, usize),
        count: usize,
    ) -> Result<()> {
        match self.gpu {
            None => {
                let from = &from.host()[from_first..from_first + count];
                to.host_mut()[to_first..to_first + count].copy_from_slice(from);
            }
            Some(gpu) => moves::copy(gpu, from.memory(), from_first, to.memory(), to_first, count)?,
        }
        Ok(())
    }

    /// `x` becomes zeros.
    ///
    /// # Errors
    /// What the device meets.
    pub fn clear(&self, x: &mut Floats) -> Result<()> {
        match self.gpu {
            None => x.host_mut().fill(0.0),
            Some(gpu) => moves::fill(gpu, x.memory(), 0, x.len(), 0)?,
        }
        Ok(())
    }

    /// `to[i, :] = from[rows[i], :]`, for rows of `width` values.
    ///
    /// # Errors
    /// What the device meets.
    pub fn gather(&self, from: &Floats, width: usize, rows: &Ids, to: &mut Floats) -> Result<()> {
        let count = rows.host.len();
        self.resize(to, count * width)?;
        match self.gpu {
            None => {
                for (to, &row) in to.host_mut().chunks_exact_mut(width.max(1)).zip(&rows.host) {
                    to.copy_from_slice(&from.host()[row as usize * width..][..width]);
                }
            }
            Some(gpu) => {
                let op = Rows { rows: count, width, total: from.len() / width.max(1) };
                op.gather(gpu, from.memory(), rows.memory(), to.memory())?;
            }
        }
        Ok(())
    }

    /// `to[rows[i], :] = from[i, :]`, for rows of `width` values; the others stay.
    ///
    /// # Errors
    /// What the device meets.
    pub fn scatter(&self, from: &Floats, width: usize, rows: &Ids, to: &mut Floats) -> Result<()> {
        let count = rows.host.len();
        match self.gpu {
            None => {
                let to = to.host_mut();
                for (from, &row) in from.host().chunks_exact(width.max(1)).zip(&rows.host) {
                    to[row as usize * width..][..width].copy_from_slice(from);
                }
            }
            Some(gpu) => {
                let op = Rows { rows: count, width, total: to.len() / width.max(1) };
                op.scatter(gpu, from.memory(), rows.memory(), to.memory())?;
            }
        }
        Ok(())
    }
}
