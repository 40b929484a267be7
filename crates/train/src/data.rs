//! Data for training: from text to token shards, and from shards to batches.
//!
//! Text goes through [`inputs`] (which files), [`documents`] (what is a document), [`encode`] (token ids, on all
//! threads) and [`prepare`] (shards of llm.c's format), and a [`manifest`] beside the shards says what they are.
//! Training reads them back as a [`Source`]; a [`Loader`] makes batches of it, in an order that can be saved and taken
//! up again, and a [`Validation`] walks through it once.
//!
//! To fine-tune on there are [`samples`]: texts and conversations, with which tokens of them are learnt. To reinforce there are
//! [`prompts`].
//!
//! Symbols: B sequences a batch, T tokens a sequence.

pub mod documents;
pub mod encode;
pub mod hellaswag;
pub mod inputs;
mod lines;
mod loader;
pub mod manifest;
#[cfg(feature = "parquet")]
mod parquet;
mod pipeline;
pub mod prepare;
pub mod prompts;
pub mod samples;
mod shuffle;
mod source;
mod token_bytes;
mod validation;

pub use loader::{Batch, Loader, LoaderOptions, Order, Position};
pub use shuffle::Permutation;
pub use source::{Part, Source, shards};
pub use token_bytes::TokenBytes;
pub use validation::{Tail, Validation};

/// The target of a position that does not count: padding.
pub const IGNORED: i32 = -100;

/// Whether tokens are for training or for looking how it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To learn from.
    Train,
    /// Held out.
    Val,
}

impl Split {
    /// As file names have it.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
        }
    }
}
