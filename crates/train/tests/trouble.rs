//! A device that goes away, or that has no memory left, while a model is trained on it: the run ends with an error that says
//! what to do, its last checkpoint is whole, and the run goes on from there.

#[path = "../../model/tests/gpu/mod.rs"]
mod gpu;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use wootz_kernels::Precision;
use wootz_kernels::device::Accelerator;
use wootz_model::load::LoadOptions;
use wootz_model::names::TensorId;
use wootz_model::presets::{Overrides, preset};
use wootz_model::weights::Weights;
use wootz_model::{Model, init::Init};
use wootz_train::data::Source;
use wootz_train::fit::{End, StepReport, ValReport, Watch};
use wootz_train::pretrain::{Inputs, Settings};
use wootz_train::run::checkpoint::{Check, Saved, Store};
use wootz_train::run::{Folder, IfTaken};

const SETTINGS: &str = r#"
model = "tiny"
data = []
val-data = []
order = "shuffled"
overfit = false
batch = 2
seq = 8
accumulate = 1
steps = 4
optimizer = "adamw"
lr = 0.004
schedule = "cosine"
warmup = 0
final-lr = 0.1
weight-decay = 0.1
beta1 = 0.9
beta2 = 0.95
eps = 1e-8
clip = 1.0
dtype = "f32"
recompute = "none"
seed = 1337
init-std = 0.05
val-every = 0
val-batches = 1
sample-every = 0
save-every = 1
keep = 0
max-bad-steps = 10
skip-loss-z = 0.0
skip-grad-z = 0.0
"#;

/// Brings trouble as soon as the second step is saved.
struct Trouble<'a> {
    bring: &'a dyn Fn(),
    saved: usize,
    losses: Vec<f64>,
}

impl<'a> Trouble<'a> {
    fn new(bring: &'a dyn Fn()) -> Trouble<'a> {
        Trouble { bring, saved: 0, losses: Vec::new() }
    }
}

impl Watch for Trouble<'_> {
    fn step(&mut self, report: &StepReport) {
        self.losses.push(report.loss);
    }
    fn validated(&mut self, _: &ValReport) {}
    fn saved(&mut self, _: &Saved) {
        self.saved += 1;
        if self.saved == 2 {
            (self.bring)();
        }
    }
    fn warn(&mut self, _: &str) {}
    fn received(&mut self, _: u64, _: usize, _: &[TensorId]) {}
    fn sample(&mut self, _: &Model, _: u64) {}
    fn interrupted(&self) -> bool {
        false
    }
}

fn fresh_model(gpu: &Accelerator) -> Model {
    let overrides = Overrides {
        n_layers: Some(1),
        dim: Some(32),
        n_heads: Some(2),
        n_kv_heads: Some(2),
        vocab_size: Some(64),
        ..Overrides::default()
    };
    let (architecture, config) = preset("gpt2-124m").unwrap().config(&overrides).unwrap();
    let pool = wootz_kernels::Pool::new(1);
    let init = Init::default();
    let weights = Weights::generate(&config, &pool, wootz_kernels::DType::F32, |id, first, out| {
        init.fill(&config, id, first, out)
    });
    let mut model = Model::from_weights(architecture, config, weights, pool);
    model.place(gpu, usize::MAX).unwrap();
    model
}

fn inputs(model: Model) -> Inputs {
    let ids = (0..2000u32).map(|i| i * i % 61).collect();
    Inputs {
        settings: toml::from_str::<Settings>(SETTINGS).unwrap(),
        model,
        tokenizer: None,
        data: Arc::new(Source::from_ids("numbers", ids, 64).unwrap()),
        val_data: None,
        questions: Vec::new(),
    }
}

/// A folder of this process, gone when the test ends.
struct Runs(PathBuf);

impl Drop for Runs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn begin(runs: &Path, name: &str, gpu: &Accelerator) -> wootz_train::fit::Run {
    let folder = || Folder::create(runs, name, IfTaken::Refuse);
    inputs(fresh_model(gpu)).begin(folder).unwrap()
}

#[test]
fn a_run_survives_the_loss_of_its_device_and_of_memory() {
    let Some(gpu) = gpu::open() else { return };
    let runs = Runs(std::env::temp_dir().join(format!("wootz-trouble-{}", std::process::id())));
    let mut whole = Trouble::new(&|| ());
    assert_eq!(begin(&runs.0, "whole", &gpu).train(&mut whole).unwrap(), End::Complete);

    for (name, advice) in [("lost", "open the device again"), ("memory", "a smaller batch")] {
        let own = gpu::open().unwrap(); // others go on with theirs
        let bring = || match name {
            "lost" => own.give_up(),
            _ => {
                own.limit(0);
                own.trim(); // what is kept for later would be enough
            }
        };
        let mut watch = Trouble::new(&bring);
        let mut run = begin(&runs.0, name, &own);
        let error = run.train(&mut watch).unwrap_err();
        let said = format!("{error:#}");
        assert!(said.contains(advice), "{name}: {said}");
        drop(run);

        let folder = Folder::open(&runs.0.join(name)).unwrap();
        let latest = Store::at(folder.checkpoints()).latest(Check::Hashes).unwrap();
        assert!(latest.skipped.is_empty(), "{name}: {:?}", latest.skipped);
        let checkpoint = latest.found.expect("a whole checkpoint");
        assert_eq!(checkpoint.step(), watch.saved as u64, "{name}");
        assert!(watch.saved >= 2 && watch.losses.len() < 4, "{name}: there was no trouble");

        let options = LoadOptions { precision: Precision::F32, threads: 1 };
        let mut model = Model::load(&checkpoint.path, &options).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        model.place(&gpu, usize::MAX).unwrap();
        let mut rest = Trouble::new(&|| ());
        let end = inputs(model).resume(folder, &checkpoint).unwrap().train(&mut rest).unwrap();
        assert_eq!(end, End::Complete, "{name}");
        let done = checkpoint.step() as usize;
        assert_eq!(rest.losses, whole.losses[done..], "{name}: as if nothing had happened");
    }
}
