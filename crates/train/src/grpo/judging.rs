//! What answers are worth: their text goes to the rewards, and numbers come back.

use super::advantage::{deviation, mean};
use super::update::Completion;
use crate::data::prompts::Prompt;
use crate::error::{Result, fail};
use serde_json::{Map, Value, json};
use wootz_rewards::{Answer, Failure, Rewards, Score};
use wootz_text::{Special, Tokenizer};

/// A prompt with its answers and what they are worth.
pub struct Group {
    /// The prompt.
    pub prompt: Prompt,
    /// The answers.
    pub answers: Vec<Completion>,
    /// Their texts.
    pub texts: Vec<String>,
    /// What they are worth, or why that is not known.
    pub scores: Vec<Result<Score, Failure>>,
}

impl Group {
    /// The rewards that are known.
    pub fn rewards(&self) -> Vec<f64> {
        self.scores.iter().flatten().map(|score| score.total).collect()
    }

    /// A line of `rollouts.jsonl` for each answer. `advantages` are those of the answers that have a reward.
    pub fn lines(&self, step: u64, names: &[String], advantages: &[f64]) -> Vec<Value> {
        let mut advantages = advantages.iter();
        let answers = self.answers.iter().zip(&self.texts).zip(&self.scores);
        let line = |((answer, text), score): ((&Completion, &String), &Result<Score, Failure>)| {
            let mut line = json!({
                "step": step,
                "prompt": self.prompt.text,
                "completion": text,
                "prompt_ids": answer.prompt,
                "completion_ids": answer.ids,
                "logprobs": answer.logprobs,
                "truncated": answer.truncated,
                "fields": self.prompt.fields,
            });
            match score {
                Ok(score) => {
                    let parts: Map<String, Value> =
                        names.iter().cloned().zip(score.parts.iter().map(|&part| json!(part))).collect();
                    line["reward"] = json!(score.total);
                    line["parts"] = parts.into();
                    line["advantage"] = json!(advantages.next());
                }
                Err(failure) => line["error"] = failure.to_string().into(),
            }
            line
        };
        answers.map(line).collect()
    }
}

/// Judges answers, group by group.
pub fn judge(
    prompts: Vec<Prompt>,
    answers: Vec<Vec<Completion>>,
    tokenizer: &Tokenizer,
    end_tokens: &[u32],
    rewards: &Rewards,
) -> Vec<Group> {
    let texts: Vec<Vec<String>> = answers
        .iter()
        .map(|group| group.iter().map(|answer| text(&answer.ids, tokenizer, end_tokens)).collect())
        .collect();
    // All at once: programs and services work side by side.
    let mut all = Vec::new();
    for ((prompt, answers), texts) in prompts.iter().zip(&answers).zip(&texts) {
        all.extend(answers.iter().zip(texts).map(|(answer, text)| Answer {
            prompt: &prompt.text,
            text,
            tokens: answer.ids.len(),
            truncated: answer.truncated,
            fields: &prompt.fields,
        }));
    }
    let mut scores = rewards.score(&all).into_iter();
    let groups = prompts.into_iter().zip(answers).zip(texts);
    groups
        .map(|((prompt, answers), texts)| {
            let scores = scores.by_ref().take(answers.len()).collect();
            Group { prompt, answers, texts, scores }
        })
        .collect()
}

/// The tokens that end an answer: the model's own, and those of some texts.
///
/// # Errors
/// A text that is not one token.
pub fn end_tokens(tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<u32>> {
    let mut tokens = tokenizer.end_tokens().to_vec();
    for text in texts {
        let special = Special { add: false, parse: true };
        match tokenizer.encode(text, special).as_deref() {
            Ok([token]) => tokens.push(*token),
            Ok(ids) => fail!("--end {text:?}: expected a text that is one token, and it is {}", ids.len()),
            Err(error) => fail!("--end {text:?}: {error}"),
        }
    }
    Ok(tokens)
}

/// What an answer says: without the token that ended it, and without ids that are padding, which only an untrained model
/// writes.
pub fn text(ids: &[u32], tokenizer: &Tokenizer, end_tokens: &[u32]) -> String {
    let said = match ids.split_last() {
        Some((last, said)) if end_tokens.contains(last) => said,
        _ => ids,
    };
    let known: Vec<u32> = said.iter().copied().filter(|&id| (id as usize) < tokenizer.vocab_size()).collect();
    tokenizer.decode(&known, true)
}

/// What a step's answers are worth, in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Mean of the rewards.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// Mean of every part.
    pub parts: Vec<(String, f64)>,
    /// Mean number of tokens.
    pub length: f64,
    /// Share of answers that were cut short.
    pub truncated: f64,
    /// Answers that have a reward, and that have none.
    pub judged: usize,
    /// See `judged`.
    pub failed: usize,
    /// Why the first of these has none.
    pub first_failure: Option<String>,
}

impl Summary {
    /// Of some groups.
    pub fn new<'g>(groups: impl Iterator<Item = &'g Group>, names: &[String]) -> Summary {
        let groups: Vec<&Group> = groups.collect();
        let scores: Vec<&Score> = groups.iter().flat_map(|group| &group.scores).flatten().collect();
        let answers: Vec<&Completion> = groups.iter().flat_map(|group| &group.answers).collect();
        let failure = groups.iter().flat_map(|group| &group.scores).find_map(|score| score.as_ref().err());
        let totals: Vec<f64> = scores.iter().map(|score| score.total).collect();
        let part = |i: usize| mean(&scores.iter().map(|score| score.parts[i]).collect::<Vec<_>>());
        let count = answers.len().max(1) as f64;
        Summary {
            mean: mean(&totals),
            deviation: deviation(&totals),
            parts: names.iter().cloned().enumerate().map(|(i, name)| (name, part(i))).collect(),
            length: answers.iter().map(|answer| answer.ids.len()).sum::<usize>() as f64 / count,
            truncated: answers.iter().filter(|answer| answer.truncated).count() as f64 / count,
            judged: scores.len(),
            failed: answers.len() - scores.len(),
            first_failure: failure.map(ToString::to_string),
        }
    }
}
