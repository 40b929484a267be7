//! The flags of `wootz train`, the file that may hold them, and what they are when nobody says.

use crate::commands::flags::parse_name;
use crate::commands::settings::{
    LearningArgs, MeanwhileArgs, UsualLearning, UsualMeanwhile, from_file, refuse_changes,
};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use wootz_train::data::Order;
use wootz_train::fit::DtypeName;
use wootz_train::pretrain::{Settings, Sizes};

/// Every setting, if it was given. The file of `--config` has the same names.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SettingsArgs {
    /// A preset (tiny, story, gpt2-124m, gpt2-350m, gpt2-774m, gpt2-1558m, llama-15m, llama-42m, llama-110m, qwen3-0.6b,
    /// gemma3-270m, gemma3-1b), or a model to go on with [default: tiny]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// As config.toml has the sizes.
    #[arg(skip)]
    sizes: Option<Sizes>,
    /// Layers, in place of the preset's
    #[arg(long, value_name = "N", help_heading = "Sizes of a new model")]
    layers: Option<usize>,
    /// Width of the residual stream
    #[arg(long, value_name = "N", help_heading = "Sizes of a new model")]
    dim: Option<usize>,
    /// Query heads
    #[arg(long, value_name = "N", help_heading = "Sizes of a new model")]
    heads: Option<usize>,
    /// Key/value heads
    #[arg(long, value_name = "N", help_heading = "Sizes of a new model")]
    kv_heads: Option<usize>,
    /// Tokens of the vocabulary
    #[arg(long, value_name = "N", help_heading = "Sizes of a new model")]
    vocab: Option<usize>,
    /// The longest sequence
    #[arg(long, value_name = "N", help_heading = "Sizes of a new model")]
    context: Option<usize>,
    /// Token shards (.bin, or a folder from `wootz data prepare`), or texts, .jsonl and .parquet, which are encoded in
    /// memory. May be given several times [default: the built-in stories]
    #[arg(long, value_name = "F", help_heading = "Data")]
    data: Option<Vec<String>>,
    /// The same, to validate with [default: what the data holds out]
    #[arg(long, value_name = "F", help_heading = "Data")]
    val_data: Option<Vec<String>>,
    /// `shuffled`, or `sequential`: llm.c's order
    #[arg(long, value_name = "ORDER", value_parser = parse_name::<Order>, help_heading = "Data")]
    order: Option<Order>,
    /// Train on the first batch again and again
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "Data")]
    overfit: Option<bool>,
    /// Sequences of a forward pass
    #[arg(long, value_name = "B", help_heading = "Steps")]
    batch: Option<usize>,
    /// Tokens of a sequence
    #[arg(long, value_name = "T", help_heading = "Steps")]
    seq: Option<usize>,
    /// Forward passes of a step
    #[arg(long, value_name = "N", help_heading = "Steps")]
    accumulate: Option<usize>,
    /// Tokens of a step, in place of --accumulate
    #[arg(long, value_name = "N", conflicts_with = "accumulate", help_heading = "Steps")]
    tokens_per_step: Option<usize>,
    /// Optimiser steps
    #[arg(long, value_name = "N", help_heading = "Steps")]
    steps: Option<u64>,
    /// Tokens to learn from, in place of --steps
    #[arg(long, value_name = "N", conflicts_with = "steps", help_heading = "Steps")]
    tokens: Option<u64>,
    #[command(flatten)]
    #[serde(flatten)]
    learning: LearningArgs,
    /// Standard deviation of initial weights
    #[arg(long, value_name = "F", help_heading = "Sizes of a new model")]
    init_std: Option<f32>,
    #[command(flatten)]
    #[serde(flatten)]
    meanwhile: MeanwhileArgs,
    /// HellaSwag's questions (hellaswag_val.jsonl), asked with every validation
    #[arg(long, value_name = "FILE", help_heading = "Meanwhile")]
    hellaswag: Option<PathBuf>,
}

/// What nobody says, for one kind of model.
struct Defaults {
    batch: usize,
    seq: usize,
    accumulate: usize,
    steps: u64,
    lr: f64,
    warmup: u64,
    weight_decay: f64,
    beta2: f64,
    init_std: f32,
    val_every: u64,
    save_every: u64,
}

/// For `tiny`, a minute on two cores; for `story`, an hour; for models of a hundred million and more, what llm.c and
/// nanoGPT take, with the batch of a laptop.
fn defaults(model: &str) -> Defaults {
    let small = Defaults {
        batch: 16,
        seq: 128,
        accumulate: 1,
        steps: 800,
        lr: 4e-3,
        warmup: 50,
        weight_decay: 0.1,
        beta2: 0.95,
        init_std: 0.05,
        val_every: 200,
        save_every: 0,
    };
    match model {
        "tiny" => small,
        "story" => {
            Defaults { steps: 20_000, lr: 3e-3, warmup: 200, val_every: 1000, save_every: 1000, ..small }
        }
        _ => Defaults {
            batch: 4,
            seq: 256,
            accumulate: 1,
            steps: 1000,
            lr: 3e-4,
            warmup: 100,
            weight_decay: 0.1,
            beta2: 0.95,
            init_std: 0.02,
            val_every: 100,
            save_every: 200,
        },
    }
}

impl SettingsArgs {
    /// Flags first, then the file, then what nobody needs to say.
    ///
    /// # Errors
    /// A file that cannot be read, or has a name that is no setting's.
    pub fn resolve(&self, file: Option<&Path>) -> Result<Settings> {
        let file: SettingsArgs = from_file(file, "train")?;
        let flags = self;
        macro_rules! said {
            ($name:ident) => {
                flags.$name.clone().or_else(|| file.$name.clone())
            };
        }
        let in_file = file.sizes.unwrap_or_default();
        let model = said!(model).unwrap_or_else(|| "tiny".to_owned());
        let usual = defaults(&model);
        let (batch, seq) = (said!(batch).unwrap_or(usual.batch), said!(seq).unwrap_or(usual.seq));
        let pass = batch.saturating_mul(seq).max(1);
        let accumulate = match (flags.tokens_per_step, flags.accumulate) {
            (Some(tokens), _) => {
                if !tokens.is_multiple_of(pass) || tokens == 0 {
                    bail!(
                        "--tokens-per-step {tokens}: expected a multiple of the {pass} tokens of a forward pass"
                    );
                }
                tokens / pass
            }
            (None, Some(accumulate)) => accumulate,
            (None, None) => match file.tokens_per_step {
                Some(tokens) => (tokens / pass).max(1),
                None => file.accumulate.unwrap_or(usual.accumulate),
            },
        };
        let of_step = pass.saturating_mul(accumulate).max(1) as u64;
        let steps = match (flags.steps, flags.tokens) {
            (Some(steps), _) => steps,
            (None, Some(tokens)) => tokens.div_ceil(of_step),
            (None, None) => match (file.steps, file.tokens) {
                (Some(steps), _) => steps,
                (None, Some(tokens)) => tokens.div_ceil(of_step),
                (None, None) => usual.steps,
            },
        };
        let sizes = Sizes {
            layers: said!(layers).or(in_file.layers),
            dim: said!(dim).or(in_file.dim),
            heads: said!(heads).or(in_file.heads),
            kv_heads: said!(kv_heads).or(in_file.kv_heads),
            vocab: said!(vocab).or(in_file.vocab),
            context: said!(context).or(in_file.context),
        };
        Ok(Settings {
            sizes,
            data: said!(data).unwrap_or_default(),
            val_data: said!(val_data).unwrap_or_default(),
            order: said!(order).unwrap_or(Order::Shuffled),
            overfit: said!(overfit).unwrap_or(false),
            batch,
            seq,
            accumulate,
            learning: flags.learning.resolve(&file.learning, steps, &usual.learning()),
            init_std: said!(init_std).unwrap_or(usual.init_std),
            meanwhile: flags.meanwhile.resolve(&file.meanwhile, &usual.meanwhile()),
            hellaswag: said!(hellaswag),
            model,
        })
    }

    /// The settings of a run that goes on, with what may change: how far it goes, and what happens meanwhile.
    ///
    /// # Errors
    /// A flag that would make it another run.
    pub fn change(&self, old: &Settings) -> Result<Settings> {
        let (mut new, mut flags) = (old.clone(), self.clone());
        let of_step = old.tokens_per_step().max(1);
        let tokens = flags.tokens.take().map(|tokens| tokens.div_ceil(of_step));
        new.learning.steps = flags.steps.take().or(tokens).unwrap_or(old.learning.steps);
        new.meanwhile = flags.meanwhile.change(&old.meanwhile);
        refuse_changes(&flags)?;
        Ok(new)
    }
}

impl Defaults {
    fn learning(&self) -> UsualLearning {
        let &Defaults { lr, warmup, weight_decay, beta2, .. } = self;
        UsualLearning { lr, warmup, weight_decay, beta2, dtype: DtypeName::F32 }
    }

    fn meanwhile(&self) -> UsualMeanwhile {
        UsualMeanwhile { val_every: self.val_every, val_batches: 20, save_every: self.save_every }
    }
}
