//! The one decoder: forward, for any [`DecoderConfig`].
//!
//! A call takes tokens of one or several sequences ("chunks"): a whole prompt, a part of one, one token each of many
//! sequences, or any mixture. All tokens are rows of one matrix, so that each weight is read once for all of them;
//! only attention looks at sequences. A row's result has the same bits whatever else is in the call (see
//! [`wootz_kernels::ops::matmul`]).

use crate::arch::Architecture;
use crate::config::{DecoderConfig, Mlp, Norm, Positions, Rope};
use crate::error::{Result, fail};
use crate::kv_cache::{KvCache, MAX_CHUNK};
use crate::load::LoadOptions;
use crate::rope::frequencies;
use crate::weights::{Layer, Linear, NormWeights, Weights};
use std::path::Path;
use wootz_formats::Checkpoint;
use wootz_kernels::Pool;
use wootz_kernels::ops::attention::{Attention, CacheType, Segment};
use wootz_kernels::ops::matmul::{Inputs, Product, matmul};
use wootz_kernels::ops::mlp::{self, Activation};
use wootz_kernels::ops::rmsnorm::RmsNorm;
use wootz_kernels::ops::rope::{self, Angles};
use wootz_kernels::ops::{layernorm, residual};

/// A decoder with its parameters and threads.
pub struct Model {
    architecture: &'static Architecture,
    config: DecoderConfig,
    weights: Weights,
    pool: Pool,
    /// The distinct rotary embeddings of the layers, and which of them each layer has.
    rotations: Vec<(Vec<f32>, f32)>,
    rotation_of: Vec<Option<usize>>,
}

/// Some tokens of one sequence, which follow what is in its cache.
pub struct Chunk<'a> {
    /// 1 to [`MAX_CHUNK`] token ids.
    pub tokens: &'a [u32],
    /// The sequence so far; the tokens are appended.
    pub cache: &'a mut KvCache,
    /// Which of the tokens are to have logits.
    pub logits: Rows,
}

/// Rows of logits that a chunk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// None: the tokens only fill the cache.
    None,
    /// The last token's.
    Last,
    /// Every token's.
    All,
}

/// The buffers of a forward pass; they grow to the largest call and are used again.
#[derive(Default)]
pub struct Scratch {
    x: Vec<f32>,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    out: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    logits: Vec<f32>,
    inputs: Inputs,
    angles: Vec<Angles>,
}

/// Where a chunk's rows are.
struct Place {
    rows: std::ops::Range<usize>,
    first: usize,
}

impl Model {
    /// Opens and loads a model file or folder.
    ///
    /// # Errors
    /// Everything that makes the file unusable; the message names file and thing.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Model> {
        let checkpoint = crate::load::open(path)?;
        Model::from_checkpoint(&checkpoint, options)
    }

    /// Loads an open model.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Model> {
        let pool = Pool::new(options.threads);
        let (architecture, config, weights) = Weights::load(checkpoint, &pool, options.precision)?;
        let mut distinct: Vec<&Rope> = Vec::new();
        let mut rotation_of = Vec::new();
        for layer in &config.layers {
            rotation_of.push(layer.rope.as_ref().map(|rope| {
                distinct.iter().position(|r| *r == rope).unwrap_or_else(|| {
                    distinct.push(rope);
                    distinct.len() - 1
                })
            }));
        }
        let rotations = distinct.into_iter().map(|rope| frequencies(rope, config.head_dim)).collect();
        Ok(Model { architecture, config, weights, pool, rotations, rotation_of })
    }

    /// The architecture.
    pub fn architecture(&self) -> &'static Architecture {
        self.architecture
    }

    /// The blueprint.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The threads that compute.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Bytes of the parameters in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Bytes of parameters that decoding one token reads.
    pub fn bytes_per_token(&self) -> usize {
        self.weights.bytes_per_token()
    }

    /// An empty cache with room for `positions` positions.
    pub fn new_cache(&self, positions: usize, kind: CacheType) -> KvCache {
        KvCache::new(&self.config, positions, kind)
    }

    /// Runs the tokens of all chunks, appends them to their caches, and returns the logits that were asked for:
    /// `[rows, V]`, in the order of the chunks.
    ///
    /// # Errors
    /// A token that is not in the vocabulary, an empty or too long chunk, a cache without room, a position beyond a
    /// learned table. Nothing has changed then.
    pub fn forward<'s>(&self, scratch: &'s mut Scratch, chunks: &mut [Chunk]) -> Result<&'s mut [f32]> {
        let places = self.places(chunks)?;
        let rows = places.last().map_or(0, |place| place.rows.end);
        self.embed(scratch, chunks, &places, rows);
        self.set_angles(scratch, &places);

        let wanted = wanted_rows(chunks, &places);
        let last = self.config.n_layers() - 1;
        for index in 0..=last {
            self.attention_block(scratch, index, chunks, &places);
            // After the last attention nothing mixes rows any more: only those that have logits go on.
            if index == last && wanted.len() < rows {
                gather_rows(&mut scratch.x, &wanted, self.config.dim);
            }
            self.mlp_block(scratch, &self.weights.layers[index]);
        }
        for (chunk, place) in chunks.iter_mut().zip(&places) {
            chunk.cache.advance(place.rows.len());
        }
        self.head(scratch, wanted.len());
        Ok(&mut scratch.logits)
    }

    fn places(&self, chunks: &[Chunk]) -> Result<Vec<Place>> {
        let mut places = Vec::with_capacity(chunks.len());
        let mut next = 0;
        for chunk in chunks {
            let (count, first) = (chunk.tokens.len(), chunk.cache.len());
            if count == 0 || count > MAX_CHUNK {
                fail!("a chunk of {count} tokens; expected 1 to {MAX_CHUNK}")
            }
            if first + count > chunk.cache.capacity() {
                fail!(
                    "the sequence has {} tokens and its cache room for {}; ask for a larger context",
                    first + count,
                    chunk.cache.capacity()
                )
            }
            if self.config.positions == Positions::Learned && first + count > self.config.max_seq {
                fail!(
                    "the sequence has {} tokens and the model's position table ends at {}",
                    first + count,
                    self.config.max_seq
                )
            }
            if let Some(token) = chunk.tokens.iter().find(|&&t| t as usize >= self.config.vocab_size) {
                fail!("token {token} is not in the vocabulary of {} tokens", self.config.vocab_size)
            }
            places.push(Place { rows: next..next + count, first });
            next += count;
        }
        Ok(places)
    }

    /// x = embedding rows, scaled, plus learned positions.
    fn embed(&self, s: &mut Scratch, chunks: &[Chunk], places: &[Place], rows: usize) {
        let dim = self.config.dim;
        s.x.resize(rows * dim, 0.0);
        let tokens: Vec<(u32, usize)> = chunks
            .iter()
            .zip(places)
            .flat_map(|(chunk, place)| chunk.tokens.iter().zip(place.first..).map(|(&t, p)| (t, p)))
            .collect();
        self.pool.for_each_row(&mut s.x, dim, 4, |row, x| {
            let (token, position) = tokens[row];
            self.weights.embed.decode_row(token as usize, x);
            if self.config.embedding_scale != 1.0 {
                x.iter_mut().for_each(|x| *x *= self.config.embedding_scale);
            }
            if let Some(table) = &self.weights.positions {
                let mut position_row = vec![0.0; dim];
                table.decode_row(position, &mut position_row);
                x.iter_mut().zip(&position_row).for_each(|(x, p)| *x += p);
            }
        });
    }

    fn set_angles(&self, s: &mut Scratch, places: &[Place]) {
        let positions: Vec<usize> =
            places.iter().flat_map(|place| place.first..place.first + place.rows.len()).collect();
        s.angles.resize_with(self.rotations.len(), Angles::default);
        for (angles, (frequencies, magnitude)) in s.angles.iter_mut().zip(&self.rotations) {
            angles.set(&positions, frequencies, *magnitude);
        }
    }

    /// x += attention(norm(x)), with Gemma's second norm on the way.
    fn attention_block(&self, s: &mut Scratch, index: usize, chunks: &mut [Chunk], places: &[Place]) {
        let (config, layer) = (&self.config, &self.weights.layers[index]);
        let rows = s.x.len() / config.dim;
        self.norm(&s.x, &layer.attn_norm, &mut s.normed);
        let [q, k, v] = &layer.qkv;
        self.linear(&mut s.inputs, &s.normed, [(q, &mut s.q), (k, &mut s.k), (v, &mut s.v)]);
        if let Some([q_norm, k_norm]) = &layer.qk_norm {
            let norm = self.rms_norm();
            norm.forward_in_place(&self.pool, &mut s.q, &q_norm.weight);
            norm.forward_in_place(&self.pool, &mut s.k, &k_norm.weight);
        }
        if let Some(angles) = self.rotation_of[index].map(|i| &s.angles[i]) {
            rope::forward(&self.pool, angles, &mut s.q, config.n_heads);
            rope::forward(&self.pool, angles, &mut s.k, config.n_kv_heads);
        }
        let width = config.kv_dim();
        for (chunk, place) in chunks.iter_mut().zip(places) {
            let range = place.rows.start * width..place.rows.end * width;
            let cache = &mut chunk.cache.layers[index];
            cache.append(&self.pool, place.first, &s.k[range.clone()], &s.v[range]);
        }
        let segments: Vec<Segment> = chunks
            .iter()
            .zip(places)
            .map(|(chunk, place)| Segment {
                rows: place.rows.clone(),
                first: place.first,
                cache: &chunk.cache.layers[index],
            })
            .collect();
        s.attended.resize(rows * config.q_dim(), 0.0);
        let attention = Attention {
            heads: config.n_heads,
            scale: config.attention_scale,
            window: config.layers[index].window,
        };
        attention.forward(&self.pool, &s.q, &segments, &mut s.attended);
        self.linear(&mut s.inputs, &s.attended, [(&layer.o, &mut s.out)]);
        self.add(s, layer.attn_post_norm.as_ref());
    }

    /// x += mlp(norm(x)), with Gemma's second norm on the way.
    fn mlp_block(&self, s: &mut Scratch, layer: &Layer) {
        self.norm(&s.x, &layer.mlp_norm, &mut s.normed);
        let activation = match self.config.mlp {
            Mlp::Gelu | Mlp::GeGlu => Activation::Gelu,
            Mlp::SwiGlu => Activation::Silu,
        };
        if let Some(gate) = &layer.gate {
            self.linear(&mut s.inputs, &s.normed, [(gate, &mut s.gate), (&layer.up, &mut s.up)]);
            mlp::gated(&self.pool, activation, &mut s.gate, &s.up);
        } else {
            self.linear(&mut s.inputs, &s.normed, [(&layer.up, &mut s.gate)]);
            mlp::activate(&self.pool, activation, &mut s.gate);
        }
        self.linear(&mut s.inputs, &s.gate, [(&layer.down, &mut s.out)]);
        self.add(s, layer.mlp_post_norm.as_ref());
    }

    /// logits = head(norm(x)) for the rows that are left.
    fn head(&self, s: &mut Scratch, rows: usize) {
        let head = self.weights.head();
        s.logits.resize(rows * head.rows(), 0.0);
        if rows == 0 {
            return;
        }
        self.norm(&s.x, &self.weights.norm, &mut s.normed);
        let size = [rows, self.config.dim];
        let x = s.inputs.prepare(&self.pool, &s.normed, size, std::iter::once(head.operand()));
        matmul(&self.pool, &x, &mut [Product { weight: head, bias: None, y: &mut s.logits }]);
        if let Some(cap) = self.config.logit_softcap {
            mlp::soft_cap(&self.pool, cap, &mut s.logits);
        }
    }

    fn rms_norm(&self) -> RmsNorm {
        let offset = if self.config.norm == Norm::RmsNormOnePlus { 1.0 } else { 0.0 };
        RmsNorm { eps: self.config.norm_eps, offset }
    }

    fn norm(&self, x: &[f32], weights: &NormWeights, y: &mut Vec<f32>) {
        y.resize(x.len(), 0.0);
        match (&self.config.norm, &weights.bias) {
            (Norm::LayerNorm, Some(bias)) => {
                layernorm::forward(&self.pool, self.config.norm_eps, x, &weights.weight, bias, y);
            }
            (Norm::LayerNorm | Norm::RmsNorm | Norm::RmsNormOnePlus, _) => {
                self.rms_norm().forward(&self.pool, x, &weights.weight, y);
            }
        }
    }

    /// The residual stream takes `s.out` up, through a norm if there is one.
    fn add(&self, s: &mut Scratch, post_norm: Option<&NormWeights>) {
        let y = match post_norm {
            Some(weights) => {
                self.norm(&s.out, weights, &mut s.normed);
                &s.normed
            }
            None => &s.out,
        };
        residual::add(&self.pool, &mut s.x, y);
    }

    /// Several projections of the same rows.
    fn linear<const N: usize>(
        &self,
        inputs: &mut Inputs,
        x: &[f32],
        mut outputs: [(&Linear, &mut Vec<f32>); N],
    ) {
        let width = outputs[0].0.weight.cols();
        let rows = x.len() / width;
        let operands = outputs.iter().map(|(linear, _)| linear.weight.operand());
        let x = inputs.prepare(&self.pool, x, [rows, width], operands);
        for (linear, y) in &mut outputs {
            y.resize(rows * linear.weight.rows(), 0.0);
        }
        let mut products = outputs.map(|(linear, y)| Product {
            weight: &linear.weight,
            bias: linear.bias.as_deref(),
            y: y.as_mut_slice(),
        });
        matmul(&self.pool, &x, &mut products);
    }
}

/// The rows that have logits.
fn wanted_rows(chunks: &[Chunk], places: &[Place]) -> Vec<usize> {
    let mut wanted = Vec::new();
    for (chunk, place) in chunks.iter().zip(places) {
        match chunk.logits {
            Rows::None => {}
            Rows::Last => wanted.push(place.rows.end - 1),
            Rows::All => wanted.extend(place.rows.clone()),
        }
    }
    wanted
}

/// Keeps the rows `wanted` (ascending) of a matrix of `width` columns.
fn gather_rows(x: &mut Vec<f32>, wanted: &[usize], width: usize) {
    for (to, &from) in wanted.iter().enumerate() {
        x.copy_within(from * width..(from + 1) * width, to * width);
    }
    x.truncate(wanted.len() * width);
}
