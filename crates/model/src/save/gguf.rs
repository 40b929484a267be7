//! A GGUF file, with the metadata and the types that llama.cpp's converter writes.

use std::io::{self, Write};
use std::path::Path;

use wootz_formats::gguf::{self, Array, Strings, Value};
use wootz_formats::{Format, TensorSpec};
use wootz_kernels::DType;
use wootz_text::{GgufVocab, Tokenizer};

use super::stored::{NormShift, Stored, encode, stored};
use super::{SaveOptions, Tensors};
use crate::arch::{Architecture, ROPE_DIVISORS};
use crate::config::{DecoderConfig, Norm};
use crate::error::{Context, Result, fail};
use crate::flops::parameters;
use crate::names::{Place, Source};

pub(super) fn save(
    path: &Path,
    architecture: &Architecture,
    config: &DecoderConfig,
    tensors: &dyn Tensors,
    options: &SaveOptions,
) -> Result<()> {
    /// `LLAMA_FTYPE_…` of llama.h: what most of the weights are.
    const FILE_TYPES: &[(DType, u32)] = &[(DType::F32, 0), (DType::F16, 1), (DType::BF16, 32)];
    options.existing.check(path)?;
    let Some(&(_, file_type)) = FILE_TYPES.iter().find(|(dtype, _)| *dtype == options.dtype) else {
        fail!("general.file_type has no number for {}", options.dtype)
    };
    let head = GgufFileHead::of(architecture, config, options.tokenizer, options.name, file_type)?;
    // llama.cpp adds vectors and learned positions in f32, and wants them so.
    let dtype = |sources: &[Source]| match sources {
        [source, ..] if source.shape.len() == 2 && source.to.place != Place::PosEmbed => options.dtype,
        _ => DType::F32,
    };
    let file = GgufFile::new(architecture, config, head, dtype)?;
    file.write(path, tensors, &mut encode)
}

/// What a GGUF file says of its model.
pub(crate) struct GgufFileHead {
    pub metadata: Vec<(String, Value)>,
    /// The values of `rope_freqs.weight`, where there is one.
    pub rope_divisors: Option<Vec<f32>>,
}

/// A GGUF file that is to be written: all of it but the values.
pub(crate) struct GgufFile {
    pub head: GgufFileHead,
    pub tensors: Vec<Stored>,
    shift: NormShift,
}

/// Writes values as the type that a tensor has.
pub(crate) type EncodeTensor<'a> = dyn FnMut(&TensorSpec, &[f32], &mut dyn Write) -> io::Result<()> + 'a;

impl GgufFile {
    /// `dtype` gives the type of a tensor of the file by the canonical ones in it.
    pub fn new(
        architecture: &Architecture,
        config: &DecoderConfig,
        head: GgufFileHead,
        dtype: impl Fn(&[Source]) -> DType,
    ) -> Result<Self> {
        let mut tensors = stored(architecture, config, Format::Gguf, |_| DType::F32)?;
        for stored in &mut tensors {
            stored.spec.dtype = dtype(stored.sources());
        }
        let file_norm = match config.norm {
            Norm::RmsNorm | Norm::RmsNormOnePlus => Norm::RmsNorm,
            Norm::LayerNorm => Norm::LayerNorm,
        };
        let shift = NormShift::new(config.norm, file_norm);
        Ok(GgufFile { head, tensors, shift })
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, path: &Path, tensors: &dyn Tensors, encode: &mut EncodeTensor) -> Result<()> {
        let mut specs: Vec<TensorSpec> = self.tensors.iter().map(|stored| stored.spec.clone()).collect();
        if let Some(divisors) = &self.head.rope_divisors {
            specs.push(TensorSpec {
                name: ROPE_DIVISORS.to_owned(),
                dtype: DType::F32,
                shape: vec![divisors.len()],
            });
        }
        gguf::write(path, &self.head.metadata, &specs, &mut |index, file: &mut dyn Write| match self
            .tensors
            .get(index)
        {
            Some(stored) => stored.write(tensors, self.shift, encode, file),
            None => encode(&specs[index], self.head.rope_divisors.as_deref().unwrap_or_default(), file),
        })
        .context(|| "the file")
    }
}

impl GgufFileHead {
    /// What llama.cpp's converter says of a model.
    pub fn of(
        architecture: &Architecture,
        config: &DecoderConfig,
        tokenizer: Option<&Tokenizer>,
        name: &str,
        file_type: u32,
    ) -> Result<Self> {
        let head = architecture.gguf_head(config)?;
        let mut metadata = general(head.architecture, config, name, file_type);
        metadata.extend(head.entries);
        metadata.extend(match tokenizer {
            Some(tokenizer) => {
                let mut vocab = tokenizer.to_gguf().context(|| "the tokenizer cannot go into a GGUF file")?;
                vocab.pad(config.vocab_size);
                tokenizer_entries(vocab)
            }
            None => vec![text("tokenizer.ggml.model", GgufVocab::NO_MODEL)],
        });
        Ok(GgufFileHead { metadata, rope_divisors: head.rope_divisors })
    }
}

fn entry(key: &str, value: Value) -> (String, Value) {
    (key.to_owned(), value)
}

fn text(key: &str, text: impl Into<String>) -> (String, Value) {
    entry(key, Value::String(text.into()))
}

/// What every model has.
fn general(architecture: &str, config: &DecoderConfig, name: &str, file_type: u32) -> Vec<(String, Value)> {
    vec![
        text("general.architecture", architecture),
        text("general.type", "model"),
        text("general.name", name),
        text("general.size_label", size_label(parameters(config))),
        entry(FILE_TYPE, Value::U32(file_type)),
        entry(QUANTIZATION_VERSION, Value::U32(QUANTIZATION)),
    ]
}

/// What most of the weights are.
pub(crate) const FILE_TYPE: &str = "general.file_type";
/// Of the block formats; a file without any states it too.
pub(crate) const QUANTIZATION_VERSION: &str = "general.quantization_version";
/// The version that everybody has.
pub(crate) const QUANTIZATION: u32 = 2;

/// `124M`, `1.6B`: two digits at the least.
fn size_label(parameters: u64) -> String {
    let (unit, suffix) = match parameters {
        1_000_000_000.. => (1e9, 'B'),
        1_000_000.. => (1e6, 'M'),
        _ => (1e3, 'K'),
    };
    let count = parameters as f64 / unit;
    let decimals = if count.round() >= 10.0 { 0 } else { 1 };
    format!("{count:.decimals$}{suffix}")
}

/// The keys under `tokenizer.`, in the order of the converter.
fn tokenizer_entries(vocab: GgufVocab) -> Vec<(String, Value)> {
    let strings = |strings: &[String]| {
        Value::Array(Array::String(strings.iter().map(String::as_str).collect::<Strings>()))
    };
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let mut entries = vec![text("tokenizer.ggml.model", vocab.model)];
    entries.extend(vocab.pre.map(|pre| text("tokenizer.ggml.pre", pre)));
    entries.push((key("tokens"), strings(&vocab.tokens)));
    if !vocab.scores.is_empty() {
        entries.push((key("scores"), Value::Array(Array::F32(vocab.scores))));
    }
    entries.push((key("token_type"), Value::Array(Array::I32(vocab.token_types))));
    if !vocab.merges.is_empty() {
        entries.push((key("merges"), strings(&vocab.merges)));
    }
    for (name, id) in [
        ("bos_token_id", vocab.bos),
        ("eos_token_id", vocab.eos),
        ("eot_token_id", vocab.eot),
        ("eom_token_id", vocab.eom),
        ("unknown_token_id", vocab.unk),
        ("padding_token_id", vocab.pad),
    ] {
        entries.extend(id.map(|id| (key(name), Value::U32(id))));
    }
    for (name, flag) in [
        ("add_bos_token", vocab.add_bos),
        ("add_eos_token", vocab.add_eos),
        ("add_space_prefix", vocab.add_space_prefix),
    ] {
        entries.extend(flag.map(|flag| (key(name), Value::Bool(flag))));
    }
    entries.extend(vocab.chat_template.map(|template| text("tokenizer.chat_template", template)));
    if !vocab.named_templates.is_empty() {
        let names: Vec<String> = vocab.named_templates.iter().map(|(name, _)| name.clone()).collect();
        entries.push(entry("tokenizer.chat_templates", strings(&names)));
    }
    let named = vocab.named_templates.into_iter();
    entries.extend(named.map(|(name, template)| text(&format!("tokenizer.chat_template.{name}"), template)));
    entries
}

#[cfg(test)]
mod tests {
    use super::size_label;

    #[test]
    fn labels_have_two_digits_at_the_least() {
        for (parameters, label) in [
            (124_439_808, "124M"),
            (1_557_611_200, "1.6B"),
            (1_625_120, "1.6M"),
            (9_960_000_000, "10B"),
            (870_000, "870K"),
            (3_200, "3.2K"),
        ] {
            assert_eq!(size_label(parameters), label);
        }
    }
}
