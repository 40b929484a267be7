//! How large a model is, and what a token costs: counted from the configuration, before there is a model.

use wootz_kernels::DType;

use crate::config::{DecoderConfig, Head};
use crate::names::{Place, canonical};

/// Trainable numbers. A tied head counts once; a count beyond 64 bits is `u64::MAX`.
pub fn parameters(config: &DecoderConfig) -> u64 {
    count(config, |_| true)
}

/// Bytes of all parameters in this type, `None` where a matrix is no whole number of blocks or the sum overflows.
pub fn parameter_bytes(config: &DecoderConfig, dtype: DType) -> Option<u64> {
    let mut bytes = 0u64;
    for (_, shape) in canonical(config) {
        bytes = bytes.checked_add(u64::try_from(dtype.bytes(&shape)?).ok()?)?;
    }
    Some(bytes)
}

/// What one token costs in a sequence of a given length, in floating-point operations (a multiplication and an addition
/// are two). Norms, activations and the softmax are left out: they are a few in a thousand.
///
/// With N the parameters that a token is multiplied with, the forward pass is `2N + 4 Σ_l H·D·T` and the backward pass
/// twice that, together `6N + 12·L·H·D·T`: appendix B of PaLM (<https://arxiv.org/abs/2204.02311>), and `estimate_mfu` of
/// nanoGPT. As there, attention counts as if every token saw all T (a causal mask halves what has to be computed, and
/// the formula does not); a layer with a sliding window of W < T counts with W. N is all parameters but those that are
/// only looked up: learned positions, and the embedding where the head is a matrix of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenFlops {
    /// The forward pass, logits included.
    pub forward: f64,
    /// The gradients of activations and of weights.
    pub backward: f64,
}

impl TokenFlops {
    /// The cost of each token in sequences of `seq` tokens.
    pub fn new(config: &DecoderConfig, seq: usize) -> Self {
        let multiplied = count(config, |place| match place {
            Place::PosEmbed => false,
            Place::Embed => match config.head {
                Head::Tied => true,
                Head::Untied => false,
            },
            Place::Layer(..) | Place::FinalNorm | Place::Head => true,
        });
        let seen: f64 =
            config.layers.iter().map(|layer| layer.window.map_or(seq, |w| w.min(seq)) as f64).sum();
        let forward = 2.0 * multiplied as f64 + 4.0 * config.n_heads as f64 * config.head_dim as f64 * seen;
        TokenFlops { forward, backward: 2.0 * forward }
    }

    /// Forward and backward: what a token of training costs.
    pub fn training(self) -> f64 {
        self.forward + self.backward
    }
}

fn count(config: &DecoderConfig, counts: impl Fn(Place) -> bool) -> u64 {
    let elements = |shape: &[usize]| shape.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
    let tensors = canonical(config).into_iter().filter(|(id, _)| counts(id.place));
    tensors.fold(0, |sum, (_, shape)| sum.saturating_add(elements(&shape)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::{Overrides, preset};

    fn config(name: &str) -> DecoderConfig {
        preset(name).unwrap().config(&Overrides::default()).unwrap().1
    }

    /// nanoGPT's `estimate_mfu` for GPT-2 124M at T = 1024: N = 123,653,376 (no positions), 12·12·12·64·1024.
    #[test]
    fn gpt2_as_nano_gpt_counts_it() {
        let gpt2 = config("gpt2-124m");
        let flops = TokenFlops::new(&gpt2, 1024);
        assert_eq!(flops.training(), 6.0 * 123_653_376.0 + 12.0 * 12.0 * 12.0 * 64.0 * 1024.0);
        assert_eq!(flops.training(), 3.0 * flops.forward);
        assert_eq!(parameter_bytes(&gpt2, DType::BF16), Some(2 * 124_439_808));
        assert_eq!(parameter_bytes(&gpt2, DType::Q8_0), Some(124_439_808 / 32 * 34));
    }

    #[test]
    fn windows_and_untied_heads_count_as_they_compute() {
        let gemma = config("gemma3-270m");
        // 15 layers see 512 tokens, 3 see all.
        let attention = TokenFlops::new(&gemma, 2048).forward - 2.0 * 268_098_176.0;
        assert_eq!(attention, 4.0 * 1024.0 * (15.0 * 512.0 + 3.0 * 2048.0));
        let mut llama = config("llama-15m");
        let tied = TokenFlops::new(&llama, 8);
        llama.head = Head::Untied;
        assert_eq!(TokenFlops::new(&llama, 8), tied);
        assert_eq!(parameters(&llama), 15_191_712 + 32_000 * 288);
    }

    #[test]
    fn sizes_beyond_counting_do_not_overflow() {
        let mut huge = config("llama-15m");
        huge.vocab_size = usize::MAX;
        assert_eq!(parameters(&huge), u64::MAX);
        assert_eq!(parameter_bytes(&huge, DType::F32), None);
    }
}
