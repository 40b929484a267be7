//! How much memory training takes, before any of it is taken.
//!
//! The sizes are those of the buffers in [`crate::training`] and [`crate::gradients`], added up from the configuration.
//! A test compares the sum with what is allocated.

use crate::config::{DecoderConfig, Mlp, NormPlacement, QkNorm};
use crate::names::{Place, canonical};
use crate::training::{Recompute, head_rows, stretch};
use wootz_kernels::ops::attention::{Attention, CacheType, LayerCache};
use wootz_kernels::{DType, panels};

/// What a step is to be like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Sequences of a forward pass (B).
    pub batch: usize,
    /// Tokens of each (T).
    pub seq: usize,
    /// The products' type: f32, bf16 or f16.
    pub dtype: DType,
    /// What is computed again.
    pub recompute: Recompute,
    /// Threads.
    pub threads: usize,
}

/// Bytes by what they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The parameters as they are multiplied.
    pub weights: usize,
    /// Their gradients.
    pub gradients: usize,
    /// What the forward pass keeps for backward.
    pub activations: usize,
    /// Logits that exist at a time.
    pub logits: usize,
    /// What one block works in, forward and backward.
    pub workspace: usize,
}

impl Plan {
    /// The plan of a decoder's training, without its optimiser.
    pub fn new(config: &DecoderConfig, shape: &Shape) -> Plan {
        let sizes = Sizes::new(config, shape);
        Plan {
            weights: weights(config, shape.dtype),
            gradients: crate::Gradients::bytes(config),
            activations: sizes.activations(config, shape),
            logits: sizes.logits(config, shape),
            workspace: sizes.workspace(config, shape),
        }
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.gradients + self.activations + self.logits + self.workspace
    }
}

fn weights(config: &DecoderConfig, dtype: DType) -> usize {
    let of = |(id, tensor): (crate::names::TensorId, Vec<usize>)| match *tensor {
        [rows, cols] => {
            let (width, bytes) = match (id.place, dtype) {
                (Place::PosEmbed, _) | (_, DType::F32) => (cols, 4),
                (_, DType::F16) => (cols, 2),
                (_, _) => (cols.next_multiple_of(2), 2),
            };
            panels::len([rows, width]) * bytes
        }
        _ => 4 * tensor.iter().product::<usize>(),
    };
    canonical(config).into_iter().map(of).sum()
}

/// Elements of `[rows, width]` for each width of the network.
struct Sizes {
    stream: usize,
    q: usize,
    kv: usize,
    hidden: usize,
    heads: usize,
    gated: bool,
    sandwich: bool,
    qk_norm: bool,
}

impl Sizes {
    fn new(config: &DecoderConfig, shape: &Shape) -> Sizes {
        let rows = shape.batch * shape.seq;
        Sizes {
            stream: rows * config.dim,
            q: rows * config.q_dim(),
            kv: rows * config.kv_dim(),
            hidden: rows * config.hidden_dim,
            heads: rows * config.n_heads,
            gated: config.mlp != Mlp::Gelu,
            sandwich: config.placement == NormPlacement::Sandwich,
            qk_norm: config.qk_norm == QkNorm::PerHead,
        }
    }

    fn activations(&self, config: &DecoderConfig, shape: &Shape) -> usize {
        let raw = if self.qk_norm { self.q + self.kv } else { 0 };
        let before_norms = if self.sandwich { 2 * self.stream } else { 0 };
        let hidden = if self.gated { 2 * self.hidden } else { self.hidden };
        let block = 2 * self.stream + raw + 2 * self.q + 2 * self.kv + self.heads + before_norms + hidden;
        let layers = config.n_layers();
        let stretch = stretch(shape.recompute, layers);
        4 * match shape.recompute {
            Recompute::None => layers * block,
            // The first input of each stretch, and the others of one.
            Recompute::Block | Recompute::All => {
                block + (layers.div_ceil(stretch) + stretch - 1) * self.stream
            }
        }
    }

    fn logits(&self, config: &DecoderConfig, shape: &Shape) -> usize {
        let rows = head_rows(config.vocab_size).min(shape.batch * shape.seq);
        let rounded = rows
            * config.vocab_size
            * match shape.dtype {
                DType::F32 => 0,
                DType::F16 => 4,
                _ => 2,
            };
        4 * rows * config.vocab_size + rounded
    }

    fn workspace(&self, config: &DecoderConfig, shape: &Shape) -> usize {
        let Sizes { stream, q, kv, hidden, .. } = *self;
        let gated = if self.gated { hidden } else { 0 };
        let sandwich = if self.sandwich { stream } else { 0 };
        // The stream and its gradient, normed rows of blocks and head with gradients, a block's output.
        let streams = 7 * stream + sandwich;
        let deltas = 2 * q + 2 * kv + 2 * hidden + gated;
        let widest = hidden.max(stream).max(q);
        let rounded = match shape.dtype {
            DType::F32 => 4 * widest,
            DType::F16 => 4 * widest + 4 * (widest + 2 * hidden.max(kv)),
            // Columns in pairs; the rows of three gradients.
            _ => 2 * widest + 2 * (widest + 2 * hidden.max(kv)),
        };
        let attention = Attention { heads: config.n_heads, scale: 1.0, window: None };
        let scratch =
            attention.backward_scratch(shape.threads, config.n_kv_heads, config.head_dim, shape.seq);
        let cache = LayerCache::new(config.n_kv_heads, config.head_dim, shape.seq, CacheType::F32);
        4 * (streams + hidden + deltas + scratch) + rounded + shape.batch * cache.bytes()
    }
}
