//! Llama 2 and 3, and what is built like them. <https://arxiv.org/abs/2307.09288>, <https://arxiv.org/abs/2407.21783>
//!
//! Details that have caused bugs:
//! - GGUF and llama2.c rotate neighbouring rows of q and k, transformers rows half a head apart: the rows are reordered
//!   on the way in.
//! - Llama 3.1's GGUF files hold its RoPE scaling as the tensor `rope_freqs.weight`, not in the metadata.
//! - Mistral's GGUF files are Llama's.

use serde_json::{Map, Value};
use wootz_formats::{Checkpoint, Format, GgufMetadata, Llama2cHeader};

use super::{Architecture, Dims, GgufHead, KeyNames, MAX_LAYERS, Stored, check_dims, gguf, hf, to_hf};
use crate::config::{
    Bias, DecoderConfig, Head, LayerConfig, Mlp, Norm, NormPlacement, Positions, QkNorm, Rope, RopeScaling,
};
use crate::error::{Result, fail};
use crate::names::{Part, Place, TensorId, Transform};

/// The line in the registry.
pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "llama",
    hf_model_types: &["llama"],
    hf_architectures: &["LlamaForCausalLM", "LlamaModel"],
    gguf_names: &["llama"],
    from_hf,
    from_gguf,
    from_llmc: None,
    from_llama2c: Some(from_llama2c),
    to_hf,
    to_gguf,
    stored,
    hf_prefixes: HF_PREFIXES,
    ignored,
};

/// A causal model's names begin with `model.`; those of a bare base model with nothing.
pub(super) const HF_PREFIXES: &[&str] = &["model.", ""];

fn from_hf(config: &Value) -> Result<DecoderConfig> {
    let keys = hf::Keys::new(config)?;
    keys.activation("hidden_act", &["silu", "swish"])?;
    keys.forbid("attention_bias")?;
    keys.forbid("mlp_bias")?;
    let defaults = hf::Defaults::context(2048);
    let max_seq = keys.size("max_position_embeddings", Some(defaults.max_seq))?;
    let rope = hf::rope(&keys, 10_000.0, max_seq)?;
    let n_layers = keys.layers("num_hidden_layers", None)?;
    hf::decoder(&keys, &defaults, hf::layers(&keys, &rope, &vec![false; n_layers], None)?)
}

fn from_gguf(metadata: &GgufMetadata, checkpoint: &Checkpoint) -> Result<DecoderConfig> {
    let keys = gguf::Keys::new(metadata, checkpoint)?;
    if let Some(experts) = keys.find_count("expert_count")?.filter(|&n| n > 0) {
        fail!(
            "{}: expected none, found {experts}; mixtures of experts are not supported",
            keys.full("expert_count")
        );
    }
    gguf::decoder(&keys, gguf::layers(&keys)?)
}

/// llama2.c's constants: theta 10000, epsilon 1e-5 (`run.c`).
fn from_llama2c(header: &Llama2cHeader) -> Result<DecoderConfig> {
    let key = |name: &str| format!("llama2.c header: {name}");
    let names = KeyNames {
        dim: key("dim"),
        n_heads: key("n_heads"),
        n_kv_heads: key("n_kv_heads"),
        head_dim: key("dim / n_heads"),
    };
    let &Llama2cHeader { dim, n_heads, n_kv_heads, .. } = header;
    let head_dim = check_dims(&Dims { dim, n_heads, n_kv_heads, head_dim: None }, &names, Positions::Rotary)?;
    if header.n_layers > MAX_LAYERS {
        fail!("{}: expected at most {MAX_LAYERS}, found {}", key("n_layers"), header.n_layers);
    }
    let rope = Rope { theta: 10_000.0, scaling: RopeScaling::None };
    Ok(DecoderConfig {
        vocab_size: header.vocab_size,
        dim,
        n_heads,
        n_kv_heads,
        head_dim,
        hidden_dim: header.hidden_dim,
        max_seq: header.seq_len,
        norm: Norm::RmsNorm,
        norm_eps: 1e-5,
        placement: NormPlacement::Pre,
        positions: Positions::Rotary,
        bias: Bias::None,
        qk_norm: QkNorm::None,
        attention_scale: (head_dim as f64).powf(-0.5) as f32,
        mlp: Mlp::SwiGlu,
        embedding_scale: 1.0,
        head: if header.shared_classifier { Head::Tied } else { Head::Untied },
        logit_softcap: None,
        layers: vec![LayerConfig { rope: Some(rope), window: None }; header.n_layers],
    })
}

fn to_hf(config: &DecoderConfig) -> Map<String, Value> {
    let mut keys = to_hf::decoder(config, "hidden_act", "silu");
    keys.insert("mlp_bias".into(), false.into());
    keys.extend(to_hf::first_rope(config));
    keys
}

/// Mistral's files are written so too.
pub(super) fn to_gguf(config: &DecoderConfig) -> Result<GgufHead> {
    GgufHead::rotary("llama", config)
}

/// The table of names, which Mistral shares.
pub(super) fn stored(
    config: &DecoderConfig,
    format: Format,
    id: TensorId,
    shape: &[usize],
) -> Option<Stored> {
    match format {
        Format::Safetensors => Some(Stored::plain(hf_name(id)?, shape)),
        Format::Gguf => {
            let mut stored = Stored::plain(gguf::name(id), shape);
            stored.transform.unpermute_heads = rotated_heads(config, id);
            Some(stored)
        }
        Format::Llama2C => llama2c(config, id, shape),
        Format::LlmC => None,
    }
}

/// The number of heads of a tensor whose rows are rotated.
fn rotated_heads(config: &DecoderConfig, id: TensorId) -> Option<usize> {
    match id.place {
        Place::Layer(_, Part::Q) => Some(config.n_heads),
        Place::Layer(_, Part::K) => Some(config.n_kv_heads),
        Place::Layer(..) | Place::Embed | Place::PosEmbed | Place::FinalNorm | Place::Head => None,
    }
}

/// transformers' names for a decoder with norms before attention and MLP; the Qwens share them.
pub(super) fn hf_name(id: TensorId) -> Option<String> {
    let kind = id.kind.name();
    Some(match id.place {
        Place::Embed => format!("model.embed_tokens.{kind}"),
        Place::PosEmbed => return None,
        Place::FinalNorm => format!("model.norm.{kind}"),
        Place::Head => format!("lm_head.{kind}"),
        Place::Layer(layer, part) => {
            let part = match part {
                Part::AttnNorm => "input_layernorm",
                Part::Q => "self_attn.q_proj",
                Part::K => "self_attn.k_proj",
                Part::V => "self_attn.v_proj",
                Part::QNorm => "self_attn.q_norm",
                Part::KNorm => "self_attn.k_norm",
                Part::O => "self_attn.o_proj",
                Part::MlpNorm => "post_attention_layernorm",
                Part::Gate => "mlp.gate_proj",
                Part::Up => "mlp.up_proj",
                Part::Down => "mlp.down_proj",
                Part::AttnPostNorm | Part::MlpPostNorm => return None,
            };
            format!("model.layers.{layer}.{part}.{kind}")
        }
    })
}

/// llama2.c keeps the layers of each tensor stacked.
fn llama2c(config: &DecoderConfig, id: TensorId, shape: &[usize]) -> Option<Stored> {
    let (layer, part) = match id.place {
        Place::Embed => return Some(Stored::plain("token_embedding_table".into(), shape)),
        Place::FinalNorm => return Some(Stored::plain("rms_final_weight".into(), shape)),
        Place::Head => return Some(Stored::plain("wcls".into(), shape)),
        Place::PosEmbed => return None,
        Place::Layer(layer, part) => (layer, part),
    };
    let name = match part {
        Part::AttnNorm => "rms_att_weight",
        Part::Q => "wq",
        Part::K => "wk",
        Part::V => "wv",
        Part::O => "wo",
        Part::MlpNorm => "rms_ffn_weight",
        Part::Gate => "w1",
        Part::Down => "w2",
        Part::Up => "w3",
        Part::QNorm | Part::KNorm | Part::AttnPostNorm | Part::MlpPostNorm => return None,
    };
    let transform =
        Transform { layer: Some(layer), unpermute_heads: rotated_heads(config, id), ..Transform::default() };
    let stacked = [&[config.n_layers()], shape].concat();
    Some(Stored { name: name.into(), shape: stacked, transform, padded: false })
}

/// Old checkpoints keep the rotary frequencies, which are computed from the config.
pub(super) fn ignored(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}
