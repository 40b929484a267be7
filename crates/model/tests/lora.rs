//! Adapters: what they compute is what their formula says, forward and backward, in every family.
//!
//! Models are presets of every architecture, shrunk, with random weights.

use wootz_kernels::ops::Write;
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::rng::Rng;
use wootz_kernels::{DType, Pool, panels};
use wootz_model::init::Init;
use wootz_model::lora::{Adapter, LoraOptions, Scaling};
use wootz_model::names::{Kind, Part, Place, TensorId};
use wootz_model::presets::{Overrides, preset};
use wootz_model::weights::{Parameter, Weights};
use wootz_model::{Batch, Chunk, Gradients, Model, Recompute, Rows, Scratch, Training};

const VOCAB: usize = 97;

/// A family's small model, with or without its adapter, whose matrices are random, b too.
fn model(name: &str, threads: usize, targets: &[Part], dropout: f32) -> Model {
    let sizes = Overrides {
        n_layers: Some(3),
        dim: Some(64),
        n_heads: Some(4),
        vocab_size: Some(VOCAB),
        ..Overrides::default()
    };
    let (architecture, config) = preset(name).unwrap().config(&sizes).unwrap();
    let pool = Pool::new(threads);
    let init = Init { seed: 5, std: 0.2 };
    let weights =
        Weights::generate(&config, &pool, DType::F32, |id, first, out| init.fill(&config, id, first, out));
    let mut model = Model::from_weights(architecture, config, weights, pool);
    let targets = targets.iter().copied().filter(|part| has(&model, *part)).collect();
    let options = LoraOptions {
        rank: 5,
        alpha: 8.0,
        scaling: Scaling::Rank,
        targets,
        magnitudes: false,
        dropout,
        seed: 3,
    };
    let mut adapter = Adapter::new(model.config(), model.pool(), &options).unwrap();
    let mut rng = Rng::new(9, 0);
    for (_, parameter) in adapter.parameters_mut() {
        let Parameter::Matrix(matrix) = parameter else { panic!("adapters are matrices") };
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let values = matrix.host_mut().values_mut().unwrap();
        for row in 0..rows {
            for col in 0..cols {
                values[panels::index(cols, row, col)] = 0.1 * rng.normal();
            }
        }
    }
    model.adapters_mut().push(adapter);
    model
}

fn has(model: &Model, part: Part) -> bool {
    model.weights().layers[0].linear(part).is_some()
}

fn families() -> [&'static str; 4] {
    ["gpt2-124m", "llama-15m", "qwen3-0.6b", "gemma3-270m"]
}

fn projections() -> Vec<Part> {
    Part::ALL.into_iter().filter(|part| part.is_projection()).collect()
}

/// Two sequences, and what follows.
struct Data {
    tokens: Vec<u32>,
    targets: Vec<i32>,
    lengths: Vec<usize>,
}

impl Data {
    fn new() -> Data {
        let mut rng = Rng::new(1, 1);
        let mut draw = || (rng.next() % VOCAB as u64) as u32;
        let tokens: Vec<u32> = (0..30).map(|_| draw()).collect();
        let targets = (0..30).map(|_| draw() as i32).collect();
        Data { tokens, targets, lengths: vec![19, 11] }
    }

    fn batch(&self) -> Batch<'_> {
        Batch { tokens: &self.tokens, targets: &self.targets, lengths: &self.lengths }
    }
}

/// A matrix in rows.
fn rows(values: &[f32], [n, k]: [usize; 2]) -> Vec<f64> {
    (0..n * k).map(|i| f64::from(values[panels::index(k, i / k, i % k)])).collect()
}

/// The adapter's matrices at a place, in rows.
fn matrices(model: &Model, place: Place) -> [Vec<f64>; 2] {
    let lora = &model.adapters()[0].parts[&place];
    [&lora.a, &lora.b].map(|matrix| {
        let shape = [matrix.rows(), matrix.cols()];
        let mut values = vec![0.0; panels::len(shape)];
        matrix.host().decode(model.pool(), &mut values);
        rows(&values, shape)
    })
}

fn gradients(
    model: &Model,
    data: &Data,
    mut gradients: Gradients,
    recompute: Recompute,
    draw: Option<u64>,
) -> Gradients {
    let mut training = Training::new(recompute, CacheType::F32);
    training.set_draw(draw);
    let weight = |row: usize, _: f32| 0.01 * (1 + row % 3) as f32;
    training.gradients(model, &data.batch(), &weight, &mut gradients, Write::Set).unwrap();
    gradients
}

/// A model with an adapter gives the logits of one whose weights are `w + s b a`.
#[test]
fn an_adapter_is_a_change_of_the_weights() {
    let data = Data::new();
    for name in families() {
        let adapted = model(name, 2, &projections(), 0.0);
        let mut merged = model(name, 2, &projections(), 0.0);
        let adapter = merged.adapters_mut().pop().unwrap();
        let (weights, _) = merged.weights_mut();
        for (id, parameter) in weights.parameters_mut() {
            let (Parameter::Matrix(matrix), Kind::Weight, Some(lora)) =
                (parameter, id.kind, adapter.parts.get(&id.place))
            else {
                continue;
            };
            let (n, k, r) = (matrix.rows(), matrix.cols(), lora.rank());
            let [a, b] = matrices(&adapted, id.place);
            let values = matrix.host_mut().values_mut().unwrap();
            for row in 0..n {
                for col in 0..k {
                    let change: f64 = (0..r).map(|i| b[row * r + i] * a[i * k + col]).sum();
                    values[panels::index(k, row, col)] += (8.0 / 5.0 * change) as f32;
                }
            }
        }
        let logits = |model: &Model| {
            Training::new(Recompute::None, CacheType::F32).logits(model, &data.batch()).unwrap()
        };
        let (found, expected) = (logits(&adapted), logits(&merged));
        let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        let off = found.iter().zip(&expected).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
        assert!(off <= 2e-5 * largest, "{name}: off by {off} of {largest}");
        merged.adapters_mut().clear();
        let mut plain = model(name, 2, &projections(), 0.0);
        plain.adapters_mut().clear();
        let without = logits(&plain);
        let moved = without.iter().zip(&expected).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
        assert!(moved > 0.01 * largest, "{name}: the adapter does nothing");
        // Half of it is half of the change, and twice half of it the whole.
        let mut halves = model(name, 2, &projections(), 0.0);
        halves.adapters_mut()[0].strength = 0.5;
        let half = halves.adapters()[0].copy().unwrap();
        halves.adapters_mut().push(half);
        let off = logits(&halves).iter().zip(&expected).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
        assert!(off <= 2e-5 * largest, "{name}: two halves off by {off} of {largest}");
    }
}

/// With `dw` the gradient of `w + s b a`, that of b is `s dw aᵀ` and that of a is `s bᵀ dw`.
#[test]
fn gradients_are_those_of_the_changed_weights() {
    let data = Data::new();
    for name in families() {
        let model = model(name, 2, &projections(), 0.0);
        let all = Gradients::of_adapter(&model, &model.adapters()[0], |_| true).unwrap();
        let all = gradients(&model, &data, all, Recompute::None, None);
        let mut compared = 0;
        for (&place, lora) in &model.adapters()[0].parts {
            let (n, k, r) = (lora.b.rows(), lora.a.cols(), lora.rank());
            let dw = rows(all.get(TensorId::weight(place)).unwrap().host(), [n, k]);
            let da = rows(all.get(TensorId { place, kind: Kind::LoraA }).unwrap().host(), [r, k]);
            let db = rows(all.get(TensorId { place, kind: Kind::LoraB }).unwrap().host(), [n, r]);
            let [a, b] = matrices(&model, place);
            let scale = 8.0 / 5.0;
            let mut check = |found: &[f64], expected: Vec<f64>| {
                let norm = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
                let off = found.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
                assert!(off <= 1e-5 * norm && norm > 0.0, "{name} {place:?}: off by {off} of {norm}");
                compared += 1;
            };
            let product =
                |i: usize, j: usize| (0..k).map(|c| dw[i * k + c] * a[j * k + c]).sum::<f64>() * scale;
            check(&db, (0..n * r).map(|at| product(at / r, at % r)).collect());
            let product =
                |j: usize, c: usize| (0..n).map(|i| b[i * r + j] * dw[i * k + c]).sum::<f64>() * scale;
            check(&da, (0..r * k).map(|at| product(at / k, at % k)).collect());
        }
        let projections = if name == "gpt2-124m" { 6 } else { 7 };
        assert_eq!(compared, 2 * 3 * projections);
    }
}

/// Neither what else is trained, nor recomputation, threads or how deep backward goes change a bit.
#[test]
fn bits_do_not_depend_on_what_else_is_trained() {
    let data = Data::new();
    for name in families() {
        for dropout in [0.0, 0.3] {
            let draw = Some(77);
            let whole = model(name, 2, &projections(), dropout);
            let of = |model: &Model| Gradients::of_adapter(model, &model.adapters()[0], |_| false).unwrap();
            let beside = Gradients::of_adapter(&whole, &whole.adapters()[0], |_| true).unwrap();
            let expected = gradients(&whole, &data, beside, Recompute::None, draw);
            let single = model(name, 1, &projections(), dropout);
            for (what, model, recompute) in [
                ("the adapter alone", &whole, Recompute::None),
                ("blocks again", &whole, Recompute::Block),
                ("stretches again", &whole, Recompute::All),
                ("one thread", &single, Recompute::None),
            ] {
                for (id, gradient) in gradients(model, &data, of(model), recompute, draw).iter() {
                    assert_eq!(gradient.host(), expected.get(id).unwrap().host(), "{name}: {what}: {id}");
                }
            }
            // The same values, trained at the upper places alone.
            for lowest in [Place::Layer(1, Part::V), Place::Layer(1, Part::Up), Place::Layer(2, Part::Down)] {
                let mut upper = model(name, 2, &projections(), dropout);
                let mut frozen = upper.adapters()[0].copy().unwrap();
                upper.adapters_mut()[0].parts.retain(|place, _| *place >= lowest);
                frozen.parts.retain(|place, _| *place < lowest);
                if dropout == 0.0 {
                    upper.adapters_mut().push(frozen);
                    for recompute in [Recompute::None, Recompute::Block, Recompute::All] {
                        let found = gradients(&upper, &data, of(&upper), recompute, draw);
                        assert!(found.iter().count() > 0);
                        for (id, gradient) in found.iter() {
                            assert_eq!(
                                gradient.host(),
                                expected.get(id).unwrap().host(),
                                "{name}: from {lowest:?}: {id}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// By differences: with dropout, whose draw is the same on both sides.
#[test]
fn dropout_is_in_the_gradient() {
    let data = Data::new();
    for name in families() {
        let mut model = model(name, 2, &projections(), 0.4);
        let of = Gradients::of_adapter(&model, &model.adapters()[0], |_| false).unwrap();
        let gradients = gradients(&model, &data, of, Recompute::None, Some(4));
        let norm = gradients.iter().flat_map(|(_, g)| g.host()).map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        let mut training = Training::new(Recompute::None, CacheType::F32);
        training.set_draw(Some(4));
        let mut loss_at = |step: f64| -> f64 {
            for (id, parameter) in model.adapters_mut()[0].parameters_mut() {
                let Parameter::Matrix(matrix) = parameter else { continue };
                for (w, g) in
                    matrix.host_mut().values_mut().unwrap().iter_mut().zip(gradients.get(id).unwrap().host())
                {
                    *w += (step * f64::from(*g) / norm) as f32;
                }
            }
            let losses = training.loss(&model, &data.batch()).unwrap();
            losses.iter().enumerate().map(|(row, &loss)| 0.01 * (1 + row % 3) as f64 * f64::from(loss)).sum()
        };
        let above = loss_at(2e-3);
        let below = loss_at(-4e-3);
        let slope = (above - below) / 4e-3;
        assert!((slope - norm).abs() < 0.02 * norm, "{name}: {slope} by difference, {norm} by backward");
    }
}

/// A token has the same bits when it is generated and when it is trained on, with adapters as without.
#[test]
fn training_has_the_bits_of_generation() {
    let data = Data::new();
    for name in families() {
        for dtype in [DType::F32, DType::BF16] {
            let mut model = model(name, 2, &[Part::Q, Part::V, Part::Down], 0.3);
            let (weights, pool) = model.weights_mut();
            weights.convert(pool, dtype, |_, _| true).unwrap();
            let all = Training::new(Recompute::None, CacheType::F32).logits(&model, &data.batch()).unwrap();
            let mut cache = model.new_cache(64, CacheType::F32).unwrap();
            let mut scratch = Scratch::default();
            for (i, token) in data.tokens[..19].iter().enumerate() {
                let chunk = Chunk { tokens: &[*token], cache: &mut cache, logits: Rows::Last };
                let logits = model.forward(&mut scratch, &mut [chunk]).unwrap();
                assert_eq!(logits, &all[i * VOCAB..(i + 1) * VOCAB], "{name} {dtype}: token {i}");
            }
        }
    }
}

#[test]
fn what_means_nothing_is_an_error() {
    let (_, config) = preset("gpt2-124m").unwrap().config(&Overrides::default()).unwrap();
    let options = LoraOptions {
        rank: 4,
        alpha: 8.0,
        scaling: Scaling::Rank,
        targets: vec![Part::Q],
        magnitudes: false,
        dropout: 0.0,
        seed: 0,
    };
    let error =
        |options: LoraOptions| Adapter::new(&config, &Pool::new(1), &options).unwrap_err().to_string();
    assert!(error(LoraOptions { rank: 0, ..options.clone() }).contains("rank of 0"));
    assert!(error(LoraOptions { dropout: 1.0, ..options.clone() }).contains("dropout of 1"));
    assert!(error(LoraOptions { alpha: f32::NAN, ..options.clone() }).contains("alpha"));
    assert!(error(LoraOptions { targets: vec![], ..options.clone() }).contains("without targets"));
    assert!(error(LoraOptions { targets: vec![Part::Gate], ..options }).contains("no projection `gate`"));
}
