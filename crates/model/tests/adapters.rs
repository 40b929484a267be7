//! Adapters of PEFT's: their logits against PEFT's own, what is written against what was read, and rubbish.
//!
//! Cases are found: every folder with an adapter_config.json in a model's folder under `$WOOTZ_FIXTURES` (default
//! `tests/fixtures`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use wootz_formats::{Checkpoint, TensorView};
use wootz_kernels::exec::Weight;
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::{DType, Pool, Precision};
use wootz_model::adapter::{self, AdapterFormat, Base, Scales, WriteOptions};
use wootz_model::load::LoadOptions;
use wootz_model::lora::{Adapter, Lora, LoraOptions, Scaling};
use wootz_model::names::{Part, Place};
use wootz_model::save::{self, Existing, SaveFormat, SaveOptions};
use wootz_model::{Chunk, Model, Rows, Scratch};

fn fixtures() -> PathBuf {
    match std::env::var_os("WOOTZ_FIXTURES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"),
    }
}

/// A model and an adapter of it.
struct Case {
    model: PathBuf,
    adapter: PathBuf,
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).unwrap().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

fn cases() -> Vec<Case> {
    let mut found = Vec::new();
    for model in folders(&fixtures()).into_iter().filter(|folder| folder.join("config.json").is_file()) {
        for group in folders(&model) {
            for adapter in folders(&group) {
                if adapter.join("adapter_config.json").is_file() {
                    found.push(Case { model: model.clone(), adapter });
                }
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

fn read(path: &Path, model: &Model) -> wootz_model::Result<Adapter> {
    adapter::read(path, &base(model), &Pool::new(1))
}

fn base(model: &Model) -> Base<'_> {
    Base { architecture: model.architecture(), config: model.config() }
}

fn options(dtype: DType) -> WriteOptions<'static> {
    let format = AdapterFormat::Peft;
    WriteOptions { format, dtype, base: Some("some/base"), existing: Existing::Keep }
}

fn f32s(view: &TensorView) -> Vec<f32> {
    view.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn logits(model: &Model, ids: &[u32], seq: usize) -> Vec<f32> {
    let mut scratch = Scratch::default();
    let mut caches: Vec<_> = ids.chunks(seq).map(|_| model.new_cache(seq, CacheType::F32).unwrap()).collect();
    let mut chunks: Vec<Chunk> = ids
        .chunks(seq)
        .zip(&mut caches)
        .map(|(tokens, cache)| Chunk { tokens, cache, logits: Rows::All })
        .collect();
    model.forward(&mut scratch, &mut chunks).unwrap().to_vec()
}

fn values(weight: &Weight) -> Vec<u32> {
    let matrix = weight.host();
    let mut row = vec![0.0; matrix.cols()];
    let mut all = Vec::new();
    for at in 0..matrix.rows() {
        matrix.decode_row(at, &mut row);
        all.extend(row.iter().map(|x| x.to_bits()));
    }
    all
}

fn assert_equal(a: &Adapter, b: &Adapter, what: &str) {
    assert_eq!(a.parts.len(), b.parts.len(), "{what}");
    assert_eq!(a.dropout, b.dropout, "{what}");
    for ((place, a), (other, b)) in a.parts.iter().zip(&b.parts) {
        assert_eq!(place, other, "{what}");
        assert_eq!((a.alpha, a.scaling), (b.alpha, b.scaling), "{what}: {place:?}");
        assert!(values(&a.a) == values(&b.a) && values(&a.b) == values(&b.b), "{what}: {place:?}");
        let lengths = |lora: &Lora| lora.magnitude.as_ref().map(|magnitude| magnitude.m.host().to_vec());
        assert_eq!(lengths(a), lengths(b), "{what}: {place:?}");
    }
    let bits = |adapter: &Adapter| -> Vec<_> {
        let of = |(id, values): &(_, Vec<f32>)| (*id, values.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        adapter.saved.iter().map(of).collect()
    };
    assert!(bits(a) == bits(b), "{what}: saved");
}

/// A folder for one test, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("wootz-adapters-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
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
fn parity_of_logits_with_an_adapter() {
    let mut seen = 0;
    for case in cases() {
        let name = case.adapter.display();
        let own = case.adapter.join("logits.safetensors");
        let of_training = case.adapter.parent().unwrap().join("golden.safetensors");
        let golden = if own.is_file() {
            own
        } else if case.adapter.ends_with("trained") {
            of_training
        } else {
            continue;
        };
        let golden = Checkpoint::open(&golden).unwrap();
        let ids = golden.tensor("input_ids").unwrap();
        let want = f32s(&golden.tensor("logits_after").unwrap());
        let tokens: Vec<u32> =
            ids.bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        let mut model = load(&case.model);
        let bare = logits(&model, &tokens, ids.shape[1]);
        let adapter = read(&case.adapter, &model).unwrap_or_else(|e| panic!("{e:#}"));
        model.put_on(adapter).unwrap();
        let got = logits(&model, &tokens, ids.shape[1]);
        let largest = want.iter().fold(0f32, |a, x| a.max(x.abs()));
        let error =
            |got: &[f32]| got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest;
        println!("{name}: logits off by {:.1e}, without the adapter by {:.1e}", error(&got), error(&bare));
        assert!(error(&got) <= 2e-5, "{name}: {:e}", error(&got));
        assert!(error(&bare) > 1e-2, "{name}: the adapter changes nothing");
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn what_is_written_is_read_again_bit_for_bit() {
    for case in cases() {
        let model = load(&case.model);
        let adapter = read(&case.adapter, &model).unwrap();
        let folder = Folder::new();
        adapter::write(&folder.0, &base(&model), &adapter, &options(DType::F32)).unwrap();
        let again = read(&folder.0, &model).unwrap_or_else(|e| panic!("{e:#}"));
        assert_equal(&adapter, &again, &case.adapter.display().to_string());
        // The tensors too are those of the file, one for one.
        let [theirs, ours] = [&case.adapter, &folder.0].map(|folder| Checkpoint::open(folder).unwrap());
        let names = |checkpoint: &Checkpoint| {
            let mut names: Vec<_> =
                checkpoint.tensors().map(|t| (t.name.to_owned(), t.shape.to_vec())).collect();
            names.sort();
            names
        };
        assert_eq!(names(&theirs), names(&ours), "{}", case.adapter.display());
        let error = adapter::write(&folder.0, &base(&model), &adapter, &options(DType::F32)).unwrap_err();
        assert!(format!("{error:#}").contains("is there already"), "{error:#}");
    }
}

/// q, k and v with an a of their own, and one of them without any, in a file that has the three in one matrix.
#[test]
fn parts_of_a_fused_matrix_come_back_as_they_were() {
    let model = load(&fixtures().join("gpt2-micro"));
    for (scaling, alphas) in [(Scaling::Rank, [12.0, 12.0]), (Scaling::RootOfRank, [6.0, 6.0])] {
        for targets in [vec![Part::Q, Part::K, Part::V], vec![Part::Q, Part::V, Part::Up]] {
            let new = LoraOptions {
                rank: 6,
                alpha: alphas[0],
                scaling,
                targets,
                magnitudes: false,
                dropout: 0.25,
                seed: 3,
            };
            let mut adapter = Adapter::new(model.config(), model.pool(), &new).unwrap();
            for (index, lora) in adapter.parts.values_mut().enumerate() {
                let b: Vec<f32> =
                    (0..lora.b.rows() * 6).map(|i| ((i * 37 + index) % 101) as f32 / 500.0).collect();
                lora.b = Weight::from_f32(model.pool(), [lora.b.rows(), 6], &b);
            }
            let folder = Folder::new();
            adapter::write(&folder.0, &base(&model), &adapter, &options(DType::F32)).unwrap();
            let again = read(&folder.0, &model).unwrap();
            match scaling {
                Scaling::Rank => assert_equal(&adapter, &again, "fused"),
                // √3 is no f32: the scale is that of before to its last bit or two.
                Scaling::RootOfRank => {
                    for (a, b) in adapter.parts.values().zip(again.parts.values()) {
                        assert!((a.scale() - b.scale()).abs() <= 2e-7 * a.scale());
                        assert!(values(&a.a) == values(&b.a) && values(&a.b) == values(&b.b));
                    }
                }
            }
            // A program that does not know of the blocks sees one change of three times the rank, which does the same.
            let config = folder.0.join("adapter_config.json");
            let path = folder.0.join("adapter_model.safetensors");
            let bytes = fs::read(&path).unwrap();
            let at = bytes.windows(12).position(|w| w == b"wootz.blocks").unwrap();
            let mut renamed = bytes;
            renamed[at] = b'x';
            fs::write(&path, renamed).unwrap();
            assert!(config.is_file());
            let whole = read(&folder.0, &model).unwrap();
            let ids: Vec<u32> = (0..24).map(|i| i * 7 % 500).collect();
            let with = |adapter: Adapter| {
                let mut model = load(&fixtures().join("gpt2-micro"));
                model.put_on(adapter).unwrap();
                logits(&model, &ids, ids.len())
            };
            let (a, b, bare) = (with(again), with(whole), logits(&model, &ids, ids.len()));
            let apart =
                |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(apart(&a, &b) < 1e-4 && apart(&a, &bare) > 1e-2);
        }
    }
}

/// Changes a copy of a case's folder, and expects an error that says what is wrong.
fn refused(change: impl Fn(&Path), expected: &[&str]) {
    refused_of("lora", change, expected);
}

fn refused_of(group: &str, change: impl Fn(&Path), expected: &[&str]) {
    let from = fixtures().join("qwen3-micro").join(group).join("trained");
    let folder = Folder::new();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(from.join(name), folder.0.join(name)).unwrap();
    }
    change(&folder.0);
    let model = load(&fixtures().join("qwen3-micro"));
    let error = match read(&folder.0, &model) {
        Ok(_) => panic!("{expected:?}: was taken"),
        Err(error) => format!("{error:#}"),
    };
    for expected in expected {
        assert!(error.contains(expected), "{error}\n  does not say: {expected}");
    }
}

fn edit_config(folder: &Path, change: impl Fn(&mut serde_json::Value)) {
    let path = folder.join("adapter_config.json");
    let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(&path, json.to_string()).unwrap();
}

/// Writes the tensors again, as `change` has them; those without a name are left out.
fn edit_tensors(folder: &Path, change: impl Fn(&str, &mut Vec<usize>, &mut Vec<f32>) -> Option<String>) {
    let path = folder.join("adapter_model.safetensors");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let mut all = Vec::new();
    for tensor in checkpoint.tensors() {
        let (mut shape, mut values) = (tensor.shape.to_vec(), f32s(&tensor));
        if let Some(name) = change(tensor.name, &mut shape, &mut values) {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            all.push((name, shape, bytes));
        }
    }
    let views: Vec<TensorView> =
        all.iter().map(|(name, shape, bytes)| TensorView { name, dtype: DType::F32, shape, bytes }).collect();
    wootz_formats::safetensors::write(&path, &views, &[]).unwrap();
}

const Q_A: &str = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
const Q_B: &str = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";

#[test]
fn what_does_not_fit_is_refused_with_its_reason() {
    let json = |key: &'static str, value: serde_json::Value| {
        move |folder: &Path| edit_config(folder, |json| json[key] = value.clone())
    };
    refused(json("r", 8.into()), &["lora_A.weight", "expected rank 8", "found 16", "adapter_config.json"]);
    refused(json("target_modules", serde_json::json!(["q_proj", "query"])), &["`query`", "q_proj, k_proj"]);
    refused(json("target_modules", serde_json::json!(["q_proj"])), &["v_proj", "does not name as a target"]);
    refused(
        json("target_modules", serde_json::json!(["q_proj", "v_proj", "o_proj"])),
        &["o_proj.lora_A.weight` is missing", "names"],
    );
    refused(json("modules_to_save", serde_json::json!(["lm_head"])), &["lm_head.weight", "is missing"]);
    refused(json("modules_to_save", serde_json::json!(["score"])), &["no module `score`"]);
    refused(json("peft_type", "IA3".into()), &["adapter_config.json", "IA3"]);
    refused(json("use_dora", true.into()), &["lora_magnitude_vector` is missing", "use_dora"]);
    refused_of("dora", json("use_dora", false.into()), &["lora_magnitude_vector", "does not say use_dora"]);
    let shorter = |folder: &Path| {
        edit_tensors(folder, |name, shape, values| {
            if name.ends_with("0.mlp.up_proj.lora_magnitude_vector") {
                values.pop();
                shape[0] -= 1;
            }
            Some(name.to_owned())
        });
    };
    refused_of("dora", shorter, &["up_proj.lora_magnitude_vector", "expected [160] (outputs), found [159]"]);

    let rename = |from: &'static str, to: Option<&'static str>| {
        move |folder: &Path| {
            edit_tensors(folder, |name, _, _| match (name == from, to) {
                (true, to) => to.map(str::to_owned),
                (false, _) => Some(name.to_owned()),
            })
        }
    };
    refused(rename(Q_B, None), &[Q_A, "layers.1.self_attn.q_proj.lora_B.weight` is missing"]);
    refused(rename(Q_A, None), &[Q_B, "lora_A.weight` is missing"]);
    refused(rename(Q_A, Some("model.q.weight")), &["model.q.weight", "base_model.model."]);
    refused(
        |folder| {
            edit_config(folder, |json| json["target_modules"] = serde_json::json!(["v_proj"]));
            edit_tensors(folder, |name, _, _| match name {
                Q_A => Some("base_model.model.model.norm.weight".to_owned()),
                other => (!other.contains("q_proj")).then(|| other.to_owned()),
            });
        },
        &["model.norm.weight", "modules_to_save"],
    );
    refused(
        rename(Q_A, Some("base_model.model.model.layers.77.self_attn.q_proj.lora_A.weight")),
        &["lora_A"],
    );
    refused(
        rename(Q_A, Some("base_model.model.model.layers.0.self_attn.q_proj.lora_A.x.weight")),
        &["both there"],
    );
    refused(rename(Q_A, Some("base_model.model.model.embed_tokens.lora_embedding_A")), &["embedding"]);
    refused(rename(Q_A, Some("base_model.model.lm_head.lora_A.weight")), &["lora_A.weight` is missing"]);

    refused(
        |folder| {
            edit_tensors(folder, |name, shape, values| {
                if name == Q_B {
                    shape[0] /= 2;
                    values.truncate(values.len() / 2);
                }
                Some(name.to_owned())
            })
        },
        &[Q_B, "expected [128, 16]", "found [64, 16]", "another base"],
    );
    refused(
        |folder| {
            edit_tensors(folder, |name, _, values| {
                values[5] = if name == Q_A { f32::NAN } else { values[5] };
                Some(name.to_owned())
            })
        },
        &[Q_A, "element 5 is NaN"],
    );
    refused(
        |folder| {
            fs::rename(folder.join("adapter_model.safetensors"), folder.join("adapter_model.bin")).unwrap()
        },
        &["adapter_model.bin", "pickle", "save it again"],
    );
    refused(|folder| fs::remove_file(folder.join("adapter_model.safetensors")).unwrap(), &["is missing"]);
    refused(|folder| fs::remove_file(folder.join("adapter_config.json")).unwrap(), &["adapter_config.json"]);
    refused(|folder| fs::write(folder.join("adapter_config.json"), "{").unwrap(), &["not JSON"]);
    refused(
        |folder| {
            let path = folder.join("adapter_model.safetensors");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        },
        &["cut short"],
    );
}

/// Adapters of a base model without a head, and of the text model within a multimodal one.
#[test]
fn names_may_begin_as_other_published_ones_do() {
    let model = load(&fixtures().join("gemma3-micro"));
    let from = fixtures().join("gemma3-micro/lora/trained");
    let plain = read(&from, &model).unwrap();
    for prefix in ["", "language_model.model.", "model.language_model."] {
        let folder = Folder::new();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(from.join(name), folder.0.join(name)).unwrap();
        }
        edit_tensors(&folder.0, |name, _, _| {
            let rest = name.strip_prefix("base_model.model.model.").unwrap();
            Some(format!("base_model.model.{prefix}{rest}"))
        });
        assert_equal(&plain, &read(&folder.0, &model).unwrap(), prefix);
    }
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let model = load(&fixtures().join("llama-micro"));
    let error = read(&fixtures().join("qwen3-micro/lora/trained"), &model).unwrap_err();
    assert!(format!("{error:#}").contains("another base"), "{error:#}");
    let error = read(&fixtures().join("gpt2-micro/adapters/fused"), &model).unwrap_err();
    assert!(format!("{error:#}").contains("none of the modules of a llama model"), "{error:#}");
    // And one in memory.
    let other = load(&fixtures().join("qwen3-micro"));
    let adapter = read(&fixtures().join("qwen3-micro/lora/trained"), &other).unwrap();
    let mut model = model;
    assert!(model.put_on(adapter).unwrap_err().to_string().contains("another base"));
    assert!(model.adapters().is_empty());
}

#[test]
fn what_replaces_the_base_has_no_strength() {
    let mut model = load(&fixtures().join("qwen2-micro"));
    let mut adapter = read(&fixtures().join("qwen2-micro/adapters/saved"), &model).unwrap();
    adapter.strength = 0.5;
    assert!(model.put_on(adapter).unwrap_err().to_string().contains("modules_to_save"));
}

/// With `ensure_weight_tying` PEFT names one of embedding and head, and writes both.
#[test]
fn an_embedding_that_is_the_head_is_replaced_as_both() {
    let model = load(&fixtures().join("qwen2-micro"));
    let from = fixtures().join("qwen2-micro/adapters/saved");
    let folder = Folder::new();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(from.join(name), folder.0.join(name)).unwrap();
    }
    let saved = |adapter: &Adapter, place: Place| {
        adapter.saved.iter().find(|(id, _)| id.place == place).map(|(_, values)| values.clone())
    };
    let alone = read(&folder.0, &model).unwrap();
    assert!(saved(&alone, Place::Embed).is_some() && saved(&alone, Place::Head).is_none());
    edit_config(&folder.0, |json| json["ensure_weight_tying"] = true.into());
    let error = read(&folder.0, &model).unwrap_err();
    assert!(format!("{error:#}").contains("lm_head.weight` is missing"), "{error:#}");

    let path = folder.0.join("adapter_model.safetensors");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let mut views: Vec<TensorView> = checkpoint.tensors().collect();
    let embed = checkpoint.tensor("base_model.model.model.embed_tokens.weight").unwrap();
    views.push(TensorView { name: "base_model.model.lm_head.weight", ..embed });
    wootz_formats::safetensors::write(&path, &views, &[]).unwrap();
    let both = read(&folder.0, &model).unwrap();
    assert_eq!(saved(&both, Place::Head), saved(&alone, Place::Embed));
}

fn write_gguf(path: &Path, model: &Model, adapter: &Adapter) -> wootz_model::Result<Scales> {
    let options = WriteOptions { format: AdapterFormat::Gguf, ..options(DType::F32) };
    adapter::write(path, &base(model), adapter, &options)
}

/// The base as a GGUF too, whose rows may stand in another order.
fn as_gguf(model: &Model, path: &Path) -> Model {
    let options = SaveOptions {
        format: SaveFormat::Gguf,
        dtype: DType::F32,
        name: "base",
        tokenizer: None,
        tokenizer_folder: None,
        existing: Existing::Keep,
    };
    save::save(path, model.architecture(), model.config(), model.weights(), &options).unwrap();
    load(path)
}

#[test]
fn a_gguf_adapter_does_what_the_folder_does() {
    for case in cases() {
        let name = case.adapter.display().to_string();
        let mut model = load(&case.model);
        let mut adapter = read(&case.adapter, &model).unwrap();
        let folder = Folder::new();
        let path = folder.0.join("adapter.gguf");
        if !adapter.saved.is_empty() || adapter.has_magnitudes() {
            let error = write_gguf(&path, &model, &adapter).unwrap_err();
            assert!(format!("{error:#}").contains("merge it"), "{error:#}");
            adapter.saved.clear();
            adapter.parts.values_mut().for_each(|lora| lora.magnitude = None);
        }
        let scales = write_gguf(&path, &model, &adapter).unwrap();
        let mut other = as_gguf(&model, &folder.0.join("base.gguf"));
        let again = read(&path, &other).unwrap_or_else(|e| panic!("{e:#}"));

        let alphas: Vec<f32> = adapter.parts.values().map(|lora| lora.alpha).collect();
        let is_plain = adapter.parts.values().all(|l| l.scaling == Scaling::Rank && l.alpha == alphas[0]);
        if is_plain {
            assert_eq!(scales, Scales::Kept, "{name}");
            let mut plain = adapter.copy().unwrap();
            plain.dropout = 0.0;
            assert_equal(&plain, &again, &name);
        }
        for (a, b) in adapter.parts.values().zip(again.parts.values()) {
            assert!(values(&a.a) == values(&b.a), "{name}");
        }
        // And back to a folder.
        let back = folder.0.join("peft");
        adapter::write(&back, &base(&other), &again, &options(DType::F32)).unwrap();
        assert_equal(&again, &read(&back, &model).unwrap(), &name);

        let ids: Vec<u32> = (0..24).map(|i| i * 7 % 500).collect();
        model.put_on(adapter).unwrap();
        other.put_on(again).unwrap();
        let (want, got) = (logits(&model, &ids, 24), logits(&other, &ids, 24));
        let largest = want.iter().fold(0f32, |a, x| a.max(x.abs()));
        let apart = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest;
        println!("{name}: {apart:.1e} apart, {scales:?}");
        assert!(apart <= 2e-5, "{name}: {apart}");
    }
}

/// One alpha for all: scales that differ by a power of two cost nothing, others a rounding.
#[test]
fn scales_go_into_b_where_a_file_has_one_alpha() {
    let model = load(&fixtures().join("llama-micro"));
    let new = |alphas: [f32; 2]| {
        let options = LoraOptions {
            rank: 4,
            alpha: alphas[0],
            scaling: Scaling::Rank,
            targets: vec![Part::Q, Part::Down],
            magnitudes: false,
            dropout: 0.0,
            seed: 5,
        };
        let mut adapter = Adapter::new(model.config(), model.pool(), &options).unwrap();
        for (index, lora) in adapter.parts.values_mut().enumerate() {
            let b: Vec<f32> = (0..lora.b.rows() * 4).map(|i| (i % 13) as f32 / 7.0).collect();
            lora.b = Weight::from_f32(model.pool(), [lora.b.rows(), 4], &b);
            lora.alpha = alphas[index % 2];
        }
        adapter
    };
    for (alphas, expected) in [([8.0, 2.0], Scales::Kept), ([8.0, 3.0], Scales::Rounded)] {
        let (adapter, folder) = (new(alphas), Folder::new());
        let path = folder.0.join("a.gguf");
        assert_eq!(write_gguf(&path, &model, &adapter).unwrap(), expected);
        let again = read(&path, &model).unwrap();
        for (place, lora) in &adapter.parts {
            let other = &again.parts[place];
            let product = |lora: &Lora| -> Vec<f32> {
                values(&lora.b).into_iter().map(|b| f32::from_bits(b) * lora.scale()).collect()
            };
            for (a, b) in product(lora).into_iter().zip(product(other)) {
                let limit = if expected == Scales::Kept { 0.0 } else { 2e-7 * a.abs() };
                assert!((a - b).abs() <= limit, "{place:?}: {a} {b}");
            }
        }
    }
}

#[test]
fn gguf_files_that_are_no_adapter_of_this_base_are_refused() {
    let model = load(&fixtures().join("llama-micro"));
    let adapter = read(&fixtures().join("llama-micro/lora/trained"), &model).unwrap();
    let folder = Folder::new();
    let path = folder.0.join("a.gguf");
    write_gguf(&path, &model, &adapter).unwrap();
    let refused = |path: &Path, model: &Model, expected: &str| {
        let error = format!("{:#}", read(path, model).unwrap_err());
        assert!(error.contains(expected), "{error}\n  does not say: {expected}");
    };
    refused(&path, &load(&fixtures().join("qwen3-micro")), "general.architecture");
    let bytes = fs::read(&path).unwrap();
    // Names and values of equal lengths in their places.
    for (from, to, expected) in [
        ("adapter.type", "adapter.typo", "adapter.type"),
        ("adapter.lora.alpha", "adapter.lora.alphb", "adapter.lora.alpha"),
        ("blk.1.attn_q.weight.lora_b", "blk.1.attn_q.weight.lora_c", "lora_c"),
        ("blk.1.attn_q.weight.lora_b", "blk.7.attn_q.weight.lora_b", "is missing"),
        ("blk.1.attn_q.weight.lora_b", "blk.1.attn_v.weight.lora_b", "two tensors"),
    ] {
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut changed = bytes.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        let other = folder.0.join("b.gguf");
        fs::write(&other, changed).unwrap();
        refused(&other, &model, expected);
    }
    let gguf = folder.0.join("base.gguf");
    as_gguf(&model, &gguf);
    refused(&gguf, &model, "is this a model?");
    refused(&fixtures().join("llama-micro/model.safetensors"), &model, "found safetensors");
    refused(&folder.0.join("none.gguf"), &model, "no such file");
    fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    refused(&path, &model, "cut short");
}

/// Bytes that are cut off or changed give an error or another adapter, and never a panic.
#[test]
fn damaged_files_are_errors() {
    let model = load(&fixtures().join("llama-micro"));
    let from = fixtures().join("llama-micro/adapters/pattern");
    let folder = Folder::new();
    let gguf = folder.0.join("a.gguf");
    write_gguf(&gguf, &model, &read(&from, &model).unwrap()).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(from.join(name), folder.0.join(name)).unwrap();
    }
    let mut refused = 0;
    for (file, asked, head) in [
        ("adapter_config.json", &folder.0, 4000),
        ("adapter_model.safetensors", &folder.0, 3000),
        ("a.gguf", &gguf, 2500),
    ] {
        let path = folder.0.join(file);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len().min(head)).step_by(7) {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(&path, &changed).unwrap();
            refused += usize::from(read(asked, &model).is_err());
            fs::write(&path, &whole[..at]).unwrap();
            assert!(read(asked, &model).is_err(), "{file} cut at {at}");
        }
        fs::write(&path, &whole).unwrap();
    }
    read(&folder.0, &model).unwrap();
    assert!(refused > 100, "{refused}");
}
