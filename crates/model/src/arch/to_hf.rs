//! Writing a transformers config.json: the reverse of `hf`, in the key style of published models (transformers 4), which
//! transformers 5 reads too.
//!
//! A family says what it would write; then [`Architecture::config_json`] reads it as if it came from a file, and compares.
//! So a configuration that the family has no keys for is an error and never a file that says something else.

use half::{bf16, f16};
use serde_json::{Map, Value, json};

use super::Architecture;
use crate::config::{DecoderConfig, Head, Norm, Rope, RopeScaling};
use crate::error::{Context, Error, Result, fail};
use crate::rope::{frequencies, yarn_attention_factor};

impl Architecture {
    /// The keys of config.json that say what the network is, and the configuration that is read from them: the same but
    /// for the norms of a Gemma from GGUF, which are `1 + w` here, the embedding's scale, which follows the type of the
    /// file, and RoPE divisors, which are named where they are Llama 3's.
    ///
    /// # Errors
    /// A configuration that a config.json of this architecture cannot say; the message names what would be lost.
    pub fn config_json(&self, config: &DecoderConfig) -> Result<(Map<String, Value>, DecoderConfig)> {
        let named = name_divisors(config)?;
        let mut keys = Map::new();
        keys.insert("architectures".into(), json!([self.hf_architectures[0]]));
        keys.insert("model_type".into(), json!(self.hf_model_types[0]));
        keys.extend((self.to_hf)(&named));
        let file = Value::Object(keys.clone());
        let written = (self.from_hf)(&file).context(|| format!("as a {} model", self.name))?;
        let lost = differences(&expected(named, &written), &written);
        if !lost.is_empty() {
            fail!(
                "config.json of a {} model cannot say what this model is: {} would be lost",
                self.name,
                lost.join(", ")
            );
        }
        Ok((keys, written))
    }

    /// Fails unless the configuration is one of this architecture, whatever file it is to go into.
    pub(super) fn check(&self, config: &DecoderConfig) -> Result<()> {
        let mut plain = config.clone();
        for rope in plain.layers.iter_mut().filter_map(|layer| layer.rope.as_mut()) {
            if matches!(rope.scaling, RopeScaling::Divisors(_)) {
                rope.scaling = RopeScaling::None; // any RoPE can be divided
            }
        }
        self.config_json(&plain).map(|_| ())
    }
}

/// What reading back should give, where that is not what was written.
fn expected(mut config: DecoderConfig, written: &DecoderConfig) -> DecoderConfig {
    if (config.norm, written.norm) == (Norm::RmsNorm, Norm::RmsNormOnePlus) {
        config.norm = Norm::RmsNormOnePlus;
    }
    let exact = written.embedding_scale;
    if [bf16::from_f32(exact).to_f32(), f16::from_f32(exact).to_f32()].contains(&config.embedding_scale) {
        config.embedding_scale = exact;
    }
    config
}

/// The names of the fields in which two configurations differ.
fn differences(a: &DecoderConfig, b: &DecoderConfig) -> Vec<&'static str> {
    macro_rules! differing {
        ($($field:ident),*) => {
            [$((stringify!($field), a.$field == b.$field)),*].into_iter().filter(|(_, same)| !same)
        };
    }
    let mut found: Vec<_> = differing!(
        vocab_size,
        dim,
        n_heads,
        n_kv_heads,
        head_dim,
        hidden_dim,
        max_seq,
        norm,
        norm_eps,
        placement,
        positions,
        bias,
        qk_norm,
        attention_scale,
        mlp,
        embedding_scale,
        head,
        logit_softcap,
        layers
    )
    .map(|(name, _)| name)
    .collect();
    if found.is_empty() && a != b {
        found.push("a setting");
    }
    found
}

/// Gives GGUF's divisors of rotary frequencies the name that config.json has for them.
fn name_divisors(config: &DecoderConfig) -> Result<DecoderConfig> {
    let mut named = config.clone();
    for rope in named.layers.iter_mut().filter_map(|layer| layer.rope.as_mut()) {
        if let RopeScaling::Divisors(divisors) = &rope.scaling {
            rope.scaling = llama3_of(divisors, rope.theta, config.head_dim).ok_or_else(|| {
                Error::new(
                    "the divisors of the rotary frequencies are not those of Llama 3, and config.json has no key for \
                     others; save the model as GGUF",
                )
            })?;
        }
    }
    Ok(named)
}

/// Meta's scaling with the settings that all Llamas since 3.1 share, the factor taken from the divisors.
fn llama3_of(divisors: &[f32], theta: f32, head_dim: usize) -> Option<RopeScaling> {
    let factor = divisors.iter().copied().reduce(f32::max)?;
    let candidate =
        RopeScaling::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_seq: 8192 };
    let of = |scaling: RopeScaling| frequencies(&Rope { theta, scaling }, head_dim).0;
    let (given, made) = (of(RopeScaling::Divisors(divisors.to_vec())), of(candidate.clone()));
    let close =
        given.len() == made.len() && given.iter().zip(&made).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs());
    close.then_some(candidate)
}

/// A number with the digits that f32 has, and no more: `1e-6` and not `9.999999974752427e-7`.
pub(super) fn number(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, |x| json!(x))
}

/// Takes the entries of a `json!` object.
pub(super) fn entries(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(entries) => entries,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

/// What all families but GPT-2 share, without RoPE and windows.
pub(super) fn decoder(config: &DecoderConfig, activation_key: &str, activation: &str) -> Map<String, Value> {
    entries(json!({
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers(),
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_seq,
        "rms_norm_eps": number(config.norm_eps),
        "tie_word_embeddings": tied(config),
        activation_key: activation,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": true,
    }))
}

pub(super) fn tied(config: &DecoderConfig) -> bool {
    match config.head {
        Head::Tied => true,
        Head::Untied => false,
    }
}

/// `rope_theta` and `rope_scaling` of one rotary embedding.
pub(super) fn rope(rope: Option<&Rope>, max_seq: usize) -> Map<String, Value> {
    let Some(Rope { theta, scaling }) = rope else { return Map::new() };
    let scaling = match scaling {
        // `Divisors` has been given another name: see `name_divisors`.
        RopeScaling::None | RopeScaling::Divisors(_) => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": number(*factor)}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_seq } => json!({
            "rope_type": "llama3",
            "factor": number(*factor),
            "low_freq_factor": number(*low_freq_factor),
            "high_freq_factor": number(*high_freq_factor),
            "original_max_position_embeddings": original_max_seq,
        }),
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_seq, attention_factor, truncate } => {
            let mut yarn = json!({"rope_type": "yarn", "factor": number(*factor)});
            let usual = [
                ("beta_fast", *beta_fast, 32.0),
                ("beta_slow", *beta_slow, 1.0),
                ("attention_factor", *attention_factor, yarn_attention_factor(*factor, 1.0)),
            ];
            for (key, value, _) in usual.into_iter().filter(|(_, value, usual)| value != usual) {
                yarn[key] = number(value);
            }
            if *original_max_seq != max_seq {
                yarn["original_max_position_embeddings"] = json!(original_max_seq);
            }
            if !truncate {
                yarn["truncate"] = json!(false);
            }
            yarn
        }
    };
    entries(json!({"rope_theta": number(*theta), "rope_scaling": scaling}))
}

/// The rotary embedding of the first layer, which is every layer's in all families but Gemma.
pub(super) fn first_rope(config: &DecoderConfig) -> Map<String, Value> {
    rope(config.layers.first().and_then(|layer| layer.rope.as_ref()), config.max_seq)
}

/// The window of the first layer that has one.
pub(super) fn window(config: &DecoderConfig) -> Option<usize> {
    config.layers.iter().find_map(|layer| layer.window)
}

/// `layer_types`.
pub(super) fn layer_types(config: &DecoderConfig) -> Value {
    let types = config.layers.iter().map(|layer| match layer.window {
        Some(_) => "sliding_attention",
        None => "full_attention",
    });
    types.collect()
}
