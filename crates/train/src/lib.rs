//! Training, the data to train on, and what a run leaves behind.
//!
//! In reading order:
//! - [`stories`]: the built-in data
//! - [`data`]: from text to token shards, and from shards to batches
//! - [`trainer`]: a step, from batches to new weights; [`optimizer`]: how gradients change them; [`loss_scale`]: how
//!   they keep within f16
//! - [`schedule`]: the learning rate of each step; [`outlier`]: steps that are better skipped
//! - [`fit`]: steps until a run is complete; [`pretrain`]: on a corpus; [`sft`]: on samples; [`grpo`]: on what it tries
//! - [`run`]: the folder of a run: settings, metrics, checkpoints, report
//! - [`progress`]: what a terminal shows meanwhile

#![forbid(unsafe_code)]

pub mod data;
pub mod error;
pub mod fit;
pub mod grpo;
pub mod loss_scale;
pub mod optimizer;
pub mod outlier;
pub mod pretrain;
pub mod progress;
pub mod run;
pub mod schedule;
pub mod sft;
pub mod stories;
pub mod trainer;

pub use error::{Error, Result};
