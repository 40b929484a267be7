//! Random numbers that are the same on every machine, thread and resume: each is a function of its position.
//!
//! Squares-style counters would do; this is SplitMix64's finaliser over `key + n · golden ratio`, whose output passes
//! the usual batteries and costs three multiplications.

/// A stream of random numbers. Number `n` of stream (seed, stream) never depends on what was drawn before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    key: u64,
    counter: u64,
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream `stream` of `seed`, at its beginning.
    pub fn new(seed: u64, stream: u64) -> Rng {
        Rng { key: mix(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ stream), counter: 0 }
    }

    /// What tells the stream apart, for [`Rng::at`] on a GPU.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// The stream's number `index`.
    pub fn at(&self, index: u64) -> u64 {
        mix(self.key.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// The next number.
    #[allow(clippy::should_implement_trait)] // an iterator that never ends would only add unwraps
    pub fn next(&mut self) -> u64 {
        self.counter += 1;
        self.at(self.counter - 1)
    }

    /// Uniform in [0, 1), in steps of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// Normal with mean 0 and variance 1 (Box and Muller).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * f64::from(1.0 - self.uniform()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * f64::from(self.uniform())).cos()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_depends_on_its_position_alone() {
        let mut rng = Rng::new(7, 3);
        let drawn: Vec<u64> = (0..5).map(|_| rng.next()).collect();
        assert_eq!(drawn, (0..5).map(|i| Rng::new(7, 3).at(i)).collect::<Vec<_>>());
        assert_ne!(Rng::new(7, 4).next(), drawn[0]);
        assert_ne!(Rng::new(8, 3).next(), drawn[0]);
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut rng = Rng::new(0, 0);
        let n = 200_000;
        let uniform = (0..n).map(|_| f64::from(rng.uniform())).sum::<f64>() / f64::from(n);
        assert!((uniform - 0.5).abs() < 3e-3, "{uniform}");
        let (mut mean, mut square) = (0.0, 0.0);
        for _ in 0..n {
            let x = f64::from(rng.normal());
            (mean, square) = (mean + x, square + x * x);
        }
        let n = f64::from(n);
        assert!((mean / n).abs() < 1e-2 && (square / n - 1.0).abs() < 2e-2, "{mean} {square}");
    }
}
