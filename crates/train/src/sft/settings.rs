//! What a run is to do: all that makes it repeatable, as `config.toml` holds it.

use crate::data;
use crate::data::samples::{BatchSize, Grouping, OrderOptions, TrainOn, Truncation};
use crate::error::{Result, fail};
use crate::fit::{Learning, Meanwhile};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use wootz_model::lora::{LoraOptions, Scaling};
use wootz_model::names::Part;

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// The model to tune.
    pub model: String,
    /// Files, folders and patterns of samples.
    pub data: Vec<String>,
    /// The same to validate with; empty for a share of the data.
    pub val_data: Vec<String>,
    /// The share of samples that is held out, where there are none to validate with.
    pub val_share: f64,
    /// Which tokens are learnt.
    pub train_on: TrainOn,
    /// Tokens of a sample, at the most.
    pub max_tokens: usize,
    /// What is done with a longer one.
    pub truncation: Truncation,
    /// A chat template in place of the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PathBuf>,
    /// Leave out what cannot be read.
    pub skip_bad: bool,
    /// Samples of a forward pass.
    pub batch: usize,
    /// Tokens of a forward pass, in place of a number of samples; 0 for none.
    pub batch_tokens: usize,
    /// Forward passes of a step.
    pub accumulate: usize,
    /// How samples are drawn.
    pub order: data::Order,
    /// Samples of about one length come together, out of each so many; 0 for as they are drawn.
    pub by_length: usize,
    /// Move all weights, and not an adapter.
    pub full: bool,
    /// The adapter's rank.
    pub lora_rank: usize,
    /// The adapter's alpha.
    pub lora_alpha: f32,
    /// The projections that it changes: `q`, `k`, `v`, `o`, `gate`, `up`, `down`, under any family's names, or `all`.
    pub lora_targets: Vec<String>,
    /// Share of a projection's inputs that is left out at random.
    pub lora_dropout: f32,
    /// The lengths of weights are learnt beside their directions.
    #[serde(default)]
    pub dora: bool,
    /// The scale is α / √r instead of α / r.
    pub rslora: bool,
    /// An adapter to go on with, in place of a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// How weights move.
    #[serde(flatten)]
    pub learning: Learning,
    /// What happens beside the steps.
    #[serde(flatten)]
    pub meanwhile: Meanwhile,
}

impl Settings {
    /// What the order of samples needs.
    pub fn order_options(&self) -> OrderOptions {
        OrderOptions {
            size: match self.batch_tokens {
                0 => BatchSize::Samples(self.batch),
                tokens => BatchSize::Tokens(tokens),
            },
            accumulate: self.accumulate,
            visit: self.order,
            grouping: match self.by_length {
                0 => Grouping::AsDrawn,
                window => Grouping::ByLength(window),
            },
            seed: self.learning.seed,
            rank: 0,
            world: 1,
        }
    }

    /// What a new adapter needs, for a model that has these projections.
    ///
    /// # Errors
    /// A target that the model does not have.
    pub fn lora_options(&self, has: &[Part]) -> Result<LoraOptions> {
        Ok(LoraOptions {
            rank: self.lora_rank,
            alpha: self.lora_alpha,
            scaling: if self.rslora { Scaling::RootOfRank } else { Scaling::Rank },
            targets: targets(&self.lora_targets, has)?,
            magnitudes: self.dora,
            dropout: self.lora_dropout,
            seed: self.learning.seed,
        })
    }

    /// Numbers that no run can mean.
    ///
    /// # Errors
    /// The first of them, by its name.
    pub fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.val_share) {
            fail!("--val-share {}: expected a share from 0 to below 1", self.val_share);
        }
        if self.batch == 0 || self.accumulate == 0 {
            fail!("--batch {} --accumulate {}: expected at least 1", self.batch, self.accumulate);
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            fail!("--lora-dropout {}: expected a share from 0 to below 1", self.lora_dropout);
        }
        self.learning.check()?;
        self.meanwhile.check()
    }
}

/// The projections that names stand for, of those that a model has.
///
/// # Errors
/// A name that stands for nothing, or for nothing that the model has.
pub fn targets(names: &[String], has: &[Part]) -> Result<Vec<Part>> {
    let mut targets = Vec::new();
    for name in names {
        let parts = parts(name);
        if parts.is_empty() {
            fail!(
                "--lora-targets {name}: expected `all`, `attention`, `mlp`, or some of q, k, v, o, gate, up, down, as the \
                 model's files call them or as here"
            );
        }
        let found: Vec<Part> = parts.iter().copied().filter(|part| has.contains(part)).collect();
        if found.is_empty() {
            let names: Vec<&str> = has.iter().map(|part| part.name()).collect();
            fail!("--lora-targets {name}: this model has no such projection; it has {}", names.join(", "));
        }
        targets.extend(found);
    }
    targets.sort_unstable();
    targets.dedup();
    Ok(targets)
}

/// The projections that a name stands for; none if it stands for nothing.
fn parts(name: &str) -> Vec<Part> {
    let attention = [Part::Q, Part::K, Part::V, Part::O];
    let mlp = [Part::Gate, Part::Up, Part::Down];
    match name {
        "all" | "all-linear" => attention.into_iter().chain(mlp).collect(),
        "attention" => attention.to_vec(),
        "mlp" => mlp.to_vec(),
        "q" | "q_proj" | "attn_q" => vec![Part::Q],
        "k" | "k_proj" | "attn_k" => vec![Part::K],
        "v" | "v_proj" | "attn_v" => vec![Part::V],
        "o" | "o_proj" | "attn_output" => vec![Part::O],
        "gate" | "gate_proj" | "ffn_gate" => vec![Part::Gate],
        "up" | "up_proj" | "ffn_up" | "c_fc" => vec![Part::Up],
        "down" | "down_proj" | "ffn_down" => vec![Part::Down],
        "c_attn" => vec![Part::Q, Part::K, Part::V],
        // GPT-2 has two of this name.
        "c_proj" => vec![Part::O, Part::Down],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_projection_has_a_name_and_all_have_one() {
        for part in Part::ALL.into_iter().filter(|part| part.is_projection()) {
            assert_eq!(parts(part.name()), [part]);
            assert!(parts("all").contains(&part));
        }
        assert!(parts("x").is_empty());
    }
}
