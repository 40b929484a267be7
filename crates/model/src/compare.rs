//! What a change of the weights has cost (quantising, merging, rounding): how far the next tokens' probabilities are from
//! those of the original.
//!
//! For each position the Kullback-Leibler divergence `Σ p (log p - log q)` of the changed model's probabilities q from
//! the original's p, in nats: 0 where they are equal. The two models run one after the other; the logits of the first wait
//! in memory.

use std::fmt;

use wootz_kernels::ops::attention::CacheType;

use crate::decoder::{Chunk, Model, Rows, Scratch};
use crate::error::{Result, fail};

/// Tokens of a forward pass.
const STEP: usize = 64;

/// Logits of every position of some texts.
pub struct Logits {
    vocab: usize,
    values: Vec<f32>,
}

impl Logits {
    /// Logits that were found elsewhere: rows of `vocab` values.
    pub fn new(vocab: usize, values: Vec<f32>) -> Logits {
        Logits { vocab, values }
    }
}

/// How far a model is from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Positions that were compared.
    pub positions: usize,
    /// Divergence in nats, the mean over positions.
    pub mean: f64,
    /// The largest of a position.
    pub largest: f64,
    /// Share of the positions whose likeliest token is the same.
    pub same_top: f64,
    /// The largest difference of a logit.
    pub difference: f32,
}

/// The logits of all positions of `texts`, each from its own beginning and cut to the model's reach.
///
/// # Errors
/// A token that the model does not have.
pub fn logits(model: &Model, texts: &[Vec<u32>]) -> Result<Logits> {
    let reach = model.config().max_seq;
    let mut scratch = Scratch::default();
    let mut values = Vec::new();
    for text in texts {
        let text = &text[..text.len().min(reach)];
        let mut cache = model.new_cache(text.len(), CacheType::F32)?;
        for tokens in text.chunks(STEP) {
            let chunk = Chunk { tokens, cache: &mut cache, logits: Rows::All };
            values.extend_from_slice(model.forward(&mut scratch, &mut [chunk])?);
        }
    }
    Ok(Logits { vocab: model.config().vocab_size, values })
}

/// Compares the logits of a model with those of the original, for the same texts.
///
/// # Errors
/// They are not of the same texts and vocabulary; a logit is not a number.
pub fn compare(original: &Logits, found: &Logits) -> Result<Comparison> {
    if original.vocab != found.vocab || original.values.len() != found.values.len() {
        fail!(
            "expected {} logits of {} tokens, found {} of {}",
            original.values.len(),
            original.vocab,
            found.values.len(),
            found.vocab
        );
    }
    let vocab = original.vocab.max(1);
    let rows = original.values.chunks_exact(vocab).zip(found.values.chunks_exact(vocab));
    let mut all =
        Comparison { positions: rows.len(), mean: 0.0, largest: 0.0, same_top: 0.0, difference: 0.0 };
    for (p, q) in rows {
        let divergence = divergence(p, q);
        if !divergence.is_finite() {
            fail!("the divergence of a position is {divergence}: a logit is not finite");
        }
        all.mean += divergence;
        all.largest = all.largest.max(divergence);
        all.difference = p.iter().zip(q).map(|(p, q)| (p - q).abs()).fold(all.difference, f32::max);
        all.same_top += f64::from(u8::from(top(p) == top(q)));
    }
    let count = all.positions.max(1) as f64;
    (all.mean, all.same_top) = (all.mean / count, all.same_top / count);
    Ok(all)
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} positions: KL divergence {:.2e} nats on average, {:.2e} at the most; the same likeliest token in {:.1} %; \
             logits at most {:.1e} apart",
            self.positions,
            self.mean,
            self.largest,
            100.0 * self.same_top,
            self.difference
        )
    }
}

/// Of q from p, given as logits, in f64.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let normaliser = |x: &[f32]| {
        let largest = f64::from(x.iter().fold(f32::NEG_INFINITY, |a, &x| a.max(x)));
        largest + x.iter().map(|&x| (f64::from(x) - largest).exp()).sum::<f64>().ln()
    };
    let (of_p, of_q) = (normaliser(p), normaliser(q));
    let terms = p.iter().zip(q).map(|(&p, &q)| {
        let (p, q) = (f64::from(p) - of_p, f64::from(q) - of_q);
        // What cannot be costs nothing.
        if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
    });
    let sum = terms.sum::<f64>();
    // Rounding may leave less than nothing; what is no number stays so.
    if sum < 0.0 { 0.0 } else { sum }
}

fn top(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(values: &[f32]) -> Logits {
        Logits::new(2, values.to_vec())
    }

    #[test]
    fn equal_is_zero_and_constants_do_not_matter() {
        let found = compare(&logits(&[1.0, 2.0, -3.0, 4.0]), &logits(&[11.0, 12.0, -3.0, 4.0])).unwrap();
        assert!(found.mean.abs() < 1e-12 && found.largest.abs() < 1e-12, "{found:?}");
        assert_eq!((found.positions, found.same_top), (2, 1.0));
    }

    #[test]
    fn divergence_is_that_of_the_formula() {
        // p = (3/4, 1/4), q = (1/4, 3/4): (3/4 - 1/4) ln 3.
        let (p, q) = ([3f32.ln(), 0.0], [0.0, 3f32.ln()]);
        let found = compare(&logits(&[p, p].concat()), &logits(&[q, p].concat())).unwrap();
        let expected = 0.5 * 3f64.ln();
        assert!((found.largest - expected).abs() < 1e-6 && (found.mean - expected / 2.0).abs() < 1e-6);
        assert_eq!(found.same_top, 0.5);
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        assert!(compare(&logits(&[1.0, 2.0]), &logits(&[1.0, 2.0, 3.0, 4.0])).is_err());
        assert!(compare(&logits(&[1.0, 2.0]), &logits(&[f32::NAN, 2.0])).is_err());
    }
}
