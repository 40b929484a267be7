//! The loss of GRPO, its parts and its gradients against PyTorch's.
//!
//! Cases are found: every folder under `$WOOTZ_FIXTURES` (default `tests/fixtures`) with `grpo/golden.json`.

#[path = "../../model/tests/gpu/mod.rs"]
mod gpu;

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use wootz_formats::Checkpoint;
use wootz_kernels::device::Accelerator;
use wootz_kernels::{Precision, panels};
use wootz_model::adapter::{self, Base};
use wootz_model::load::LoadOptions;
use wootz_model::names::{Kind, Part, Place, TensorId};
use wootz_model::weights::Parameter;
use wootz_model::{Model, Recompute};
use wootz_train::grpo::advantage::{Scale, advantages};
use wootz_train::grpo::objective::{Form, Loss};
use wootz_train::grpo::update::{Completion, Rules, Update};
use wootz_train::optimizer::{Adam, Decay, Options, Rule};
use wootz_train::trainer::{Format, Trained, Trainer};

fn fixtures() -> PathBuf {
    match std::env::var_os("WOOTZ_FIXTURES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"),
    }
}

fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(fixtures()).unwrap().flatten().map(|entry| entry.path()).collect();
    folders.retain(|folder| folder.join("grpo/golden.json").is_file());
    folders.sort();
    folders
}

/// A model with its policy's adapter.
fn policy(folder: &Path) -> Model {
    let options = LoadOptions { precision: Precision::F32, threads: 2 };
    let mut model = Model::load(folder, &options).unwrap_or_else(|e| panic!("{e:#}"));
    let base = Base { architecture: model.architecture(), config: model.config() };
    let adapter = adapter::read(&folder.join("grpo/policy"), &base, model.pool());
    model.put_on(adapter.unwrap_or_else(|e| panic!("{e:#}"))).unwrap();
    model
}

fn trainer(model: Model, rule: Rule) -> Trainer {
    let options = Options { rule, weight_decay: 0.0, decay: Decay::Matrices };
    let trained = Trained::Adapter { beside: vec![] };
    let mut trainer = Trainer::new(model, options, Format::F32, Recompute::None, None, trained).unwrap();
    trainer.measure_entropies();
    trainer
}

/// What PyTorch was given, and what it found.
struct Golden {
    json: Value,
    tensors: Checkpoint,
}

impl Golden {
    fn read(folder: &Path) -> Golden {
        let json = std::fs::read_to_string(folder.join("grpo/golden.json")).unwrap();
        let tensors = Checkpoint::open(&folder.join("grpo/golden.safetensors")).unwrap();
        Golden { json: serde_json::from_str(&json).unwrap(), tensors }
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        self.json[name].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.tensors.tensor(name).unwrap_or_else(|| panic!("{name}")).bytes;
        bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let bytes = self.tensors.tensor(name).unwrap().bytes;
        bytes.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four)).collect()
    }

    fn completions(&self, advantages: &[f64]) -> Vec<Completion> {
        let width = self.json["max_completion_length"].as_u64().unwrap() as usize;
        let (ids, old, reference) =
            (self.ids("completion_ids"), self.floats("old_logps"), self.floats("ref_logps"));
        let lengths = self.numbers("completion_lengths");
        let of = |(i, &advantage): (usize, &f64)| {
            let range = i * width..i * width + lengths[i] as usize;
            Completion {
                prompt: self.ids("prompt_ids"),
                ids: ids[range.clone()].to_vec(),
                logprobs: old[range.clone()].to_vec(),
                kept: vec![None; range.len()],
                reference: reference[range].to_vec(),
                advantage,
                truncated: false,
            }
        };
        advantages.iter().enumerate().map(of).collect()
    }

    fn rules(&self, form: Form, batch: usize) -> Rules {
        let number = |name: &str| self.json[name].as_f64().unwrap();
        let epsilon = number("epsilon");
        Rules {
            loss: Loss { form, epsilon, epsilon_high: epsilon, beta: number("beta") },
            scale: 1.0,
            most_tokens: number("max_completion_length") as usize,
            batch,
            mask_truncated: false,
        }
    }
}

/// PEFT's name of a tensor.
fn peft(id: TensorId) -> String {
    let Place::Layer(layer, part) = id.place else { panic!("{id}") };
    let module = match part {
        Part::Q => "q_proj",
        Part::K => "k_proj",
        Part::V => "v_proj",
        Part::O => "o_proj",
        other => panic!("{other:?} is not in the fixtures"),
    };
    let matrix = if id.kind == Kind::LoraA { "A" } else { "B" };
    format!("base_model.model.model.layers.{layer}.self_attn.{module}.lora_{matrix}.default.weight")
}

fn adam() -> Rule {
    Rule::AdamW(Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 })
}

#[test]
fn parity_of_losses_and_gradients() {
    losses_and_gradients(None);
}

#[test]
fn parity_of_losses_and_gradients_on_a_gpu() {
    let Some(gpu) = gpu::open() else { return };
    losses_and_gradients(Some(&gpu));
}

fn losses_and_gradients(gpu: Option<&Accelerator>) {
    let folders = folders();
    assert!(!folders.is_empty() || std::env::var_os("WOOTZ_FIXTURES").is_some(), "no cases");
    for folder in folders {
        let golden = Golden::read(&folder);
        let rewards = vec![golden.numbers("rewards")];
        for (scale, name) in [(Scale::Group, "advantages"), (Scale::None, "advantages_unscaled")] {
            for (found, expected) in advantages(&rewards, scale)[0].iter().zip(golden.numbers(name)) {
                assert!((found - expected).abs() < 1e-6, "{name}: {found} {expected}");
            }
        }
        let forms = [
            (Form::Grpo, "grpo", Scale::Group),
            (Form::Bnpo, "bnpo", Scale::Group),
            (Form::DrGrpo, "dr_grpo", Scale::None),
        ];
        for (form, name, scale) in forms {
            let what = format!("{} {name}", folder.display());
            let completions = golden.completions(&advantages(&rewards, scale)[0]);
            let update = Update::new(completions.clone(), golden.rules(form, 4));
            let mut model = policy(&folder);
            if let Some(gpu) = gpu {
                model.place(gpu, usize::MAX).unwrap();
            }
            let mut trainer = trainer(model, adam());

            let (logps, width) =
                (golden.floats("logps"), golden.json["max_completion_length"].as_u64().unwrap());
            for (i, found) in update.log_probabilities(&mut trainer).unwrap().iter().enumerate() {
                let expected = &logps[i * width as usize..];
                found
                    .iter()
                    .zip(expected)
                    .for_each(|(a, b)| assert!((a - b).abs() < 2e-5, "{what}: {a} {b}"));
            }

            let (step, measures) = update.measure(&mut trainer, false).unwrap();
            let expected = |key: &str| golden.json["forms"][name][key].as_f64().unwrap();
            let near = |key: &str, found: f64| {
                let expected = expected(key);
                assert!((found - expected).abs() < 2e-5, "{what} {key}: {found} {expected}");
            };
            near("loss", step.loss);
            near("mean_kl", measures.kl);
            near("clip_fraction", measures.clip_fraction);
            assert_eq!(measures.tokens, update.completions().iter().map(|c| c.ids.len()).sum::<usize>());

            let mut compared = 0;
            for (id, values) in trainer.gradients().iter() {
                let values = values.read().unwrap();
                let name = format!("{name}.grad.{}", peft(id));
                let cols = golden.tensors.tensor(&name).unwrap_or_else(|| panic!("{name}")).shape[1];
                let expected = golden.floats(&name);
                let (mut off, mut norm) = (0.0, 0.0);
                for (i, &expected) in expected.iter().enumerate() {
                    let found = values[panels::index(cols, i / cols, i % cols)];
                    off += f64::from(found - expected).powi(2);
                    norm += f64::from(expected).powi(2);
                }
                assert!(off.sqrt() <= 2e-4 * norm.sqrt(), "{what} {name}: {:e}", (off / norm).sqrt());
                compared += 1;
            }
            assert!(compared >= 4, "{what}: {compared} gradients");

            // However the answers are cut into forward passes; but bnpo means something else then.
            if form != Form::Bnpo {
                let parts = Update::new(completions, golden.rules(form, 1));
                let (again, _) = parts.measure(&mut trainer, false).unwrap();
                assert!(
                    (again.loss - step.loss).abs() < 1e-6
                        && (again.grad_norm / step.grad_norm - 1.0).abs() < 1e-5
                );
            }
        }
    }
}

/// The adapter's matrices, row by row, under PEFT's names.
fn adapter_values(model: &mut Model) -> BTreeMap<String, Vec<f32>> {
    let (all, pool) = model.parameters_mut();
    let adapter = all.into_iter().filter(|(id, _)| matches!(id.kind, Kind::LoraA | Kind::LoraB));
    let values = adapter.map(|(id, parameter)| {
        let Parameter::Matrix(matrix) = parameter else { panic!("{id} is a matrix") };
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let mut decoded = vec![0.0; panels::len([rows, cols])];
        matrix.host().decode(pool, &mut decoded);
        let values = (0..rows * cols).map(|i| decoded[panels::index(cols, i / cols, i % cols)]);
        (peft(id), values.collect())
    });
    values.collect()
}

/// A whole step of `--accurate`: one prompt's answers, all gradients together, one update by AdamW. In the first step its
/// averages are the gradient g and g², so that a weight moves by `lr g / (|g| + eps)`: with PyTorch's g, to where PyTorch's
/// would be.
#[test]
fn parity_of_an_accurate_step() {
    let lr = 0.01;
    for folder in folders() {
        let golden = Golden::read(&folder);
        let advantages = &advantages(&[golden.numbers("rewards")], Scale::Group)[0];
        let update = Update::new(golden.completions(advantages), golden.rules(Form::Grpo, 4));
        let expected = |name: &str| golden.floats(&format!("grpo.grad.{name}"));
        let before = adapter_values(&mut policy(&folder));
        // As large as a gradient is, so that small ones count, and the sign of none is all.
        let all: Vec<f32> = before.keys().flat_map(|name| expected(name)).collect();
        let eps = (all.iter().map(|g| f64::from(g * g)).sum::<f64>() / all.len() as f64).sqrt();
        let rule = Rule::AdamW(Adam { beta1: 0.9, beta2: 0.999, eps });
        let mut trainer = trainer(policy(&folder), rule);
        let (step, _) = update.measure(&mut trainer, false).unwrap();
        trainer.update(&step, lr).unwrap();

        let after = adapter_values(&mut trainer.model);
        assert!(before.len() >= 4 && before.keys().eq(after.keys()), "{}", folder.display());
        let mut largest = 0f64;
        for (name, before) in &before {
            for ((before, after), g) in before.iter().zip(&after[name]).zip(expected(name)) {
                let (moved, g) = (f64::from(after - before), f64::from(g));
                let expected = -lr * g / (g.abs() + eps);
                assert!((moved - expected).abs() < 1e-3 * lr, "{name}: {moved:e}, expected {expected:e}");
                largest = largest.max(moved.abs());
            }
        }
        assert!(largest > lr / 2.0, "{}: nothing moves far: {largest:e}", folder.display());
    }
}

/// The gradient of every form is the slope of its loss, on the way that the gradient points.
#[test]
fn gradients_are_slopes_of_the_loss() {
    let Some(folder) = folders().into_iter().next() else { return };
    let golden = Golden::read(&folder);
    let rewards = vec![golden.numbers("rewards")];
    for form in [Form::Grpo, Form::Bnpo, Form::DrGrpo, Form::Dapo, Form::Gspo] {
        let completions = golden.completions(&advantages(&rewards, Scale::Group)[0]);
        // Nothing is clipped, where the loss has corners.
        let mut rules = golden.rules(form, 3);
        (rules.loss.epsilon, rules.loss.epsilon_high) = (0.999, 1e9);
        let update = Update::new(completions, rules);
        let mut trainer = trainer(policy(&folder), Rule::Sgd(None));
        let (at, _) = update.measure(&mut trainer, false).unwrap();
        // A step of plain gradient descent goes down by lr · |gradient|².
        let lr = 2e-4 / at.grad_norm;
        let norm = at.grad_norm;
        trainer.update(&at, lr).unwrap();
        let (after, _) = update.measure(&mut trainer, false).unwrap();
        let middle = (norm * norm + after.grad_norm * norm) / 2.0;
        let slope = (at.loss - after.loss) / lr;
        assert!((slope / middle - 1.0).abs() < 0.02, "{form:?}: {slope} {middle}");
    }
}

/// Answers that are certain to have no gradient, and those that were cut short where they do not count, change nothing but
/// what the others are divided by.
#[test]
fn what_is_not_learnt_from_still_counts_in_means() {
    let Some(folder) = folders().into_iter().next() else { return };
    let golden = Golden::read(&folder);
    let mut completions = golden.completions(&[1.0, -0.5, 0.0, 2.0]);
    completions[3].truncated = true;
    for form in [Form::Grpo, Form::Bnpo, Form::DrGrpo, Form::Dapo, Form::Gspo, Form::Cispo] {
        let mut rules = golden.rules(form, 4);
        rules.loss.beta = 0.0;
        rules.mask_truncated = true;
        completions.iter_mut().for_each(|completion| completion.reference.clear());
        let mut trainer = trainer(policy(&folder), adam());
        let update = Update::new(completions.clone(), rules);
        assert_eq!(update.batches().iter().map(|batch| batch.lengths.len()).sum::<usize>(), 2);
        let (some, measures) = update.measure(&mut trainer, false).unwrap();
        assert_eq!(measures.tokens, completions[..2].iter().map(|c| c.ids.len()).sum::<usize>());

        // The same, with the answer of no advantage in the forward pass: a divergence that counts next to nothing.
        let mut all = completions.clone();
        all.iter_mut().for_each(|completion| completion.reference = completion.logprobs.clone());
        rules.loss.beta = 1e-12;
        let update = Update::new(all, rules);
        assert_eq!(update.batches().iter().map(|batch| batch.lengths.len()).sum::<usize>(), 3);
        let (with, _) = update.measure(&mut trainer, false).unwrap();
        assert!((some.loss - with.loss).abs() < 1e-9, "{form:?}: {} {}", some.loss, with.loss);
        assert!((some.grad_norm / with.grad_norm - 1.0).abs() < 1e-6, "{form:?}");
    }
}
