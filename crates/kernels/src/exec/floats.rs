//! f32 values where they are computed with: in the host's memory, or in a GPU's.

use super::Exec;
use crate::device::{Accelerator, DeviceBuffer, Gpu, Memory, Result};
use std::borrow::Cow;

/// Values on their way through the network. The buffer grows to what the largest call needs, and is used again.
#[derive(Debug)]
pub struct Floats {
    place: Place,
    /// Values; a device's memory may have room for more.
    len: usize,
}

#[derive(Debug)]
enum Place {
    Host(Vec<f32>),
    Device(Memory),
}

impl Default for Floats {
    fn default() -> Floats {
        Floats::from(Vec::new())
    }
}

impl From<Vec<f32>> for Floats {
    fn from(values: Vec<f32>) -> Floats {
        Floats { len: values.len(), place: Place::Host(values) }
    }
}

impl Floats {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device that has them, if one has.
    pub fn owner(&self) -> Option<&Accelerator> {
        match &self.place {
            Place::Host(_) => None,
            Place::Device(memory) => Some(memory.owner()),
        }
    }

    /// The values in the host's memory. Panics when a device has them: that is a mistake of the caller.
    pub fn host(&self) -> &[f32] {
        match &self.place {
            Place::Host(values) => values,
            Place::Device(_) => panic!("values of a device were taken for the host's"),
        }
    }

    /// The values in the host's memory, to be changed, but not their number. Panics as [`Floats::host`] does.
    pub fn host_mut(&mut self) -> &mut [f32] {
        match &mut self.place {
            Place::Host(values) => values,
            Place::Device(_) => panic!("values of a device were taken for the host's"),
        }
    }

    /// The device's memory. Panics when the host has the values.
    pub fn memory(&self) -> &Memory {
        match &self.place {
            Place::Host(_) => panic!("values of the host were taken for a device's"),
            Place::Device(memory) => memory,
        }
    }

    /// The values, brought to the host if a device has them.
    ///
    /// # Errors
    /// What the device meets.
    pub fn read(&self) -> Result<Cow<'_, [f32]>> {
        match &self.place {
            Place::Host(values) => Ok(Cow::Borrowed(values)),
            Place::Device(memory) => {
                let mut values = vec![0.0; self.len];
                download(memory, &mut values)?;
                Ok(Cow::Owned(values))
            }
        }
    }

    /// Takes other values, as many as there are, without moving to another place.
    ///
    /// # Errors
    /// What the device meets.
    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        assert_eq!(values.len(), self.len, "values");
        match &mut self.place {
            Place::Host(own) => own.copy_from_slice(values),
            Place::Device(memory) => upload(memory, values)?,
        }
        Ok(())
    }

    /// The same values once more, at the same place.
    ///
    /// # Errors
    /// What the device meets.
    pub fn copy(&self) -> Result<Floats> {
        match &self.place {
            Place::Host(values) => Ok(Floats::from(values.clone())),
            Place::Device(memory) => {
                let gpu = memory.owner();
                let to = gpu.alloc(4 * self.len)?;
                crate::device::launch::moves::copy(gpu, memory, 0, &to, 0, self.len)?;
                Ok(Floats { place: Place::Device(to), len: self.len })
            }
        }
    }

    /// Whether they are where `exec` computes.
    pub fn is_on(&self, exec: Exec) -> bool {
        match (&self.place, exec.gpu) {
            (Place::Host(_), None) | (Place::Device(_), Some(_)) => true,
            (Place::Host(_), Some(_)) | (Place::Device(_), None) => false,
        }
    }
}

impl Exec<'_> {
    /// Makes room for `len` values here. Those that were there before may be lost.
    ///
    /// # Errors
    /// A device without memory.
    pub fn resize(&self, floats: &mut Floats, len: usize) -> Result<()> {
        match (&mut floats.place, self.gpu) {
            (Place::Host(values), None) => values.resize(len, 0.0),
            (Place::Device(memory), Some(_)) if memory.bytes() >= 4 * len => {}
            (place, Some(gpu)) => *place = Place::Device(gpu.alloc(4 * len)?),
            (place, None) => *place = Place::Host(vec![0.0; len]),
        }
        floats.len = len;
        Ok(())
    }

    /// Brings values here, if they are elsewhere.
    ///
    /// # Errors
    /// What the device meets.
    pub fn bring(&self, floats: &mut Floats) -> Result<()> {
        if floats.is_on(*self) {
            return Ok(());
        }
        let values = floats.read()?;
        let place = match self.gpu {
            None => Place::Host(values.into_owned()),
            Some(gpu) => {
                let memory = gpu.alloc(4 * floats.len)?;
                upload(&memory, &values)?;
                Place::Device(memory)
            }
        };
        floats.place = place;
        Ok(())
    }

    /// Takes values of the host here.
    ///
    /// # Errors
    /// What the device meets.
    pub fn set(&self, floats: &mut Floats, values: &[f32]) -> Result<()> {
        self.resize(floats, values.len())?;
        floats.write(values)
    }
}

/// Writes values to the beginning of a device's memory.
pub(super) fn upload(memory: &Memory, values: &[f32]) -> Result<()> {
    // SAFETY: f32 has no padding, so its bytes may be read; the length is that of `values`.
    let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
    memory.owner().upload(memory, 0, bytes)
}

/// Reads the beginning of a device's memory.
pub(super) fn download(memory: &Memory, values: &mut [f32]) -> Result<()> {
    let bytes = size_of_val(values);
    // SAFETY: any four bytes are an f32, and nobody else holds `values`.
    let data = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), bytes) };
    memory.owner().download(memory, 0, data)
}

impl Floats {
    /// The host's vector; an empty one where a device has the values.
    pub(super) fn into_vec(self) -> Vec<f32> {
        match self.place {
            Place::Host(values) => values,
            Place::Device(_) => Vec::new(),
        }
    }
}
