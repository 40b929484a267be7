//! The flags of `wootz grpo`, the file that may hold them, and what they are when nobody says.

use crate::commands::flags::parse_name;
use crate::commands::settings::{
    LearningArgs, MeanwhileArgs, UsualLearning, UsualMeanwhile, from_file, refuse_changes,
};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use wootz_train::data::prompts::Built;
use wootz_train::fit::DtypeName;
use wootz_train::grpo::advantage::Scale;
use wootz_train::grpo::objective::Form;
use wootz_train::grpo::{Mode, Settings};

/// Every setting, if it was given. The file of `--config` has the same names.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SettingsArgs {
    /// The model: a folder, a .gguf (which stays quantised), a run, or an id of the hub [default: the built-in story model]
    #[arg(value_name = "MODEL")]
    pub model: Option<String>,
    /// Prompts: .jsonl or .parquet with `prompt` or `messages`, and what the reward asks for. Files, folders or patterns; may be
    /// given several times
    #[arg(long, value_name = "F", help_heading = "Data")]
    data: Option<Vec<String>>,
    /// The same, to validate with [default: a share of the data, or the task's own]
    #[arg(long, value_name = "F", help_heading = "Data")]
    val_data: Option<Vec<String>>,
    /// The share of prompts that is held out to validate with [default: 0.05]
    #[arg(long, value_name = "F", conflicts_with = "val_data", help_heading = "Data")]
    val_share: Option<f64>,
    /// A built-in task in place of data: heroes, arithmetic, copy, sort, brackets or letters [default, without data: heroes]
    #[arg(long, value_name = "NAME", conflicts_with = "data", help_heading = "Data")]
    task: Option<String>,
    /// How hard its problems are: 1 to 9
    #[arg(long, value_name = "N", help_heading = "Data")]
    level: Option<u8>,
    /// What an answer is worth: `exact`, `contains:TEXT`, `regex:PATTERN`, `numeric`, `command:PROGRAM`, `http://…`, or a TOML
    /// file (docs/rewards.md) [default: the task's own]
    #[arg(long, value_name = "SPEC", help_heading = "Data")]
    reward: Option<String>,
    /// Take this chat template (a Jinja file) in place of the model's own
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    template: Option<PathBuf>,
    /// Leave out lines that are no prompts, and count them
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "Data")]
    skip_bad: Option<bool>,
    /// Tokens of a prompt, at the most; longer ones are left out
    #[arg(long, value_name = "N", help_heading = "Data")]
    max_prompt_tokens: Option<usize>,

    /// Answers to a prompt, which are compared with each other
    #[arg(long, value_name = "G", help_heading = "Answers")]
    group_size: Option<usize>,
    /// Prompts of a step
    #[arg(long, value_name = "P", help_heading = "Answers")]
    prompts_per_step: Option<usize>,
    /// Tokens of an answer, at the most [default: 256, or half of the model's longest sequence; fewer for built-in tasks]
    #[arg(long, short = 'n', value_name = "N", help_heading = "Answers")]
    max_new_tokens: Option<usize>,
    /// Divides logits before answers are drawn
    #[arg(long, short = 't', value_name = "T", help_heading = "Answers")]
    temperature: Option<f32>,
    /// Draw from the K most likely tokens; 0: from all
    #[arg(long, value_name = "K", help_heading = "Answers")]
    top_k: Option<usize>,
    /// Draw from the most likely tokens up to this share of the probability
    #[arg(long, value_name = "P", help_heading = "Answers")]
    top_p: Option<f32>,
    /// A token that ends an answer, beside the model's own, as text; may be given several times
    #[arg(long, value_name = "TEXT", help_heading = "Answers")]
    end: Option<Vec<String>>,
    /// Answers that are drawn at once
    #[arg(long, value_name = "N", help_heading = "Answers")]
    parallel: Option<usize>,
    /// Draw answers to further prompts in place of groups whose rewards are all equal
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "Answers")]
    refill: Option<bool>,
    /// Problems that a validation asks, answered greedily
    #[arg(long, value_name = "N", help_heading = "Answers")]
    val_prompts: Option<usize>,

    /// Updates of the weights
    #[arg(long, value_name = "N", help_heading = "Steps")]
    steps: Option<u64>,
    /// Answers of a forward pass
    #[arg(long, value_name = "B", help_heading = "Steps")]
    batch: Option<usize>,
    /// Updates with the same answers
    #[arg(long, value_name = "MU", help_heading = "Steps")]
    iterations: Option<u64>,
    /// The loss: grpo, bnpo, dr_grpo, dapo, cispo or gspo
    #[arg(long, value_name = "FORM", value_parser = parse_name::<Form>, help_heading = "Loss")]
    loss: Option<Form>,
    /// How far below 1 a ratio of probabilities counts
    #[arg(long, value_name = "E", help_heading = "Loss")]
    epsilon: Option<f64>,
    /// How far above 1 [default: --epsilon; 4 for cispo]
    #[arg(long, value_name = "E", help_heading = "Loss")]
    epsilon_high: Option<f64>,
    /// What the divergence from the model as it was counts; 0: nothing
    #[arg(long, value_name = "B", help_heading = "Loss")]
    beta: Option<f64>,
    /// What rewards are divided by: their deviation in the `group` or the `batch`, or `none`
    #[arg(long, value_name = "BY", value_parser = parse_name::<Scale>, help_heading = "Loss")]
    scale_rewards: Option<Scale>,
    /// Do not learn from answers that were cut short
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "Loss")]
    mask_truncated: Option<bool>,
    /// Fail if an answer's probability is another one in training than when it was drawn
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "Safety")]
    verify_policy: Option<bool>,

    /// Move all weights, after each answer, by plain gradient descent: takes little memory
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "What learns")]
    full_param: Option<bool>,
    /// Move all weights, after all answers of a step
    #[arg(long, num_args = 0..=1, default_missing_value = "true", conflicts_with = "full_param", help_heading = "What learns")]
    accurate: Option<bool>,
    /// The adapter's rank
    #[arg(long, value_name = "R", help_heading = "What learns")]
    lora_rank: Option<usize>,
    /// The adapter's alpha: its change is scaled by alpha / rank [default: twice the rank]
    #[arg(long, value_name = "A", help_heading = "What learns")]
    lora_alpha: Option<f32>,
    /// The projections that it changes: `all`, `attention`, `mlp`, or some of q,k,v,o,gate,up,down
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "What learns")]
    lora_targets: Option<Vec<String>>,
    /// Scale by alpha / sqrt(rank): "rsLoRA"
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = "What learns")]
    rslora: Option<bool>,
    /// Go on with this adapter instead of a new one
    #[arg(long, value_name = "A", conflicts_with_all = ["full_param", "accurate", "lora_rank", "lora_alpha", "lora_targets", "rslora"], help_heading = "What learns")]
    adapter: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    learning: LearningArgs,
    #[command(flatten)]
    #[serde(flatten)]
    meanwhile: MeanwhileArgs,
}

/// What nobody needs to say of a task.
struct Usual {
    max_new_tokens: usize,
    prompts: usize,
    group: usize,
    lr: f64,
    end: Vec<String>,
}

impl SettingsArgs {
    /// Flags first, then the file, then what nobody needs to say. `dtype` is what products of the model usually multiply,
    /// `longest` its longest sequence.
    ///
    /// # Errors
    /// A file that cannot be read, or has a name that is no setting's; data without a reward.
    pub fn resolve(
        &self,
        file: Option<&Path>,
        dtype: impl Fn(&str) -> Result<DtypeName>,
        longest: impl Fn(&str) -> Result<usize>,
    ) -> Result<Settings> {
        let file: SettingsArgs = from_file(file, "grpo")?;
        let flags = self;
        macro_rules! said {
            ($name:ident) => {
                flags.$name.clone().or_else(|| file.$name.clone())
            };
        }
        let model = said!(model).unwrap_or_else(|| "story".to_owned());
        let data = said!(data).unwrap_or_default();
        let task = match said!(task) {
            None if data.is_empty() => Some(Built::Heroes.name().to_owned()),
            task => task,
        };
        let built = task.as_deref().map(str::parse::<Built>).transpose()?;
        let Some(reward) = said!(reward).or_else(|| task.clone()) else {
            bail!(
                "no reward: say what an answer is worth with --reward, for example `numeric` for lines with an `answer`, or a \
                 TOML file (docs/rewards.md)"
            )
        };
        let mode = match (said!(full_param).unwrap_or(false), said!(accurate).unwrap_or(false)) {
            (false, false) => Mode::Lora,
            (true, false) => Mode::FullParam,
            (false, true) => Mode::Accurate,
            (true, true) => bail!("full-param and accurate are two ways to move all weights; choose one"),
        };
        let usual = match built {
            Some(Built::Heroes) => {
                Usual { max_new_tokens: 48, prompts: 8, group: 8, lr: 3e-4, end: Vec::new() }
            }
            Some(Built::Puzzle(_)) => {
                Usual { max_new_tokens: 32, prompts: 8, group: 8, lr: 1e-4, end: vec!["\n".to_owned()] }
            }
            None => Usual { max_new_tokens: 256, prompts: 4, group: 4, lr: 1e-5, end: Vec::new() },
        };
        let max_new_tokens = match (said!(max_new_tokens), built) {
            (Some(count), _) => count,
            (None, Some(_)) => usual.max_new_tokens,
            // Half of what the model can read is for the prompt.
            (None, None) => usual.max_new_tokens.min(longest(&model)? / 2).max(1),
        };
        let heroes = built == Some(Built::Heroes);
        let form = said!(loss).unwrap_or(Form::Grpo);
        let epsilon = said!(epsilon).unwrap_or(0.2);
        let rank = said!(lora_rank).unwrap_or(16);
        let steps = said!(steps).unwrap_or(if heroes { 40 } else { 100 });
        let learning =
            UsualLearning { lr: usual.lr, warmup: 0, weight_decay: 0.0, beta2: 0.999, dtype: dtype(&model)? };
        let mut learning = flags.learning.resolve(&file.learning, steps, &learning);
        if said_schedule(flags, &file).is_none() {
            "constant".clone_into(&mut learning.schedule);
        }
        if mode == Mode::FullParam && flags.learning.optimizer.or(file.learning.optimizer).is_none() {
            learning.optimizer = wootz_train::fit::OptimizerName::Sgd;
            if flags.learning.beta1.or(file.learning.beta1).is_none() {
                learning.beta1 = 0.0;
            }
        }
        let often = UsualMeanwhile { val_every: 10, val_batches: 50, save_every: 50 };
        let val_data = said!(val_data).unwrap_or_default();
        let no_share = task.is_some() || !val_data.is_empty();
        Ok(Settings {
            val_share: if no_share { 0.0 } else { said!(val_share).unwrap_or(0.05) },
            data,
            val_data,
            task,
            level: said!(level).unwrap_or(1),
            reward,
            template: said!(template),
            skip_bad: said!(skip_bad).unwrap_or(false),
            max_prompt_tokens: said!(max_prompt_tokens).unwrap_or(1024),
            group_size: said!(group_size).unwrap_or(usual.group),
            prompts_per_step: said!(prompts_per_step).unwrap_or(usual.prompts),
            max_new_tokens,
            temperature: said!(temperature).unwrap_or(1.0),
            top_k: said!(top_k).unwrap_or(0),
            top_p: said!(top_p).unwrap_or(1.0),
            end: said!(end).unwrap_or(usual.end),
            parallel: said!(parallel).unwrap_or(64),
            refill: said!(refill).unwrap_or(false),
            val_prompts: said!(val_prompts).unwrap_or(64),
            mode,
            loss: form,
            iterations: said!(iterations).unwrap_or(1),
            epsilon,
            epsilon_high: said!(epsilon_high).unwrap_or(if form == Form::Cispo { 4.0 } else { epsilon }),
            // A story that says nothing but a name is a bad one.
            beta: said!(beta).unwrap_or(if heroes { 0.05 } else { 0.0 }),
            scale_rewards: said!(scale_rewards).unwrap_or(Scale::Group),
            mask_truncated: said!(mask_truncated).unwrap_or(false),
            batch: said!(batch).unwrap_or(8),
            verify_policy: said!(verify_policy).unwrap_or(false),
            lora_rank: rank,
            lora_alpha: said!(lora_alpha).unwrap_or(2.0 * rank as f32),
            lora_targets: said!(lora_targets).unwrap_or_else(|| vec!["all".to_owned()]),
            rslora: said!(rslora).unwrap_or(false),
            adapter: said!(adapter),
            learning,
            meanwhile: flags.meanwhile.resolve(&file.meanwhile, &often),
            model,
        })
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

fn said_schedule(flags: &SettingsArgs, file: &SettingsArgs) -> Option<String> {
    flags.learning.schedule.clone().or_else(|| file.learning.schedule.clone())
}
