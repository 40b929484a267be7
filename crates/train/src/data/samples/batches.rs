//! Which samples make up which step.
//!
//! An epoch is all samples in an order that seed and epoch draw, cut into batches: so many samples each, or as many as
//! a budget of tokens takes. A step takes the next `world * accumulate` of them, on into the next epoch where one ends:
//! rank r its share of each round, so that the samples of a step do not depend on how many ranks there are for the same
//! product. Everything follows from the options and two numbers, the [`Position`]; nothing is drawn twice.

use serde::{Deserialize, Serialize};

use super::Samples;
use crate::data::{self, Permutation};
use crate::error::{Result, fail};

/// What a batch holds: what is in memory at once, on one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchSize {
    /// So many samples. The last batch of an epoch may have fewer.
    Samples(usize),
    /// The next samples, as long as they have no more tokens than this together.
    Tokens(usize),
}

/// Which samples may come together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grouping {
    /// Those that come one after the other.
    #[default]
    AsDrawn,
    /// Those of about one length, out of each so many that come one after the other: a budget of tokens is filled
    /// better, and caches are as long as the longest sequence of a batch.
    ByLength(usize),
}

/// How to make steps of samples.
#[derive(Clone, Debug)]
pub struct OrderOptions {
    /// What a batch holds.
    pub size: BatchSize,
    /// Batches that a rank adds up to a step.
    pub accumulate: usize,
    /// As they were read, or in another random order each epoch.
    pub visit: data::Order,
    /// Which samples may come together.
    pub grouping: Grouping,
    /// Names the random order.
    pub seed: u64,
    /// Which of the processes that train together this is, from 0.
    pub rank: usize,
    /// How many they are; 1 for one alone.
    pub world: usize,
}

/// Where an order is: what a checkpoint holds of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Times that all samples were visited.
    pub epoch: u64,
    /// Batches since then, of all ranks together.
    pub index: u64,
    /// What the two numbers mean depends on this.
    pub visit: data::Order,
    /// And on this.
    pub seed: u64,
    /// And on this.
    pub size: BatchSize,
    /// And on this.
    pub grouping: Grouping,
    /// And on the samples: how many there are.
    pub samples: u64,
    /// And how many rows they have.
    pub rows: u64,
}

/// Makes steps for ever, one after the other.
#[derive(Debug)]
pub struct Order {
    options: OrderOptions,
    /// The samples to go through, and the rows of each.
    ids: Vec<u32>,
    lengths: Vec<u32>,
    epoch: u64,
    index: u64,
    plan: Epoch,
    step: Vec<Vec<u32>>,
}

/// The batches of an epoch.
#[derive(Debug, Default)]
struct Epoch {
    /// Samples as they are visited.
    visited: Vec<u32>,
    /// Where each batch ends in `visited`.
    ends: Vec<usize>,
    /// In which order batches come, where that is another.
    order: Option<Permutation>,
}

impl Order {
    /// Begins at the beginning. `ids` are the samples to go through: all, or those that are not held out.
    ///
    /// # Errors
    /// No samples, sizes of 0, or a sample that does not fit into the budget of tokens.
    pub fn new(samples: &Samples, ids: Vec<u32>, options: OrderOptions) -> Result<Order> {
        let mut lengths = Vec::with_capacity(ids.len());
        for &id in &ids {
            let Some(sample) = samples.get(id as usize) else {
                fail!("sample {id}: there are {} samples", samples.len());
            };
            lengths.push(u32::try_from(sample.rows()).unwrap_or(u32::MAX));
        }
        check(&options, &lengths)?;
        let mut order =
            Order { options, ids, lengths, epoch: 0, index: 0, plan: Epoch::default(), step: Vec::new() };
        order.begin(0);
        Ok(order)
    }

    /// Goes on at a saved position.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), or a position in other samples or of other options.
    pub fn resume(
        samples: &Samples,
        ids: Vec<u32>,
        options: OrderOptions,
        position: &Position,
    ) -> Result<Order> {
        let mut order = Order::new(samples, ids, options)?;
        let here = order.position();
        if (position.samples, position.rows) != (here.samples, here.rows) {
            fail!(
                "the run was interrupted in {} samples of {} tokens, and these are {} of {}: they are not the same data",
                position.samples,
                position.rows,
                here.samples,
                here.rows
            );
        }
        let same = Position { epoch: 0, index: 0, ..position.clone() };
        if same != here {
            fail!(
                "the run was interrupted with {:?}, {:?}, {:?} and data seed {}, and cannot go on with {:?}, {:?}, {:?} \
                 and {}",
                same.size,
                same.visit,
                same.grouping,
                same.seed,
                here.size,
                here.visit,
                here.grouping,
                here.seed
            );
        }
        order.begin(position.epoch);
        if position.index > order.plan.ends.len() as u64 {
            fail!(
                "the position {} lies behind the end of the epoch, {}",
                position.index,
                order.plan.ends.len()
            );
        }
        order.index = position.index;
        Ok(order)
    }

    /// The next step: the samples of each batch of this rank, to be added up. They are lent until the next call.
    pub fn next_step(&mut self) -> &[Vec<u32>] {
        let OrderOptions { accumulate, rank, world, .. } = self.options;
        self.step.resize_with(accumulate, Vec::new);
        for turn in 0..accumulate * world {
            if self.index == self.plan.ends.len() as u64 {
                self.begin(self.epoch + 1);
            }
            if turn % world == rank {
                let (plan, batch) = (&self.plan, &mut self.step[turn / world]);
                batch.clear();
                batch.extend(plan.batch(self.index).iter().map(|&at| self.ids[at as usize]));
            }
            self.index += 1;
        }
        &self.step
    }

    /// Where the order is after the steps that [`next_step`](Self::next_step) has given.
    pub fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            index: self.index,
            visit: self.options.visit,
            seed: self.options.seed,
            size: self.options.size,
            grouping: self.options.grouping,
            samples: self.ids.len() as u64,
            rows: self.lengths.iter().map(|&rows| u64::from(rows)).sum(),
        }
    }

    /// Steps until all samples were visited `epochs` times. The last one may go on into the next epoch.
    pub fn steps(&self, epochs: u64) -> u64 {
        let per_step = (self.options.accumulate * self.options.world) as u64;
        let fixed = match (self.options.size, self.options.visit) {
            (BatchSize::Samples(n), _) => Some(self.ids.len().div_ceil(n) as u64),
            (BatchSize::Tokens(_), data::Order::Sequential) => Some(self.plan_of(0).ends.len() as u64),
            (BatchSize::Tokens(_), data::Order::Shuffled) => None,
        };
        let batches = match fixed {
            Some(batches) => batches.saturating_mul(epochs),
            // How well a budget is filled depends on what comes together.
            None => (0..epochs).map(|epoch| self.plan_of(epoch).ends.len() as u64).sum(),
        };
        batches.div_ceil(per_step)
    }

    /// Rows of the largest batch that may come, whatever is drawn.
    pub fn max_rows(&self) -> usize {
        match self.options.size {
            BatchSize::Samples(n) => self.sorted().iter().rev().take(n).map(|&rows| rows as usize).sum(),
            BatchSize::Tokens(n) => n.min(self.lengths.iter().map(|&rows| rows as usize).sum()),
        }
    }

    /// Rows of each sequence of a batch, from the longest on: the most that each may have, whatever is drawn.
    pub fn max_lengths(&self) -> Vec<usize> {
        let longest_first = self.sorted().into_iter().rev().map(|rows| rows as usize);
        match self.options.size {
            BatchSize::Samples(n) => longest_first.take(n).collect(),
            BatchSize::Tokens(n) => {
                // As many as fit if they are the shortest; the k-th longest has at most a k-th of the budget.
                let mut sum = 0;
                let fits = |&rows: &u32| {
                    sum += rows as usize;
                    sum <= n
                };
                let most = self.sorted().into_iter().take_while(fits).count();
                longest_first.take(most).enumerate().map(|(i, rows)| rows.min(n / (i + 1))).collect()
            }
        }
    }

    /// A batch of the longest samples: as large as one that may come.
    pub fn largest(&self) -> Vec<u32> {
        let mut longest: Vec<usize> = (0..self.ids.len()).collect();
        longest.sort_by_key(|&at| std::cmp::Reverse(self.lengths[at]));
        let most = match self.options.size {
            BatchSize::Samples(n) => n,
            BatchSize::Tokens(n) => {
                let mut sum = 0;
                longest.retain(|&at| {
                    let fits = sum + self.lengths[at] as usize <= n;
                    sum += if fits { self.lengths[at] as usize } else { 0 };
                    fits
                });
                longest.len()
            }
        };
        longest.into_iter().take(most).map(|at| self.ids[at]).collect()
    }

    fn sorted(&self) -> Vec<u32> {
        let mut lengths = self.lengths.clone();
        lengths.sort_unstable();
        lengths
    }

    fn begin(&mut self, epoch: u64) {
        self.plan = self.plan_of(epoch);
        (self.epoch, self.index) = (epoch, 0);
    }

    fn plan_of(&self, epoch: u64) -> Epoch {
        let OrderOptions { size, visit, grouping, seed, .. } = self.options;
        let n = self.ids.len() as u64;
        let mut visited: Vec<u32> = match visit {
            data::Order::Sequential => (0..n as u32).collect(),
            data::Order::Shuffled => {
                let drawn = Permutation::new(n, seed, epoch);
                (0..n).map(|i| drawn.at(i) as u32).collect()
            }
        };
        if let Grouping::ByLength(window) = grouping {
            for window in visited.chunks_mut(window) {
                window.sort_by_key(|&at| self.lengths[at as usize]);
            }
        }
        let mut ends = Vec::new();
        let (mut samples, mut rows) = (0, 0);
        for (i, &at) in visited.iter().enumerate() {
            let more = self.lengths[at as usize] as usize;
            let is_full = match size {
                BatchSize::Samples(n) => samples == n,
                BatchSize::Tokens(n) => samples > 0 && rows + more > n,
            };
            if is_full {
                ends.push(i);
                (samples, rows) = (0, 0);
            }
            samples += 1;
            rows += more;
        }
        ends.push(visited.len());
        let order = match (grouping, visit) {
            (Grouping::AsDrawn, _) | (Grouping::ByLength(_), data::Order::Sequential) => None,
            // Otherwise short samples would always come before long ones.
            (Grouping::ByLength(_), data::Order::Shuffled) => {
                Some(Permutation::new(ends.len() as u64, seed, !epoch))
            }
        };
        Epoch { visited, ends, order }
    }
}

impl Epoch {
    /// The samples of a batch, by their place among those to go through.
    fn batch(&self, index: u64) -> &[u32] {
        let at = self.order.as_ref().map_or(index, |order| order.at(index)) as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.visited[start..self.ends[at]]
    }
}

fn check(options: &OrderOptions, lengths: &[u32]) -> Result<()> {
    /// As the loader of pretraining has it: more rows are a mistake.
    const MOST: usize = 1 << 26;
    const MOST_BATCHES: usize = 1 << 16;
    let &OrderOptions { size, accumulate, grouping, rank, world, .. } = options;
    if lengths.is_empty() {
        fail!("there are no samples to train on");
    }
    if u32::try_from(lengths.len()).is_err() {
        fail!("{} samples: expected fewer than {}", lengths.len(), u32::MAX);
    }
    let (BatchSize::Samples(n) | BatchSize::Tokens(n)) = size;
    if n == 0 || accumulate == 0 || n > MOST || accumulate > MOST_BATCHES {
        fail!(
            "a batch of {size:?}, {accumulate} times a step: expected 1 to {MOST}, and 1 to {MOST_BATCHES} times"
        );
    }
    if grouping == Grouping::ByLength(0) {
        fail!("samples grouped by length out of 0: expected at least 1");
    }
    if rank >= world || world > 1 << 20 {
        fail!("rank {rank} of {world}: ranks count from 0, and there are at most {}", 1 << 20);
    }
    let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
    if matches!(size, BatchSize::Tokens(n) if longest > n) {
        fail!(
            "the longest sample takes {longest} tokens of a batch, which has room for {n}: allow more with \
             --batch-tokens, or shorten samples with --max-tokens"
        );
    }
    Ok(())
}
