//! What operations on rows have in common: tasks of whole rows, and sums over rows in one order.
//!
//! A parameter that is used in every row, such as a norm's weight, has a gradient that is a sum over rows.
//! Floating-point sums depend on their order, and the order must not depend on the number of threads. So rows are cut
//! into chunks whose size depends on the width alone; a task sums up one chunk, and then the chunks' sums are added up
//! from the first to the last:
//!
//! ```text
//!   rows 0..16   -> partial 0 \
//!   rows 16..32  -> partial 1  +-> sum += (partial 0 + partial 1) + partial 2
//!   rows 32..40  -> partial 2 /
//! ```

use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};
use std::ops::Range;

/// What happens to the gradient that is already in a buffer.
///
/// Gradients of activations are set, but a gradient that flows back into the residual stream is added: the stream went
/// past the block as well, and its own gradient is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// It is overwritten.
    Set,
    /// The new one is added to it.
    Add,
}

impl Write {
    /// Writes `value` to `out`: as many lanes as it takes.
    #[inline(always)]
    pub(super) fn store<I: Isa>(self, isa: I, out: &mut [f32], value: I::F) {
        let value = match self {
            Write::Set => value,
            Write::Add => isa.add(isa.load_slice(out, 0.0), value),
        };
        isa.store_slice(out, value);
    }
}

/// Elements that are enough work for a task.
const GRAIN: usize = 1 << 13;

/// Calls `task` with ranges of elements that are whole rows of `width`, each enough work for a thread.
pub(super) fn for_rows(pool: &Pool, len: usize, width: usize, task: impl Fn(Range<usize>) + Sync) {
    assert!(width > 0 && len.is_multiple_of(width), "{len} elements are no rows of {width}");
    pool.run_ranges(len / width, GRAIN.div_ceil(width), |rows| task(rows.start * width..rows.end * width));
}

/// As [`for_rows`], with sums over the rows: `task` adds what its rows give to N partial sums of `width` elements,
/// which are zeros when it gets them; in the end they are added to `sums`. Without `sums` the tasks get none either.
///
/// `scratch` grows to the partial sums and can be used again by any other call.
pub(super) fn sum_over_rows<const N: usize>(
    pool: &Pool,
    [len, width]: [usize; 2],
    sums: Option<[&mut [f32]; N]>,
    scratch: &mut Vec<f32>,
    task: impl Fn(Range<usize>, Option<[&mut [f32]; N]>) + Sync,
) {
    let Some(sums) = sums else { return for_rows(pool, len, width, |range| task(range, None)) };
    assert!(width > 0 && len.is_multiple_of(width), "{len} elements are no rows of {width}");
    assert!(sums.iter().all(|sum| sum.len() == width), "size of a parameter's gradient, for rows of {width}");
    // At least 16 rows, so that there is little to add up afterwards.
    let rows = GRAIN.div_ceil(width).max(16);
    let chunks = (len / width).div_ceil(rows);
    let partials = at_least(scratch, chunks * N * width);
    let shares = Shares::new(partials);
    pool.run_ranges(len / width, rows, |range| {
        let first = range.start / rows * N;
        let partial = std::array::from_fn(|n| {
            // SAFETY: a task has the sums of its own chunk.
            let partial = unsafe { shares.get((first + n) * width..(first + n + 1) * width) };
            partial.fill(0.0);
            partial
        });
        task(range.start * width..range.end * width, Some(partial));
    });
    let partials = &*partials;
    for (n, sum) in sums.into_iter().enumerate() {
        let sum = Shares::new(sum);
        pool.run_ranges(width, GRAIN.div_ceil(chunks.max(1)).next_multiple_of(LANES), |columns| {
            // SAFETY: a task adds to its own columns.
            let sum = unsafe { sum.get(columns.clone()) };
            dispatch(AddUp { sum, partials, first: n * width + columns.start, stride: N * width });
        });
    }
}

/// The first `len` elements of a buffer, which grows if it has fewer.
pub(super) fn at_least<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}

/// `sum[i] += partials[first + i] + partials[first + stride + i] + ...`
struct AddUp<'a> {
    sum: &'a mut [f32],
    partials: &'a [f32],
    first: usize,
    stride: usize,
}

impl Kernel for AddUp<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (i, sum) in self.sum.chunks_mut(LANES).enumerate() {
            let mut total = isa.zero();
            let mut at = self.first + i * LANES;
            while at < self.partials.len() {
                total = isa.add(total, isa.load_slice(&self.partials[at..at + sum.len()], 0.0));
                at += self.stride;
            }
            Write::Add.store(isa, sum, total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_rows_are_complete_and_in_one_order() {
        for (rows, width) in [(0, 3), (1, 1), (15, 33), (16, 32), (17, 65), (1000, 7), (9000, 2)] {
            let x: Vec<f32> = (0..rows * width).map(|i| (i % 97) as f32 * 0.1).collect();
            let run = |threads| {
                let mut sums = [vec![1.0; width], vec![2.0; width]];
                let [a, b] = &mut sums;
                let mut scratch = vec![f32::NAN; 3];
                let size = [x.len(), width];
                sum_over_rows(&Pool::new(threads), size, Some([a, b]), &mut scratch, |range, partial| {
                    let [a, b] = partial.unwrap();
                    for row in x[range].chunks_exact(width) {
                        for c in 0..width {
                            a[c] += row[c];
                            b[c] -= row[c];
                        }
                    }
                });
                sums
            };
            let sums = run(1);
            assert_eq!(sums, run(4), "{rows} rows of {width}");
            for c in 0..width {
                let sum: f64 = x.iter().skip(c).step_by(width).map(|&x| f64::from(x)).sum();
                let bound = 1e-5 * sum.max(1.0);
                assert!((f64::from(sums[0][c]) - 1.0 - sum).abs() < bound, "{rows} rows of {width}");
                assert!((f64::from(sums[1][c]) - 2.0 + sum).abs() < bound, "{rows} rows of {width}");
            }
        }
    }
}
