//! A random order that takes no memory: a permutation that is computed, one number at a time.
//!
//! A Feistel network shuffles the numbers below a power of 4 (Luby and Rackoff, 1988); a result that is too large is
//! shuffled again until it fits (cycle walking: Black and Rogaway, 2002), which takes four steps on average at the
//! most. The functions of the rounds are SplitMix64's finaliser, keyed by seed and epoch.

const ROUNDS: usize = 8;

/// A permutation of the numbers `0..n`.
#[derive(Clone, Debug)]
pub struct Permutation {
    n: u64,
    /// Bits of each half.
    half: u32,
    keys: [u64; ROUNDS],
}

/// SplitMix64's finaliser, a bijection on 64 bits.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Permutation {
    /// The permutation that `seed` and `epoch` name, the same on every machine.
    pub fn new(n: u64, seed: u64, epoch: u64) -> Self {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let base = mix(mix(seed.wrapping_add(GOLDEN)) ^ epoch.wrapping_mul(GOLDEN));
        let mut keys = [0; ROUNDS];
        for (round, key) in (1u64..).zip(&mut keys) {
            *key = mix(base.wrapping_add(round.wrapping_mul(GOLDEN)));
        }
        Permutation { n, half: bits.div_ceil(2).max(1), keys }
    }

    /// Where number `i` goes. What is not below `n` stays.
    pub fn at(&self, i: u64) -> u64 {
        if i >= self.n {
            return i;
        }
        let mut number = i;
        loop {
            number = self.shuffle(number);
            if number < self.n {
                return number;
            }
        }
    }

    fn shuffle(&self, number: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (number >> self.half, number & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_comes_once(n in 1u64..3000, seed: u64, epoch: u64) {
            let order = Permutation::new(n, seed, epoch);
            let mut seen = vec![false; n as usize];
            for i in 0..n {
                let at = order.at(i) as usize;
                prop_assert!(!std::mem::replace(&mut seen[at], true), "{at} twice");
            }
        }

        #[test]
        fn large_ranges_stay_in_range(n in 1u64.., seed: u64, part in 0.0..1.0f64) {
            let order = Permutation::new(n, seed, 0);
            let i = ((n as f64 * part) as u64).min(n - 1);
            prop_assert!(order.at(i) < n);
        }
    }

    #[test]
    fn seeds_and_epochs_give_other_orders() {
        let orders: Vec<Vec<u64>> = [(1, 0), (1, 1), (2, 0), (0, 1)]
            .map(|(seed, epoch)| (0..1000).map(|i| Permutation::new(1000, seed, epoch).at(i)).collect())
            .into();
        for (i, a) in orders.iter().enumerate() {
            let in_place = a.iter().zip(0..).filter(|&(&at, i)| at == i).count();
            assert!(in_place < 12, "{in_place} of 1000 stay where they were");
            assert!(orders[..i].iter().all(|b| a.iter().zip(b).filter(|(a, b)| a == b).count() < 12));
        }
    }
}
