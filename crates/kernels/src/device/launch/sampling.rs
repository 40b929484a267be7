//! The likeliest tokens on a GPU: kernels and launches. How they are found stands in `ops/sampling.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{Error, Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};

const WGSL: Option<Wgsl> = Wgsl::plain(include_str!("../../ops/sampling.wgsl"));
const SCALARS: &[ScalarKind] = &[ScalarKind::U32, ScalarKind::U32, ScalarKind::U32, ScalarKind::U32];

/// Stands for a token where there is none.
pub const NO_TOKEN: u32 = u32::MAX;

/// The largest k of [`Sampling::top_k`]: each round of it costs a tree of barriers.
pub const MAX_K: usize = 64;

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&ARGMAX, &TOP_K];

/// The likeliest token of each row.
pub static ARGMAX: Kernel = Kernel {
    name: "sampling_argmax",
    entry: "sampling_argmax",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "logits"), write(1, "tokens"), write(2, "values"), write(3, "lse")],
    scalars: SCALARS,
};

/// The k likeliest tokens of each row.
pub static TOP_K: Kernel = Kernel {
    name: "sampling_top_k",
    entry: "sampling_top_k",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "logits"), write(1, "tokens"), write(2, "values")],
    scalars: SCALARS,
};

/// The shape of some rows of logits.
///
/// Where a log-probability must have the bits that training gives it, take it from
/// [`super::cross_entropy::CrossEntropy::forward`] with the token as target: that is one kernel for both.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Rows of the logits.
    pub rows: usize,
    /// Tokens.
    pub vocab: usize,
    /// Columns of the logits: the tokens or more. What follows the tokens is not read.
    pub width: usize,
}

impl Sampling {
    /// The token with the largest logit of each row, the lowest of equal ones; that logit; and the logarithm of the sum
    /// of all tokens' e^logit, so that `value - lse` is the logarithm of the token's probability.
    ///
    /// `logits`: `[rows, width]` f32; `tokens`: `[rows]` u32; `values`, `lse`: `[rows]` f32. The three outputs are
    /// assigned, and are buffers of their own.
    ///
    /// What is not finite is never chosen. With NaN or +infinity in a row, its lse is NaN; where all logits are
    /// -infinity, the token is [`NO_TOKEN`] and lse -infinity.
    pub fn argmax<G: Gpu>(
        &self,
        gpu: &G,
        logits: &G::Buffer,
        tokens: &G::Buffer,
        values: &G::Buffer,
        lse: &G::Buffer,
    ) -> Result<()> {
        let place = ARGMAX.name;
        let Some((count, scalars)) = self.scalars(place, 1)? else { return Ok(()) };
        check_size(place, "logits", logits, count, 4)?;
        check_size(place, "tokens", tokens, self.rows, 4)?;
        check_size(place, "values", values, self.rows, 4)?;
        check_size(place, "lse", lse, self.rows, 4)?;
        // SAFETY: the kernel touches rows * width logits and rows of each output: checked above.
        unsafe { gpu.launch(&ARGMAX, &[logits, tokens, values, lse], &scalars, fold(place, self.rows)?) }
    }

    /// The `k` tokens with the largest logits of each row, from the largest on, and those logits; of equal logits the
    /// lower token comes first. `k` is at most [`MAX_K`].
    ///
    /// `logits`: `[rows, width]` f32; `tokens`: `[rows, k]` u32; `values`: `[rows, k]` f32. Both are assigned, and are
    /// buffers of their own.
    ///
    /// What is not finite is never chosen. Where fewer than k tokens remain, the others are [`NO_TOKEN`], with the
    /// smallest f32.
    pub fn top_k<G: Gpu>(
        &self,
        gpu: &G,
        logits: &G::Buffer,
        k: usize,
        tokens: &G::Buffer,
        values: &G::Buffer,
    ) -> Result<()> {
        let place = TOP_K.name;
        if k > MAX_K {
            return Err(Error::Argument {
                place,
                what: "k".into(),
                expected: format!("at most {MAX_K}"),
                found: k.to_string(),
            });
        }
        let Some((count, scalars)) = self.scalars(place, k)? else { return Ok(()) };
        let outputs = elements(place, self.rows, k)?;
        check_size(place, "logits", logits, count, 4)?;
        check_size(place, "tokens", tokens, outputs, 4)?;
        check_size(place, "values", values, outputs, 4)?;
        // SAFETY: the kernel touches rows * width logits and rows * k of each output: checked above.
        unsafe { gpu.launch(&TOP_K, &[logits, tokens, values], &scalars, fold(place, self.rows)?) }
    }

    /// Elements of the logits, and the kernels' scalars; `None` when there is nothing to do.
    fn scalars(&self, place: &'static str, k: usize) -> Result<Option<(usize, [Scalar; 4])>> {
        if self.rows == 0 || k == 0 {
            return Ok(None);
        }
        if self.vocab > self.width {
            return Err(Error::Argument {
                place,
                what: "vocab".into(),
                expected: format!("at most {} tokens, the width of a row", self.width),
                found: self.vocab.to_string(),
            });
        }
        elements(place, self.rows, 1)?;
        let count = elements(place, self.rows, self.width)?;
        let scalars = [
            Scalar::U32(self.rows as u32),
            Scalar::U32(self.vocab as u32),
            Scalar::U32(self.width as u32),
            Scalar::U32(k as u32),
        ];
        Ok(Some((count, scalars)))
    }
}
