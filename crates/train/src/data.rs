//! Data for training: from text to token shards.
//!
//! Text goes through [`inputs`] (which files), [`documents`] (what is a document), [`encode`] (token ids, on all
//! threads) and [`prepare`] (shards of llm.c's format), and a [`manifest`] beside the shards says what they are.
//! Training reads them back as a [`Source`].

pub mod documents;
pub mod encode;
pub mod inputs;
pub mod manifest;
#[cfg(feature = "parquet")]
mod parquet;
pub mod prepare;
mod source;

pub use source::{Part, Source, shards};

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
