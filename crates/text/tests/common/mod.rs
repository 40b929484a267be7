//! Where the reference data is, and tokenizers made of it.

#![allow(dead_code)] // each test file takes what it needs

use std::path::{Path, PathBuf};

use serde_json::Value;
use wootz_formats::{Checkpoint, GgufMetadata, Metadata};
use wootz_text::{GgufVocab, Tokenizer};

/// A folder of the reference data; says why and gives none when it is not there.
pub fn shared(part: &str) -> Option<PathBuf> {
    let root = std::env::var_os("WOOTZ_SHARED").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
    existing(root.join(part))
}

/// A folder of the fixtures: the project's own, or those of the reference data.
pub fn fixture(part: &str) -> Option<PathBuf> {
    let own = std::env::var_os("WOOTZ_FIXTURES").map(PathBuf::from);
    let own = own.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"));
    let own = own.join(part);
    if own.exists() { Some(own) } else { shared(&format!("fixtures/{part}")) }
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// The tokenizer in a GGUF file.
pub fn gguf(path: &Path) -> Tokenizer {
    Tokenizer::from_gguf(gguf_vocab(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn gguf_vocab(path: &Path) -> GgufVocab {
    let checkpoint = Checkpoint::open(path).unwrap();
    let Metadata::Gguf(metadata) = checkpoint.metadata() else {
        panic!("{} is no GGUF file", path.display())
    };
    vocab_of(metadata)
}

fn vocab_of(metadata: &GgufMetadata) -> GgufVocab {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str| metadata.find_u64(&key(name)).unwrap().map(|id| u32::try_from(id).unwrap());
    let strings = |name: &str| {
        let list = metadata.find_strings(&key(name)).unwrap();
        list.map(|list| list.iter().map(str::to_owned).collect()).unwrap_or_default()
    };
    let text = |key: &str| metadata.find_str(key).unwrap().map(str::to_owned);
    GgufVocab {
        model: text(&key("model")).unwrap(),
        pre: text(&key("pre")),
        tokens: strings("tokens"),
        scores: metadata.find_f32s(&key("scores")).unwrap().map(<[f32]>::to_vec).unwrap_or_default(),
        token_types: metadata
            .find_i32s(&key("token_type"))
            .unwrap()
            .map(|types| types.into_owned())
            .unwrap_or_default(),
        merges: strings("merges"),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        eot: id("eot_token_id"),
        eom: id("eom_token_id"),
        unk: id("unknown_token_id"),
        pad: id("padding_token_id"),
        add_bos: metadata.find_bool(&key("add_bos_token")).unwrap(),
        add_eos: metadata.find_bool(&key("add_eos_token")).unwrap(),
        add_space_prefix: metadata.find_bool(&key("add_space_prefix")).unwrap(),
        chat_template: text("tokenizer.chat_template"),
        named_templates: Vec::new(),
    }
}

/// The text of `ids`, taken from a stream a token at a time.
pub fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = if skip_special { tokenizer.stream() } else { tokenizer.stream().with_special() };
    let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text.push_str(&stream.finish());
    text
}

/// A small byte-level vocabulary: all bytes, some merges, a special token and one added by hand.
pub fn small_merges() -> GgufVocab {
    let alphabet = (0..=255u8).map(|byte| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        0..=32 => char::from_u32(0x100 + u32::from(byte)).unwrap(),
        127..=160 => char::from_u32(0x121 + u32::from(byte) - 127).unwrap(),
        0xAD => '\u{143}',
    });
    let mut tokens: Vec<String> = alphabet.map(String::from).collect();
    let merges = ["Ġ t", "h e", "Ġt he", "Ã ©", "< |", "i m", "| >"];
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut token_types = vec![1; tokens.len()];
    for (token, kind) in [("<|im_end|>", 3), ("<s>", 3), ("<think>", 4)] {
        tokens.push(token.to_owned());
        token_types.push(kind);
    }
    let id =
        |token: &str| tokens.iter().position(|other| other == token).and_then(|id| u32::try_from(id).ok());
    GgufVocab {
        model: "gpt2".to_owned(),
        pre: Some("qwen2".to_owned()),
        merges: merges.map(str::to_owned).to_vec(),
        bos: id("<s>"),
        eos: id("<|im_end|>"),
        add_bos: Some(true),
        token_types,
        tokens,
        ..GgufVocab::default()
    }
}

/// A small SentencePiece vocabulary: marks, all bytes, some words.
pub fn small_scores() -> GgufVocab {
    let mut vocab = GgufVocab { model: "llama".to_owned(), ..GgufVocab::default() };
    let marks = [("<unk>", 2), ("<s>", 3), ("</s>", 3)].map(|(token, kind)| (token.to_owned(), 0.0, kind));
    let bytes = (0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6));
    let words = ["▁", "t", "h", "e", "he", "the", "▁the", "é", "<", "s", ">", "<s", "/", "▁▁", "日"];
    let words = words.iter().zip(1u8..).map(|(word, at)| ((*word).to_owned(), -f32::from(at), 1));
    for (token, score, kind) in marks.into_iter().chain(bytes).chain(words) {
        vocab.tokens.push(token);
        vocab.scores.push(score);
        vocab.token_types.push(kind);
    }
    vocab
}

/// A `tokenizer.json` with the same tokens as [`small_merges`].
pub fn small_json() -> Value {
    let vocab = small_merges();
    let added = vocab.tokens.iter().zip(&vocab.token_types).enumerate().filter(|(_, (_, kind))| **kind != 1);
    let added: Vec<Value> = added
        .map(|(id, (token, kind))| serde_json::json!({"id": id, "content": token, "special": *kind == 3}))
        .collect();
    let ordinary = vocab.tokens.iter().enumerate().filter(|(id, _)| vocab.token_types[*id] == 1);
    let ordinary: serde_json::Map<String, Value> =
        ordinary.map(|(id, token)| (token.clone(), id.into())).collect();
    serde_json::json!({
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [vocab.bos], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": ordinary, "merges": vocab.merges},
    })
}

/// llm.c's file with the bytes of these tokens.
pub fn llmc_file(tokens: &[&[u8]]) -> Vec<u8> {
    let mut header = vec![0u32; 256];
    header[..4].copy_from_slice(&[20_240_328, 2, u32::try_from(tokens.len()).unwrap(), 0]);
    let mut file: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    for token in tokens {
        file.push(u8::try_from(token.len()).unwrap());
        file.extend_from_slice(token);
    }
    file
}

/// llama2.c's file with these tokens.
pub fn llama2c_file(vocab: &GgufVocab) -> Vec<u8> {
    let longest = vocab.tokens.iter().map(String::len).max().unwrap() + 2;
    let mut file = i32::try_from(longest).unwrap().to_le_bytes().to_vec();
    for (id, (token, score)) in vocab.tokens.iter().zip(&vocab.scores).enumerate() {
        let text = match id {
            1 | 2 => format!("\n{token}\n"),
            _ => token.replace('\u{2581}', " "),
        };
        file.extend(score.to_le_bytes());
        file.extend(i32::try_from(text.len()).unwrap().to_le_bytes());
        file.extend(text.as_bytes());
    }
    file
}

/// A folder for one test, removed at its end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wootz-text-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.0.join(name), content).unwrap();
        self
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
