//! f32 values beside a parameter: its gradient, a moment of it, or its values in more bits.

use super::floats::{download, upload};
use super::{Exec, Floats, Weight};
use crate::device::launch::moves;
use crate::device::launch::packed::PackedMatrix;
use crate::device::{Accelerator, DeviceBuffer, Memory, Result};
use crate::{Buffer, panels};
use std::borrow::Cow;

/// As many f32 as a parameter has: a matrix in panels `[n/32][k][32]`, anything else as it is.
pub enum Values {
    /// In the host's memory.
    Host(Buffer<f32>),
    /// A matrix in a GPU's memory; of f32.
    Matrix(Accelerator, PackedMatrix<Memory>),
    /// Anything else there.
    Vector(Floats),
}

/// Elements of a tensor of this canonical shape, a matrix in panels.
fn count(shape: &[usize]) -> usize {
    match *shape {
        [rows, cols] => panels::len([rows, cols]),
        _ => shape.iter().product(),
    }
}

impl Values {
    /// None at all: what is not kept.
    pub fn none() -> Values {
        Values::Host(Buffer::zeroed(0))
    }

    /// Zeros for a parameter of this shape, where `exec` computes.
    ///
    /// # Errors
    /// A device without memory.
    pub fn zeroed(exec: Exec, shape: &[usize]) -> Result<Values> {
        let Some(gpu) = exec.gpu else { return Ok(Values::Host(Buffer::zeroed(count(shape)))) };
        match *shape {
            [rows, cols] => Ok(Values::Matrix(gpu.clone(), PackedMatrix::zeroed(gpu, [rows, cols])?)),
            _ => {
                let mut floats = Floats::default();
                exec.resize(&mut floats, count(shape))?;
                exec.clear(&mut floats)?;
                Ok(Values::Vector(floats))
            }
        }
    }

    /// The values of a matrix in f32, where it is.
    ///
    /// # Errors
    /// What the device meets.
    pub fn of(exec: Exec, weight: &Weight) -> Result<Values> {
        let matrix = weight.read()?;
        let shape = [matrix.rows(), matrix.cols()];
        let mut values = Buffer::zeroed(panels::len(shape));
        matrix.decode(exec.pool, &mut values);
        let mut all = Values::zeroed(exec, &shape)?;
        match &mut all {
            Values::Host(own) => *own = values,
            Values::Matrix(..) | Values::Vector(_) => all.write(&values)?,
        }
        Ok(all)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Values::Host(values) => values.len(),
            Values::Matrix(_, matrix) => matrix.bytes() / 4,
            Values::Vector(floats) => floats.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values in the host's memory. Panics when a device has them: that is a mistake of the caller.
    pub fn host(&self) -> &[f32] {
        match self {
            Values::Host(values) => values,
            Values::Matrix(..) | Values::Vector(_) => panic!("values of a device were taken for the host's"),
        }
    }

    /// The values in the host's memory, to be changed. Panics as [`Values::host`] does.
    pub fn host_mut(&mut self) -> &mut [f32] {
        match self {
            Values::Host(values) => values,
            Values::Matrix(..) | Values::Vector(_) => panic!("values of a device were taken for the host's"),
        }
    }

    /// The values, brought to the host if a device has them.
    ///
    /// # Errors
    /// What the device meets.
    pub fn read(&self) -> Result<Cow<'_, [f32]>> {
        match self {
            Values::Host(values) => Ok(Cow::Borrowed(values)),
            Values::Vector(floats) => floats.read(),
            Values::Matrix(_, matrix) => {
                let mut values = vec![0.0; self.len()];
                let mut rest = values.as_mut_slice();
                for (_, memory) in matrix.parts() {
                    let (part, after) = rest.split_at_mut(memory.bytes() / 4);
                    download(memory, part)?;
                    rest = after;
                }
                Ok(Cow::Owned(values))
            }
        }
    }

    /// Takes other values, as many as there are, without moving to another place.
    ///
    /// # Errors
    /// What the device meets.
    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        assert_eq!(values.len(), self.len(), "values");
        match self {
            Values::Host(own) => own.copy_from_slice(values),
            Values::Vector(floats) => floats.write(values)?,
            Values::Matrix(_, matrix) => {
                let mut rest = values;
                for (_, memory) in matrix.parts() {
                    let (part, after) = rest.split_at(memory.bytes() / 4);
                    upload(memory, part)?;
                    rest = after;
                }
            }
        }
        Ok(())
    }

    /// All become 0.
    ///
    /// # Errors
    /// What the device meets.
    pub fn clear(&mut self) -> Result<()> {
        match self {
            Values::Host(values) => values.fill(0.0),
            Values::Matrix(gpu, matrix) => matrix.fill_zeros(gpu)?,
            Values::Vector(floats) => {
                if let Some(gpu) = floats.owner() {
                    moves::fill(gpu, floats.memory(), 0, floats.len(), 0)?;
                }
            }
        }
        Ok(())
    }

    /// The device that has them, if one has.
    pub fn owner(&self) -> Option<&Accelerator> {
        match self {
            Values::Host(_) => None,
            Values::Matrix(gpu, _) => Some(gpu),
            Values::Vector(floats) => floats.owner(),
        }
    }

    /// A matrix in a device's memory. Panics for anything else.
    pub(super) fn matrix(&self) -> &PackedMatrix<Memory> {
        match self {
            Values::Matrix(_, matrix) => matrix,
            Values::Host(_) | Values::Vector(_) => panic!("no matrix of a device"),
        }
    }

    /// A vector in a device's memory. Panics for anything else.
    pub(super) fn vector(&self) -> &Memory {
        match self {
            Values::Vector(floats) => floats.memory(),
            Values::Host(_) | Values::Matrix(..) => panic!("no vector of a device"),
        }
    }

    /// The device's buffers with their elements; none on the host.
    pub(super) fn buffers(&self) -> Vec<(&Memory, usize)> {
        match self {
            Values::Host(_) => Vec::new(),
            Values::Matrix(_, matrix) => {
                matrix.parts().iter().map(|(_, memory)| (memory, memory.bytes() / 4)).collect()
            }
            Values::Vector(floats) => vec![(floats.memory(), floats.len())],
        }
    }
}
