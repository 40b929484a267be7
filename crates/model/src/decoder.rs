//! The one decoder: forward, for any [`DecoderConfig`].
//!
//! A call takes tokens of one or several sequences ("chunks"): a whole prompt, a part of one, one token each of many
//! sequences, or any mixture. All tokens are rows of one matrix, so that each weight is read once for all of them;
//! only attention looks at sequences. A row's result has the same bits whatever else is in the call (see
//! [`wootz_kernels::ops::matmul`]).

use crate::arch::Architecture;
use crate::block::{Activations, Block, Mode, Network, Observer, Past, Stream, Workspace};
use crate::config::{DecoderConfig, Head, Positions, Rope};
use crate::error::{Context, Result, fail};
use crate::generate::Kept;
use crate::kv_cache::{KvCache, MAX_CHUNK};
use crate::load::LoadOptions;
use crate::lora::Adapter;
use crate::names::{Part, Place, TensorId};
use crate::plan::Share;
use crate::quantize::Mix;
use crate::rope::frequencies;
use crate::weights::{Parameter, Weights};
use std::path::Path;
use wootz_formats::Checkpoint;
use wootz_kernels::Pool;
use wootz_kernels::device::launch::attention::Attention;
use wootz_kernels::device::launch::sampling::Likeliest;
use wootz_kernels::device::{Accelerator, Gpu};
use wootz_kernels::exec::{Exec, Floats, Ids, LeftOut, Losses, Output, Slot, Tables, Turns};
use wootz_kernels::ops::Write;
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::ops::cross_entropy::CrossEntropy;

/// A decoder with its parameters and threads.
///
/// Its last blocks, or all of it, may be on a GPU ([`Model::place`]). What is computed is computed where its weights are; the
/// stream of rows goes from one place to the other, once in a pass.
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
    stream: Stream,
    /// Rows of the embedding and of the table of positions, and those that have logits.
    tokens: Ids,
    positions: Ids,
    wanted: Ids,
    turns: Vec<Turns>,
    /// On the CPU, and on a GPU.
    rooms: [Room; 2],
    /// The stream of the rows that have logits.
    of_wanted: Stream,
    logits: Floats,
    /// What a GPU has computed, for who asks for it.
    on_host: Vec<f32>,
}

impl Scratch {
    /// The logits of the last pass, `[rows, V]`, brought to the host if a GPU has computed them.
    ///
    /// # Errors
    /// What the device meets.
    pub fn logits(&mut self) -> Result<&mut [f32]> {
        if self.logits.owner().is_none() {
            return Ok(self.logits.host_mut());
        }
        self.on_host.clear();
        self.on_host.extend_from_slice(&self.logits.read()?);
        Ok(&mut self.on_host)
    }
}

/// What blocks work in.
#[derive(Default)]
struct Room {
    activations: Activations,
    workspace: Workspace,
}

/// A token that was drawn from a row of logits.
pub struct Picked<'a> {
    /// The row, of those that the last pass gave.
    pub row: usize,
    /// The token.
    pub token: u32,
    /// What the logits were multiplied with.
    pub scale: f32,
    /// The tokens that it was drawn from; `None` for all.
    pub kept: Option<&'a Kept>,
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

    /// Bytes of the parameters in memory that belong to a share of the model.
    pub fn weight_bytes_of(&self, share: Share) -> usize {
        self.weights.bytes_of(|place| share.has(&self.config, place))
    }

    /// Bytes of parameters that decoding one token reads.
    pub fn bytes_per_token(&self) -> usize {
        self.weights.bytes_per_token()
    }

    /// Moves the last `layers` blocks to a GPU, no others, and with them what belongs to them: a head of its own goes with the
    /// last block; the embedding, and a head that is the embedding, only when all blocks go. Adapters go with their projections.
    ///
    /// # Errors
    /// A device without memory: what had moved is brought back. What else the device meets.
    pub fn place(&mut self, gpu: &Accelerator, layers: usize) -> Result<()> {
        let layers = layers.min(self.config.n_layers());
        let first = self.config.n_layers() - layers;
        if self.gpu_layers() > layers {
            self.take_back()?;
        }
        let exec = Exec { pool: &self.pool, gpu: Some(gpu) };
        let moved = self.weights.bring(exec, first).and_then(|()| {
            self.adapters
                .iter_mut()
                .try_for_each(|adapter| bring_adapter(&self.weights, &self.pool, adapter))?;
            // Uploads are queued: what fails of them is told here.
            Ok(gpu.synchronize()?)
        });
        if let Err(error) = moved {
            self.take_back()?;
            return Err(error).context(|| format!("cannot put {layers} blocks on {}", gpu.info().name));
        }
        Ok(())
    }

    /// Brings all of the model to the host. Caches that were made before are of no more use.
    ///
    /// # Errors
    /// What the device meets that has some of it.
    pub fn take_back(&mut self) -> Result<()> {
        self.weights.bring(Exec::cpu(&self.pool), 0)?;
        self.adapters.iter_mut().try_for_each(|adapter| bring_adapter(&self.weights, &self.pool, adapter))
    }

    /// The GPU that has blocks of the model, if one has.
    pub fn gpu(&self) -> Option<&Accelerator> {
        self.weights.layers.last().and_then(|layer| layer.o.weight.owner())
    }

    /// Blocks on a GPU: the last ones.
    pub fn gpu_layers(&self) -> usize {
        self.weights.layers.iter().filter(|layer| layer.o.weight.owner().is_some()).count()
    }

    /// Who computes with the parameters at a place.
    pub fn exec_at(&self, place: Place) -> Exec<'_> {
        let gpu = match place {
            Place::Embed | Place::PosEmbed => self.weights.embed.owner(),
            Place::Layer(index, _) => self.weights.layers.get(index).and_then(|layer| layer.o.weight.owner()),
            Place::FinalNorm | Place::Head => self.weights.head().owner(),
        };
        Exec { pool: &self.pool, gpu }
    }

    /// Who computes a block.
    pub(crate) fn exec_of(&self, layer: usize) -> Exec<'_> {
        self.exec_at(Place::Layer(layer, Part::O))
    }

    /// The first block whose keys and values are in a device's memory.
    fn first_cached(&self) -> usize {
        match self.gpu() {
            Some(_) if self.exec_of(self.config.n_layers() - 1).has_attention(self.config.head_dim) => {
                self.config.n_layers() - self.gpu_layers()
            }
            _ => self.config.n_layers(),
        }
    }

    /// An empty cache with room for `positions` positions.
    ///
    /// # Errors
    /// A device without memory.
    pub fn new_cache(&self, positions: usize, kind: CacheType) -> Result<KvCache> {
        let mut one = self.new_caches(1, positions, kind)?;
        Ok(one.pop().unwrap_or_else(|| KvCache::new(&self.config, positions, kind)))
    }

    /// Several empty caches with room for `positions` positions each. On a GPU they lie together, and are served together.
    ///
    /// # Errors
    /// A device without memory.
    pub fn new_caches(&self, count: usize, positions: usize, kind: CacheType) -> Result<Vec<KvCache>> {
        let first = self.first_cached();
        match self.gpu() {
            Some(gpu) if first < self.config.n_layers() => {
                KvCache::on_device(&self.config, gpu, first, count, positions, kind)
            }
            _ => Ok((0..count).map(|_| KvCache::new(&self.config, positions, kind)).collect()),
        }
    }

    /// What attention is like in the blocks on a GPU.
    pub(crate) fn shapes_on_gpu(&self, first: usize) -> Vec<Attention> {
        (first..self.config.n_layers()).map(|layer| self.config.attention(layer)).collect()
    }

    /// Runs the tokens of all chunks, appends them to their caches, and returns the logits that were asked for:
    /// `[rows, V]`, in the order of the chunks.
    ///
    /// # Errors
    /// A token that is not in the vocabulary, an empty or too long chunk, a cache without room, a position beyond a
    /// learned table. Nothing has changed then.
    pub fn forward<'s>(&self, scratch: &'s mut Scratch, chunks: &mut [Chunk]) -> Result<&'s mut [f32]> {
        self.run(scratch, chunks, None)?;
        scratch.logits()
    }

    /// [`Model::forward`], with the logits left where they were computed: [`Scratch::logits`] brings them,
    /// [`Model::likeliest`] looks at them there.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn compute(&self, scratch: &mut Scratch, chunks: &mut [Chunk]) -> Result<()> {
        self.run(scratch, chunks, None)
    }

    /// The `k` likeliest tokens of each row of the last pass, where a GPU has the logits: so a few tokens travel, and not a
    /// row of the vocabulary. `None` where the CPU has them, where k is too large for a GPU to look for, and where a row has
    /// values that are no numbers.
    ///
    /// # Errors
    /// What the device meets.
    pub fn likeliest(&self, scratch: &Scratch, k: usize) -> Result<Option<Vec<Likeliest>>> {
        Ok(self.exec_at(Place::Head).likeliest(&scratch.logits, self.config.vocab_size, k)?)
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
        self.run(scratch, chunks, Some(observer))?;
        scratch.logits()
    }

    fn run(
        &self,
        scratch: &mut Scratch,
        chunks: &mut [Chunk],
        observer: Option<&dyn Observer>,
    ) -> Result<()> {
        let spans = self.spans(chunks)?;
        let rows = spans.last().map_or(0, |span| span.rows.end);
        let last = self.config.n_layers() - 1;
        // Everything that travels to a device does so before its first launch, so that a pass is one submission.
        let tables = self.tables(chunks, &spans)?;
        self.set_turns(&mut scratch.turns, &spans)?;
        let wanted = wanted_rows(chunks, &spans);
        scratch.wanted.set(self.exec_of(last), wanted.iter().map(|&row| row as u32))?;
        self.embed(scratch, chunks, &spans)?;

        for index in 0..=last {
            let exec = self.exec_of(index);
            scratch.stream.bring(exec)?;
            let network = Network { observer, ..self.network(Mode::Inference, exec) };
            let block = self.block(network, index, &scratch.turns);
            let Room { activations: a, workspace: w } = &mut scratch.rooms[usize::from(exec.gpu.is_some())];
            let mut caches: Vec<_> =
                chunks.iter_mut().filter_map(|chunk| chunk.cache.layers.get_mut(index)).collect();
            let past = match &tables {
                Some((first, tables)) if index >= *first => Past::Slots(tables, index - first),
                _ => Past::Caches(&mut caches),
            };
            block.attention(&mut scratch.stream, past, &spans, a, w)?;
            // After the last attention nothing mixes rows any more: only those that have logits go on.
            if index == last && wanted.len() < rows {
                scratch.stream.gather(exec, self.config.dim, &scratch.wanted, &mut scratch.of_wanted)?;
                std::mem::swap(&mut scratch.stream, &mut scratch.of_wanted);
            }
            if wanted.is_empty() && index == last {
                break;
            }
            block.mlp(&mut scratch.stream, a, w)?;
        }
        for (chunk, span) in chunks.iter_mut().zip(&spans) {
            chunk.cache.advance(span.rows.len());
        }
        self.head(observer, scratch, wanted.len())
    }

    /// The tables for chunks whose caches are in a device's memory, and the first block that is there.
    fn tables(&self, chunks: &[Chunk], spans: &[Span]) -> Result<Option<(usize, Tables)>> {
        let first = self.first_cached();
        let Some(gpu) = self.gpu().filter(|_| first < self.config.n_layers()) else { return Ok(None) };
        let mut rows: Vec<(&Slot, std::ops::Range<usize>, usize)> = Vec::with_capacity(chunks.len());
        for (chunk, span) in chunks.iter().zip(spans) {
            match &chunk.cache.slot {
                Some(slot) if chunk.cache.layers.len() == first => {
                    rows.push((slot, span.rows.clone(), span.first))
                }
                _ => fail!("a cache was made before the model was moved to where it is"),
            }
        }
        Ok(Some((first, Tables::of_slots(gpu, &self.shapes_on_gpu(first), &rows)?)))
    }

    /// The log-probabilities of tokens that were drawn from the logits of the last pass, with the bits that training gives
    /// them, where a GPU has made them: its sums are added in another order than the CPU's. `None` where the CPU has.
    ///
    /// # Errors
    /// What the device meets.
    pub fn log_probabilities(&self, scratch: &mut Scratch, picked: &[Picked]) -> Result<Option<Vec<f32>>> {
        let exec = self.exec_at(Place::Head);
        if exec.gpu.is_none() {
            return Ok(None);
        }
        let vocab = self.config.vocab_size;
        let rows = scratch.logits.len() / vocab;
        let mut all = vec![0.0; picked.len()];
        let (mut losses, mut targets) = (vec![0.0; rows], vec![-1; rows]);
        // One temperature after the other; usually there is one.
        let mut scales: Vec<f32> = picked.iter().map(|picked| picked.scale).collect();
        scales.sort_unstable_by(f32::total_cmp);
        scales.dedup();
        for scale in scales {
            targets.fill(-1);
            for of in picked.iter().filter(|picked| picked.scale == scale) {
                targets[of.row] = of.token as i32;
            }
            let bits = |row: usize, words: &mut [u32]| {
                let of = picked.iter().find(|picked| picked.row == row && picked.scale == scale);
                if let Some(kept) = of.and_then(|picked| picked.kept) {
                    kept.bits_of_others(words);
                }
            };
            let left_out = LeftOut { logits: &|_, _| {}, bits: &bits };
            let op = CrossEntropy { scale, ..CrossEntropy::plain(vocab) };
            let out = Losses { losses: &mut losses, entropies: None };
            exec.cross_entropy(&op, Some(left_out), &mut scratch.logits, &targets, None, out)?;
            for (logprob, of) in all.iter_mut().zip(picked).filter(|(_, picked)| picked.scale == scale) {
                *logprob = -losses[of.row];
            }
        }
        Ok(Some(all))
    }

    /// What all blocks share that `exec` computes.
    pub(crate) fn network<'a>(&'a self, mode: Mode, exec: Exec<'a>) -> Network<'a> {
        let adapters = &self.adapters;
        Network { exec, config: &self.config, mode, adapters, draw: None, observer: None }
    }

    /// A block over rows of these angles ([`Model::set_turns`]).
    pub(crate) fn block<'a>(&'a self, network: Network<'a>, index: usize, turns: &'a [Turns]) -> Block<'a> {
        let turns = self.rotation_of[index].map(|i| &turns[i]);
        Block { network, index, layer: &self.weights.layers[index], turns }
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
            self.weights.head = Some(self.weights.embed.copy()?);
            self.config.head = Head::Untied;
        }
        for (id, values) in &saved {
            self.weights.replace(&self.pool, *id, values)?;
        }
        let adapter = self.bring(adapter)?;
        self.adapters.push(adapter);
        self.measure_adapters()
    }

    /// Moves the parts of an adapter to where their projections are.
    ///
    /// # Errors
    /// What a device meets.
    pub fn bring(&self, mut adapter: Adapter) -> Result<Adapter> {
        bring_adapter(&self.weights, &self.pool, &mut adapter)?;
        Ok(adapter)
    }

    /// Measures again what adapters divide by that give weights a length of their own: after every change of their
    /// matrices. For others it does nothing.
    ///
    /// # Errors
    /// What a device meets that has them.
    pub fn measure_adapters(&mut self) -> Result<()> {
        for adapter in &mut self.adapters {
            let strength = adapter.strength;
            for (place, lora) in adapter.parts.iter_mut().filter(|(_, lora)| lora.magnitude.is_some()) {
                if let Some(linear) = self.weights.linear(*place) {
                    let exec = Exec { pool: &self.pool, gpu: linear.weight.owner() };
                    lora.measure(exec, &linear.weight, strength)?;
                }
            }
        }
        Ok(())
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
    fn embed(&self, s: &mut Scratch, chunks: &[Chunk], spans: &[Span]) -> Result<()> {
        let exec = self.exec_at(Place::Embed);
        s.tokens.set(exec, chunks.iter().flat_map(|chunk| chunk.tokens).copied())?;
        let has_table = self.weights.positions.is_some();
        let positions =
            spans.iter().filter(|_| has_table).flat_map(|span| span.positions().map(|p| p as u32));
        s.positions.set(exec, positions)?;
        let (scale, x) = (self.config.embedding_scale, s.stream.begin());
        exec.look_up(&self.weights.embed, &s.tokens, scale, x, Write::Set)?;
        if let Some(table) = &self.weights.positions {
            exec.look_up(table, &s.positions, 1.0, x, Write::Add)?;
        }
        Ok(())
    }

    /// The angles of every distinct rotary embedding, for the positions of all rows.
    pub(crate) fn set_turns(&self, turns: &mut Vec<Turns>, spans: &[Span]) -> Result<()> {
        let positions: Vec<usize> = spans.iter().flat_map(Span::positions).collect();
        turns.resize_with(self.rotations.len(), Turns::default);
        let exec = Exec { pool: &self.pool, gpu: self.gpu() };
        for (turns, (frequencies, magnitude)) in turns.iter_mut().zip(&self.rotations) {
            turns.set(exec, &positions, frequencies, *magnitude)?;
        }
        Ok(())
    }

    /// logits = head(norm(x)) for the rows that are left.
    fn head(&self, observer: Option<&dyn Observer>, s: &mut Scratch, rows: usize) -> Result<()> {
        let exec = self.exec_at(Place::Head);
        let network = Network { observer, ..self.network(Mode::Inference, exec) };
        if rows == 0 {
            return Ok(exec.resize(&mut s.logits, 0)?);
        }
        s.stream.bring(exec)?;
        let w = &mut s.rooms[usize::from(exec.gpu.is_some())].workspace;
        network.norm_of(&mut s.stream, &self.weights.norm, &mut w.normed)?;
        if let Some(observer) = network.observer {
            let place = if self.weights.head.is_some() { Place::Head } else { Place::Embed };
            observer.inputs(&[place], &w.normed.read()?, self.config.dim);
        }
        let logits = Output { weight: self.weights.head(), bias: None, y: &mut s.logits };
        exec.products(&mut w.products.inputs[0], &w.normed, &mut [logits])?;
        if let Some(cap) = self.config.logit_softcap {
            exec.soft_cap(cap, &mut s.logits)?;
        }
        Ok(())
    }
}

/// Moves the parts of an adapter to where their projections are.
fn bring_adapter(weights: &Weights, pool: &Pool, adapter: &mut Adapter) -> Result<()> {
    for (place, lora) in &mut adapter.parts {
        if let Some(linear) = weights.linear(*place) {
            lora.bring(Exec { pool, gpu: linear.weight.owner() })?;
        }
    }
    Ok(())
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
