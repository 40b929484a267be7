//! Every gradient of every family against PyTorch's, and what must not change them.
//!
//! Cases are found: every folder under `$WOOTZ_FIXTURES` (default `tests/fixtures`) whose `golden.safetensors` has
//! gradients.

mod gpu;

use std::path::{Path, PathBuf};
use wootz_formats::{Checkpoint, Format, TensorView};
use wootz_kernels::Precision;
use wootz_kernels::device::Accelerator;
use wootz_kernels::ops::Write;
use wootz_kernels::ops::attention::CacheType;
use wootz_model::arch::identify;
use wootz_model::load::LoadOptions;
use wootz_model::{Batch, Chunk, Gradients, Model, Recompute, Rows, Scratch, Training};

fn fixtures() -> PathBuf {
    match std::env::var_os("WOOTZ_FIXTURES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"),
    }
}

/// A family's model with the reference's batch and results.
struct Case {
    folder: PathBuf,
    model: Model,
    golden: Checkpoint,
    tokens: Vec<u32>,
    targets: Vec<i32>,
    lengths: Vec<usize>,
}

fn i32s(view: &TensorView) -> Vec<i32> {
    view.bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

fn f32s(view: &TensorView) -> Vec<f32> {
    view.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn load(folder: &Path, threads: usize) -> Model {
    Model::load(folder, &LoadOptions { precision: Precision::F32, threads })
        .unwrap_or_else(|e| panic!("{e:#}"))
}

fn cases() -> Vec<Case> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(fixtures()).unwrap().flatten().map(|entry| entry.path()).collect();
    folders.sort();
    folders.retain(|f| f.join("config.json").is_file() && f.join("golden.safetensors").is_file());
    let cases: Vec<Case> = (folders.into_iter())
        .filter_map(|folder| {
            let golden = Checkpoint::open(&folder.join("golden.safetensors")).unwrap();
            let has_gradients = golden.tensors().any(|tensor| tensor.name.starts_with("grad."));
            has_gradients.then(|| {
                let ids = golden.tensor("input_ids").unwrap();
                let (batch, seq) = (ids.shape[0], ids.shape[1]);
                Case {
                    model: load(&folder, 2),
                    tokens: i32s(&ids).iter().map(|&id| id as u32).collect(),
                    targets: i32s(&golden.tensor("targets").unwrap()),
                    lengths: vec![seq; batch],
                    folder,
                    golden,
                }
            })
        })
        .collect();
    assert!(!cases.is_empty(), "no gradients under {}", fixtures().display());
    cases
}

impl Case {
    fn batch(&self) -> Batch<'_> {
        Batch { tokens: &self.tokens, targets: &self.targets, lengths: &self.lengths }
    }

    /// The mean loss, and its gradients.
    fn gradients(&self, model: &Model, recompute: Recompute) -> (f64, Gradients) {
        let mut gradients = Gradients::new(model, |_| true).unwrap();
        let mut training = Training::new(recompute, CacheType::F32);
        let weight = 1.0 / self.tokens.len() as f32;
        let losses = training
            .gradients(model, &self.batch(), &|_, _| weight, &mut gradients, Write::Set)
            .unwrap_or_else(|e| panic!("{e:#}"));
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
        (loss, gradients)
    }
}

#[test]
fn parity_of_every_gradient() {
    every_gradient(None, 1);
}

/// On a GPU alone, and with its last layer there.
#[test]
fn parity_of_every_gradient_on_a_gpu() {
    let Some(gpu) = gpu::open() else { return };
    every_gradient(Some(&gpu), usize::MAX);
    every_gradient(Some(&gpu), 1);
}

fn every_gradient(gpu: Option<&Accelerator>, layers: usize) {
    for mut case in cases() {
        if let Some(gpu) = gpu {
            case.model.place(gpu, layers).unwrap();
        }
        let name = case.folder.display();
        let (loss, gradients) = case.gradients(&case.model, Recompute::None);
        let json = std::fs::read(case.folder.join("golden.json")).unwrap();
        let want = serde_json::from_slice::<serde_json::Value>(&json).unwrap()["loss"].as_f64().unwrap();
        assert!((loss - want).abs() <= 2e-5 * want, "{name}: loss {loss}, expected {want}");

        let checkpoint = wootz_model::load::open(&case.folder).unwrap();
        let (architecture, config) = identify(&checkpoint).unwrap();
        // By the tensors of the file: GPT-2's q, k and v are one. (The true gradient of k's bias is 0, for it adds the
        // same to all scores of a query; what is found there is rounding.)
        let sources = architecture.tensors(&config, Format::Safetensors).unwrap();
        assert_eq!(sources.len(), gradients.iter().count());
        let mut compared = 0;
        let mut worst = 0f64;
        for found in gradients.in_file(&sources).unwrap() {
            let golden = case.golden.tensor(&format!("grad.{}", found.name)).unwrap();
            assert_eq!(golden.shape, found.shape, "{name}: {}", found.name);
            let golden = f32s(&golden);
            let size = golden.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            let error = golden.iter().zip(&found.values).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            let relative = (error / size).sqrt();
            assert!(relative <= 1e-4, "{name}: {}: off by {relative:.1e} of its norm", found.name);
            worst = worst.max(relative);
            compared += 1;
        }
        assert_eq!(compared, case.golden.tensors().filter(|t| t.name.starts_with("grad.")).count());
        println!("{name}: {compared} gradients, off by {worst:.1e} at most");
    }
}

fn assert_same(name: &str, a: &Gradients, b: &Gradients) {
    for ((id, a), (_, b)) in a.iter().zip(b.iter()) {
        let (a, b) = (a.read().unwrap(), b.read().unwrap());
        assert!(a.len() == b.len() && !a.is_empty(), "{name}: {id}");
        assert!(a.iter().zip(b.iter()).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}: {id}");
    }
}

/// Off by no more than 1e-6 of the tensor's norm, or 1e-9 of that of all together.
fn assert_close(name: &str, found: &Gradients, expected: &Gradients) {
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let all = expected.iter().map(|(_, x)| norm(x.host()).powi(2)).sum::<f64>().sqrt();
    for ((id, found), (_, expected)) in found.iter().zip(expected.iter()) {
        let (found, expected) = (found.host(), expected.host());
        let error = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        let size = norm(expected);
        assert!(error <= 1e-6 * size + 1e-9 * all, "{name}: {id}: off by {error:.1e} of {size:.1e}");
    }
}

#[test]
fn neither_threads_nor_recomputation_change_a_bit() {
    for case in cases() {
        let name = case.folder.display();
        let (loss, expected) = case.gradients(&case.model, Recompute::None);
        let (single, gradients) = case.gradients(&load(&case.folder, 1), Recompute::None);
        assert_eq!(single, loss, "{name}: one thread");
        assert_same(&format!("{name}: one thread"), &gradients, &expected);
        for recompute in [Recompute::Block, Recompute::All] {
            let (again, gradients) = case.gradients(&case.model, recompute);
            assert_eq!(again, loss, "{name}: {recompute:?}");
            assert_same(&format!("{name}: {recompute:?}"), &gradients, &expected);
        }
    }
}

/// The stream goes on by other ways there: what is added to it is added by the norm that follows, or before it is kept.
#[test]
fn recomputation_changes_no_bit_on_a_gpu() {
    let Some(gpu) = gpu::open() else { return };
    for mut case in cases() {
        for layers in [usize::MAX, 1] {
            case.model.place(&gpu, layers).unwrap();
            let (loss, expected) = case.gradients(&case.model, Recompute::None);
            for recompute in [Recompute::Block, Recompute::All] {
                let name = format!("{}: {recompute:?}, {layers} layers", case.folder.display());
                let (again, gradients) = case.gradients(&case.model, recompute);
                assert_eq!(again, loss, "{name}");
                assert_same(&name, &gradients, &expected);
            }
        }
    }
}

/// What a token's probability is does not depend on whether it is generated or trained on.
#[test]
fn training_has_the_bits_of_generation() {
    for case in cases() {
        let model = &case.model;
        let vocab = model.config().vocab_size;
        let mut training = Training::new(Recompute::None, CacheType::F16);
        let logits = training.logits(model, &case.batch()).unwrap();
        let mut scratch = Scratch::default();
        let mut rows = logits.chunks_exact(vocab);
        for tokens in case.tokens.chunks(case.lengths[0]) {
            let mut cache = model.new_cache(tokens.len(), CacheType::F16).unwrap();
            for token in tokens.chunks(1) {
                let chunk = Chunk { tokens: token, cache: &mut cache, logits: Rows::Last };
                let alone = model.forward(&mut scratch, &mut [chunk]).unwrap();
                let row = rows.next().unwrap();
                let same = alone.iter().zip(row).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{}", case.folder.display());
            }
        }
    }
}

/// One batch of several sequences, or one sequence after the other: the same to 1e-6; and sequences of unequal lengths.
#[test]
fn accumulated_gradients_are_those_of_the_whole_batch() {
    for case in cases() {
        let name = case.folder.display();
        let (_, expected) = case.gradients(&case.model, Recompute::None);
        let mut gradients = Gradients::new(&case.model, |_| true).unwrap();
        let mut training = Training::new(Recompute::None, CacheType::F32);
        let weight = 1.0 / case.tokens.len() as f32;
        let seq = case.lengths[0];
        for (i, (tokens, targets)) in case.tokens.chunks(seq).zip(case.targets.chunks(seq)).enumerate() {
            let batch = Batch { tokens, targets, lengths: &[seq] };
            let write = if i == 0 { Write::Set } else { Write::Add };
            training.gradients(&case.model, &batch, &|_, _| weight, &mut gradients, write).unwrap();
        }
        assert_close(&name.to_string(), &gradients, &expected);
    }
}

/// A target that does not count has no loss and no gradient: as if the sequence ended before it.
#[test]
fn ignored_targets_weigh_nothing() {
    for case in cases() {
        let seq = case.lengths[0];
        let mut training = Training::new(Recompute::None, CacheType::F32);
        let mut run = |tokens: &[u32], targets: &[i32]| {
            let mut gradients = Gradients::new(&case.model, |_| true).unwrap();
            let batch = Batch { tokens, targets, lengths: &[tokens.len()] };
            training.gradients(&case.model, &batch, &|_, _| 0.1, &mut gradients, Write::Set).unwrap();
            gradients
        };
        let half = seq / 2;
        let mut targets = case.targets[..seq].to_vec();
        targets[half..].fill(-100);
        let ignored = run(&case.tokens[..seq], &targets);
        let shorter = run(&case.tokens[..half], &case.targets[..half]);
        assert_close(&case.folder.display().to_string(), &ignored, &shorter);
    }
}

/// A batch without any target has a loss of 0 and gradients of 0, which replace those that were there.
#[test]
fn without_targets_nothing_is_learnt() {
    for case in cases() {
        let (_, mut gradients) = case.gradients(&case.model, Recompute::None);
        let targets = vec![-1; case.targets.len()];
        let batch = Batch { targets: &targets, ..case.batch() };
        let mut training = Training::new(Recompute::None, CacheType::F32);
        let losses =
            training.gradients(&case.model, &batch, &|_, _| 1.0, &mut gradients, Write::Set).unwrap();
        assert!(losses.iter().all(|&loss| loss == 0.0));
        for (id, gradient) in gradients.iter() {
            assert!(gradient.host().iter().all(|&g| g == 0.0), "{}: {id}", case.folder.display());
        }
    }
}

#[test]
fn frozen_parameters_have_no_gradient_and_change_none() {
    use wootz_model::names::Place;
    for case in cases() {
        let (_, all) = case.gradients(&case.model, Recompute::None);
        let mut some = Gradients::new(&case.model, |place| matches!(place, Place::Layer(0, _))).unwrap();
        let mut training = Training::new(Recompute::None, CacheType::F32);
        let weight = 1.0 / case.tokens.len() as f32;
        training.gradients(&case.model, &case.batch(), &|_, _| weight, &mut some, Write::Set).unwrap();
        assert!(some.iter().count() > 3 && some.iter().count() < all.iter().count());
        for (id, gradient) in some.iter() {
            assert_eq!(gradient.host(), all.get(id).unwrap().host(), "{}: {id}", case.folder.display());
        }
    }
}

/// What a batch left in the buffers does not reach the next one, though it were NaN, and the next one shorter.
#[test]
fn batches_leave_nothing_behind() {
    use wootz_model::weights::Parameter;
    for case in cases() {
        let mut broken = load(&case.folder, 2);
        let (weights, _) = broken.weights_mut();
        if let Some((_, Parameter::Matrix(embed))) = weights.parameters_mut().into_iter().next() {
            embed.host_mut().values_mut().expect("f32").fill(f32::NAN);
        }
        let seq = case.lengths[0];
        let mut used = Training::new(Recompute::None, CacheType::F32);
        let poison = |training: &mut Training| {
            let losses = training.loss(&broken, &case.batch()).unwrap();
            assert!(losses.iter().all(|loss| loss.is_nan()));
        };
        poison(&mut used);
        // One sequence, then two again, all shorter than those that were there.
        for (count, length) in [(1, seq / 2), (2, seq / 3), (1, 1)] {
            let rows = count * length;
            let lengths = vec![length; count];
            let batch =
                Batch { tokens: &case.tokens[..rows], targets: &case.targets[..rows], lengths: &lengths };
            let mut fresh = Training::new(Recompute::None, CacheType::F32);
            let expected = fresh.loss(&case.model, &batch).unwrap().to_vec();
            assert_eq!(used.loss(&case.model, &batch).unwrap(), expected, "{}", case.folder.display());
        }
    }
}

#[test]
fn wrong_batches_are_errors() {
    let case = cases().swap_remove(0);
    let mut training = Training::new(Recompute::None, CacheType::F32);
    let vocab = case.model.config().vocab_size;
    let mut message = |tokens: &[u32], targets: &[i32], lengths: &[usize]| {
        training.loss(&case.model, &Batch { tokens, targets, lengths }).unwrap_err().to_string()
    };
    assert!(message(&[1, vocab as u32], &[1, 1], &[2]).contains("not in the vocabulary"));
    assert!(message(&[1, 2], &[1, vocab as i32], &[2]).contains("target"));
    assert!(message(&[1, 2], &[1], &[2]).contains("must agree"));
    assert!(message(&[1, 2], &[1, 1], &[1]).contains("must agree"));
    assert!(message(&[1, 2], &[1, 1], &[2, 0]).contains("nor a sequence be empty"));
    assert!(message(&[], &[], &[]).contains("neither the batch"));
}
