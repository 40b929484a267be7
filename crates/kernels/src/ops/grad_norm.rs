//! How large gradients are: for clipping, and for finding out that something went wrong.
//!
//! ```text
//!   norm = sqrt(sum over all gradients of g²)        clipping: g ← g · min(1, max_norm / norm)
//! ```
//!
//! Sums are in f64, in which no square of an f32 overflows, vanishes or is rounded. So the sum answers two more
//! questions: it is NaN or infinite exactly if an element is, and 0 exactly if all are.
//!
//! Its order is fixed: blocks of 16384 elements, each in 32 lanes that are added up as a tree, and then the blocks from
//! first to last. Threads and instruction sets do not change a bit.

use super::rows::at_least;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};

/// Elements of a task.
const BLOCK: usize = 1 << 14;

/// `sum of x²`. `scratch` grows to a number for each 16384 elements.
///
/// Sums of several tensors are added up by the caller, always in the same order.
pub fn sum_of_squares(pool: &Pool, x: &[f32], scratch: &mut Vec<f64>) -> f64 {
    let sums = at_least(scratch, x.len().div_ceil(BLOCK));
    let shares = Shares::new(sums);
    pool.run_ranges(x.len(), BLOCK, |range| {
        let block = range.start / BLOCK;
        // SAFETY: a task writes the sum of its own block.
        unsafe { shares.get(block..block + 1)[0] = dispatch(SumOfSquares(&x[range])) };
    });
    sums.iter().sum()
}

struct SumOfSquares<'a>(&'a [f32]);

impl Kernel for SumOfSquares<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<I: Isa>(self, _: I) -> f64 {
        let mut sums = [0f64; LANES];
        let (vectors, rest) = self.0.as_chunks::<LANES>();
        for x in vectors {
            for i in 0..LANES {
                sums[i] += f64::from(x[i]) * f64::from(x[i]);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(rest) {
            *sum += f64::from(x) * f64::from(x);
        }
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                sums[i] += sums[i + half];
            }
            half /= 2;
        }
        sums[0]
    }
}

/// The formula, from first to last.
pub fn reference(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{lengths, normal};
    use crate::simd::{IsaKind, dispatch_to};

    #[test]
    fn matches_the_reference_with_equal_bits_on_every_instruction_set() {
        for len in lengths().chain([0, BLOCK]) {
            let x = normal(len, 1);
            let want = reference(&x);
            let plain = dispatch_to(IsaKind::Scalar, SumOfSquares(&x));
            assert!((plain - want).abs() <= 1e-13 * want, "{len}: {plain} {want}");
            for kind in IsaKind::available() {
                let found = dispatch_to(kind, SumOfSquares(&x));
                assert_eq!(found.to_bits(), plain.to_bits(), "{} {len}", kind.name());
            }
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        let mut scratch = Vec::new();
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 77] {
            let x = normal(len, 1);
            let [one, three] =
                [1, 3].map(|threads| sum_of_squares(&Pool::new(threads), &x, &mut scratch).to_bits());
            assert_eq!(one, three, "{len}");
            assert!((f64::from_bits(one) - reference(&x)).abs() <= 1e-12 * reference(&x), "{len}");
        }
    }

    #[test]
    fn the_sum_tells_what_is_not_finite_and_what_is_zero() {
        let pool = Pool::new(2);
        let mut scratch = Vec::new();
        let mut x = vec![0.0f32; 3 * BLOCK + 5];
        x[7] = -0.0;
        assert_eq!(sum_of_squares(&pool, &x, &mut scratch), 0.0);
        assert_eq!(sum_of_squares(&pool, &[], &mut scratch), 0.0);
        for at in [0, 1500, BLOCK + 3, 3 * BLOCK + 4] {
            for (bad, is_expected) in [
                (f32::NAN, (|sum| sum.is_nan()) as fn(f64) -> bool),
                (f32::NEG_INFINITY, |sum| sum == f64::INFINITY),
                (f32::MAX, |sum| sum.is_finite() && sum > 1e76),
                (f32::from_bits(1), |sum| sum > 0.0 && sum < 1e-89),
            ] {
                x[at] = bad;
                let sum = sum_of_squares(&pool, &x, &mut scratch);
                assert!(is_expected(sum), "{bad} at {at}: {sum}");
            }
            x[at] = 0.0;
        }
    }
}
