//! How weights move: flags of every kind of run.

use super::said;
use crate::commands::flags::parse_name;
use serde::{Deserialize, Serialize};
use wootz_train::fit::{DtypeName, Learning, OptimizerName, RecomputeName};

/// How weights move, as far as it was said.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LearningArgs {
    /// `adamw`, `sgd` (momentum: --beta1), or `muon` for the blocks' matrices with AdamW for the rest
    #[arg(long, value_name = "RULE", value_parser = parse_name::<OptimizerName>, help_heading = "Optimiser")]
    pub optimizer: Option<OptimizerName>,
    /// The highest learning rate
    #[arg(long, value_name = "LR", help_heading = "Optimiser")]
    pub lr: Option<f64>,
    /// `constant`, `linear`, `cosine` or `wsd`, after the warm-up
    #[arg(long, value_name = "S", help_heading = "Optimiser")]
    pub schedule: Option<String>,
    /// Steps of the warm-up
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    pub warmup: Option<u64>,
    /// The last learning rate, as a share of the highest
    #[arg(long, value_name = "F", help_heading = "Optimiser")]
    pub final_lr: Option<f64>,
    /// Share of matrices and embeddings that is taken off in a step, times the learning rate
    #[arg(long, value_name = "F", help_heading = "Optimiser")]
    pub weight_decay: Option<f64>,
    /// AdamW's share of the old mean; the momentum of SGD
    #[arg(long, value_name = "F", help_heading = "Optimiser")]
    pub beta1: Option<f64>,
    /// AdamW's share of the old mean square
    #[arg(long, value_name = "F", help_heading = "Optimiser")]
    pub beta2: Option<f64>,
    /// AdamW's epsilon
    #[arg(long, value_name = "F", help_heading = "Optimiser")]
    pub eps: Option<f64>,
    /// Scale gradients down to this norm; 0: never
    #[arg(long, value_name = "F", help_heading = "Optimiser")]
    pub clip: Option<f64>,
    /// What products multiply: `f32`, or `bf16` or `f16` with the weights kept in f32 (and `f16` with a loss scale)
    #[arg(long, value_name = "TYPE", value_parser = parse_name::<DtypeName>, help_heading = "Steps")]
    pub dtype: Option<DtypeName>,
    /// Save memory by computing again in backward: `none`, `block`, or `all`
    #[arg(long, value_name = "WHAT", value_parser = parse_name::<RecomputeName>, help_heading = "Steps")]
    pub recompute: Option<RecomputeName>,
    /// Makes initial weights, and the order of the data
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// What nobody says, where kinds of runs differ.
pub struct UsualLearning {
    pub lr: f64,
    pub warmup: u64,
    pub weight_decay: f64,
    pub beta2: f64,
    pub dtype: DtypeName,
}

impl LearningArgs {
    /// Flags first, then the file, then what is usual.
    pub fn resolve(&self, file: &LearningArgs, steps: u64, usual: &UsualLearning) -> Learning {
        Learning {
            steps,
            optimizer: said!(self, file, optimizer).unwrap_or(OptimizerName::AdamW),
            lr: said!(self, file, lr).unwrap_or(usual.lr),
            schedule: said!(self, file, schedule).unwrap_or_else(|| "cosine".to_owned()),
            warmup: said!(self, file, warmup).unwrap_or(usual.warmup.min(steps / 10)),
            final_lr: said!(self, file, final_lr).unwrap_or(0.1),
            weight_decay: said!(self, file, weight_decay).unwrap_or(usual.weight_decay),
            beta1: said!(self, file, beta1).unwrap_or(0.9),
            beta2: said!(self, file, beta2).unwrap_or(usual.beta2),
            eps: said!(self, file, eps).unwrap_or(1e-8),
            clip: said!(self, file, clip).unwrap_or(1.0),
            dtype: said!(self, file, dtype).unwrap_or(usual.dtype),
            recompute: said!(self, file, recompute).unwrap_or(RecomputeName::None),
            seed: said!(self, file, seed).unwrap_or(1337),
        }
    }
}
