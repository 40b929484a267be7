//! The next token of a row of logits.
//!
//! In this order (that of transformers; each step works on what the one before has left):
//!
//! 1. `logit_bias` is added;
//! 2. tokens among the last `repeat_last_n` of the sequence, the prompt included, are made less likely:
//!    `x / repeat_penalty` where x is positive, `x · repeat_penalty` where it is negative (Keskar et al. 2019), then
//!    `x - frequency_penalty · count - presence_penalty`;
//! 3. with a temperature of 0 the largest logit is taken, the lowest id where there are several, and that is all;
//! 4. `x / temperature`;
//! 5. `top_k`: the k largest;
//! 6. `top_p`: the fewest of the most likely whose probabilities sum to p (Holtzman et al. 2019);
//! 7. `min_p`: those at least `min_p` times as likely as the most likely one (Nguyen et al. 2024);
//! 8. `typical`: the fewest whose `-log p` is nearest to the entropy and whose probabilities sum to this
//!    (Meister et al. 2022);
//! 9. one number of the random stream draws from what is left.
//!
//! Equal values rank by id, so a choice never depends on how a selection is done. A token's random number depends on
//! its place in its own sequence alone: neither the batch nor speculation moves it.

use super::drawn::{Drawn, Kept};
use crate::error::{Result, fail};
use std::cmp::Ordering;
use wootz_kernels::device::launch::sampling::NO_TOKEN;
use wootz_kernels::ops::softmax::log_sum_exp;
use wootz_kernels::rng::Rng;

/// How tokens are chosen. The default draws from the model's own distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keep so many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens up to this share of the probability; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least so likely, relative to the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Keep the most typical tokens up to this share of the probability; 1 keeps all.
    pub typical: f32,
    /// Divides the logits of tokens that have occurred; 1 changes nothing.
    pub repeat_penalty: f32,
    /// Taken from the logits of tokens that have occurred, once for each time.
    pub frequency_penalty: f32,
    /// Taken from the logits of tokens that have occurred.
    pub presence_penalty: f32,
    /// How far back, in tokens, the three penalties look.
    pub repeat_last_n: usize,
    /// Added to the logits of single tokens (id, bias); -infinity rules a token out.
    pub logit_bias: Vec<(u32, f32)>,
    /// Names the random stream, together with the sequence's own number.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical: 1.0,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// The most likely token, always.
    pub fn greedy() -> Self {
        SamplerOptions { temperature: 0.0, ..SamplerOptions::default() }
    }

    /// Says what is wrong with the options, for a vocabulary of `vocab_size` tokens.
    ///
    /// # Errors
    /// A number outside its range, a bias of a token that does not exist.
    pub fn check(&self, vocab_size: usize) -> Result<()> {
        let within = |name: &str, value: f32, ok: bool, range: &str| {
            if !ok {
                fail!("{name}: expected {range}, found {value}");
            }
            Ok(())
        };
        let (t, r) = (self.temperature, self.repeat_penalty);
        within("temperature", t, t >= 0.0 && t.is_finite(), "a number from 0 up")?;
        within("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "a number above 0, up to 1")?;
        within("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "a number from 0 to 1")?;
        within(
            "typical",
            self.typical,
            self.typical > 0.0 && self.typical <= 1.0,
            "a number above 0, up to 1",
        )?;
        within("repetition penalty", r, r > 0.0 && r.is_finite(), "a number above 0")?;
        within("frequency penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), "a number")?;
        within("presence penalty", self.presence_penalty, self.presence_penalty.is_finite(), "a number")?;
        for &(id, bias) in &self.logit_bias {
            if id as usize >= vocab_size {
                fail!("logit bias: token {id} does not exist, the vocabulary has {vocab_size}");
            }
            let ok = bias.is_finite() || bias == f32::NEG_INFINITY;
            within(
                &format!("logit bias of token {id}"),
                bias,
                ok,
                "a number, or -inf to rule the token out",
            )?;
        }
        Ok(())
    }

    /// Whether some of `vocab` tokens are cut off before one is drawn.
    fn truncates(&self, vocab: usize) -> bool {
        self.top_k > 0 && self.top_k < vocab || self.top_p < 1.0 || self.min_p > 0.0 || self.typical < 1.0
    }

    /// What logits are multiplied by before a token is drawn: 1 / temperature.
    pub fn scale(&self) -> f32 {
        1.0 / self.temperature
    }

    /// Whether tokens are drawn by temperature and truncation alone.
    pub fn draws_plainly(&self) -> bool {
        self.temperature > 0.0 && self.logit_bias.is_empty() && !self.penalises()
    }

    /// How many of the likeliest tokens are enough to choose from; `None` where no number of them is, of `vocab`.
    pub fn enough(&self, vocab: usize) -> Option<usize> {
        match self.top_k {
            _ if !self.logit_bias.is_empty() || self.penalises() => None,
            _ if self.temperature == 0.0 => Some(1),
            k => (1..vocab).contains(&k).then_some(k),
        }
    }

    fn penalises(&self) -> bool {
        self.repeat_last_n > 0
            && (self.repeat_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0)
    }
}

/// Chooses tokens of one sequence. Its buffers are kept from token to token.
pub struct Sampler {
    options: SamplerOptions,
    rng: Rng,
    /// Logits with biases and penalties, and later scaled: `(x - max) / temperature`.
    scores: Vec<f32>,
    candidates: Vec<Candidate>,
    window: Vec<u32>,
    blocks: Vec<f64>,
}

/// A token that may still be chosen.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    /// `(x - max) / temperature`: the logarithm of its share, relative to the most likely token.
    score: f32,
    /// `e^score`.
    weight: f64,
    /// What [`keep_mass`] orders by, ascending.
    rank: f64,
}

impl Candidate {
    fn new(id: usize, score: f32) -> Candidate {
        Candidate { id: id as u32, score, weight: f64::from(score).exp(), rank: -f64::from(score) }
    }

    /// Ascending rank, then ascending id.
    fn order(&self, other: &Candidate) -> Ordering {
        self.rank.total_cmp(&other.rank).then(self.id.cmp(&other.id))
    }
}

/// Elements whose weights are summed at once when nothing is cut off.
const BLOCK: usize = 1024;

impl Sampler {
    /// A sampler of sequence number `stream`; the same (seed, stream) draws the same numbers.
    ///
    /// The options are taken as they are: see [`SamplerOptions::check`].
    pub fn new(options: SamplerOptions, stream: u64) -> Sampler {
        Sampler {
            rng: Rng::new(options.seed, stream),
            options,
            scores: Vec::new(),
            candidates: Vec::new(),
            window: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// The options.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// The token that follows `history`. `logits` are `[V]`; `index` counts the tokens that were chosen before, from 0, and
    /// picks the random number.
    ///
    /// # Errors
    /// Logits that are NaN or +infinity, or all -infinity.
    pub fn sample(&mut self, logits: &[f32], history: &[u32], index: u64) -> Result<u32> {
        let adjusts = !self.options.logit_bias.is_empty() || self.options.penalises();
        if adjusts {
            self.adjust(logits, history);
        }
        let max = largest(if adjusts { &self.scores } else { logits }, index)?;
        let temperature = self.options.temperature;
        if temperature == 0.0 {
            let x = if adjusts { &self.scores } else { logits };
            return Ok(x.iter().position(|&x| x == max).unwrap_or_default() as u32);
        }
        if !adjusts {
            self.scores.clear();
            self.scores.extend_from_slice(logits);
        }
        // The largest becomes 0, so that no temperature overflows.
        self.scores.iter_mut().for_each(|x| *x = (*x - max) / temperature);
        let u = self.uniform(index);
        if !self.options.truncates(logits.len()) {
            return Ok(self.draw_from_all(u));
        }
        self.truncate();
        Ok(draw(self.candidates.iter().map(|c| (c.id, c.weight)), u))
    }

    /// As [`Sampler::sample`], from the likeliest tokens and their logits, from the largest on: at least
    /// [`SamplerOptions::enough`] of them, with [`NO_TOKEN`] where fewer are possible; one is.
    pub fn sample_from(&mut self, likeliest: &[(u32, f32)], index: u64) -> u32 {
        let Some(&(first, max)) = likeliest.first() else { return 0 };
        let temperature = self.options.temperature;
        if temperature == 0.0 {
            return first;
        }
        let kept = likeliest.iter().take(self.options.top_k).filter(|(id, _)| *id != NO_TOKEN);
        self.candidates.clear();
        self.candidates.extend(kept.map(|&(id, x)| Candidate::new(id as usize, (x - max) / temperature)));
        self.candidates.sort_unstable_by(Candidate::order);
        self.truncate_further();
        draw(self.candidates.iter().map(|c| (c.id, c.weight)), self.uniform(index))
    }

    /// Uniform in [0, 1), in steps of 2^-53: rare tokens of large vocabularies keep their share.
    fn uniform(&self, index: u64) -> f64 {
        (self.rng.at(index) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// What the last token, `id`, was drawn from, given the same logits. Biases and penalties are not in it.
    pub fn drawn(&mut self, logits: &[f32], id: u32) -> Drawn {
        let truncates = self.options.truncates(logits.len());
        let ids = || self.candidates.iter().map(|candidate| candidate.id).collect();
        let kept = truncates.then(|| Kept::new(ids(), logits.len()));
        Drawn::new(logits, id, self.options.scale(), kept, &mut self.scores)
    }

    /// Biases and penalties, from `logits` to `scores`.
    fn adjust(&mut self, logits: &[f32], history: &[u32]) {
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        for &(id, bias) in &self.options.logit_bias {
            if let Some(x) = self.scores.get_mut(id as usize) {
                *x += bias;
            }
        }
        if !self.options.penalises() {
            return;
        }
        let start = history.len().saturating_sub(self.options.repeat_last_n);
        self.window.clear();
        self.window.extend_from_slice(&history[start..]);
        self.window.sort_unstable();
        for same in self.window.chunk_by(|a, b| a == b) {
            let Some(x) = self.scores.get_mut(same[0] as usize) else { continue };
            *x = if *x > 0.0 { *x / self.options.repeat_penalty } else { *x * self.options.repeat_penalty };
            *x -= self.options.frequency_penalty * same.len() as f32 + self.options.presence_penalty;
        }
    }

    /// Draws from all tokens. First a block of tokens by its weight, then one in it: the exponentials of the blocks
    /// are the vectorised ones of [`log_sum_exp`].
    fn draw_from_all(&mut self, u: f64) -> u32 {
        self.blocks.clear();
        self.blocks.extend(self.scores.chunks(BLOCK).map(|block| f64::from(log_sum_exp(block)).exp()));
        let total: f64 = self.blocks.iter().sum();
        let mut before = 0.0;
        let mut chosen = (0, 0.0);
        for (i, &weight) in self.blocks.iter().enumerate() {
            if weight > 0.0 {
                chosen = (i, ((u * total - before) / weight).clamp(0.0, 1.0));
                if before + weight > u * total {
                    break;
                }
            }
            before += weight;
        }
        let start = chosen.0 * BLOCK;
        let block = &self.scores[start..self.scores.len().min(start + BLOCK)];
        draw(block.iter().enumerate().map(|(i, &x)| ((start + i) as u32, f64::from(x).exp())), chosen.1)
    }

    /// Leaves in `candidates` what top-k, top-p, min-p and typical leave.
    fn truncate(&mut self) {
        let Sampler { options, scores, candidates, .. } = self;
        candidates.clear();
        let is_possible = |c: &Candidate| c.score > f32::NEG_INFINITY;
        if options.top_k > 0 && options.top_k < scores.len() {
            keep_largest(scores, options.top_k, candidates);
            candidates.retain(is_possible);
            candidates.sort_unstable_by(Candidate::order);
            return self.truncate_further();
        } else if options.top_p < 1.0 {
            // The few likely ones are nearly always enough; looking at all of them costs an exponential each.
            let enough = f64::from(log_sum_exp(scores)).exp() * f64::from(options.top_p);
            let all = || scores.iter().enumerate().map(|(id, &score)| (id, score));
            candidates.extend(all().filter(|&(_, x)| x > -8.0).map(|(id, x)| Candidate::new(id, x)));
            if candidates.iter().map(|c| c.weight).sum::<f64>() < enough {
                candidates.clear();
                candidates.extend(all().map(|(id, x)| Candidate::new(id, x)).filter(is_possible));
            }
            keep_mass(candidates, enough);
        } else {
            let least = options.min_p.ln(); // -inf for 0
            let likely = scores.iter().enumerate().filter(|&(_, &x)| x > f32::NEG_INFINITY && x >= least);
            candidates.extend(likely.map(|(id, &x)| Candidate::new(id, x)));
        }
        self.truncate_by_shares();
    }

    /// Leaves of the k largest, which are in order, what top-p, min-p and typical leave.
    fn truncate_further(&mut self) {
        let Sampler { options, candidates, .. } = self;
        if options.top_p < 1.0 {
            let total: f64 = candidates.iter().map(|c| c.weight).sum();
            keep_mass(candidates, total * f64::from(options.top_p));
        }
        self.truncate_by_shares();
    }

    /// What min-p and typical leave of the candidates.
    fn truncate_by_shares(&mut self) {
        let Sampler { options, candidates, .. } = self;
        if options.min_p > 0.0 {
            // The most likely one has score 0.
            let least = options.min_p.ln();
            candidates.retain(|c| c.score >= least);
        }
        if options.typical < 1.0 {
            let total: f64 = candidates.iter().map(|c| c.weight).sum();
            // -log p = log(total) - score.
            let surprise = |c: &Candidate| total.ln() - f64::from(c.score);
            let entropy: f64 = candidates.iter().map(|c| c.weight / total * surprise(c)).sum();
            for c in candidates.iter_mut() {
                c.rank = (surprise(c) - entropy).abs();
            }
            keep_mass(candidates, total * f64::from(options.typical));
        }
    }
}

/// Log-probabilities under the model's own distribution: no bias, penalty or temperature, nothing cut off.
///
/// `-> (of token id, the n most likely as (id, log-probability))`.
///
/// # Panics
/// When `id` is not below V.
pub fn log_probabilities(logits: &[f32], id: u32, n: usize) -> (f32, Vec<(u32, f32)>) {
    let normaliser = log_sum_exp(logits);
    let mut top = Vec::new();
    if n > 0 {
        keep_largest(logits, n, &mut top);
        top.sort_unstable_by(Candidate::order);
    }
    let top = top.into_iter().map(|c| (c.id, c.score - normaliser)).collect();
    (logits[id as usize] - normaliser, top)
}

/// The largest logit; refuses NaN, +infinity, and rows where no token is possible. Several running maxima keep the
/// loop vectorisable.
fn largest(x: &[f32], index: u64) -> Result<f32> {
    const LANES: usize = 16;
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut nan = [false; LANES];
    let (rows, rest) = x.as_chunks::<LANES>();
    for row in rows {
        for i in 0..LANES {
            max[i] = if row[i] > max[i] { row[i] } else { max[i] };
            nan[i] |= row[i].is_nan();
        }
    }
    for &x in rest {
        max[0] = max[0].max(x);
        nan[0] |= x.is_nan();
    }
    let max = max.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if nan.contains(&true) || max == f32::INFINITY {
        let id = x.iter().position(|x| x.is_nan() || *x == f32::INFINITY).unwrap_or_default();
        fail!(
            "token {index} of the answer: the logit of token id {id} is {}; the weights are damaged, or their numbers \
             overflow (--dtype f32 may help)",
            x[id]
        );
    }
    if max == f32::NEG_INFINITY {
        fail!(
            "token {index} of the answer: every token is ruled out (all logits are -inf); see the logit biases"
        );
    }
    Ok(max)
}

/// Puts the `k` largest of `x` into `out`, in no order; of equal ones those with the lower id.
///
/// Candidates gather until there are twice k, then the worse half goes: one pass, nearly all of it a comparison with
/// the worst that may still count.
fn keep_largest(x: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    let limit = k.saturating_mul(2).max(64);
    let mut worst = f32::NEG_INFINITY;
    for (id, &value) in x.iter().enumerate() {
        // Ids ascend: one that equals the worst of k comes after it.
        if value <= worst {
            continue;
        }
        out.push(Candidate { id: id as u32, score: value, weight: 0.0, rank: -f64::from(value) });
        if out.len() == limit {
            out.select_nth_unstable_by(k - 1, Candidate::order);
            out.truncate(k);
            worst = out[k - 1].score;
        }
    }
    if out.len() > k {
        out.select_nth_unstable_by(k - 1, Candidate::order);
        out.truncate(k);
    }
    out.iter_mut().for_each(|c| c.weight = f64::from(c.score).exp());
}

/// Keeps the fewest first candidates, by rank, whose weights sum to `enough` (at least one), in order.
fn keep_mass(candidates: &mut Vec<Candidate>, enough: f64) {
    let (mut sorted, mut sum, mut step) = (0, 0.0, 64);
    while sorted < candidates.len() {
        let end = candidates.len().min(sorted + step);
        if end < candidates.len() {
            candidates[sorted..].select_nth_unstable_by(end - sorted - 1, Candidate::order);
        }
        candidates[sorted..end].sort_unstable_by(Candidate::order);
        for i in sorted..end {
            sum += candidates[i].weight;
            if sum >= enough {
                return candidates.truncate(i + 1);
            }
        }
        (sorted, step) = (end, step * 4);
    }
}

/// The one of `(id, weight)` in which `u`, from 0 to 1, falls.
fn draw(weights: impl Iterator<Item = (u32, f64)> + Clone, u: f64) -> u32 {
    let total: f64 = weights.clone().map(|(_, weight)| weight).sum();
    let mut rest = u * total;
    let mut last = 0;
    for (id, weight) in weights {
        if weight > 0.0 {
            last = id;
            if rest < weight {
                break;
            }
            rest -= weight;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f32 = f32::INFINITY;

    fn options(change: impl FnOnce(&mut SamplerOptions)) -> SamplerOptions {
        let mut options = SamplerOptions::default();
        change(&mut options);
        options.check(1 << 20).unwrap();
        options
    }

    /// The tokens that can come out at all.
    fn possible(logits: &[f32], history: &[u32], change: impl FnOnce(&mut SamplerOptions)) -> Vec<u32> {
        let mut sampler = Sampler::new(options(change), 0);
        let mut seen: Vec<u32> = (0..4000).map(|i| sampler.sample(logits, history, i).unwrap()).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    fn greedy(logits: &[f32], history: &[u32], change: impl FnOnce(&mut SamplerOptions)) -> u32 {
        let options = options(|o| {
            o.temperature = 0.0;
            change(o);
        });
        Sampler::new(options, 0).sample(logits, history, 0).unwrap()
    }

    /// Logarithms of these shares, shifted: only differences may count.
    fn logs(shares: &[f64]) -> Vec<f32> {
        shares.iter().map(|p| p.ln() as f32 + 7.5).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_ids() {
        for len in [3, 16, 17, 40, 1000] {
            let mut logits = vec![-1.0; len];
            logits[len - 1] = 2.0;
            logits[len - 2] = 2.0;
            assert_eq!(greedy(&logits, &[], |_| ()), len as u32 - 2);
        }
        assert_eq!(greedy(&[-INF, -3.0, -INF], &[], |_| ()), 1);
    }

    #[test]
    fn shares_are_those_of_the_softmax() {
        // More than a block, so that both stages of the draw take part.
        let mut logits = vec![-INF; 3000];
        let shares = [(5, 0.5f64), (1023, 0.1), (1024, 0.15), (2999, 0.25)];
        for (id, share) in shares {
            logits[id] = share.ln() as f32;
        }
        for (temperature, power) in [(1.0, 1.0), (0.5, 2.0), (2.0, 0.5)] {
            let total: f64 = shares.iter().map(|s| s.1.powf(power)).sum();
            // top_k of the whole vocabulary but one takes the other path, through candidates.
            for top_k in [0, 2999] {
                let mut sampler =
                    Sampler::new(options(|o| (o.temperature, o.top_k) = (temperature, top_k)), 3);
                let n = 100_000u32;
                let mut counts = vec![0u32; 3000];
                for i in 0..n {
                    counts[sampler.sample(&logits, &[], u64::from(i)).unwrap() as usize] += 1;
                }
                for (id, share) in shares {
                    let (want, got) = (share.powf(power) / total, f64::from(counts[id]) / f64::from(n));
                    // Five standard deviations.
                    let slack = 5.0 * (want * (1.0 - want) / f64::from(n)).sqrt();
                    assert!((want - got).abs() < slack, "{temperature} {top_k} {id}: {want} {got}");
                }
                assert_eq!(counts.iter().sum::<u32>(), shares.iter().map(|s| counts[s.0]).sum::<u32>());
            }
        }
    }

    #[test]
    fn a_tiny_temperature_is_greedy_and_never_overflows() {
        for temperature in [f32::MIN_POSITIVE, 1e-40, 1e-20] {
            assert_eq!(possible(&[1e4, 1e4 + 1.0, -3e38], &[], |o| o.temperature = temperature), [1]);
        }
    }

    #[test]
    fn top_k_keeps_the_k_largest() {
        let logits: Vec<f32> = (0..500).map(|i| ((i * 37) % 500) as f32 * 1e-3).collect();
        for k in [1, 2, 5, 60, 499] {
            let kept = possible(&logits, &[], |o| o.top_k = k);
            let mut largest: Vec<u32> = (0..500).collect();
            largest.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
            assert!(kept.iter().all(|id| largest[..k].contains(id)), "{k}: {kept:?}");
            assert!(k > 60 || kept.len() == k, "{k}: {kept:?}");
        }
        assert_eq!(possible(&[1.0; 200], &[], |o| o.top_k = 3), [0, 1, 2]);
        assert_eq!(possible(&[0.0, -INF, 0.0, -INF], &[], |o| o.top_k = 3), [0, 2]);
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_p() {
        let logits = logs(&[0.1, 0.4, 0.2, 0.3]);
        assert_eq!(possible(&logits, &[], |o| o.top_p = 1e-6), [1]);
        assert_eq!(possible(&logits, &[], |o| o.top_p = 0.39), [1]);
        assert_eq!(possible(&logits, &[], |o| o.top_p = 0.45), [1, 3]);
        assert_eq!(possible(&logits, &[], |o| o.top_p = 0.75), [1, 2, 3]);
        assert_eq!(possible(&logits, &[], |o| o.top_p = 0.95), [0, 1, 2, 3]);
        // Of what top-k leaves: 4/9 and 3/9 and 2/9.
        assert_eq!(possible(&logits, &[], |o| (o.top_k, o.top_p) = (3, 0.77)), [1, 3]);
        assert_eq!(possible(&logits, &[], |o| (o.top_k, o.top_p) = (3, 0.79)), [1, 2, 3]);
    }

    #[test]
    fn top_p_of_a_flat_distribution_looks_beyond_the_likely() {
        // One at 0 and very many below -8, which hold nearly everything together.
        let mut logits = vec![-9.0; 100_000];
        logits[7] = 0.0;
        let mut sampler = Sampler::new(options(|o| o.top_p = 0.5), 0);
        sampler.sample(&logits, &[], 0).unwrap();
        let share = f64::exp(-9.0);
        let want = (0.5 * (1.0 + 99_999.0 * share) - 1.0) / share;
        assert!((sampler.candidates.len() as f64 - want).abs() < 3.0, "{} {want}", sampler.candidates.len());
    }

    #[test]
    fn min_p_is_relative_to_the_most_likely() {
        let logits = logs(&[0.1, 0.4, 0.2, 0.3]);
        assert_eq!(possible(&logits, &[], |o| o.min_p = 1.0), [1]);
        assert_eq!(possible(&logits, &[], |o| o.min_p = 0.7), [1, 3]);
        assert_eq!(possible(&logits, &[], |o| o.min_p = 0.45), [1, 2, 3]);
        assert_eq!(possible(&logits, &[], |o| (o.min_p, o.top_p) = (0.45, 0.6)), [1, 3]);
        assert_eq!(possible(&logits, &[], |o| (o.min_p, o.top_k) = (0.45, 1)), [1]);
        // After the temperature: (3/4)^(1/0.5) is 0.56.
        assert_eq!(possible(&logits, &[], |o| (o.min_p, o.temperature) = (0.7, 0.5)), [1]);
    }

    #[test]
    fn typical_may_drop_the_most_likely() {
        // Entropy 1.34 nats; surprises 1.20, 1.47 (three times), 6.9: the middle ones differ by 0.13, the first by 0.14.
        let shares = [0.3007, 0.2327, 0.2328, 0.2328, 0.001];
        let entropy: f64 = -shares.iter().map(|p: &f64| p * p.ln()).sum::<f64>();
        let mut order: Vec<u32> = (0..5).collect();
        order.sort_by(|&a, &b| {
            let shift = |i: u32| (-shares[i as usize].ln() - entropy).abs();
            shift(a).total_cmp(&shift(b))
        });
        for (mass, count) in [(0.01, 1), (0.3, 2), (0.99, 4)] {
            let mut want = order[..count].to_vec();
            want.sort_unstable();
            assert_eq!(possible(&logs(&shares), &[], |o| o.typical = mass), want, "{mass}");
        }
        // A clear case: entropy 1.17 of [0.6, 0.2, 0.1, 0.1]; surprises 0.5, 1.6, 2.3, 2.3.
        assert_eq!(possible(&logs(&[0.6, 0.2, 0.1, 0.1]), &[], |o| o.typical = 0.1), [1]);
    }

    #[test]
    fn penalties_look_at_the_last_tokens() {
        let logits = [2.0, 1.9, -1.0, -1.1];
        assert_eq!(greedy(&logits, &[0], |o| o.repeat_penalty = 1.1), 1);
        assert_eq!(greedy(&logits, &[0, 1], |o| o.repeat_penalty = 1.1), 0);
        // Out of the window.
        assert_eq!(greedy(&logits, &[0, 3, 3], |o| (o.repeat_penalty, o.repeat_last_n) = (1.1, 2)), 0);
        assert_eq!(greedy(&logits, &[0], |o| (o.repeat_penalty, o.repeat_last_n) = (1.1, 0)), 0);
        // Negative logits are multiplied.
        assert_eq!(greedy(&logits[2..], &[0], |o| o.repeat_penalty = 1.2), 1);
        // Presence counts once, frequency each time.
        assert_eq!(greedy(&logits, &[0, 0, 0], |o| o.presence_penalty = 0.09), 0);
        assert_eq!(greedy(&logits, &[0, 0, 0], |o| o.frequency_penalty = 0.04), 1);
        assert_eq!(greedy(&logits, &[0, 0], |o| o.frequency_penalty = 0.04), 0);
        assert_eq!(greedy(&logits, &[1], |o| o.presence_penalty = -0.2), 1);
    }

    #[test]
    fn biases_force_and_forbid() {
        let logits = [1.0, 0.5, 0.0];
        assert_eq!(greedy(&logits, &[], |o| o.logit_bias = vec![(0, -INF)]), 1);
        assert_eq!(possible(&logits, &[], |o| o.logit_bias = vec![(1, -INF)]), [0, 2]);
        assert_eq!(possible(&logits, &[], |o| o.logit_bias = vec![(2, 100.0)]), [2]);
    }

    #[test]
    fn unusable_logits_are_errors_that_name_the_step() {
        for temperature in [0.0, 1.0] {
            for len in [3, 40] {
                let mut logits = vec![0.0; len];
                logits[2] = f32::NAN;
                let mut sampler = Sampler::new(options(|o| o.temperature = temperature), 0);
                let message = sampler.sample(&logits, &[], 17).unwrap_err().to_string();
                assert!(message.contains("token 17") && message.contains("token id 2 is NaN"), "{message}");
                logits[2] = INF;
                assert!(sampler.sample(&logits, &[], 0).is_err());
                let message = sampler.sample(&vec![-INF; len], &[], 4).unwrap_err().to_string();
                assert!(message.contains("token 4") && message.contains("ruled out"), "{message}");
            }
        }
    }

    #[test]
    fn a_draw_depends_on_seed_stream_and_index_alone() {
        let logits: Vec<f32> = (0..100).map(|i| (i % 7) as f32).collect();
        let draw = |seed, stream, index| {
            Sampler::new(options(|o| o.seed = seed), stream).sample(&logits, &[], index).unwrap()
        };
        let mut sampler = Sampler::new(options(|o| o.seed = 5), 2);
        let run: Vec<u32> = (0..50).map(|i| sampler.sample(&logits, &[], i).unwrap()).collect();
        assert_eq!(run, (0..50).map(|i| draw(5, 2, i)).collect::<Vec<_>>());
        assert_ne!(run, (0..50).map(|i| draw(5, 3, i)).collect::<Vec<_>>());
        assert_ne!(run, (0..50).map(|i| draw(6, 2, i)).collect::<Vec<_>>());
    }

    #[test]
    fn a_few_of_the_likeliest_are_enough() {
        let logits: Vec<f32> = (0..500).map(|i| ((i * 37 % 101) as f32).sqrt() + (i % 7) as f32).collect();
        let mut order: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        let sets = [
            options(|o| o.temperature = 0.0),
            options(|o| o.top_k = 40),
            options(|o| (o.top_k, o.top_p, o.temperature) = (40, 0.8, 0.7)),
            options(|o| (o.top_k, o.min_p, o.typical) = (20, 0.05, 0.9)),
            options(|o| (o.top_k, o.temperature) = (1, 3.0)),
        ];
        for set in sets {
            let enough = set.enough(500).unwrap();
            let (mut whole, mut few) = (Sampler::new(set.clone(), 3), Sampler::new(set.clone(), 3));
            for index in 0..300 {
                let want = whole.sample(&logits, &[], index).unwrap();
                assert_eq!(few.sample_from(&order[..enough], index), want, "{set:?}, {index}");
                // More than enough changes nothing.
                assert_eq!(few.sample_from(&order[..enough + 5], index), want, "{set:?}, {index}");
            }
        }
        // Where only two tokens are possible.
        let mut few = Sampler::new(options(|o| o.top_k = 4), 0);
        let two = [(9, 1.0), (2, 1.0), (NO_TOKEN, f32::MIN), (NO_TOKEN, f32::MIN)];
        let mut seen: Vec<u32> = (0..50).map(|index| few.sample_from(&two, index)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [2, 9]);

        let none = [
            options(|_| ()),
            options(|o| o.top_k = 500),
            options(|o| o.top_p = 0.5),
            options(|o| (o.top_k, o.presence_penalty) = (3, 0.5)),
            options(|o| (o.top_k, o.logit_bias) = (3, vec![(1, 2.0)])),
        ];
        assert!(none.iter().all(|set| set.enough(500).is_none()));
    }

    #[test]
    fn log_probabilities_sum_to_one_and_rank() {
        let logits: Vec<f32> = (0..300).map(|i| ((i * 77) % 300) as f32 * 0.01).collect();
        let (of_5, top) = log_probabilities(&logits, 5, 300);
        assert!((top.iter().map(|(_, l)| f64::from(*l).exp()).sum::<f64>() - 1.0).abs() < 1e-5);
        assert!(top.is_sorted_by(|a, b| a.1 >= b.1));
        assert!(top.contains(&(5, of_5)));
        assert_eq!(log_probabilities(&logits, 0, 3).1, top[..3]);
        assert_eq!(log_probabilities(&logits, 5, 0), (of_5, vec![]));
    }

    #[test]
    fn options_out_of_range_are_named() {
        let wrong = |change: fn(&mut SamplerOptions)| {
            let mut options = SamplerOptions::default();
            change(&mut options);
            options.check(10).unwrap_err().to_string()
        };
        assert!(
            wrong(|o| o.temperature = -1.0).contains("temperature: expected a number from 0 up, found -1")
        );
        assert!(wrong(|o| o.temperature = f32::NAN).contains("temperature"));
        assert!(wrong(|o| o.top_p = 2.0).contains("top-p"));
        assert!(wrong(|o| o.top_p = f32::NAN).contains("top-p"));
        assert!(wrong(|o| o.min_p = f32::NAN).contains("min-p"));
        assert!(wrong(|o| o.typical = 0.0).contains("typical"));
        assert!(wrong(|o| o.repeat_penalty = 0.0).contains("repetition"));
        assert!(wrong(|o| o.frequency_penalty = INF).contains("frequency"));
        assert!(wrong(|o| o.logit_bias = vec![(10, 0.0)]).contains("token 10 does not exist"));
        assert!(wrong(|o| o.logit_bias = vec![(1, INF)]).contains("token 1"));
    }
}
