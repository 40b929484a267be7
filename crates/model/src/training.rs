//! Forward and backward of the whole decoder over a batch: its loss, and the gradient of every parameter.
//!
//! ```text
//!   tokens ── embedding ── blocks 0 .. L ── norm ── head ── cross-entropy ── loss
//!                 ▲            ▲             ▲       ▲            │
//!            d_embed     d_weights, dx  ◀── dx ◀── d_logits ◀─────┘
//! ```
//!
//! Logits exist for some rows at a time: their loss and gradient are taken, and the next rows use the same memory.
//! Attention's scores exist for some keys at a time. So memory grows with the number of tokens, and not with its square
//! or its product with the vocabulary.
//!
//! Nothing is allocated once a batch of the largest size has been seen.

use crate::block::{Activations, Below, Mode, Network, Past, Stream, Workspace};
use crate::config::{DecoderConfig, Head, Positions};
use crate::decoder::{Model, Span};
use crate::error::{Result, fail};
use crate::generate::Kept;
use crate::gradients::{Gradients, Pair};
use crate::names::{Part, Place};
use std::ops::Range;
use wootz_kernels::exec::{
    Exec, Floats, GradientTerm, Ids, LeftOut, LinearGradient, Losses, Output, Tables, Turns,
};
use wootz_kernels::ops::Write;
use wootz_kernels::ops::attention::{CacheType, LayerCache};
use wootz_kernels::ops::cross_entropy::CrossEntropy;

/// Some sequences, one behind the other, with what is to follow each token.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// `[rows]`: token ids.
    pub tokens: &'a [u32],
    /// `[rows]`: the token that should be predicted; a negative number where no prediction counts.
    pub targets: &'a [i32],
    /// `[sequences]`: tokens of each; `rows` in sum.
    pub lengths: &'a [usize],
}

/// How much of the forward pass is computed again in backward rather than kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompute {
    /// Nothing but norms and activations: everything else that backward needs is kept.
    #[default]
    None,
    /// Every block: only its input is kept. Costs a second forward.
    Block,
    /// As `Block`, but only about √L of the L inputs are kept; the others come again with a third forward.
    All,
}

/// What a forward pass leaves behind for backward.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Nothing,
    Inputs,
    Activations,
}

/// How far down backward will go.
#[derive(Clone, Copy)]
enum Depth {
    /// There is none.
    Nothing,
    /// To this place.
    From(Place),
}

impl Depth {
    /// The first block that backward goes through; `layers` if it goes through none.
    fn first_layer(self, layers: usize) -> usize {
        match self {
            Depth::From(Place::Embed | Place::PosEmbed) => 0,
            Depth::From(Place::Layer(layer, _)) => layer,
            Depth::From(Place::FinalNorm | Place::Head) | Depth::Nothing => layers,
        }
    }
}

/// How logits become the probabilities that a loss is of.
#[derive(Clone, Copy)]
pub struct Distribution<'a> {
    /// Multiplies logits: 1 / temperature.
    pub scale: f32,
    /// The tokens that a row of the batch could have drawn; `None` for all of them.
    pub kept: Option<&'a (dyn Fn(usize) -> Option<&'a Kept> + Sync)>,
}

impl Distribution<'_> {
    /// The model's own.
    pub const OWN: Self = Distribution { scale: 1.0, kept: None };
}

/// What a row's loss counts, given the row and its loss.
pub type Weight<'a> = &'a (dyn Fn(usize, f32) -> f32 + Sync);

/// Rows whose logits are in memory at a time, at the most.
const HEAD_ROWS: usize = 256;
/// Bytes of logits in memory at a time, unless that is less than 32 rows.
const HEAD_BYTES: usize = 64 << 20;

/// The buffers of training.
pub struct Training {
    recompute: Recompute,
    cache: CacheType,
    /// Makes what dropout leaves out of the next batch.
    draw: Option<u64>,
    /// The stream, and in backward its gradient.
    stream: Stream,
    d_x: Floats,
    /// The input of the first block of every stretch, where activations are computed again, and those of the other
    /// blocks of one stretch.
    inputs: Vec<Floats>,
    of_stretch: Vec<Floats>,
    blocks: Vec<Activations>,
    /// On the CPU, and on a GPU.
    workspaces: [Workspace; 2],
    /// What belongs together, for the blocks on a GPU.
    tables: Option<Tables>,
    /// Keys and values of each sequence in the form that attention reads on the CPU, and how many positions of it are
    /// filled; one block after the other uses them. The longest sequence has the first.
    caches: Vec<(LayerCache, usize)>,
    /// The sequence that each cache is of.
    cache_of: Vec<usize>,
    /// The rows that have a target, their targets and losses.
    wanted: Vec<usize>,
    targets: Vec<i32>,
    row_losses: Vec<f32>,
    row_entropies: Vec<f32>,
    /// Some of these rows, on their way through the head.
    part: HeadRows,
    losses: Vec<f32>,
    /// Of every row, if they were asked for.
    entropies: Option<Vec<f32>>,
    tokens: Ids,
    positions: Ids,
    spans: Vec<Span>,
    turns: Vec<Turns>,
}

/// Rows whose logits are in memory: the stream, normed, and the gradients of both.
#[derive(Default)]
struct HeadRows {
    ids: Ids,
    x: Floats,
    d_x: Floats,
    normed: Floats,
    d_normed: Floats,
    logits: Floats,
}

impl Training {
    /// Buffers that grow with the first batches.
    ///
    /// `cache` is what keys and values are rounded to on their way into attention: f32, unless the probabilities are to
    /// have the bits that a generation with another cache had. Backward takes keys and values as they were before that.
    pub fn new(recompute: Recompute, cache: CacheType) -> Training {
        Training {
            recompute,
            cache,
            draw: None,
            stream: Stream::default(),
            d_x: Floats::default(),
            inputs: Vec::new(),
            of_stretch: Vec::new(),
            blocks: Vec::new(),
            workspaces: Default::default(),
            tables: None,
            caches: Vec::new(),
            cache_of: Vec::new(),
            wanted: Vec::new(),
            targets: Vec::new(),
            row_losses: Vec::new(),
            row_entropies: Vec::new(),
            part: HeadRows::default(),
            losses: Vec::new(),
            entropies: None,
            tokens: Ids::default(),
            positions: Ids::default(),
            spans: Vec::new(),
            turns: Vec::new(),
        }
    }

    /// The loss of every row of the batch, in nats: `-log p(target)`, and 0 where none counts.
    ///
    /// # Errors
    /// A token or target outside the vocabulary, lengths that do not add up, a sequence beyond the position table.
    pub fn loss(&mut self, model: &Model, batch: &Batch) -> Result<&[f32]> {
        self.loss_under(model, batch, &Distribution::OWN)
    }

    /// As [`Training::loss`], with probabilities as they were when tokens were drawn.
    ///
    /// # Errors
    /// As [`Training::loss`].
    pub fn loss_under(&mut self, model: &Model, batch: &Batch, drawn: &Distribution) -> Result<&[f32]> {
        self.forward(model, batch, Depth::Nothing)?;
        self.head(model, batch, drawn, None)?;
        Ok(&self.losses)
    }

    /// As [`Training::loss`], and the gradients of the sum over rows of `weight(row, loss) · loss` (weights are taken
    /// for constants). They replace what `gradients` holds, or are added to it.
    ///
    /// # Errors
    /// As [`Training::loss`].
    pub fn gradients(
        &mut self,
        model: &Model,
        batch: &Batch,
        weight: Weight,
        gradients: &mut Gradients,
        write: Write,
    ) -> Result<&[f32]> {
        self.gradients_under(model, batch, &Distribution::OWN, weight, gradients, write)
    }

    /// As [`Training::gradients`], with probabilities as they were when tokens were drawn.
    ///
    /// # Errors
    /// As [`Training::loss`].
    pub fn gradients_under(
        &mut self,
        model: &Model,
        batch: &Batch,
        drawn: &Distribution,
        weight: Weight,
        gradients: &mut Gradients,
        write: Write,
    ) -> Result<&[f32]> {
        let Some(first) = gradients.first() else { fail!("nothing is trained") };
        self.forward(model, batch, Depth::From(first))?;
        gradients.begin(write)?;
        self.head(model, batch, drawn, Some((weight, gradients)))?;
        self.backward(model, batch, first, gradients)?;
        Ok(&self.losses)
    }

    /// The logits of every row, for comparisons: `[rows, V]`.
    ///
    /// # Errors
    /// As [`Training::loss`].
    pub fn logits(&mut self, model: &Model, batch: &Batch) -> Result<Vec<f32>> {
        self.forward(model, batch, Depth::Nothing)?;
        let (rows, vocab) = (batch.tokens.len(), model.config().vocab_size);
        let mut all = Vec::with_capacity(rows * vocab);
        self.wanted.clear();
        self.wanted.extend(0..rows);
        for range in chunks(rows, head_rows(vocab)) {
            self.head_products(model, range, rows)?;
            if let Some(cap) = model.config().logit_softcap {
                model.exec_at(Place::Head).soft_cap(cap, &mut self.part.logits)?;
            }
            all.extend_from_slice(&self.part.logits.read()?);
        }
        Ok(all)
    }

    /// Embedding and blocks; to the end of the stream.
    fn forward(&mut self, model: &Model, batch: &Batch, depth: Depth) -> Result<()> {
        let config = model.config();
        check(config, batch)?;
        self.set_spans(model, batch)?;
        let exec = model.exec_at(Place::Embed);
        self.tokens.set(exec, batch.tokens.iter().copied())?;
        let weights = model.weights();
        let has_table = weights.positions.is_some();
        let positions = batch.lengths.iter().filter(|_| has_table).flat_map(|&length| 0..length as u32);
        self.positions.set(exec, positions)?;
        let x = self.stream.begin();
        exec.look_up(&weights.embed, &self.tokens, config.embedding_scale, x, Write::Set)?;
        if let Some(table) = &weights.positions {
            exec.look_up(table, &self.positions, 1.0, x, Write::Add)?;
        }
        let layers = config.n_layers();
        let keep = match (depth, self.recompute) {
            (Depth::Nothing, _) => Keep::Nothing,
            (Depth::From(_), Recompute::None) => Keep::Activations,
            (Depth::From(_), Recompute::Block | Recompute::All) => Keep::Inputs,
        };
        let first = depth.first_layer(layers);
        let slots = if keep == Keep::Activations { layers - first } else { 1 };
        if self.blocks.len() < slots {
            self.blocks.resize_with(slots, Activations::default);
        }
        let stretch = stretch(self.recompute, layers);
        if self.inputs.len() < layers.div_ceil(stretch) {
            self.inputs.resize_with(layers.div_ceil(stretch), Floats::default);
            self.of_stretch.resize_with(stretch, Floats::default);
        }
        for index in 0..layers {
            match keep {
                // The first slot is still free there.
                Keep::Activations if index < first => self.block(model, index, 0, Mode::Inference)?,
                Keep::Nothing => self.block(model, index, 0, Mode::Inference)?,
                Keep::Activations => self.block(model, index, index - first, Mode::Training)?,
                Keep::Inputs => {
                    if index.is_multiple_of(stretch) && index + stretch > first {
                        let exec = model.exec_of(index);
                        exec.copy(self.stream.settle(exec)?, &mut self.inputs[index / stretch])?;
                    }
                    self.block(model, index, 0, Mode::Inference)?;
                }
            }
        }
        Ok(())
    }

    /// What dropout leaves out of the batches to come, as a function of this number; `None` for nothing.
    pub fn set_draw(&mut self, draw: Option<u64>) {
        self.draw = draw;
    }

    /// From now on the entropies of rows are measured beside their losses.
    pub fn measure_entropies(&mut self) {
        self.entropies.get_or_insert_default();
    }

    /// The loss of every row in the last forward pass.
    pub fn losses(&self) -> &[f32] {
        &self.losses
    }

    /// The entropy of what every row's target was drawn from, in nats, as the last forward pass had it: `[rows]`, 0 where
    /// no target counts. Empty unless [`Training::measure_entropies`] asked for it.
    pub fn entropies(&self) -> &[f32] {
        self.entropies.as_deref().unwrap_or_default()
    }

    fn network<'m>(&self, model: &'m Model, mode: Mode, exec: Exec<'m>) -> Network<'m> {
        Network { draw: self.draw, ..model.network(mode, exec) }
    }

    /// One block's forward, from the stream to the stream.
    fn block(&mut self, model: &Model, index: usize, slot: usize, mode: Mode) -> Result<()> {
        let exec = model.exec_of(index);
        self.stream.bring(exec)?;
        let block = model.block(self.network(model, mode, exec), index, &self.turns);
        let (a, w) = (&mut self.blocks[slot], &mut self.workspaces[usize::from(exec.gpu.is_some())]);
        let ranked = self.cache_of.iter().zip(&mut self.caches);
        let mut caches: Vec<(usize, &mut LayerCache)> =
            ranked.map(|(sequence, (cache, _))| (*sequence, cache)).collect();
        caches.sort_by_key(|(sequence, _)| *sequence);
        let mut caches: Vec<&mut LayerCache> = caches.into_iter().map(|(_, cache)| cache).collect();
        let past = match &self.tables {
            Some(tables) if exec.gpu.is_some() => Past::Sequences(tables),
            _ => Past::Caches(&mut caches),
        };
        block.attention(&mut self.stream, past, &self.spans, a, w)?;
        block.mlp(&mut self.stream, a, w)
    }

    /// From the gradient of the stream after the last block (`d_x`) to all parameters below, down to `first`.
    fn backward(
        &mut self,
        model: &Model,
        batch: &Batch,
        first: Place,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let config = model.config();
        let lowest = Depth::From(first).first_layer(config.n_layers());
        // Whether something is trained at or before the norm that a half begins with.
        let below = |index, norm| match first <= Place::Layer(index, norm) {
            true => Below::Trained,
            false => Below::Frozen,
        };
        for index in (lowest..config.n_layers()).rev() {
            let slot = match self.recompute {
                Recompute::None => index - lowest,
                Recompute::Block | Recompute::All => {
                    self.recompute_input(model, index)?;
                    self.block(model, index, 0, Mode::Training)?;
                    0
                }
            };
            let exec = model.exec_of(index);
            exec.bring(&mut self.d_x)?;
            let block = model.block(self.network(model, Mode::Training, exec), index, &self.turns);
            let (a, w) = (&self.blocks[slot], &mut self.workspaces[usize::from(exec.gpu.is_some())]);
            let under = below(index, Part::MlpNorm);
            block.mlp_backward(&mut self.d_x, a, w, gradients, under)?;
            if under == Below::Trained {
                let under = below(index, Part::AttnNorm);
                let tables = self.tables.as_ref().filter(|_| exec.gpu.is_some());
                let (d_x, lengths) = (&mut self.d_x, batch.lengths);
                block.attention_backward(d_x, lengths, tables, a, w, gradients, under)?;
            }
        }
        let exec = model.exec_at(Place::Embed);
        let size = [config.vocab_size, config.dim];
        let [embed] = gradients.at([Place::Embed]);
        if let Some(d) = embed.weight {
            exec.bring(&mut self.d_x)?;
            exec.look_up_backward(size, &self.tokens, config.embedding_scale, &self.d_x, d)?;
        }
        let [positions] = gradients.at([Place::PosEmbed]);
        if let Some(d) = positions.weight {
            exec.bring(&mut self.d_x)?;
            exec.look_up_backward([config.max_seq, config.dim], &self.positions, 1.0, &self.d_x, d)?;
        }
        Ok(())
    }

    /// Brings the input of block `index` back into the stream. Coming down into a stretch, all of its inputs are
    /// computed from the first, which was kept.
    fn recompute_input(&mut self, model: &Model, index: usize) -> Result<()> {
        let layers = model.config().n_layers();
        let stretch = stretch(self.recompute, layers);
        let (first, offset) = (index / stretch * stretch, index % stretch);
        let is_last = index + 1 == layers || offset + 1 == stretch;
        if is_last && offset > 0 {
            model.exec_of(first).copy(&self.inputs[index / stretch], self.stream.begin())?;
            for i in 0..offset {
                self.block(model, first + i, 0, Mode::Inference)?;
                let exec = model.exec_of(first + i);
                exec.copy(self.stream.settle(exec)?, &mut self.of_stretch[i + 1])?;
            }
        }
        match offset {
            0 => model.exec_of(first).copy(&self.inputs[index / stretch], self.stream.begin())?,
            // The block before has made it, where that is computed.
            _ => model.exec_of(index - 1).copy(&self.of_stretch[offset], self.stream.begin())?,
        }
        Ok(())
    }

    /// Norm, head and loss; with gradients, down to that of the stream (`d_x`). Rows without a target go no further than
    /// the last block: they have no loss, and a gradient of 0.
    fn head(
        &mut self,
        model: &Model,
        batch: &Batch,
        drawn: &Distribution,
        mut backward: Option<(Weight, &mut Gradients)>,
    ) -> Result<()> {
        let (config, exec) = (model.config(), model.exec_at(Place::Head));
        let network = model.network(Mode::Training, exec);
        let (rows, dim) = (batch.tokens.len(), config.dim);
        self.wanted.clear();
        self.wanted.extend((0..rows).filter(|&row| batch.targets[row] >= 0));
        let wanted = self.wanted.len();
        self.targets.clear();
        self.targets.extend(self.wanted.iter().map(|&row| batch.targets[row]));
        self.row_losses.resize(wanted, 0.0);
        self.row_entropies.resize(wanted, 0.0);
        if backward.is_some() {
            exec.resize(&mut self.d_x, rows * dim)?;
            if wanted < rows {
                exec.clear(&mut self.d_x)?;
            }
        }
        let head = model.weights().head();
        let place = match config.head {
            Head::Tied => Place::Embed,
            Head::Untied => Place::Head,
        };
        for range in chunks(wanted, head_rows(config.vocab_size)) {
            self.head_products(model, range.clone(), rows)?;
            let HeadRows { ids, x, d_x, normed, d_normed, logits } = &mut self.part;
            let targets = &self.targets[range.clone()];
            let rows_of = &self.wanted[range.clone()];
            let kept = |row: usize| drawn.kept.and_then(|kept| kept(rows_of[row]));
            let leave_out = |row: usize, z: &mut [f32]| {
                if let Some(kept) = kept(row) {
                    kept.leave_out_others(z);
                }
            };
            let bits = |row: usize, words: &mut [u32]| {
                if let Some(kept) = kept(row) {
                    kept.bits_of_others(words);
                }
            };
            let left_out = drawn.kept.is_some().then_some(LeftOut { logits: &leave_out, bits: &bits });
            let op = CrossEntropy {
                vocab: config.vocab_size,
                soft_cap: config.logit_softcap,
                scale: drawn.scale,
                left_out: None,
            };
            let entropies = self.entropies.is_some().then_some(&mut self.row_entropies[range.clone()]);
            let losses = Losses { losses: &mut self.row_losses[range.clone()], entropies };
            let Some((weight, gradients)) = &mut backward else {
                exec.cross_entropy(&op, left_out, logits, targets, None, losses)?;
                continue;
            };
            let weight = *weight;
            let of_chunk = |row: usize, loss: f32| weight(rows_of[row], loss);
            exec.cross_entropy(&op, left_out, logits, targets, Some(&of_chunk), losses)?;

            let w = &mut self.workspaces[usize::from(exec.gpu.is_some())];
            let products = &mut w.products;
            let write = if range.start == 0 { gradients.write() } else { Write::Add };
            let [of_head] = gradients.at([place]);
            if let Some(dw) = of_head.weight {
                let wanted = &mut [LinearGradient { dy: logits, dw, db: None }];
                exec.weight_gradient(&mut products.columns, normed, head, wanted, write)?;
            }
            let term = GradientTerm { dy: logits, weight: head, exact: false };
            exec.input_gradient(&mut products.inputs, &[term], d_normed)?;
            let norm = (Place::FinalNorm, &model.weights().norm);
            network.norm_backward(x, norm, d_normed, (d_x, Write::Set), gradients, &mut w.d.sums)?;
            if wanted == rows {
                exec.copy_values((d_x, 0), (&mut self.d_x, range.start * dim), range.len() * dim)?;
            } else {
                exec.scatter(d_x, dim, ids, &mut self.d_x)?;
            }
        }
        if let Some((_, gradients)) = &mut backward
            && wanted == 0
            && gradients.write() == Write::Set
            && let [Pair { weight: Some(dw), .. }] = gradients.at([place])
        {
            dw.clear()?;
        }
        scatter(&self.row_losses, &self.wanted, rows, &mut self.losses);
        if let Some(entropies) = &mut self.entropies {
            scatter(&self.row_entropies, &self.wanted, rows, entropies);
        }
        Ok(())
    }

    /// The stream of some of the wanted rows, normed, and the head's products of it.
    fn head_products(&mut self, model: &Model, range: Range<usize>, rows: usize) -> Result<()> {
        let (dim, exec) = (model.config().dim, model.exec_at(Place::Head));
        let stream = self.stream.settle(exec)?;
        let HeadRows { ids, x, normed, logits, .. } = &mut self.part;
        if self.wanted.len() == rows {
            exec.resize(x, range.len() * dim)?;
            exec.copy_values((stream, range.start * dim), (x, 0), range.len() * dim)?;
        } else {
            ids.set(exec, self.wanted[range].iter().map(|&row| row as u32))?;
            exec.gather(stream, dim, ids, x)?;
        }
        model.network(Mode::Training, exec).norm(x, &model.weights().norm, normed)?;
        let output = Output { weight: model.weights().head(), bias: None, y: logits };
        let inputs = &mut self.workspaces[usize::from(exec.gpu.is_some())].products.inputs[0];
        Ok(exec.products(inputs, normed, &mut [output])?)
    }

    fn set_spans(&mut self, model: &Model, batch: &Batch) -> Result<()> {
        let config = model.config();
        self.spans.clear();
        let mut next = 0;
        for &length in batch.lengths {
            self.spans.push(Span { rows: next..next + length, first: 0 });
            next += length;
        }
        model.set_turns(&mut self.turns, &self.spans)?;
        let first = config.n_layers() - model.gpu_layers();
        self.tables = match model.gpu() {
            Some(gpu) if model.exec_of(first).has_attention(config.head_dim) => {
                if self.cache != CacheType::F32 {
                    fail!("training on a GPU has keys and values in f32")
                }
                Some(Tables::of_sequences(gpu, &model.shapes_on_gpu(first), batch.lengths)?)
            }
            _ => None,
        };
        if self.tables.is_some() && first == 0 {
            return Ok(());
        }
        // The longest sequence has the first cache, and so on: none becomes larger than it must.
        self.cache_of.clear();
        self.cache_of.extend(0..batch.lengths.len());
        self.cache_of.sort_by_key(|&sequence| std::cmp::Reverse(batch.lengths[sequence]));
        for (rank, &sequence) in self.cache_of.iter().enumerate() {
            let length = batch.lengths[sequence];
            let new = || LayerCache::new(config.n_kv_heads, config.head_dim, length, self.cache);
            match self.caches.get_mut(rank) {
                // Keys beyond a sequence's end weigh 0, but 0 times what a longer one left there may be NaN.
                Some((cache, filled)) if cache.capacity() >= length => {
                    if length < *filled {
                        cache.clear(*filled);
                    }
                    *filled = length;
                }
                Some(cache) => *cache = (new(), length),
                None => self.caches.push((new(), length)),
            }
        }
        Ok(())
    }
}

/// Blocks from one kept input to the next.
pub(crate) fn stretch(recompute: Recompute, layers: usize) -> usize {
    match recompute {
        Recompute::None | Recompute::Block => 1,
        Recompute::All => layers.isqrt().max(1),
    }
}

/// Rows of logits that are in memory at a time.
pub fn head_rows(vocab: usize) -> usize {
    (HEAD_BYTES / 4 / vocab.max(1)).clamp(32, HEAD_ROWS)
}

fn chunks(rows: usize, size: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..rows).step_by(size).map(move |start| start..rows.min(start + size))
}

/// Values of the rows `wanted`, among 0 for those of the others.
fn scatter(values: &[f32], wanted: &[usize], rows: usize, to: &mut Vec<f32>) {
    to.clear();
    to.resize(rows, 0.0);
    wanted.iter().zip(values).for_each(|(&row, &value)| to[row] = value);
}

fn check(config: &DecoderConfig, batch: &Batch) -> Result<()> {
    let rows = batch.tokens.len();
    if batch.targets.len() != rows
        || batch.lengths.iter().sum::<usize>() != rows
        || batch.lengths.contains(&0)
        || rows == 0
    {
        fail!(
            "a batch of {rows} tokens, {} targets and sequences of {:?} tokens: the three must agree, and neither the batch nor a sequence be empty",
            batch.targets.len(),
            batch.lengths
        )
    }
    let vocab = config.vocab_size;
    if let Some(token) = batch.tokens.iter().find(|&&token| token as usize >= vocab) {
        fail!("token {token} is not in the vocabulary of {vocab} tokens")
    }
    if let Some(target) = batch.targets.iter().find(|&&t| usize::try_from(t).is_ok_and(|t| t >= vocab)) {
        fail!("target {target} is not in the vocabulary of {vocab} tokens")
    }
    let longest = batch.lengths.iter().copied().max().unwrap_or(0);
    if config.positions == Positions::Learned && longest > config.max_seq {
        fail!("a sequence of {longest} tokens; the model's position table ends at {}", config.max_seq)
    }
    Ok(())
}
