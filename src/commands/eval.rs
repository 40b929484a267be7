//! `wootz eval`: how well a model answers.

use super::answer::note;
use super::device::{DeviceArgs, report_fallbacks};
use super::flags::{AdapterArgs, PrecisionArg};
use super::prompts::{read_prompts, rewards};
use super::tuning;
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Instant;
use wootz_kernels::pool;
use wootz_model::Model;
use wootz_model::generate::SamplerOptions;
use wootz_model::load::LoadOptions;
use wootz_rewards::Split;
use wootz_train::data::prompts::{Built, Prompt, Prompts, ReadOptions};
use wootz_train::grpo::judging::{Group, Summary, end_tokens, judge};
use wootz_train::grpo::rollout::{Drawing, draw};

/// Have a model answer problems, and judge its answers: mean reward, share that is right, pass@k
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// The model [default: the built-in story model]
    model: Option<String>,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// A built-in task: heroes, arithmetic, copy, sort, brackets or letters. Its problems are those that `wootz grpo` never
    /// learns from [default, without data: heroes]
    #[arg(long, value_name = "NAME", conflicts_with = "data")]
    task: Option<String>,
    /// How hard its problems are: 1 to 9
    #[arg(long, value_name = "N", default_value_t = 1)]
    level: u8,
    /// Problems: .jsonl or .parquet with `prompt` or `messages`, and what the reward asks for; may be given several times
    #[arg(long, value_name = "F")]
    data: Vec<String>,
    /// What an answer is worth, as in `wootz grpo` [default: the task's own]
    #[arg(long, value_name = "SPEC")]
    reward: Option<String>,
    /// Problems, at the most
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Answers to each: more than one are drawn, one is greedy unless there is a temperature
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    samples: u32,
    /// Divides logits before answers are drawn [default: 1; 0 with one answer to each]
    #[arg(short = 't', long, value_name = "T")]
    temperature: Option<f32>,
    /// Draw from the most likely tokens up to this share of the probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// An answer is right if its reward is at least this
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    right: f64,
    /// Tokens of an answer, at the most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// A token that ends an answer, beside the model's own, as text; may be given several times [default for puzzles: a line's
    /// end]
    #[arg(long, value_name = "TEXT")]
    end: Option<Vec<String>>,
    /// Answers that are drawn at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    parallel: u32,
    /// Take this chat template (a Jinja file) in place of the model's own
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Leave out lines that are no prompts, and count them
    #[arg(long)]
    skip_bad: bool,
    /// Show so many answers
    #[arg(long, value_name = "N", default_value_t = 3)]
    show: usize,
    /// Makes problems and answers
    #[arg(long, value_name = "N", default_value_t = 1337)]
    seed: u64,
    /// f32: inputs are never rounded to the precision of the weights
    #[arg(long, default_value = "auto")]
    dtype: PrecisionArg,
    /// Threads; they change no answer [default: one a physical core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// Problems that are answered together.
const BATCH: usize = 256;

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    let task = match (&args.task, args.data.is_empty()) {
        (None, true) => Some(Built::Heroes),
        (None, false) => None,
        (Some(name), _) => Some(name.parse::<Built>()?),
    };
    let Some(spec) = args.reward.as_deref().or(task.map(Built::name)) else {
        bail!("no reward: say what an answer is worth with --reward, for example `exact` (docs/rewards.md)")
    };
    let rewards = rewards(task, spec)?;
    let path = crate::model_arg::resolve(args.model.as_deref())?;
    let tokenizer = tuning::tokenizer(&path, args.template.as_deref())?;
    let threads = args.threads.unwrap_or_else(pool::default_threads).max(1);
    let mut model = Model::load(&path, &LoadOptions { precision: args.dtype.precision(), threads })?;
    args.device.place(&mut model)?;
    args.adapters.put_on(&mut model)?;
    let prompts = match task {
        Some(task) => {
            let of = Prompts::Generated { task, level: args.level, split: Split::Test, seed: args.seed };
            (0..u64::from(args.count)).map(|i| of.get(i, &tokenizer)).collect::<Result<Vec<_>, _>>()?
        }
        None => {
            let room = model.config().max_seq.saturating_sub(args.max_new_tokens as usize);
            let options = ReadOptions { max_tokens: room, skip_bad: args.skip_bad };
            let mut prompts = read_prompts(&args.data, &tokenizer, &rewards, options)?;
            prompts.truncate(args.count as usize);
            prompts
        }
    };
    let usual_end = match task {
        Some(Built::Puzzle(_)) => vec!["\n".to_owned()],
        Some(Built::Heroes) | None => Vec::new(),
    };
    let temperature = args.temperature.unwrap_or(if args.samples > 1 { 1.0 } else { 0.0 });
    let sampler =
        SamplerOptions { temperature, top_p: args.top_p, seed: args.seed, ..SamplerOptions::default() };
    let drawing = Drawing {
        group: args.samples as usize,
        max_new_tokens: args.max_new_tokens as usize,
        sampler,
        end_tokens: end_tokens(&tokenizer, args.end.as_ref().unwrap_or(&usual_end))?,
        parallel: args.parallel as usize,
    };
    let begun = Instant::now();
    let mut groups: Vec<Group> = Vec::new();
    for (i, some) in prompts.chunks(BATCH).enumerate() {
        let ids: Vec<Vec<u32>> = some.iter().map(|prompt: &Prompt| prompt.tokens.clone()).collect();
        let answers = draw(&model, &ids, &drawing, (i * BATCH * drawing.group) as u64)?;
        groups.extend(judge(some.to_vec(), answers, &tokenizer, &drawing.end_tokens, &rewards));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let summary = Summary::new(groups.iter(), rewards.names());
    if let Some(first) = &summary.first_failure {
        note(&format!("{} answers could not be judged; the first: {first}", summary.failed));
    }
    if summary.judged == 0 {
        bail!("none of the answers could be judged");
    }
    report(args, spec, &groups, &summary, seconds);
    report_fallbacks(&model);
    Ok(())
}

/// Of every group, how many answers there are and how many are right.
fn right(groups: &[Group], least: f64) -> Vec<(usize, usize)> {
    let of = |group: &Group| {
        let rewards = group.rewards();
        (rewards.len(), rewards.iter().filter(|reward| **reward >= least).count())
    };
    groups.iter().map(of).filter(|(count, _)| *count > 0).collect()
}

/// The chance that one of `k` answers is right, where `right` of `count` are: 1 - C(count - right, k) / C(count, k)
/// (Chen et al. 2021).
fn pass_at(k: usize, count: usize, right: usize) -> f64 {
    let wrong = count - right;
    if wrong < k {
        return 1.0;
    }
    // C(wrong, k) / C(count, k), factor by factor.
    1.0 - (0..k).map(|i| (wrong - i) as f64 / (count - i) as f64).product::<f64>()
}

fn report(args: &EvalArgs, spec: &str, groups: &[Group], summary: &Summary, seconds: f64) {
    let counts = right(groups, args.right);
    let fewest = counts.iter().map(|(count, _)| *count).min().unwrap_or(0);
    let ks = std::iter::successors(Some(1), |k| Some(2 * k)).take_while(|k| *k <= fewest);
    let passes: Vec<(usize, f64)> = ks
        .map(|k| {
            (
                k,
                counts.iter().map(|&(count, right)| pass_at(k, count, right)).sum::<f64>()
                    / counts.len() as f64,
            )
        })
        .collect();
    if args.json {
        let passes: Map<String, Value> =
            passes.iter().map(|(k, share)| (k.to_string(), json!(share))).collect();
        let parts: Map<String, Value> =
            summary.parts.iter().map(|(name, mean)| (name.clone(), json!(mean))).collect();
        let result = json!({
            "reward": spec,
            "problems": groups.len(),
            "answers": summary.judged,
            "unjudged": summary.failed,
            "reward_mean": summary.mean,
            "reward_std": summary.deviation,
            "parts": parts,
            "pass_at": passes,
            "tokens_an_answer": summary.length,
            "truncated": summary.truncated,
            "seconds": seconds,
        });
        println!("{result}");
        return;
    }
    for group in groups.iter().take(args.show) {
        let (text, score) = (group.texts.first(), group.scores.first());
        let worth = match score {
            Some(Ok(score)) => format!("{:.2}", score.total),
            Some(Err(_)) | None => "?".to_owned(),
        };
        println!("--- {worth}\n{}|{}", group.prompt.text, text.map_or("", |text| text.trim_end()));
    }
    println!(
        "---\n{} problems, {} answers in {seconds:.1} s, {:.0} tokens each",
        groups.len(),
        summary.judged,
        summary.length
    );
    println!("mean reward {:.4} (deviation {:.4})", summary.mean, summary.deviation);
    for (name, mean) in summary.parts.iter().filter(|_| summary.parts.len() > 1) {
        println!("  {name:<24} {mean:.4}");
    }
    for (k, share) in passes {
        println!("pass@{k:<3} {:.1} %", 100.0 * share);
    }
}

#[cfg(test)]
mod tests {
    use super::pass_at;

    /// Every choice of k of the answers, counted.
    #[test]
    fn pass_at_k_is_the_share_of_choices_with_a_right_answer() {
        for count in 1..=7usize {
            for right in 0..=count {
                for k in 1..=count {
                    let choices = (0u32..1 << count).filter(|choice| choice.count_ones() as usize == k);
                    // The first `right` answers are right.
                    let (all, good) = choices.fold((0, 0), |(all, good), choice| {
                        (all + 1, good + u32::from(choice & ((1 << right) - 1) != 0))
                    });
                    let expected = f64::from(good) / f64::from(all);
                    assert!((pass_at(k, count, right) - expected).abs() < 1e-12, "{count} {right} {k}");
                }
            }
        }
    }
}
