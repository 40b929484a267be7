//! One update: answers as batches, and what is minimised over them.
//!
//! ```text
//!   row        0    1    2    3    4    5        a prompt of 3 tokens, an answer of 4
//!   token      p0   p1   p2   a0   a1   a2
//!   target     -    -    a0   a1   a2   a3       rows before the prompt's last have none
//! ```

use super::objective::{Counts, Known, Loss, Term};
use crate::data::{self, IGNORED};
use crate::error::{Context, Result};
use crate::trainer::{Objective, Trainer};
use wootz_model::generate::Kept;

/// An answer that the model gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// Those of the answer, the end token included if there is one.
    pub ids: Vec<u32>,
    /// The log-probability of each when it was drawn, among the tokens that could be chosen.
    pub logprobs: Vec<f32>,
    /// The tokens that each was drawn from; `None` for all.
    pub kept: Vec<Option<Kept>>,
    /// The same log-probabilities under the reference; empty without one.
    pub reference: Vec<f32>,
    /// How much better it is than the others of its group.
    pub advantage: f64,
    /// It ended because it may not be longer.
    pub truncated: bool,
}

/// How answers are drawn and learnt from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// What is minimised.
    pub loss: Loss,
    /// 1 / temperature.
    pub scale: f32,
    /// Tokens that an answer may have.
    pub most_tokens: usize,
    /// Answers of a forward pass.
    pub batch: usize,
    /// Answers that were cut short are not learnt from.
    pub mask_truncated: bool,
}

/// What an update measures beside its loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measures {
    /// Tokens that were learnt from.
    pub tokens: usize,
    /// Mean entropy of what they were drawn from, in nats.
    pub entropy: f64,
    /// Mean estimated divergence from the reference, in nats; 0 without one.
    pub kl: f64,
    /// Share of tokens whose ratio was too far off to count in full.
    pub clip_fraction: f64,
    /// The largest `|r - 1|` of a token: exactly 0 where the weights are those that the answers were drawn with.
    pub ratio_deviation: f64,
}

/// A forward pass over some answers.
struct Pass {
    /// The answer and the token of each row that counts.
    rows: Vec<Option<(usize, usize)>>,
    /// Tokens of the answers that it stands for, those included that have no gradient.
    tokens: usize,
}

/// Answers, ready to be learnt from.
pub struct Update {
    rules: Rules,
    completions: Vec<Completion>,
    passes: Vec<Pass>,
    /// Of each pass.
    batches: Vec<data::Batch>,
    /// Of the whole update.
    counts: Counts,
}

impl Update {
    /// Over answers that have their rewards. Those whose gradient is 0 for certain go through no forward pass, and still
    /// count in means.
    pub fn new(completions: Vec<Completion>, rules: Rules) -> Update {
        let counted: Vec<usize> =
            (0..completions.len()).filter(|&i| !(completions[i].truncated && rules.mask_truncated)).collect();
        let tokens = |of: &[usize]| of.iter().map(|&i| completions[i].ids.len()).sum::<usize>();
        let chunks: Vec<&[usize]> = counted.chunks(rules.batch.max(1)).collect();
        let counts = Counts {
            answers: completions.len(),
            tokens: tokens(&counted),
            passes: chunks.len(),
            pass_tokens: 0,
            answer_tokens: 0,
            most_tokens: rules.most_tokens,
        };
        let has_gradient = |&i: &usize| completions[i].advantage != 0.0 || rules.loss.beta > 0.0;
        let (mut passes, mut batches) = (Vec::new(), Vec::new());
        for of in chunks {
            let learnt: Vec<usize> = of.iter().copied().filter(has_gradient).collect();
            if !learnt.is_empty() {
                let (pass, batch) = Pass::new(&completions, &learnt, tokens(of));
                passes.push(pass);
                batches.push(batch);
            }
        }
        Update { rules, completions, passes, batches, counts }
    }

    /// What goes through the model.
    pub fn batches(&self) -> &[data::Batch] {
        &self.batches
    }

    /// The answers.
    pub fn completions(&self) -> &[Completion] {
        &self.completions
    }

    /// Asks the model, as it is now, for the reference's log-probabilities.
    ///
    /// # Errors
    /// Answers that the model cannot take.
    pub fn set_reference(&mut self, trainer: &mut Trainer) -> Result<()> {
        let found = self.log_probabilities(trainer)?;
        for (completion, found) in self.completions.iter_mut().zip(found) {
            completion.reference = found;
        }
        Ok(())
    }

    /// Log-probabilities of answers under the model as it is now; empty for those that are not learnt from.
    ///
    /// # Errors
    /// Answers that the model cannot take.
    pub fn log_probabilities(&self, trainer: &mut Trainer) -> Result<Vec<Vec<f32>>> {
        let mut all = vec![Vec::new(); self.completions.len()];
        let objective = self.objective(None);
        for (i, (pass, batch)) in self.passes.iter().zip(&self.batches).enumerate() {
            let losses = trainer.losses_by(&batch.as_model(), i, &objective).context(|| "an answer")?;
            for (row, loss) in pass.rows.iter().zip(losses) {
                if let Some((completion, _)) = row {
                    all[*completion].push(-loss);
                }
            }
        }
        Ok(all)
    }

    /// Measures the loss and its gradient. `fresh` says that the weights are those that the answers were drawn with: ratios
    /// of whole answers are 1 then, and need no forward pass of their own.
    ///
    /// # Errors
    /// Answers that the model cannot take.
    pub fn measure(&self, trainer: &mut Trainer, fresh: bool) -> Result<(crate::trainer::Step, Measures)> {
        let ratios = match (self.rules.loss.is_of_answers(), fresh) {
            (true, false) => Some(self.log_ratios(trainer)?),
            (true, true) => Some(vec![0.0; self.completions.len()]),
            (false, _) => None,
        };
        let mut objective = self.objective(ratios);
        let batches: Vec<_> = self.batches.iter().map(data::Batch::as_model).collect();
        let step = trainer.measure_by(&batches, &mut objective).context(|| "an answer")?;
        Ok((step, objective.sums.measures()))
    }

    /// The mean of `l - o` over each answer. Where the weights are those that it was drawn with, it is exactly 0.
    fn log_ratios(&self, trainer: &mut Trainer) -> Result<Vec<f64>> {
        let now = self.log_probabilities(trainer)?;
        let of = |(completion, now): (&Completion, &Vec<f32>)| {
            let differences =
                now.iter().zip(&completion.logprobs).map(|(l, o)| f64::from(*l) - f64::from(*o));
            differences.sum::<f64>() / completion.ids.len().max(1) as f64
        };
        Ok(self.completions.iter().zip(&now).map(of).collect())
    }

    fn objective(&self, ratios: Option<Vec<f64>>) -> Total<'_> {
        Total { update: self, ratios, sums: Sums::default() }
    }

    /// What a token's loss counts.
    fn weight(&self, pass: usize, completion: usize) -> f64 {
        let answer_tokens = self.completions[completion].ids.len();
        self.rules.loss.form.weight(&Counts {
            pass_tokens: self.passes[pass].tokens,
            answer_tokens,
            ..self.counts
        })
    }
}

impl Pass {
    fn new(completions: &[Completion], of: &[usize], tokens: usize) -> (Pass, data::Batch) {
        let (mut batch, mut rows) = (data::Batch::default(), Vec::new());
        for &i in of {
            let Completion { prompt, ids, .. } = &completions[i];
            let all = || prompt.iter().chain(ids).copied();
            let length = prompt.len() + ids.len() - 1;
            batch.inputs.extend(all().take(length));
            let before = prompt.len() - 1;
            batch.targets.extend(std::iter::repeat_n(IGNORED, before));
            // Ids are below the vocabulary's size, which is far below 2³¹.
            batch.targets.extend(ids.iter().map(|&id| id as i32));
            batch.lengths.push(length);
            rows.extend(std::iter::repeat_n(None, before));
            rows.extend((0..ids.len()).map(|token| Some((i, token))));
        }
        (Pass { rows, tokens }, batch)
    }
}

/// The objective over all answers of an update.
struct Total<'u> {
    update: &'u Update,
    /// For forms whose ratio is the answer's.
    ratios: Option<Vec<f64>>,
    sums: Sums,
}

#[derive(Default)]
struct Sums {
    tokens: usize,
    entropy: f64,
    kl: f64,
    clipped: usize,
    ratio_deviation: f64,
}

impl Sums {
    fn measures(&self) -> Measures {
        let tokens = self.tokens.max(1) as f64;
        Measures {
            tokens: self.tokens,
            entropy: self.entropy / tokens,
            kl: self.kl / tokens,
            clip_fraction: self.clipped as f64 / tokens,
            ratio_deviation: self.ratio_deviation,
        }
    }
}

impl Total<'_> {
    fn term(&self, (completion, token): (usize, usize), loss: f32) -> Term {
        let of = &self.update.completions[completion];
        let log_p = -f64::from(loss);
        let log_ratio = match &self.ratios {
            Some(ratios) => ratios[completion],
            None => log_p - f64::from(of.logprobs[token]),
        };
        let reference = of.reference.get(token).map(|&l| f64::from(l));
        self.update.rules.loss.term(Known { log_ratio, log_p, reference, advantage: of.advantage })
    }
}

impl Objective for Total<'_> {
    fn scale(&self) -> f32 {
        self.update.rules.scale
    }

    fn kept(&self, batch: usize, row: usize) -> Option<&Kept> {
        let (completion, token) = self.update.passes[batch].rows[row]?;
        self.update.completions[completion].kept[token].as_ref()
    }

    fn weight(&self, batch: usize, row: usize, loss: f32) -> f32 {
        let Some(at) = self.update.passes[batch].rows[row] else { return 0.0 };
        // The derivative by the log-probability, of which the loss is the negative.
        (-self.term(at, loss).derivative * self.update.weight(batch, at.0)) as f32
    }

    fn value(&mut self, batch: usize, losses: &[f32], entropies: &[f32]) -> f64 {
        let mut total = 0.0;
        for (row, at) in self.update.passes[batch].rows.iter().enumerate() {
            let Some(at) = *at else { continue };
            let term = self.term(at, losses[row]);
            total += self.update.weight(batch, at.0) * term.loss;
            let old = self.update.completions[at.0].logprobs[at.1];
            let ratio = (-f64::from(losses[row]) - f64::from(old)).exp();
            self.sums.tokens += 1;
            self.sums.entropy += entropies.get(row).map_or(0.0, |&entropy| f64::from(entropy));
            self.sums.kl += term.kl;
            self.sums.clipped += usize::from(term.clipped);
            let deviation = (ratio - 1.0).abs();
            // Not `max`, which passes over NaN.
            if deviation.is_nan() || deviation > self.sums.ratio_deviation {
                self.sums.ratio_deviation = deviation;
            }
        }
        total
    }
}

impl Rules {
    /// Whether answers are compared with a reference.
    pub fn has_reference(&self) -> bool {
        self.loss.beta > 0.0
    }
}
