//! Gradients by differences: what backward says, beside the slope of the loss itself.
//!
//! ```text
//!   d loss / d w  =  (loss(w + h) - loss(w - h)) / 2h      up to terms of h²
//! ```
//!
//! The loss is that of [`crate::reference`], in f64, where h can be small; the gradient is that of [`Training`], in f32.
//! No model file is needed: a [`Case`] is a configuration in a size that can be evaluated thousands of times
//! ([`shrink`]), with random parameters.

use crate::arch::{ARCHITECTURES, Architecture};
use crate::config::{DecoderConfig, LayerConfig, Norm, Rope, RopeScaling};
use crate::decoder::Model;
use crate::error::{Context, Result};
use crate::gradients::Gradients;
use crate::names::{Kind, Part, Place, TensorId, canonical};
use crate::reference::{Parameters, Reference};
use crate::training::{Batch, Recompute, Training};
use crate::weights::Weights;
use serde_json::json;
use std::collections::HashMap;
use wootz_kernels::exec::Values;
use wootz_kernels::ops::Write;
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::rng::Rng;
use wootz_kernels::{DType, Pool, panels};

/// Largest error of a gradient's element over the largest of its tensor's slopes.
pub const TOLERANCE: f64 = 2e-5;
/// Largest difference of the f32 loss from the one in f64, over that.
pub const LOSS_TOLERANCE: f64 = 1e-6;
/// Where all slopes of a tensor are smaller than this share of the decoder's largest, that share counts in their place:
/// what they are sums of is larger than they are. (The slope of a bias of k is 0 where nothing rotates it, for it adds
/// the same to all scores of a query.)
const SMALLEST_SCALE: f64 = 1e-2;
/// h: the error of the formula and that of the difference of two numbers of about 4 are both below 1e-9.
const STEP: f64 = 1e-5;

/// The sizes of a shrunken decoder: none a multiple of another, on both sides of a panel's 32 rows.
const VOCAB: usize = 40;
const DIM: usize = 20;
const HEAD_DIM: usize = 6;
const HIDDEN: usize = 36;
/// Key/value heads, and query heads to each, at the most.
const KV_HEADS: usize = 2;
const GROUP: usize = 4;
const WINDOW: usize = 4;
/// Tokens of the two sequences.
const LENGTHS: [usize; 2] = [11, 7];
const MAX_SEQ: usize = 12;
/// Rotary waves of these bases and a pretraining context of this length are of all kinds that a scaling tells apart.
const ORIGINAL_SEQ: usize = 64;
/// Large and small enough to count, in so small a network.
const NORM_EPS: f32 = 1e-2;
const SOFT_CAP: f32 = 3.0;

/// The same decoder in a tiny size: every switch as it was, one layer of each kind (two, if there is one kind), as many
/// query heads to a key/value head (up to four), and windows that are shorter than a sequence.
pub fn shrink(config: &DecoderConfig) -> DecoderConfig {
    let n_kv_heads = config.n_kv_heads.clamp(1, KV_HEADS);
    let group = (config.n_heads / config.n_kv_heads.max(1)).clamp(1, GROUP);
    let mut layers: Vec<LayerConfig> = Vec::new();
    for layer in &config.layers {
        let layer = LayerConfig {
            rope: layer.rope.as_ref().map(shrink_rope),
            window: layer.window.map(|window| window.min(WINDOW)),
        };
        if !layers.contains(&layer) {
            layers.push(layer);
        }
    }
    if let [only] = layers.as_slice() {
        layers = vec![only.clone(); 2];
    }
    // Factors that follow a width go on following it.
    let root = |new: usize, old: usize| (new as f32 / old.max(1) as f32).sqrt();
    DecoderConfig {
        vocab_size: VOCAB,
        dim: DIM,
        n_heads: n_kv_heads * group,
        n_kv_heads,
        head_dim: HEAD_DIM,
        hidden_dim: HIDDEN,
        max_seq: MAX_SEQ,
        norm_eps: NORM_EPS,
        attention_scale: config.attention_scale / root(HEAD_DIM, config.head_dim),
        embedding_scale: match config.embedding_scale == 1.0 {
            true => 1.0,
            false => config.embedding_scale * root(DIM, config.dim),
        },
        logit_softcap: config.logit_softcap.map(|_| SOFT_CAP),
        layers,
        ..config.clone()
    }
}

/// Few pairs turn noticeably within a few tokens unless theta is small; its root keeps two bases apart.
fn shrink_rope(rope: &Rope) -> Rope {
    let scaling = match &rope.scaling {
        RopeScaling::None => RopeScaling::None,
        &RopeScaling::Linear { factor } => RopeScaling::Linear { factor },
        &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => {
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_seq: ORIGINAL_SEQ }
        }
        &RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, truncate, .. } => {
            let original_max_seq = ORIGINAL_SEQ;
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_seq, attention_factor, truncate }
        }
        RopeScaling::Divisors(divisors) => {
            let pairs = HEAD_DIM / 2;
            let of_pair = |i| divisors.get(i * divisors.len() / pairs).copied().unwrap_or(1.0);
            RopeScaling::Divisors((0..pairs).map(of_pair).collect())
        }
    };
    Rope { theta: rope.theta.sqrt(), scaling }
}

/// An architecture as its own defaults describe it, in some size.
///
/// # Errors
/// The architecture needs more of a config.json than sizes.
pub fn typical(architecture: &Architecture) -> Result<DecoderConfig> {
    // As many layers as the longest pattern of kinds has.
    let config = json!({
        "vocab_size": 256, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
    });
    (architecture.from_hf)(&config)
        .context(|| format!("{}: a configuration of sizes alone", architecture.name))
}

/// A tiny decoder with random parameters and a batch: in f32, and in f64.
pub struct Case {
    model: Model,
    parameters: Parameters,
    tokens: Vec<u32>,
    targets: Vec<i32>,
}

/// A tensor's gradient beside the differences.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The tensor.
    pub id: TensorId,
    /// Its canonical shape.
    pub shape: Vec<usize>,
    /// How many of its elements were compared.
    pub compared: usize,
    /// The largest slope among them, in nats a unit.
    pub slope: f64,
    /// The largest difference of gradient and slope.
    pub error: f64,
    /// `error` over `slope`, or over a hundredth of the decoder's largest slope if that is more.
    pub relative: f64,
}

impl Comparison {
    /// Whether it is within [`TOLERANCE`].
    pub fn passed(&self) -> bool {
        self.relative <= TOLERANCE
    }
}

impl Case {
    /// The configuration in a tiny size ([`shrink`]), computed on so many threads.
    pub fn new(config: &DecoderConfig, threads: usize) -> Case {
        let config = shrink(config);
        let tensors: HashMap<TensorId, Vec<f32>> = (canonical(&config).into_iter().enumerate())
            .map(|(index, (id, shape))| (id, values(&config, id, &shape, Rng::new(1, index as u64))))
            .collect();
        let parameters =
            tensors.iter().map(|(id, x)| (*id, x.iter().map(|&x| f64::from(x)).collect())).collect();
        let pool = Pool::new(threads);
        let weights = Weights::generate(&config, &pool, DType::F32, |id, first, out| {
            out.copy_from_slice(&tensors[&id][first..first + out.len()]);
        });
        let rows = LENGTHS.iter().sum();
        let mut rng = Rng::new(2, 0);
        let mut token = || (rng.next() % VOCAB as u64) as u32;
        let tokens: Vec<u32> = (0..rows).map(|_| token()).collect();
        let mut targets: Vec<i32> = (0..rows).map(|_| token() as i32).collect();
        targets[LENGTHS[0] / 2] = -1; // one that does not count
        // Which architecture a model names makes no difference after loading.
        let model = Model::from_weights(ARCHITECTURES[0], config, weights, pool);
        Case { model, parameters, tokens, targets }
    }

    /// The configuration that is computed.
    pub fn config(&self) -> &DecoderConfig {
        self.model.config()
    }

    fn batch(&self) -> Batch<'_> {
        Batch { tokens: &self.tokens, targets: &self.targets, lengths: &LENGTHS }
    }

    /// The mean loss in f64.
    pub fn reference_loss(&self) -> f64 {
        Reference { config: self.config(), parameters: &self.parameters }.loss(&self.batch())
    }

    /// The mean loss in f32, and its gradients.
    ///
    /// # Errors
    /// None that this batch gives reason for.
    pub fn gradients(&self) -> Result<(f64, Gradients)> {
        let count = self.targets.iter().filter(|&&target| target >= 0).count().max(1);
        let weight = 1.0 / count as f32;
        let mut gradients = Gradients::new(&self.model, |_| true)?;
        let mut training = Training::new(Recompute::None, CacheType::F32);
        let losses =
            training.gradients(&self.model, &self.batch(), &|_, _| weight, &mut gradients, Write::Set)?;
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / count as f64;
        Ok((loss, gradients))
    }

    /// Up to `elements` elements of each gradient beside the differences, in the order of [`canonical`].
    pub fn compare(&self, gradients: &Gradients, elements: usize) -> Vec<Comparison> {
        let mut rows: Vec<Comparison> = canonical(self.config())
            .into_iter()
            .map(|(id, shape)| Comparison { id, shape, compared: 0, slope: 0.0, error: 0.0, relative: 0.0 })
            .collect();
        self.model.pool().for_each_row(&mut rows, 1, 1, |_, rows| {
            rows.iter_mut().for_each(|row| self.compare_tensor(gradients, elements, row));
        });
        let largest = rows.iter().fold(0.0, |a: f64, row| a.max(row.slope));
        for row in &mut rows {
            let relative = row.error / row.slope.max(SMALLEST_SCALE * largest);
            row.relative = if relative.is_nan() { f64::INFINITY } else { relative };
        }
        rows
    }

    fn compare_tensor(&self, gradients: &Gradients, elements: usize, row: &mut Comparison) {
        let Some(Ok(gradient)) = gradients.get(row.id).map(Values::read) else {
            row.error = f64::INFINITY;
            return;
        };
        let mut parameters = self.parameters.clone();
        let mut loss_at = |index: usize, step: f64| {
            if let (Some(tensor), Some(values)) = (parameters.get_mut(&row.id), self.parameters.get(&row.id))
            {
                tensor.copy_from_slice(values);
                tensor[index] += step;
            }
            Reference { config: self.config(), parameters: &parameters }.loss(&self.batch())
        };
        for index in spread(row.shape.iter().product(), elements) {
            let slope = (loss_at(index, STEP) - loss_at(index, -STEP)) / (2.0 * STEP);
            let at = match *row.shape {
                [_, cols] => panels::index(cols, index / cols, index % cols),
                _ => index,
            };
            let error = (f64::from(gradient[at]) - slope).abs();
            row.error = if error.is_nan() { f64::INFINITY } else { row.error.max(error) };
            row.slope = row.slope.max(slope.abs());
            row.compared += 1;
        }
    }
}

/// Random values that make no part of the decoder idle: rows of about the same size go in and out of a matrix, norms
/// have factors around 1, biases are not 0.
fn values(config: &DecoderConfig, id: TensorId, shape: &[usize], mut rng: Rng) -> Vec<f32> {
    let around = match (id.kind, id.place) {
        (Kind::Bias | Kind::LoraA | Kind::LoraB | Kind::LoraMagnitude, _) => 0.0,
        (Kind::Weight, place) if is_norm(place) => match config.norm {
            Norm::LayerNorm | Norm::RmsNorm => 1.0,
            Norm::RmsNormOnePlus => 0.0,
        },
        (Kind::Weight, _) => 0.0,
    };
    let spread = match *shape {
        [_, cols] => match id.place {
            Place::Embed | Place::PosEmbed => 0.5,
            Place::Head | Place::FinalNorm | Place::Layer(..) => 1.0 / (cols as f32).sqrt(),
        },
        _ => 0.3,
    };
    let len = shape.iter().product();
    (0..len).map(|_| around + spread * rng.normal()).collect()
}

fn is_norm(place: Place) -> bool {
    match place {
        Place::FinalNorm => true,
        Place::Layer(_, part) => !Part::is_projection(part),
        Place::Embed | Place::PosEmbed | Place::Head => false,
    }
}

/// Up to `count` of `len` elements at even distances. The distance has no factor in common with `len`, so that they
/// stand in different columns.
fn spread(len: usize, count: usize) -> impl Iterator<Item = usize> {
    let distance = (1..=len / count.max(1)).rev().find(|&distance| gcd(distance, len) == 1).unwrap_or(1);
    (0..len.min(count)).map(move |i| i * distance)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> DecoderConfig {
        typical(ARCHITECTURES.iter().find(|a| a.name == name).unwrap()).unwrap()
    }

    /// Sizes and numbers aside, nothing changes.
    #[test]
    fn switches_survive() {
        for architecture in ARCHITECTURES {
            let large = typical(architecture).unwrap_or_else(|e| panic!("{e:#}"));
            let small = shrink(&large);
            let switches = |c: &DecoderConfig| {
                let numbers = (c.embedding_scale == 1.0, c.logit_softcap.is_some(), c.n_heads / c.n_kv_heads);
                (c.norm, c.placement, c.positions, c.bias, c.qk_norm, c.mlp, c.head, numbers)
            };
            assert_eq!(switches(&small), switches(&large), "{}", architecture.name);
            let ratio = small.attention_scale * (HEAD_DIM as f32).sqrt();
            let expected = large.attention_scale * (large.head_dim as f32).sqrt();
            assert!((ratio - expected).abs() < 1e-5, "{}: {ratio}, expected {expected}", architecture.name);
            assert!((2..=3).contains(&small.n_layers()), "{}", architecture.name);
        }
    }

    #[test]
    fn both_kinds_of_layers_survive() {
        let gemma3 = shrink(&named("gemma3")).layers;
        let theta = |layer: &LayerConfig| layer.rope.as_ref().map(|rope| rope.theta);
        assert_eq!(gemma3.iter().map(|layer| layer.window).collect::<Vec<_>>(), [Some(WINDOW), None]);
        assert_eq!(gemma3.iter().map(theta).collect::<Vec<_>>(), [Some(100.0), Some(1000.0)]);
        assert_eq!(shrink(&named("mistral")).layers[1].window, Some(WINDOW));
        assert_eq!(shrink(&named("gpt2")).layers, vec![LayerConfig { rope: None, window: None }; 2]);
    }

    #[test]
    fn odd_groups_and_scalings_survive() {
        let mut config = named("qwen2");
        config.layers.truncate(3);
        let divisors = (1..=16).map(|i| i as f32).collect();
        for (i, scaling) in
            [RopeScaling::Linear { factor: 8.0 }, RopeScaling::Divisors(divisors)].iter().enumerate()
        {
            config.layers[i].rope = Some(Rope { theta: 1e4, scaling: scaling.clone() });
        }
        for (heads, expected) in [([14, 2], [8, 2]), ([9, 3], [6, 2]), ([1, 1], [1, 1]), ([71, 1], [4, 1])] {
            [config.n_heads, config.n_kv_heads] = heads;
            let small = shrink(&config);
            assert_eq!([small.n_heads, small.n_kv_heads], expected);
            let scalings: Vec<_> =
                small.layers.iter().filter_map(|l| Some(l.rope.clone()?.scaling)).collect();
            assert_eq!(
                scalings,
                [
                    RopeScaling::Linear { factor: 8.0 },
                    RopeScaling::Divisors(vec![1.0, 6.0, 11.0]),
                    RopeScaling::None
                ]
            );
        }
    }

    #[test]
    fn elements_stand_apart_and_in_all_columns() {
        for (len, count) in [(800, 32), (1, 4), (20, 20), (36, 20), (7, 3), (5, 0)] {
            let mut found: Vec<usize> = spread(len, count).collect();
            assert!(found.iter().all(|&index| index < len));
            found.dedup();
            assert_eq!(found.len(), count.min(len), "{len} {count}");
        }
        let columns: std::collections::HashSet<usize> = spread(800, 32).map(|index| index % 20).collect();
        assert_eq!(columns.len(), 20);
    }
}
