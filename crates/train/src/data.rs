//! Data for training: from text to token shards.
//!
//! Text goes through [`inputs`] (which files) and [`documents`] (what is a document).

pub mod documents;
pub mod inputs;
#[cfg(feature = "parquet")]
mod parquet;
