//! GPT-2. <https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf>
//!
//! Details that have caused bugs:
//! - transformers stores projections as `Conv1D`, `[inputs, outputs]`: transposed. GGUF and llm.c do not.
//! - q, k and v are one tensor everywhere.
//! - The causal masks `attn.bias` and `attn.masked_bias` of old checkpoints are no parameters.
//! - llm.c pads the vocabulary: the rows from V on stand for no token.

use serde_json::{Map, Value, json};
use wootz_formats::{Checkpoint, Format, GgufMetadata, LlmcHeader};

use super::{Architecture, Dims, GgufHead, KeyNames, MAX_LAYERS, Stored, check_dims, gguf, hf, to_hf};
use crate::config::{Bias, DecoderConfig, Head, LayerConfig, Mlp, Norm, NormPlacement, Positions, QkNorm};
use crate::error::{Result, fail};
use crate::names::{Kind, Part, Place, TensorId, Transform};

/// The line in the registry.
pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "gpt2",
    hf_model_types: &["gpt2"],
    hf_architectures: &["GPT2LMHeadModel", "GPT2Model"],
    gguf_names: &["gpt2"],
    from_hf,
    from_gguf,
    from_llmc: Some(from_llmc),
    from_llama2c: None,
    to_hf,
    to_gguf,
    stored,
    // The checkpoints of 2019 are the bare base model's.
    hf_prefixes: &["transformer.", ""],
    ignored,
};

/// The sizes that set a GPT-2 apart from another; everything else is the same in all.
struct Sizes {
    vocab_size: usize,
    dim: usize,
    n_heads: usize,
    head_dim: usize,
    hidden_dim: usize,
    max_seq: usize,
    n_layers: usize,
}

fn decoder(sizes: Sizes, norm_eps: f32, head: Head) -> DecoderConfig {
    DecoderConfig {
        vocab_size: sizes.vocab_size,
        dim: sizes.dim,
        n_heads: sizes.n_heads,
        n_kv_heads: sizes.n_heads,
        head_dim: sizes.head_dim,
        hidden_dim: sizes.hidden_dim,
        max_seq: sizes.max_seq,
        norm: Norm::LayerNorm,
        norm_eps,
        placement: NormPlacement::Pre,
        positions: Positions::Learned,
        bias: Bias::All,
        qk_norm: QkNorm::None,
        attention_scale: (sizes.head_dim as f64).powf(-0.5) as f32,
        mlp: Mlp::Gelu,
        embedding_scale: 1.0,
        head,
        logit_softcap: None,
        layers: vec![LayerConfig { rope: None, window: None }; sizes.n_layers],
    }
}

fn from_hf(config: &Value) -> Result<DecoderConfig> {
    let keys = hf::Keys::new(config)?;
    // Three spellings of the tanh form; plain `gelu` is the one with erf.
    keys.activation("activation_function", &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"])?;
    keys.forbid("scale_attn_by_inverse_layer_idx")?;
    keys.forbid("add_cross_attention")?;
    // transformers takes its general names for these too.
    let size = |key: &str, general: &str| keys.size(key, keys.find_size(general)?);
    let dim = size("n_embd", "hidden_size")?;
    let n_heads = size("n_head", "num_attention_heads")?;
    let key = |name: &str| format!("config.json: {name}");
    let names = KeyNames {
        dim: key("n_embd"),
        n_heads: key("n_head"),
        n_kv_heads: key("n_head"),
        head_dim: key("n_embd / n_head"),
    };
    let head_dim =
        check_dims(&Dims { dim, n_heads, n_kv_heads: n_heads, head_dim: None }, &names, Positions::Learned)?;
    let sizes = Sizes {
        vocab_size: keys.size("vocab_size", None)?,
        dim,
        n_heads,
        head_dim,
        hidden_dim: keys.size("n_inner", Some(4 * dim))?,
        max_seq: size("n_positions", "max_position_embeddings")?,
        n_layers: keys.layers("n_layer", keys.find_size("num_hidden_layers")?)?,
    };
    let norm_eps = keys.find_number("layer_norm_epsilon")?.unwrap_or(1e-5);
    let head = if keys.flag("tie_word_embeddings", true)? { Head::Tied } else { Head::Untied };
    let mut decoder = decoder(sizes, norm_eps, head);
    if !keys.flag("scale_attn_weights", true)? {
        decoder.attention_scale = 1.0;
    }
    Ok(decoder)
}

fn from_gguf(metadata: &GgufMetadata, checkpoint: &Checkpoint) -> Result<DecoderConfig> {
    let keys = gguf::Keys::new(metadata, checkpoint)?;
    let dims = keys.dims(Positions::Learned)?;
    if dims.n_kv_heads != dims.n_heads {
        fail!(
            "{}: expected as many as query heads, {}, found {}",
            keys.full("attention.head_count_kv"),
            dims.n_heads,
            dims.n_kv_heads
        );
    }
    let sizes = Sizes {
        vocab_size: keys.vocab_size()?,
        dim: dims.dim,
        n_heads: dims.n_heads,
        head_dim: dims.head_dim,
        hidden_dim: keys.size("feed_forward_length")?,
        max_seq: keys.size("context_length")?,
        n_layers: keys.layers()?,
    };
    Ok(decoder(sizes, keys.number("attention.layer_norm_epsilon")?, keys.head()))
}

/// llm.c's constants: epsilon 1e-5, a hidden layer of 4C, a tied head (`train_gpt2.c`).
fn from_llmc(header: &LlmcHeader) -> Result<DecoderConfig> {
    let key = |name: &str| format!("llm.c header: {name}");
    let names = KeyNames {
        dim: key("channels"),
        n_heads: key("heads"),
        n_kv_heads: key("heads"),
        head_dim: key("channels / heads"),
    };
    let dims = Dims { dim: header.channels, n_heads: header.heads, n_kv_heads: header.heads, head_dim: None };
    let head_dim = check_dims(&dims, &names, Positions::Learned)?;
    if header.layers > MAX_LAYERS {
        fail!("{}: expected at most {MAX_LAYERS}, found {}", key("layers"), header.layers);
    }
    let Some(hidden_dim) = header.channels.checked_mul(4) else {
        fail!("{}: found {}, which is too large", key("channels"), header.channels)
    };
    let sizes = Sizes {
        vocab_size: header.vocab,
        dim: header.channels,
        n_heads: header.heads,
        head_dim,
        hidden_dim,
        max_seq: header.max_seq,
        n_layers: header.layers,
    };
    Ok(decoder(sizes, 1e-5, Head::Tied))
}

fn to_hf(config: &DecoderConfig) -> Map<String, Value> {
    to_hf::entries(json!({
        "vocab_size": config.vocab_size,
        "n_positions": config.max_seq,
        "n_embd": config.dim,
        "n_layer": config.n_layers(),
        "n_head": config.n_heads,
        "n_inner": (config.hidden_dim != 4 * config.dim).then_some(config.hidden_dim),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": to_hf::number(config.norm_eps),
        "scale_attn_weights": config.attention_scale != 1.0,
        "tie_word_embeddings": to_hf::tied(config),
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "initializer_range": 0.02,
        "use_cache": true,
    }))
}

fn to_gguf(config: &DecoderConfig) -> Result<GgufHead> {
    let mut head = GgufHead::new("gpt2", config)?;
    head.check_scale(config, config.head_dim)?;
    head.number("attention.layer_norm_epsilon", config.norm_eps);
    Ok(head)
}

fn stored(config: &DecoderConfig, format: Format, id: TensorId, shape: &[usize]) -> Option<Stored> {
    match format {
        Format::Safetensors => {
            let mut stored = Stored::plain(hf_name(id)?, shape);
            stored.fuse(config, id);
            // Every projection's weight, that is every matrix of a layer, is transposed.
            if matches!(id.place, Place::Layer(..)) && stored.shape.len() == 2 {
                stored.shape.reverse();
                stored.transform.transpose = true;
            }
            Some(stored)
        }
        Format::Gguf => {
            let name = match id.place {
                Place::Layer(layer, Part::Q | Part::K | Part::V) => gguf::fused_qkv(layer, id.kind),
                Place::Layer(..) | Place::Embed | Place::PosEmbed | Place::FinalNorm | Place::Head => {
                    gguf::name(id)
                }
            };
            let mut stored = Stored::plain(name, shape);
            stored.fuse(config, id);
            Some(stored)
        }
        Format::LlmC => {
            let mut stored = Stored::plain(llmc_name(id)?.to_owned(), shape);
            stored.fuse(config, id);
            stored.padded = id.place == Place::Embed;
            if let Place::Layer(layer, _) = id.place {
                stored.shape.insert(0, config.n_layers());
                stored.transform.layer = Some(layer);
            }
            Some(stored)
        }
        Format::Llama2C => None,
    }
}

impl Stored {
    /// Makes q, k or v a part of the one tensor of the three.
    fn fuse(&mut self, config: &DecoderConfig, id: TensorId) {
        let first_row = match id.place {
            Place::Layer(_, Part::Q) => 0,
            Place::Layer(_, Part::K) => config.q_dim(),
            Place::Layer(_, Part::V) => config.q_dim() + config.kv_dim(),
            Place::Layer(..) | Place::Embed | Place::PosEmbed | Place::FinalNorm | Place::Head => return,
        };
        self.shape[0] = config.q_dim() + 2 * config.kv_dim();
        self.transform = Transform { first_row, ..self.transform };
    }
}

fn hf_name(id: TensorId) -> Option<String> {
    let kind = id.kind.name();
    Some(match id.place {
        Place::Embed => format!("transformer.wte.{kind}"),
        Place::PosEmbed => format!("transformer.wpe.{kind}"),
        Place::FinalNorm => format!("transformer.ln_f.{kind}"),
        Place::Head => format!("lm_head.{kind}"),
        Place::Layer(layer, part) => {
            let part = match part {
                Part::AttnNorm => "ln_1",
                Part::Q | Part::K | Part::V => "attn.c_attn",
                Part::O => "attn.c_proj",
                Part::MlpNorm => "ln_2",
                Part::Up => "mlp.c_fc",
                Part::Down => "mlp.c_proj",
                Part::QNorm | Part::KNorm | Part::AttnPostNorm | Part::Gate | Part::MlpPostNorm => {
                    return None;
                }
            };
            format!("transformer.h.{layer}.{part}.{kind}")
        }
    })
}

/// llm.c's names of its 16 parameters (`ParameterTensors` in `train_gpt2.c`).
fn llmc_name(id: TensorId) -> Option<&'static str> {
    let names = match id.place {
        Place::Embed => ["wte", ""],
        Place::PosEmbed => ["wpe", ""],
        Place::FinalNorm => ["lnfw", "lnfb"],
        Place::Head => return None,
        Place::Layer(_, part) => match part {
            Part::AttnNorm => ["ln1w", "ln1b"],
            Part::Q | Part::K | Part::V => ["qkvw", "qkvb"],
            Part::O => ["attprojw", "attprojb"],
            Part::MlpNorm => ["ln2w", "ln2b"],
            Part::Up => ["fcw", "fcb"],
            Part::Down => ["fcprojw", "fcprojb"],
            Part::QNorm | Part::KNorm | Part::AttnPostNorm | Part::Gate | Part::MlpPostNorm => return None,
        },
    };
    match id.kind {
        Kind::Weight => Some(names[0]),
        Kind::Bias => Some(names[1]),
        Kind::LoraA | Kind::LoraB | Kind::LoraMagnitude => None,
    }
}

fn ignored(name: &str) -> bool {
    name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
}
