//! Has the model answer: several answers to each prompt, all at once.
//!
//! A prompt is read once. Its cache is copied for each of its answers, which run side by side with those of other prompts; one
//! that ends makes room for the next.

use super::update::Completion;
use crate::error::{Context, Result, fail};
use std::collections::BTreeMap;
use std::sync::Arc;
use wootz_kernels::ops::attention::CacheType;
use wootz_model::Model;
use wootz_model::generate::{
    Engine, EngineOptions, Event, FinishReason, Request, SamplerOptions, SequenceId,
};

/// How answers are drawn.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// Answers to a prompt.
    pub group: usize,
    /// Tokens of an answer, at the most.
    pub max_new_tokens: usize,
    /// Temperature and truncation, and the seed.
    pub sampler: SamplerOptions,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
    /// Answers that run at once.
    pub parallel: usize,
}

/// The type of keys and values: exact, as training has them.
pub const CACHE: CacheType = CacheType::F32;
/// Tokens of a forward pass.
const CHUNK: usize = 512;

/// Answers to every prompt, in their order. Random numbers of answer `i` to prompt `p` are those of stream
/// `first + p · group + i`.
///
/// Greedy answers have no log-probabilities.
///
/// # Errors
/// A prompt that the model cannot take, logits that are no numbers.
pub fn draw(
    model: &Model,
    prompts: &[Vec<u32>],
    drawing: &Drawing,
    first: u64,
) -> Result<Vec<Vec<Completion>>> {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let options = EngineOptions {
        max_batch: drawing.parallel.max(1),
        chunk: CHUNK,
        context: longest.saturating_add(drawing.max_new_tokens),
        cache: CACHE,
    };
    let mut engine = Engine::new(model, options);
    // Whose prompt a sequence reads, and which answer it is.
    let mut readers: BTreeMap<SequenceId, usize> = BTreeMap::new();
    let mut writers: BTreeMap<SequenceId, (usize, usize)> = BTreeMap::new();
    let mut answers: Vec<Vec<Completion>> = prompts
        .iter()
        .map(|prompt| {
            let empty = Completion { prompt: prompt.clone(), ..Completion::default() };
            vec![empty; drawing.group]
        })
        .collect();
    for (p, prompt) in prompts.iter().enumerate() {
        let request = Request { keep: true, ..Request::greedy(prompt.clone(), 0) };
        readers.insert(engine.add(request).context(|| "a prompt")?, p);
    }
    while !engine.is_idle() {
        for event in engine.step().context(|| "answers to prompts")? {
            match event {
                Event::Token { sequence, token } => {
                    let Some(&(p, i)) = writers.get(&sequence) else { continue };
                    let answer = &mut answers[p][i];
                    answer.ids.push(token.id);
                    if let Some(drawn) = token.drawn {
                        answer.logprobs.push(drawn.logprob);
                        answer.kept.push(drawn.kept);
                    }
                }
                Event::Finished { sequence, finish } => match finish.reason {
                    FinishReason::Failed(error) => return Err(error).context(|| "an answer to a prompt"),
                    reason => match (readers.remove(&sequence), writers.remove(&sequence)) {
                        (Some(p), _) => {
                            let Some(session) = finish.session else { fail!("a prompt was not kept") };
                            let prefix = Arc::new(session);
                            for i in 0..drawing.group {
                                let request = Request {
                                    max_tokens: drawing.max_new_tokens,
                                    end_tokens: drawing.end_tokens.clone(),
                                    sampler: drawing.sampler.clone(),
                                    stream: first + (p * drawing.group + i) as u64,
                                    drawn: drawing.sampler.temperature > 0.0,
                                    prefix: Some(Arc::clone(&prefix)),
                                    ..Request::greedy(prompts[p].clone(), 0)
                                };
                                let id = engine.add(request).context(|| "an answer to a prompt")?;
                                writers.insert(id, (p, i));
                            }
                        }
                        (None, Some((p, i))) => {
                            answers[p][i].truncated = !matches!(reason, FinishReason::End);
                        }
                        (None, None) => {}
                    },
                },
            }
        }
    }
    Ok(answers)
}
