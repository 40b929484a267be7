//! From logits to losses and their gradients: [`crate::ops::cross_entropy`]; and the likeliest tokens.

use super::{Exec, Floats};
use crate::device::launch::cross_entropy::CrossEntropy as OnGpu;
use crate::device::launch::sampling::{Likeliest, MAX_K, Sampling};
use crate::device::launch::{from_f32, from_u32, to_f32};
use crate::device::{Gpu, Result};
use crate::ops::cross_entropy::{CrossEntropy, LeaveOut};

/// The tokens that rows could not have drawn, in the two forms that devices want.
#[derive(Clone, Copy)]
pub struct LeftOut<'a> {
    /// Sets their logits to -infinity, given a row's number and its logits.
    pub logits: LeaveOut<'a>,
    /// Sets their bits, given a row's number and words of 0: token v is bit `v % 32` of word `v / 32`.
    pub bits: &'a dyn Fn(usize, &mut [u32]),
}

/// Where losses go.
pub struct Losses<'a> {
    /// `[rows]`, in nats.
    pub losses: &'a mut [f32],
    /// `[rows]`, in nats, if they are asked for.
    pub entropies: Option<&'a mut [f32]>,
}

impl Exec<'_> {
    /// Losses of rows of logits with these targets. With a `weight`, a function of a row and its loss, the logits become
    /// the gradient of the sum of `weight · loss`; without one they are not to be used again.
    ///
    /// `op` says how logits become probabilities; what is left out is `left_out` alone.
    ///
    /// # Errors
    /// What the device meets.
    pub fn cross_entropy(
        &self,
        op: &CrossEntropy,
        left_out: Option<LeftOut>,
        logits: &mut Floats,
        targets: &[i32],
        weight: Option<&(dyn Fn(usize, f32) -> f32 + Sync)>,
        out: Losses,
    ) -> Result<()> {
        let Losses { losses, entropies } = out;
        let Some(gpu) = self.gpu else {
            let op = CrossEntropy { left_out: left_out.map(|left_out| left_out.logits), ..*op };
            let logits = logits.host_mut();
            match weight {
                None => op.forward(self.pool, logits, targets, losses, entropies),
                Some(weight) => op.backward_with(self.pool, logits, targets, weight, losses, entropies),
            }
            return Ok(());
        };
        let rows = targets.len();
        if rows == 0 {
            return Ok(());
        }
        let (vocab, width) = (op.vocab, logits.len() / rows);
        let on_gpu = OnGpu { rows, vocab, width, scale: op.scale, soft_cap: op.soft_cap };
        let words = on_gpu.left_out_words();
        // Most rows leave nothing out: then no bits travel.
        let bits = left_out.map(|left_out| {
            let mut bits = vec![0; rows * words];
            bits.chunks_exact_mut(words).enumerate().for_each(|(row, bits)| (left_out.bits)(row, bits));
            bits
        });
        let bits = match bits.filter(|bits| bits.iter().any(|&word| word != 0)) {
            Some(bits) => Some(from_u32(gpu, &bits)?),
            None => None,
        };
        let targets_there = from_u32(gpu, &targets.iter().map(|&target| target as u32).collect::<Vec<_>>())?;
        let (loss, entropy, normaliser) = (gpu.alloc(4 * rows)?, gpu.alloc(4 * rows)?, gpu.alloc(8 * rows)?);
        let (x, bits) = (logits.memory(), bits.as_ref());
        on_gpu.forward(gpu, x, &targets_there, bits, &loss, &entropy, &normaliser)?;
        losses.copy_from_slice(&to_f32(gpu, &loss)?);
        if let Some(entropies) = entropies {
            entropies.copy_from_slice(&to_f32(gpu, &entropy)?);
        }
        let Some(weight) = weight else { return Ok(()) };
        let of = |(row, &loss): (usize, &f32)| if targets[row] < 0 { 0.0 } else { weight(row, loss) };
        let weights: Vec<f32> = losses.iter().enumerate().map(of).collect();
        let weights = from_f32(gpu, &weights)?;
        on_gpu.backward(gpu, x, &targets_there, bits, &weights, &normaliser)
    }

    /// The `k` tokens with the largest logits of each row of `vocab` logits. `None` where the host has the logits, where k is
    /// more than [`MAX_K`] or so many for so few logits that these are brought as fast, and where some row has NaN, infinity, or
    /// no finite logit at all: who wants to know more looks at the logits.
    ///
    /// # Errors
    /// What the device meets.
    pub fn likeliest(&self, logits: &Floats, vocab: usize, k: usize) -> Result<Option<Vec<Likeliest>>> {
        // Every token but the first costs a device about what a column for each of 256 threads does.
        let is_worth_it = (1..=MAX_K).contains(&k) && (k == 1 || 256 * k <= vocab);
        let Some(gpu) = self.gpu.filter(|_| is_worth_it) else { return Ok(None) };
        let op = Sampling { rows: logits.len() / vocab.max(1), vocab, width: vocab };
        let out = gpu.alloc(4 * op.words(k))?;
        op.top_k(gpu, logits.memory(), k, &out)?;
        let found = op.read(gpu, k, &out)?;
        Ok(found.iter().all(|row| row.lse.is_finite()).then_some(found))
    }
}
