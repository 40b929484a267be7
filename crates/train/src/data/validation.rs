//! All of a validation set once, in order.

use std::sync::Arc;

use super::loader::{Batch, check_sizes};
use super::{IGNORED, Source};
use crate::error::{Result, fail};

/// What to do with tokens that do not fill a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Leave them out, as llm.c does.
    Drop,
    /// Give them in a batch whose other targets are [`IGNORED`]: every token but each part's first is a target once.
    Pad,
}

/// Walks through a source in windows of T tokens, B a batch.
pub struct Validation {
    source: Arc<Source>,
    batch: Batch,
    rows: usize,
    seq: usize,
    vocab_size: usize,
    tail: Tail,
    part: usize,
    at: u64,
    scratch: Vec<u32>,
}

impl Validation {
    /// Begins at the beginning.
    ///
    /// # Errors
    /// Sizes of 0, or data that are too short for one batch (`Drop`) or one target (`Pad`).
    pub fn new(source: Arc<Source>, batch: usize, seq: usize, vocab_size: usize, tail: Tail) -> Result<Self> {
        check_sizes(batch, seq, vocab_size)?;
        let validation = Validation {
            source,
            batch: Batch::new(batch, seq),
            rows: batch,
            seq,
            vocab_size,
            tail,
            part: 0,
            at: 0,
            scratch: vec![0; seq + 1],
        };
        if validation.batches() == 0 {
            fail!(
                "{}: {} tokens are too few to validate with a batch of {batch} sequences of {seq}; take fewer or \
                 shorter ones",
                validation.source.parts().first().map(super::Part::name).unwrap_or_default(),
                validation.source.len()
            );
        }
        Ok(validation)
    }

    /// Batches from the beginning to the end.
    pub fn batches(&self) -> u64 {
        let seq = self.seq as u64;
        let targets = self.source.parts().iter().map(|part| part.len().saturating_sub(1));
        match self.tail {
            Tail::Drop => targets.map(|targets| targets / seq).sum::<u64>() / self.rows as u64,
            Tail::Pad => targets.map(|targets| targets.div_ceil(seq)).sum::<u64>().div_ceil(self.rows as u64),
        }
    }

    /// Back to the beginning.
    pub fn restart(&mut self) {
        (self.part, self.at) = (0, 0);
    }

    /// The next batch, none at the end. It is lent until the next call.
    ///
    /// # Errors
    /// A file that cannot be read, or an id beyond the vocabulary.
    #[allow(clippy::should_implement_trait)] // what an iterator gives does not end with the next call
    pub fn next(&mut self) -> Result<Option<&Batch>> {
        let mut rows = 0;
        while rows < self.rows {
            let Some(part) = self.source.parts().get(self.part) else { break };
            let targets = part.len().saturating_sub(1) - self.at;
            let targets = usize::try_from(targets).unwrap_or(usize::MAX).min(self.seq);
            if targets == 0 || (targets < self.seq && self.tail == Tail::Drop) {
                (self.part, self.at) = (self.part + 1, 0);
                continue;
            }
            self.source.read(self.part, self.at, &mut self.scratch[..=targets], self.vocab_size)?;
            self.scratch[targets + 1..].fill(0);
            self.batch.set_row(rows, &self.scratch);
            self.batch.targets[rows * self.seq + targets..(rows + 1) * self.seq].fill(IGNORED);
            self.at += targets as u64;
            rows += 1;
        }
        if rows == 0 || (rows < self.rows && self.tail == Tail::Drop) {
            return Ok(None);
        }
        self.batch.inputs[rows * self.seq..].fill(0);
        self.batch.targets[rows * self.seq..].fill(IGNORED);
        Ok(Some(&self.batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> Arc<Source> {
        Arc::new(Source::from_ids("ids", (0..n).collect(), n as usize).unwrap())
    }

    #[test]
    fn every_target_comes_once_and_again() {
        for n in 2..40 {
            let mut validation = Validation::new(source(n), 2, 3, 100, Tail::Pad).unwrap();
            for _ in 0..2 {
                let (mut targets, mut batches) = (Vec::new(), 0);
                while let Some(batch) = validation.next().unwrap() {
                    for (&input, &target) in batch.inputs.iter().zip(&batch.targets) {
                        assert!(target == IGNORED || target == input as i32 + 1);
                    }
                    targets.extend(batch.targets.iter().copied().filter(|&t| t != IGNORED));
                    batches += 1;
                }
                assert_eq!(targets, (1..n as i32).collect::<Vec<_>>());
                assert_eq!(batches, validation.batches());
                validation.restart();
            }
        }
    }

    #[test]
    fn a_dropped_tail_leaves_whole_batches() {
        for (n, batches) in [(7, 1), (12, 1), (13, 2)] {
            let mut validation = Validation::new(source(n), 2, 3, 100, Tail::Drop).unwrap();
            assert_eq!(validation.batches(), batches);
            for b in 0..batches as i32 {
                let batch = validation.next().unwrap().unwrap();
                assert_eq!(batch.targets, (6 * b + 1..6 * b + 7).collect::<Vec<_>>());
            }
            assert!(validation.next().unwrap().is_none());
            assert!(validation.next().unwrap().is_none());
        }
    }

    #[test]
    fn what_cannot_be_walked_is_explained() {
        let error = |n, batch, seq, vocab, tail| {
            Validation::new(source(n), batch, seq, vocab, tail)
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default()
        };
        assert!(error(6, 2, 3, 9, Tail::Drop).contains("6 tokens are too few"));
        assert!(error(1, 2, 3, 9, Tail::Pad).contains("too few"));
        assert!(error(9, 0, 3, 9, Tail::Pad).contains("at least one"));
        assert!(error(9, usize::MAX, 3, 9, Tail::Pad).contains("memory"));
        assert!(error(9, 1, 3, 0, Tail::Pad).contains("vocabulary"));
        let mut small = Validation::new(source(9), 1, 3, 4, Tail::Pad).unwrap();
        assert!(small.next().is_ok());
        assert!(small.next().unwrap_err().to_string().contains("token 4 has the id 4"));
    }
}
