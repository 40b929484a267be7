//! Merged models beside their bases with the adapters apart, over every adapter under `$WOOTZ_FIXTURES` (default
//! `tests/fixtures`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use wootz_formats::{Checkpoint, Metadata, TensorSpec, gguf};
use wootz_kernels::exec::Weight;
use wootz_kernels::{DType, Pool, Precision, quant};
use wootz_model::adapter::{self, Base};
use wootz_model::compare::{Comparison, compare, logits};
use wootz_model::load::LoadOptions;
use wootz_model::lora::Adapter;
use wootz_model::merge::{Merged, requantise};
use wootz_model::names::{Part, Place};
use wootz_model::save::{self, Existing, SaveFormat, SaveOptions, Tensors};
use wootz_model::{Model, arch};

fn fixtures() -> PathBuf {
    match std::env::var_os("WOOTZ_FIXTURES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"),
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).unwrap().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// Models with adapters of theirs.
fn cases() -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for model in folders(&fixtures()).into_iter().filter(|folder| folder.join("config.json").is_file()) {
        for adapter in folders(&model).iter().flat_map(|group| folders(group)) {
            if adapter.join("adapter_config.json").is_file() {
                found.push((model.clone(), adapter));
            }
        }
    }
    assert!(!found.is_empty(), "no adapters under {}", fixtures().display());
    found
}

fn load(path: &Path) -> Model {
    let options = LoadOptions { precision: Precision::F32, threads: 2 };
    Model::load(path, &options).unwrap_or_else(|e| panic!("{e:#}"))
}

fn read(path: &Path, model: &Model) -> Adapter {
    let base = Base { architecture: model.architecture(), config: model.config() };
    adapter::read(path, &base, &Pool::new(1)).unwrap_or_else(|e| panic!("{e:#}"))
}

fn save_as(
    path: &Path,
    model: &Model,
    tensors: &dyn Tensors,
    config: &wootz_model::DecoderConfig,
    format: SaveFormat,
) {
    let options = SaveOptions {
        format,
        dtype: DType::F32,
        name: "merged",
        tokenizer: None,
        tokenizer_folder: None,
        existing: Existing::Keep,
    };
    save::save(path, model.architecture(), config, tensors, &options).unwrap_or_else(|e| panic!("{e:#}"));
}

fn texts(model: &Model) -> Vec<Vec<u32>> {
    let vocab = model.config().vocab_size as u32;
    vec![(0..40).map(|i| (i * i * 7 + 3 * i) % vocab).collect(), vec![5, 7 % vocab]]
}

fn apart(reference: &Model, other: &Model) -> Comparison {
    let texts = texts(reference);
    compare(&logits(reference, &texts).unwrap(), &logits(other, &texts).unwrap()).unwrap()
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("wootz-merge-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_merged_model_is_its_base_with_the_adapter() {
    for (path, of) in cases() {
        let base = load(&path);
        let mut adapter = read(&of, &base);
        for (format, name) in [(SaveFormat::Hf, "hf"), (SaveFormat::Gguf, "m.gguf")] {
            for strength in [1.0, 0.5] {
                if strength != 1.0 && !adapter.saved.is_empty() {
                    continue;
                }
                adapter.strength = strength;
                let adapters = [adapter.copy().unwrap()];
                let merged = Merged::new(base.config(), base.weights(), &adapters).unwrap();
                let folder = Folder::new();
                let out = folder.0.join(name);
                save_as(&out, &base, &merged, merged.config(), format);
                let mut with = load(&path);
                with.put_on(adapter.copy().unwrap()).unwrap();
                let found = apart(&with, &load(&out));
                println!("{} at {strength} as {format}: {found}", of.display());
                assert!(found.largest < 1e-8 && found.same_top == 1.0, "{}: {found}", of.display());
                // An adapter at its beginning changes nothing.
                let changes = apart(&base, &with).mean > 1e-5;
                assert!(changes != of.ends_with("init"), "{}: {changes}", of.display());
            }
        }
    }
}

#[test]
fn no_strength_is_no_change_and_two_halves_are_a_whole() {
    let base = load(&fixtures().join("llama-micro"));
    let adapter = read(&fixtures().join("llama-micro/lora/trained"), &base);
    let at = |strength: f32| Adapter { strength, ..adapter.copy().unwrap() };
    let values = |adapters: &[Adapter]| {
        let merged = Merged::new(base.config(), base.weights(), adapters).unwrap();
        let mut out = Vec::new();
        merged.read(wootz_model::names::TensorId::weight(Place::Layer(1, Part::Q)), &mut out).unwrap();
        out
    };
    assert_eq!(values(&[at(0.0)]), values(&[]));
    let (halves, whole) = (values(&[at(0.5), at(0.5)]), values(&[at(1.0)]));
    assert_ne!(whole, values(&[]));
    assert!(halves.iter().zip(&whole).all(|(a, b)| (a - b).abs() <= 1e-6));
}

/// The model as a GGUF whose matrices are Q8_0.
fn quantised(model: &Model, folder: &Path) -> PathBuf {
    let (plain, path) = (folder.join("f32.gguf"), folder.join("q8_0.gguf"));
    save_as(&plain, model, model.weights(), model.config(), SaveFormat::Gguf);
    let checkpoint = Checkpoint::open(&plain).unwrap();
    let Metadata::Gguf(metadata) = checkpoint.metadata() else { panic!("no GGUF") };
    let entries: Vec<_> = metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    let specs: Vec<TensorSpec> = checkpoint
        .tensors()
        .map(|t| TensorSpec {
            name: t.name.to_owned(),
            dtype: if t.shape.len() == 2 && t.name != "position_embd.weight" { DType::Q8_0 } else { t.dtype },
            shape: t.shape.to_vec(),
        })
        .collect();
    gguf::write(&path, &entries, &specs, &mut |index, file| {
        let (spec, tensor) = (&specs[index], checkpoint.tensor(&specs[index].name).unwrap());
        let mut values = vec![0.0; tensor.elements()];
        quant::decode(tensor.dtype, tensor.bytes, &mut values).unwrap();
        let mut bytes = vec![0; spec.dtype.bytes(&spec.shape).unwrap()];
        quant::encode(spec.dtype, &values, &mut bytes).unwrap();
        file.write_all(&bytes)
    })
    .unwrap();
    path
}

fn merge_again(base: &Path, out: &Path, adapters: &[Adapter]) -> wootz_model::Result<()> {
    let checkpoint = Checkpoint::open(base).unwrap();
    let (architecture, config) = arch::identify(&checkpoint).unwrap();
    requantise(out, &checkpoint, architecture, &config, adapters, Existing::Keep, &Pool::new(2))
}

#[test]
fn a_quantised_base_keeps_its_types_and_what_is_not_changed() {
    for (model, of) in [("llama-micro", "lora/trained"), ("gpt2-micro", "adapters/fused")] {
        let (path, of) = (fixtures().join(model), fixtures().join(model).join(of));
        let (whole, folder) = (load(&path), Folder::new());
        let base = quantised(&whole, &folder.0);
        let adapter = read(&of, &load(&base));
        let out = folder.0.join("merged.gguf");
        merge_again(&base, &out, std::slice::from_ref(&adapter)).unwrap_or_else(|e| panic!("{e:#}"));

        let [before, after] = [&base, &out].map(|path| Checkpoint::open(path).unwrap());
        let mut changed = 0;
        for (old, new) in before.tensors().zip(after.tensors()) {
            assert_eq!((old.name, old.dtype, old.shape), (new.name, new.dtype, new.shape));
            changed += usize::from(old.bytes != new.bytes);
        }
        let keys = |checkpoint: &Checkpoint| match checkpoint.metadata() {
            Metadata::Gguf(metadata) => format!("{:?}", metadata.iter().collect::<Vec<_>>()),
            other => panic!("{other:?}"),
        };
        assert_eq!(keys(&before), keys(&after));
        // GPT-2's q, k and v are one matrix.
        let places = adapter.parts.len();
        let fused = adapter.parts.keys().filter(|p| matches!(p, Place::Layer(_, Part::K | Part::V))).count();
        assert_eq!(changed, if model == "gpt2-micro" { places - fused } else { places });

        let mut with = load(&base);
        with.put_on(adapter.copy().unwrap()).unwrap();
        let found = apart(&with, &load(&out));
        println!("{model}: {found}");
        // Half a step of 8 bits more than the base has, and no more.
        assert!(found.mean < 2e-3 && apart(&load(&base), &with).mean > 10.0 * found.mean, "{found}");

        let error = merge_again(&base, &out, &[adapter]).unwrap_err();
        assert!(format!("{error:#}").contains("is there already"), "{error:#}");
    }
}

/// Rows that an adapter leaves as they are come out as they were but for what a second search for scales finds.
#[test]
fn blocks_of_many_scales_are_rounded_again() {
    let folder = Folder::new();
    for name in ["llama-tiny/q6_k", "qwen3-tiny/q4_k_m"] {
        let base = fixtures().join(format!("gguf/{name}.gguf"));
        let mut model = load(&base);
        let options = wootz_model::lora::LoraOptions {
            rank: 2,
            alpha: 2.0,
            scaling: wootz_model::lora::Scaling::Rank,
            targets: vec![Part::Q, Part::Down],
            magnitudes: false,
            dropout: 0.0,
            seed: 1,
        };
        let mut adapter = Adapter::new(model.config(), model.pool(), &options).unwrap();
        for lora in adapter.parts.values_mut() {
            let (rows, cols) = (lora.b.rows(), lora.b.cols());
            let b: Vec<f32> = (0..rows * cols).map(|i| (i % 7) as f32 * 0.1 - 0.3).collect();
            lora.b = Weight::from_f32(&Pool::new(1), [rows, cols], &b);
        }
        let out = folder.0.join(format!("{}.gguf", name.replace('/', "-")));
        merge_again(&base, &out, std::slice::from_ref(&adapter)).unwrap_or_else(|e| panic!("{e:#}"));
        let before = load(&base);
        model.put_on(adapter).unwrap();
        let (moved, left) = (apart(&before, &model), apart(&model, &load(&out)));
        println!("{name}: moved {moved}; left {left}");
        assert!(left.mean < 0.5 * moved.mean, "{name}: {left}, and the adapter moved {moved}");
    }
}

#[test]
fn what_cannot_be_encoded_again_is_refused() {
    let path = fixtures().join("qwen2-micro");
    let (whole, folder) = (load(&path), Folder::new());
    let base = quantised(&whole, &folder.0);
    let adapter = read(&path.join("adapters/saved"), &whole);
    let error = merge_again(&base, &folder.0.join("m.gguf"), std::slice::from_ref(&adapter)).unwrap_err();
    assert!(format!("{error:#}").contains("modules_to_save"), "{error:#}");
    let error = merge_again(&path, &folder.0.join("m.gguf"), &[adapter]).unwrap_err();
    assert!(format!("{error:#}").contains("expected a GGUF model"), "{error:#}");
}
