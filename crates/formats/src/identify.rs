//! What a file is, by its first bytes; by its name only where a format has no magic.

use std::path::Path;

use crate::bytes::leading_u32;
use crate::mmap::Mmap;
use crate::{Error, Format, gguf, llama2c, llmc, safetensors, tokens};

/// A kind of file that wootz knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Named tensors: [`crate::Checkpoint::open`].
    Model(Format),
    /// Token ids: [`crate::tokens::Tokens::open`].
    Tokens,
    /// A debug state of llm.c: [`crate::llmc::DebugState::open`].
    DebugState,
    /// A tokenizer of llm.c.
    Tokenizer,
}

/// Finds out what the file at `path` is. It may still turn out to be damaged.
pub fn identify(path: &Path) -> Result<FileKind, Error> {
    kind_of(&Mmap::open(path)?, path).map_err(|e| e.in_file(path))
}

/// The format of a model's file; an error that says what else it is.
pub(crate) fn model_format(file: &[u8], path: &Path) -> Result<Format, Error> {
    let what = match kind_of(file, path)? {
        FileKind::Model(format) => return Ok(format),
        FileKind::Tokens => "a file of token ids",
        FileKind::DebugState => "a debug state of llm.c",
        FileKind::Tokenizer => "a tokenizer of llm.c",
    };
    Err(Error::unsupported(format!("this is {what}, not a model")))
}

fn kind_of(file: &[u8], path: &Path) -> Result<FileKind, Error> {
    if file.is_empty() {
        return Err(Error::invalid("the file is empty"));
    }
    if file.starts_with(gguf::MAGIC) {
        return Ok(FileKind::Model(Format::Gguf));
    }
    match leading_u32(file) {
        Some(llmc::MODEL_MAGIC) => return Ok(FileKind::Model(Format::LlmC)),
        Some(llmc::STATE_MAGIC) => return Ok(FileKind::DebugState),
        Some(llmc::TOKENIZER_MAGIC) => return Ok(FileKind::Tokenizer),
        Some(tokens::U16_MAGIC | tokens::U32_MAGIC) => return Ok(FileKind::Tokens),
        _ => {}
    }
    if safetensors::looks_like(file) {
        return Ok(FileKind::Model(Format::Safetensors));
    }
    if file.starts_with(b"PK\x03\x04") || file.starts_with(b"\x80\x02") {
        return Err(Error::unsupported(
            "this is a PyTorch pickle, which is not read; save the model as safetensors",
        ));
    }
    if BEFORE_GGUF.iter().any(|magic| file.starts_with(*magic)) {
        return Err(Error::unsupported(
            "this is a file of llama.cpp from before GGUF; convert the model anew with llama.cpp's converter",
        ));
    }
    // Where the name promises a format, its parser says what is wrong with the file.
    match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
        "gguf" => Ok(FileKind::Model(Format::Gguf)),
        "safetensors" => Ok(FileKind::Model(Format::Safetensors)),
        "bin" if llama2c::parse(file).is_err() && looks_like_tokens(file) => Ok(FileKind::Tokens),
        "bin" => Ok(FileKind::Model(Format::Llama2C)),
        "onnx" => {
            Err(Error::unsupported("ONNX is written and not read; give the model that this file was made of"))
        }
        _ => Err(Error::unsupported(
            "the format is not known; GGUF, safetensors, llm.c's .bin (versions 3 and 5) and llama2.c's .bin (legacy) \
             are read",
        )),
    }
}

/// "ggml", "ggmf" and "ggjt", as little-endian numbers.
const BEFORE_GGUF: [&[u8; 4]; 3] = [b"lmgg", b"fmgg", b"tjgg"];

/// Whether these may be 32-bit token ids without a header: all that are looked at are below 2^20, which weights
/// are not.
fn looks_like_tokens(file: &[u8]) -> bool {
    let (numbers, rest) = file.as_chunks();
    rest.is_empty() && numbers.iter().take(4096).all(|&b| u32::from_le_bytes(b) < 1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_magic_whatever_the_name_is() {
        let of = |bytes: &[u8]| kind_of(bytes, Path::new("x.bin")).map_err(|e| e.to_string());
        assert_eq!(of(b"GGUF...."), Ok(FileKind::Model(Format::Gguf)));
        assert_eq!(of(&llmc::MODEL_MAGIC.to_le_bytes()), Ok(FileKind::Model(Format::LlmC)));
        assert_eq!(of(&tokens::U16_MAGIC.to_le_bytes()), Ok(FileKind::Tokens));
        assert!(of(b"PK\x03\x04").unwrap_err().contains("PyTorch"));
        assert!(of(b"tjgg....").unwrap_err().contains("before GGUF"));
    }

    #[test]
    fn without_a_magic_by_name_and_content() {
        let of = |bytes: &[u8], name: &str| kind_of(bytes, Path::new(name)).map_err(|e| e.to_string());
        assert_eq!(of(&[1, 2, 0, 0, 9, 9, 0, 0], "x.bin"), Ok(FileKind::Tokens));
        assert_eq!(of(&1.5f32.to_le_bytes(), "x.bin"), Ok(FileKind::Model(Format::Llama2C)));
        assert_eq!(of(b"broken", "x.gguf"), Ok(FileKind::Model(Format::Gguf)));
        assert!(of(b"hello, world", "x.txt").is_err());
        assert!(of(b"\x08\x08", "x.onnx").unwrap_err().contains("written and not read"));
        assert!(of(b"", "x.gguf").is_err());
    }

    #[test]
    fn what_is_no_model_is_named() {
        let error = model_format(&llmc::STATE_MAGIC.to_le_bytes(), Path::new("x.bin")).unwrap_err();
        assert_eq!(error.to_string(), "this is a debug state of llm.c, not a model");
    }
}
