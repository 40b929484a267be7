//! Rotary position embedding: in each head of D values, the pair `(i, i + D/2)` turns by `position · frequency[i]`.
//!
//! ```text
//!   y[i]       = x[i] cos - x[i + D/2] sin
//!   y[i + D/2] = x[i + D/2] cos + x[i] sin
//! ```
//!
//! (Su et al. 2021, in the half-split order of the published weights. GGUF files of Llama have interleaved pairs;
//! their rows are put in this order when they are loaded.)
//!
//! Backward: y is a matrix times x, so dx is the transposed matrix times dy, which for a rotation is the one by the
//! negative angle. A magnitude is a factor of cosine and sine, in both directions:
//!
//! ```text
//!   dx[i]       = dy[i] cos + dy[i + D/2] sin
//!   dx[i + D/2] = dy[i + D/2] cos - dy[i] sin
//! ```

use super::rows::for_rows;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};

/// Angles' cosines and sines for some positions: `[rows, D/2]` each.
#[derive(Clone, Debug, Default)]
pub struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Angles {
    /// Cosines `[rows, D/2]`.
    pub fn cos(&self) -> &[f32] {
        &self.cos
    }

    /// Sines `[rows, D/2]`.
    pub fn sin(&self) -> &[f32] {
        &self.sin
    }

    /// Angles of a row: D/2.
    pub fn half(&self) -> usize {
        self.half
    }

    /// Fills in the angles of `positions`. `frequencies` `[D/2]` are in radians a position; `magnitude` multiplies
    /// cosines and sines (YaRN; 1 otherwise).
    ///
    /// The angle is the product in f32, as PyTorch has it; its cosine is rounded once.
    pub fn set(&mut self, positions: &[usize], frequencies: &[f32], magnitude: f32) {
        self.half = frequencies.len();
        self.cos.clear();
        self.sin.clear();
        for &position in positions {
            for &frequency in frequencies {
                let angle = f64::from(position as f32 * frequency);
                self.cos.push(angle.cos() as f32 * magnitude);
                self.sin.push(angle.sin() as f32 * magnitude);
            }
        }
    }
}

/// Turns `x` `[rows, heads · D]` in place, row r by the angles of row r. Panics when sizes differ.
pub fn forward(pool: &Pool, angles: &Angles, x: &mut [f32], heads: usize) {
    turn(pool, angles, x, heads, Direction::Forward);
}

/// Makes dx of dy, in place: turns `d` `[rows, heads · D]` back. Panics when sizes differ.
pub fn backward(pool: &Pool, angles: &Angles, d: &mut [f32], heads: usize) {
    turn(pool, angles, d, heads, Direction::Back);
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    Forward,
    Back,
}

fn turn(pool: &Pool, angles: &Angles, x: &mut [f32], heads: usize, direction: Direction) {
    let (half, rows) = (angles.half, angles.cos.len() / angles.half.max(1));
    let width = heads * 2 * half;
    let len = x.len();
    assert_eq!(len, rows * width, "{rows} rows of {heads} heads of {}", 2 * half);
    if len == 0 {
        return;
    }
    let x = Shares::new(x);
    for_rows(pool, len, width, |range| {
        let angle = range.start / width * half..range.end / width * half;
        let (cos, sin) = (&angles.cos[angle.clone()], &angles.sin[angle]);
        // SAFETY: a task turns its own rows.
        dispatch(Turn { x: unsafe { x.get(range) }, cos, sin, half, direction });
    });
}

/// Some rows, with their angles.
struct Turn<'a> {
    x: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    half: usize,
    direction: Direction,
}

impl Kernel for Turn<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let half = self.half;
        let rows = self.cos.len() / half;
        let width = self.x.len() / rows;
        let angles = self.cos.chunks_exact(half).zip(self.sin.chunks_exact(half));
        for (row, (cos, sin)) in self.x.chunks_exact_mut(width).zip(angles) {
            for head in row.chunks_exact_mut(2 * half) {
                let (first, second) = head.split_at_mut(half);
                let pairs = first.chunks_mut(LANES).zip(second.chunks_mut(LANES));
                for ((first, second), (cos, sin)) in pairs.zip(cos.chunks(LANES).zip(sin.chunks(LANES))) {
                    let (a, b) = (isa.load_slice(first, 0.0), isa.load_slice(second, 0.0));
                    let cos = isa.load_slice(cos, 0.0);
                    let sin = match self.direction {
                        Direction::Forward => isa.load_slice(sin, 0.0),
                        Direction::Back => isa.sub(isa.zero(), isa.load_slice(sin, 0.0)),
                    };
                    // Products are rounded before they are added, as PyTorch has it.
                    isa.store_slice(first, isa.sub(isa.mul(a, cos), isa.mul(b, sin)));
                    isa.store_slice(second, isa.add(isa.mul(b, cos), isa.mul(a, sin)));
                }
            }
        }
    }
}

/// The formula for one row, in f64: `x` `[heads · D]`, with the angles' cosines and sines `[D/2]`.
pub fn reference(x: &[f64], cos: &[f64], sin: &[f64]) -> Vec<f64> {
    let half = cos.len();
    let mut y = x.to_vec();
    for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
        for i in 0..half {
            y[i] = x[i] * cos[i] - x[i + half] * sin[i];
            y[i + half] = x[i + half] * cos[i] + x[i] * sin[i];
        }
    }
    y
}

/// The formula of the gradient for one row, in f64.
pub fn reference_backward(dy: &[f64], cos: &[f64], sin: &[f64]) -> Vec<f64> {
    let half = cos.len();
    let mut dx = dy.to_vec();
    for (dy, dx) in dy.chunks_exact(2 * half).zip(dx.chunks_exact_mut(2 * half)) {
        for i in 0..half {
            dx[i] = dy[i] * cos[i] + dy[i + half] * sin[i];
            dx[i + half] = dy[i + half] * cos[i] - dy[i] * sin[i];
        }
    }
    dx
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_derivative, assert_near, differences, dot, lengths, normal, wide};
    use crate::rng::Rng;
    use crate::simd::{IsaKind, dispatch_to};

    /// A pair is a complex number, turned by `e^(i angle)`.
    #[test]
    fn pairs_turn_as_complex_numbers() {
        let mut rng = Rng::new(1, 0);
        let (heads, half) = (3, 5);
        let frequencies: Vec<f32> = (0..half).map(|i| 10f32.powi(-(i as i32))).collect();
        let positions = [0, 1, 7, 1000];
        let x: Vec<f32> = (0..positions.len() * heads * 2 * half).map(|_| rng.normal()).collect();
        let mut y = x.clone();
        let mut angles = Angles::default();
        angles.set(&positions, &frequencies, 1.0);
        forward(&Pool::new(2), &angles, &mut y, heads);
        assert_eq!(x[..heads * 2 * half], y[..heads * 2 * half], "position 0 turns nothing");
        for (r, &position) in positions.iter().enumerate() {
            for h in 0..heads {
                for (i, &frequency) in frequencies.iter().enumerate() {
                    let at = (r * heads + h) * 2 * half + i;
                    let (re, im) = (f64::from(x[at]), f64::from(x[at + half]));
                    let angle = f64::from(position as f32 * frequency);
                    let want = (re * angle.cos() - im * angle.sin(), re * angle.sin() + im * angle.cos());
                    assert!((f64::from(y[at]) - want.0).abs() < 1e-6);
                    assert!((f64::from(y[at + half]) - want.1).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn reference_gradient_is_the_derivative() {
        let angles = [0.3f64, -2.0, 5.0];
        let (heads, half) = (2, angles.len());
        let [cos, sin] = [f64::cos, f64::sin].map(|f| angles.map(|a| 1.3 * f(a)));
        let [x, dy] = [1, 2].map(|seed| wide(&normal(heads * 2 * half, seed)));
        let dx = reference_backward(&dy, &cos, &sin);
        assert_derivative("dx", &dx, &differences(&x, |x| dot(&reference(x, &cos, &sin), &dy)));
    }

    #[test]
    fn both_directions_match_the_reference() {
        for half in lengths().filter(|&half| half < 200) {
            let [cos, sin] = [1, 2].map(|seed| normal(2 * half, seed));
            let x = normal(2 * 3 * 2 * half, 3);
            let (cos_, sin_, x_) = (wide(&cos), wide(&sin), wide(&x));
            for kind in IsaKind::available() {
                for direction in [Direction::Forward, Direction::Back] {
                    let mut y = x.clone();
                    dispatch_to(kind, Turn { x: &mut y, cos: &cos, sin: &sin, half, direction });
                    let mut plain = x.clone();
                    let turn = Turn { x: &mut plain, cos: &cos, sin: &sin, half, direction };
                    dispatch_to(IsaKind::Scalar, turn);
                    assert_eq!(y, plain, "{}: every operation is rounded once", kind.name());
                    for row in 0..2 {
                        let at = row * 6 * half..(row + 1) * 6 * half;
                        let (x, angle) = (&x_[at.clone()], row * half..(row + 1) * half);
                        let (cos, sin) = (&cos_[angle.clone()], &sin_[angle]);
                        let want = match direction {
                            Direction::Forward => reference(x, cos, sin),
                            Direction::Back => reference_backward(x, cos, sin),
                        };
                        let what = format!("{} {half} {direction:?}", kind.name());
                        assert_near(&what, &y[at], &want, 3e-7);
                    }
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_bits_and_back_undoes_forward() {
        let (heads, half, rows) = (3, 33, 200);
        let positions: Vec<usize> = (0..rows).map(|i| i * 7).collect();
        let frequencies: Vec<f32> = (0..half).map(|i| 0.9f32.powi(i as i32)).collect();
        let x = normal(rows * heads * 2 * half, 1);
        let mut angles = Angles::default();
        angles.set(&positions, &frequencies, 1.2);
        let run = |threads| {
            let mut y = x.clone();
            backward(&Pool::new(threads), &angles, &mut y, heads);
            y
        };
        let mut y = run(1);
        assert_eq!(y, run(3));
        forward(&Pool::new(2), &angles, &mut y, heads);
        // The magnitude counts both times.
        let want: Vec<f64> = x.iter().map(|&x| 1.44 * f64::from(x)).collect();
        assert_near("turned back and forth", &y, &want, 1e-6);
    }
}
