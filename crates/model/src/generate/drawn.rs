//! What a token was drawn from: its log-probability there, and the tokens that could have been chosen.
//!
//! Reinforcement learning compares the probability that a token had when it was drawn with the one that it has after some
//! updates. The two are of one kind only if temperature and truncation are the same, so both are recorded here and
//! replayed in training ([`crate::training::Distribution`]).
//!
//! ```text
//!   z[v] = x[v] / temperature, or -infinity where v was cut off
//!   log p = z[token] - log(sum over v of e^z[v])
//! ```
//!
//! The arithmetic is that of [`wootz_kernels::ops::cross_entropy`], so the two have equal bits as long as the weights are
//! equal.

use wootz_kernels::ops::softmax::log_sum_exp;

/// How a token was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// Its log-probability among the tokens that could be chosen, at the temperature of the drawing.
    pub logprob: f32,
    /// The tokens that could be chosen; `None` for all.
    pub kept: Option<Kept>,
}

impl Drawn {
    /// Of a row of logits `[V]` that token `id` was drawn from. `z` is a buffer.
    ///
    /// # Panics
    /// When `id` is not below V.
    pub fn new(logits: &[f32], id: u32, scale: f32, kept: Option<Kept>, z: &mut Vec<f32>) -> Drawn {
        z.clear();
        z.extend(logits.iter().map(|x| x * scale));
        if let Some(kept) = &kept {
            kept.leave_out_others(z);
        }
        Drawn { logprob: z[id as usize] - log_sum_exp(z), kept }
    }
}

/// Some tokens of a vocabulary, in the smaller of two forms.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// Ids, ascending, and the size of the vocabulary.
    List(Box<[u32]>, usize),
    /// A bit for each token of the vocabulary, and its size.
    Bits(Box<[u32]>, usize),
}

impl Kept {
    /// Tokens by their ids, in any order and without repetition, of a vocabulary of `vocab`.
    pub fn new(mut ids: Vec<u32>, vocab: usize) -> Kept {
        let words = vocab.div_ceil(32);
        if ids.len() <= words {
            ids.sort_unstable();
            return Kept::List(ids.into(), vocab);
        }
        let mut bits = vec![0; words];
        ids.into_iter().for_each(|id| bits[id as usize / 32] |= 1 << (id % 32));
        Kept::Bits(bits.into(), vocab)
    }

    /// Tokens of the vocabulary.
    pub fn vocab(&self) -> usize {
        match self {
            Kept::List(_, vocab) | Kept::Bits(_, vocab) => *vocab,
        }
    }

    /// The ids, ascending.
    pub fn ids(&self) -> Vec<u32> {
        match self {
            Kept::List(ids, _) => ids.to_vec(),
            Kept::Bits(bits, _) => {
                let has = |id: &u32| bits[*id as usize / 32] >> (id % 32) & 1 == 1;
                (0..bits.len() as u32 * 32).filter(has).collect()
            }
        }
    }

    /// Sets the bits of all other tokens: token v is bit `v % 32` of word `v / 32`. `words` `[V / 32 rounded up]` are set.
    pub fn bits_of_others(&self, words: &mut [u32]) {
        match self {
            Kept::List(ids, _) => {
                words.fill(0);
                ids.iter().for_each(|&id| words[id as usize / 32] |= 1 << (id % 32));
            }
            Kept::Bits(bits, _) => words.copy_from_slice(bits),
        }
        for (i, word) in words.iter_mut().enumerate() {
            // Behind the last token there is none.
            let tokens = (self.vocab() - 32 * i).min(32);
            *word = !*word & (u32::MAX >> (32 - tokens));
        }
    }

    /// Sets the logits of all other tokens to -infinity.
    pub fn leave_out_others(&self, z: &mut [f32]) {
        const OUT: f32 = f32::NEG_INFINITY;
        match self {
            Kept::List(ids, _) => {
                let mut next = 0;
                for &id in ids.iter() {
                    z[next..id as usize].fill(OUT);
                    next = id as usize + 1;
                }
                z[next..].fill(OUT);
            }
            Kept::Bits(bits, _) => {
                for (z, &bits) in z.chunks_mut(32).zip(bits.iter()) {
                    for (i, z) in z.iter_mut().enumerate() {
                        *z = if bits >> i & 1 == 1 { *z } else { OUT };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_keep_the_same() {
        let vocab = 100;
        for ids in [vec![], vec![99], vec![40, 3, 64], (0..100).filter(|id| id % 7 != 2).collect()] {
            let kept = Kept::new(ids.clone(), vocab);
            assert_eq!(matches!(kept, Kept::List(..)), ids.len() <= 4);
            let mut sorted = ids;
            sorted.sort_unstable();
            assert_eq!(kept.ids(), sorted);
            let mut z: Vec<f32> = (0..vocab).map(|i| i as f32).collect();
            kept.leave_out_others(&mut z);
            for (id, z) in z.into_iter().enumerate() {
                let expected = if sorted.contains(&(id as u32)) { id as f32 } else { f32::NEG_INFINITY };
                assert_eq!(z, expected, "{id}");
            }
        }
    }

    #[test]
    fn what_is_left_sums_to_one() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 1.7).sin() * 5.0).collect();
        let kept = Kept::new(vec![3, 8, 21, 40], logits.len());
        let p =
            |id| f64::from(Drawn::new(&logits, id, 1.25, Some(kept.clone()), &mut Vec::new()).logprob).exp();
        assert!((kept.ids().into_iter().map(p).sum::<f64>() - 1.0).abs() < 1e-6);
        assert_eq!(p(4), 0.0);
        // Ratios are those of e^(x / temperature).
        let ratio = (f64::from(logits[8] - logits[21]) * 1.25).exp();
        assert!((p(8) / p(21) / ratio - 1.0).abs() < 1e-5);
    }
}
