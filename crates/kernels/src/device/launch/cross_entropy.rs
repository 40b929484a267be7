//! Cross-entropy on a GPU: kernels and launches. The formulas stand in `ops/cross_entropy.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{Error, Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};

const WGSL: Option<Wgsl> = Wgsl::plain(&[include_str!("../../ops/cross_entropy.wgsl")]);
const SCALARS: &[ScalarKind] =
    &[ScalarKind::U32, ScalarKind::U32, ScalarKind::U32, ScalarKind::U32, ScalarKind::F32, ScalarKind::F32];

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD];

/// Losses, entropies and what normalises each row.
pub static FORWARD: Kernel = Kernel {
    name: "cross_entropy_forward",
    entry: "cross_entropy_forward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[
        read(0, "logits"),
        read(1, "targets"),
        read(2, "left_out"),
        write(3, "loss"),
        write(4, "entropy"),
        write(5, "normaliser_out"),
    ],
    scalars: SCALARS,
};

/// The gradient, over the logits.
pub static BACKWARD: Kernel = Kernel {
    name: "cross_entropy_backward",
    entry: "cross_entropy_backward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[
        read(1, "targets"),
        read(2, "left_out"),
        write(6, "gradient"),
        read(7, "weights"),
        read(8, "normaliser_in"),
    ],
    scalars: SCALARS,
};

/// The shape of some rows of logits, and how they become probabilities.
///
/// Two things differ from the operation on the CPU. What is left out is a buffer of bits, as no function can be
/// called. And forward leaves the logits as they are; backward is a call of its own, with weights that may have been
/// made from the losses.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    /// Rows of the logits.
    pub rows: usize,
    /// Tokens (V).
    pub vocab: usize,
    /// Columns of the logits: V or more. What follows the tokens is padding, with probability and gradient 0.
    pub width: usize,
    /// Multiplies logits: 1, or 1 / temperature. Positive.
    pub scale: f32,
    /// Logits are bent to stay within ±cap first.
    pub soft_cap: Option<f32>,
}

impl CrossEntropy {
    /// Words of a row of `left_out`: a bit for each token.
    pub fn left_out_words(&self) -> usize {
        self.vocab.div_ceil(32)
    }

    /// The loss and the entropy of each row, in nats.
    ///
    /// `logits`: `[rows, width]` f32. `targets`: `[rows]` i32; negative for rows that do not count, whose loss and
    /// entropy become 0. `left_out`: `[rows, V / 32 rounded up]` u32; token v takes no part in a row where bit
    /// `v % 32` of word `v / 32` is set. `loss`, `entropy`: `[rows]` f32; `normaliser`: `[rows, 2]` f32, for
    /// [`CrossEntropy::backward`]. All three are assigned, and are buffers of their own.
    ///
    /// A loss is NaN where a logit is NaN or +infinity or the target is no token, and infinite where the target is left
    /// out.
    #[allow(clippy::too_many_arguments)] // inputs, then outputs
    pub fn forward<G: Gpu>(
        &self,
        gpu: &G,
        logits: &G::Buffer,
        targets: &G::Buffer,
        left_out: Option<&G::Buffer>,
        loss: &G::Buffer,
        entropy: &G::Buffer,
        normaliser: &G::Buffer,
    ) -> Result<()> {
        let place = FORWARD.name;
        let Some((count, scalars)) = self.scalars(place, left_out.is_some())? else { return Ok(()) };
        check_size(place, "logits", logits, count, 4)?;
        check_size(place, "targets", targets, self.rows, 4)?;
        if let Some(left_out) = left_out {
            check_size(place, "left_out", left_out, self.rows * self.left_out_words(), 4)?;
        }
        check_size(place, "loss", loss, self.rows, 4)?;
        check_size(place, "entropy", entropy, self.rows, 4)?;
        check_size(place, "normaliser", normaliser, 2 * self.rows, 4)?;
        // Without `left_out` the kernel reads none of it, and something must stand there.
        let buffers = [logits, targets, left_out.unwrap_or(targets), loss, entropy, normaliser];
        // SAFETY: the kernel touches rows * width logits, the words of left_out if it is given, rows targets, losses
        // and entropies, and 2 * rows of normaliser: checked above. It compares targets with vocab.
        unsafe { gpu.launch(&FORWARD, &buffers, &scalars, fold(place, self.rows)?) }
    }

    /// The gradient of the sum over rows of `weight · loss`, written over the logits, after
    /// [`CrossEntropy::forward`] with the same ones.
    ///
    /// `logits`: `[rows, width]` f32, assigned; zeros in rows that do not count, for what is left out, and in the
    /// padding. `weights`: `[rows]` f32. `normaliser`: as forward wrote it. `targets`, `left_out`: as forward's.
    pub fn backward<G: Gpu>(
        &self,
        gpu: &G,
        logits: &G::Buffer,
        targets: &G::Buffer,
        left_out: Option<&G::Buffer>,
        weights: &G::Buffer,
        normaliser: &G::Buffer,
    ) -> Result<()> {
        let place = BACKWARD.name;
        let Some((count, scalars)) = self.scalars(place, left_out.is_some())? else { return Ok(()) };
        check_size(place, "logits", logits, count, 4)?;
        check_size(place, "targets", targets, self.rows, 4)?;
        if let Some(left_out) = left_out {
            check_size(place, "left_out", left_out, self.rows * self.left_out_words(), 4)?;
        }
        check_size(place, "weights", weights, self.rows, 4)?;
        check_size(place, "normaliser", normaliser, 2 * self.rows, 4)?;
        let buffers = [targets, left_out.unwrap_or(targets), logits, weights, normaliser];
        // SAFETY: the kernel touches rows * width logits, the words of left_out if it is given, rows targets and
        // weights, and 2 * rows of normaliser: checked above.
        unsafe { gpu.launch(&BACKWARD, &buffers, &scalars, fold(place, self.rows)?) }
    }

    /// Elements of the logits, and the kernels' scalars; `None` when there is nothing to do.
    fn scalars(&self, place: &'static str, leaves_out: bool) -> Result<Option<(usize, [Scalar; 6])>> {
        if self.rows == 0 {
            return Ok(None);
        }
        if self.vocab == 0 || self.vocab > self.width {
            return Err(Error::Argument {
                place,
                what: "vocab".into(),
                expected: format!("1 to {} tokens, the width of a row", self.width),
                found: self.vocab.to_string(),
            });
        }
        elements(place, self.rows, 2)?;
        let count = elements(place, self.rows, self.width)?;
        let words = if leaves_out { self.left_out_words() } else { 0 };
        let scalars = [
            Scalar::U32(self.rows as u32),
            Scalar::U32(self.vocab as u32),
            Scalar::U32(self.width as u32),
            Scalar::U32(words as u32),
            Scalar::F32(self.scale),
            Scalar::F32(self.soft_cap.unwrap_or(0.0)),
        ];
        Ok(Some((count, scalars)))
    }
}
