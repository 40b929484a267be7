//! Reading config.json: values against the fixtures' own, both styles, defaults, and anything but a panic.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;
use super::{files, message, named};
use crate::config::{Bias, Mlp, Norm, NormPlacement, Positions, QkNorm, RopeScaling};

/// A config of the smallest model of a family, with nothing in it that has a default.
pub fn smallest(architecture: &Architecture) -> Value {
    if architecture.name == "gpt2" {
        return json!({"model_type": "gpt2", "n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 8, "vocab_size": 32});
    }
    json!({
        "model_type": architecture.hf_model_types[0], "hidden_size": 16, "intermediate_size": 24, "vocab_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    })
}

fn read(name: &str, change: Value) -> Result<DecoderConfig> {
    let architecture = named(name);
    let mut config = smallest(architecture);
    for (key, value) in change.as_object().unwrap() {
        config[key] = value.clone();
    }
    (architecture.from_hf)(&config)
}

fn fixture(name: &str) -> Option<(Value, DecoderConfig)> {
    let folder = files::fixture(name);
    if folder.is_none() {
        println!("skipped: no fixture {name}");
    }
    let config = wootz_formats::config::read(&folder?.join("config.json")).unwrap();
    let decoder = (by_config(&config).unwrap().from_hf)(&config).unwrap();
    Some((config, decoder))
}

#[test]
fn sizes_are_the_files() {
    for name in
        ["llama-micro", "llama3-rope-micro", "mistral-micro", "qwen2-micro", "qwen3-micro", "gemma3-micro"]
    {
        let Some((file, decoder)) = fixture(name) else {
            continue;
        };
        let found = [
            ("vocab_size", decoder.vocab_size),
            ("hidden_size", decoder.dim),
            ("intermediate_size", decoder.hidden_dim),
            ("num_hidden_layers", decoder.n_layers()),
            ("num_attention_heads", decoder.n_heads),
            ("num_key_value_heads", decoder.n_kv_heads),
            ("max_position_embeddings", decoder.max_seq),
        ];
        for (key, found) in found {
            assert_eq!(file[key].as_u64(), Some(found as u64), "{name} {key}");
        }
        let head_dim = file["head_dim"].as_u64().unwrap_or(16);
        assert_eq!(decoder.head_dim as u64, head_dim, "{name}");
        assert_eq!(decoder.attention_scale, 1.0 / (head_dim as f32).sqrt(), "{name}");
        assert_eq!(file["rms_norm_eps"].as_f64().map(|x| x as f32), Some(decoder.norm_eps), "{name}");
        assert_eq!(file["tie_word_embeddings"] == true, decoder.head == Head::Tied, "{name}");
    }
}

#[test]
fn families_have_their_mechanisms() {
    type Mechanisms = (Norm, NormPlacement, Positions, Bias, QkNorm, Mlp);
    let expected: [(&str, Mechanisms); 6] = [
        (
            "gpt2",
            (Norm::LayerNorm, NormPlacement::Pre, Positions::Learned, Bias::All, QkNorm::None, Mlp::Gelu),
        ),
        (
            "llama",
            (Norm::RmsNorm, NormPlacement::Pre, Positions::Rotary, Bias::None, QkNorm::None, Mlp::SwiGlu),
        ),
        (
            "mistral",
            (Norm::RmsNorm, NormPlacement::Pre, Positions::Rotary, Bias::None, QkNorm::None, Mlp::SwiGlu),
        ),
        (
            "qwen2",
            (Norm::RmsNorm, NormPlacement::Pre, Positions::Rotary, Bias::Qkv, QkNorm::None, Mlp::SwiGlu),
        ),
        (
            "qwen3",
            (Norm::RmsNorm, NormPlacement::Pre, Positions::Rotary, Bias::None, QkNorm::PerHead, Mlp::SwiGlu),
        ),
        (
            "gemma3",
            (
                Norm::RmsNormOnePlus,
                NormPlacement::Sandwich,
                Positions::Rotary,
                Bias::None,
                QkNorm::PerHead,
                Mlp::GeGlu,
            ),
        ),
    ];
    assert_eq!(expected.len(), ARCHITECTURES.len());
    for (name, mechanisms) in expected {
        let c = read(name, json!({})).unwrap();
        assert_eq!((c.norm, c.placement, c.positions, c.bias, c.qk_norm, c.mlp), mechanisms, "{name}");
        assert_eq!(c.embedding_scale, if name == "gemma3" { 4.0 } else { 1.0 }, "{name}");
        assert_eq!(
            c.head,
            if ["gemma3", "gpt2"].contains(&name) { Head::Tied } else { Head::Untied },
            "{name}"
        );
    }
}

#[test]
fn rope_of_the_fixtures() {
    let rope = |name: &str, layer: usize| fixture(name).map(|(_, c)| c.layers[layer].rope.clone().unwrap());
    let Some(llama3) = rope("llama3-rope-micro", 0) else {
        return;
    };
    assert_eq!(llama3.theta, 500_000.0);
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_seq: 32,
    };
    assert_eq!(llama3.scaling, scaling);
    let yarn = rope("qwen3-yarn-micro", 1).unwrap();
    let scaling = RopeScaling::Yarn {
        factor: 4.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_max_seq: 32,
        attention_factor: 1.138_629_4,
        truncate: true,
    };
    assert_eq!((yarn.theta, yarn.scaling), (1e6, scaling));

    // Both styles of Gemma: the sixth layer is global, and it alone is scaled.
    for (name, window, global) in [
        ("gemma3-micro", 16, RopeScaling::None),
        ("gemma3-rope8-micro", 8, RopeScaling::Linear { factor: 8.0 }),
    ] {
        let (_, config) = fixture(name).unwrap();
        for (i, layer) in config.layers.iter().enumerate() {
            let rope = layer.rope.as_ref().unwrap();
            if i == 5 {
                assert_eq!((layer.window, rope.theta, &rope.scaling), (None, 1e6, &global), "{name}");
            } else {
                assert_eq!((layer.window, rope.theta), (Some(window), 1e4), "{name} {i}");
                assert_eq!(rope.scaling, RopeScaling::None);
            }
        }
    }
}

#[test]
fn both_styles_of_rope_are_the_same() {
    let old = json!({"rope_theta": 5e5, "rope_scaling": {
        "type": "yarn", "factor": 2.0, "original_max_position_embeddings": 100, "mscale": 0.707, "mscale_all_dim": 1.0}});
    let new = json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 2.0, "mscale": 0.707,
        "mscale_all_dim": 1.0, "original_max_position_embeddings": 100}});
    for name in ["llama", "mistral", "qwen2", "qwen3"] {
        let (old, new) = (read(name, old.clone()).unwrap(), read(name, new.clone()).unwrap());
        assert_eq!(old, new);
        let Some(RopeScaling::Yarn { attention_factor, .. }) = old.layers[0].rope.clone().map(|r| r.scaling)
        else {
            panic!("{name}: no yarn")
        };
        assert!((attention_factor - 0.981_008).abs() < 1e-5, "{attention_factor}");
    }
    let old = json!({"num_hidden_layers": 6, "rope_theta": 5e5, "rope_local_base_freq": 5e3,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let new = json!({"num_hidden_layers": 6, "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e3}}});
    assert_eq!(read("gemma3", old).unwrap(), read("gemma3", new).unwrap());
}

#[test]
fn windows() {
    let windows = |name, change| {
        let config = read(name, change).unwrap();
        config.layers.iter().map(|layer| layer.window).collect::<Vec<_>>()
    };
    assert_eq!(windows("mistral", json!({})), [Some(4096)]);
    assert_eq!(windows("mistral", json!({"sliding_window": null})), [None]);
    assert_eq!(windows("mistral", json!({"sliding_window": 5})), [Some(5)]);
    assert_eq!(windows("llama", json!({"sliding_window": 5})), [None]);
    let qwen = json!({"num_hidden_layers": 3, "sliding_window": 7, "max_window_layers": 2});
    assert_eq!(windows("qwen2", qwen.clone()), [None; 3]);
    let mut on = qwen;
    on["use_sliding_window"] = json!(true);
    assert_eq!(windows("qwen2", on.clone()), [None, None, Some(7)]);
    on["layer_types"] = json!(["sliding_attention", "full_attention", "full_attention"]);
    assert_eq!(windows("qwen3", on), [Some(7), None, None]);
    let gemma = json!({"num_hidden_layers": 4, "sliding_window": 9, "sliding_window_pattern": 2});
    assert_eq!(windows("gemma3", gemma), [Some(9), None, Some(9), None]);
}

#[test]
fn gemma_scales() {
    let config = json!({"query_pre_attn_scalar": 4, "final_logit_softcapping": 30.0});
    let config = read("gemma3", config).unwrap();
    assert_eq!((config.attention_scale, config.logit_softcap), (0.5, Some(30.0)));
}

#[test]
fn what_is_not_supported_is_named() {
    let cases = [
        ("llama", json!({"hidden_act": "gelu"}), "hidden_act: expected silu or swish, found `gelu`"),
        ("llama", json!({"attention_bias": true}), "attention_bias: expected false, found true"),
        (
            "llama",
            json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
            "`dynamic` is not supported",
        ),
        (
            "llama",
            json!({"rope_scaling": {"type": "linear", "factor": 1e-30}}),
            "rope_scaling.factor: expected a factor from 0.01 to 1000000",
        ),
        ("llama", json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor is missing"),
        (
            "llama",
            json!({"rope_parameters": {"partial_rotary_factor": 0.5}}),
            "partial_rotary_factor: expected 1",
        ),
        ("llama", json!({"num_attention_heads": 0}), "num_attention_heads: expected a whole number from 1"),
        (
            "llama",
            json!({"num_key_value_heads": 3}),
            "num_key_value_heads: expected a divisor of the 2 query heads",
        ),
        ("llama", json!({"head_dim": 7}), "head_dim: expected an even width"),
        ("llama", json!({"head_dim": 1 << 20}), "head_dim: expected a width of a head from 1 to 8192"),
        (
            "llama",
            json!({"head_dim": null, "num_attention_heads": 3}),
            "expected a divisor of config.json: hidden_size 16",
        ),
        (
            "llama",
            json!({"num_hidden_layers": 1_000_000_000}),
            "num_hidden_layers: expected at most 10000 layers",
        ),
        (
            "llama",
            json!({"rms_norm_eps": -1e-5}),
            "rms_norm_eps: expected a finite number above 0, found -0.00001",
        ),
        ("llama", json!({"rope_theta": 1e99}), "rope_theta: expected a finite number"),
        (
            "llama",
            json!({"vocab_size": "many"}),
            "vocab_size: expected a whole number from 1 to 1073741824, found \"many\"",
        ),
        ("qwen2", json!({"layer_types": []}), "layer_types: expected 1 entries, one a layer, found 0"),
        ("qwen3", json!({"layer_types": ["linear_attention"]}), "found \"linear_attention\""),
        (
            "gemma3",
            json!({"attn_logit_softcapping": 50.0}),
            "attn_logit_softcapping: expected null, found 50",
        ),
        ("gpt2", json!({"activation_function": "gelu"}), "found `gelu`"),
        ("gpt2", json!({"n_head": 3}), "n_head: expected a divisor of config.json: n_embd 16"),
        ("gpt2", json!({"scale_attn_by_inverse_layer_idx": true}), "scale_attn_by_inverse_layer_idx"),
    ];
    for (name, change, expected) in cases {
        let found = message(read(name, change));
        assert!(found.starts_with("config.json: ") && found.contains(expected), "{found}");
    }
    let unknown = message(by_config(&json!({"model_type": "mamba"})));
    assert!(unknown.contains("`mamba` is not supported; supported are gpt2, llama, mistral"), "{unknown}");
    assert!(message(by_config(&json!({"peft_type": "LORA"}))).contains("adapter"));
    assert!(message(by_config(&json!({"quantization_config": {"quant_method": "gptq"}}))).contains("`gptq`"));
    assert_eq!(by_config(&json!({"architectures": ["Qwen3ForCausalLM"]})).unwrap().name, "qwen3");
}

fn any_json() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-3i64..70).prop_map(Value::from),
        any::<f64>().prop_map(|x| json!(x)),
        "[a-z_]{0,12}".prop_map(Value::from),
        Just(json!([])),
        Just(json!(["full_attention", 3, null])),
        Just(json!({})),
        Just(json!({"rope_type": "yarn", "factor": 0.5, "original_max_position_embeddings": 1})),
        Just(json!({"rope_type": "llama3", "factor": 1e5, "low_freq_factor": 1, "high_freq_factor": 2})),
    ]
}

/// The keys that a config of any family may have.
const KEYS: &[&str] = &[
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rope_local_base_freq",
    "sliding_window",
    "sliding_window_pattern",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "text_config",
    "query_pre_attn_scalar",
    "final_logit_softcapping",
    "hidden_act",
    "n_embd",
    "n_head",
    "n_layer",
    "n_inner",
    "n_positions",
    "layer_norm_epsilon",
    "activation_function",
    "partial_rotary_factor",
    "original_max_position_embeddings",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever a config says, it is an error or a plausible decoder with finite frequencies; never a panic.
    #[test]
    fn any_config_is_read_or_refused(
        which in 0..ARCHITECTURES.len(),
        changes in prop::collection::vec((prop::sample::select(KEYS), any_json()), 1..4),
    ) {
        let architecture = ARCHITECTURES[which];
        let mut config = smallest(architecture);
        for (key, value) in changes {
            config[key] = value;
        }
        if let Ok(decoder) = (architecture.from_hf)(&config) {
            prop_assert!(decoder.n_layers() <= MAX_LAYERS && decoder.n_heads.is_multiple_of(decoder.n_kv_heads));
            prop_assert!(decoder.norm_eps > 0.0 && decoder.attention_scale.is_finite());
            for layer in decoder.layers.iter().take(8) {
                if let Some(rope) = &layer.rope {
                    let (frequencies, factor) = crate::rope::frequencies(rope, decoder.head_dim);
                    prop_assert_eq!(frequencies.len(), decoder.head_dim / 2);
                    prop_assert!(factor.is_finite() && frequencies.iter().all(|f| f.is_finite()), "{:?}", rope);
                }
            }
            for source in architecture.tensors(&decoder, Format::Safetensors).unwrap() {
                prop_assert!(source.stored_element(source.rows() - 1, source.cols() - 1)
                    < source.stored.iter().product());
            }
        }
    }
}
