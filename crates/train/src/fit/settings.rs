//! Settings that every run has: how weights move, and what happens meanwhile.

use super::Plan;
use crate::error::{Result, fail};
use crate::optimizer::{Adam, Decay, Options, Rule};
use crate::outlier::Limits;
use crate::schedule::{Schedule, Shape};
use crate::trainer::Format;
use serde::{Deserialize, Serialize};
use wootz_kernels::ops::sgd::Momentum;
use wootz_model::Recompute;

/// How weights move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Learning {
    /// Optimiser steps of the run.
    pub steps: u64,
    /// The optimiser's rule: `adamw`, `sgd` or `muon`.
    pub optimizer: OptimizerName,
    /// The highest learning rate.
    pub lr: f64,
    /// What follows the warm-up: `constant`, `linear`, `cosine` or `wsd`.
    pub schedule: String,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// The last learning rate, as a share of the highest.
    pub final_lr: f64,
    /// Share of the weights that is taken off in a step, times the learning rate.
    pub weight_decay: f64,
    /// AdamW's share of the old mean, or SGD's and Muon's momentum.
    pub beta1: f64,
    /// AdamW's share of the old mean square.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// Gradients are scaled down to this norm; 0 for never.
    pub clip: f64,
    /// What products multiply: `f32`, `bf16` or `f16`.
    pub dtype: DtypeName,
    /// What is computed again in backward.
    pub recompute: RecomputeName,
    /// Makes initial weights, the order of the data, and what dropout leaves out.
    pub seed: u64,
}

/// What happens beside the steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Meanwhile {
    /// Steps from one validation to the next; 0 for the end alone.
    pub val_every: u64,
    /// Batches of a validation, at the most.
    pub val_batches: u64,
    /// Steps from one sample of text to the next; 0 for before and after alone.
    pub sample_every: u64,
    /// Steps from one checkpoint to the next; 0 for the end alone.
    pub save_every: u64,
    /// Checkpoints that stay; 0 for all.
    pub keep: usize,
    /// Steps in a row that may be refused for NaN or infinity.
    pub max_bad_steps: u64,
    /// Steps with a loss of a higher z-score are skipped; 0 for none.
    pub skip_loss_z: f64,
    /// Steps with a gradient norm of a higher z-score are skipped; 0 for none.
    pub skip_grad_z: f64,
}

/// The optimiser's rule, as a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// AdamW.
    AdamW,
    /// Gradient descent, with heavy-ball momentum where `beta1` is above 0.
    Sgd,
    /// Muon, and AdamW for what is no matrix of a block.
    Muon,
}

/// A type of products, as a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DtypeName {
    /// f32.
    F32,
    /// bf16 with weights kept in f32.
    Bf16,
    /// f16 with weights kept in f32, and a loss scale.
    F16,
}

/// A policy of recomputation, as a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecomputeName {
    /// Everything is kept.
    None,
    /// Only each block's input is kept.
    Block,
    /// Only some blocks' inputs are.
    All,
}

impl RecomputeName {
    /// What it stands for.
    pub fn policy(self) -> Recompute {
        match self {
            RecomputeName::None => Recompute::None,
            RecomputeName::Block => Recompute::Block,
            RecomputeName::All => Recompute::All,
        }
    }
}

impl Learning {
    /// What the optimiser needs.
    pub fn options(&self) -> Options {
        let adam = Adam { beta1: self.beta1, beta2: self.beta2, eps: self.eps };
        let momentum = (self.beta1 > 0.0).then_some(Momentum::HeavyBall(self.beta1));
        let rule = match self.optimizer {
            OptimizerName::AdamW => Rule::AdamW(adam),
            OptimizerName::Sgd => Rule::Sgd(momentum),
            OptimizerName::Muon => Rule::Muon { momentum: Momentum::Nesterov(0.95), adam },
        };
        Options { rule, weight_decay: self.weight_decay, decay: Decay::Matrices }
    }

    /// The learning rate of every step.
    ///
    /// # Errors
    /// A schedule of no known name, or rates that mean nothing.
    pub fn schedule(&self) -> Result<Schedule> {
        let schedule = Schedule {
            peak: self.lr,
            shape: self.schedule.parse::<Shape>()?,
            warmup: self.warmup,
            total: self.steps,
            final_fraction: self.final_lr,
        };
        schedule.check()?;
        Ok(schedule)
    }

    /// The products' type.
    pub fn format(&self) -> Format {
        match self.dtype {
            DtypeName::F32 => Format::F32,
            DtypeName::Bf16 => Format::Bf16,
            DtypeName::F16 => Format::F16,
        }
    }

    /// What is computed again.
    pub fn recompute(&self) -> Recompute {
        self.recompute.policy()
    }

    /// The norm that gradients are scaled down to.
    pub fn clip(&self) -> Option<f64> {
        (self.clip > 0.0).then_some(self.clip)
    }

    /// Numbers that no run can mean.
    ///
    /// # Errors
    /// The first of them, by its name.
    pub fn check(&self) -> Result<()> {
        if self.steps == 0 {
            fail!("--steps 0: expected at least one");
        }
        for (name, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                fail!("--{name} {value}: expected a number from 0 to 1, without 1");
            }
        }
        not_negative("weight-decay", self.weight_decay)?;
        not_negative("clip", self.clip)?;
        if !(self.eps.is_finite() && self.eps > 0.0) {
            fail!(
                "--eps {}: expected a number above 0: a weight that never had a gradient would divide by it",
                self.eps
            );
        }
        self.schedule().map(|_| ())
    }
}

impl Meanwhile {
    /// Numbers that no run can mean.
    ///
    /// # Errors
    /// The first of them, by its name.
    pub fn check(&self) -> Result<()> {
        not_negative("skip-loss-z", self.skip_loss_z)?;
        not_negative("skip-grad-z", self.skip_grad_z)
    }
}

impl Plan {
    /// As the settings say.
    ///
    /// # Errors
    /// A schedule or a limit that means nothing.
    pub fn new(learning: &Learning, meanwhile: &Meanwhile) -> Result<Plan> {
        Ok(Plan {
            steps: learning.steps,
            schedule: learning.schedule()?,
            limits: Limits::from_flags(meanwhile.skip_loss_z, meanwhile.skip_grad_z)?,
            seed: learning.seed,
            val_every: meanwhile.val_every,
            sample_every: meanwhile.sample_every,
            save_every: meanwhile.save_every,
            keep: meanwhile.keep,
            max_bad_steps: meanwhile.max_bad_steps,
        })
    }
}

/// Fails where a number is below 0, or none.
pub(crate) fn not_negative(name: &str, value: f64) -> Result<()> {
    if !(value.is_finite() && value >= 0.0) {
        fail!("--{name} {value}: expected a number that is not negative");
    }
    Ok(())
}
