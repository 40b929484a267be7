//! What a run is to do: all that makes it repeatable, as `config.toml` holds it.

use crate::data::Order;
use crate::error::{Result, fail};
use crate::fit::settings::{Learning, Meanwhile, not_negative};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// A preset's name, or a model to go on from.
    pub model: String,
    /// Sizes in place of the preset's.
    #[serde(default, skip_serializing_if = "Sizes::is_empty")]
    pub sizes: Sizes,
    /// Shards, folders, patterns or texts; empty for the built-in stories.
    pub data: Vec<String>,
    /// The same to validate with; empty for what belongs to the data.
    pub val_data: Vec<String>,
    /// How batches are drawn.
    pub order: Order,
    /// Train on the first batch again and again.
    pub overfit: bool,
    /// Sequences of a forward pass (B).
    pub batch: usize,
    /// Tokens of each (T).
    pub seq: usize,
    /// Forward passes of a step.
    pub accumulate: usize,
    /// How weights move.
    #[serde(flatten)]
    pub learning: Learning,
    /// Standard deviation of the initial weights.
    pub init_std: f32,
    /// What happens beside the steps.
    #[serde(flatten)]
    pub meanwhile: Meanwhile,
    /// Questions to be asked with every validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hellaswag: Option<PathBuf>,
}

/// Sizes of a model in place of its preset's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sizes {
    /// Layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Width of the residual stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// Query heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Key/value heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab: Option<usize>,
    /// The longest sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
}

impl Sizes {
    /// Whether the preset's are all kept.
    pub fn is_empty(&self) -> bool {
        *self == Sizes::default()
    }
}

impl Settings {
    /// Tokens that a step learns from.
    pub fn tokens_per_step(&self) -> u64 {
        (self.batch * self.seq * self.accumulate) as u64
    }

    /// Numbers that no run can mean.
    ///
    /// # Errors
    /// The first of them, by its name.
    pub fn check(&self) -> Result<()> {
        const MOST: usize = 1 << 24;
        for (name, value) in [("batch", self.batch), ("seq", self.seq), ("accumulate", self.accumulate)] {
            if !(1..=MOST).contains(&value) {
                fail!("--{name} {value}: expected a number from 1 to {MOST}");
            }
        }
        if self.batch.saturating_mul(self.seq) > MOST {
            fail!("--batch {} --seq {}: more than {MOST} tokens in a forward pass", self.batch, self.seq);
        }
        not_negative("init-std", f64::from(self.init_std))?;
        self.learning.check()?;
        self.meanwhile.check()
    }
}
