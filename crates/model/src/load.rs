//! From a path to what can run: the model file, and the tokenizer that belongs to it.

use crate::error::{Context, Result, fail};
use std::path::Path;
use wootz_formats::{Checkpoint, Format, GgufMetadata, Metadata};
use wootz_kernels::{Precision, pool};
use wootz_text::{ChatTemplate, GgufVocab, Tokenizer};

/// How to load a model.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Whether products may round their inputs to the precision of the weights.
    pub precision: Precision,
    /// Threads that compute.
    pub threads: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { precision: Precision::Native, threads: pool::default_threads() }
    }
}

/// Opens a model: a folder of safetensors with a config.json, a GGUF, llm.c's or llama2.c's `.bin`.
///
/// # Errors
/// A file that is missing, damaged, or no model.
pub fn open(path: &Path) -> Result<Checkpoint> {
    Checkpoint::open(path).context(|| format!("cannot open model {}", path.display()))
}

/// The tokenizer of a model: from its folder, its metadata, or the `tokenizer.bin` or `tokenizer.json` beside it.
///
/// # Errors
/// There is none, or it is damaged.
pub fn tokenizer(path: &Path) -> Result<Tokenizer> {
    let whose = || format!("cannot read the tokenizer of {}", path.display());
    if path.is_dir() {
        return Tokenizer::from_folder(path).context(whose);
    }
    let checkpoint = open(path)?;
    match checkpoint.metadata() {
        Metadata::Gguf(metadata) => Tokenizer::from_gguf(vocab(metadata).context(whose)?).context(whose),
        Metadata::Config(_) => Tokenizer::from_folder(checkpoint.folder()).context(whose),
        Metadata::LlmC(_) => beside(&checkpoint, |bytes| Tokenizer::from_llmc(bytes, None)),
        Metadata::Llama2C(header) => {
            let size = header.vocab_size;
            beside(&checkpoint, |bytes| Tokenizer::from_llama2c(bytes, size))
        }
    }
}

/// A `.bin` model has its tokenizer in a file of its own.
fn beside(
    checkpoint: &Checkpoint,
    read: impl Fn(&[u8]) -> std::result::Result<Tokenizer, wootz_text::Error>,
) -> Result<Tokenizer> {
    let folder = checkpoint.folder();
    // llm.c's tokenizer.bin can only decode: a tokenizer.json is better where there is one.
    if folder.join("tokenizer.json").is_file() {
        return Tokenizer::from_folder(folder)
            .context(|| format!("cannot read {}", folder.join("tokenizer.json").display()));
    }
    let file = folder.join("tokenizer.bin");
    match std::fs::read(&file) {
        Ok(bytes) => read(&bytes).context(|| format!("cannot read {}", file.display())),
        Err(error) if checkpoint.format() == Format::LlmC && error.kind() == std::io::ErrorKind::NotFound => {
            Tokenizer::gpt2().context(|| "GPT-2's built-in vocabulary")
        }
        Err(error) => Err(error).context(|| {
            format!(
                "cannot read {}: a .bin model has its tokenizer beside it, in tokenizer.json or tokenizer.bin",
                file.display()
            )
        }),
    }
}

/// What a GGUF file says of its tokenizer.
fn vocab(metadata: &GgufMetadata) -> Result<GgufVocab> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let strings = |name: &str| -> Result<Vec<String>> {
        let found = metadata.find_strings(&key(name)).context(|| "tokenizer")?;
        Ok(found.map(|strings| strings.iter().map(str::to_owned).collect()).unwrap_or_default())
    };
    let id = |name: &str| -> Result<Option<u32>> {
        let found = metadata.find_u64(&key(name)).context(|| "tokenizer")?;
        match found.map(u32::try_from) {
            None => Ok(None),
            Some(Ok(id)) => Ok(Some(id)),
            Some(Err(_)) => fail!("{}: expected a token id, found a number beyond 32 bits", key(name)),
        }
    };
    let flag = |name: &str| metadata.find_bool(&key(name)).context(|| "tokenizer");
    let Some(model) = metadata.find_str(&key("model")).context(|| "tokenizer")? else {
        fail!("the file holds no tokenizer: metadata key tokenizer.ggml.model is missing")
    };
    let prefix = "tokenizer.chat_template.";
    let mut named_templates = Vec::new();
    for (name, _) in metadata.iter().filter(|(name, _)| name.starts_with(prefix)) {
        if let Ok(template) = metadata.get_str(name) {
            named_templates.push((name[prefix.len()..].to_owned(), template.to_owned()));
        }
    }
    Ok(GgufVocab {
        model: model.to_owned(),
        pre: metadata.find_str(&key("pre")).context(|| "tokenizer")?.map(str::to_owned),
        tokens: strings("tokens")?,
        scores: metadata
            .find_f32s(&key("scores"))
            .context(|| "tokenizer")?
            .map(|s| s.to_vec())
            .unwrap_or_default(),
        token_types: metadata
            .find_i32s(&key("token_type"))
            .context(|| "tokenizer")?
            .map(|t| t.to_vec())
            .unwrap_or_default(),
        merges: strings("merges")?,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        eom: id("eom_token_id")?,
        unk: id("unknown_token_id")?,
        pad: id("padding_token_id")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
        chat_template: metadata
            .find_str("tokenizer.chat_template")
            .context(|| "tokenizer")?
            .map(str::to_owned),
        named_templates,
    })
}

/// A chat template from a file of its own.
///
/// # Errors
/// The file cannot be read, or is no template.
pub fn chat_template(path: &Path) -> Result<ChatTemplate> {
    let source =
        std::fs::read_to_string(path).context(|| format!("cannot read the template {}", path.display()))?;
    ChatTemplate::parse(&source).context(|| format!("template {}", path.display()))
}
