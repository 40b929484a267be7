//! Prompts as a run's feed: the model answers them, the answers are judged, and their advantages are what is learnt.

use super::advantage::{advantages, differ};
use super::judging::{Group, Summary, end_tokens, judge};
use super::reference::Reference;
use super::rollout::{Drawing, draw};
use super::saved::Position;
use super::settings::{Mode, Settings};
use super::update::{Measures, Rules, Update};
use crate::data::{self, prompts::Prompts};
use crate::error::{Result, fail};
use crate::fit::Feed;
use crate::run::metrics::{Metrics, REWARD_MEAN, Row};
use crate::trainer::{self, Refused, Trainer};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use wootz_model::generate::SamplerOptions;
use wootz_rewards::Rewards;
use wootz_text::Tokenizer;

/// How often prompts are replaced in a step because nothing can be learnt from their answers.
const REFILLS: usize = 4;

/// Prompts to answer, and all that it takes to learn from it.
pub struct Answering {
    rules: Rules,
    drawing: Drawing,
    mode: Mode,
    iterations: u64,
    prompts_per_step: usize,
    refill: bool,
    val_prompts: usize,
    scale: super::advantage::Scale,
    verify: bool,
    prompts: Prompts,
    val: Option<Prompts>,
    rewards: Rewards,
    tokenizer: Arc<Tokenizer>,
    reference: Reference,
    /// `rollouts.jsonl`.
    log: Metrics,
    /// Of the answers that were drawn last. Never empty once there are some.
    updates: Vec<Update>,
    position: Position,
    /// Of the last drawing.
    drawn: Drawn,
    /// Of the last update; none where there was nothing to learn.
    measures: Option<Measures>,
    warnings: Vec<String>,
}

/// What came of drawing answers.
#[derive(Clone, Debug, Default)]
struct Drawn {
    summary: Summary,
    /// Prompts whose answers are all worth the same.
    same: usize,
    /// Prompts that others took the place of.
    refilled: usize,
    seconds: f64,
    tokens: usize,
}

/// What [`Answering::new`] needs.
pub struct Parts<'s> {
    /// The run's settings.
    pub settings: &'s Settings,
    /// To learn from.
    pub prompts: Prompts,
    /// To validate with.
    pub val: Option<Prompts>,
    /// What answers are worth.
    pub rewards: Rewards,
    /// Reads and writes texts.
    pub tokenizer: Arc<Tokenizer>,
    /// What the divergence is measured from.
    pub reference: Reference,
    /// Takes the answers.
    pub log: Metrics,
    /// Where to go on.
    pub position: Position,
}

impl Answering {
    /// Goes on from a position.
    ///
    /// # Errors
    /// A text that is to end answers and is no token.
    pub fn new(parts: Parts) -> Result<Answering> {
        let Parts { settings, prompts, val, rewards, tokenizer, reference, log, mut position } = parts;
        let rules = settings.rules();
        let updates = position.take_answers().into_iter().map(|some| Update::new(some, rules)).collect();
        let drawing = Drawing {
            group: settings.group_size,
            max_new_tokens: settings.max_new_tokens,
            sampler: settings.sampler(),
            end_tokens: end_tokens(&tokenizer, &settings.end)?,
            parallel: settings.parallel,
        };
        Ok(Answering {
            rules,
            drawing,
            mode: settings.mode,
            iterations: settings.iterations,
            prompts_per_step: settings.prompts_per_step,
            refill: settings.refill,
            val_prompts: settings.val_prompts,
            scale: settings.scale_rewards,
            verify: settings.verify_policy,
            prompts,
            val,
            rewards,
            tokenizer,
            reference,
            log,
            updates,
            position,
            drawn: Drawn::default(),
            measures: None,
            warnings: Vec::new(),
        })
    }

    /// Draws answers until there are enough groups to learn from.
    fn draw(&mut self, trainer: &mut Trainer, step: u64) -> Result<()> {
        let begun = Instant::now();
        let mut groups: Vec<Group> = Vec::new();
        let (mut same, mut tokens, mut rounds) = (Vec::new(), 0, 0);
        loop {
            let drawn = self.draw_some(trainer, self.prompts_per_step - groups.len())?;
            tokens +=
                drawn.iter().flat_map(|group| &group.answers).map(|answer| answer.ids.len()).sum::<usize>();
            let (different, others): (Vec<Group>, Vec<Group>) =
                drawn.into_iter().partition(|group| differ(&group.rewards()));
            groups.extend(different);
            same.extend(others);
            rounds += 1;
            if !self.refill || groups.len() == self.prompts_per_step || rounds > REFILLS {
                break;
            }
        }
        // Those that say nothing count in means where they were not replaced.
        let refilled = match self.refill {
            true => same.len().min(groups.len() + same.len() - self.prompts_per_step),
            false => 0,
        };
        let replaced = same.split_off(same.len() - refilled);
        let equal = same.len();
        groups.extend(same);
        let seconds = begun.elapsed().as_secs_f64();
        let names = self.rewards.names().to_vec();
        let rewards: Vec<Vec<f64>> = groups.iter().map(Group::rewards).collect();
        let advantages = advantages(&rewards, self.scale);
        for (group, advantages) in groups.iter().zip(&advantages) {
            group.lines(step, &names, advantages).iter().try_for_each(|line| self.log.append(line))?;
        }
        for group in &replaced {
            let none = vec![0.0; group.rewards().len()];
            group.lines(step, &names, &none).iter().try_for_each(|line| self.log.append(line))?;
        }
        self.log.sync()?;
        // Of all that was drawn: what is learnt from is better than some and worse than others by choice.
        let summary = Summary::new(groups.iter().chain(&replaced), &names);
        if let Some(first) = &summary.first_failure {
            if summary.judged == 0 {
                fail!("none of {} answers could be judged; the first: {first}", summary.failed);
            }
            self.warnings.push(format!("{} answers could not be judged; the first: {first}", summary.failed));
        }
        self.drawn = Drawn { summary, same: equal, refilled, seconds, tokens };
        let mut completions = Vec::new();
        for (group, advantages) in groups.into_iter().zip(advantages) {
            let judged = group.answers.into_iter().zip(group.scores).filter(|(_, score)| score.is_ok());
            completions.extend(judged.zip(advantages).map(|((mut answer, _), advantage)| {
                answer.advantage = advantage;
                answer
            }));
        }
        let rules = self.rules;
        self.updates = match self.mode {
            Mode::Lora | Mode::Accurate => vec![Update::new(completions, rules)],
            Mode::FullParam => completions.into_iter().map(|one| Update::new(vec![one], rules)).collect(),
        };
        if rules.loss.beta > 0.0 {
            let updates = &mut self.updates;
            self.reference.ask(trainer, |trainer| {
                updates.iter_mut().try_for_each(|update| update.set_reference(trainer))
            })?;
        }
        Ok(())
    }

    /// Answers to the next prompts.
    fn draw_some(&mut self, trainer: &Trainer, count: usize) -> Result<Vec<Group>> {
        let prompts = (0..count as u64)
            .map(|i| self.prompts.get(self.position.prompt + i, &self.tokenizer))
            .collect::<Result<Vec<_>>>()?;
        let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.tokens.clone()).collect();
        let answers = draw(&trainer.model, &ids, &self.drawing, self.position.stream)?;
        self.position.prompt += count as u64;
        self.position.stream += (count * self.drawing.group) as u64;
        Ok(judge(prompts, answers, &self.tokenizer, &self.drawing.end_tokens, &self.rewards))
    }

    /// The update that is due, of those that the answers last for.
    fn due(&self) -> usize {
        (self.position.update as usize + self.updates.len() - 1) % self.updates.len()
    }
}

impl Feed for Answering {
    fn step(&mut self, trainer: &mut Trainer, step: u64) -> Result<()> {
        if self.position.update == self.updates.len() as u64 * self.iterations {
            self.position.update = 0;
            self.draw(trainer, step + 1)?;
        }
        self.position.update += 1;
        Ok(())
    }

    fn batches(&self) -> &[data::Batch] {
        self.updates[self.due()].batches()
    }

    fn measure(&mut self, trainer: &mut Trainer) -> Result<trainer::Step> {
        self.measures = None;
        let update = &self.updates[self.due()];
        if update.batches().is_empty() {
            let refused = Some(Refused::NoSignal);
            return Ok(trainer::Step { loss: 0.0, targets: 0, grad_norm: 0.0, refused });
        }
        let fresh = self.position.update == 1;
        let (step, measures) = update.measure(trainer, fresh)?;
        if fresh && self.verify && measures.ratio_deviation != 0.0 {
            fail!(
                "an answer's probability was another one when it was drawn: a ratio is off by {:e}, and --verify-policy was \
                 given",
                measures.ratio_deviation
            );
        }
        self.measures = Some(measures);
        Ok(step)
    }

    fn add_metrics(&self, mut row: Row) -> Row {
        let Drawn { summary, same, refilled, seconds, tokens } = &self.drawn;
        if self.position.update == 1 {
            row = row
                .with(REWARD_MEAN, summary.mean)
                .with("reward_std", summary.deviation)
                .with("completion_tokens", summary.length)
                .with("truncated", summary.truncated)
                .with("groups_without_signal", *same as u64)
                .with("groups_refilled", *refilled as u64)
                .with("unjudged", summary.failed as u64)
                .with("rollout_seconds", *seconds)
                .with("rollout_tokens_per_second", *tokens as f64 / seconds.max(1e-9));
            for (name, mean) in &summary.parts {
                row = row.with(&format!("reward/{name}"), *mean);
            }
        }
        if let Some(measures) = &self.measures {
            row = row
                .with("entropy", measures.entropy)
                .with("clip_fraction", measures.clip_fraction)
                .with("max_ratio_deviation", measures.ratio_deviation);
            if self.rules.loss.beta > 0.0 {
                row = row.with("kl", measures.kl);
            }
        }
        row
    }

    fn note(&self) -> String {
        let summary = &self.drawn.summary;
        if summary.judged == 0 {
            return String::new(); // the run went on in the middle of what was drawn before
        }
        format!("reward {:.3}, {:.0} tokens an answer", summary.mean, summary.length)
    }

    fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn position(&self) -> Value {
        match self.position.update == self.updates.len() as u64 * self.iterations {
            true => json!(self.position.used_up()),
            false => json!(self.position.with_answers(self.updates.iter().map(Update::completions))),
        }
    }

    fn largest(&self) -> Result<Option<data::Batch>> {
        let longest = self.prompts.longest(&self.tokenizer)?;
        let length = longest + self.drawing.max_new_tokens - 1;
        let count = match self.mode {
            Mode::Lora | Mode::Accurate => self.rules.batch.min(self.prompts_per_step * self.drawing.group),
            Mode::FullParam => 1,
        };
        let mut targets = vec![data::IGNORED; longest - 1];
        targets.resize(length, 0);
        Ok(Some(data::Batch {
            inputs: vec![0; count * length],
            targets: targets.repeat(count),
            lengths: vec![length; count],
        }))
    }

    fn validate(&mut self, _: &mut dyn FnMut(&data::Batch) -> Result<()>) -> Result<bool> {
        Ok(false)
    }

    fn reward(&mut self, trainer: &mut Trainer) -> Result<Option<f64>> {
        let Some(val) = &self.val else { return Ok(None) };
        let count = val.count().unwrap_or(u64::MAX).min(self.val_prompts as u64);
        let prompts = (0..count).map(|index| val.get(index, &self.tokenizer)).collect::<Result<Vec<_>>>()?;
        let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.tokens.clone()).collect();
        let drawing = Drawing { group: 1, sampler: SamplerOptions::greedy(), ..self.drawing.clone() };
        let answers = draw(&trainer.model, &ids, &drawing, 0)?;
        let groups = judge(prompts, answers, &self.tokenizer, &drawing.end_tokens, &self.rewards);
        let summary = Summary::new(groups.iter(), self.rewards.names());
        Ok((summary.judged > 0).then_some(summary.mean))
    }
}
