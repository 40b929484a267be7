//! Moving words and rows about on a GPU: kernels and launches. What they do stands in `ops/moves.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{Binding, Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&COPY, &GATHER, &SCATTER, &FILL];

const fn kernel(name: &'static str, buffers: &'static [Binding]) -> Kernel {
    Kernel {
        name,
        entry: name,
        wgsl: Wgsl::plain(&[include_str!("../../ops/elements.wgsl"), include_str!("../../ops/moves.wgsl")]),
        cuda: None,
        workgroup: [256, 1, 1],
        buffers,
        scalars: &[ScalarKind::U32; 6],
    }
}

/// A stretch of words into another buffer.
pub static COPY: Kernel = kernel("moves_copy", &[read(0, "words_in"), write(1, "words_out")]);

/// Rows from where ids say.
pub static GATHER: Kernel =
    kernel("moves_gather", &[read(0, "words_in"), write(1, "words_out"), read(2, "ids")]);

/// Rows to where ids say.
pub static SCATTER: Kernel =
    kernel("moves_scatter", &[read(0, "words_in"), write(1, "words_out"), read(2, "ids")]);

/// One word to many places.
pub static FILL: Kernel = kernel("moves_fill", &[write(1, "words_out")]);

/// `to[to_first + i] = from[from_first + i]` for `count` words of 32 bits. `from` and `to` are different buffers.
///
/// # Errors
/// Buffers that are too small; what [`Gpu::launch`] meets.
pub fn copy<G: Gpu>(
    gpu: &G,
    from: &G::Buffer,
    from_first: usize,
    to: &G::Buffer,
    to_first: usize,
    count: usize,
) -> Result<()> {
    let place = COPY.name;
    check_words(place, "from", from, from_first, count)?;
    check_words(place, "to", to, to_first, count)?;
    if count == 0 {
        return Ok(());
    }
    let scalars = scalars([count, from_first, to_first, 1, 0], 0);
    // SAFETY: the kernel touches these words of both buffers: checked above.
    unsafe { gpu.launch(&COPY, &[from, to], &scalars, fold(place, count.div_ceil(256))?) }
}

/// `to[first + i] = word` for `count` words of 32 bits.
///
/// # Errors
/// As [`copy`].
pub fn fill<G: Gpu>(gpu: &G, to: &G::Buffer, first: usize, count: usize, word: u32) -> Result<()> {
    let place = FILL.name;
    check_words(place, "to", to, first, count)?;
    if count == 0 {
        return Ok(());
    }
    let scalars = scalars([count, 0, first, 1, 0], word);
    // SAFETY: the kernel touches these words: checked above.
    unsafe { gpu.launch(&FILL, &[to], &scalars, fold(place, count.div_ceil(256))?) }
}

/// Some rows out of many.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Rows that are moved.
    pub rows: usize,
    /// Words of 32 bits of a row.
    pub width: usize,
    /// Rows of the side that ids name rows of.
    pub total: usize,
}

impl Rows {
    /// `to[i, :] = from[ids[i], :]`.
    ///
    /// `from`: `[total, width]`; `ids`: `[rows]` u32; `to`: `[rows, width]`, a buffer of its own. An id that is not below
    /// total gives zeros: who makes the ids has checked them.
    ///
    /// # Errors
    /// As [`copy`].
    pub fn gather<G: Gpu>(&self, gpu: &G, from: &G::Buffer, ids: &G::Buffer, to: &G::Buffer) -> Result<()> {
        self.launch(gpu, &GATHER, [("from", from, self.total), ("to", to, self.rows)], ids)
    }

    /// `to[ids[i], :] = from[i, :]`; the other rows stay.
    ///
    /// `from`: `[rows, width]`; `ids`: `[rows]` u32, none of them twice; `to`: `[total, width]`, a buffer of its own. An id
    /// that is not below total is passed over: who makes the ids has checked them.
    ///
    /// # Errors
    /// As [`copy`].
    pub fn scatter<G: Gpu>(&self, gpu: &G, from: &G::Buffer, ids: &G::Buffer, to: &G::Buffer) -> Result<()> {
        self.launch(gpu, &SCATTER, [("from", from, self.rows), ("to", to, self.total)], ids)
    }

    /// The sides with their numbers of rows.
    fn launch<G: Gpu>(
        &self,
        gpu: &G,
        kernel: &'static Kernel,
        sides: [(&str, &G::Buffer, usize); 2],
        ids: &G::Buffer,
    ) -> Result<()> {
        let place = kernel.name;
        for (name, buffer, rows) in sides {
            check_size(place, name, buffer, elements(place, rows, self.width)?, 4)?;
        }
        check_size(place, "ids", ids, self.rows, 4)?;
        let count = elements(place, self.rows, self.width)?;
        if count == 0 {
            return Ok(());
        }
        let scalars = scalars([count, 0, 0, self.width, elements(place, self.total, 1)?], 0);
        let [from, to] = sides.map(|(_, buffer, _)| buffer);
        // SAFETY: the kernel touches rows * width and total * width words of the sides, and rows ids: checked above.
        unsafe { gpu.launch(kernel, &[from, to, ids], &scalars, fold(place, count.div_ceil(256))?) }
    }
}

/// Checks that `buffer` has `count` words from `first` on, and that they can be counted in 32 bits.
fn check_words<B: super::DeviceBuffer>(
    place: &'static str,
    name: &str,
    buffer: &B,
    first: usize,
    count: usize,
) -> Result<()> {
    check_size(place, name, buffer, elements(place, first.saturating_add(count), 1)?, 4)
}

/// The kernels' scalars: count, first words, width and total, which fit 32 bits, and the word.
fn scalars(numbers: [usize; 5], word: u32) -> [Scalar; 6] {
    let [count, from, to, width, total] = numbers.map(|value| Scalar::U32(value as u32));
    [count, from, to, width, total, Scalar::U32(word)]
}
