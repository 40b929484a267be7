//! Little-endian numbers from a byte slice, each read checked against what is left.

use crate::Error;

/// A position in a file's bytes.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, position: 0 }
    }

    /// Bytes from the start of the file to here.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Bytes from here to the end of the file.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `count` bytes. `count` is as read from the file: it may be any number.
    pub fn take(&mut self, count: u64) -> Result<&'a [u8], Error> {
        let taken = usize::try_from(count)
            .ok()
            .and_then(|count| self.bytes.get(self.position..)?.get(..count))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "the file ends too early: {count} bytes expected at offset {}, {} are left",
                    self.position,
                    self.left()
                ))
            })?;
        self.position += taken.len();
        Ok(taken)
    }

    /// The next `count` items of `size` bytes each.
    pub fn take_items(&mut self, count: u64, size: usize) -> Result<&'a [u8], Error> {
        self.check_count(count, size)?;
        self.take(count * size as u64) // `check_count` has compared the product with the file's length
    }

    /// Fails unless `count` items of at least `size` bytes each can still come.
    pub fn check_count(&self, count: u64, size: usize) -> Result<(), Error> {
        match count.checked_mul(size as u64) {
            Some(bytes) if bytes <= self.left() as u64 => Ok(()),
            _ => Err(Error::invalid(format!(
                "{count} items of at least {size} bytes expected at offset {}, {} bytes are left",
                self.position,
                self.left()
            ))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let taken = self.take(N as u64)?;
        let mut array = [0; N];
        array.copy_from_slice(taken);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, Error> {
        self.array::<1>().map(|[b]| b)
    }

    pub fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Error> {
        self.array().map(i32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }
}

/// The first four bytes as a little-endian number: the magic of llm.c's files.
pub(crate) fn leading_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|&b| u32::from_le_bytes(b))
}

/// Little-endian 32-bit floats; a remainder of fewer than four bytes is left out.
pub(crate) fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// Little-endian signed 32-bit integers; a remainder of fewer than four bytes is left out.
pub(crate) fn i32s(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stop_at_the_end() {
        let mut r = Reader::new(&[1, 0, 0, 0, 2]);
        assert_eq!(r.u32().unwrap(), 1);
        assert!(r.u16().is_err());
        assert_eq!(r.u8().unwrap(), 2);
        assert_eq!(r.left(), 0);
    }

    #[test]
    fn counts_that_overflow_are_refused() {
        let mut r = Reader::new(&[0; 16]);
        for count in [3, 1 << 61, 1 << 63, u64::MAX] {
            assert!(r.take_items(count, 8).is_err(), "{count}");
        }
        assert_eq!(r.take_items(2, 8).unwrap().len(), 16);
        assert!(r.take(u64::MAX).is_err());
    }
}
