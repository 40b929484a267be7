//! llm.c's `.bin`, and its `tokenizer.bin` beside it.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use wootz_formats::{Format, LlmcHeader, llmc, write_atomically};
use wootz_kernels::DType;

use super::stored::{NormShift, Stored, encode, stored};
use super::{SaveOptions, Tensors};
use crate::arch::Architecture;
use crate::config::DecoderConfig;
use crate::error::{Context, Result, fail};

/// llm.c pads the vocabulary to a multiple of this (`train_gpt2.py`).
const VOCABULARY_MULTIPLE: usize = 128;

pub(super) fn save(
    path: &Path,
    architecture: &Architecture,
    config: &DecoderConfig,
    tensors: &dyn Tensors,
    options: &SaveOptions,
) -> Result<()> {
    let Some(from_llmc) = architecture.from_llmc else {
        fail!("llm.c knows GPT-2 alone, and this is a {} model; save it as hf or gguf", architecture.name)
    };
    let padded_vocab = config.vocab_size.checked_next_multiple_of(VOCABULARY_MULTIPLE);
    let header = LlmcHeader {
        version: if options.dtype == DType::BF16 { 5 } else { 3 },
        max_seq: config.max_seq,
        vocab: config.vocab_size,
        layers: config.n_layers(),
        heads: config.n_heads,
        channels: config.dim,
        padded_vocab: padded_vocab.unwrap_or(usize::MAX),
    };
    if from_llmc(&header)? != *config {
        fail!(
            "llm.c knows GPT-2 with a tied head, a hidden layer of 4 times the width and an epsilon of 1e-5; this model \
             is another: save it as hf or gguf"
        );
    }

    options.existing.check(path)?;
    let tokenizer_path = path.with_file_name("tokenizer.bin");
    if options.tokenizer.is_some() {
        options.existing.check(&tokenizer_path)?;
    }

    let all = stored(architecture, config, Format::LlmC, |_| options.dtype)?;
    let mut by_name: HashMap<String, Stored> =
        all.into_iter().map(|stored| (stored.spec.name.clone(), stored)).collect();
    let mut in_order = Vec::new();
    for spec in header.tensors().context(|| "the sizes of the model")? {
        let Some(mut stored) = by_name.remove(&spec.name) else {
            fail!("llm.c's tensor `{}` is none of this model's", spec.name)
        };
        stored.pad_rows(spec.shape[0]);
        in_order.push(stored);
    }
    let shift = NormShift::new(config.norm, config.norm);
    // Made before the model is written, so that what is wrong with it leaves no half of the pair.
    let tokenizer = match options.tokenizer {
        Some(tokenizer) => Some(tokenizer.to_llmc().context(|| "the tokenizer")?),
        None => None,
    };
    llmc::write(path, &header, &mut |index, file: &mut dyn Write| {
        in_order[index].write(tensors, shift, &mut encode, file)
    })
    .context(|| "the file")?;
    match tokenizer {
        Some(bytes) => {
            write_atomically(&tokenizer_path, |file| file.write_all(&bytes)).context(|| "the tokenizer")
        }
        None => Ok(()),
    }
}
