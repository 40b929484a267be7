//! Where a run stands, as a checkpoint has it.

use super::update::Completion;
use serde::{Deserialize, Serialize};
use wootz_model::generate::Kept;

/// How far prompts, random numbers and answers are used up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The next prompt.
    pub prompt: u64,
    /// The next stream of random numbers: every answer has its own.
    pub stream: u64,
    /// Updates that the last answers were used for.
    pub update: u64,
    /// The answers of each update, where they are not used up.
    answers: Vec<Vec<Saved>>,
}

/// An answer that is not used up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Saved {
    prompt: Vec<u32>,
    ids: Vec<u32>,
    /// As bits.
    logprobs: Vec<u32>,
    reference: Vec<u32>,
    /// The tokens that each was drawn from; null for all.
    kept: Vec<Option<Vec<u32>>>,
    /// Of the vocabulary that `kept` is of.
    vocab: usize,
    advantage: f64,
    truncated: bool,
}

impl Position {
    /// The same where the answers are used up.
    pub fn used_up(&self) -> Position {
        Position { update: 0, answers: Vec::new(), ..*self }
    }

    /// The same with answers that are not used up.
    pub fn with_answers<'c>(&self, updates: impl Iterator<Item = &'c [Completion]>) -> Position {
        let answers = updates.map(|update| update.iter().map(Saved::new).collect()).collect();
        Position { answers, ..self.clone() }
    }

    /// Takes the answers out.
    pub fn take_answers(&mut self) -> Vec<Vec<Completion>> {
        let updates = std::mem::take(&mut self.answers);
        updates.into_iter().map(|update| update.into_iter().map(Saved::restore).collect()).collect()
    }
}

impl Saved {
    fn new(completion: &Completion) -> Saved {
        let Completion { prompt, ids, logprobs, kept, reference, advantage, truncated } = completion;
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
        Saved {
            prompt: prompt.clone(),
            ids: ids.clone(),
            logprobs: bits(logprobs),
            reference: bits(reference),
            kept: kept.iter().map(|kept| kept.as_ref().map(Kept::ids)).collect(),
            vocab: kept.iter().flatten().map(Kept::vocab).max().unwrap_or(0),
            advantage: *advantage,
            truncated: *truncated,
        }
    }

    fn restore(self) -> Completion {
        let Saved { prompt, ids, logprobs, reference, kept, vocab, advantage, truncated } = self;
        let floats = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits).collect();
        let kept = kept.into_iter().map(|ids| ids.map(|ids| Kept::new(ids, vocab)));
        Completion {
            prompt,
            ids,
            logprobs: floats(logprobs),
            kept: kept.collect(),
            reference: floats(reference),
            advantage,
            truncated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_to_the_last_bit() {
        let completion = Completion {
            prompt: vec![1, 2],
            ids: vec![3, 400],
            logprobs: vec![-0.1, f32::from_bits(0xBF00_0001)],
            kept: vec![None, Some(Kept::new((0..300).chain([400]).collect(), 500))],
            reference: vec![-1e-30, -7.3],
            advantage: 0.1 + 0.2,
            truncated: true,
        };
        let position = Position { prompt: 5, stream: 20, update: 1, ..Position::default() };
        let all = [vec![completion.clone()], vec![]];
        let json = serde_json::to_string(&position.with_answers(all.iter().map(Vec::as_slice))).unwrap();
        let mut read: Position = serde_json::from_str(&json).unwrap();
        assert_eq!(read.take_answers(), all);
        assert_eq!(read, position);
    }
}
