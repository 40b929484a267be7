//! How much memory training takes, before any of it is taken.
//!
//! The sizes are those of the buffers in [`crate::training`] and [`crate::gradients`], added up from the configuration.
//! A test compares the sum with what is allocated.

use crate::config::{DecoderConfig, Head, Mlp, NormPlacement};
use crate::lora::{Adapter, Lora};
use crate::names::{Part, Place, canonical};
use crate::training::{Recompute, head_rows, stretch};
use std::collections::BTreeMap;
use std::ops::Range;
use wootz_kernels::ops::attention::{Attention, CacheType, LayerCache};
use wootz_kernels::{DType, panels};

/// What a step is to be like.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Tokens of a forward pass.
    pub rows: usize,
    /// Tokens of each sequence, from the longest on; where batches differ, the most that each may have.
    pub lengths: Vec<usize>,
    /// The products' type: f32, bf16 or f16.
    pub dtype: DType,
    /// What is computed again.
    pub recompute: Recompute,
    /// Threads.
    pub threads: usize,
    /// Whose memory is meant.
    pub memory: Memory,
    /// What of the network is there.
    pub share: Share,
}

/// Whose memory it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// The host's.
    #[default]
    Host,
    /// A GPU's. Nothing is rounded there on its way into a product, and whole sequences need no cache.
    Device,
}

impl Shape {
    /// Of sequences that are equally long, in the host's memory.
    pub fn even([batch, seq]: [usize; 2], dtype: DType, recompute: Recompute, threads: usize) -> Shape {
        Shape {
            rows: batch * seq,
            lengths: vec![seq; batch],
            dtype,
            recompute,
            threads,
            memory: Memory::Host,
            share: Share::All,
        }
    }
}

/// What of a network is meant: of one whose last blocks are on a GPU, each place has its share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// All of it.
    #[default]
    All,
    /// The last so many blocks, and what [`crate::Model::place`] moves with them.
    Last(usize),
    /// All but these.
    AllBut(usize),
}

impl Share {
    /// The blocks that are in it.
    pub fn blocks(self, config: &DecoderConfig) -> Range<usize> {
        let all = config.n_layers();
        match self {
            Share::All => 0..all,
            Share::Last(layers) => all - layers.min(all)..all,
            Share::AllBut(layers) => 0..all - layers.min(all),
        }
    }

    /// Whether what is at this place is in it.
    pub fn has(self, config: &DecoderConfig, place: Place) -> bool {
        let blocks = self.blocks(config);
        let is_first = blocks.start == 0 && !blocks.is_empty();
        let is_last = blocks.end == config.n_layers() && !blocks.is_empty();
        match (place, config.head) {
            (Place::Layer(index, _), _) => blocks.contains(&index),
            (Place::Embed | Place::PosEmbed, _) => is_first,
            (Place::FinalNorm | Place::Head, Head::Tied) => is_first,
            (Place::FinalNorm | Place::Head, Head::Untied) => is_last,
        }
    }
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
            weights: weights(config, shape.dtype, shape.share),
            gradients: crate::Gradients::bytes(config, |place| shape.share.has(config, place)),
            activations: sizes.activations(config, shape, 0),
            logits: sizes.logits(config, shape),
            workspace: sizes.workspace(config, shape),
        }
    }

    /// The plan of training an adapter, on weights that take `weights` bytes there.
    pub fn of_adapter(config: &DecoderConfig, shape: &Shape, adapter: &Adapter, weights: usize) -> Plan {
        let sizes = Sizes::new(config, shape);
        let first = match adapter.parts.keys().next() {
            Some(Place::Layer(layer, _)) => *layer,
            _ => 0,
        };
        let has = |place: Place| shape.share.has(config, place);
        let len = |shape: &[usize]| match *shape {
            [rows, cols] => panels::len([rows, cols]),
            _ => shape.iter().product(),
        };
        let tensors = adapter.tensors();
        let gradients =
            tensors.iter().filter(|(id, _)| has(id.place)).map(|(_, shape)| len(shape)).sum::<usize>();
        Plan {
            weights: weights + adapter.bytes(has),
            gradients: 4 * gradients,
            activations: sizes.activations(config, shape, first),
            logits: sizes.logits(config, shape),
            workspace: sizes.adapter_workspace(config, shape, adapter),
        }
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.gradients + self.activations + self.logits + self.workspace
    }
}

fn weights(config: &DecoderConfig, dtype: DType, share: Share) -> usize {
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
    canonical(config).into_iter().filter(|(id, _)| share.has(config, id.place)).map(of).sum()
}

/// Elements of `[rows, width]` for each width of the network.
struct Sizes {
    rows: usize,
    stream: usize,
    q: usize,
    kv: usize,
    hidden: usize,
    heads: usize,
    /// Rows that go through the head at a time: none where the head is elsewhere.
    head: usize,
    gated: bool,
    sandwich: bool,
}

impl Sizes {
    fn new(config: &DecoderConfig, shape: &Shape) -> Sizes {
        let rows = shape.rows;
        Sizes {
            rows,
            stream: rows * config.dim,
            q: rows * config.q_dim(),
            kv: rows * config.kv_dim(),
            hidden: rows * config.hidden_dim,
            heads: rows * config.n_heads,
            head: match shape.share.has(config, Place::Head) {
                true => head_rows(config.vocab_size).min(rows),
                false => 0,
            },
            gated: config.mlp != Mlp::Gelu,
            sandwich: config.placement == NormPlacement::Sandwich,
        }
    }

    /// What is kept of the blocks from number `first` on, of those that are there.
    fn activations(&self, config: &DecoderConfig, shape: &Shape, first: usize) -> usize {
        let before_norms = if self.sandwich { 2 * self.stream } else { 0 };
        let hidden = if self.gated { 2 * self.hidden } else { self.hidden };
        let block = 2 * self.stream + 2 * self.q + 2 * self.kv + self.heads + before_norms + hidden;
        let (layers, there) = (config.n_layers(), shape.share.blocks(config));
        let stretch = stretch(shape.recompute, layers);
        4 * match shape.recompute {
            Recompute::None => (first.max(there.start)..there.end).len().max(1) * block,
            // The first input of each stretch, and the others of one.
            Recompute::Block | Recompute::All => {
                let from = there.start.max(first / stretch * stretch);
                let firsts = there.end.div_ceil(stretch).saturating_sub(from.div_ceil(stretch));
                block + (firsts + stretch - 1) * self.stream
            }
        }
    }

    fn logits(&self, config: &DecoderConfig, shape: &Shape) -> usize {
        let rows = self.head;
        let rounded = rows
            * config.vocab_size
            * match (shape.memory, shape.dtype) {
                (Memory::Device, _) | (_, DType::F32) => 0,
                (Memory::Host, DType::F16) => 4,
                (Memory::Host, _) => 2,
            };
        4 * rows * config.vocab_size + rounded
    }

    fn workspace(&self, config: &DecoderConfig, shape: &Shape) -> usize {
        let Sizes { stream, q, kv, hidden, .. } = *self;
        let widest = hidden.max(stream).max(q);
        let rounded = match (shape.memory, shape.dtype) {
            (Memory::Device, _) => 0,
            (Memory::Host, DType::F32) => 4 * widest,
            (Memory::Host, DType::F16) => 4 * widest + 4 * (widest + 2 * hidden.max(kv)),
            // Columns in pairs; the rows of three gradients.
            (Memory::Host, _) => 2 * widest + 2 * (widest + 2 * hidden.max(kv)),
        };
        self.passes(config, shape) + rounded
    }

    /// As [`Sizes::workspace`], where no weights but an adapter's have gradients.
    fn adapter_workspace(&self, config: &DecoderConfig, shape: &Shape, adapter: &Adapter) -> usize {
        let Sizes { stream, q, kv, hidden, rows, .. } = *self;
        let widest = hidden.max(stream).max(q);
        let rounded = match (shape.memory, shape.dtype) {
            (Memory::Device, _) | (_, DType::F32) => 0,
            (Memory::Host, DType::F16) => 4 * (widest + 2 * hidden.max(kv)),
            (Memory::Host, _) => 2 * (widest + 2 * hidden.max(kv)),
        };
        let columns = |input: usize| match shape.memory {
            Memory::Host => input.next_multiple_of(12),
            Memory::Device => 0,
        };
        let input = adapter.parts.values().map(|lora| lora.a.cols()).max().unwrap_or(0);
        // Projections of the same rows: q, k and v, or gate and up.
        let rank = |parts: &[Part]| {
            let of = |(place, lora): (&Place, &Lora)| match place {
                Place::Layer(layer, part) if parts.contains(part) => Some((*layer, lora.rank())),
                _ => None,
            };
            let mut sums = BTreeMap::new();
            adapter
                .parts
                .iter()
                .filter_map(of)
                .for_each(|(layer, rank)| *sums.entry(layer).or_insert(0) += rank);
            sums.into_values().max().unwrap_or(0)
        };
        let groups: [&[Part]; 4] =
            [&[Part::Q, Part::K, Part::V], &[Part::O], &[Part::Gate, Part::Up], &[Part::Down]];
        let low = groups.map(rank).into_iter().max().unwrap_or(0);
        let dropped = if adapter.dropout > 0.0 { 2 * input } else { 0 };
        self.passes(config, shape)
            + rounded
            + 4 * rows * (columns(input) + 2 * low + dropped)
            + 4 * self.magnitudes(adapter)
    }

    /// What outputs were before their lengths were changed, one at a time, and the gradients of that: of projections of the
    /// same rows together.
    fn magnitudes(&self, adapter: &Adapter) -> usize {
        let width = |part: &Part| {
            let of = |(place, lora): (&Place, &Lora)| {
                let is_there = matches!(place, Place::Layer(_, other) if other == part);
                lora.magnitude.as_ref().filter(|_| is_there).map(|_| lora.b.rows())
            };
            adapter.parts.iter().filter_map(of).max().unwrap_or(0)
        };
        // Without a gate, the widening projection stands alone.
        let gate = if self.gated { Part::Gate } else { Part::Up };
        let places = [&[Part::Q, Part::O, gate, Part::Down][..], &[Part::K, Part::Up], &[Part::V]];
        let dv = places.map(|parts| parts.iter().map(width).max().unwrap_or(0));
        let v = dv.into_iter().max().unwrap_or(0);
        // Sums over rows are made in parts of 16 rows or more.
        self.rows * (dv.iter().sum::<usize>() + v) + self.rows.div_ceil(16) * v + v
    }

    /// What forward and backward work in, but for rounded inputs and columns.
    fn passes(&self, config: &DecoderConfig, shape: &Shape) -> usize {
        let Sizes { stream, q, kv, hidden, .. } = *self;
        let gated = if self.gated { hidden } else { 0 };
        let sandwich = if self.sandwich { stream } else { 0 };
        // The stream and its gradient, normed rows of blocks with theirs, a block's output; and some rows of the stream and
        // normed ones on their way through the head, with gradients.
        let streams = 5 * stream + sandwich + 4 * self.head * config.dim;
        // Queries and keys once more, as attention takes them.
        let deltas = 3 * q + 3 * kv + 2 * hidden + gated;
        match shape.memory {
            Memory::Host => {
                let longest = shape.lengths.first().copied().unwrap_or(0);
                let attention = Attention { heads: config.n_heads, scale: 1.0, window: None };
                let scratch =
                    attention.backward_scratch(shape.threads, config.n_kv_heads, config.head_dim, longest);
                let cache = |length: &usize| {
                    LayerCache::new(config.n_kv_heads, config.head_dim, *length, CacheType::F32).bytes()
                };
                4 * (streams + hidden + deltas + scratch) + shape.lengths.iter().map(cache).sum::<usize>()
            }
            // Two sums of each row and head; and sums of the norms' weights over chunks of 64 rows or more, of which there are
            // 256 at most.
            Memory::Device => {
                let sums = 2 * self.rows.div_ceil(64).min(256) * config.dim;
                4 * (streams + hidden + deltas + 2 * self.heads + self.heads + sums)
            }
        }
    }
}
