//! A matrix of weights, packed where it is multiplied with.

use super::Exec;
use crate::device::launch::packed::PackedMatrix;
use crate::device::{Accelerator, Memory, Result};
use crate::{DType, Matrix, Operand, Pool};
use std::borrow::Cow;

/// Weights `[outputs, inputs]`, in the host's memory or in a GPU's: the same panels.
pub enum Weight {
    /// The host's.
    Host(Matrix),
    /// A GPU's.
    Device(Accelerator, PackedMatrix<Memory>),
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weight({} x {} of {})", self.rows(), self.cols(), self.dtype())
    }
}

impl From<Matrix> for Weight {
    fn from(matrix: Matrix) -> Weight {
        Weight::Host(matrix)
    }
}

impl Weight {
    /// Output channels (n).
    pub fn rows(&self) -> usize {
        match self {
            Weight::Host(matrix) => matrix.rows(),
            Weight::Device(_, matrix) => matrix.rows(),
        }
    }

    /// Input channels (k).
    pub fn cols(&self) -> usize {
        match self {
            Weight::Host(matrix) => matrix.cols(),
            Weight::Device(_, matrix) => matrix.cols(),
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Weight::Host(matrix) => matrix.bytes(),
            Weight::Device(_, matrix) => matrix.bytes(),
        }
    }

    /// The type of the weights.
    pub fn dtype(&self) -> DType {
        match self {
            Weight::Host(matrix) => matrix.dtype(),
            Weight::Device(_, matrix) => matrix.dtype(),
        }
    }

    /// What inputs are rounded to on the CPU.
    pub fn operand(&self) -> Operand {
        match self {
            Weight::Host(matrix) => matrix.operand(),
            Weight::Device(_, matrix) => matrix.operand(),
        }
    }

    /// The device that has it, if one has.
    pub fn owner(&self) -> Option<&Accelerator> {
        match self {
            Weight::Host(_) => None,
            Weight::Device(gpu, _) => Some(gpu),
        }
    }

    /// The matrix in the host's memory. Panics when a device has it: that is a mistake of the caller.
    pub fn host(&self) -> &Matrix {
        match self {
            Weight::Host(matrix) => matrix,
            Weight::Device(..) => panic!("weights of a device were taken for the host's"),
        }
    }

    /// The matrix in the host's memory, to be changed. Panics as [`Weight::host`] does.
    pub fn host_mut(&mut self) -> &mut Matrix {
        match self {
            Weight::Host(matrix) => matrix,
            Weight::Device(..) => panic!("weights of a device were taken for the host's"),
        }
    }

    /// The matrix in a device's memory. Panics when the host has it.
    pub(super) fn device(&self) -> &PackedMatrix<Memory> {
        match self {
            Weight::Host(_) => panic!("weights of the host were taken for a device's"),
            Weight::Device(_, matrix) => matrix,
        }
    }

    /// The matrix, brought to the host if a device has it.
    ///
    /// # Errors
    /// What the device meets.
    pub fn read(&self) -> Result<Cow<'_, Matrix>> {
        match self {
            Weight::Host(matrix) => Ok(Cow::Borrowed(matrix)),
            Weight::Device(gpu, matrix) => Ok(Cow::Owned(matrix.to_matrix(gpu)?)),
        }
    }

    /// The same matrix once more, at the same place.
    ///
    /// # Errors
    /// What the device meets.
    pub fn copy(&self) -> Result<Weight> {
        match self {
            Weight::Host(matrix) => Ok(Weight::Host(matrix.clone())),
            Weight::Device(gpu, matrix) => {
                let matrix = matrix.to_matrix(gpu)?;
                Ok(Weight::Device(gpu.clone(), PackedMatrix::upload(gpu, &matrix)?))
            }
        }
    }

    /// Moves to where `exec` computes, if it is elsewhere.
    ///
    /// # Errors
    /// A device without memory; what else it meets. The weights are where they were then.
    pub fn bring(&mut self, exec: Exec) -> Result<()> {
        match (&*self, exec.gpu) {
            (Weight::Host(_), None) | (Weight::Device(..), Some(_)) => {}
            (Weight::Host(matrix), Some(gpu)) => {
                *self = Weight::Device(gpu.clone(), PackedMatrix::upload(gpu, matrix)?);
            }
            (Weight::Device(gpu, matrix), None) => *self = Weight::Host(matrix.to_matrix(gpu)?),
        }
        Ok(())
    }

    /// Becomes what `change` makes of it, at the same place.
    ///
    /// # Errors
    /// What the device meets.
    pub fn replace(&mut self, change: impl FnOnce(&Matrix) -> Matrix) -> Result<()> {
        let changed = change(&*self.read()?);
        *self = match &*self {
            Weight::Host(_) => Weight::Host(changed),
            Weight::Device(gpu, _) => Weight::Device(gpu.clone(), PackedMatrix::upload(gpu, &changed)?),
        };
        Ok(())
    }

    /// A matrix of f32 values, row by row, in the host's memory.
    pub fn from_f32(pool: &Pool, shape: [usize; 2], values: &[f32]) -> Weight {
        Weight::Host(Matrix::from_f32(pool, shape, values))
    }
}
