//! Tests over every architecture and every fixture, and of what single families do differently.

mod config;
mod files;

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use wootz_formats::{Checkpoint, Format, Metadata};
use wootz_kernels::DType;

use super::*;
use crate::config::RopeScaling;
use crate::names::{Kind, Part};
use files::Meta;

#[test]
fn names_are_unique() {
    type Names = fn(&Architecture) -> Vec<&'static str>;
    let kinds: [Names; 4] = [
        |a| vec![a.name],
        |a| a.hf_model_types.to_vec(),
        |a| a.hf_architectures.to_vec(),
        |a| a.gguf_names.to_vec(),
    ];
    for names in kinds {
        let all: Vec<_> = ARCHITECTURES.iter().flat_map(|a| names(a)).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "{all:?}");
    }
    for architecture in ARCHITECTURES {
        assert!(!architecture.hf_prefixes.is_empty() && !architecture.hf_model_types.is_empty());
    }
}

/// Every model of the fixtures is identified; its tensors are the canonical ones; together they take every element of
/// every tensor of the file exactly once (llm.c's padding, and rows of the vocabulary's, aside).
#[test]
fn fixtures_are_identified_and_used_up() {
    let models = files::models();
    if models.is_empty() {
        println!("skipped: no fixtures found");
        return;
    }
    for path in models {
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let (architecture, config) = identify(&checkpoint).unwrap_or_else(|e| panic!("{e:#}"));
        let sources = sources(architecture, &config, &checkpoint).unwrap_or_else(|e| panic!("{e:#}"));
        let found: Vec<_> = sources.iter().map(|s| (s.to, s.shape.clone())).collect();
        assert_eq!(found, canonical(&config), "{}", path.display());

        let mut seen: HashMap<&str, Vec<bool>> = HashMap::new();
        for source in &sources {
            let elements = checkpoint.tensor(&source.name).unwrap().elements();
            let seen = seen.entry(&source.name).or_insert_with(|| vec![false; elements]);
            for row in 0..source.rows() {
                for col in 0..source.cols() {
                    let element = &mut seen[source.stored_element(row, col)];
                    assert!(!*element, "{}: {} twice at [{row}, {col}]", path.display(), source.name);
                    *element = true;
                }
            }
        }
        for (name, seen) in seen {
            let padding = if name == "wte" { (512 - config.vocab_size) * config.dim } else { 0 };
            assert_eq!(seen.iter().filter(|seen| !**seen).count(), padding, "{}: {name}", path.display());
        }
    }
}

/// The same model in several formats is the same after the transforms.
#[test]
fn formats_agree_parity() {
    let real = files::shared().join("fixtures/real");
    let groups = [
        files::fixture("gpt2-micro").map(|f| vec![f.clone(), f.join("llmc/model.bin")]),
        Some(real.join("stories260k"))
            .filter(|f| f.exists())
            .map(|f| vec![f.clone(), f.join("model.gguf"), f.join("llama2c.bin")]),
        Some(real.join("babyllama"))
            .filter(|f| f.exists())
            .map(|f| vec![f.clone(), f.join("model.gguf"), f.join("llama2c.bin")]),
    ];
    for group in groups {
        let Some(group) = group else {
            println!("skipped: a fixture folder is not there");
            continue;
        };
        let mut first: Option<HashMap<TensorId, Vec<f32>>> = None;
        for path in group {
            let checkpoint = Checkpoint::open(&path).unwrap();
            let (architecture, config) = identify(&checkpoint).unwrap();
            let sources = sources(architecture, &config, &checkpoint).unwrap();
            let values: HashMap<_, _> = sources.iter().map(|s| (s.to, values(s, &checkpoint))).collect();
            let first = first.get_or_insert_with(|| values.clone());
            for (id, expected) in first.iter() {
                // babyllama's safetensors are f16.
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-3 * a.abs() + 1e-6;
                assert!(expected.iter().zip(&values[id]).all(close), "{}: {id}", path.display());
            }
        }
    }
}

fn values(source: &Source, checkpoint: &Checkpoint) -> Vec<f32> {
    let tensor = checkpoint.tensor(&source.name).unwrap();
    let at = |i: usize| match tensor.dtype {
        DType::F32 => f32::from_le_bytes(tensor.bytes[4 * i..4 * i + 4].try_into().unwrap()),
        DType::F16 => f16::from_le_bytes(tensor.bytes[2 * i..2 * i + 2].try_into().unwrap()).to_f32(),
        other => panic!("{other}"),
    };
    let positions = (0..source.rows()).flat_map(|r| (0..source.cols()).map(move |c| (r, c)));
    positions.map(|(r, c)| at(source.stored_element(r, c))).collect()
}

/// Every tensor has a name of its own in every format, but for the parts of a fused one.
#[test]
fn tables_are_complete() {
    let formats = [Format::Safetensors, Format::Gguf, Format::LlmC, Format::Llama2C];
    for architecture in ARCHITECTURES {
        let config = (architecture.from_hf)(&config::smallest(architecture)).unwrap();
        for format in formats {
            let comes = match format {
                Format::Safetensors | Format::Gguf => true,
                Format::LlmC => architecture.from_llmc.is_some(),
                Format::Llama2C => architecture.from_llama2c.is_some(),
            };
            let tensors = architecture.tensors(&config, format);
            assert_eq!(tensors.is_ok(), comes, "{} {format}", architecture.name);
            let Ok(tensors) = tensors else { continue };
            let places: HashSet<_> = tensors.iter().map(|s| (&s.name, s.transform)).collect();
            assert_eq!(places.len(), tensors.len(), "{} {format}", architecture.name);
        }
    }
}

/// The tensors of a model, as transformers names them.
fn hf_tensors(architecture: &Architecture, config: &Value) -> Vec<(String, Vec<usize>)> {
    let config = (architecture.from_hf)(config).unwrap();
    let mut all: Vec<(String, Vec<usize>)> = Vec::new();
    for source in architecture.tensors(&config, Format::Safetensors).unwrap() {
        if all.iter().all(|(name, _)| *name != source.name) {
            all.push((source.name, source.stored));
        }
    }
    all
}

fn named(name: &str) -> &'static Architecture {
    by(|a| a.name == name).unwrap()
}

/// Opens a model of the smallest config with its tensors changed, and finds its sources.
fn opened(
    name: &str,
    change: impl FnOnce(&mut Value, &mut Vec<(String, Vec<usize>)>),
) -> Result<(DecoderConfig, Vec<Source>)> {
    let architecture = named(name);
    let mut config = config::smallest(architecture);
    let mut tensors = hf_tensors(architecture, &config);
    change(&mut config, &mut tensors);
    let fill = |name: &str| u8::from(name == "lm_head.weight");
    let (_scratch, checkpoint) = files::safetensors(&config, "F32", &tensors, fill);
    let (found, config) = identify(&checkpoint)?;
    assert_eq!(found.name, name);
    let sources = sources(found, &config, &checkpoint)?;
    Ok((config, sources))
}

fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn masks_and_frequencies_are_ignored() {
    let masks = opened("gpt2", |_, tensors| {
        for (name, _) in tensors.iter_mut() {
            *name = name.trim_start_matches("transformer.").to_owned(); // as the checkpoints of 2019
        }
        tensors.push(("h.0.attn.bias".into(), vec![1, 1, 8, 8]));
        tensors.push(("h.0.attn.masked_bias".into(), vec![1]));
    });
    let (_, sources) = masks.unwrap();
    assert!(
        sources.iter().any(|s| s.name == "h.0.attn.c_attn.weight" && s.hf_name.starts_with("transformer."))
    );
    let frequencies = opened("llama", |_, tensors| {
        tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), vec![4]));
    });
    assert!(frequencies.is_ok());
}

#[test]
fn unknown_missing_and_misshapen_tensors_are_named() {
    let unknown = message(opened("llama", |_, tensors| {
        tensors.push(("model.layers.0.mlp.experts.weight".into(), vec![2]))
    }));
    assert!(
        unknown.contains("`model.layers.0.mlp.experts.weight` [2]") && unknown.contains("llama"),
        "{unknown}"
    );
    let missing =
        message(opened("llama", |_, tensors| tensors.retain(|(name, _)| !name.contains("0.mlp.up"))));
    assert!(missing.contains("`model.layers.0.mlp.up_proj.weight` [24, 16] is missing"), "{missing}");
    let transposed = message(opened("llama", |_, tensors| {
        tensors.iter_mut().filter(|(name, _)| name.contains("mlp.up")).for_each(|(_, s)| s.reverse());
    }));
    assert!(
        transposed.contains("expected [24, 16], found [16, 24]; is this file transposed?"),
        "{transposed}"
    );
    let gguf_like =
        message(opened("qwen3", |_, tensors| tensors.retain(|(name, _)| name != "lm_head.weight")));
    assert!(gguf_like.contains("tie_word_embeddings"), "{gguf_like}");
    let too_many = message(opened("llama", |config, _| config["num_hidden_layers"] = json!(9999)));
    assert!(too_many.contains("is missing"), "{too_many}");
}

#[test]
fn a_tied_head_in_the_file_counts_only_if_it_differs() {
    let tied = |last: u8| {
        let architecture = named("gemma3");
        let config = config::smallest(architecture);
        let mut tensors = hf_tensors(architecture, &config);
        let shape = tensors[0].1.clone();
        tensors.push(("lm_head.weight".into(), shape));
        let fill = |name: &str| if name == "lm_head.weight" { last } else { 0 };
        let (_scratch, checkpoint) = files::safetensors(&config, "F32", &tensors, fill);
        let (architecture, config) = identify(&checkpoint).unwrap();
        assert!(sources(architecture, &config, &checkpoint).is_ok());
        config.head
    };
    assert_eq!(tied(0), Head::Tied);
    assert_eq!(tied(1), Head::Untied);
}

#[test]
fn multimodal_gemma_is_read_for_its_text() {
    for prefix in ["language_model.model.", "model.language_model."] {
        let (config, sources) = opened("gemma3", |config, tensors| {
            let mut text = config.take();
            text["model_type"] = json!("gemma3_text");
            *config =
                json!({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}});
            for (name, _) in tensors.iter_mut() {
                *name = name.replacen("model.", prefix, 1);
            }
            tensors.push(("vision_tower.vision_model.post_layernorm.weight".into(), vec![8]));
            tensors.push(("multi_modal_projector.mm_input_projection_weight".into(), vec![8, 16]));
        })
        .unwrap();
        assert_eq!(config.dim, 16);
        assert!(sources.iter().all(|s| s.name.starts_with(prefix) && s.hf_name.starts_with("model.")));
    }
}

#[test]
fn embedding_scale_is_rounded_to_the_embedding() {
    let architecture = named("gemma3");
    let mut config = config::smallest(architecture);
    config["hidden_size"] = json!(18);
    let tensors = hf_tensors(architecture, &config);
    for (dtype, expected) in [("F32", 4.242_640_5), ("BF16", 4.25), ("F16", 4.242_187_5)] {
        let (_scratch, checkpoint) = files::safetensors(&config, dtype, &tensors, |_| 0);
        assert_eq!(identify(&checkpoint).unwrap().1.embedding_scale, expected, "{dtype}");
    }
}

/// The keys of a small GGUF model; `more` replace and add.
fn gguf_keys(architecture: &'static str, more: &[(&'static str, Meta)]) -> Vec<(String, Meta)> {
    let mut keys: Vec<(&str, Meta)> = vec![
        ("block_count", Meta::Size(1)),
        ("context_length", Meta::Size(64)),
        ("embedding_length", Meta::Size(16)),
        ("feed_forward_length", Meta::Size(24)),
        ("attention.head_count", Meta::Size(2)),
        ("attention.layer_norm_rms_epsilon", Meta::Number(1e-5)),
    ];
    for (key, value) in more {
        keys.retain(|(k, _)| k != key);
        keys.push((key, value.clone()));
    }
    let mut all = vec![("general.architecture".to_owned(), Meta::Text(architecture))];
    all.extend(keys.into_iter().map(|(key, value)| (format!("{architecture}.{key}"), value)));
    all
}

/// Opens a small GGUF model and finds its sources.
fn opened_gguf(
    architecture: &'static str,
    keys: &[(&'static str, Meta)],
    tensors: &[(String, Vec<usize>)],
) -> Result<(DecoderConfig, Vec<Source>)> {
    let keys = gguf_keys(architecture, keys);
    let keys: Vec<_> = keys.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let (_scratch, checkpoint) = files::gguf(&keys, tensors);
    let (found, config) = identify(&checkpoint)?;
    let sources = sources(found, &config, &checkpoint)?;
    Ok((config, sources))
}

fn llama_tensors(layers: usize) -> Vec<(String, Vec<usize>)> {
    let mut all =
        vec![("token_embd.weight".to_owned(), vec![32, 16]), ("output_norm.weight".into(), vec![16])];
    for i in 0..layers {
        for name in ["attn_norm", "ffn_norm"] {
            all.push((format!("blk.{i}.{name}.weight"), vec![16]));
        }
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            all.push((format!("blk.{i}.{name}.weight"), vec![16, 16]));
        }
        all.push((format!("blk.{i}.ffn_gate.weight"), vec![24, 16]));
        all.push((format!("blk.{i}.ffn_up.weight"), vec![24, 16]));
        all.push((format!("blk.{i}.ffn_down.weight"), vec![16, 24]));
    }
    all
}

#[test]
fn gguf_llama_scaling() {
    let scaling = |keys: &[(&'static str, Meta)], tensors: &[(String, Vec<usize>)]| {
        opened_gguf("llama", keys, tensors).map(|(config, _)| config.layers[0].rope.clone().unwrap().scaling)
    };
    let plain = llama_tensors(1);
    let factor = ("rope.scaling.factor", Meta::Number(4.0));
    assert_eq!(scaling(&[], &plain).unwrap(), RopeScaling::None);
    assert_eq!(scaling(std::slice::from_ref(&factor), &plain).unwrap(), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(
        scaling(&[("rope.scaling.type", Meta::Text("none")), factor.clone()], &plain).unwrap(),
        RopeScaling::None
    );
    let yarn = [
        ("rope.scaling.type", Meta::Text("yarn")),
        factor.clone(),
        ("rope.scaling.original_context_length", Meta::Size(16)),
    ];
    assert_eq!(
        scaling(&yarn, &plain).unwrap(),
        RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_max_seq: 16,
            attention_factor: 1.138_629_4,
            truncate: true,
        }
    );
    let unknown = message(scaling(&[("rope.scaling.type", Meta::Text("longrope"))], &plain));
    assert!(unknown.contains("`longrope` is not supported; supported are none, linear, yarn"), "{unknown}");

    let mut divided = llama_tensors(1);
    divided.push(("rope_freqs.weight".into(), vec![4]));
    assert_eq!(scaling(&[], &divided).unwrap(), RopeScaling::Divisors(vec![1.0, 2.0, 3.0, 4.0]));
    assert_eq!(scaling(&[factor], &divided).unwrap(), RopeScaling::Divisors(vec![4.0, 8.0, 12.0, 16.0]));
    divided.last_mut().unwrap().1 = vec![5];
    let wrong = message(scaling(&[], &divided));
    assert!(wrong.contains("rope_freqs.weight: expected F32 [4], found F32 [5]"), "{wrong}");
}

#[test]
fn gguf_llama_takes_window_and_lists() {
    let keys = [
        ("attention.sliding_window", Meta::Size(8)),
        ("attention.head_count", Meta::Sizes(vec![2, 2])),
        ("block_count", Meta::Size(2)),
    ];
    let (config, sources) = opened_gguf("llama", &keys, &llama_tensors(2)).unwrap();
    assert_eq!(config.layers[1].window, Some(8));
    assert_eq!((config.n_heads, config.head), (2, Head::Tied));
    let q = sources.iter().find(|s| s.to == TensorId::weight(Place::Layer(1, Part::Q))).unwrap();
    assert_eq!(q.transform.unpermute_heads, Some(2));
    assert_eq!(q.hf_name, "model.layers.1.self_attn.q_proj.weight");
}

#[test]
fn gguf_says_what_is_implausible() {
    let cases: [(&str, Meta, &str); 9] = [
        ("block_count", Meta::Size(1_000_000_000), "expected at most 11 layers in a file of 11 tensors"),
        ("block_count", Meta::Size(0), "above 0, found 0"),
        ("attention.head_count", Meta::Size(0), "above 0, found 0"),
        ("attention.head_count", Meta::Size(3), "expected a divisor of llama.embedding_length 16, found 3"),
        ("attention.head_count_kv", Meta::Size(3), "expected a divisor of the 2 query heads"),
        ("attention.head_count", Meta::Sizes(vec![2, 4]), "differ from layer to layer"),
        ("attention.key_length", Meta::Size(7), "even width of a head, for rotary pairs, found 7"),
        ("rope.dimension_count", Meta::Size(4), "expected the width of a head, 8, found 4"),
        ("attention.layer_norm_rms_epsilon", Meta::Number(f32::NAN), "finite number above 0, found NaN"),
    ];
    for (key, value, expected) in cases {
        let found = message(opened_gguf("llama", &[(key, value)], &llama_tensors(1)));
        assert!(found.contains(&format!("llama.{key}")) && found.contains(expected), "{key}: {found}");
        assert!(found.contains("model.gguf"), "{found}");
    }
    let unknown = message(opened_gguf("mamba", &[], &llama_tensors(1)));
    assert!(unknown.contains("`mamba` is not supported; supported are gpt2, llama, qwen2"), "{unknown}");
}

#[test]
fn gguf_gpt2_is_fused_and_not_transposed() {
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        ("token_embd.weight".into(), vec![32, 16]),
        ("position_embd.weight".into(), vec![64, 16]),
        ("output.weight".into(), vec![32, 16]),
    ];
    let layer: [(&str, &[usize]); 6] = [
        ("attn_norm", &[16]),
        ("ffn_norm", &[16]),
        ("attn_qkv", &[48, 16]),
        ("attn_output", &[16, 16]),
        ("ffn_up", &[24, 16]),
        ("ffn_down", &[16, 24]),
    ];
    let names = layer.map(|(name, shape)| (format!("blk.0.{name}"), shape));
    for (name, shape) in names.into_iter().chain([("output_norm".to_owned(), &[16][..])]) {
        tensors.push((format!("{name}.weight"), shape.to_vec()));
        tensors.push((format!("{name}.bias"), shape[..1].to_vec()));
    }
    let keys = [("attention.layer_norm_epsilon", Meta::Number(1e-5))];
    let (config, sources) = opened_gguf("gpt2", &keys, &tensors).unwrap();
    assert_eq!((config.head, config.positions), (Head::Untied, Positions::Learned));
    for (kind, first) in [(Kind::Weight, 32 * 16), (Kind::Bias, 32)] {
        let v = sources.iter().find(|s| s.to == TensorId { place: Place::Layer(0, Part::V), kind }).unwrap();
        assert_eq!(v.name, format!("blk.0.attn_qkv.{}", kind.name()));
        assert_eq!(v.stored_element(0, 0), first);
        assert!(v.transform.is_contiguous());
    }
}

#[test]
fn headers_of_other_formats() {
    let Some(llmc) = files::fixture("gpt2-micro/llmc/model.bin") else {
        println!("skipped: no fixtures found");
        return;
    };
    let checkpoint = Checkpoint::open(&llmc).unwrap();
    let Metadata::LlmC(mut header) = checkpoint.metadata().clone() else { panic!("not llm.c") };
    header.layers = usize::MAX;
    let read = gpt2::ARCHITECTURE.from_llmc.unwrap();
    assert!(message(read(&header)).contains("layers: expected at most 10000"));
    header.layers = 1;
    header.heads = 0;
    assert!(message(read(&header)).contains("heads"));
    let (_, config) = identify(&checkpoint).unwrap();
    assert_eq!((config.vocab_size, config.hidden_dim, config.max_seq), (500, 256, 64));
}

/// The keys that may be in a GGUF model of any family.
const GGUF_KEYS: &[&str] = &[
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_attn_factor",
    "expert_count",
    "final_logit_softcapping",
];

fn any_meta() -> impl Strategy<Value = Meta> {
    prop_oneof![
        any::<u32>().prop_map(Meta::Size),
        (0u32..40).prop_map(Meta::Size),
        any::<f32>().prop_map(Meta::Number),
        prop::sample::select(vec!["yarn", "linear", "none", ""]).prop_map(Meta::Text),
        prop::collection::vec(-1i32..4, 0..3).prop_map(Meta::Sizes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the metadata of a GGUF file says, it is an error that names the file or a model; never a panic.
    #[test]
    fn any_gguf_metadata_is_read_or_refused(
        architecture in prop::sample::select(vec!["llama", "qwen2", "qwen3", "gemma3", "gpt2"]),
        changes in prop::collection::vec((prop::sample::select(GGUF_KEYS), any_meta()), 1..4),
        divisors in any::<bool>(),
    ) {
        let mut tensors = llama_tensors(1);
        if divisors {
            tensors.push(("rope_freqs.weight".into(), vec![4]));
        }
        let mut keys: Vec<(&'static str, Meta)> = Vec::new();
        for (key, value) in changes {
            keys.retain(|(k, _)| *k != key);
            keys.push((key, value));
        }
        match opened_gguf(architecture, &keys, &tensors) {
            Ok((config, sources)) => prop_assert_eq!(sources.len(), canonical(&config).len()),
            Err(error) => prop_assert!(error.to_string().contains("model.gguf")),
        }
    }
}
