//! Samples to fine-tune on: tokens, and which of them are to be learnt.
//!
//! ```text
//!   files ── lines ── forms ── tokens and mask ── Samples ── Order ── batches
//! ```
//!
//! A sample is a text or a conversation. A token of it is either learnt, which means that the model is asked to predict
//! it from those before, or only read. Samples lie in memory, one behind the other; a batch is some of them, in the
//! form that the model takes: no padding, and no token sees another sample's.

mod batches;
mod forms;
mod read;
#[cfg(feature = "parquet")]
pub(super) mod rows;
mod tokenised;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use batches::{BatchSize, Grouping, Order, OrderOptions, Position};
pub use read::{ReadOptions, Report, TrainOn, Truncation};

pub(super) use forms::conversation;

use super::{Batch, IGNORED, Permutation, inputs};
use crate::error::{Result, fail};

/// Tokens of many samples, and which of them are learnt.
#[derive(Debug, Default)]
pub struct Samples {
    tokens: Vec<u32>,
    /// A bit a token.
    learnt: Vec<u64>,
    /// Where each sample ends.
    ends: Vec<usize>,
    places: Vec<Place>,
    files: Vec<PathBuf>,
}

/// Where a sample stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    file: u32,
    /// From 1: the line of a file, the row of a table or a tensor, the document of a token file.
    line: u64,
}

/// One sample, at least two tokens long. Its first token is never learnt: there is nothing to predict it from. Its last
/// one always is: what follows has no influence on anything.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    bits: &'a [u64],
    start: usize,
}

impl Sample<'_> {
    /// Whether token `i` is to be learnt.
    pub fn is_learnt(&self, i: usize) -> bool {
        let at = self.start + i;
        i < self.tokens.len() && self.bits[at / 64] >> (at % 64) & 1 == 1
    }

    /// How many tokens are learnt.
    pub fn targets(&self) -> usize {
        (0..self.tokens.len()).filter(|&i| self.is_learnt(i)).count()
    }

    /// How many rows of a batch it takes: a token each but for the last, which only is a target.
    pub fn rows(&self) -> usize {
        self.tokens.len() - 1
    }
}

impl Samples {
    /// Adds a sample: `learnt` has a value a token. What follows the last learnt token is left out. Returns whether
    /// there is anything to learn; a sample with nothing is not added.
    pub(super) fn push(&mut self, tokens: &[u32], learnt: &[bool], file: usize, line: u64) -> bool {
        let Some(last) = learnt.iter().rposition(|&learnt| learnt).filter(|&last| last > 0) else {
            return false;
        };
        for (&token, (i, &learnt)) in tokens.iter().zip(learnt.iter().enumerate()).take(last + 1) {
            let at = self.tokens.len();
            if at.is_multiple_of(64) {
                self.learnt.push(0);
            }
            self.learnt[at / 64] |= u64::from(learnt && i > 0) << (at % 64);
            self.tokens.push(token);
        }
        self.ends.push(self.tokens.len());
        self.places.push(Place { file: u32::try_from(file).unwrap_or(u32::MAX), line });
        true
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Tokens of all samples.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Learnt tokens of all samples.
    pub fn targets(&self) -> usize {
        self.learnt.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// Sample `i`; none beyond the last.
    pub fn get(&self, i: usize) -> Option<Sample<'_>> {
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        Some(Sample { tokens: &self.tokens[start..end], bits: &self.learnt, start })
    }

    /// All samples, in the order in which they were read.
    pub fn iter(&self) -> impl Iterator<Item = Sample<'_>> {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    /// Where sample `i` is from, for messages: `a.jsonl:7`.
    pub fn place(&self, i: usize) -> String {
        let Some(place) = self.places.get(i) else { return String::new() };
        let file = self.files.get(place.file as usize).map_or(Path::new(""), PathBuf::as_path);
        place_in(file, place.line)
    }

    /// The samples to train on, and those that are held out: this share of the lines that they are from, drawn by `seed`.
    /// What is from one line stays together, for one sample may be the beginning of another.
    ///
    /// # Errors
    /// A share that leaves nothing on one side.
    pub fn hold_out(&self, share: f64, seed: u64) -> Result<(Vec<u32>, Vec<u32>)> {
        /// As an epoch, which is never reached: an order of its own.
        const DRAW: u64 = u64::MAX / 2;
        let starts_line = |i: usize| i == 0 || self.places[i] != self.places[i - 1];
        let lines = (0..self.len()).filter(|&i| starts_line(i)).count();
        let held = if share > 0.0 { ((lines as f64 * share).round() as usize).max(1) } else { 0 };
        if !(0.0..1.0).contains(&share) || held >= lines {
            fail!(
                "a share of {share} of {lines} samples is to be held out: expected from 0 to below 1, and at least one \
                 sample to be left"
            );
        }
        let drawn = Permutation::new(lines as u64, seed, DRAW);
        let (mut train, mut val, mut line) = (Vec::new(), Vec::new(), 0);
        for i in 0..self.len() {
            line += u64::from(starts_line(i));
            let side = if drawn.at(line - 1) < held as u64 { &mut val } else { &mut train };
            side.push(i as u32);
        }
        Ok((train, val))
    }

    /// Puts some samples one behind the other into a batch, whose memory is used again.
    ///
    /// # Errors
    /// There is no such sample, or none is asked for.
    pub fn batch(&self, ids: &[u32], into: &mut Batch) -> Result<()> {
        into.inputs.clear();
        into.targets.clear();
        into.lengths.clear();
        for &id in ids {
            let Some(sample) = self.get(id as usize) else {
                fail!("sample {id}: there are {} samples", self.len());
            };
            let rows = sample.rows();
            into.inputs.extend_from_slice(&sample.tokens[..rows]);
            // Ids are below the vocabulary's size, which `check_vocabulary` compares with i32.
            let target = |i: usize| if sample.is_learnt(i) { sample.tokens[i] as i32 } else { IGNORED };
            into.targets.extend((1..=rows).map(target));
            into.lengths.push(rows);
        }
        if ids.is_empty() {
            fail!("a batch of no samples: expected at least one");
        }
        Ok(())
    }

    /// That the model knows every token.
    ///
    /// # Errors
    /// A token that is not below `vocab_size`, with its place.
    pub fn check_vocabulary(&self, vocab_size: usize) -> Result<()> {
        if vocab_size == 0 || i32::try_from(vocab_size).is_err() {
            fail!("a vocabulary of {vocab_size} tokens: expected 1 to {}", i32::MAX);
        }
        let Some(at) = self.tokens.iter().position(|&id| id as usize >= vocab_size) else { return Ok(()) };
        let sample = self.ends.partition_point(|&end| end <= at);
        fail!(
            "{}: token {} is not in the model's vocabulary of {vocab_size} tokens: the data were made with \
             another tokenizer",
            self.place(sample),
            self.tokens[at]
        )
    }
}

/// A line of a text file, or what is counted in another.
fn place_in(file: &Path, number: u64) -> String {
    let what = match inputs::extension(file).as_str() {
        "parquet" | "safetensors" => ": row ",
        "bin" => ": document ",
        _ => ":",
    };
    format!("{}{what}{number}", file.display())
}
