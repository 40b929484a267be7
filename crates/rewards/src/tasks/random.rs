//! Random numbers for problems: splitmix64, from <https://prng.di.unimi.it/splitmix64.c> (public domain).

/// The step from one state to the next: 2^64 over the golden ratio, made odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number that says nothing of the one it was made of: one step of splitmix64.
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A sequence of random numbers.
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    fn next(&mut self) -> u64 {
        let number = mix(self.state);
        self.state = self.state.wrapping_add(STEP);
        number
    }

    /// A number below `end`, which is not 0. (The high half of a product: its bias is `end` in 2^64.)
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `first` to `last`, both included.
    pub fn within(&mut self, first: usize, last: usize) -> usize {
        first + self.below((last - first + 1) as u64) as usize
    }

    /// One of several, which are not none.
    pub fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// So many digits.
    pub fn digits(&mut self, count: usize) -> String {
        (0..count).map(|_| self.choose(&['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_splitmix64() {
        // The first three for seed 1234567, by the reference.
        let mut random = Random::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.next(), random.next(), random.next()], expected);
    }

    #[test]
    fn all_numbers_of_a_range_occur() {
        let mut random = Random::new(1);
        let mut counts = [0; 6];
        for _ in 0..6000 {
            counts[random.within(2, 5)] += 1;
        }
        assert!(
            counts[..2] == [0, 0] && counts[2..].iter().all(|count| (1300..1700).contains(count)),
            "{counts:?}"
        );
    }
}
