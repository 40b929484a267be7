//! What a run shows while it goes on: progress on stderr, samples of what the model writes on stdout.

use crate::interrupt::Listener;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use wootz_kernels::ops::attention::CacheType;
use wootz_model::generate::{Sampler, SamplerOptions};
use wootz_model::names::{Kind, TensorId};
use wootz_model::{Chunk, MAX_CHUNK, Model, Rows, Scratch};
use wootz_text::{Special, Tokenizer};
use wootz_train::data::encode::document_token;
use wootz_train::fit::{End, Run, StepReport, ValReport, Watch};
use wootz_train::progress::{Progress, Status};
use wootz_train::run::checkpoint::Saved;

/// Tokens of a sample.
const SAMPLE: usize = 96;

/// Progress on the terminal.
pub struct Screen {
    pub progress: Progress,
    pub listener: Listener,
    /// What samples are read with; without it there are none.
    pub tokenizer: Option<Arc<Tokenizer>>,
    pub seed: u64,
    /// What samples go on from.
    pub prompt: Vec<u32>,
    /// Steps of the whole run.
    pub steps: u64,
    /// Floating-point operations of training on a token, and the most that the machine does in a second.
    pub flops: f64,
    pub peak: Option<f64>,
    /// Whether samples go to stdout: not where the result is JSON.
    pub samples: Samples,
    pub last_val: Option<ValReport>,
    pub last_step: Option<StepReport>,
}

/// Whether samples are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Samples {
    Shown,
    LeftOut,
}

impl Screen {
    /// What `--json` prints of a run that came to an end, or was stopped.
    pub fn result(&self, run: &Run, end: End, begun: Instant) -> Value {
        json!({
            "run": run.folder().path().display().to_string(),
            "complete": end == End::Complete,
            "step": run.step(),
            "loss": self.last_step.as_ref().map(|step| step.loss),
            "val_loss": self.last_val.and_then(|val| val.loss),
            "bits_per_byte": self.last_val.and_then(|val| val.bits_per_byte),
            "val_reward": self.last_val.and_then(|val| val.reward),
            "tokens_per_second": self.last_step.as_ref().map(|step| step.tokens_per_second),
            "train_seconds": begun.elapsed().as_secs_f64(),
        })
    }
}

impl Watch for Screen {
    fn step(&mut self, report: &StepReport) {
        let share = self.peak.map(|peak| report.tokens_per_second * self.flops / peak);
        self.progress.update(&Status {
            step: report.step,
            loss: report.loss,
            tokens_per_second: report.tokens_per_second,
            share_of_peak: share,
            extra: &report.note,
        });
        self.last_step = Some(report.clone());
    }

    fn validated(&mut self, report: &ValReport) {
        let says = [
            report.loss.map(|loss| format!("loss {loss:.4}")),
            report.bits_per_byte.map(|bits| format!("{bits:.3} bits per byte")),
            report.hellaswag.map(|share| format!("HellaSwag {:.1} %", 100.0 * share)),
            report.reward.map(|reward| format!("reward {reward:.3}")),
        ];
        let says: Vec<String> = says.into_iter().flatten().collect();
        self.progress.note(&format!("step {}: validation {}", report.step, says.join(", ")));
        self.last_val = Some(*report);
    }

    fn saved(&mut self, saved: &Saved) {
        self.progress.note(&format!("saved {}", saved.path.display()));
        for note in &saved.notes {
            self.progress.warn(note);
        }
    }

    fn warn(&mut self, text: &str) {
        self.progress.warn(text);
    }

    fn received(&mut self, step: u64, count: usize, without: &[TensorId]) {
        let all = count + without.len();
        let waiting = step == 1 && without.iter().all(|id| id.kind == Kind::LoraA);
        let why = match waiting && !without.is_empty() {
            true => " (the first matrix of an adapter gets its own once the second is not 0 any more)",
            false => "",
        };
        self.progress.note(&format!("{count} of {all} trainable tensors received a gradient{why}"));
        if !waiting && !without.is_empty() {
            let names: Vec<String> = without.iter().take(8).map(ToString::to_string).collect();
            self.progress.warn(&format!("without a gradient in step {step}: {}", names.join(", ")));
        }
    }

    fn sample(&mut self, model: &Model, step: u64) {
        let (Some(tokenizer), Samples::Shown) = (&self.tokenizer, self.samples) else { return };
        match sample(model, tokenizer, &self.prompt, self.seed) {
            Ok(text) => {
                let when = match step {
                    0 => "before the first step".to_owned(),
                    step if step == self.steps => format!("after {step} steps, the last"),
                    step => format!("after {step} steps"),
                };
                self.progress.show(&format!("--- what the model writes {when}\n{}\n---", text.trim()));
            }
            Err(error) => self.progress.warn(&format!("no sample: {error}")),
        }
    }

    fn interrupted(&self) -> bool {
        self.listener.asked()
    }
}

/// What a text begins with: the token that stands before every document, or a new line.
pub fn beginning(tokenizer: &Tokenizer) -> Vec<u32> {
    match document_token(tokenizer).or(tokenizer.bos()) {
        Some(token) => vec![token],
        None => tokenizer.encode("\n", Special::default()).unwrap_or_default(),
    }
}

/// How a text goes on, drawn at a temperature a little below 1 from the likeliest tokens.
pub fn sample(
    model: &Model,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    seed: u64,
) -> wootz_model::Result<String> {
    let config = model.config();
    let room = (prompt.len() + SAMPLE).min(config.max_seq);
    let mut cache = model.new_cache(room, CacheType::F32)?;
    let mut scratch = Scratch::default();
    let options = SamplerOptions { temperature: 0.7, top_p: 0.95, seed, ..SamplerOptions::greedy() };
    let mut sampler = Sampler::new(options, 0);
    // A long prompt goes in piece by piece.
    let (start, end) = prompt.split_at(prompt.len().saturating_sub(1) / MAX_CHUNK * MAX_CHUNK);
    for tokens in start.chunks(MAX_CHUNK) {
        model.forward(&mut scratch, &mut [Chunk { tokens, cache: &mut cache, logits: Rows::None }])?;
    }
    let (mut ids, mut next) = (prompt.to_vec(), end.to_vec());
    while ids.len() < room && !next.is_empty() {
        let chunk = Chunk { tokens: &next, cache: &mut cache, logits: Rows::Last };
        let logits = model.forward(&mut scratch, &mut [chunk])?;
        let id = sampler.sample(logits, &ids, ids.len() as u64)?;
        if Some(id) == document_token(tokenizer) || tokenizer.end_tokens().contains(&id) {
            break;
        }
        ids.push(id);
        next = vec![id];
    }
    // Ids beyond the vocabulary are padding, which only an untrained model writes.
    let known: Vec<u32> =
        ids[prompt.len()..].iter().copied().filter(|&id| (id as usize) < tokenizer.vocab_size()).collect();
    Ok(tokenizer.decode(&known, true))
}
