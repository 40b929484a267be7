//! The decoder in plain loops against the one that computes: two programs that say the same.
//!
//! Cases are found: every folder under `$WOOTZ_FIXTURES` (default `tests/fixtures`) with a `config.json` and a
//! `golden.safetensors`.

use std::path::{Path, PathBuf};
use wootz_formats::{Checkpoint, TensorView};
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::{Precision, quant};
use wootz_model::arch::{identify, sources};
use wootz_model::load::LoadOptions;
use wootz_model::reference::{Parameters, Reference};
use wootz_model::{Batch, Model, Recompute, Training};

fn fixtures() -> PathBuf {
    match std::env::var_os("WOOTZ_FIXTURES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"),
    }
}

fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(fixtures()).unwrap().flatten().map(|entry| entry.path()).collect();
    folders.sort();
    folders.retain(|f| f.join("config.json").is_file() && f.join("golden.safetensors").is_file());
    assert!(!folders.is_empty(), "no fixtures under {}", fixtures().display());
    folders
}

fn i32s(view: &TensorView) -> Vec<i32> {
    view.bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

/// The file's numbers, element by element: nothing of this goes through panels.
fn parameters(checkpoint: &Checkpoint) -> Parameters {
    let (architecture, config) = identify(checkpoint).unwrap_or_else(|e| panic!("{e:#}"));
    let sources = sources(architecture, &config, checkpoint).unwrap_or_else(|e| panic!("{e:#}"));
    let of = |source: &wootz_model::names::Source| {
        let tensor = checkpoint.tensor(&source.name).unwrap();
        let mut stored = vec![0.0; tensor.elements()];
        quant::decode(tensor.dtype, tensor.bytes, &mut stored).unwrap();
        let places = (0..source.rows()).flat_map(|row| (0..source.cols()).map(move |col| (row, col)));
        places.map(|(row, col)| f64::from(stored[source.stored_element(row, col)])).collect()
    };
    sources.iter().map(|source| (source.to, of(source))).collect()
}

#[test]
fn the_plain_decoder_is_the_fast_one() {
    for folder in folders() {
        let name = folder.display();
        let golden = Checkpoint::open(&folder.join("golden.safetensors")).unwrap();
        let Some(targets) = golden.tensor("targets") else {
            println!("skipped: {name} has no targets");
            continue;
        };
        let ids = golden.tensor("input_ids").unwrap();
        let tokens: Vec<u32> = i32s(&ids).iter().map(|&id| id as u32).collect();
        let lengths = vec![ids.shape[1]; ids.shape[0]];
        let batch = Batch { tokens: &tokens, targets: &i32s(&targets), lengths: &lengths };

        let checkpoint = wootz_model::load::open(&folder).unwrap();
        let parameters = parameters(&checkpoint);
        let options = LoadOptions { precision: Precision::F32, threads: 2 };
        let model = Model::from_checkpoint(&checkpoint, &options).unwrap_or_else(|e| panic!("{e:#}"));
        let reference = Reference { config: model.config(), parameters: &parameters };
        let mut training = Training::new(Recompute::None, CacheType::F32);

        let losses = training.loss(&model, &batch).unwrap();
        let found = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
        let loss = reference.loss(&batch);
        let off = (found - loss).abs() / loss;
        assert!(off <= 1e-6, "{name}: loss {found}, in f64 {loss}");

        let found = training.logits(&model, &batch).unwrap();
        let expected: Vec<f64> = tokens.chunks(lengths[0]).flat_map(|t| reference.logits(t)).collect();
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
        let error =
            (found.iter().zip(&expected)).fold(0.0, |a: f64, (x, y)| a.max((f64::from(*x) - y).abs()));
        assert!(error <= 2e-5 * largest, "{name}: logits off by {error:.1e} of {largest}");
        println!("{name}: loss off by {off:.1e}, logits by {:.1e}", error / largest);
    }
}
