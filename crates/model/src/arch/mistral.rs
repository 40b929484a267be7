//! Mistral: Llama with a sliding window. <https://arxiv.org/abs/2310.06825>
//!
//! Its GGUF files name themselves `llama`, and are read as such. (llama.cpp has no window there: it sees everything.)

use serde_json::{Map, Value, json};
use wootz_formats::{Checkpoint, Format, GgufMetadata};

use super::{Architecture, Stored, hf, llama, to_hf};
use crate::config::DecoderConfig;
use crate::error::Result;
use crate::names::TensorId;

/// The line in the registry.
pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "mistral",
    hf_model_types: &["mistral"],
    hf_architectures: &["MistralForCausalLM", "MistralModel"],
    gguf_names: &[],
    from_hf,
    from_gguf,
    from_llmc: None,
    from_llama2c: None,
    to_hf,
    to_gguf: llama::to_gguf,
    stored,
    hf_prefixes: llama::HF_PREFIXES,
    ignored: llama::ignored,
};

fn from_hf(config: &Value) -> Result<DecoderConfig> {
    let keys = hf::Keys::new(config)?;
    keys.activation("hidden_act", &["silu", "swish"])?;
    let defaults = hf::Defaults { n_kv_heads: Some(8), ..hf::Defaults::context(131_072) };
    let max_seq = keys.size("max_position_embeddings", Some(defaults.max_seq))?;
    let rope = hf::rope(&keys, 10_000.0, max_seq)?;
    let n_layers = keys.layers("num_hidden_layers", None)?;
    // Null turns the window off; a key that is absent has the default.
    let window = keys.window(4096)?;
    let sliding = vec![window.is_some(); n_layers];
    hf::decoder(&keys, &defaults, hf::layers(&keys, &rope, &sliding, window)?)
}

fn from_gguf(metadata: &GgufMetadata, checkpoint: &Checkpoint) -> Result<DecoderConfig> {
    (llama::ARCHITECTURE.from_gguf)(metadata, checkpoint)
}

fn to_hf(config: &DecoderConfig) -> Map<String, Value> {
    let mut keys = to_hf::decoder(config, "hidden_act", "silu");
    keys.remove("attention_bias"); // a key of Llama's
    keys.insert("sliding_window".into(), json!(to_hf::window(config)));
    keys.extend(to_hf::first_rope(config));
    keys
}

fn stored(config: &DecoderConfig, format: Format, id: TensorId, shape: &[usize]) -> Option<Stored> {
    match format {
        Format::Safetensors | Format::Gguf => llama::stored(config, format, id, shape),
        Format::LlmC | Format::Llama2C => None,
    }
}
