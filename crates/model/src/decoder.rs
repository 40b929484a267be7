//! The one decoder: forward, for any [`DecoderConfig`].
//!
//! A call takes tokens of one or several sequences ("chunks"): a whole prompt, a part of one, one token each of many
//! sequences, or any mixture. All tokens are rows of one matrix, so that each weight is read once for all of them;
//! only attention looks at sequences. A row's result has the same bits whatever else is in the call (see
//! [`wootz_kernels::ops::matmul`]).

use crate::arch::Architecture;
use crate::block::{Activations, Block, Mode, Network, Observer, Workspace};
use crate::config::{DecoderConfig, Head, Positions, Rope};
use crate::error::{Result, fail};
use crate::kv_cache::{KvCache, MAX_CHUNK};
use crate::load::LoadOptions;
use crate::lora::Adapter;
use crate::names::{Part, Place, TensorId};
use crate::quantize::Mix;
use crate::rope::frequencies;
use crate::weights::{Parameter, Weights};
use std::path::Path;
use wootz_formats::Checkpoint;
use wootz_kernels::Pool;
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::ops::matmul::{Product, matmul};
use wootz_kernels::ops::rope::Angles;
use wootz_kernels::ops::{Write, embedding, mlp};

/// A decoder with its parameters and threads.
pub struct Model {
    architecture: &'static Architecture,
    config: DecoderConfig,
    weights: Weights,
    adapters: Vec<Adapter>,
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
    /// Rows of a table: tokens, then positions.
    rows: Vec<u32>,
    angles: Vec<Angles>,
    activations: Activations,
    workspace: Workspace,
    logits: Vec<f32>,
}

/// Neighbouring rows that belong to one sequence.
pub(crate) struct Span {
    pub rows: std::ops::Range<usize>,
    /// Position of the first row.
    pub first: usize,
}

impl Span {
    /// The positions of the rows in their sequence.
    fn positions(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.rows.len()
    }
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

    /// Opens and loads a model, with its matrices rounded to the types of a mixture. Those that are quantised already stay
    /// as they are.
    ///
    /// # Errors
    /// As [`Model::load`], and a value that is not finite.
    pub fn load_quantized(path: &Path, options: &LoadOptions, mix: Mix) -> Result<Model> {
        let checkpoint = crate::load::open(path)?;
        let pool = Pool::new(options.threads);
        let (architecture, config, weights) =
            Weights::load_as(&checkpoint, &pool, options.precision, Some(mix))?;
        Ok(Model::from_weights(architecture, config, weights, pool))
    }

    /// Loads an open model.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Model> {
        let pool = Pool::new(options.threads);
        let (architecture, config, weights) = Weights::load(checkpoint, &pool, options.precision)?;
        Ok(Model::from_weights(architecture, config, weights, pool))
    }

    /// A model of parameters in memory, such as [`Weights::generate`] makes for the same configuration.
    pub fn from_weights(
        architecture: &'static Architecture,
        config: DecoderConfig,
        weights: Weights,
        pool: Pool,
    ) -> Model {
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
        let adapters = Vec::new();
        Model { architecture, config, weights, adapters, pool, rotations, rotation_of }
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
        self.run(scratch, chunks, None)
    }

    /// [`Model::forward`], and `observer` is shown the inputs of every product on the way. The results are the same.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn observe<'s>(
        &self,
        scratch: &'s mut Scratch,
        chunks: &mut [Chunk],
        observer: &dyn Observer,
    ) -> Result<&'s mut [f32]> {
        self.run(scratch, chunks, Some(observer))
    }

    fn run<'s>(
        &self,
        scratch: &'s mut Scratch,
        chunks: &mut [Chunk],
        observer: Option<&dyn Observer>,
    ) -> Result<&'s mut [f32]> {
        let spans = self.spans(chunks)?;
        let rows = spans.last().map_or(0, |span| span.rows.end);
        self.embed(scratch, chunks, &spans, rows);
        self.set_angles(&mut scratch.angles, &spans);

        let wanted = wanted_rows(chunks, &spans);
        let last = self.config.n_layers() - 1;
        let network = Network { observer, ..self.network(Mode::Inference) };
        for index in 0..=last {
            let block = self.block(network, index, &scratch.angles);
            let mut caches: Vec<_> = chunks.iter_mut().map(|c| &mut c.cache.layers[index]).collect();
            let (a, w) = (&mut scratch.activations, &mut scratch.workspace);
            block.attention(&mut scratch.x, &mut caches, &spans, a, w);
            // After the last attention nothing mixes rows any more: only those that have logits go on.
            if index == last && wanted.len() < rows {
                gather_rows(&mut scratch.x, &wanted, self.config.dim);
            }
            block.mlp(&mut scratch.x, a, w);
        }
        for (chunk, span) in chunks.iter_mut().zip(&spans) {
            chunk.cache.advance(span.rows.len());
        }
        self.head(network, scratch, wanted.len());
        Ok(&mut scratch.logits)
    }

    /// What all blocks share.
    pub(crate) fn network(&self, mode: Mode) -> Network<'_> {
        let adapters = &self.adapters;
        Network { pool: &self.pool, config: &self.config, mode, adapters, draw: None, observer: None }
    }

    /// A block over rows of these angles ([`Model::set_angles`]).
    pub(crate) fn block<'a>(&'a self, network: Network<'a>, index: usize, angles: &'a [Angles]) -> Block<'a> {
        let angles = self.rotation_of[index].map(|i| &angles[i]);
        Block { network, index, layer: &self.weights.layers[index], angles }
    }

    /// The parameters.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The projections that its blocks have.
    pub fn projections(&self) -> Vec<Part> {
        let has = |part: &Part| self.weights.layers.iter().any(|layer| layer.linear(*part).is_some());
        Part::ALL.into_iter().filter(has).collect()
    }

    /// The adapters whose changes add up to what the weights say.
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// The adapters, to be put on, taken off or changed. Each has parts of this model's shapes.
    pub fn adapters_mut(&mut self) -> &mut Vec<Adapter> {
        &mut self.adapters
    }

    /// Puts an adapter on: its changes add up to those of the others, and what it has saved takes the place of the model's
    /// own parameters, for good. No other parameter changes.
    ///
    /// # Errors
    /// A part that this model has not, or of another shape; a strength for what can only be replaced. Nothing has changed
    /// then.
    pub fn put_on(&mut self, mut adapter: Adapter) -> Result<()> {
        crate::adapter::check(&self.config, &adapter)?;
        crate::adapter::check_together(self.adapters.iter().chain([&adapter]))?;
        let saved = std::mem::take(&mut adapter.saved);
        let is_parted = saved.iter().any(|(id, _)| matches!(id.place, Place::Embed | Place::Head));
        if is_parted && self.config.head == Head::Tied {
            // PEFT trains a copy of the one, and the other stays what it was.
            self.weights.head = Some(self.weights.embed.clone());
            self.config.head = Head::Untied;
        }
        for (id, values) in &saved {
            self.weights.replace(&self.pool, *id, values);
        }
        self.adapters.push(adapter);
        self.measure_adapters();
        Ok(())
    }

    /// Measures again what adapters divide by that give weights a length of their own: after every change of their
    /// matrices. For others it does nothing.
    pub fn measure_adapters(&mut self) {
        for adapter in &mut self.adapters {
            let strength = adapter.strength;
            for (place, lora) in adapter.parts.iter_mut().filter(|(_, lora)| lora.magnitude.is_some()) {
                if let Some(linear) = self.weights.linear(*place) {
                    lora.measure(&self.pool, &linear.weight, strength);
                }
            }
        }
    }

    /// Every parameter: the weights', and behind them those of the first adapter, which is the one that is trained.
    pub fn parameters_mut(&mut self) -> (Vec<(TensorId, Parameter<'_>)>, &Pool) {
        let mut all = self.weights.parameters_mut();
        all.extend(self.adapters.first_mut().into_iter().flat_map(Adapter::parameters_mut));
        (all, &self.pool)
    }

    /// The parameters, to be changed, and the threads to do it.
    pub fn weights_mut(&mut self) -> (&mut Weights, &Pool) {
        (&mut self.weights, &self.pool)
    }

    fn spans(&self, chunks: &[Chunk]) -> Result<Vec<Span>> {
        let mut spans = Vec::with_capacity(chunks.len());
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
            spans.push(Span { rows: next..next + count, first });
            next += count;
        }
        Ok(spans)
    }

    /// x = embedding rows, scaled, plus learned positions.
    fn embed(&self, s: &mut Scratch, chunks: &[Chunk], spans: &[Span], rows: usize) {
        s.x.resize(rows * self.config.dim, 0.0);
        s.rows.clear();
        s.rows.extend(chunks.iter().flat_map(|chunk| chunk.tokens));
        let scale = self.config.embedding_scale;
        embedding::forward(&self.pool, &self.weights.embed, &s.rows, scale, &mut s.x, Write::Set);
        if let Some(table) = &self.weights.positions {
            s.rows.clear();
            s.rows.extend(spans.iter().flat_map(|span| span.positions().map(|p| p as u32)));
            embedding::forward(&self.pool, table, &s.rows, 1.0, &mut s.x, Write::Add);
        }
    }

    /// The angles of every distinct rotary embedding, for the positions of all rows.
    pub(crate) fn set_angles(&self, angles: &mut Vec<Angles>, spans: &[Span]) {
        let positions: Vec<usize> = spans.iter().flat_map(Span::positions).collect();
        angles.resize_with(self.rotations.len(), Angles::default);
        for (angles, (frequencies, magnitude)) in angles.iter_mut().zip(&self.rotations) {
            angles.set(&positions, frequencies, *magnitude);
        }
    }

    /// logits = head(norm(x)) for the rows that are left.
    fn head(&self, network: Network, s: &mut Scratch, rows: usize) {
        let head = self.weights.head();
        s.logits.resize(rows * head.rows(), 0.0);
        if rows == 0 {
            return;
        }
        let w = &mut s.workspace;
        network.norm(&s.x, &self.weights.norm, &mut w.normed);
        if let Some(observer) = network.observer {
            let place = if self.weights.head.is_some() { Place::Head } else { Place::Embed };
            observer.inputs(&[place], &w.normed, self.config.dim);
        }
        let size = [rows, self.config.dim];
        let operand = std::iter::once(head.operand());
        let x = w.products.inputs[0].prepare(&self.pool, &w.normed, size, operand);
        matmul(
            &self.pool,
            &x,
            &mut [Product { weight: head, bias: None, y: &mut s.logits, write: Write::Set }],
        );
        if let Some(cap) = self.config.logit_softcap {
            mlp::soft_cap(&self.pool, cap, &mut s.logits);
        }
    }
}

/// The rows that have logits.
fn wanted_rows(chunks: &[Chunk], spans: &[Span]) -> Vec<usize> {
    let mut wanted = Vec::new();
    for (chunk, span) in chunks.iter().zip(spans) {
        match chunk.logits {
            Rows::None => {}
            Rows::Last => wanted.push(span.rows.end - 1),
            Rows::All => wanted.extend(span.rows.clone()),
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
