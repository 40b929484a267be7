//! Architectures: one file each, and the list of them.
//!
//! An architecture says which metadata names it, how that metadata becomes a [`DecoderConfig`], and where in a file of
//! each format the canonical tensors are. [`identify`] finds the architecture of an open file, [`sources`] its tensors;
//! after that nothing in the program knows which architecture it runs.

mod gemma3;
mod gguf;
mod gpt2;
mod hf;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
#[cfg(test)]
mod tests;
mod to_gguf;
mod to_hf;

use std::collections::HashSet;

use half::{bf16, f16};
use serde_json::{Map, Value};
use wootz_formats::{Checkpoint, Format, GgufMetadata, Llama2cHeader, LlmcHeader, Metadata};
use wootz_kernels::DType;

use crate::config::{DecoderConfig, Head, Positions};
use crate::error::{Context, Result, fail};
use crate::names::{Place, Source, TensorId, Transform, canonical};

pub(crate) use gguf::ROPE_DIVISORS;
pub use to_gguf::GgufHead;

/// Every architecture. To add one: a file beside this one, and a line here.
pub static ARCHITECTURES: &[&Architecture] = &[
    &gpt2::ARCHITECTURE,
    &llama::ARCHITECTURE,
    &mistral::ARCHITECTURE,
    &qwen2::ARCHITECTURE,
    &qwen3::ARCHITECTURE,
    &gemma3::ARCHITECTURE,
];

/// A number of a config above this is taken for a damaged file (a token id is an i32).
pub(crate) const MAX_SIZE: usize = 1 << 30;
/// More layers than this are taken for a damaged file.
pub(crate) const MAX_LAYERS: usize = 10_000;
/// A RoPE scaling factor outside of this is taken for a damaged file; within it frequencies stay finite.
const FACTORS: std::ops::RangeInclusive<f32> = 0.01..=1e6;
/// A head wider than this is taken for a damaged file.
const MAX_HEAD_DIM: usize = 8192;

/// What is to be known of an architecture.
#[derive(Debug)]
pub struct Architecture {
    /// Our name of it: the file's.
    pub name: &'static str,
    /// `model_type` in config.json.
    pub hf_model_types: &'static [&'static str],
    /// Entries of `architectures` in config.json, for a config without `model_type`.
    pub hf_architectures: &'static [&'static str],
    /// `general.architecture` in GGUF.
    pub gguf_names: &'static [&'static str],
    /// The configuration from config.json. Sizes are plausible afterwards, and not yet compared with the tensors.
    pub from_hf: fn(&Value) -> Result<DecoderConfig>,
    /// The configuration from GGUF metadata; some of it is in the tensors (tied head, rotary divisors).
    pub from_gguf: fn(&GgufMetadata, &Checkpoint) -> Result<DecoderConfig>,
    /// The configuration from an llm.c header, where this is llm.c's architecture.
    pub from_llmc: Option<fn(&LlmcHeader) -> Result<DecoderConfig>>,
    /// The configuration from a llama2.c header, where this is llama2.c's architecture.
    pub from_llama2c: Option<fn(&Llama2cHeader) -> Result<DecoderConfig>>,
    /// What config.json says of the configuration, apart from the architecture's own names; see
    /// [`Architecture::config_json`].
    to_hf: fn(&DecoderConfig) -> Map<String, Value>,
    /// What GGUF metadata says of the configuration; see [`Architecture::gguf_head`].
    to_gguf: fn(&DecoderConfig) -> Result<GgufHead>,
    /// Where a canonical tensor is in a file; `None` when the architecture does not come in that format.
    stored: fn(&DecoderConfig, Format, TensorId, &[usize]) -> Option<Stored>,
    /// What the names in safetensors begin with; transformers' own form first, then others that are published.
    pub(crate) hf_prefixes: &'static [&'static str],
    /// Tensors of a file that are there and not needed.
    ignored: fn(&str) -> bool,
}

/// An architecture's answer: where a canonical tensor is.
struct Stored {
    name: String,
    shape: Vec<usize>,
    transform: Transform,
    /// Whether the file may hold more rows than the shape says (llm.c's padded vocabulary).
    padded: bool,
}

impl Stored {
    /// The tensor as it stands.
    fn plain(name: String, shape: &[usize]) -> Self {
        Stored { name, shape: shape.to_vec(), transform: Transform::default(), padded: false }
    }
}

impl Architecture {
    /// Where the decoder's tensors are in a file of this format, with transformers' own names for safetensors, in the
    /// order of [`canonical`]. What a file really holds is compared by [`sources`].
    ///
    /// # Errors
    /// The architecture does not come in this format.
    pub fn tensors(&self, config: &DecoderConfig, format: Format) -> Result<Vec<Source>> {
        let source = |(to, shape): (TensorId, Vec<usize>)| {
            let (Some(stored), Some(hf)) = (
                (self.stored)(config, format, to, &shape),
                (self.stored)(config, Format::Safetensors, to, &shape),
            ) else {
                fail!("{}: models of this architecture do not come as {format} files", self.name)
            };
            Ok(Source {
                to,
                shape,
                name: stored.name,
                stored: stored.shape,
                transform: stored.transform,
                hf_name: hf.name,
            })
        };
        canonical(config).into_iter().map(source).collect()
    }

    /// A name of transformers' form as this file has it, and the prefix found.
    fn prefix(&self, config: &DecoderConfig, checkpoint: &Checkpoint) -> &'static str {
        let own = self.hf_prefixes[0];
        let embed = TensorId::weight(Place::Embed);
        let shape = [config.vocab_size, config.dim];
        let Some(embed) = (self.stored)(config, Format::Safetensors, embed, &shape) else { return own };
        let there = |prefix: &&&str| checkpoint.tensor(&replace_prefix(&embed.name, own, prefix)).is_some();
        self.hf_prefixes.iter().find(there).copied().unwrap_or(own)
    }
}

fn replace_prefix(name: &str, own: &str, found: &str) -> String {
    match name.strip_prefix(own) {
        Some(rest) => format!("{found}{rest}"),
        None => name.to_owned(),
    }
}

/// Names of the output head in safetensors: of a text model, and within a multimodal one.
const HF_HEADS: [&str; 2] = ["lm_head.weight", "language_model.lm_head.weight"];

/// The architecture and configuration of an open model.
///
/// # Errors
/// An architecture, a mechanism or a value that is not supported; metadata that is missing or implausible. The message
/// names the file, the key, what was expected and what was found.
pub fn identify(checkpoint: &Checkpoint) -> Result<(&'static Architecture, DecoderConfig)> {
    find(checkpoint).context(|| checkpoint.path().display().to_string())
}

fn find(checkpoint: &Checkpoint) -> Result<(&'static Architecture, DecoderConfig)> {
    match checkpoint.metadata() {
        Metadata::Gguf(metadata) => {
            if matches!(metadata.find_str("general.type"), Ok(Some("adapter"))) {
                fail!(
                    "this is an adapter, not a model; name the model that it belongs to, and this with --adapter"
                );
            }
            let name = match metadata.find_str("general.architecture") {
                Ok(Some(name)) => name,
                Ok(None) | Err(_) => fail!("metadata key general.architecture: expected a name, found none"),
            };
            let Some(architecture) = by(|a| a.gguf_names.contains(&name)) else {
                fail!(
                    "general.architecture: `{name}` is not supported; supported are {}",
                    list(|a| a.gguf_names)
                )
            };
            Ok((architecture, (architecture.from_gguf)(metadata, checkpoint)?))
        }
        Metadata::Config(Value::Null) => {
            fail!("there is no config.json beside the weights; it says what model they are of")
        }
        Metadata::Config(config) => {
            let architecture = by_config(config)?;
            let mut decoder = (architecture.from_hf)(config)?;
            settle(architecture, &mut decoder, checkpoint);
            Ok((architecture, decoder))
        }
        Metadata::LlmC(header) => from_header(header, |a| a.from_llmc),
        Metadata::Llama2C(header) => from_header(header, |a| a.from_llama2c),
    }
}

/// Reads a format that is one architecture's alone.
fn from_header<H>(
    header: &H,
    reader: impl Fn(&Architecture) -> Option<fn(&H) -> Result<DecoderConfig>>,
) -> Result<(&'static Architecture, DecoderConfig)> {
    for architecture in ARCHITECTURES {
        if let Some(read) = reader(architecture) {
            return Ok((architecture, read(header)?));
        }
    }
    fail!("no architecture comes in this format")
}

/// The architecture of this name: ours, `model_type` or `general.architecture`.
///
/// # Errors
/// There is none; the message lists those that there are.
pub fn named(name: &str) -> Result<&'static Architecture> {
    let is =
        |a: &Architecture| a.name == name || a.hf_model_types.contains(&name) || a.gguf_names.contains(&name);
    match by(is) {
        Some(architecture) => Ok(architecture),
        None => fail!(
            "architecture `{name}` is not supported; supported are {}",
            ARCHITECTURES.iter().map(|a| a.name).collect::<Vec<_>>().join(", ")
        ),
    }
}

fn by(is: impl Fn(&Architecture) -> bool) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|a| is(a)).copied()
}

fn list(names: impl Fn(&Architecture) -> &'static [&'static str]) -> String {
    ARCHITECTURES.iter().flat_map(|a| names(a)).copied().collect::<Vec<_>>().join(", ")
}

/// The architecture that a config.json names.
fn by_config(config: &Value) -> Result<&'static Architecture> {
    let keys = hf::Keys::new(config)?;
    if config.get("peft_type").is_some() {
        fail!("this is an adapter, not a model; name the model that it belongs to, and this with --adapter");
    }
    if let Some(quantization) = keys.object("quantization_config")? {
        let method = quantization.text("quant_method")?.unwrap_or("unnamed");
        fail!(
            "config.json: quantization_config: quantised safetensors (`{method}`) are not supported; use the unquantised \
             model or a GGUF of it"
        );
    }
    if let Some(name) = keys.text("model_type")? {
        return match by(|a| a.hf_model_types.contains(&name)) {
            Some(architecture) => Ok(architecture),
            None => fail!(
                "config.json: model_type `{name}` is not supported; supported are {}",
                list(|a| a.hf_model_types)
            ),
        };
    }
    let classes = config.get("architectures").and_then(Value::as_array);
    let classes: Vec<&str> = classes.into_iter().flatten().filter_map(Value::as_str).collect();
    match by(|a| classes.iter().any(|class| a.hf_architectures.contains(class))) {
        Some(architecture) => Ok(architecture),
        None => fail!(
            "config.json: expected a model_type of {}, found none, nor a known class in architectures {classes:?}",
            list(|a| a.hf_model_types)
        ),
    }
}

/// What of a transformers model only its tensors tell.
fn settle(architecture: &Architecture, config: &mut DecoderConfig, checkpoint: &Checkpoint) {
    let prefix = architecture.prefix(config, checkpoint);
    let shape = [config.vocab_size, config.dim];
    let embed = (architecture.stored)(config, Format::Safetensors, TensorId::weight(Place::Embed), &shape);
    let embed = embed.and_then(|embed| {
        checkpoint.tensor(&replace_prefix(&embed.name, architecture.hf_prefixes[0], prefix))
    });
    let Some(embed) = embed else { return };

    // transformers keeps the scale in the type of the embedding, and rounds it to that.
    config.embedding_scale = match embed.dtype {
        DType::BF16 => bf16::from_f32(config.embedding_scale).to_f32(),
        DType::F16 => f16::from_f32(config.embedding_scale).to_f32(),
        _ => config.embedding_scale,
    };

    // A tied head that is in the file all the same is the embedding again, or it is not tied.
    let head = HF_HEADS.iter().find_map(|name| checkpoint.tensor(name));
    if head.is_some_and(|head| head.dtype != embed.dtype || head.bytes != embed.bytes) {
        config.head = Head::Untied;
    }
}

/// Where the decoder's tensors are in this file: each is there with the right shape and a usable type, and no tensor of
/// the file is left over that is not known to be needless. In the order of [`canonical`].
///
/// # Errors
/// A tensor that is missing, has another shape or type, or is not known; the message names file and tensor.
pub fn sources(
    architecture: &Architecture,
    config: &DecoderConfig,
    checkpoint: &Checkpoint,
) -> Result<Vec<Source>> {
    locate(architecture, config, checkpoint).context(|| checkpoint.path().display().to_string())
}

fn locate(
    architecture: &Architecture,
    config: &DecoderConfig,
    checkpoint: &Checkpoint,
) -> Result<Vec<Source>> {
    let format = checkpoint.format();
    let mut all = architecture.tensors(config, format)?;
    let own = architecture.hf_prefixes[0];
    let prefix = match format {
        Format::Safetensors => architecture.prefix(config, checkpoint),
        Format::Gguf | Format::LlmC | Format::Llama2C => own,
    };
    for source in &mut all {
        if format == Format::Safetensors {
            source.name = replace_prefix(&source.name, own, prefix);
            if source.to.place == Place::Head
                && let Some(name) = HF_HEADS.iter().find(|name| checkpoint.tensor(name).is_some())
            {
                source.name = (*name).to_owned();
            }
        }
        let padded =
            (architecture.stored)(config, format, source.to, &source.shape).is_some_and(|s| s.padded);
        check_source(source, padded, config, checkpoint)?;
    }
    let used: HashSet<&str> = all.iter().map(|source| source.name.as_str()).collect();
    for tensor in checkpoint.tensors() {
        let needless = used.contains(tensor.name)
            || (architecture.ignored)(tensor.name)
            || (config.head == Head::Tied && HF_HEADS.contains(&tensor.name))
            || (config.positions == Positions::Rotary && tensor.name == gguf::ROPE_DIVISORS);
        if !needless {
            let example = all.first().map_or("", |source| &source.name);
            fail!(
                "tensor `{}` {:?} is not part of a {} model as this program knows it ({} tensors, from `{example}`); a variant \
                 of the architecture that is not supported?",
                tensor.name,
                tensor.shape,
                architecture.name,
                used.len()
            );
        }
    }
    Ok(all)
}

/// Compares a source with the file; takes the padding over.
fn check_source(
    source: &mut Source,
    padded: bool,
    config: &DecoderConfig,
    checkpoint: &Checkpoint,
) -> Result<()> {
    let name = &source.name;
    let Some(tensor) = checkpoint.tensor(name) else {
        let hint = match source.to.place {
            Place::Head => "; does the model use the embedding as its head (tie_word_embeddings)?",
            Place::Layer(layer, _) if layer > 0 => {
                "; is a file of the model missing, or the number of layers wrong?"
            }
            Place::Embed | Place::PosEmbed | Place::Layer(..) | Place::FinalNorm => "",
        };
        fail!(
            "tensor `{name}` {:?} is missing, in a model of {} layers{hint}",
            source.stored,
            config.n_layers()
        )
    };
    let matches = match (padded, source.stored.split_first(), tensor.shape.split_first()) {
        (true, Some((rows, expected)), Some((found_rows, found))) => found_rows >= rows && found == expected,
        _ => tensor.shape == source.stored,
    };
    if !matches {
        let reversed = tensor.shape.iter().rev().eq(&source.stored);
        let hint = if reversed { "; is this file transposed?" } else { "" };
        fail!("tensor `{name}`: expected {:?}, found {:?}{hint}", source.stored, tensor.shape);
    }
    let plain = tensor.dtype.block_len() == 1;
    if !DType::weights().any(|dtype| dtype == tensor.dtype) || (source.transform.transpose && !plain) {
        let types: Vec<_> = DType::weights()
            .filter(|dtype| !source.transform.transpose || dtype.block_len() == 1)
            .map(DType::name)
            .collect();
        fail!("tensor `{name}`: expected a type of {}, found {}", types.join(", "), tensor.dtype);
    }
    source.stored = tensor.shape.to_vec();
    Ok(())
}

/// Sizes of attention as a file gives them.
struct Dims {
    dim: usize,
    n_heads: usize,
    n_kv_heads: usize,
    /// `None`: `dim / n_heads`.
    head_dim: Option<usize>,
}

/// What a file calls them.
struct KeyNames {
    dim: String,
    n_heads: String,
    n_kv_heads: String,
    head_dim: String,
}

/// Checks the sizes against each other, and returns the width of a head.
fn check_dims(dims: &Dims, names: &KeyNames, positions: Positions) -> Result<usize> {
    let &Dims { dim, n_heads, n_kv_heads, head_dim } = dims;
    if n_heads == 0 || n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) {
        fail!(
            "{}: expected a divisor of the {n_heads} query heads ({}), found {n_kv_heads}",
            names.n_kv_heads,
            names.n_heads
        );
    }
    let head_dim = match head_dim {
        Some(head_dim) => head_dim,
        None if dim.is_multiple_of(n_heads) => dim / n_heads,
        None => fail!("{}: expected a divisor of {} {dim}, found {n_heads}", names.n_heads, names.dim),
    };
    if head_dim == 0 || head_dim > MAX_HEAD_DIM {
        fail!("{}: expected a width of a head from 1 to {MAX_HEAD_DIM}, found {head_dim}", names.head_dim);
    }
    match positions {
        Positions::Rotary if !head_dim.is_multiple_of(2) => {
            fail!("{}: expected an even width of a head, for rotary pairs, found {head_dim}", names.head_dim)
        }
        Positions::Rotary | Positions::Learned => {}
    }
    if n_heads.checked_mul(head_dim).is_none_or(|width| width > MAX_SIZE) {
        fail!("{}: {n_heads} heads of {head_dim} are wider than {MAX_SIZE}", names.n_heads);
    }
    Ok(head_dim)
}
