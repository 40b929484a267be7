//! A token's log-probability when it was drawn is its log-probability in training, bit for bit: sampling and training are one
//! program.
//!
//! Whole prompts at once and token by token, alone and in company, with a prefix that others share, with an adapter, cut
//! off by top-k and top-p or not: what is drawn goes through training, forward and backward, in other batches.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wootz_kernels::ops::Write;
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::rng::Rng;
use wootz_kernels::{DType, Precision, panels};
use wootz_model::generate::{
    Drawn, Engine, EngineOptions, Event, Kept, Request, SamplerOptions, SequenceId, Session,
};
use wootz_model::load::LoadOptions;
use wootz_model::lora::{Adapter, LoraOptions, Scaling};
use wootz_model::weights::Parameter;
use wootz_model::{Batch, Distribution, Gradients, Model, Recompute, Training};

fn fixtures() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    std::env::var_os("WOOTZ_FIXTURES").map_or(own, PathBuf::from)
}

/// Every family's fixture, with its matrices in a type.
fn families(threads: usize, dtype: DType) -> Vec<(String, Model)> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("config.json").exists());
    folders.sort();
    assert!(!folders.is_empty(), "no model in {}", fixtures().display());
    let load = |folder: &PathBuf| {
        let mut model = Model::load(folder, &LoadOptions { precision: Precision::F32, threads }).unwrap();
        let (weights, pool) = model.weights_mut();
        weights.convert(pool, dtype, |_, _| true).unwrap();
        (format!("{} {dtype:?}", folder.display()), model)
    };
    folders.iter().map(load).collect()
}

/// Quantised files, which multiply rounded inputs or exact ones.
fn quantised(threads: usize, precision: Precision) -> Vec<(String, Model)> {
    let folder = fixtures().join("gguf");
    let mut found = Vec::new();
    for model in std::fs::read_dir(&folder).unwrap().flatten() {
        for file in std::fs::read_dir(model.path()).unwrap().flatten().map(|file| file.path()) {
            if file.extension().is_some_and(|extension| extension == "gguf") {
                let model = Model::load(&file, &LoadOptions { precision, threads }).unwrap();
                found.push((format!("{} {precision:?}", file.display()), model));
            }
        }
    }
    assert!(!found.is_empty(), "no .gguf under {}", folder.display());
    found
}

/// Puts on an adapter, all of whose matrices are random.
fn adapt(model: &mut Model) {
    let options = LoraOptions {
        rank: 4,
        alpha: 8.0,
        scaling: Scaling::Rank,
        targets: model.projections(),
        magnitudes: false,
        dropout: 0.0,
        seed: 3,
    };
    let mut adapter = Adapter::new(model.config(), model.pool(), &options).unwrap();
    let mut rng = Rng::new(9, 0);
    for (_, parameter) in adapter.parameters_mut() {
        let Parameter::Matrix(matrix) = parameter else { panic!("adapters are matrices") };
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let values = matrix.host_mut().values_mut().unwrap();
        (0..rows * cols).for_each(|i| values[panels::index(cols, i / cols, i % cols)] = 0.05 * rng.normal());
    }
    model.put_on(adapter).unwrap();
}

/// A prompt with what was drawn after it.
#[derive(Default)]
struct Sequence {
    prompt: Vec<u32>,
    answer: Vec<u32>,
    drawn: Vec<Drawn>,
}

/// Draws answers of mixed lengths to mixed prompts, three to each, which share the prompt's cache.
fn draw(model: &Model, cache: CacheType, sampler: &SamplerOptions) -> Vec<Sequence> {
    let options = EngineOptions { max_batch: 5, chunk: 24, context: 120, cache };
    let mut engine = Engine::new(model, options);
    let vocab = model.config().vocab_size as u64;
    let rng = Rng::new(7, 1);
    let prompt = |length: u64| (0..length).map(|i| (rng.at(i * length) % vocab) as u32).collect::<Vec<u32>>();
    // The longest answer has 49 tokens.
    let longest = model.config().max_seq.min(options.context) as u64 - 50;
    let prompts: Vec<Vec<u32>> = [1, 40, 7, 64].map(|length: u64| prompt(length.min(longest))).into();
    let mut prefixes: BTreeMap<SequenceId, Vec<u32>> = BTreeMap::new();
    let mut sequences: BTreeMap<SequenceId, Sequence> = BTreeMap::new();
    for prompt in prompts {
        let request = Request { keep: true, ..Request::greedy(prompt.clone(), 0) };
        prefixes.insert(engine.add(request).unwrap(), prompt);
    }
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            match event {
                Event::Token { sequence, token } => {
                    let of = sequences.get_mut(&sequence).unwrap();
                    of.answer.push(token.id);
                    of.drawn.push(token.drawn.unwrap());
                }
                Event::Finished { sequence, finish } => {
                    let Some(prompt) = prefixes.remove(&sequence) else { continue };
                    let prefix = Arc::new(finish.session.unwrap());
                    for i in 0..3 {
                        let id = engine.add(answer(&prompt, &prefix, i, sampler)).unwrap();
                        sequences.insert(id, Sequence { prompt: prompt.clone(), ..Sequence::default() });
                    }
                }
            }
        }
    }
    sequences.into_values().collect()
}

fn answer(prompt: &[u32], prefix: &Arc<Session>, i: usize, sampler: &SamplerOptions) -> Request {
    Request {
        sampler: sampler.clone(),
        stream: (prompt.len() * 3 + i) as u64,
        drawn: true,
        prefix: Some(Arc::clone(prefix)),
        ..Request::greedy(prompt.to_vec(), 9 + 20 * i)
    }
}

/// Log-probabilities of the answers in training, batches of `size` sequences, forward alone or with gradients.
fn replay(
    model: &Model,
    sequences: &[Sequence],
    cache: CacheType,
    scale: f32,
    (size, backward): (usize, bool),
) -> Vec<f32> {
    let mut training = Training::new(Recompute::None, cache);
    let mut gradients = Gradients::of_adapter(model, &model.adapters()[0], |_| false).unwrap();
    let mut found = Vec::new();
    for sequences in sequences.chunks(size) {
        let (mut tokens, mut targets, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        let mut kept: Vec<Option<&Kept>> = Vec::new();
        for Sequence { prompt, answer, drawn } in sequences {
            let all = [&prompt[..], answer].concat();
            lengths.push(all.len() - 1);
            tokens.extend(&all[..all.len() - 1]);
            let unlearnt = prompt.len() - 1;
            targets.extend((1..all.len()).map(|i| if i <= unlearnt { -1 } else { all[i] as i32 }));
            kept.extend((0..unlearnt).map(|_| None).chain(drawn.iter().map(|drawn| drawn.kept.as_ref())));
        }
        let batch = Batch { tokens: &tokens, targets: &targets, lengths: &lengths };
        let kept = |row: usize| kept[row];
        let drawn = Distribution { scale, kept: Some(&kept) };
        let losses = match backward {
            true => {
                let weight = |_: usize, loss: f32| 0.1 * loss;
                training.gradients_under(model, &batch, &drawn, &weight, &mut gradients, Write::Set)
            }
            false => training.loss_under(model, &batch, &drawn),
        };
        let learnt = losses.unwrap().iter().zip(&targets).filter(|(_, target)| **target >= 0);
        found.extend(learnt.map(|(loss, _)| -loss));
        assert!(
            !backward
                || gradients.iter().all(|(_, values)| values.read().unwrap().iter().all(|g| g.is_finite()))
        );
    }
    found
}

fn check(models: Vec<(String, Model)>, others: Vec<(String, Model)>, ways: &[(usize, bool)]) {
    let plain = SamplerOptions { seed: 3, ..SamplerOptions::default() };
    let warm = SamplerOptions { temperature: 0.7, ..plain.clone() };
    let cut = SamplerOptions { temperature: 1.3, top_k: 40, top_p: 0.9, ..plain.clone() };
    let wide = SamplerOptions { top_p: 0.97, ..plain.clone() };
    for ((name, mut model), (_, mut other)) in models.into_iter().zip(others) {
        adapt(&mut model);
        adapt(&mut other);
        for (i, sampler) in [&plain, &warm, &cut, &wide].into_iter().enumerate() {
            let cache = if i == 1 { CacheType::F16 } else { CacheType::F32 };
            let sequences = draw(&model, cache, sampler);
            let expected: Vec<f32> =
                sequences.iter().flat_map(|sequence| &sequence.drawn).map(|drawn| drawn.logprob).collect();
            assert!(expected.iter().all(|l| l.is_finite() && *l <= 0.0) && expected.len() > 300, "{name}");
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
            for &way in ways {
                for (model, threads) in [(&model, 2), (&other, 1)] {
                    let found = replay(model, &sequences, cache, sampler.scale(), way);
                    let what = format!("{name}, {threads} threads, sampler {i}, {way:?}");
                    assert!(bits(&found) == bits(&expected), "{what}");
                }
            }
        }
    }
}

#[test]
fn drawn_and_trained_log_probabilities_are_equal_in_f32() {
    check(families(2, DType::F32), families(1, DType::F32), &[(12, true), (1, false), (5, true)]);
}

#[test]
fn drawn_and_trained_log_probabilities_are_equal_in_bf16_and_f16() {
    check(families(2, DType::BF16), families(1, DType::BF16), &[(5, true)]);
    check(families(2, DType::F16), families(1, DType::F16), &[(12, true)]);
}

#[test]
fn drawn_and_trained_log_probabilities_are_equal_over_quantised_weights() {
    check(quantised(2, Precision::Native), quantised(1, Precision::Native), &[(5, true)]);
    check(quantised(2, Precision::F32), quantised(1, Precision::F32), &[(12, false)]);
}

/// The test can fail: another temperature, or other weights, have other probabilities.
#[test]
fn what_was_drawn_otherwise_has_other_log_probabilities() {
    let (_, mut model) = families(1, DType::F32).remove(1);
    adapt(&mut model);
    let sampler = SamplerOptions { seed: 3, temperature: 0.7, ..SamplerOptions::default() };
    let sequences = draw(&model, CacheType::F32, &sampler);
    let of = |model: &Model, scale| replay(model, &sequences, CacheType::F32, scale, (4, false));
    let same = of(&model, sampler.scale());
    assert_ne!(of(&model, 1.0), same);
    model.adapters_mut()[0].strength = 1.001;
    assert_ne!(of(&model, sampler.scale()), same);
}
