//! Batches to learn from, made ahead of time by a thread of their own.
//!
//! Two orders. *Sequential* is llm.c's (`llmc/dataloader.h`): a step takes the next `world * B * T` tokens of a shard,
//! rank r the `B * T` from `r * B * T` on, and row b the T from `b * T` on; when those and one more are not left, the
//! next shard follows, and after the last the first again. *Shuffled* cuts all shards into windows of T tokens (and the
//! one after) and visits them in a random order, each once an epoch, which needs no list in memory ([`Permutation`]).
//!
//! Where a loader is, is a [`Position`]: two numbers. A loader that is set to a saved position goes on with exactly the
//! batches that would have followed.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use serde::{Deserialize, Serialize};

use super::{Permutation, Source};
use crate::error::{Context as _, Error, Result, fail};

/// Batches that are made ahead.
const AHEAD: usize = 2;

/// In which order tokens are visited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// As they are stored, like llm.c.
    Sequential,
    /// At random, each window once an epoch.
    #[default]
    Shuffled,
}

/// What a loader gives.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// B: sequences a batch, of this rank.
    pub batch: usize,
    /// T: tokens a sequence.
    pub seq: usize,
    /// In which order.
    pub order: Order,
    /// Names the random order; no matter where the order is sequential.
    pub seed: u64,
    /// Which of the processes that train together this is, from 0.
    pub rank: usize,
    /// How many they are; 1 for one alone. Each gets other tokens.
    pub world: usize,
    /// The model's vocabulary: a larger id is an error.
    pub vocab_size: usize,
}

/// Where a loader is: what a checkpoint holds of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Times that all data were visited.
    pub epoch: u64,
    /// Since then: tokens passed (sequential), or windows visited by all ranks together (shuffled).
    pub index: u64,
    /// What the two numbers mean depends on this.
    pub order: Order,
    /// And on this.
    pub seed: u64,
    /// And on this: T.
    pub seq: usize,
    /// And on this: tokens of the source.
    pub tokens: u64,
}

/// A batch, row after row: `B * T` numbers each, or as many as its sequences have together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids \[B, T\].
    pub inputs: Vec<u32>,
    /// For each the one that follows \[B, T\]; [`super::IGNORED`] where none does.
    pub targets: Vec<i32>,
    /// Tokens of each sequence \[B\]: T, but where sequences are as long as they are (`samples`).
    pub lengths: Vec<usize>,
}

impl Batch {
    pub(super) fn new(batch: usize, seq: usize) -> Self {
        Batch { inputs: vec![0; batch * seq], targets: vec![0; batch * seq], lengths: vec![seq; batch] }
    }

    /// As the model takes it.
    pub fn as_model(&self) -> wootz_model::training::Batch<'_> {
        let Batch { inputs, targets, lengths } = self;
        wootz_model::training::Batch { tokens: inputs, targets, lengths }
    }

    /// Sets row `row` from `window`, T + 1 ids.
    pub(super) fn set_row(&mut self, row: usize, window: &[u32]) {
        let seq = window.len() - 1;
        let range = row * seq..(row + 1) * seq;
        self.inputs[range.clone()].copy_from_slice(&window[..seq]);
        for (target, &id) in self.targets[range].iter_mut().zip(&window[1..]) {
            *target = id as i32; // ids are below the vocabulary's size, which `check_sizes` compares with i32
        }
    }
}

/// The sizes that every reader of batches has in common.
pub(super) fn check_sizes(batch: usize, seq: usize, vocab_size: usize) -> Result<()> {
    if batch == 0 || seq == 0 {
        fail!("a batch of {batch} sequences of {seq} tokens: expected at least one of each");
    }
    let tokens = batch.checked_mul(seq).filter(|&tokens| tokens <= 1 << 26);
    if tokens.is_none() {
        fail!("a batch of {batch} sequences of {seq} tokens does not fit into memory");
    }
    if vocab_size == 0 || i32::try_from(vocab_size).is_err() {
        fail!("a vocabulary of {vocab_size} tokens: expected 1 to {}", i32::MAX);
    }
    Ok(())
}

/// Makes batches for ever, one after the other.
pub struct Loader {
    batches: Receiver<Result<(Batch, Position)>>,
    empty: SyncSender<Batch>,
    current: Option<Batch>,
    position: Position,
    tokens_per_epoch: u64,
}

impl Loader {
    /// Begins at the beginning.
    ///
    /// # Errors
    /// Data that are too short for one batch (sequential) or one sequence (shuffled), or sizes of 0.
    pub fn new(source: Arc<Source>, options: LoaderOptions) -> Result<Loader> {
        Self::start(Plan::new(source, options)?)
    }

    /// Goes on at a saved position.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), or a position in other data, another order or sequence length.
    pub fn resume(source: Arc<Source>, options: LoaderOptions, position: &Position) -> Result<Loader> {
        let mut plan = Plan::new(source, options)?;
        plan.seek(position)?;
        Self::start(plan)
    }

    fn start(mut plan: Plan) -> Result<Loader> {
        let (send, batches) = sync_channel(AHEAD);
        let (empty, take_empty) = sync_channel(AHEAD + 2);
        let (batch, seq) = (plan.options.batch, plan.options.seq);
        let position = plan.position();
        let tokens_per_epoch = plan.tokens_per_epoch();
        for _ in 0..=AHEAD {
            // There is room for all.
            let _ = empty.try_send(Batch::new(batch, seq));
        }
        let make = move || {
            while let Ok(mut batch) = take_empty.recv() {
                let made = plan.fill(&mut batch).map(|()| (batch, plan.position()));
                let is_last = made.is_err();
                if send.send(made).is_err() || is_last {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("wootz-data".to_owned());
        thread.spawn(make).context(|| "cannot start the thread that reads data")?;
        Ok(Loader { batches, empty, current: None, position, tokens_per_epoch })
    }

    /// The next batch. It is lent until the next call, which takes its memory back.
    ///
    /// # Errors
    /// A file that cannot be read, or an id beyond the vocabulary. Nothing follows an error.
    #[allow(clippy::should_implement_trait)] // what an iterator gives does not end with the next call
    pub fn next(&mut self) -> Result<&Batch> {
        if let Some(used) = self.current.take() {
            let _ = self.empty.try_send(used); // after an error nobody takes it
        }
        let next = self.batches.recv();
        let (batch, position) = next.map_err(|_| Error::new("no data follow an earlier error"))??;
        self.position = position;
        Ok(self.current.insert(batch))
    }

    /// Where the loader is after the batches that [`next`](Self::next) has given: what is to be saved with a
    /// checkpoint.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Tokens that all ranks together learn from in an epoch.
    pub fn tokens_per_epoch(&self) -> u64 {
        self.tokens_per_epoch
    }
}

/// Which tokens come when.
struct Plan {
    source: Arc<Source>,
    options: LoaderOptions,
    epoch: u64,
    index: u64,
    /// Windows before each part, and after the last.
    windows: Vec<u64>,
    order: Permutation,
    /// T + 1 ids.
    scratch: Vec<u32>,
}

impl Plan {
    fn new(source: Arc<Source>, options: LoaderOptions) -> Result<Plan> {
        let LoaderOptions { batch, seq, rank, world, vocab_size, seed, .. } = options;
        check_sizes(batch, seq, vocab_size)?;
        if rank >= world || world > 1 << 20 {
            fail!("rank {rank} of {world}: ranks count from 0, and there are at most {}", 1 << 20);
        }
        let per_step = (batch * seq * world) as u64; // below 2^46
        let windows = windows(&source, seq);
        let longest = source.parts().iter().max_by_key(|part| part.len());
        let (longest, name) = longest.map_or((0, String::new()), |part| (part.len(), part.name()));
        let needed = match options.order {
            Order::Sequential => per_step + 1,
            Order::Shuffled => seq as u64 + 1,
        };
        if longest < needed {
            let what = match options.order {
                Order::Sequential => {
                    format!(
                        "a step of {world} x {batch} sequences of {seq} tokens takes {needed}; take fewer or shorter"
                    )
                }
                Order::Shuffled => format!("a sequence of {seq} tokens takes {needed}; take a shorter --seq"),
            };
            fail!("{name}: the data are too short: {longest} tokens in one piece, and {what}");
        }
        let order = Permutation::new(windows.last().copied().unwrap_or(0), seed, 0);
        Ok(Plan { source, options, epoch: 0, index: 0, windows, order, scratch: vec![0; seq + 1] })
    }

    /// Tokens of a step, of all ranks.
    fn per_step(&self) -> u64 {
        (self.options.batch * self.options.seq * self.options.world) as u64
    }

    fn n_windows(&self) -> u64 {
        self.windows.last().copied().unwrap_or(0)
    }

    fn tokens_per_epoch(&self) -> u64 {
        match self.options.order {
            Order::Shuffled => self.n_windows() * self.options.seq as u64,
            Order::Sequential => {
                let step = self.per_step();
                self.source.parts().iter().map(|part| part.len().saturating_sub(1) / step * step).sum()
            }
        }
    }

    fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            index: self.index,
            order: self.options.order,
            seed: self.options.seed,
            seq: self.options.seq,
            tokens: self.source.len(),
        }
    }

    fn seek(&mut self, position: &Position) -> Result<()> {
        let here = self.position();
        if position.tokens != here.tokens {
            fail!(
                "the run was interrupted in data of {} tokens, and these are {}: they are not the same data",
                position.tokens,
                here.tokens
            );
        }
        if (position.order, position.seq) != (here.order, here.seq) {
            fail!(
                "the run was interrupted in {:?} order with sequences of {} tokens, and cannot go on in {:?} order \
                 with {}",
                position.order,
                position.seq,
                here.order,
                here.seq
            );
        }
        let end = match here.order {
            Order::Sequential => here.tokens,
            Order::Shuffled if position.seed == here.seed => self.n_windows(),
            Order::Shuffled => {
                fail!(
                    "the run was interrupted with data seed {}, and cannot go on with {}",
                    position.seed,
                    here.seed
                )
            }
        };
        if position.index > end {
            fail!("the position {} lies behind the end of the data, {end}", position.index);
        }
        self.set(position.epoch, position.index);
        Ok(())
    }

    fn set(&mut self, epoch: u64, index: u64) {
        if epoch != self.epoch {
            self.order = Permutation::new(self.n_windows(), self.options.seed, epoch);
        }
        (self.epoch, self.index) = (epoch, index);
    }

    /// Makes the next batch.
    fn fill(&mut self, batch: &mut Batch) -> Result<()> {
        match self.options.order {
            Order::Sequential => self.fill_sequential(batch),
            Order::Shuffled => self.fill_shuffled(batch),
        }
    }

    fn fill_sequential(&mut self, batch: &mut Batch) -> Result<()> {
        let step = self.per_step();
        let n_parts = self.source.parts().len();
        // `new` has seen a part that is long enough.
        let (part, start) = loop {
            let (part, start) = self.source.locate(self.index);
            if start + step < self.source.parts()[part].len() {
                break (part, start);
            }
            match part + 1 {
                next if next == n_parts => self.set(self.epoch + 1, 0),
                next => self.index = self.source.start(next),
            }
        };
        let LoaderOptions { batch: rows, seq, rank, vocab_size, .. } = self.options;
        for row in 0..rows {
            let at = start + ((rank * rows + row) * seq) as u64;
            self.source.read(part, at, &mut self.scratch, vocab_size)?;
            batch.set_row(row, &self.scratch);
        }
        self.index += step;
        Ok(())
    }

    fn fill_shuffled(&mut self, batch: &mut Batch) -> Result<()> {
        let LoaderOptions { batch: rows, seq, rank, world, vocab_size, .. } = self.options;
        let own = rank * rows..(rank + 1) * rows;
        for place in 0..rows * world {
            if self.index == self.n_windows() {
                self.set(self.epoch + 1, 0);
            }
            if own.contains(&place) {
                let window = self.order.at(self.index);
                let part = self.windows.partition_point(|&before| before <= window) - 1;
                let at = (window - self.windows[part]) * seq as u64;
                self.source.read(part, at, &mut self.scratch, vocab_size)?;
                batch.set_row(place - own.start, &self.scratch);
            }
            self.index += 1;
        }
        Ok(())
    }
}

/// Windows of T tokens and one more: how many before each part, and in all.
pub(super) fn windows(source: &Source, seq: usize) -> Vec<u64> {
    let mut before = vec![0];
    let mut all = 0;
    for part in source.parts() {
        all += part.len().saturating_sub(1) / seq as u64;
        before.push(all);
    }
    before
}

#[cfg(test)]
mod tests;
