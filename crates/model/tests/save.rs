//! Every reference model, written in every format that has room for it and read again: the same configuration, and the
//! same bits in every canonical tensor.
//!
//! Cases are found: every model under `$WOOTZ_FIXTURES` (default `tests/fixtures`) and in the reference data beside the
//! project.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};
use wootz_formats::{Checkpoint, Format};
use wootz_kernels::{DType, Pool, Precision};
use wootz_model::arch::{self, Architecture, identify};
use wootz_model::config::{DecoderConfig, Head, Norm, RopeScaling};
use wootz_model::error::Result;
use wootz_model::load;
use wootz_model::names::{Part, Place, TensorId, canonical};
use wootz_model::presets::{Overrides, preset};
use wootz_model::rope::frequencies;
use wootz_model::save::{CheckpointTensors, Existing, SaveFormat, SaveOptions, Tensors, save};
use wootz_model::weights::Weights;
use wootz_text::{Special, Tokenizer};

fn fixtures() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    std::env::var_os("WOOTZ_FIXTURES").map_or(default, PathBuf::from)
}

fn shared() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    std::env::var_os("WOOTZ_SHARED").map_or(default, PathBuf::from)
}

/// Every model: folders with a config.json, and files of the other formats.
fn models() -> Vec<PathBuf> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        if folder.join("config.json").exists() {
            found.push(folder.to_owned());
        }
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_model =
                name.ends_with(".gguf") || ["llama2c.bin", "model.bin", "model_bf16.bin"].contains(&&*name);
            if path.is_dir() {
                if !["lora", "grpo"].contains(&&*name) {
                    collect(&path, found);
                }
            } else if is_model {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    collect(&fixtures(), &mut found);
    collect(&shared().join("fixtures/real"), &mut found);
    found.sort();
    assert!(!found.is_empty(), "no models under {}", fixtures().display());
    found
}

/// A folder that is removed when it goes out of scope.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("wootz-save-{}-{n}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Scratch(folder)
    }

    fn target(&self, format: SaveFormat) -> PathBuf {
        self.0.join(match format {
            SaveFormat::Hf => "folder",
            SaveFormat::Gguf => "model.gguf",
            SaveFormat::LlmC => "model.bin",
            SaveFormat::Onnx(_) => "model.onnx",
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn options<'a>(format: SaveFormat, dtype: DType) -> SaveOptions<'a> {
    let existing = Existing::Keep;
    SaveOptions { format, dtype, name: "test", tokenizer: None, tokenizer_folder: None, existing }
}

struct Open {
    checkpoint: Checkpoint,
    architecture: &'static Architecture,
    config: DecoderConfig,
}

impl Open {
    fn new(path: &Path) -> Self {
        let checkpoint = Checkpoint::open(path).unwrap_or_else(|e| panic!("{e}"));
        let (architecture, config) = identify(&checkpoint).unwrap_or_else(|e| panic!("{e:#}"));
        Open { checkpoint, architecture, config }
    }

    fn tensors(&self) -> CheckpointTensors<'_> {
        CheckpointTensors::new(&self.checkpoint, self.architecture, &self.config)
            .unwrap_or_else(|e| panic!("{e:#}"))
    }

    fn read(&self, id: TensorId) -> Vec<f32> {
        let mut out = Vec::new();
        self.tensors().read(id, &mut out).unwrap_or_else(|e| panic!("{e:#}"));
        out
    }

    fn save(&self, path: &Path, options: &SaveOptions) -> Result<()> {
        save(path, self.architecture, &self.config, &self.tensors(), options)
    }
}

#[test]
fn every_format_has_its_name() {
    for name in SaveFormat::NAMES {
        assert_eq!(SaveFormat::from_name(name).map(SaveFormat::name), Some(name));
    }
    assert_eq!(SaveFormat::from_name("pickle"), None);
}

/// What a file holds where the configuration has this norm.
fn file_norm(architecture: &Architecture, format: SaveFormat, norm: Norm) -> Norm {
    match (architecture.name, format) {
        ("gemma3", SaveFormat::Hf) => Norm::RmsNormOnePlus,
        ("gemma3", SaveFormat::Gguf) => Norm::RmsNorm,
        _ => norm,
    }
}

/// Compares what was read with what was saved, but for what the formats say in other words.
fn check_config(name: &str, format: SaveFormat, saved: &Open, read: &Open) {
    let mut expected = saved.config.clone();
    expected.norm = file_norm(saved.architecture, format, expected.norm);
    for (expected, read) in expected.layers.iter_mut().zip(&read.config.layers) {
        let (Some(rope), Some(found)) = (&mut expected.rope, &read.rope) else { continue };
        // Llama 3's scaling is a tensor of divisors in GGUF.
        let is_divisors = matches!(found.scaling, RopeScaling::Divisors(_));
        if is_divisors && matches!(rope.scaling, RopeScaling::Llama3 { .. }) {
            let of = |rope| frequencies(rope, saved.config.head_dim).0;
            for (a, b) in of(rope).into_iter().zip(of(found)) {
                assert!((a - b).abs() <= f32::EPSILON * a, "{name}: {a} {b}");
            }
            rope.scaling = found.scaling.clone();
        }
    }
    assert_eq!(read.config, expected, "{name} as {format}");
    let family = if format == SaveFormat::Gguf && saved.architecture.name == "mistral" {
        "llama"
    } else {
        saved.architecture.name
    };
    assert_eq!(read.architecture.name, family, "{name} as {format}");
}

fn is_norm(id: TensorId) -> bool {
    id.to_string().contains("norm")
}

#[test]
fn every_model_comes_back_from_every_format() {
    for path in models() {
        let name = path.display().to_string();
        let model = Open::new(&path);
        for format in [SaveFormat::Hf, SaveFormat::Gguf, SaveFormat::LlmC] {
            let scratch = Scratch::new();
            let target = scratch.target(format);
            let saved = model.save(&target, &options(format, DType::F32));
            if format == SaveFormat::LlmC && model.architecture.name != "gpt2" {
                let error = format!("{:#}", saved.unwrap_err());
                assert!(error.contains("llm.c knows GPT-2 alone"), "{error}");
                assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
                continue;
            }
            saved.unwrap_or_else(|e| panic!("{name} as {format}: {e:#}"));
            let read = Open::new(&target);
            check_config(&name, format, &model, &read);
            let shift = match (model.config.norm, read.config.norm) {
                (Norm::RmsNormOnePlus, Norm::RmsNorm) => 1.0,
                (Norm::RmsNorm, Norm::RmsNormOnePlus) => -1.0,
                (a, b) => {
                    assert_eq!(a, b);
                    0.0
                }
            };
            for (id, shape) in canonical(&model.config) {
                let (mut expected, found) = (model.read(id), read.read(id));
                assert_eq!(expected.len(), shape.iter().product::<usize>());
                if shift != 0.0 && is_norm(id) {
                    expected.iter_mut().for_each(|w| *w += shift);
                }
                let same = expected.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same && expected.len() == found.len(), "{name} as {format}: {id}");
            }
        }
    }
}

#[test]
fn rounded_files_hold_the_rounded_values() {
    for path in models().iter().filter(|path| path.join("config.json").exists()) {
        let model = Open::new(path);
        for (format, dtype) in [
            (SaveFormat::Hf, DType::BF16),
            (SaveFormat::Hf, DType::F16),
            (SaveFormat::Gguf, DType::BF16),
            (SaveFormat::Gguf, DType::F16),
        ] {
            let scratch = Scratch::new();
            let target = scratch.target(format);
            model
                .save(&target, &options(format, dtype))
                .unwrap_or_else(|e| panic!("{}: {e:#}", path.display()));
            let read = Open::new(&target);
            for (id, shape) in canonical(&model.config) {
                // Norms are checked above, as f32; in GGUF they and learned positions stay so.
                if shape.len() == 1 {
                    continue;
                }
                let kept = format == SaveFormat::Gguf && id.to_string().starts_with("pos_embed");
                let round = |x: f32| match dtype {
                    _ if kept => x,
                    DType::BF16 => bf16::from_f32(x).to_f32(),
                    _ => f16::from_f32(x).to_f32(),
                };
                let expected: Vec<f32> = model.read(id).into_iter().map(round).collect();
                assert!(expected == read.read(id), "{} {format} {dtype}: {id}", path.display());
            }
            for tensor in read.checkpoint.tensors() {
                let wide = format == SaveFormat::Gguf
                    && (tensor.shape.len() == 1 || tensor.name == "position_embd.weight");
                assert_eq!(tensor.dtype, if wide { DType::F32 } else { dtype }, "{}", tensor.name);
            }
        }
    }
}

#[test]
fn llmc_files_are_llm_cs_own_byte_for_byte() {
    let folder = fixtures().join("gpt2-micro");
    if !folder.is_dir() {
        println!("skipped: no {}", folder.display());
        return;
    }
    let model = Open::new(&folder);
    let tokenizer = load::tokenizer(&folder).unwrap();
    for (dtype, expected) in [(DType::F32, "model.bin"), (DType::BF16, "model_bf16.bin")] {
        let scratch = Scratch::new();
        let target = scratch.target(SaveFormat::LlmC);
        let options = SaveOptions { tokenizer: Some(&tokenizer), ..options(SaveFormat::LlmC, dtype) };
        model.save(&target, &options).unwrap();
        let same = |found: &Path, expected: &str| {
            fs::read(found).unwrap() == fs::read(folder.join("llmc").join(expected)).unwrap()
        };
        assert!(same(&target, expected), "{expected}");
        assert!(same(&scratch.0.join("tokenizer.bin"), "tokenizer.bin"));
    }
}

/// The tokenizer goes with the model, copied or written anew: the same ids come of what was saved.
#[test]
fn tokenizers_travel_with_the_model() {
    let story = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/story.gguf");
    for path in models().iter().chain([&story]) {
        let name = path.display();
        let model = Open::new(path);
        let tokenizer = match load::tokenizer(path) {
            Ok(tokenizer) if tokenizer.encode("", Special::default()).is_ok() => tokenizer,
            // Some files have none, and llm.c's can only decode.
            Ok(_) | Err(_) => continue,
        };
        let copied = path.is_dir().then_some(path.as_path());
        for (format, tokenizer_folder) in
            [(SaveFormat::Hf, copied), (SaveFormat::Hf, None), (SaveFormat::Gguf, None)]
        {
            let scratch = Scratch::new();
            let target = scratch.target(format);
            let options =
                SaveOptions { tokenizer: Some(&tokenizer), tokenizer_folder, ..options(format, DType::F32) };
            model.save(&target, &options).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            let read: Tokenizer = load::tokenizer(&target).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            assert_eq!((read.bos(), read.eos()), (tokenizer.bos(), tokenizer.eos()), "{name} as {format}");
            assert_eq!(read.end_tokens(), tokenizer.end_tokens(), "{name} as {format}");
            for text in ["Once upon a time, there was", "  two  spaces\n", "Ünïcödé — 日本 🦙", ""]
            {
                let special = Special { add: true, parse: false };
                let expected = tokenizer.encode(text, special);
                let found = read.encode(text, special);
                assert_eq!(found.ok(), expected.ok(), "{name} as {format}: {text:?}");
            }
        }
    }
}

/// Zeros, or one value somewhere.
struct Made {
    config: DecoderConfig,
    value: f32,
}

impl Tensors for Made {
    fn read(&self, id: TensorId, out: &mut Vec<f32>) -> Result<()> {
        let all = canonical(&self.config);
        let (_, shape) = all.iter().find(|(other, _)| *other == id).unwrap();
        out.clear();
        out.resize(shape.iter().product(), self.value);
        Ok(())
    }
}

#[test]
fn a_vocabulary_without_a_name_for_each_row_is_padded() {
    let small =
        Overrides { n_layers: Some(1), vocab_size: Some(60_000), max_seq: Some(8), ..Overrides::default() };
    let (architecture, config) =
        preset("gpt2-124m").unwrap().config(&Overrides { dim: Some(24), ..small }).unwrap();
    let tensors = Made { config: config.clone(), value: 0.5 };
    let tokenizer = Tokenizer::gpt2().unwrap();
    let scratch = Scratch::new();
    for format in [SaveFormat::Gguf, SaveFormat::LlmC] {
        let options = SaveOptions { tokenizer: Some(&tokenizer), ..options(format, DType::F32) };
        save(&scratch.target(format), architecture, &config, &tensors, &options).unwrap();
    }
    let read = load::tokenizer(&scratch.target(SaveFormat::Gguf)).unwrap();
    assert_eq!((read.vocab_size(), read.eos()), (60_000, Some(50_256)));
    assert_eq!(read.token(59_999).unwrap(), "[PAD59999]");
    // llm.c's padding is rows of zeros.
    let llmc = Checkpoint::open(&scratch.target(SaveFormat::LlmC)).unwrap();
    let wte = llmc.tensor("wte").unwrap();
    assert_eq!(wte.shape, [60_032, 24]);
    let (rows, padding) = wte.bytes.split_at(60_000 * 24 * 4);
    assert!(padding.iter().all(|&b| b == 0) && rows.chunks(4).all(|b| b == 0.5f32.to_le_bytes()));
}

#[test]
fn what_cannot_be_said_is_not_written() {
    let of = |name: &str| {
        preset(name).unwrap().config(&Overrides { vocab_size: Some(64), ..Overrides::default() }).unwrap()
    };
    let message = |name: &str, format, dtype, change: &dyn Fn(&mut DecoderConfig)| {
        let (architecture, mut config) = of(name);
        config.layers.truncate(2);
        change(&mut config);
        let scratch = Scratch::new();
        let tensors = Made { config: config.clone(), value: 1e5 };
        let error = save(&scratch.target(format), architecture, &config, &tensors, &options(format, dtype))
            .unwrap_err();
        let left: Vec<_> = fs::read_dir(&scratch.0).unwrap().flatten().map(|entry| entry.path()).collect();
        let only_the_folder =
            left.iter().all(|path| path.is_dir() && fs::read_dir(path).unwrap().count() == 0);
        assert!(only_the_folder, "{left:?}");
        format!("{error:#}")
    };
    use SaveFormat::{Gguf, Hf, LlmC};
    let nothing = |_: &mut DecoderConfig| ();
    for (found, expected) in [
        (message("tiny", Gguf, DType::Q8_0, &nothing), "weights of type F32 or BF16 or F16, not Q8_0"),
        (message("gpt2-124m", LlmC, DType::F16, &nothing), "weights of type F32 or BF16, not F16"),
        (
            message("gpt2-124m", LlmC, DType::F32, &|c| c.head = Head::Untied),
            "llm.c knows GPT-2 with a tied head",
        ),
        (message("tiny", LlmC, DType::F32, &nothing), "llm.c knows GPT-2 alone"),
        (message("tiny", Hf, DType::F16, &nothing), "100000 is beyond F16"),
        (message("tiny", Gguf, DType::F16, &nothing), "tensor `token_embd.weight`: 100000 is beyond F16"),
        (message("tiny", Hf, DType::F32, &|c| c.logit_softcap = Some(30.0)), "logit_softcap would be lost"),
        (message("tiny", Gguf, DType::F32, &|c| c.norm = Norm::LayerNorm), "norm would be lost"),
        (message("tiny", Hf, DType::F32, &|c| c.attention_scale = 0.5), "attention_scale would be lost"),
        (
            message("tiny", Gguf, DType::F32, &|c| c.layers[1].window = Some(8)),
            "some layers have a sliding window and some have none",
        ),
        (
            message("gemma3-270m", Gguf, DType::F32, &|c| c.attention_scale = 0.5),
            "attention is scaled by 0.5; it is taken to be 0.0625",
        ),
        (
            message("tiny", Gguf, DType::F32, &|c| {
                for layer in &mut c.layers {
                    layer.rope.as_mut().unwrap().scaling = RopeScaling::Divisors(vec![2.0; 16]);
                }
            }),
            "qwen3 models cannot say that rotary frequencies are scaled",
        ),
        (
            message("llama-15m", Hf, DType::F32, &|c| {
                for layer in &mut c.layers {
                    layer.rope.as_mut().unwrap().scaling = RopeScaling::Divisors(vec![2.0; 24]);
                }
            }),
            "not those of Llama 3",
        ),
    ] {
        assert!(found.contains(expected) && found.contains("cannot save the model to"), "{found}");
    }
}

/// Divisors of a GGUF Llama 3 become the scaling that config.json has a name for.
#[test]
fn divisors_of_llama3_get_their_name_back() {
    let (architecture, mut config) = preset("llama-15m").unwrap().config(&Overrides::default()).unwrap();
    let llama3 = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_seq: 8192,
    };
    let set = |config: &mut DecoderConfig, scaling: &RopeScaling| {
        for rope in config.layers.iter_mut().filter_map(|layer| layer.rope.as_mut()) {
            (rope.theta, rope.scaling) = (500_000.0, scaling.clone());
        }
    };
    set(&mut config, &llama3);
    let divisors = architecture.gguf_head(&config).unwrap().rope_divisors.unwrap();
    assert_eq!((divisors[0], *divisors.last().unwrap()), (1.0, 32.0));
    set(&mut config, &RopeScaling::Divisors(divisors));
    let (_, written) = architecture.config_json(&config).unwrap();
    assert_eq!(written.layers[0].rope.as_ref().unwrap().scaling, llama3);
}

/// A model of zeros, saved at a place; the message of the error.
fn save_tiny(target: &Path, options: &SaveOptions) -> std::result::Result<(), String> {
    let (architecture, config) = preset("tiny").unwrap().config(&Overrides::default()).unwrap();
    let tensors = Made { config: config.clone(), value: 0.0 };
    save(target, architecture, &config, &tensors, options).map_err(|error| format!("{error:#}"))
}

#[test]
fn what_is_there_stays_unless_it_is_to_be_replaced() {
    for format in [SaveFormat::Hf, SaveFormat::Gguf] {
        let scratch = Scratch::new();
        let target = scratch.target(format);
        save_tiny(&target, &options(format, DType::F32)).unwrap();
        let file = if format == SaveFormat::Hf { target.join("model.safetensors") } else { target.clone() };
        let size = fs::metadata(&file).unwrap().len();
        let error = save_tiny(&target, &options(format, DType::BF16)).unwrap_err();
        assert!(error.contains("is there already") && error.contains(&*file.to_string_lossy()), "{error}");
        assert_eq!(fs::metadata(&file).unwrap().len(), size);
        let replace = SaveOptions { existing: Existing::Replace, ..options(format, DType::BF16) };
        save_tiny(&target, &replace).unwrap();
        assert!(fs::metadata(&file).unwrap().len() < size);
    }
}

/// Both of llm.c's files, for the second is written after the first.
#[test]
fn a_tokenizer_bin_that_is_there_stays_too() {
    let (architecture, config) = preset("gpt2-124m")
        .unwrap()
        .config(&Overrides { n_layers: Some(1), dim: Some(24), max_seq: Some(8), ..Overrides::default() })
        .unwrap();
    let tensors = Made { config: config.clone(), value: 0.0 };
    let tokenizer = Tokenizer::gpt2().unwrap();
    let scratch = Scratch::new();
    fs::write(scratch.0.join("tokenizer.bin"), "another's").unwrap();
    let options = SaveOptions { tokenizer: Some(&tokenizer), ..options(SaveFormat::LlmC, DType::F32) };
    let target = scratch.target(SaveFormat::LlmC);
    let error = format!("{:#}", save(&target, architecture, &config, &tensors, &options).unwrap_err());
    assert!(error.contains("tokenizer.bin is there already") && !target.exists(), "{error}");
    let without = SaveOptions { tokenizer: None, ..options };
    save(&target, architecture, &config, &tensors, &without).unwrap();
    assert_eq!(fs::read(scratch.0.join("tokenizer.bin")).unwrap(), b"another's");
}

#[test]
fn files_that_would_be_read_with_the_new_ones_are_not_left_beside_them() {
    let tokenizer =
        load::tokenizer(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/story.gguf")).unwrap();
    for (name, with_tokenizer) in [
        ("model.safetensors.index.json", None),
        ("model.safetensors.index.json", Some(&tokenizer)),
        ("chat_template.jinja", Some(&tokenizer)),
    ] {
        let scratch = Scratch::new();
        fs::write(scratch.0.join(name), "{}").unwrap();
        let hf = options(SaveFormat::Hf, DType::F32);
        let options = SaveOptions { tokenizer: with_tokenizer, existing: Existing::Replace, ..hf };
        let error = save_tiny(&scratch.0, &options).unwrap_err();
        assert!(error.contains("belongs to another model") && error.contains(name), "{error}");
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
    }
}

/// Permissions do not stop a superuser, but a file where a folder should be does.
#[test]
fn places_that_cannot_be_written_are_named() {
    let scratch = Scratch::new();
    let file = scratch.0.join("file");
    fs::write(&file, "").unwrap();
    for (format, target, expected) in [
        (SaveFormat::Hf, file.clone(), "cannot make the folder"),
        (SaveFormat::Hf, file.join("folder"), "cannot make the folder"),
        (SaveFormat::Gguf, file.join("a.gguf"), "a temporary file beside it"),
        (SaveFormat::Gguf, scratch.0.join("none/a.gguf"), "a temporary file beside it"),
        (SaveFormat::Gguf, scratch.0.clone(), "is a folder, expected the name of a file"),
    ] {
        let error = save_tiny(&target, &options(format, DType::F32)).unwrap_err();
        assert!(error.contains(expected) && error.contains(&*target.to_string_lossy()), "{error}");
    }
    let nowhere = scratch.0.join("nowhere");
    let hf = options(SaveFormat::Hf, DType::F32);
    let error =
        save_tiny(&scratch.0.join("b"), &SaveOptions { tokenizer_folder: Some(&nowhere), ..hf }).unwrap_err();
    assert!(error.contains("cannot read") && error.contains("nowhere/tokenizer.json"), "{error}");
    assert!(!scratch.0.join("b").exists());
}

/// A loaded model gives what its file gives.
#[test]
fn a_loaded_model_is_a_source_too() {
    let pool = Pool::new(2);
    for path in models() {
        let model = Open::new(&path);
        let (_, _, weights) = Weights::load(&model.checkpoint, &pool, Precision::Native).unwrap();
        for (id, _) in canonical(&model.config) {
            let mut found = vec![f32::NAN; 3];
            Tensors::read(&weights, id, &mut found).unwrap();
            let expected = model.read(id);
            let same = expected.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && expected.len() == found.len(), "{}: {id}", path.display());
        }
        let beyond = TensorId::weight(Place::Layer(model.config.n_layers(), Part::Q));
        let error = Tensors::read(&weights, beyond, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains(&beyond.to_string()) && error.contains("missing"), "{error}");
    }
}

#[test]
fn another_models_tokenizer_is_refused() {
    let (architecture, config) = preset("tiny").unwrap().config(&Overrides::default()).unwrap();
    let scratch = Scratch::new();
    let tokenizer = Tokenizer::gpt2().unwrap();
    let tensors = Made { config: config.clone(), value: 0.0 };
    let options = SaveOptions { tokenizer: Some(&tokenizer), ..options(SaveFormat::Gguf, DType::F32) };
    let target = scratch.target(SaveFormat::Gguf);
    let error = format!("{:#}", save(&target, architecture, &config, &tensors, &options).unwrap_err());
    assert!(error.contains("50257 tokens and the model's embedding 1024 rows"), "{error}");
}

/// A file without a vocabulary says so, and one who asks for its tokenizer is told.
#[test]
fn a_gguf_without_a_tokenizer_says_so() {
    let (architecture, config) = preset("tiny").unwrap().config(&Overrides::default()).unwrap();
    let scratch = Scratch::new();
    let tensors = Made { config: config.clone(), value: 0.0 };
    let target = scratch.target(SaveFormat::Gguf);
    save(&target, architecture, &config, &tensors, &options(SaveFormat::Gguf, DType::F32)).unwrap();
    assert_eq!(Checkpoint::open(&target).unwrap().format(), Format::Gguf);
    let error = format!("{:#}", load::tokenizer(&target).unwrap_err());
    assert!(error.contains("holds no tokenizer"), "{error}");
    assert!(arch::named("mamba").unwrap_err().to_string().contains("supported are gpt2, llama"));
}
