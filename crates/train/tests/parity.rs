//! Ten optimiser steps of every family against PyTorch's, in f32, bf16 and f16, and what must not change a bit.
//!
//! Cases are found: every folder under `$WOOTZ_FIXTURES` (default `tests/fixtures`) whose `golden.json` has `adamw`.

#[path = "../../model/tests/gpu/mod.rs"]
mod gpu;

use serde_json::Value;
use std::path::{Path, PathBuf};
use wootz_formats::llmc::DebugState;
use wootz_formats::{Checkpoint, Metadata};
use wootz_kernels::Precision;
use wootz_kernels::device::Accelerator;
use wootz_model::load::LoadOptions;
use wootz_model::{Batch, Model, Recompute};
use wootz_train::loss_scale::LossScale;
use wootz_train::optimizer::{Adam, Decay, Options, Rule};
use wootz_train::trainer::{Format, Refused, Trained, Trainer};

fn fixtures() -> PathBuf {
    match std::env::var_os("WOOTZ_FIXTURES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"),
    }
}

struct Case {
    folder: PathBuf,
    tokens: Vec<u32>,
    targets: Vec<i32>,
    lengths: Vec<usize>,
    golden: Value,
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn cases() -> Vec<Case> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(fixtures()).unwrap().flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let mut cases = Vec::new();
    for folder in folders.into_iter().filter(|f| f.join("golden.json").is_file()) {
        let golden = json(&folder.join("golden.json"));
        if golden["adamw"].is_null() {
            continue;
        }
        let tensors = Checkpoint::open(&folder.join("golden.safetensors")).unwrap();
        let ids = |name: &str| -> Vec<i32> {
            let tensor = tensors.tensor(name).unwrap();
            tensor.bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
        };
        let shape = tensors.tensor("input_ids").unwrap().shape.to_vec();
        cases.push(Case {
            tokens: ids("input_ids").iter().map(|&id| id as u32).collect(),
            targets: ids("targets"),
            lengths: vec![shape[1]; shape[0]],
            golden,
            folder,
        });
    }
    assert!(!cases.is_empty(), "no optimiser steps under {}", fixtures().display());
    cases
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

impl Case {
    fn batch(&self) -> Batch<'_> {
        Batch { tokens: &self.tokens, targets: &self.targets, lengths: &self.lengths }
    }

    fn trainer(&self, format: Format, threads: usize) -> Trainer {
        self.trainer_on(None, format, threads)
    }

    fn trainer_on(&self, gpu: Option<&Accelerator>, format: Format, threads: usize) -> Trainer {
        let settings = &self.golden["adamw"];
        let adam = Adam {
            beta1: number(&settings["betas"][0]),
            beta2: number(&settings["betas"][1]),
            eps: number(&settings["eps"]),
        };
        let options = Options {
            rule: Rule::AdamW(adam),
            weight_decay: number(&settings["weight_decay"]),
            decay: Decay::Matrices,
        };
        let clip = Some(number(&settings["clip"]));
        let mut model = load(&self.folder, threads);
        if let Some(gpu) = gpu {
            model.place(gpu, usize::MAX).unwrap();
        }
        Trainer::new(model, options, format, Recompute::None, clip, Trained::All).unwrap()
    }
}

fn load(path: &Path, threads: usize) -> Model {
    Model::load(path, &LoadOptions { precision: Precision::F32, threads }).unwrap_or_else(|e| panic!("{e:#}"))
}

/// Losses and gradient norms of ten steps; the tolerance is relative.
fn ten_steps(gpu: Option<&Accelerator>, format: Format, tolerance: f64) {
    for case in cases() {
        // A software driver is slow: there, the types that are rounded are tried with one family.
        if gpu.is_some() && format != Format::F32 && !case.folder.ends_with("qwen3-micro") {
            continue;
        }
        let name = case.folder.display();
        let mut trainer = case.trainer_on(gpu, format, 2);
        let settings = &case.golden["adamw"];
        let mut worst = 0f64;
        for (i, want) in settings["steps"].as_array().unwrap().iter().enumerate() {
            let step = trainer.step(&[case.batch()], number(&settings["lr"])).unwrap();
            assert_eq!(step.refused, None);
            let found = [(step.loss, number(&want["loss"])), (step.grad_norm, number(&want["grad_norm"]))];
            for ((found, want), what) in found.into_iter().zip(["loss", "norm"]) {
                let error = (found - want).abs() / want;
                worst = worst.max(error);
                assert!(error <= tolerance, "{name}: step {i}: {what} {found}, expected {want}");
            }
        }
        println!("{name}: {format:?} off by {worst:.1e} at most");
    }
}

#[test]
fn parity_of_ten_steps_in_f32() {
    ten_steps(None, Format::F32, 1e-4);
}

/// bf16 has 8 bits: products are off by up to 2^-9 each, and ten steps by some of that in sum.
#[test]
fn parity_of_ten_steps_in_bf16() {
    ten_steps(None, Format::Bf16, 2e-2);
}

/// f16 has 11 bits.
#[test]
fn parity_of_ten_steps_in_f16() {
    ten_steps(None, Format::F16, 2e-3);
}

/// There weights alone are rounded.
#[test]
fn parity_of_ten_steps_on_a_gpu() {
    let Some(gpu) = gpu::open() else { return };
    for (format, tolerance) in [(Format::F32, 1e-4), (Format::Bf16, 2e-2), (Format::F16, 2e-3)] {
        ten_steps(Some(&gpu), format, tolerance);
    }
}

/// A loss that is multiplied by too much gives gradients that f16 has no room for: steps are left out, and the number is
/// halved, until they fit. The weights have not moved then, and go on as if nothing had been.
#[test]
fn a_loss_scale_that_is_too_large_is_halved() {
    let case = cases().swap_remove(0);
    let mut plain = case.trainer(Format::F16, 2);
    let mut scaled = case.trainer(Format::F16, 2);
    let huge: LossScale =
        serde_json::from_value(serde_json::json!({"value": 2f32.powi(60), "fitted": 7})).unwrap();
    scaled.loss_scale = Some(huge);
    let mut refused = 0;
    let step = loop {
        let before = scaled.loss_scale.unwrap().value();
        let step = scaled.step(&[case.batch()], 1e-3).unwrap();
        match step.refused {
            Some(Refused::Overflow(scale)) => assert_eq!(scale, before),
            None => break step,
            other => panic!("{other:?}"),
        }
        assert_eq!(scaled.loss_scale.unwrap().value(), before / 2.0);
        assert_eq!(scaled.optimizer.steps(), 0);
        refused += 1;
    };
    assert!(refused > 20, "{refused} steps refused");
    let unscaled = plain.step(&[case.batch()], 1e-3).unwrap();
    assert_eq!(step.loss, unscaled.loss);
    assert!((step.grad_norm - unscaled.grad_norm).abs() <= 1e-3 * unscaled.grad_norm);
    for _ in 0..3 {
        let [a, b] = [&mut plain, &mut scaled].map(|t| t.step(&[case.batch()], 1e-3).unwrap().loss);
        assert!((a - b).abs() <= 1e-3 * a, "{a}, with another scale {b}");
    }
}

#[test]
fn parity_of_llmc_training() {
    let folder = fixtures().join("gpt2-micro/llmc");
    if !folder.is_dir() {
        println!("skipped: no {}", folder.display());
        return;
    }
    let path = folder.join("model.bin");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let Metadata::LlmC(header) = checkpoint.metadata() else { panic!() };
    let state = DebugState::open(&folder.join("debug_state.bin"), header).unwrap();
    let tokens: Vec<u32> = state.inputs().iter().map(|&id| id as u32).collect();
    let targets = state.targets();
    let lengths = vec![state.seq(); state.batch()];
    // What llm.c's test does: no clipping, and every tensor decays.
    let rule = Rule::AdamW(Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 });
    let options = Options { rule, weight_decay: 0.01, decay: Decay::All };
    let mut trainer =
        Trainer::new(load(&path, 2), options, Format::F32, Recompute::None, None, Trained::All).unwrap();
    let want = json(&folder.join("train_losses.json"));
    for (i, want) in want["losses"].as_array().unwrap().iter().enumerate() {
        let batch = Batch { tokens: &tokens, targets: &targets, lengths: &lengths };
        let step = trainer.step(&[batch], 1e-4).unwrap();
        let error = (step.loss - number(want)).abs() / number(want);
        assert!(error <= 1e-5, "step {i}: {}, expected {want}", step.loss);
    }
}

/// Three steps' losses, as bits.
fn three_steps(case: &Case, mut trainer: Trainer, parts: usize) -> Vec<u64> {
    let sequences = case.lengths.len() / parts;
    let batches: Vec<Batch> = (0..parts)
        .map(|i| {
            let rows = i * sequences * case.lengths[0]..(i + 1) * sequences * case.lengths[0];
            Batch {
                tokens: &case.tokens[rows.clone()],
                targets: &case.targets[rows],
                lengths: &case.lengths[..sequences],
            }
        })
        .collect();
    (0..3).map(|_| trainer.step(&batches, 1e-3).unwrap().loss.to_bits()).collect()
}

#[test]
fn threads_and_accumulation() {
    for case in cases() {
        for format in [Format::F32, Format::Bf16, Format::F16] {
            let whole = three_steps(&case, case.trainer(format, 2), 1);
            assert_eq!(whole, three_steps(&case, case.trainer(format, 1), 1), "{}", case.folder.display());
            let parts = three_steps(&case, case.trainer(format, 2), case.lengths.len());
            for (whole, parts) in whole.iter().zip(&parts) {
                let (whole, parts) = (f64::from_bits(*whole), f64::from_bits(*parts));
                let bound = if format == Format::F32 { 1e-6 } else { 1e-3 };
                assert!((whole - parts).abs() <= bound * whole, "{format:?}: {whole}, in parts {parts}");
            }
        }
    }
}

#[test]
fn every_tensor_receives_a_gradient() {
    for case in cases() {
        let mut trainer = case.trainer(Format::F32, 2);
        let all = trainer.gradients().iter().count();
        trainer.step(&[case.batch()], 1e-3).unwrap();
        assert_eq!(trainer.received().unwrap(), (all, vec![]), "{}", case.folder.display());
    }
}

/// A weight that is no number makes a loss that is none: the step is refused, and nothing moves.
#[test]
fn a_step_that_would_ruin_the_weights_is_refused() {
    use wootz_model::weights::Parameter;
    let case = cases().swap_remove(0);
    let mut trainer = case.trainer(Format::F32, 2);
    let (weights, _) = trainer.model.weights_mut();
    let (id, parameter) = weights.parameters_mut().pop().unwrap();
    match parameter {
        Parameter::Vector(values) => values.host_mut()[0] = f32::NAN,
        Parameter::Matrix(_) => panic!("{id} is a matrix"),
    }
    let step = trainer.step(&[case.batch()], 1e-3).unwrap();
    assert_eq!(step.refused, Some(Refused::Loss));
    assert_eq!(trainer.optimizer.steps(), 0);
    let mut model = load(&case.folder, 1);
    let (weights, _) = model.weights_mut();
    let (theirs, _) = trainer.model.weights_mut();
    for ((id, a), (_, b)) in weights.parameters_mut().into_iter().zip(theirs.parameters_mut()) {
        match (a, b) {
            (Parameter::Matrix(a), Parameter::Matrix(b)) => {
                assert_eq!(a.host_mut().values_mut(), b.host_mut().values_mut(), "{id}")
            }
            (Parameter::Vector(a), Parameter::Vector(b)) => assert_eq!(a.host()[1..], b.host()[1..], "{id}"),
            _ => panic!("{id}"),
        }
    }
}
