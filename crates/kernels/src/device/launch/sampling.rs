//! The likeliest tokens on a GPU: kernels and launches. How they are found stands in `ops/sampling.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{Error, Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};

const WGSL: Option<Wgsl> = Wgsl::plain(&[include_str!("../../ops/sampling.wgsl")]);
const SCALARS: &[ScalarKind] = &[ScalarKind::U32, ScalarKind::U32, ScalarKind::U32, ScalarKind::U32];

/// Stands for a token where there is none.
pub const NO_TOKEN: u32 = u32::MAX;

/// The largest k of [`Sampling::top_k`]: each round of it costs a tree of barriers.
pub const MAX_K: usize = 64;

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&TOP_K];

/// The k likeliest tokens of each row.
pub static TOP_K: Kernel = Kernel {
    name: "sampling_top_k",
    entry: "sampling_top_k",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "logits"), write(1, "likeliest")],
    scalars: SCALARS,
};

/// What [`Sampling::top_k`] finds in a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Likeliest {
    /// The logarithm of the sum of all tokens' e^logit: less it, a logit is the logarithm of the token's probability. NaN
    /// where a logit is NaN or +infinity, -infinity where all are.
    pub lse: f32,
    /// Tokens and their logits, from the largest on; of equal logits the lower token comes first.
    pub tokens: Vec<(u32, f32)>,
}

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
    /// Words of `likeliest` in [`Sampling::top_k`].
    pub fn words(&self, k: usize) -> usize {
        k.saturating_mul(2).saturating_add(1).saturating_mul(self.rows)
    }

    /// The `k` tokens with the largest logits of each row, 1 to [`MAX_K`]; [`Sampling::read`] tells what came of it.
    ///
    /// `logits`: `[rows, width]` f32; `likeliest`: [`Sampling::words`], assigned, and a buffer of its own.
    ///
    /// What is not finite is never chosen. Where fewer than k tokens remain, the others are [`NO_TOKEN`], with the
    /// smallest f32.
    pub fn top_k<G: Gpu>(&self, gpu: &G, logits: &G::Buffer, k: usize, likeliest: &G::Buffer) -> Result<()> {
        let place = TOP_K.name;
        if !(1..=MAX_K).contains(&k) {
            return Err(Error::Argument {
                place,
                what: "k".into(),
                expected: format!("1 to {MAX_K}"),
                found: k.to_string(),
            });
        }
        let Some((count, scalars)) = self.scalars(place, k)? else { return Ok(()) };
        check_size(place, "logits", logits, count, 4)?;
        check_size(place, "likeliest", likeliest, elements(place, self.words(k), 1)?, 4)?;
        // SAFETY: the kernel touches rows * width logits and as many words as likeliest has: checked above.
        unsafe { gpu.launch(&TOP_K, &[logits, likeliest], &scalars, fold(place, self.rows)?) }
    }

    /// Brings what [`Sampling::top_k`] found to the host, row by row.
    pub fn read<G: Gpu>(&self, gpu: &G, k: usize, likeliest: &G::Buffer) -> Result<Vec<Likeliest>> {
        let mut bytes = vec![0; 4 * self.words(k)];
        gpu.download(likeliest, 0, &mut bytes)?;
        let words: Vec<u32> = bytes.as_chunks().0.iter().map(|&word| u32::from_ne_bytes(word)).collect();
        let of_row = |row: &[u32]| {
            let (tokens, values) = row[1..].split_at(k);
            let tokens = tokens.iter().zip(values).map(|(&token, &value)| (token, f32::from_bits(value)));
            Likeliest { lse: f32::from_bits(row[0]), tokens: tokens.collect() }
        };
        Ok(words.chunks_exact(1 + 2 * k).map(of_row).collect())
    }

    /// Elements of the logits, and the kernels' scalars; `None` when there is nothing to do.
    fn scalars(&self, place: &'static str, k: usize) -> Result<Option<(usize, [Scalar; 4])>> {
        if self.rows == 0 {
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
