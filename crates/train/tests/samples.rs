//! Samples in a batch are to a model what each is alone, and samples of a file of tensors are what the file says.

use std::path::{Path, PathBuf};

use serde_json::Value;
use wootz_kernels::Precision;
use wootz_model::load::{self, LoadOptions};
use wootz_model::{Model, Recompute};
use wootz_train::data::documents::OnBad;
use wootz_train::data::samples::{
    BatchSize, Grouping, Order, OrderOptions, ReadOptions, Samples, TrainOn, Truncation,
};
use wootz_train::data::{self, Batch};
use wootz_train::optimizer::{Adam, Decay, Options, Rule};
use wootz_train::trainer::{Format, Trained, Trainer};

fn fixtures() -> PathBuf {
    match std::env::var_os("WOOTZ_FIXTURES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"),
    }
}

/// Every model with a tokenizer that has a chat template, or a reference loss.
fn folders(with: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(fixtures()).unwrap().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = all.filter(|folder| folder.join(with).is_file()).collect();
    found.sort();
    assert!(!found.is_empty(), "no {with} under {}", fixtures().display());
    found
}

fn trainer(folder: &Path, format: Format) -> Trainer {
    let rule = Rule::AdamW(Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 });
    let options = Options { rule, weight_decay: 0.0, decay: Decay::Matrices };
    let load = LoadOptions { precision: Precision::F32, threads: 2 };
    let model = Model::load(folder, &load).unwrap_or_else(|error| panic!("{error:#}"));
    Trainer::new(model, options, format, Recompute::None, None, Trained::All).unwrap()
}

fn options() -> ReadOptions {
    ReadOptions {
        train_on: TrainOn::Assistant,
        max_tokens: 200,
        truncation: Truncation::End,
        on_bad: OnBad::Stop,
        threads: 2,
    }
}

/// Three samples of different forms and lengths.
fn three(folder: &Path) -> Samples {
    let lines = [
        r#"{"messages": [{"role": "user", "content": "Who is there?"}, {"role": "assistant", "content": "A small dog."}, {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because it rains, and the door was open."}]}"#,
        r#"{"prompt": "Once upon a", "completion": " time there was a girl."}"#,
        r#"{"text": "The sun shone."}"#,
    ];
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let file = std::env::temp_dir().join(format!("wootz-three-{name}-{}.jsonl", std::process::id()));
    let tokenizer = load::tokenizer(folder).unwrap();
    // Models without a chat template learn from the two other forms, twice.
    let lines =
        if tokenizer.chat_template().is_some() { &lines[..] } else { &[lines[1], lines[2], lines[1]] };
    std::fs::write(&file, lines.join("\n")).unwrap();
    let (samples, report) = Samples::read(&[file.to_str().unwrap()], &tokenizer, &options()).unwrap();
    std::fs::remove_file(file).unwrap();
    assert_eq!((samples.len(), report.bad), (3, 0));
    samples
}

/// Gradients by tensor, in one row.
fn gradients(trainer: &Trainer) -> Vec<f64> {
    let all = trainer.gradients().iter().flat_map(|(_, values)| values.read().unwrap().into_owned());
    all.map(f64::from).collect()
}

#[test]
fn samples_together_are_what_each_is_alone() {
    for folder in folders("golden.json") {
        let name = folder.display();
        let samples = three(&folder);
        let mut trainer = trainer(&folder, Format::F32);
        samples.check_vocabulary(trainer.model.config().vocab_size).unwrap();
        let batch_of = |ids: &[u32]| {
            let mut batch = Batch::default();
            samples.batch(ids, &mut batch).unwrap();
            batch
        };
        let together = batch_of(&[0, 1, 2]);
        let measured = trainer.measure(&[together.as_model()]).unwrap();
        assert_eq!((measured.targets, measured.refused.clone()), (samples.targets(), None));
        let packed = gradients(&trainer);

        // One behind the other, added up by the trainer.
        let alone = [0, 1, 2].map(|id| batch_of(&[id]));
        let added = trainer.measure(&alone.each_ref().map(Batch::as_model)).unwrap();
        assert!(
            (measured.loss - added.loss).abs() <= 1e-6 * measured.loss,
            "{name}: {measured:?}, {added:?}"
        );
        let accumulated = gradients(&trainer);

        // Each by itself, and the mean over all tokens that count.
        let (mut loss, mut mean) = (0.0, vec![0.0; packed.len()]);
        for batch in &alone {
            let one = trainer.measure(&[batch.as_model()]).unwrap();
            let share = one.targets as f64 / measured.targets as f64;
            loss += one.loss * share;
            mean.iter_mut().zip(gradients(&trainer)).for_each(|(sum, value)| *sum += share * value);
        }
        assert!((measured.loss - loss).abs() <= 1e-6 * loss, "{name}: {}, alone {loss}", measured.loss);
        let norm = mean.iter().map(|value| value * value).sum::<f64>().sqrt();
        for (what, other) in [("added up", &accumulated), ("alone", &mean)] {
            let off = packed.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt() / norm;
            assert!(off <= 1e-6, "{name}: gradients {what} are off by {off:e}");
        }
    }
}

#[test]
fn a_file_of_tensors_has_the_reference_s_loss() {
    let mut compared = 0;
    for folder in folders("golden.safetensors") {
        let golden: Value =
            serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        let Some(want) = golden["loss"].as_f64() else { continue };
        let file = folder.join("golden.safetensors");
        let tokenizer = load::tokenizer(&folder).unwrap();
        let samples = Samples::read(&[file.to_str().unwrap()], &tokenizer, &options()).unwrap().0;
        let order = OrderOptions {
            size: BatchSize::Tokens(1000),
            accumulate: 1,
            visit: data::Order::Sequential,
            grouping: Grouping::AsDrawn,
            seed: 0,
            rank: 0,
            world: 1,
        };
        let ids = (0..samples.len() as u32).collect();
        let mut order = Order::new(&samples, ids, order).unwrap();
        let mut batch = Batch::default();
        samples.batch(&order.next_step()[0], &mut batch).unwrap();
        assert_eq!(batch.inputs.len(), samples.tokens() - samples.len());
        let (sum, targets) = trainer(&folder, Format::F32).evaluate(&batch.as_model()).unwrap();
        let found = sum / targets as f64;
        assert!((found - want).abs() <= 2e-5 * want, "{}: {found}, expected {want}", folder.display());
        compared += 1;
    }
    assert!(compared > 0, "no golden.json has a loss");
}
