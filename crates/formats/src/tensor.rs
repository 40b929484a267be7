//! A tensor in a file: its name, type, shape and where its bytes are.

use std::io::{self, Write};
use std::ops::Range;

use wootz_kernels::DType;

use crate::Error;
use crate::error::quoted;

/// A tensor of an open file. Its bytes are those of the file, not a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorView<'a> {
    /// The name as the file has it.
    pub name: &'a str,
    /// Type of the elements.
    pub dtype: DType,
    /// Outermost dimension first, row-major: `[rows, columns]`.
    pub shape: &'a [usize],
    /// `dtype.bytes(shape)` bytes, little-endian. Their address has no alignment that one may rely on:
    /// safetensors files may place a tensor at any byte.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product() // fits: readers have computed it with checks
    }
}

/// What a parser finds out about a tensor: a [`TensorView`] without the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// The name as the file has it.
    pub name: String,
    /// Type of the elements.
    pub dtype: DType,
    /// Outermost dimension first, row-major.
    pub shape: Vec<usize>,
    /// Where the bytes are, counted from the start of the file; inside the file, `dtype.bytes(shape)` long.
    pub range: Range<usize>,
}

impl TensorEntry {
    /// The tensor in the bytes of the file that was parsed.
    ///
    /// # Panics
    ///
    /// When `file` is shorter than the file that was parsed.
    pub fn view<'a>(&'a self, file: &'a [u8]) -> TensorView<'a> {
        TensorView {
            name: &self.name,
            dtype: self.dtype,
            shape: &self.shape,
            bytes: &file[self.range.clone()],
        }
    }
}

/// A tensor that is to be written: all of it but its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name that the file gives it.
    pub name: String,
    /// Type of the elements.
    pub dtype: DType,
    /// Outermost dimension first, row-major.
    pub shape: Vec<usize>,
}

/// Writes the bytes of tensor `index` (of those that the writer was given), `dtype.bytes(shape)` of them,
/// little-endian and in as many pieces as it likes; so that no file need ever be in memory as a whole.
pub type Fill<'a> = dyn FnMut(usize, &mut dyn Write) -> io::Result<()> + 'a;

/// Calls `fill` for one tensor, and fails unless it wrote `expected` bytes.
pub(crate) fn write_exactly(
    file: &mut dyn Write,
    index: usize,
    spec: &TensorSpec,
    expected: usize,
    fill: &mut Fill<'_>,
) -> io::Result<()> {
    struct Counted<'a> {
        file: &'a mut dyn Write,
        bytes: usize,
    }
    impl Write for Counted<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let written = self.file.write(bytes)?;
            self.bytes += written;
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.file.flush()
        }
    }
    let mut counted = Counted { file, bytes: 0 };
    fill(index, &mut counted)?;
    if counted.bytes == expected {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "tensor {}: {} {:?} takes {expected} bytes, {} were written",
        quoted(&spec.name),
        spec.dtype,
        spec.shape,
        counted.bytes
    )))
}

/// Bytes of a tensor, or why there is no such tensor. `shape` is outermost first.
pub(crate) fn bytes_of(name: &str, dtype: DType, shape: &[usize]) -> Result<usize, Error> {
    dtype.bytes(shape).ok_or_else(|| {
        let inner = shape.last().copied().unwrap_or(1);
        let why = if inner.is_multiple_of(dtype.block_len()) {
            "its size overflows".to_owned()
        } else {
            format!("the innermost dimension must be a multiple of {}", dtype.block_len())
        };
        Error::invalid(format!("tensor {}: shape {shape:?} of {dtype}: {why}", quoted(name)))
    })
}

/// Lays tensors one after the other, as llm.c and llama2.c do: no header of their own, no padding.
pub(crate) struct Layout {
    file_len: usize,
    position: usize,
    pub entries: Vec<TensorEntry>,
}

impl Layout {
    /// Starts behind `header` bytes of a file of `file_len` bytes.
    pub fn new(header: usize, file_len: usize) -> Self {
        Layout { file_len, position: header, entries: Vec::new() }
    }

    /// The next tensor, or an error if it does not fit into the file.
    pub fn push(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<(), Error> {
        let range = self.skip(name, dtype, shape)?;
        self.entries.push(TensorEntry { name: name.to_owned(), dtype, shape: shape.to_vec(), range });
        Ok(())
    }

    /// As [`Layout::push`], for what the file holds and nobody needs.
    pub fn skip(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<Range<usize>, Error> {
        let bytes = bytes_of(name, dtype, shape)?;
        let start = self.position;
        match start.checked_add(bytes) {
            Some(end) if end <= self.file_len => {
                self.position = end;
                Ok(start..end)
            }
            _ => Err(Error::invalid(format!(
                "tensor {name:?} {shape:?} of {dtype} takes {bytes} bytes at offset {start}, and the file has {}; \
                 is it cut short?",
                self.file_len
            ))),
        }
    }

    /// Fails if bytes are left over: then the header does not describe this file.
    pub fn finish(self) -> Result<Vec<TensorEntry>, Error> {
        if self.position != self.file_len {
            return Err(Error::invalid(format!(
                "the header describes {} bytes, the file has {}",
                self.position, self.file_len
            )));
        }
        Ok(self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_follows_on_and_ends_with_the_file() {
        let mut layout = Layout::new(4, 4 + 24 + 8);
        layout.push("a", DType::F32, &[2, 3]).unwrap();
        layout.push("b", DType::BF16, &[4]).unwrap();
        assert_eq!(layout.entries[1].range, 28..36);
        assert!(layout.push("c", DType::I8, &[1]).is_err());
        assert_eq!(layout.finish().unwrap().len(), 2);
        assert!(Layout::new(4, 5).finish().is_err());
        assert!(Layout::new(4, 5).push("x", DType::F32, &[usize::MAX, 3]).is_err());
    }
}
