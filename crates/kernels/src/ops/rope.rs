//! Rotary position embedding: in each head of D values, the pair `(i, i + D/2)` turns by `position · frequency[i]`.
//!
//! ```text
//!   y[i]       = x[i] cos - x[i + D/2] sin
//!   y[i + D/2] = x[i + D/2] cos + x[i] sin
//! ```
//!
//! (Su et al. 2021, in the half-split order of the published weights. GGUF files of Llama have interleaved pairs;
//! their rows are put in this order when they are loaded.) A rotation's gradient is the rotation back.

use crate::pool::{Pool, Shares};

/// Angles' cosines and sines for some positions: `[rows, D/2]` each.
#[derive(Clone, Debug, Default)]
pub struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Angles {
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
    let (half, rows) = (angles.half, angles.cos.len() / angles.half.max(1));
    let width = heads * 2 * half;
    assert_eq!(x.len(), rows * width, "{rows} rows of {heads} heads of {}", 2 * half);
    let x = Shares::new(x);
    pool.run_ranges(rows, (1usize << 13).div_ceil(width.max(1)), |range| {
        for row in range {
            // SAFETY: a task turns its own rows.
            let x = unsafe { x.get(row * width..(row + 1) * width) };
            let (cos, sin) = (&angles.cos[row * half..][..half], &angles.sin[row * half..][..half]);
            for head in x.chunks_exact_mut(2 * half) {
                let (first, second) = head.split_at_mut(half);
                for i in 0..half {
                    let (a, b) = (first[i], second[i]);
                    first[i] = a * cos[i] - b * sin[i];
                    second[i] = b * cos[i] + a * sin[i];
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

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
}
