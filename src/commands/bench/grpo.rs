//! `wootz bench grpo`: the time of a step of reinforcement, and where it goes.

use super::train::FormatArg;
use crate::commands::tuning;
use anyhow::{Result, bail};
use serde_json::json;
use std::time::Instant;
use wootz_kernels::rng::Rng;
use wootz_kernels::{Precision, pool};
use wootz_model::generate::SamplerOptions;
use wootz_model::load::LoadOptions;
use wootz_model::lora::{Adapter, LoraOptions, Scaling};
use wootz_model::{Model, Recompute};
use wootz_train::grpo::Reference;
use wootz_train::grpo::advantage::{Scale, advantages};
use wootz_train::grpo::objective::{Form, Loss};
use wootz_train::grpo::rollout::{Drawing, draw};
use wootz_train::grpo::update::{Completion, Rules, Update};
use wootz_train::optimizer::{Adam, Decay, Options, Rule};
use wootz_train::sft::targets;
use wootz_train::trainer::{Trained, Trainer};

/// Measure steps of reinforcement with an adapter, and where their time goes; every answer has as many tokens as it may
#[derive(Debug, clap::Args)]
pub struct GrpoBenchArgs {
    /// The model
    #[arg(long, value_name = "MODEL", default_value = "story")]
    model: String,
    /// Prompts of a step
    #[arg(long, value_name = "P", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4096))]
    prompts: u32,
    /// Answers to each
    #[arg(long, value_name = "G", default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=4096))]
    group_size: u32,
    /// Tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    prompt: u32,
    /// Tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    generate: u32,
    /// Answers of a forward pass with gradients
    #[arg(long, value_name = "B", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// What the divergence from the model as it was counts
    #[arg(long, value_name = "B", default_value_t = 0.04)]
    beta: f64,
    /// The adapter's rank
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    lora_rank: u32,
    /// The projections that it changes, as `wootz grpo` takes them
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "q,v")]
    lora_targets: Vec<String>,
    /// What products multiply
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    dtype: FormatArg,
    /// Steps that are timed; the median is reported. One more comes before them
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// Threads [default: one a physical core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Seconds of a step's parts.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    answers: f64,
    reference: f64,
    gradients: f64,
    update: f64,
}

impl Times {
    fn step(&self) -> f64 {
        self.answers + self.reference + self.gradients + self.update
    }
}

/// Runs the command.
pub fn run(args: &GrpoBenchArgs) -> Result<()> {
    let threads = args.threads.unwrap_or_else(pool::default_threads).max(1);
    let mut trainer = trainer(args, threads)?;
    let (group, generate) = (args.group_size as usize, args.generate as usize);
    let config = trainer.model.config().clone();
    if args.prompt as usize + generate > config.max_seq {
        bail!(
            "--prompt {} --generate {generate}: the model's longest sequence is {}",
            args.prompt,
            config.max_seq
        );
    }
    let sampler = SamplerOptions::default();
    let drawing = Drawing {
        group,
        max_new_tokens: generate,
        sampler: sampler.clone(),
        end_tokens: Vec::new(),
        parallel: (args.prompts as usize * group).max(1),
    };
    let loss = Loss { form: Form::Grpo, epsilon: 0.2, epsilon_high: 0.2, beta: args.beta };
    let rules = Rules {
        loss,
        scale: sampler.scale(),
        most_tokens: generate,
        batch: args.batch as usize,
        mask_truncated: false,
    };
    let mut rng = Rng::new(1, 0);
    let mut prompts = |count: u32| -> Vec<Vec<u32>> {
        let mut prompt =
            || (0..args.prompt).map(|_| (rng.next() % config.vocab_size as u64) as u32).collect();
        (0..count).map(|_| prompt()).collect()
    };
    let mut reference = Reference::Adapters(Vec::new());
    let mut times = Vec::new();
    for step in 0..=u64::from(args.steps) {
        let some = prompts(args.prompts);
        let one = one_step(&mut trainer, &some, &drawing, rules, &mut reference, step)?;
        if step > 0 {
            times.push(one);
        }
    }
    times.sort_by(|a, b| a.step().total_cmp(&b.step()));
    let median = times[times.len() / 2];

    // One answer at a time, to one prompt.
    let alone = Drawing { group: 1, parallel: 1, ..drawing };
    let some = prompts(2);
    let begun = Instant::now();
    draw(&trainer.model, &some, &alone, 0)?;
    let alone = (2 * generate) as f64 / begun.elapsed().as_secs_f64();
    let together = (args.prompts as usize * group * generate) as f64 / median.answers;
    report(args, &median, together, alone);
    Ok(())
}

fn trainer(args: &GrpoBenchArgs, threads: usize) -> Result<Trainer> {
    let path = crate::model_arg::resolve(Some(&args.model))?;
    let exact = args.dtype == FormatArg::F32;
    let precision = if exact { Precision::F32 } else { Precision::Native };
    let mut model = Model::load(&path, &LoadOptions { precision, threads })?;
    if !exact {
        tuning::convert(&mut model, args.dtype.format())?;
    }
    let options = LoraOptions {
        rank: args.lora_rank as usize,
        alpha: 32.0,
        scaling: Scaling::Rank,
        targets: targets(&args.lora_targets, &model.projections())?,
        magnitudes: false,
        dropout: 0.0,
        seed: 1,
    };
    let adapter = Adapter::new(model.config(), model.pool(), &options)?;
    model.put_on(adapter)?;
    let rule = Rule::AdamW(Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 });
    let options = Options { rule, weight_decay: 0.0, decay: Decay::Matrices };
    let trained = Trained::Adapter { beside: Vec::new() };
    let mut trainer = Trainer::new(model, options, args.dtype.format(), Recompute::None, Some(1.0), trained)?;
    trainer.measure_entropies();
    Ok(trainer)
}

fn one_step(
    trainer: &mut Trainer,
    prompts: &[Vec<u32>],
    drawing: &Drawing,
    rules: Rules,
    reference: &mut Reference,
    step: u64,
) -> Result<Times> {
    let mut last = Instant::now();
    let mut lap = || {
        let (now, before) = (Instant::now(), last);
        last = now;
        now.duration_since(before).as_secs_f64()
    };
    let answers = draw(&trainer.model, prompts, drawing, step << 32)?;
    let answers_time = lap();
    // Rewards that take no time: the share of even tokens.
    let reward = |answer: &Completion| {
        answer.ids.iter().filter(|id| **id % 2 == 0).count() as f64 / answer.ids.len() as f64
    };
    let rewards: Vec<Vec<f64>> = answers.iter().map(|group| group.iter().map(reward).collect()).collect();
    let advantages = advantages(&rewards, Scale::Group).concat();
    let completions = answers.into_iter().flatten().zip(advantages);
    let completions = completions.map(|(answer, advantage)| Completion { advantage, ..answer }).collect();
    let mut update = Update::new(completions, rules);
    if rules.loss.beta > 0.0 {
        reference.ask(trainer, |trainer| update.set_reference(trainer))?;
    }
    let reference = lap();
    let (measured, measures) = update.measure(trainer, true)?;
    if measures.ratio_deviation != 0.0 {
        bail!(
            "answers have other probabilities in training: a ratio is off by {:e}",
            measures.ratio_deviation
        );
    }
    let gradients = lap();
    trainer.update(&measured, 1e-4)?;
    Ok(Times { answers: answers_time, reference, gradients, update: lap() })
}

fn report(args: &GrpoBenchArgs, times: &Times, together: f64, alone: f64) {
    let step = times.step();
    if args.json {
        let result = json!({
            "model": args.model,
            "prompts": args.prompts,
            "group_size": args.group_size,
            "prompt_tokens": args.prompt,
            "answer_tokens": args.generate,
            "dtype": format!("{:?}", args.dtype).to_lowercase(),
            "step_seconds": step,
            "answers_seconds": times.answers,
            "reference_seconds": times.reference,
            "gradients_seconds": times.gradients,
            "update_seconds": times.update,
            "answer_tokens_per_second": together,
            "answer_tokens_per_second_alone": alone,
        });
        println!("{result}");
        return;
    }
    println!(
        "{} {:?}, {} prompts of {} tokens, {} answers of {} tokens each: {step:.3} s a step, {:.1} steps a minute",
        args.model,
        args.dtype,
        args.prompts,
        args.prompt,
        args.group_size,
        args.generate,
        60.0 / step
    );
    let parts = [
        ("answers", times.answers),
        ("reference", times.reference),
        ("forward and backward", times.gradients),
        ("update", times.update),
    ];
    for (name, seconds) in parts {
        println!("  {name:24} {:>8.1} ms {:>4.0} %", seconds * 1e3, 100.0 * seconds / step);
    }
    println!("  answers at {together:.0} tokens/s, one alone at {alone:.0}: {:.1} times", together / alone);
}
