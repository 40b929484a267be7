//! `x ← x + y`: what every block adds to the residual stream.
//!
//! Backward needs no code: the gradient of a sum is the gradient of both its terms. It goes into the block as dy, and
//! stays where it is as that of the stream, to which the block's first norm adds what comes out
//! ([`Write::Add`](super::Write::Add)).

use super::rows::for_rows;
use crate::pool::{Pool, Shares};

/// Adds `y` to `x`. Panics when sizes differ.
pub fn add(pool: &Pool, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "sizes of x and y");
    let x = Shares::new(x);
    for_rows(pool, y.len(), 1, |range| {
        // SAFETY: a task writes its own range.
        let x = unsafe { x.get(range.clone()) };
        for (x, y) in x.iter_mut().zip(&y[range]) {
            *x += y;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds() {
        let mut x: Vec<f32> = (0..20_000).map(|i| i as f32).collect();
        let y = x.clone();
        add(&Pool::new(2), &mut x, &y);
        assert!(x.iter().enumerate().all(|(i, &x)| x == 2.0 * i as f32));
    }
}
