//! What a run is to do: all that makes it repeatable, as `config.toml` holds it.

use super::advantage::Scale;
use super::objective::{Form, Loss};
use super::update::Rules;
use crate::error::{Result, fail};
use crate::fit::settings::not_negative;
use crate::fit::{Learning, Meanwhile};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use wootz_model::generate::SamplerOptions;
use wootz_model::lora::{LoraOptions, Scaling};
use wootz_model::names::Part;

/// What moves, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// An adapter, after all answers of a step.
    Lora,
    /// All weights, after each answer.
    FullParam,
    /// All weights, after all answers of a step.
    Accurate,
}

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// The model.
    pub model: String,
    /// Files of prompts; empty for a task.
    pub data: Vec<String>,
    /// The same to validate with; empty for a share of the data, or a task's own.
    pub val_data: Vec<String>,
    /// The share of prompts that is held out, where there are none to validate with.
    pub val_share: f64,
    /// A built-in task, in place of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// How hard its problems are.
    pub level: u8,
    /// How answers are judged: a spec, or a file of it.
    pub reward: String,
    /// A chat template in place of the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PathBuf>,
    /// Leave out lines that are no prompts.
    pub skip_bad: bool,
    /// Tokens of a prompt, at the most.
    pub max_prompt_tokens: usize,

    /// Answers to a prompt.
    pub group_size: usize,
    /// Prompts of a step.
    pub prompts_per_step: usize,
    /// Tokens of an answer, at the most.
    pub max_new_tokens: usize,
    /// Divides logits before answers are drawn.
    pub temperature: f32,
    /// Draw from so many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Draw from the most likely tokens up to this share of the probability.
    pub top_p: f32,
    /// Texts of tokens that end an answer, beside the model's own.
    pub end: Vec<String>,
    /// Answers that are drawn at once.
    pub parallel: usize,
    /// Draw answers to further prompts in place of groups whose rewards are all equal.
    pub refill: bool,
    /// Problems that a validation asks.
    pub val_prompts: usize,

    /// What moves.
    pub mode: Mode,
    /// The loss.
    pub loss: Form,
    /// Updates with the same answers.
    pub iterations: u64,
    /// How far below 1 a ratio counts.
    pub epsilon: f64,
    /// How far above 1.
    pub epsilon_high: f64,
    /// What the divergence from the reference counts.
    pub beta: f64,
    /// What rewards are divided by.
    pub scale_rewards: Scale,
    /// Do not learn from answers that were cut short.
    pub mask_truncated: bool,
    /// Answers of a forward pass.
    pub batch: usize,
    /// Fail if answers are learnt from with other probabilities than they were drawn with.
    pub verify_policy: bool,

    /// The adapter's rank.
    pub lora_rank: usize,
    /// The adapter's alpha.
    pub lora_alpha: f32,
    /// The projections that it changes.
    pub lora_targets: Vec<String>,
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
    /// How answers are learnt from.
    pub fn rules(&self) -> Rules {
        Rules {
            loss: Loss {
                form: self.loss,
                epsilon: self.epsilon,
                epsilon_high: self.epsilon_high,
                beta: self.beta,
            },
            scale: self.sampler().scale(),
            most_tokens: self.max_new_tokens,
            batch: self.batch,
            mask_truncated: self.mask_truncated,
        }
    }

    /// How answers are drawn.
    pub fn sampler(&self) -> SamplerOptions {
        SamplerOptions {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.learning.seed,
            ..SamplerOptions::default()
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
            targets: crate::sft::targets(&self.lora_targets, has)?,
            magnitudes: false,
            // What is left out at random would make another policy of the one that answered.
            dropout: 0.0,
            seed: self.learning.seed,
        })
    }

    /// Numbers that no run can mean.
    ///
    /// # Errors
    /// The first of them, by its name.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [
            ("prompts-per-step", self.prompts_per_step),
            ("max-new-tokens", self.max_new_tokens),
            ("batch", self.batch),
            ("parallel", self.parallel),
        ] {
            if value == 0 {
                fail!("--{name} 0: expected at least 1");
            }
        }
        if self.group_size < 2 {
            fail!(
                "--group-size {}: expected at least 2, for answers are compared with each other",
                self.group_size
            );
        }
        if self.iterations == 0 {
            fail!("--iterations 0: expected at least 1");
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            fail!(
                "--temperature {}: expected a number above 0: equal answers teach nothing",
                self.temperature
            );
        }
        if !(0.0..1.0).contains(&self.val_share) {
            fail!("--val-share {}: expected a share from 0 to below 1", self.val_share);
        }
        if !(0.0..1.0).contains(&self.epsilon) {
            fail!("--epsilon {}: expected a number from 0 to below 1", self.epsilon);
        }
        not_negative("epsilon-high", self.epsilon_high)?;
        not_negative("beta", self.beta)?;
        self.learning.check()?;
        self.meanwhile.check()
    }
}
