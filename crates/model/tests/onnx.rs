//! Exported graphs, run by another program's library, beside our own decoder: every reference model, and every switch of
//! the decoder beside every other.
//!
//! Models are found: under `$WOOTZ_FIXTURES` (default `tests/fixtures`), and the built-in one.

mod switches;

use std::collections::HashMap;
use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rten::Value;
use wootz_formats::Checkpoint;
use wootz_formats::onnx::{LONGEST_MESSAGE, data_path};
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::rng::Rng;
use wootz_kernels::{DType, Pool, Precision};
use wootz_model::adapter::{self, Base};
use wootz_model::arch::ARCHITECTURES;
use wootz_model::config::{DecoderConfig, Norm};
use wootz_model::differences::shrink;
use wootz_model::error::{Error, Result};
use wootz_model::load::{self, LoadOptions};
use wootz_model::merge::Merged;
use wootz_model::names::{Kind, TensorId, canonical};
use wootz_model::reference::Reference;
use wootz_model::save::{self, Existing, OnnxGraph, OnnxOptions, SaveFormat, SaveOptions, Tensors};
use wootz_model::{Chunk, Model, Rows, Scratch};

/// Of the largest logit. (Both compute in f32: found are a few millionths.)
const TOLERANCE: f64 = 2e-5;

fn fixtures() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    std::env::var_os("WOOTZ_FIXTURES").map_or(default, PathBuf::from)
}

/// Every model: folders with a config.json, and files of the other formats.
fn models() -> Vec<PathBuf> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        if folder.join("config.json").exists() {
            found.push(folder.to_owned());
        }
        let Ok(entries) = fs::read_dir(folder) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                collect(&path, found);
            } else if name.ends_with(".gguf") || ["llama2c.bin", "model.bin"].contains(&&*name) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    collect(&fixtures(), &mut found);
    found.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/story.gguf"));
    found.sort();
    assert!(found.len() > 10, "few models under {}", fixtures().display());
    found
}

fn load(path: &Path) -> Model {
    let options = LoadOptions { precision: Precision::F32, threads: 2 };
    Model::load(path, &options).unwrap_or_else(|e| panic!("{e:#}"))
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("wootz-onnx-export-{}-{n}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn options(graph: OnnxGraph) -> SaveOptions<'static> {
    SaveOptions {
        format: SaveFormat::Onnx(OnnxOptions { graph, longest_file: LONGEST_MESSAGE }),
        dtype: DType::F32,
        name: "test",
        tokenizer: None,
        tokenizer_folder: None,
        existing: Existing::Keep,
    }
}

fn export(path: &Path, config: &DecoderConfig, tensors: &dyn Tensors, options: &SaveOptions) {
    save::save(path, ARCHITECTURES[0], config, tensors, options).unwrap_or_else(|e| panic!("{e:#}"));
}

/// A graph, and how to run it.
struct Graph(rten::Model);

/// What a sequence has left behind, by the name of the input.
type Past = Vec<(String, Value)>;

impl Graph {
    fn open(path: &Path) -> Self {
        Graph(rten::Model::load_file(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    /// The graph of a model, written and read.
    fn of(config: &DecoderConfig, tensors: &dyn Tensors, graph: OnnxGraph) -> Self {
        let folder = Folder::new();
        let path = folder.0.join("m.onnx");
        export(&path, config, tensors, &options(graph));
        Graph::open(&path)
    }

    fn names(&self, ids: &[rten::NodeId]) -> Vec<String> {
        ids.iter().map(|&id| self.0.node_info(id).unwrap().name().unwrap().to_owned()).collect()
    }

    fn run(&self, inputs: Vec<(String, Value)>) -> Vec<(String, Value)> {
        let inputs = inputs.into_iter().map(|(name, value)| (self.0.node_id(&name).unwrap(), value.into()));
        let ids = self.0.output_ids();
        let values = self.0.run(inputs.collect(), ids, None).unwrap_or_else(|e| panic!("{e}"));
        self.names(ids).into_iter().zip(values).collect()
    }

    /// Logits `[B, S, V]` of `tokens [B, S]`.
    fn plain(&self, tokens: &[u32], batch: usize) -> Vec<f32> {
        let mut outputs = self.run(vec![("input_ids".into(), matrix(tokens, batch))]);
        assert_eq!(outputs.len(), 1);
        logits(&mut outputs, tokens.len() / batch)
    }

    /// Logits of `tokens [B, S]`, which come after a past; `mask [B, P + S]`.
    fn next(&self, tokens: &[u32], mask: &[u32], batch: usize, past: &mut Past) -> Vec<f32> {
        let mut inputs = std::mem::take(past);
        inputs.push(("input_ids".into(), matrix(tokens, batch)));
        inputs.push(("attention_mask".into(), matrix(mask, batch)));
        let mut outputs = self.run(inputs);
        let found = logits(&mut outputs, tokens.len() / batch);
        let input = |(name, value): (String, Value)| (name.replace("present", "past_key_values"), value);
        *past = outputs.into_iter().map(input).collect();
        found
    }

    /// Logits `[B, S, V]` of `tokens [B, S]`, of which `mask [B, S]` says which are tokens, given in parts.
    fn in_parts(&self, config: &DecoderConfig, parts: &[usize], rows: &[Row]) -> Vec<f32> {
        let batch = rows.len();
        let mut past = Past::new();
        for layer in 0..config.n_layers() {
            for what in ["key", "value"] {
                let nothing: Vec<f32> = Vec::new();
                let shape = [batch, config.n_kv_heads, 0, config.head_dim];
                let nothing = Value::from_shape(&shape, nothing).unwrap();
                past.push((format!("past_key_values.{layer}.{what}"), nothing));
            }
        }
        let seq: usize = parts.iter().sum();
        let mut all = vec![Vec::new(); batch];
        let mut at = 0;
        for &part in parts {
            let tokens: Vec<u32> = rows.iter().flat_map(|row| row.tokens[at..at + part].to_vec()).collect();
            at += part;
            let mask: Vec<u32> = rows.iter().flat_map(|row| row.mask[..at].to_vec()).collect();
            let found = self.next(&tokens, &mask, batch, &mut past);
            all.iter_mut().zip(found.chunks(found.len() / batch)).for_each(|(all, row)| all.extend(row));
        }
        assert_eq!(at, seq);
        all.concat()
    }
}

/// A row of a batch: tokens, and which of them are any.
struct Row {
    tokens: Vec<u32>,
    mask: Vec<u32>,
}

/// Rows without padding.
fn rows(tokens: &[u32], batch: usize) -> Vec<Row> {
    let row = |tokens: &[u32]| Row { tokens: tokens.to_vec(), mask: vec![1; tokens.len()] };
    tokens.chunks(tokens.len() / batch).map(row).collect()
}

/// A prompt in two parts, then token by token.
fn parts(seq: usize) -> Vec<usize> {
    let mut parts = vec![seq / 3, seq / 3];
    parts.extend(vec![1; seq - 2 * (seq / 3)]);
    parts
}

fn matrix(values: &[u32], rows: usize) -> Value {
    let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
    Value::from_shape(&[rows, values.len() / rows], values).unwrap()
}

fn logits(outputs: &mut Vec<(String, Value)>, seq: usize) -> Vec<f32> {
    let (name, value) = outputs.remove(0);
    let (shape, values) = value.into_shape_vec::<f32, 3>().unwrap();
    assert_eq!((&*name, shape[1]), ("logits", seq));
    values
}

/// The same by our own decoder.
fn own_logits(model: &Model, tokens: &[u32], batch: usize) -> Vec<f32> {
    let mut scratch = Scratch::default();
    let seq = tokens.len() / batch;
    let mut caches: Vec<_> = (0..batch).map(|_| model.new_cache(seq, CacheType::F32).unwrap()).collect();
    let chunks = tokens.chunks(seq).zip(&mut caches);
    let mut chunks: Vec<Chunk> =
        chunks.map(|(tokens, cache)| Chunk { tokens, cache, logits: Rows::All }).collect();
    model.forward(&mut scratch, &mut chunks).unwrap().to_vec()
}

fn random_tokens(config: &DecoderConfig, count: usize) -> Vec<u32> {
    let mut rng = Rng::new(7, 0);
    (0..count).map(|_| (rng.next() % config.vocab_size as u64) as u32).collect()
}

/// Fails unless the two are as near to each other as sums in f32 let them be; says how near.
fn assert_close(what: &str, found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f64, |a, x| a.max(f64::from(x.abs())));
    let off = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max) / largest;
    assert!(off <= TOLERANCE && largest > 0.0 && largest.is_finite(), "{what}: off by {off:.1e}");
    off
}

#[test]
fn every_model_gives_the_decoders_logits() {
    for path in models() {
        let name = path.display().to_string();
        let model = load(&path);
        let config = model.config();
        let (batch, seq) = (2, 48.min(config.max_seq));
        let tokens = random_tokens(config, batch * seq);
        let expected = own_logits(&model, &tokens, batch);

        let plain = Graph::of(config, model.weights(), OnnxGraph::Plain);
        let off = assert_close(&name, &plain.plain(&tokens, batch), &expected);
        let few = &expected[..7 * config.vocab_size];
        assert_close(&format!("{name}: another shape"), &plain.plain(&tokens[..7], 1), few);

        let cache = Graph::of(config, model.weights(), OnnxGraph::Cache);
        let found = cache.in_parts(config, &parts(seq), &rows(&tokens, batch));
        let in_parts = assert_close(&format!("{name}: in parts"), &found, &expected);
        let found = cache.in_parts(config, &[seq], &rows(&tokens, batch));
        assert_close(&format!("{name}: with a cache, at once"), &found, &expected);
        println!("{name}: off by {off:.1e}, in parts by {in_parts:.1e}");
    }
}

/// Parameters in memory.
struct Made(HashMap<TensorId, Vec<f32>>);

impl Made {
    fn new(config: &DecoderConfig) -> Self {
        let made = |(index, (id, shape)): (usize, (TensorId, Vec<usize>))| {
            let mut rng = Rng::new(1, index as u64);
            let size = match &*shape {
                [_, inputs] => 1.5 / (*inputs as f32).sqrt(),
                _ => 0.3,
            };
            let is_norm = id.kind == Kind::Weight && shape.len() == 1;
            let middle = if is_norm && config.norm != Norm::RmsNormOnePlus { 1.0 } else { 0.0 };
            (id, (0..shape.iter().product()).map(|_| middle + size * rng.normal()).collect())
        };
        Made(canonical(config).into_iter().enumerate().map(made).collect())
    }
}

impl Tensors for Made {
    fn read(&self, id: TensorId, out: &mut Vec<f32>) -> Result<()> {
        out.clone_from(&self.0[&id]);
        Ok(())
    }
}

#[test]
fn every_switch_beside_every_other() {
    let configurations = switches::configurations();
    let mut worst = 0f64;
    for (name, config) in &configurations {
        let config = shrink(config);
        let tensors = Made::new(&config);
        let wide = |(id, x): (&TensorId, &Vec<f32>)| (*id, x.iter().map(|&x| f64::from(x)).collect());
        let parameters = tensors.0.iter().map(wide).collect();
        let reference = Reference { config: &config, parameters: &parameters };
        let (batch, seq) = (2, 12.min(config.max_seq));
        let tokens = random_tokens(&config, batch * seq);
        let narrow = |row: &[u32]| reference.logits(row).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let expected: Vec<f32> = tokens.chunks(seq).flat_map(narrow).collect();

        let found = Graph::of(&config, &tensors, OnnxGraph::Plain).plain(&tokens, batch);
        worst = worst.max(assert_close(name, &found, &expected));
        let graph = Graph::of(&config, &tensors, OnnxGraph::Cache);
        let found = graph.in_parts(&config, &parts(seq), &rows(&tokens, batch));
        assert_close(&format!("{name}: in parts"), &found, &expected);
    }
    println!("{} configurations, off by {worst:.1e} at most", configurations.len());
}

/// Sequences of different lengths side by side: wherever the padding stands, it changes nothing.
#[test]
fn padding_leaves_no_trace() {
    for name in ["gpt2-micro", "mistral-micro", "gemma3-micro"] {
        let model = load(&fixtures().join(name));
        let (config, vocab) = (model.config(), model.config().vocab_size);
        let tokens = random_tokens(config, 40);
        let expected = own_logits(&model, &tokens, 1);
        let row = |places: &dyn Fn(usize) -> bool| {
            let mut next = tokens.iter();
            let is_token: Vec<bool> = (0..45).map(places).collect();
            let tokens = is_token.iter().map(|&is| if is { *next.next().unwrap() } else { 3 }).collect();
            Row { tokens, mask: is_token.into_iter().map(u32::from).collect() }
        };
        let padded = [row(&|i| i >= 5), row(&|i| i < 40), row(&|i| !(20..25).contains(&i))];
        let graph = Graph::of(config, model.weights(), OnnxGraph::Cache);
        for parts in [vec![45], vec![9, 14], vec![23]] {
            let mut parts = parts;
            parts.extend(vec![1; 45 - parts.iter().sum::<usize>()]);
            let found = graph.in_parts(config, &parts, &padded);
            for (at, (row, found)) in padded.iter().zip(found.chunks(45 * vocab)).enumerate() {
                let tokens = found.chunks(vocab).zip(&row.mask).filter(|(_, mask)| **mask == 1);
                let found: Vec<f32> = tokens.flat_map(|(logits, _)| logits.to_vec()).collect();
                assert_close(&format!("{name}: row {at} in parts {parts:?}"), &found, &expected);
            }
        }
    }
}

/// The names and shapes that programs rely on.
#[test]
fn inputs_and_outputs_have_their_names() {
    let model = load(&fixtures().join("qwen3-micro"));
    let graph = Graph::of(model.config(), model.weights(), OnnxGraph::Plain);
    assert_eq!(graph.names(graph.0.input_ids()), ["input_ids"]);
    assert_eq!(graph.names(graph.0.output_ids()), ["logits"]);

    let graph = Graph::of(model.config(), model.weights(), OnnxGraph::Cache);
    let of = |what: &str| -> Vec<String> {
        let of_layer = |layer| [format!("{what}.{layer}.key"), format!("{what}.{layer}.value")];
        (0..model.config().n_layers()).flat_map(of_layer).collect()
    };
    let inputs = graph.names(graph.0.input_ids());
    assert_eq!(inputs[..2], ["input_ids", "attention_mask"]);
    assert_eq!(inputs[2..], of("past_key_values"));
    let outputs = graph.names(graph.0.output_ids());
    assert_eq!((&*outputs[0], &outputs[1..]), ("logits", &of("present")[..]));
}

#[test]
fn weights_beside_the_model_give_the_same_logits() {
    let model = load(&fixtures().join("llama-micro"));
    let (config, tokens) = (model.config(), random_tokens(model.config(), 24));
    let folder = Folder::new();
    let path = |name: &str| folder.0.join(name);
    let limit = |graph, longest_file| SaveOptions {
        format: SaveFormat::Onnx(OnnxOptions { graph, longest_file }),
        ..options(graph)
    };
    export(&path("a.onnx"), config, model.weights(), &options(OnnxGraph::Plain));
    let bytes = fs::metadata(path("a.onnx")).unwrap().len();
    export(&path("b.onnx"), config, model.weights(), &limit(OnnxGraph::Plain, bytes - 1));
    assert_eq!(folder.names(), ["a.onnx", "b.onnx", "b.onnx.data"]);
    assert!(fs::metadata(path("b.onnx")).unwrap().len() < bytes / 4);
    let [a, b] = ["a.onnx", "b.onnx"].map(|name| Graph::open(&path(name)).plain(&tokens, 1));
    assert!(a == b, "other bits");

    // Neither file is replaced unasked, not even the one that would not be written.
    fs::remove_file(path("b.onnx")).unwrap();
    for longest in [0, LONGEST_MESSAGE] {
        let options = limit(OnnxGraph::Plain, longest);
        let error = save::save(&path("b.onnx"), ARCHITECTURES[0], config, model.weights(), &options);
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("b.onnx.data is there already"), "{error}");
    }
    let replace = SaveOptions { existing: Existing::Replace, ..options(OnnxGraph::Plain) };
    export(&path("b.onnx"), config, model.weights(), &replace);
    assert_eq!(folder.names(), ["a.onnx", "b.onnx"]);
    assert_eq!(fs::read(path("a.onnx")).unwrap(), fs::read(path("b.onnx")).unwrap());
}

/// A model of weights alone has those of transformers' folder, bit for bit.
#[test]
fn weights_alone_are_those_of_a_folder() {
    for path in models().iter().filter(|path| path.join("config.json").exists()) {
        let name = path.display();
        let model = load(path);
        let folder = Folder::new();
        let save = |name: &str, options: &SaveOptions| {
            let path = folder.0.join(name);
            save::save(&path, model.architecture(), model.config(), model.weights(), options)
                .unwrap_or_else(|e| panic!("{e:#}"));
            path
        };
        let onnx = save("m.onnx", &options(OnnxGraph::Weights));
        let hf = save("hf", &SaveOptions { format: SaveFormat::Hf, ..options(OnnxGraph::Weights) });
        let hf = Checkpoint::open(&hf).unwrap_or_else(|e| panic!("{e}"));
        let found: HashMap<String, Value> = Graph::open(&onnx).run(Vec::new()).into_iter().collect();
        assert_eq!(found.len(), hf.tensors().count(), "{name}");
        for tensor in hf.tensors() {
            let value = found[tensor.name].clone();
            let (shape, values) = match tensor.shape.len() {
                1 => {
                    value.into_shape_vec::<f32, 1>().map(|(shape, values)| (shape.to_vec(), values)).unwrap()
                }
                _ => {
                    value.into_shape_vec::<f32, 2>().map(|(shape, values)| (shape.to_vec(), values)).unwrap()
                }
            };
            assert_eq!(shape, tensor.shape, "{name}: {}", tensor.name);
            let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
            assert!(bytes == tensor.bytes, "{name}: {}", tensor.name);
        }
    }
}

/// What is exported with an adapter is the model with the adapter.
#[test]
fn adapters_are_merged_into_the_graph() {
    for name in ["llama-micro", "gemma3-micro"] {
        let path = fixtures().join(name);
        let mut model = load(&path);
        let tokens = random_tokens(model.config(), 24);
        let before = own_logits(&model, &tokens, 1);
        let base = Base { architecture: model.architecture(), config: model.config() };
        let adapter = adapter::read(&path.join("lora/trained"), &base, &Pool::new(1)).unwrap();
        let adapters = [adapter.copy().unwrap()];
        let merged = Merged::new(model.config(), model.weights(), &adapters).unwrap();
        let found = Graph::of(merged.config(), &merged, OnnxGraph::Plain).plain(&tokens, 1);
        model.put_on(adapter).unwrap();
        let expected = own_logits(&model, &tokens, 1);
        assert_close(name, &found, &expected);
        assert!(before != expected, "{name}: the adapter changes nothing");
    }
}

#[test]
fn a_folder_has_the_tokenizer_beside_the_model() {
    let path = fixtures().join("qwen3-micro");
    let model = load(&path);
    let tokenizer = load::tokenizer(&path).unwrap();
    let folder = Folder::new();
    let out = folder.0.join("out");
    let options = SaveOptions {
        tokenizer: Some(&tokenizer),
        tokenizer_folder: Some(&path),
        format: SaveFormat::Onnx(OnnxOptions { graph: OnnxGraph::Cache, longest_file: 0 }),
        ..options(OnnxGraph::Cache)
    };
    let save = || save::save(&out, model.architecture(), model.config(), model.weights(), &options);
    save().unwrap();
    for name in ["model.onnx", "model.onnx.data", "config.json", "tokenizer.json", "generation_config.json"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let tokens = random_tokens(model.config(), 12);
    let graph = Graph::open(&out.join("model.onnx"));
    let found = graph.in_parts(model.config(), &parts(12), &rows(&tokens, 1));
    assert_close("folder", &found, &own_logits(&model, &tokens, 1));
    assert!(format!("{:#}", save().unwrap_err()).contains("model.onnx is there already"));
    // What reads models says why it does not read this one.
    let error = Checkpoint::open(&out.join("model.onnx")).unwrap_err().to_string();
    assert!(error.contains("ONNX is written and not read"), "{error}");
}

/// Fails at the last tensor, or gives too few values of it.
struct Broken<'a> {
    tensors: &'a Made,
    at: TensorId,
    too_few: bool,
}

impl Tensors for Broken<'_> {
    fn read(&self, id: TensorId, out: &mut Vec<f32>) -> Result<()> {
        if id == self.at && !self.too_few {
            return Err(Error::new("the disk is gone"));
        }
        self.tensors.read(id, out)?;
        out.truncate(if id == self.at { 1 } else { usize::MAX });
        Ok(())
    }
}

#[test]
fn an_export_that_fails_leaves_nothing_behind() {
    let (_, config) = &switches::configurations()[0];
    let config = shrink(config);
    let tensors = Made::new(&config);
    let (at, _) = *canonical(&config).last().unwrap();
    let folder = Folder::new();
    for (too_few, expected) in [(false, "the disk is gone"), (true, "found 1")] {
        for longest_file in [0, LONGEST_MESSAGE] {
            let broken = Broken { tensors: &tensors, at, too_few };
            let graph = OnnxGraph::Plain;
            let format = SaveFormat::Onnx(OnnxOptions { graph, longest_file });
            let options = SaveOptions { format, ..options(graph) };
            let path = folder.0.join("m.onnx");
            let error = save::save(&path, ARCHITECTURES[0], &config, &broken, &options).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
            assert!(error.source().is_some() && folder.names().is_empty(), "{:?}", folder.names());
            assert!(!data_path(&path).exists());
        }
    }
}
