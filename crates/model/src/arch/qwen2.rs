//! Qwen2 and Qwen2.5: Llama with a bias on q, k and v. <https://arxiv.org/abs/2407.10671>
//!
//! The sliding window is off unless `use_sliding_window` says otherwise, whatever `sliding_window` holds.

use serde_json::{Map, Value, json};
use wootz_formats::{Checkpoint, Format, GgufMetadata};

use super::{Architecture, GgufHead, Stored, gguf, hf, llama, to_hf};
use crate::config::{Bias, DecoderConfig};
use crate::error::Result;
use crate::names::TensorId;

/// The line in the registry.
pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen2",
    hf_model_types: &["qwen2"],
    hf_architectures: &["Qwen2ForCausalLM", "Qwen2Model"],
    gguf_names: &["qwen2"],
    from_hf,
    from_gguf,
    from_llmc: None,
    from_llama2c: None,
    to_hf,
    to_gguf,
    stored,
    hf_prefixes: llama::HF_PREFIXES,
    ignored: llama::ignored,
};

fn from_hf(config: &Value) -> Result<DecoderConfig> {
    let keys = hf::Keys::new(config)?;
    Ok(DecoderConfig { bias: Bias::Qkv, ..decoder(&keys, None)? })
}

/// What Qwen2 and Qwen3 share of a config.json.
pub(super) fn decoder(keys: &hf::Keys, head_dim: Option<usize>) -> Result<DecoderConfig> {
    keys.activation("hidden_act", &["silu", "swish"])?;
    let defaults = hf::Defaults { n_kv_heads: Some(32), head_dim, ..hf::Defaults::context(32_768) };
    let max_seq = keys.size("max_position_embeddings", Some(defaults.max_seq))?;
    let rope = hf::rope(keys, 10_000.0, max_seq)?;
    let n_layers = keys.layers("num_hidden_layers", None)?;
    let window = if keys.flag("use_sliding_window", false)? { keys.window(4096)? } else { None };
    let first_sliding = keys.find_count("max_window_layers")?.unwrap_or(28);
    let sliding = keys.sliding(n_layers, |i| window.is_some() && i >= first_sliding)?;
    hf::decoder(keys, &defaults, hf::layers(keys, &rope, &sliding, window)?)
}

fn from_gguf(metadata: &GgufMetadata, checkpoint: &Checkpoint) -> Result<DecoderConfig> {
    let keys = gguf::Keys::new(metadata, checkpoint)?;
    Ok(DecoderConfig { bias: Bias::Qkv, ..gguf::decoder(&keys, gguf::layers(&keys)?)? })
}

fn to_hf(config: &DecoderConfig) -> Map<String, Value> {
    let mut keys = to_keys(config);
    keys.remove("attention_bias"); // here q, k and v always have one, and there is no such key
    keys
}

/// What Qwen2 and Qwen3 share of a config.json.
pub(super) fn to_keys(config: &DecoderConfig) -> Map<String, Value> {
    let mut keys = to_hf::decoder(config, "hidden_act", "silu");
    keys.extend(to_hf::first_rope(config));
    let window = to_hf::window(config);
    let first_sliding = config.layers.iter().position(|layer| layer.window.is_some());
    keys.insert("use_sliding_window".into(), window.is_some().into());
    keys.insert("sliding_window".into(), json!(window));
    keys.insert("max_window_layers".into(), json!(first_sliding.unwrap_or(config.n_layers())));
    if window.is_some() {
        keys.insert("layer_types".into(), to_hf::layer_types(config));
    }
    keys
}

fn to_gguf(config: &DecoderConfig) -> Result<GgufHead> {
    GgufHead::rotary("qwen2", config)
}

/// The table of names, which Qwen3 shares: no reordering of rows in GGUF.
pub(super) fn stored(_: &DecoderConfig, format: Format, id: TensorId, shape: &[usize]) -> Option<Stored> {
    match format {
        Format::Safetensors => Some(Stored::plain(llama::hf_name(id)?, shape)),
        Format::Gguf => Some(Stored::plain(gguf::name(id), shape)),
        Format::LlmC | Format::Llama2C => None,
    }
}
