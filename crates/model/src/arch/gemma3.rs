//! Gemma 3, the text model. <https://arxiv.org/abs/2503.19786>
//!
//! Details that have caused bugs:
//! - Every sixth layer, counted from one, sees everything (`(i + 1) % 6 == 0`); the others have a window and a rotary
//!   embedding of their own, with theta 10000 and no scaling.
//! - Norms multiply by `1 + w` in safetensors; GGUF files hold the sum already.
//! - Attention is scaled by `query_pre_attn_scalar^-1/2`. GGUF does not hold that number: it is the width of a head, but
//!   in the 27B model (62 layers), where it is `hidden_size / heads`.
//! - The embedding is scaled by `sqrt(hidden_size)`, which transformers rounds to the embedding's type and llama.cpp does
//!   not.
//! - The published configs of the multimodal models leave out most of `text_config`: transformers' defaults count.

use serde_json::{Map, Value, json};
use wootz_formats::{Checkpoint, Format, GgufMetadata};

use super::{Architecture, GgufHead, Stored, gguf, hf, llama, to_hf};
use crate::config::{
    DecoderConfig, Head, LayerConfig, Mlp, Norm, NormPlacement, Positions, QkNorm, Rope, RopeScaling,
};
use crate::error::{Result, fail};
use crate::names::{Part, Place, TensorId};

/// The line in the registry.
pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "gemma3",
    hf_model_types: &["gemma3_text", "gemma3"],
    hf_architectures: &["Gemma3ForCausalLM", "Gemma3TextModel", "Gemma3ForConditionalGeneration"],
    gguf_names: &["gemma3"],
    from_hf,
    from_gguf,
    from_llmc: None,
    from_llama2c: None,
    to_hf,
    to_gguf,
    stored,
    // The second and third are the multimodal model's, as older and newer transformers write it.
    hf_prefixes: &["model.", "language_model.model.", "model.language_model.", ""],
    ignored,
};

/// One layer in so many sees everything.
const GLOBAL_PERIOD: usize = 6;
/// Theta of the layers with a window.
const LOCAL_THETA: f32 = 10_000.0;
/// Layers of the 27B model.
const LAYERS_27B: usize = 62;

/// transformers' `Gemma3TextConfig`.
const DEFAULTS: hf::Defaults = hf::Defaults {
    vocab_size: Some(262_208),
    dim: Some(2304),
    hidden_dim: Some(9216),
    n_heads: Some(8),
    n_kv_heads: Some(4),
    head_dim: Some(256),
    max_seq: 131_072,
    head: Head::Tied,
};

fn from_hf(config: &Value) -> Result<DecoderConfig> {
    let whole = hf::Keys::new(config)?;
    let keys = match whole.object("text_config")? {
        Some(text) => text,
        None => hf::Keys::new(config)?,
    };
    keys.activation("hidden_activation", &["gelu_pytorch_tanh"])?;
    keys.forbid("attention_bias")?;
    keys.forbid("use_bidirectional_attention")?;
    if let Some(cap) = keys.find_number("attn_logit_softcapping")? {
        fail!(
            "config.json: attn_logit_softcapping: expected null, found {cap}; capped attention is not supported"
        );
    }

    let n_layers = keys.layers("num_hidden_layers", Some(26))?;
    let period = keys.find_size("sliding_window_pattern")?.or(keys.find_size("_sliding_window_pattern")?);
    let period = period.unwrap_or(GLOBAL_PERIOD);
    let sliding = keys.sliding(n_layers, |i| !(i + 1).is_multiple_of(period))?;
    let max_seq = keys.size("max_position_embeddings", Some(DEFAULTS.max_seq))?;
    let (global, local) = ropes(&keys, max_seq)?;
    let window = keys.window(4096)?;
    if window.is_none() && sliding.contains(&true) {
        fail!("config.json: sliding_window: expected a number for the sliding layers, found null");
    }
    let layer = |sliding: bool| match sliding {
        true => LayerConfig { rope: Some(local.clone()), window },
        false => LayerConfig { rope: Some(global.clone()), window: None },
    };
    let decoder = hf::decoder(&keys, &DEFAULTS, sliding.into_iter().map(layer).collect())?;

    let tied = keys.flag("tie_word_embeddings", whole.flag("tie_word_embeddings", true)?)?;
    let scalar = keys.find_number("query_pre_attn_scalar")?.unwrap_or(256.0);
    Ok(DecoderConfig {
        norm: Norm::RmsNormOnePlus,
        attention_scale: f64::from(scalar).powf(-0.5) as f32,
        head: if tied { Head::Tied } else { Head::Untied },
        logit_softcap: keys.find_number("final_logit_softcapping")?,
        ..gemma(decoder)
    })
}

/// The rotary embeddings of layers without and with a window, from either style of config.
fn ropes(keys: &hf::Keys, max_seq: usize) -> Result<(Rope, Rope)> {
    let parameters = keys.object("rope_parameters")?;
    let (mut global, mut local) = (None, None);
    if let Some(parameters) = parameters {
        global = parameters.object("full_attention")?;
        local = parameters.object("sliding_attention")?;
        if global.is_none() && local.is_none() {
            global = Some(parameters); // one for all: of the global layers, as `rope_scaling` is
        }
    }
    if let Some(scaling) = keys.object("rope_scaling")? {
        global = Some(scaling);
    }
    Ok((
        hf::rope_of(keys, global.as_ref(), "rope_theta", 1_000_000.0, max_seq)?,
        hf::rope_of(keys, local.as_ref(), "rope_local_base_freq", LOCAL_THETA, max_seq)?,
    ))
}

fn from_gguf(metadata: &GgufMetadata, checkpoint: &Checkpoint) -> Result<DecoderConfig> {
    let keys = gguf::Keys::new(metadata, checkpoint)?;
    let n_layers = keys.layers()?;
    let dims = keys.dims(Positions::Rotary)?;
    let window = keys.window()?;
    let local_theta = keys.find_number("rope.freq_base_swa")?.unwrap_or(LOCAL_THETA);
    let local = Rope { theta: local_theta, scaling: RopeScaling::None };
    let global = keys.rope(dims.head_dim, 1_000_000.0)?;
    let layer = |sliding: bool| match sliding && window.is_some() {
        true => LayerConfig { rope: Some(local.clone()), window },
        false => LayerConfig { rope: Some(global.clone()), window: None },
    };
    let layers = keys.sliding(n_layers, GLOBAL_PERIOD)?.into_iter().map(layer).collect();
    let decoder = gguf::decoder(&keys, layers)?;
    let scalar = if n_layers == LAYERS_27B { decoder.dim / decoder.n_heads } else { decoder.head_dim };
    Ok(DecoderConfig {
        attention_scale: (scalar as f64).powf(-0.5) as f32,
        logit_softcap: keys.find_number("final_logit_softcapping")?,
        ..gemma(decoder)
    })
}

/// The number that attention is scaled by to the power of -1/2: a whole one, in every published model.
fn query_scalar(attention_scale: f32) -> Value {
    let scalar = f64::from(attention_scale).powi(-2);
    let whole = scalar.round();
    if whole.powf(-0.5) as f32 == attention_scale {
        json!(whole as u64)
    } else {
        to_hf::number(scalar as f32)
    }
}

/// Every how many layers one has no window; `None` for another order.
fn period(config: &DecoderConfig) -> Option<usize> {
    let fits = |period: &usize| {
        let sliding = config.layers.iter().map(|layer| layer.window.is_some());
        sliding.enumerate().all(|(i, sliding)| sliding != (i + 1).is_multiple_of(*period))
    };
    std::iter::once(GLOBAL_PERIOD).chain(1..=config.n_layers() + 1).find(fits)
}

/// The rotary embedding of the layers that see everything, and of those with a window.
fn ropes_of(config: &DecoderConfig) -> (Option<&Rope>, Option<&Rope>) {
    let of = |sliding: bool| {
        config
            .layers
            .iter()
            .find(|layer| layer.window.is_some() == sliding)
            .and_then(|layer| layer.rope.as_ref())
    };
    (of(false), of(true))
}

fn to_hf(config: &DecoderConfig) -> Map<String, Value> {
    let (global, local) = ropes_of(config);
    let mut keys = to_hf::decoder(config, "hidden_activation", "gelu_pytorch_tanh");
    keys.extend(to_hf::rope(global, config.max_seq));
    keys.extend(to_hf::entries(json!({
        "rope_local_base_freq": to_hf::number(local.map_or(LOCAL_THETA, |rope| rope.theta)),
        "query_pre_attn_scalar": query_scalar(config.attention_scale),
        "sliding_window": to_hf::window(config),
        "attn_logit_softcapping": null,
        "final_logit_softcapping": config.logit_softcap.map(to_hf::number),
    })));
    match period(config) {
        Some(period) => keys.insert("sliding_window_pattern".into(), json!(period)),
        None => keys.insert("layer_types".into(), to_hf::layer_types(config)),
    };
    keys
}

fn to_gguf(config: &DecoderConfig) -> Result<GgufHead> {
    let mut head = GgufHead::rotary_sizes("gemma3", config)?;
    let is_27b = config.n_layers() == LAYERS_27B;
    head.check_scale(config, if is_27b { config.dim / config.n_heads } else { config.head_dim })?;
    let (global, local) = ropes_of(config);
    head.rope(global, config)?;
    if let Some(window) = to_hf::window(config) {
        head.size("attention.sliding_window", window)?;
        match period(config) {
            Some(GLOBAL_PERIOD) => {}
            Some(period) => head.size("attention.sliding_window_pattern", period)?,
            None => fail!(
                "GGUF files of gemma3 models can only say that one layer in so many has no sliding window"
            ),
        }
    }
    if let Some(local) = local {
        head.number("rope.freq_base_swa", local.theta);
    }
    if let Some(cap) = config.logit_softcap {
        head.number("final_logit_softcapping", cap);
    }
    Ok(head)
}

/// What every Gemma 3 has.
fn gemma(decoder: DecoderConfig) -> DecoderConfig {
    DecoderConfig {
        placement: NormPlacement::Sandwich,
        qk_norm: QkNorm::PerHead,
        mlp: Mlp::GeGlu,
        embedding_scale: (decoder.dim as f64).sqrt() as f32,
        ..decoder
    }
}

fn stored(_: &DecoderConfig, format: Format, id: TensorId, shape: &[usize]) -> Option<Stored> {
    match format {
        Format::Safetensors => Some(Stored::plain(hf_name(id)?, shape)),
        Format::Gguf => Some(Stored::plain(gguf::name(id), shape)),
        Format::LlmC | Format::Llama2C => None,
    }
}

/// Llama's names but for the norms: what Llama calls the post-attention norm stands before the MLP.
fn hf_name(id: TensorId) -> Option<String> {
    let kind = id.kind.name();
    match id.place {
        Place::Layer(layer, Part::AttnPostNorm) => {
            Some(format!("model.layers.{layer}.post_attention_layernorm.{kind}"))
        }
        Place::Layer(layer, Part::MlpNorm) => {
            Some(format!("model.layers.{layer}.pre_feedforward_layernorm.{kind}"))
        }
        Place::Layer(layer, Part::MlpPostNorm) => {
            Some(format!("model.layers.{layer}.post_feedforward_layernorm.{kind}"))
        }
        Place::Layer(..) | Place::Embed | Place::PosEmbed | Place::FinalNorm | Place::Head => {
            llama::hf_name(id)
        }
    }
}

/// The multimodal model's eyes.
fn ignored(name: &str) -> bool {
    let name = name.strip_prefix("model.").unwrap_or(name);
    name.starts_with("vision_tower.") || name.starts_with("multi_modal_projector.") || llama::ignored(name)
}
