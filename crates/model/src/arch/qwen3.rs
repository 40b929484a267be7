//! Qwen3 (dense): Qwen2 without its biases, with a norm over each head of q and k. <https://arxiv.org/abs/2505.09388>
//!
//! The width of a head is a number of its own (128 when absent), not `hidden_size / num_attention_heads`; the head is
//! tied only in the small models.

use serde_json::Value;
use wootz_formats::{Checkpoint, GgufMetadata};

use super::{Architecture, GgufHead, gguf, hf, llama, qwen2};
use crate::config::{DecoderConfig, QkNorm};
use crate::error::Result;

/// The line in the registry.
pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen3",
    hf_model_types: &["qwen3"],
    hf_architectures: &["Qwen3ForCausalLM", "Qwen3Model"],
    gguf_names: &["qwen3"],
    from_hf,
    from_gguf,
    from_llmc: None,
    from_llama2c: None,
    to_hf: qwen2::to_keys,
    to_gguf,
    stored: qwen2::stored,
    hf_prefixes: llama::HF_PREFIXES,
    ignored: llama::ignored,
};

fn from_hf(config: &Value) -> Result<DecoderConfig> {
    let keys = hf::Keys::new(config)?;
    keys.forbid("attention_bias")?;
    Ok(DecoderConfig { qk_norm: QkNorm::PerHead, ..qwen2::decoder(&keys, Some(128))? })
}

fn from_gguf(metadata: &GgufMetadata, checkpoint: &Checkpoint) -> Result<DecoderConfig> {
    let keys = gguf::Keys::new(metadata, checkpoint)?;
    Ok(DecoderConfig { qk_norm: QkNorm::PerHead, ..gguf::decoder(&keys, gguf::layers(&keys)?)? })
}

fn to_gguf(config: &DecoderConfig) -> Result<GgufHead> {
    GgufHead::rotary("qwen3", config)
}
