//! The flags of `wootz train`, the file that may hold them, and what they are when nobody says.

use crate::commands::flags::parse_name;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use wootz_train::data::Order;
use wootz_train::pretrain::{DtypeName, OptimizerName, RecomputeName, Settings, Sizes};

/// Every setting, if it was given. The file of `--config` has the same names.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
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
    /// `adamw`, `sgd` (momentum: --beta1), or `muon` for the blocks' matrices with AdamW for the rest
    #[arg(long, value_name = "RULE", value_parser = parse_name::<OptimizerName>, help_heading = "Optimiser")]
    optimizer: Option<OptimizerName>,
    /// The highest learning rate
    #[arg(long, value_name = "LR", help_heading = "Optimiser")]
    lr: Option<f64>,
    /// `constant`, `linear`, `cosine` or `wsd`, after the warm-up
    #[arg(long, value_name = "S", help_heading = "Optimiser")]
    schedule: Option<String>,
    /// Steps of the warm-up
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    warmup: Option<u64>,
    /// The last learning rate, as a share of the highest
    #[arg(long, value_name = "F", help_heading = "Optimiser")]
    final_lr: Option<f64>,
    /// Share of matrices and embeddings that is taken off in a step, times the learning rate
    #[arg(long, value_name = "F", help_heading = "Optimiser")]
    weight_decay: Option<f64>,
    /// AdamW's share of the old mean; the momentum of SGD
    #[arg(long, value_name = "F", help_heading = "Optimiser")]
    beta1: Option<f64>,
    /// AdamW's share of the old mean square
    #[arg(long, value_name = "F", help_heading = "Optimiser")]
    beta2: Option<f64>,
    /// AdamW's epsilon
    #[arg(long, value_name = "F", help_heading = "Optimiser")]
    eps: Option<f64>,
    /// Scale gradients down to this norm; 0: never
    #[arg(long, value_name = "F", help_heading = "Optimiser")]
    clip: Option<f64>,
    /// What products multiply: `f32`, or `bf16` with the weights kept in f32
    #[arg(long, value_name = "TYPE", value_parser = parse_name::<DtypeName>, help_heading = "Steps")]
    dtype: Option<DtypeName>,
    /// Save memory by computing again in backward: `none`, `block`, or `all`
    #[arg(long, value_name = "WHAT", value_parser = parse_name::<RecomputeName>, help_heading = "Steps")]
    recompute: Option<RecomputeName>,
    /// Makes initial weights, and the order of the data
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Standard deviation of initial weights
    #[arg(long, value_name = "F", help_heading = "Sizes of a new model")]
    init_std: Option<f32>,
    /// Validate every N steps; 0: at the end alone
    #[arg(long, value_name = "N", help_heading = "Meanwhile")]
    val_every: Option<u64>,
    /// Batches of a validation, at the most
    #[arg(long, value_name = "N", help_heading = "Meanwhile")]
    val_batches: Option<u64>,
    /// Show what the model writes every N steps; 0: before and after alone
    #[arg(long, value_name = "N", help_heading = "Meanwhile")]
    sample_every: Option<u64>,
    /// Save a checkpoint every N steps; 0: at the end alone
    #[arg(long, value_name = "N", help_heading = "Meanwhile")]
    save_every: Option<u64>,
    /// Checkpoints that stay; 0: all
    #[arg(long, value_name = "N", help_heading = "Meanwhile")]
    keep: Option<usize>,
    /// HellaSwag's questions (hellaswag_val.jsonl), asked with every validation
    #[arg(long, value_name = "FILE", help_heading = "Meanwhile")]
    hellaswag: Option<PathBuf>,
    /// Give up after so many steps in a row with NaN or infinity
    #[arg(long, value_name = "N", help_heading = "Safety")]
    max_bad_steps: Option<u64>,
    /// Skip steps whose loss stands out by more deviations than this; 0: none
    #[arg(long, value_name = "Z", help_heading = "Safety")]
    skip_loss_z: Option<f64>,
    /// Skip steps whose gradient norm stands out by more deviations than this; 0: none
    #[arg(long, value_name = "Z", help_heading = "Safety")]
    skip_grad_z: Option<f64>,
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
        let file: SettingsArgs = match file {
            Some(path) => {
                let text = super::read_text(path)?;
                toml::from_str(&text)
                    .with_context(|| format!("{}: expected settings of `wootz train`", path.display()))?
            }
            None => SettingsArgs::default(),
        };
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
            steps,
            optimizer: said!(optimizer).unwrap_or(OptimizerName::AdamW),
            lr: said!(lr).unwrap_or(usual.lr),
            schedule: said!(schedule).unwrap_or_else(|| "cosine".to_owned()),
            warmup: said!(warmup).unwrap_or(usual.warmup.min(steps / 10)),
            final_lr: said!(final_lr).unwrap_or(0.1),
            weight_decay: said!(weight_decay).unwrap_or(usual.weight_decay),
            beta1: said!(beta1).unwrap_or(0.9),
            beta2: said!(beta2).unwrap_or(usual.beta2),
            eps: said!(eps).unwrap_or(1e-8),
            clip: said!(clip).unwrap_or(1.0),
            dtype: said!(dtype).unwrap_or(DtypeName::F32),
            recompute: said!(recompute).unwrap_or(RecomputeName::None),
            seed: said!(seed).unwrap_or(1337),
            init_std: said!(init_std).unwrap_or(usual.init_std),
            val_every: said!(val_every).unwrap_or(usual.val_every),
            val_batches: said!(val_batches).unwrap_or(20),
            sample_every: said!(sample_every).unwrap_or(0),
            save_every: said!(save_every).unwrap_or(usual.save_every),
            keep: said!(keep).unwrap_or(2),
            hellaswag: said!(hellaswag),
            max_bad_steps: said!(max_bad_steps).unwrap_or(10),
            skip_loss_z: said!(skip_loss_z).unwrap_or(0.0),
            skip_grad_z: said!(skip_grad_z).unwrap_or(0.0),
            model,
        })
    }

    /// The settings of a run that goes on, with what may change: how far it goes, and what happens meanwhile.
    ///
    /// # Errors
    /// A flag that would make it another run.
    pub fn change(&self, old: &Settings) -> Result<Settings> {
        let mut new = old.clone();
        let of_step = old.tokens_per_step().max(1);
        new.steps = self.steps.or(self.tokens.map(|tokens| tokens.div_ceil(of_step))).unwrap_or(old.steps);
        new.val_every = self.val_every.unwrap_or(old.val_every);
        new.val_batches = self.val_batches.unwrap_or(old.val_batches);
        new.sample_every = self.sample_every.unwrap_or(old.sample_every);
        new.save_every = self.save_every.unwrap_or(old.save_every);
        new.keep = self.keep.unwrap_or(old.keep);
        new.max_bad_steps = self.max_bad_steps.unwrap_or(old.max_bad_steps);
        let changed = SettingsArgs {
            steps: None,
            tokens: None,
            val_every: None,
            val_batches: None,
            sample_every: None,
            save_every: None,
            keep: None,
            max_bad_steps: None,
            ..self.clone()
        };
        let given = serde_json::to_value(&changed).context("the flags")?;
        let names = given.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let names: Vec<String> = names.map(|(name, _)| format!("--{name}")).collect();
        if !names.is_empty() {
            bail!(
                "{}: cannot change in a run that is resumed; begin a new one from its checkpoint with --model RUN",
                names.join(", ")
            );
        }
        Ok(new)
    }
}
