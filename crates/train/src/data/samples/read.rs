//! How samples are read, and what was found while reading them.

use crate::data::documents::OnBad;

/// Which tokens are to be learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainOn {
    /// What the assistant says, in every turn; the completion of a prompt; a text as a whole.
    #[default]
    Assistant,
    /// The assistant's last turn; the completion of a prompt; a text as a whole.
    Completion,
    /// Everything, the user's words too.
    All,
}

/// What is done with a sample that is longer than allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncation {
    /// Its end is cut off.
    #[default]
    End,
    /// Its start is cut off, all but the token that begins every text of the model.
    Start,
    /// It is left out.
    Drop,
    /// It is an error, as a line is that cannot be read.
    Refuse,
}

/// How to read samples.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Which tokens are to be learnt.
    pub train_on: TrainOn,
    /// Tokens of a sample, at the most.
    pub max_tokens: usize,
    /// What is done with a longer one.
    pub truncation: Truncation,
    /// What is done with a line that cannot be read, or holds nothing to learn.
    pub on_bad: OnBad,
    /// Threads that encode. They never change the result.
    pub threads: usize,
}

/// What was found while reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines, rows or documents.
    pub read: u64,
    /// Of these, those that were left out because they cannot be read or hold nothing to learn.
    pub bad: u64,
    /// Why, of the first [`FIRST_BAD`](Self::FIRST_BAD).
    pub first_bad: Vec<String>,
    /// Samples that were cut, and the tokens that they lost.
    pub cut: u64,
    /// Tokens that were cut off.
    pub cut_tokens: u64,
    /// Samples that were left out because they are too long.
    pub too_long: u64,
    /// Samples that were left out because nothing that is to be learnt was left of them.
    pub cut_away: u64,
    /// Conversations that became several samples, because the template shows a turn otherwise once others follow it.
    pub split: u64,
    /// Samples in which the last token of a prompt reaches into what is to be learnt: that token is not learnt.
    pub straddled: u64,
    /// Answers after which the template writes no token that ends a turn: the model does not learn to stop.
    pub unended: u64,
}

impl Report {
    /// How many reasons are kept.
    pub const FIRST_BAD: usize = 10;
}
