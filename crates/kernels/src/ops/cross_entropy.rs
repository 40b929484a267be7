//! Cross-entropy of the next token: the loss of every row of logits, and its gradient, written over them.
//!
//! ```text
//!   z[v]    = scale · cap · tanh(x[v] / cap)          only if the model has a soft-cap; else z = scale · x
//!   p[v]    = e^z[v] / sum over u of e^z[u]
//!   loss    = -log p[target] = log(sum of e^z) - z[target]
//!   entropy = -sum over v of p[v] log p[v]
//! ```
//!
//! Backward, for a row whose loss counts `weight` in the total:
//!
//! ```text
//!   dz[v] = weight · (p[v] - [v is the target])
//!   dx[v] = dz[v] · scale · (1 - (z[v] / (scale · cap))²)          the last factor with a soft-cap: tanh' = 1 - tanh²
//! ```
//!
//! For the derivative of log(sum of e^z) with respect to `z[v]` is `e^z[v] / sum = p[v]`. A probability that is too small
//! is pushed up, and the others down, in proportion to what they are.
//!
//! The weight is all that tells kinds of training apart: 1 / tokens for pretraining, 0 on the prompt in fine-tuning (or
//! a negative target, which costs nothing), advantages in reinforcement learning. There it may depend on the loss itself,
//! as a ratio of probabilities that is clipped does: then it is a function, which is called as soon as the loss is known.
//!
//! `-loss` has the bits of `x[target] - log_sum_exp(x)` ([`super::softmax`]): a log-probability is the same number
//! when it was sampled and when it is trained.

use super::rows::for_rows;
use super::softmax::Normaliser;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch, math};

/// Takes tokens out of a row, given its number and its logits, by setting theirs to -infinity; called from any thread.
pub type LeaveOut<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// How logits become probabilities.
#[derive(Clone, Copy)]
pub struct CrossEntropy<'a> {
    /// Tokens (V). A row may be longer: what follows is padding, with probability and gradient 0.
    pub vocab: usize,
    /// Logits are bent to stay within ±cap first (Gemma 2): see [`super::mlp::soft_cap`].
    pub soft_cap: Option<f32>,
    /// Multiplies logits: 1, or 1 / temperature. Positive.
    pub scale: f32,
    /// Tokens that a truncated sampling (top-k, top-p) could not have chosen: probability and gradient 0, and the others
    /// sum to 1.
    pub left_out: Option<LeaveOut<'a>>,
}

impl CrossEntropy<'_> {
    /// All tokens, as they are: the model's own distribution.
    pub fn plain(vocab: usize) -> Self {
        CrossEntropy { vocab, soft_cap: None, scale: 1.0, left_out: None }
    }

    /// The losses alone, for validation.
    ///
    /// `logits` `[R, V or more]` are left as z: capped and scaled. `targets` `[R]`: token ids, or negative for rows that
    /// do not count. `loss` and `entropy` `[R]` are set, in nats; to 0 for rows that do not count.
    ///
    /// Panics when sizes differ, or a target is not below V.
    pub fn forward(
        &self,
        pool: &Pool,
        logits: &mut [f32],
        targets: &[i32],
        loss: &mut [f32],
        entropy: Option<&mut [f32]>,
    ) {
        self.run(pool, logits, targets, None, loss, entropy);
    }

    /// As [`CrossEntropy::forward`], but `logits` become their own gradient: of the sum over rows of
    /// `weight · loss`, with `weights` `[R]`. Rows that do not count get zeros.
    pub fn backward(
        &self,
        pool: &Pool,
        logits: &mut [f32],
        targets: &[i32],
        weights: &[f32],
        loss: &mut [f32],
        entropy: Option<&mut [f32]>,
    ) {
        assert_eq!(weights.len(), targets.len(), "weights and targets");
        self.backward_with(pool, logits, targets, |row, _| weights[row], loss, entropy);
    }

    /// As [`CrossEntropy::backward`], with weights that depend on the losses: `weight(row, loss)` is called once for
    /// each row that counts, from any thread. For the gradient the weight is a constant: it is the derivative of the
    /// total with respect to the row's loss.
    pub fn backward_with(
        &self,
        pool: &Pool,
        logits: &mut [f32],
        targets: &[i32],
        weight: impl Fn(usize, f32) -> f32 + Sync,
        loss: &mut [f32],
        entropy: Option<&mut [f32]>,
    ) {
        self.run(pool, logits, targets, Some(&weight), loss, entropy);
    }

    fn run(
        &self,
        pool: &Pool,
        logits: &mut [f32],
        targets: &[i32],
        weight: Option<Weight>,
        loss: &mut [f32],
        entropy: Option<&mut [f32]>,
    ) {
        let (rows, len) = (targets.len(), logits.len());
        assert_eq!(loss.len(), rows, "losses and targets");
        assert!(entropy.as_ref().is_none_or(|entropy| entropy.len() == rows), "entropies and targets");
        if rows == 0 {
            assert_eq!(len, 0, "logits without targets");
            return;
        }
        let width = len / rows;
        assert!(
            len == rows * width && 0 < self.vocab && self.vocab <= width,
            "{rows} rows of {width} logits"
        );
        let wrong = targets.iter().find(|&&t| usize::try_from(t).is_ok_and(|t| t >= self.vocab));
        assert!(wrong.is_none(), "target {wrong:?} of {} tokens", self.vocab);

        let (logits, loss) = (Shares::new(logits), Shares::new(loss));
        let entropy = entropy.map(Shares::new);
        for_rows(pool, len, width, |range| {
            let rows = range.start / width..range.end / width;
            // SAFETY: a task has its own rows.
            let (logits, loss, entropy) = unsafe {
                (logits.get(range), loss.get(rows.clone()), entropy.as_ref().map(|e| e.get(rows.clone())))
            };
            let (first, targets) = (rows.start, &targets[rows]);
            dispatch(Rows { options: self, width, first, logits, targets, weight, loss, entropy });
        });
    }
}

/// What a row's loss counts, from the row's number and the loss.
type Weight<'a> = &'a (dyn Fn(usize, f32) -> f32 + Sync);

/// Some rows.
struct Rows<'a> {
    options: &'a CrossEntropy<'a>,
    width: usize,
    /// Number of the first.
    first: usize,
    logits: &'a mut [f32],
    targets: &'a [i32],
    /// With a gradient.
    weight: Option<Weight<'a>>,
    loss: &'a mut [f32],
    entropy: Option<&'a mut [f32]>,
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        for (r, row) in self.logits.chunks_exact_mut(self.width).enumerate() {
            let Ok(target) = usize::try_from(self.targets[r]) else {
                self.loss[r] = 0.0;
                if let Some(entropy) = &mut self.entropy {
                    entropy[r] = 0.0;
                }
                if self.weight.is_some() {
                    row.fill(0.0);
                }
                continue;
            };
            let (z, padding) = row.split_at_mut(self.options.vocab);
            self.options.transform(isa, z);
            if let Some(leave_out) = self.options.left_out {
                leave_out(self.first + r, z);
            }
            let normaliser = Normaliser::of(isa, z);
            self.loss[r] = -(z[target] - normaliser.log_sum_exp());
            if let Some(entropy) = &mut self.entropy {
                entropy[r] = row_entropy(isa, z, normaliser);
            }
            if let Some(weight) = self.weight {
                let weight = weight(self.first + r, self.loss[r]);
                self.options.gradient(isa, z, normaliser, target, weight);
                padding.fill(0.0);
            }
        }
    }
}

impl CrossEntropy<'_> {
    /// From logits to z.
    #[inline(always)]
    fn transform<I: Isa>(&self, isa: I, x: &mut [f32]) {
        if self.soft_cap.is_none() && self.scale == 1.0 {
            return;
        }
        for x in x.chunks_mut(LANES) {
            let mut z = isa.load_slice(x, 0.0);
            if let Some(cap) = self.soft_cap {
                z = math::soft_cap(isa, cap, z);
            }
            isa.store_slice(x, isa.mul(z, isa.splat(self.scale)));
        }
    }

    /// From z to dx.
    #[inline(always)]
    fn gradient<I: Isa>(&self, isa: I, z: &mut [f32], normaliser: Normaliser, target: usize, weight: f32) {
        let weight = weight * self.scale;
        let factor = isa.splat(weight / normaliser.sum);
        let cap = self.soft_cap.map(|cap| cap * self.scale);
        let mut of_target = isa.splat(weight);
        if let Some(cap) = cap {
            of_target = isa.mul(of_target, math::soft_cap_derivative(isa, cap, isa.splat(z[target])));
        }
        for x in z.chunks_mut(LANES) {
            let z = isa.load_slice(x, 0.0);
            let mut d = isa.mul(math::exp(isa, isa.sub(z, isa.splat(normaliser.largest))), factor);
            if let Some(cap) = cap {
                // What was left out is beyond the cap, and 0 times infinity would be NaN.
                let z = isa.max(isa.splat(-cap), z);
                d = isa.mul(d, math::soft_cap_derivative(isa, cap, z));
            }
            isa.store_slice(x, d);
        }
        let at = &mut z[target..target + 1];
        let d = isa.sub(isa.load_slice(at, 0.0), of_target);
        isa.store_slice(at, d);
    }
}

/// `log(sum) - mean of (z - largest)`, which is the entropy, for `-log p = log(sum) - (z - largest)`.
#[inline(always)]
fn row_entropy<I: Isa>(isa: I, z: &[f32], normaliser: Normaliser) -> f32 {
    let mut sum = isa.zero();
    for z in z.chunks(LANES) {
        let z = isa.sub(isa.load_slice(z, f32::NEG_INFINITY), isa.splat(normaliser.largest));
        // e^-100 counts as 0, and 0 · -inf would be NaN.
        let finite = isa.max(isa.splat(-100.0), z);
        sum = isa.fma(math::exp(isa, z), finite, sum);
    }
    normaliser.sum.ln() - isa.sum(sum) / normaliser.sum
}

/// One row's loss and entropy, in f64: `x` `[V]`.
pub fn reference(options: &CrossEntropy, x: &[f64], target: usize) -> (f64, f64) {
    let log_p = reference_log_p(options, x);
    (-log_p[target], -log_p.iter().map(|log_p| log_p.exp() * log_p).sum::<f64>())
}

fn reference_log_p(options: &CrossEntropy, x: &[f64]) -> Vec<f64> {
    let scale = f64::from(options.scale);
    let z: Vec<f64> = match options.soft_cap.map(f64::from) {
        Some(cap) => x.iter().map(|x| scale * cap * (x / cap).tanh()).collect(),
        None => x.iter().map(|x| scale * x).collect(),
    };
    let log_sum_exp = super::softmax::reference(&z);
    z.iter().map(|z| z - log_sum_exp).collect()
}

/// One row's gradient, in f64.
pub fn reference_backward(options: &CrossEntropy, x: &[f64], target: usize, weight: f64) -> Vec<f64> {
    let scale = f64::from(options.scale);
    let mut dx: Vec<f64> = reference_log_p(options, x).iter().map(|log_p| log_p.exp()).collect();
    dx[target] -= 1.0;
    for (dx, x) in dx.iter_mut().zip(x) {
        let slope = options.soft_cap.map_or(1.0, |cap| 1.0 - (x / f64::from(cap)).tanh().powi(2));
        *dx *= weight * scale * slope;
    }
    dx
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_derivative, assert_near, differences, lengths, normal, wide};
    use crate::ops::mlp;
    use crate::ops::softmax::log_sum_exp;
    use crate::simd::{IsaKind, dispatch_to};

    fn options(vocab: usize) -> [CrossEntropy<'static>; 3] {
        let plain = CrossEntropy::plain(vocab);
        [
            plain,
            CrossEntropy { soft_cap: Some(5.0), ..plain },
            CrossEntropy { soft_cap: Some(9.0), scale: 0.7, ..plain },
        ]
    }

    #[test]
    fn reference_gradient_is_the_derivative() {
        for vocab in [1, 2, 7, 33] {
            let x: Vec<f64> = normal(vocab, 1).iter().map(|&x| 4.0 * f64::from(x)).collect();
            for options in options(vocab) {
                for target in [0, vocab / 2, vocab - 1] {
                    let by_differences = differences(&x, |x| -1.5 * reference(&options, x, target).0);
                    let dx = reference_backward(&options, &x, target, -1.5);
                    assert_derivative("dx", &dx, &by_differences);
                }
            }
        }
    }

    #[test]
    fn matches_the_reference() {
        const ROWS: usize = 4;
        for (vocab, padding) in lengths().flat_map(|v| [(v, 0), (v, 3)]).chain([(50257, 47)]) {
            let width = vocab + padding;
            // What stands in the padding must not matter.
            let mut x: Vec<f32> = normal(ROWS * width, 1).iter().map(|x| 4.0 * x).collect();
            x.chunks_exact_mut(width).for_each(|row| row[vocab..].fill(1e3));
            let targets = [0, (vocab / 2) as i32, -100, vocab as i32 - 1];
            let weights = [1.0, 0.25, 7.0, -2.0];
            for options in options(vocab) {
                for kind in IsaKind::available() {
                    let CrossEntropy { soft_cap, scale, .. } = options;
                    let what = format!("{} {vocab} {padding} {soft_cap:?} {scale}", kind.name());
                    let run = |weight: Option<Weight>| {
                        let mut logits = x.clone();
                        let (mut loss, mut entropy) = ([f32::NAN; ROWS], [f32::NAN; ROWS]);
                        let rows = Rows {
                            options: &options,
                            width,
                            first: 0,
                            logits: &mut logits,
                            targets: &targets,
                            weight,
                            loss: &mut loss,
                            entropy: Some(&mut entropy),
                        };
                        dispatch_to(kind, rows);
                        (logits, loss, entropy)
                    };
                    let (dx, loss, entropy) = run(Some(&|row, _| weights[row]));
                    let (_, loss_alone, entropy_alone) = run(None);
                    assert_eq!((loss, entropy), (loss_alone, entropy_alone), "{what}");
                    for r in 0..ROWS {
                        let x = wide(&x[r * width..][..vocab]);
                        let (dx, padding) = dx[r * width..][..width].split_at(vocab);
                        assert!(padding.iter().all(|&d| d == 0.0), "{what}: gradient of padding");
                        let Ok(target) = usize::try_from(targets[r]) else {
                            assert!(loss[r] == 0.0 && entropy[r] == 0.0 && dx.iter().all(|&d| d == 0.0));
                            continue;
                        };
                        let (want_loss, want_entropy) = reference(&options, &x, target);
                        assert_near(&what, &[loss[r], entropy[r]], &[want_loss, want_entropy], 3e-6);
                        let want = reference_backward(&options, &x, target, weights[r].into());
                        assert_near(&what, dx, &want, 2e-6);
                    }
                }
            }
        }
    }

    /// What makes sampled and trained log-probabilities one number.
    #[test]
    fn log_probabilities_have_the_bits_of_log_sum_exp() {
        let (rows, vocab, width) = (5, 1003, 1024);
        let x = normal(rows * width, 1);
        let targets: Vec<i32> = (0..rows as i32).map(|r| r * 200).collect();
        let mut sampled = x.clone();
        for soft_cap in [None, Some(30.0)] {
            if let Some(cap) = soft_cap {
                mlp::soft_cap(&Pool::new(1), cap, &mut sampled);
            }
            let (mut logits, mut loss) = (x.clone(), vec![0.0; rows]);
            let options = CrossEntropy { soft_cap, ..CrossEntropy::plain(vocab) };
            let weights = vec![1.0; rows];
            options.backward(&Pool::new(2), &mut logits, &targets, &weights, &mut loss, None);
            for (r, row) in sampled.chunks_exact(width).enumerate() {
                let row = &row[..vocab];
                let log_p = row[targets[r] as usize] - log_sum_exp(row);
                assert_eq!(log_p.to_bits(), (-loss[r]).to_bits(), "row {r}, cap {soft_cap:?}");
            }
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        let (rows, vocab, width) = (37, 2001, 2016);
        let x = normal(rows * width, 1);
        let targets: Vec<i32> = (0..rows as i32).map(|r| if r % 5 == 0 { -1 } else { r * 50 }).collect();
        let weights = normal(rows, 2);
        let run = |threads| {
            let (mut dx, mut loss, mut entropy) = (x.clone(), vec![0.0; rows], vec![0.0; rows]);
            let options = CrossEntropy::plain(vocab);
            let pool = Pool::new(threads);
            options.backward(&pool, &mut dx, &targets, &weights, &mut loss, Some(&mut entropy));
            let (mut logits, mut alone) = (x.clone(), vec![0.0; rows]);
            options.forward(&pool, &mut logits, &targets, &mut alone, None);
            assert_eq!(loss, alone);
            assert_eq!(logits, x, "nothing to cap or scale");
            [dx, loss, entropy]
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn weights_may_depend_on_the_losses() {
        let (rows, vocab, width) = (50, 300, 320);
        let x = normal(rows * width, 1);
        let targets: Vec<i32> = (0..rows as i32).map(|r| if r % 7 == 0 { -1 } else { 5 * r }).collect();
        let options = CrossEntropy { soft_cap: Some(4.0), scale: 0.8, ..CrossEntropy::plain(vocab) };
        let pool = Pool::new(3);
        let mut loss = vec![0.0; rows];
        options.forward(&pool, &mut x.clone(), &targets, &mut loss, None);
        let weight = |row: usize, loss: f32| row as f32 * (1.0 - loss);
        let weights: Vec<f32> = loss.iter().enumerate().map(|(row, &loss)| weight(row, loss)).collect();
        let (mut want, mut found, mut again) = (x.clone(), x, vec![0.0; rows]);
        options.backward(&pool, &mut want, &targets, &weights, &mut again, None);
        assert_eq!(loss, again);
        options.backward_with(&pool, &mut found, &targets, weight, &mut again, None);
        assert_eq!(loss, again);
        assert_eq!(want, found);
    }

    /// What is left out takes no part: the others have loss, entropy and gradient as if there were no more.
    #[test]
    fn tokens_can_be_left_out() {
        let (rows, vocab) = (40, 100);
        let x: Vec<f32> = normal(rows * vocab, 1).iter().map(|x| 4.0 * x).collect();
        let is_kept = |row: usize, token: usize| !(row + token).is_multiple_of(3);
        let kept = |row: usize| (0..vocab).filter(move |&token| is_kept(row, token));
        let leave_out = |row: usize, z: &mut [f32]| {
            (0..vocab).filter(|&token| !is_kept(row, token)).for_each(|token| z[token] = f32::NEG_INFINITY);
        };
        let targets: Vec<i32> = (0..rows).map(|row| if row % 3 == 0 { 1 } else { 3 }).collect();
        for options in options(vocab) {
            let options = CrossEntropy { left_out: Some(&leave_out), ..options };
            let (mut dx, mut loss, mut entropy) = (x.clone(), vec![0.0; rows], vec![0.0; rows]);
            let weights = vec![1.5; rows];
            options.backward(&Pool::new(3), &mut dx, &targets, &weights, &mut loss, Some(&mut entropy));
            for row in 0..rows {
                let (x, dx) = (&x[row * vocab..][..vocab], &dx[row * vocab..][..vocab]);
                let few: Vec<f64> = kept(row).map(|token| x[token].into()).collect();
                let Some(target) = kept(row).position(|token| token as i32 == targets[row]) else {
                    panic!("row {row}: its target was left out");
                };
                let want = reference(&options, &few, target);
                assert_near("loss", &[loss[row], entropy[row]], &[want.0, want.1], 3e-6);
                let found: Vec<f32> = kept(row).map(|token| dx[token]).collect();
                assert_near("dx", &found, &reference_backward(&options, &few, target, 1.5), 2e-6);
                let others = (0..vocab).filter(|&token| !is_kept(row, token));
                others.for_each(|token| assert_eq!(dx[token], 0.0, "row {row}, token {token}"));
            }
        }
    }

    #[test]
    fn edges() {
        let plain = CrossEntropy::plain;
        let run = |x: &[f32], target| {
            let (mut dx, mut loss, mut entropy) = (x.to_vec(), [0.0], [0.0]);
            let options = plain(x.len());
            options.backward(&Pool::new(1), &mut dx, &[target], &[1.0], &mut loss, Some(&mut entropy));
            (dx, loss[0], entropy[0])
        };
        // Far apart: nothing overflows, and a certain token has loss, gradient and entropy 0.
        assert_eq!(run(&[1e30, -1e30, 0.0], 0), (vec![0.0; 3], 0.0, 0.0));
        assert_eq!(run(&[1e4, 0.0], 1), (vec![1.0, -1.0], 1e4, 0.0));
        // An impossible token takes no part.
        let (dx, loss, entropy) = run(&[2.0, f32::NEG_INFINITY, 2.0], 2);
        assert_eq!(dx, [0.5, 0.0, -0.5]);
        assert!((loss - 2f32.ln()).abs() < 1e-6 && (entropy - 2f32.ln()).abs() < 1e-6);
        assert_eq!(run(&[2.0, f32::NEG_INFINITY], 1).1, f32::INFINITY);
        // What is not a number stays so.
        for x in [[f32::NAN, 1.0, 2.0], [f32::NAN; 3], [f32::INFINITY, 1.0, 2.0], [f32::NEG_INFINITY; 3]] {
            let (dx, loss, entropy) = run(&x, 1);
            assert!(loss.is_nan() && entropy.is_nan(), "{x:?}: {loss} {entropy}");
            assert!(dx.iter().all(|d| d.is_nan()), "{x:?}: {dx:?}");
        }
        plain(3).forward(&Pool::new(1), &mut [], &[], &mut [], None);
    }

    #[test]
    #[should_panic(expected = "target Some(3) of 3 tokens")]
    fn a_target_beyond_the_vocabulary_is_refused() {
        let options = CrossEntropy::plain(3);
        options.forward(&Pool::new(1), &mut [0.0; 4], &[3], &mut [0.0], None);
    }
}
