//! The flags of `wootz sft`, the file that may hold them, and what they are when nobody says.

use crate::commands::flags::parse_name;
use crate::commands::settings::{
    LearningArgs, MeanwhileArgs, UsualLearning, UsualMeanwhile, from_file, refuse_changes,
};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use wootz_train::data::Order;
use wootz_train::data::samples::{TrainOn, Truncation};
use wootz_train::fit::DtypeName;
use wootz_train::sft::Settings;

/// Every setting, if it was given. The file of `--config` has the same names.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SettingsArgs {
    /// The model to tune: a folder, a .gguf (which stays quantised), a run, or an id of the hub; `story` is built in
    #[arg(value_name = "MODEL")]
    pub model: Option<String>,
    /// Samples: .jsonl with `messages`, `prompt` and `completion`, or `text`; .parquet; token ids in .safetensors or .bin.
    /// Files, folders or patterns; may be given several times
    #[arg(long, value_name = "F", help_heading = "Data")]
    data: Option<Vec<String>>,
    /// The same, to validate with [default: a share of the data]
    #[arg(long, value_name = "F", help_heading = "Data")]
    val_data: Option<Vec<String>>,
    /// The share of samples that is held out to validate with [default: 0.05, where there are 20 samples or more]
    #[arg(long, value_name = "F", conflicts_with = "val_data", help_heading = "Data")]
    val_share: Option<f64>,
    /// What is learnt: `assistant`, every turn of it; `completion`, the last one; or `all`
    #[arg(long, value_name = "WHAT", value_parser = parse_name::<TrainOn>, help_heading = "Data")]
    train_on: Option<TrainOn>,
    /// Tokens of a sample, at the most
    #[arg(long, value_name = "N", help_heading = "Data")]
    max_tokens: Option<usize>,
    /// What is done with a longer one: cut at its `end` or `start`, `drop` or `refuse`
    #[arg(long, value_name = "WHAT", value_parser = parse_name::<Truncation>, help_heading = "Data")]
    truncation: Option<Truncation>,
    /// Take this chat template (a Jinja file) in place of the model's own
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    template: Option<PathBuf>,
    /// Leave out what cannot be read, and count it
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "Data")]
    skip_bad: Option<bool>,
    /// `shuffled`, or `sequential`
    #[arg(long, value_name = "ORDER", value_parser = parse_name::<Order>, help_heading = "Data")]
    order: Option<Order>,
    /// Bring samples of about one length together, out of each N
    #[arg(long, value_name = "N", help_heading = "Data")]
    by_length: Option<usize>,
    /// Samples of a forward pass
    #[arg(long, value_name = "B", help_heading = "Steps")]
    batch: Option<usize>,
    /// Fill a forward pass with samples of N tokens together, in place of --batch
    #[arg(long, value_name = "N", conflicts_with = "batch", help_heading = "Steps")]
    batch_tokens: Option<usize>,
    /// Forward passes of a step
    #[arg(long, value_name = "N", help_heading = "Steps")]
    accumulate: Option<usize>,
    /// Optimiser steps
    #[arg(long, value_name = "N", help_heading = "Steps")]
    steps: Option<u64>,
    /// Times that all samples are seen, in place of --steps
    #[arg(long, value_name = "N", conflicts_with = "steps", help_heading = "Steps")]
    pub epochs: Option<u64>,
    /// Move all weights, and not an adapter
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "What learns")]
    full: Option<bool>,
    /// The adapter's rank
    #[arg(long, value_name = "R", help_heading = "What learns")]
    lora_rank: Option<usize>,
    /// The adapter's alpha: its change is scaled by alpha / rank [default: twice the rank]
    #[arg(long, value_name = "A", help_heading = "What learns")]
    lora_alpha: Option<f32>,
    /// The projections that it changes: `all`, `attention`, `mlp`, or some of q,k,v,o,gate,up,down
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "What learns")]
    lora_targets: Option<Vec<String>>,
    /// Share of a projection's inputs that is left out at random [default: 0, or what the file of --adapter says]
    #[arg(long, value_name = "P", help_heading = "What learns")]
    lora_dropout: Option<f32>,
    /// Scale by alpha / sqrt(rank): "rsLoRA"
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "What learns")]
    rslora: Option<bool>,
    /// Learn the lengths of weights beside their directions: "DoRA"
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "What learns")]
    dora: Option<bool>,
    /// Go on with this adapter instead of a new one
    #[arg(long, value_name = "A", conflicts_with_all = ["full", "lora_rank", "lora_alpha", "lora_targets", "rslora", "dora"], help_heading = "What learns")]
    adapter: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    learning: LearningArgs,
    #[command(flatten)]
    #[serde(flatten)]
    meanwhile: MeanwhileArgs,
}

impl SettingsArgs {
    /// Flags first, then the file, then what nobody needs to say. `dtype` is what products of the model usually
    /// multiply. Steps are 0 where they follow from the samples: see [`Asked::steps`].
    ///
    /// # Errors
    /// A file that cannot be read, or has a name that is no setting's; no model, or no data.
    pub fn resolve(&self, file: Option<&Path>, dtype: impl Fn(&str) -> Result<DtypeName>) -> Result<Asked> {
        let file: SettingsArgs = from_file(file, "sft")?;
        let flags = self;
        macro_rules! said {
            ($name:ident) => {
                flags.$name.clone().or_else(|| file.$name.clone())
            };
        }
        let Some(model) = said!(model) else {
            bail!(
                "no model to tune: name one, as in `wootz sft Qwen/Qwen3-0.6B --data samples.jsonl`; `story` is built in"
            )
        };
        let Some(data) = said!(data).filter(|data| !data.is_empty()) else {
            bail!(
                "no samples: give --data FILE, for example lines of {{\"prompt\": \"…\", \"completion\": \"…\"}} in a .jsonl"
            )
        };
        let full = said!(full).unwrap_or(false);
        let rank = said!(lora_rank).unwrap_or(16);
        let usual = UsualLearning {
            lr: if full { 2e-5 } else { 2e-4 },
            warmup: 100,
            weight_decay: 0.0,
            beta2: 0.999,
            dtype: dtype(&model)?,
        };
        let often = UsualMeanwhile { val_every: 50, val_batches: 50, save_every: 100 };
        let steps = said!(steps);
        let settings = Settings {
            data,
            val_data: said!(val_data).unwrap_or_default(),
            val_share: said!(val_share).unwrap_or(0.0),
            train_on: said!(train_on).unwrap_or_default(),
            max_tokens: said!(max_tokens).unwrap_or(USUAL_TOKENS),
            truncation: said!(truncation).unwrap_or_default(),
            template: said!(template),
            skip_bad: said!(skip_bad).unwrap_or(false),
            batch: said!(batch).unwrap_or(4),
            batch_tokens: said!(batch_tokens).unwrap_or(0),
            accumulate: said!(accumulate).unwrap_or(1),
            order: said!(order).unwrap_or(Order::Shuffled),
            by_length: said!(by_length).unwrap_or(0),
            full,
            lora_rank: rank,
            lora_alpha: said!(lora_alpha).unwrap_or(2.0 * rank as f32),
            lora_targets: said!(lora_targets).unwrap_or_else(|| vec!["all".to_owned()]),
            lora_dropout: said!(lora_dropout).unwrap_or(0.0),
            rslora: said!(rslora).unwrap_or(false),
            dora: said!(dora).unwrap_or(false),
            adapter: said!(adapter),
            learning: flags.learning.resolve(&file.learning, steps.unwrap_or(u64::MAX), &usual),
            meanwhile: flags.meanwhile.resolve(&file.meanwhile, &often),
            model,
        };
        let warmup = flags.learning.warmup.or(file.learning.warmup);
        let val_share = said!(val_share);
        let (max_tokens, lora_dropout) = (said!(max_tokens), said!(lora_dropout));
        let epochs = said!(epochs).unwrap_or(1);
        Ok(Asked { settings, steps, epochs, warmup, val_share, max_tokens, lora_dropout })
    }

    /// The settings of a run that goes on, with what may change: how far it goes, and what happens meanwhile.
    ///
    /// # Errors
    /// A flag that would make it another run.
    pub fn change(&self, old: &Settings) -> Result<Settings> {
        let (mut new, mut flags) = (old.clone(), self.clone());
        new.learning.steps = flags.steps.take().unwrap_or(old.learning.steps);
        new.meanwhile = flags.meanwhile.change(&old.meanwhile);
        refuse_changes(&flags)?;
        Ok(new)
    }
}

/// What was asked for, as far as it is known before the samples are read.
pub struct Asked {
    pub settings: Settings,
    steps: Option<u64>,
    epochs: u64,
    warmup: Option<u64>,
    val_share: Option<f64>,
    max_tokens: Option<usize>,
    pub lora_dropout: Option<f32>,
}

/// Tokens of a sample, at the most, where nobody says.
const USUAL_TOKENS: usize = 1024;

impl Asked {
    /// Holds samples to what the model was made for: `max_seq` tokens that are read, and one more that is a target alone.
    ///
    /// # Errors
    /// Longer ones were asked for.
    pub fn fit(&mut self, max_seq: usize) -> Result<()> {
        let longest = max_seq.saturating_add(1);
        match self.max_tokens {
            Some(asked) if asked > longest => {
                bail!(
                    "--max-tokens {asked}: the model's longest sequence is {max_seq}; expected at most {longest}"
                )
            }
            Some(_) => {}
            None => self.settings.max_tokens = USUAL_TOKENS.min(longest),
        }
        Ok(())
    }

    /// Completes the settings: there are so many samples, and so many steps to an epoch's number.
    pub fn complete(
        self,
        samples: usize,
        steps_of: impl Fn(&Settings, u64) -> Result<u64>,
    ) -> Result<Settings> {
        /// With fewer samples, one of them is too much to give up unasked.
        const ENOUGH: usize = 20;
        let Asked { mut settings, steps, epochs, warmup, val_share, .. } = self;
        if settings.val_data.is_empty() {
            settings.val_share = val_share.unwrap_or(if samples >= ENOUGH { 0.05 } else { 0.0 });
        }
        let steps = match steps {
            Some(steps) => steps,
            None => steps_of(&settings, epochs)?,
        };
        settings.learning.steps = steps;
        settings.learning.warmup = warmup.unwrap_or((steps / 10).min(100));
        Ok(settings)
    }
}
